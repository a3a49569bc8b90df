"""Training the title encoder: triplet loss with two hard negatives per bought title (paper 4.4)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse
from tqdm import tqdm

from ml.errors import HemlineError
from ml.retrieval.errors import NothingToTrain
from ml.retrieval.title_encoder import TitleEncoder
from ml.settings import TitleEncoderSettings
from ml.text import normalise_query

if TYPE_CHECKING:
    from ml.models.run import TrackedRun

MAX_VALIDATION = 2000
VALIDATION_TITLES = 20_000
_BLOCK = 1024


class Pairs:
    """Query-title pairs as indices into the different queries and titles.

    Titles that are equal after normalisation are one title: an identical title is never a negative.
    """

    def __init__(self, queries: Sequence[str], titles: Sequence[str]) -> None:
        query_of = {q: i for i, q in enumerate(dict.fromkeys(queries))}
        normal = [normalise_query(t) for t in titles]
        title_of = {t: i for i, t in enumerate(dict.fromkeys(normal))}
        self.query_texts, self.title_texts = list(query_of), list(title_of)
        self.query = np.array([query_of[q] for q in queries], dtype=np.int64)
        self.title = np.array([title_of[t] for t in normal], dtype=np.int64)
        shape = (len(query_of), len(title_of))
        self.bought = sparse.csr_array((np.ones(len(self.query), dtype=bool), (self.query, self.title)), shape=shape)

    def __len__(self) -> int:
        return len(self.query)


def train_title_encoder(
    pairs: pa.Table,
    validation: pa.Table,
    titles: Sequence[str],
    settings: TitleEncoderSettings,
    run: TrackedRun | None = None,
) -> TitleEncoder:
    """Fit the title encoder on query-title `pairs` (columns query, title, date; the newest `max_pairs`).

    `titles`: the catalogue's titles as of the newest pair; they and the queries make the tokenizer, and they are what
    `validation` pairs are ranked among: recall@10 of the bought title given its query, before training and after each
    epoch, on at most 2,000 pairs; the best epoch's weights are kept (the last without validation).

    Negatives are mined with the current weights, `negative_pool` pairs at a time, among the queries and titles of
    those pairs: no later event and no other table is looked at. The paper takes the closest wrong text; by default
    here it must not be closer than the right one (FaceNet's semi-hard negatives), because the closest titles never
    bought from a query are mostly unlabelled matches, and learning to avoid them makes all vectors collapse into one.

    On a CPU the same input and seed give the same encoder. Raises `NothingToTrain` if no pair has both texts.
    """
    data = _newest_pairs(pairs, settings.max_pairs)
    if not len(data):
        raise NothingToTrain("title encoder: there is no query-title pair to learn from")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        sizes = settings.model_dump(include={"dim", "hidden", "max_tokens"})
        texts = [*dict.fromkeys(normalise_query(t) for t in titles), *data.title_texts, *data.query_texts]
        encoder = TitleEncoder.untrained(texts, settings.vocabulary, **sizes)
        encoder.network.to(device)
        _fit(encoder, data, Validation(encoder, validation, titles, settings.seed), settings, run)
    encoder.network.cpu().eval()
    return encoder


def hard_negatives(
    anchors: np.ndarray, pool: np.ndarray, positive: np.ndarray, bought: sparse.csr_array, hardest: bool
) -> np.ndarray:
    """Return for each anchor the place in `pool` of its hard negative; -1 if it was bought with the whole pool.

    `anchors` [n, dim], `pool` [p, dim]: unit vectors; `positive` [n]: the cosine of each anchor and its positive;
    `bought` [n, p]: which pool members are no negatives. The negative is the closest member that is not closer than
    the positive, or if all are closer, the farthest; with `hardest`, simply the closest member.
    """
    result = np.empty(len(anchors), dtype=np.int64)
    for start in range(0, len(anchors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        similar = anchors[rows] @ pool.T
        wrong = ~bought[rows].toarray()
        closest = np.where(wrong, similar, -np.inf)
        best = closest.argmax(axis=1)
        if not hardest:
            below = np.where(similar < positive[rows, None], closest, -np.inf)
            farthest = np.where(wrong, similar, np.inf).argmin(axis=1)
            best = np.where(np.isneginf(below).all(axis=1), farthest, below.argmax(axis=1))
        result[rows] = np.where(wrong.any(axis=1), best, -1)
    return result


class Validation:
    """Recall@10 of bought titles given their queries, among the catalogue's titles."""

    def __init__(self, encoder: TitleEncoder, validation: pa.Table, titles: Sequence[str], seed: int) -> None:
        self._pairs, candidates = validation_candidates(validation, titles, MAX_VALIDATION, seed)
        self._query_tokens = encoder.tokenize(self._pairs.query_texts)
        self._title_tokens = encoder.tokenize(candidates)

    def __bool__(self) -> bool:
        return len(self._pairs) > 0

    def recall_at_10(self, encoder: TitleEncoder) -> float:
        """Return the share of pairs whose title is among the ten closest to its query, ties against."""
        queries = encoder.encode_tokens(self._query_tokens)
        titles = encoder.encode_tokens(self._title_tokens)
        return float(hits_at_10(queries, titles, self._pairs).mean())


def validation_candidates(
    validation: pa.Table, titles: Sequence[str], limit: int, seed: int
) -> tuple[Pairs, list[str]]:
    """Return the newest `limit` pairs and the titles that each bought one is ranked among; a pair's title comes first.

    At most 20,000 of the catalogue's `titles` compete, a seeded sample, and always the bought ones.
    """
    generator = np.random.default_rng(seed)
    pairs = _newest_pairs(validation, limit)
    distinct = list(dict.fromkeys(normalise_query(t) for t in titles))
    if len(distinct) > VALIDATION_TITLES:
        distinct = [distinct[i] for i in sorted(generator.choice(len(distinct), VALIDATION_TITLES, replace=False))]
    return pairs, list(dict.fromkeys([*pairs.title_texts, *distinct]))


def hits_at_10(queries: np.ndarray, titles: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return bool [pairs]: whether a pair's title is among the ten closest to its query, ties against.

    `queries` [distinct queries, dim] and `titles` [candidates, dim] are vectors in the order of the pairs' texts.
    """
    hits = []
    for start in range(0, len(pairs), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = queries[pairs.query[rows]] @ titles.T
        own = scores[np.arange(len(scores)), pairs.title[rows]]
        hits.append((scores >= own[:, None]).sum(axis=1) <= 10)
    return np.concatenate(hits) if hits else np.empty(0, bool)


def _newest_pairs(table: pa.Table, limit: int) -> Pairs:
    """Return the newest `limit` pairs that have a query and a title; the row order breaks ties in time."""
    order = [name for name in ("date", "event_id") if name in table.column_names]
    table = table.select(["query", "title", *order]).drop_null()
    if order:
        table = table.sort_by([(name, "ascending") for name in order])
    table = table.slice(max(0, len(table) - limit))
    both = [
        (query, title)
        for query, title in zip(table["query"].to_pylist(), table["title"].to_pylist(), strict=True)
        if query.strip() and title.strip()
    ]
    return Pairs([q for q, _ in both], [t for _, t in both])


def _fit(
    encoder: TitleEncoder,
    data: Pairs,
    validation: Validation,
    settings: TitleEncoderSettings,
    run: TrackedRun | None,
) -> None:
    generator = np.random.default_rng(settings.seed)
    optimiser = torch.optim.Adam(encoder.network.parameters(), lr=settings.learning_rate)
    trainer = _Trainer(encoder, data, settings, optimiser)
    best, best_recall = None, -1.0
    if validation and run is not None:
        run.metric("validation_recall_at_10", validation.recall_at_10(encoder), step=0)
    steps = settings.epochs * -(-len(data) // settings.batch_size)
    with tqdm(total=steps, desc="title encoder", unit="batch", disable=None) as progress:
        for epoch in range(settings.epochs):
            measured = {"loss": trainer.epoch(generator, progress)}
            if not np.isfinite(measured["loss"]):
                raise HemlineError(f"title encoder: the loss is {measured['loss']}; lower the learning rate")
            if validation:
                measured["validation_recall_at_10"] = recall = validation.recall_at_10(encoder)
                if recall > best_recall:
                    best, best_recall = copy.deepcopy(encoder.network.state_dict()), recall
            progress.set_postfix({k: f"{v:.4f}" for k, v in measured.items()})
            if run is not None:
                run.metrics(measured, step=epoch + 1)
    if best is not None:
        encoder.network.load_state_dict(best)


class _Trainer:
    """Mines an epoch's negatives and runs its steps."""

    def __init__(
        self, encoder: TitleEncoder, data: Pairs, settings: TitleEncoderSettings, optimiser: torch.optim.Optimizer
    ) -> None:
        self.encoder, self.data, self.settings, self.optimiser = encoder, data, settings, optimiser
        self._query_tokens = encoder.tokenize(data.query_texts)
        self._title_tokens = encoder.tokenize(data.title_texts)

    def epoch(self, generator: np.random.Generator, progress: tqdm) -> float:
        """Run one epoch; return its mean loss per pair.

        Pairs come in random order, `negative_pool` at a time: the negatives of each lot are mined in it just before
        it is trained on. Negatives mined once per epoch are stale after a few steps: the encoder then learns to avoid
        one wrong title per query and gets worse at all the others.
        """
        order = generator.permutation(len(self.data))
        total = 0.0
        for first in range(0, len(order), self.settings.negative_pool):
            lot = order[first : first + self.settings.negative_pool]
            wrong_titles, wrong_queries = self._mine(self.data.query[lot], self.data.title[lot])
            self.encoder.network.train()
            for start in range(0, len(lot), self.settings.batch_size):
                part = slice(start, start + self.settings.batch_size)
                query, title = self.data.query[lot[part]], self.data.title[lot[part]]
                loss = self._loss(query, title, wrong_titles[part], wrong_queries[part])
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
                total += loss.item() * len(query)
                progress.update()
        return total / len(order)

    def _mine(self, query: np.ndarray, title: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for each pair the closest wrong title and the closest wrong query among those of all the pairs."""
        queries, query_place = np.unique(query, return_inverse=True)
        titles, title_place = np.unique(title, return_inverse=True)
        query_vectors = self.encoder.encode_tokens([self._query_tokens[i] for i in queries])
        title_vectors = self.encoder.encode_tokens([self._title_tokens[i] for i in titles])
        positive = (query_vectors[query_place] * title_vectors[title_place]).sum(axis=1)
        bought = self.data.bought[queries][:, titles]
        hardest = self.settings.negatives == "hardest"
        wrong_title = hard_negatives(query_vectors[query_place], title_vectors, positive, bought[query_place], hardest)
        wrong_query = hard_negatives(
            title_vectors[title_place], query_vectors, positive, bought.T.tocsr()[title_place], hardest
        )
        return np.where(wrong_title < 0, -1, titles[wrong_title]), np.where(wrong_query < 0, -1, queries[wrong_query])

    def _loss(
        self, query: np.ndarray, title: np.ndarray, wrong_title: np.ndarray, wrong_query: np.ndarray
    ) -> torch.Tensor:
        """Return the mean over pairs of both triplets' losses; a missing negative (-1) counts as none."""
        queries, query_place = np.unique(np.concatenate([query, wrong_query]), return_inverse=True)
        titles, title_place = np.unique(np.concatenate([title, wrong_title]), return_inverse=True)
        query_vectors = self.encoder.embed([self._query_tokens[i] for i in queries])
        title_vectors = self.encoder.embed([self._title_tokens[i] for i in titles])
        anchor, other_query = _rows(query_vectors, query_place).chunk(2)
        positive, other_title = _rows(title_vectors, title_place).chunk(2)
        similarity = (anchor * positive).sum(dim=-1)
        device = similarity.device
        total = similarity.new_zeros(())
        for negative, missing in (
            ((anchor * other_title).sum(dim=-1), wrong_title < 0),
            ((positive * other_query).sum(dim=-1), wrong_query < 0),
        ):
            hinge = (self.settings.margin - similarity + negative).clamp(min=0)
            total = total + hinge.masked_fill(torch.from_numpy(missing).to(device), 0).sum()
        return total / len(query)


def _rows(vectors: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """Return `vectors[places]`, whose own gradient several threads add up in whatever order they come."""
    return vectors.index_select(0, torch.from_numpy(places).to(vectors.device))
