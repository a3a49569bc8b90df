"""What each kind of model is scored by before it may serve: its own metric on the newest validation window.

The window is the temporal split's validation part: after everything either model was fitted on where the champion is
older, and never the part that evaluations report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ml.evaluation.metrics import ndcg_at_k
from ml.fits.examples import part_of, read_examples
from ml.fits.fitting import TitleVectors, load_title_vectors, titles
from ml.fits.gate import Trial
from ml.language_model import number_type
from ml.sequences import item_sequences
from ml.settings import Settings
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ml.fits.fusing import FittedRanker, Fusion
    from ml.models.version import ModelVersion
    from ml.ranking.ranker import RankedExample
    from ml.retrieval import Core
    from ml.retrieval.title_training import Pairs

K = 10
PROBES = 4
"""Prompts that a language model without a champion answers for: enough to see that it loads and is finite."""
_CELLS = 20_000_000


def core_trial(settings: Settings, warehouse: Warehouse, categories: Sequence[str]) -> Trial[Core]:
    """Score CORE by NDCG@10 of customers' newest validation purchases, given the items before them."""
    from ml.retrieval import Core

    held_out = part_of(read_examples(warehouse, categories), "temporal", "validation")
    data = item_sequences(held_out, "temporal", "train_validation")
    chosen = [data.sequences[i] for i in _evenly(len(data.sequences), settings.promotion.examples)]
    histories = [[data.items[i] for i in sequence[:-1]] for sequence in chosen]
    targets = [data.items[sequence[-1]] for sequence in chosen]
    margin = settings.promotion.margin
    return Trial("NDCG@10", margin, Core.load, lambda core: core_gains(core, histories, targets))


def core_gains(core: Core, histories: Sequence[Sequence[str]], targets: Sequence[str]) -> np.ndarray:
    """Return float64 [n]: each target's NDCG@10 among all items that CORE knows, ties against it.

    0 where it knows no item of the history, or not the target: so models of different catalogues can be compared.
    NaN where a score is NaN.
    """
    row_of = {item: row for row, item in enumerate(core.items)}
    known = [core.indices(history) for history in histories]
    rows = np.array([row_of.get(target, -1) for target in targets], np.int64)
    usable = np.flatnonzero((rows >= 0) & np.array([len(own) > 0 for own in known], bool))
    gains = np.zeros(len(rows))
    sessions = core.encode([known[i] for i in usable])
    block = max(1, _CELLS // max(1, len(core.items)))
    for start in range(0, len(usable), block):
        places = usable[start : start + block]
        scores = sessions[start : start + block] @ core.item_embeddings.T
        ranks = (scores >= scores[np.arange(len(places)), rows[places]][:, None]).sum(axis=1)
        gains[places] = np.where(np.isfinite(scores).all(axis=1), ndcg_at_k(np.maximum(ranks, 1), K), np.nan)
    return gains


def title_trial(settings: Settings, warehouse: Warehouse, categories: Sequence[str]) -> Trial[TitleVectors]:
    """Score a title encoder by recall@10 of bought titles given their queries, among the catalogue's titles."""
    from ml.retrieval.title_training import validation_candidates

    pairs = pa.concat_tables([warehouse.read("query_title_pairs", category=category) for category in categories])
    held_out = part_of(pairs, "temporal", "validation")
    seed, limit = settings.title_encoder.seed, settings.promotion.examples
    asked, candidates = validation_candidates(held_out, titles(warehouse, categories), limit, seed)
    margin = settings.promotion.margin
    return Trial("recall@10", margin, load_title_vectors, lambda encoder: title_hits(encoder, asked, candidates))


def title_hits(encoder: TitleVectors, pairs: Pairs, candidates: Sequence[str]) -> np.ndarray:
    """Return float64 [pairs]: 1 where the title is among the ten closest to its query, NaN where a vector is NaN."""
    from ml.retrieval.title_training import hits_at_10

    if not len(pairs):
        return np.empty(0)
    queries, vectors = encoder.encode(pairs.query_texts), encoder.encode(candidates)
    if not np.isfinite(vectors).all():
        return np.full(len(pairs), np.nan)
    finite = np.asarray(np.isfinite(queries).all(axis=1))
    return np.where(finite[pairs.query], hits_at_10(queries, vectors, pairs), np.nan)


def adapter_trial(settings: Settings, base: Path, prompts: pa.Table) -> Trial[PreTrainedModel]:
    """Score a language model by the mean log-likelihood of each validation response's tokens, in nats.

    `base` is the snapshot's folder. A champion of another base model reads other token ids and cannot be compared.
    """
    from ml.language_model import load_adapted_model

    chosen = prompts.take(pa.array(_evenly(prompts.num_rows, settings.promotion.prompts)))

    def incomparable(champion: ModelVersion) -> str | None:
        own = champion.tags.get("base_folder")
        return None if own == base.name else f"it adapts another base model ({own}, now {base.name})"

    return Trial(
        "log-likelihood of a response token",
        settings.promotion.loss_margin,
        lambda folder: load_adapted_model(base, folder, settings.language_model),
        lambda model: response_likelihoods(model, chosen, settings),
        lambda model: response_likelihoods(model, chosen.slice(0, PROBES), settings),
        incomparable=incomparable,
    )


def response_likelihoods(model: PreTrainedModel, prompts: pa.Table, settings: Settings) -> np.ndarray:
    """Return float64 [prompts]: the mean log-likelihood of each response's tokens; raises HemlineError for NaN."""
    from ml.language_model.batches import PromptTokens
    from ml.language_model.likelihood import mean_losses, read_losses

    tokens = PromptTokens(prompts, model.config.vocab_size)
    batch, numbers = settings.language_model.batch_size, number_type(settings.language_model)
    with tempfile.TemporaryDirectory() as work:
        mean_losses(model, tokens, batch, numbers, Path(work), "promotion: validation prompts")
        return -read_losses(tokens, batch, Path(work))


def ranker_trial(settings: Settings, fitted: FittedRanker) -> Trial[Fusion]:
    """Score a ranker by NDCG@10 of validation questions, without the language model's answers.

    The challenger is fitted on all questions; its scores are those of rankers fitted without the question's fold. What
    the champion learnt from lies in an older window, unless it was fitted on this one.
    """
    from ml.fits.fusing import Fusion

    return Trial(
        "NDCG@10",
        settings.promotion.margin,
        Fusion.load,
        lambda fusion: ranker_gains(fusion, fitted.questions),
        own=ndcg_at_k(fitted.unseen_ranks, K),
    )


def ranker_gains(fusion: Fusion, questions: Sequence[RankedExample | None]) -> np.ndarray:
    """Return float64 [questions]: the bought item's NDCG@10, 0 where it is no candidate, NaN where a score is NaN."""
    gains = np.zeros(len(questions))
    asked = [i for i, question in enumerate(questions) if question is not None]
    examples = [example for example in questions if example is not None]
    scored = fusion.ranker.scores_of([example.features for example in examples])
    ranks = [example.rank(scores) for example, scores in zip(examples, scored, strict=True)]
    finite = [bool(np.isfinite(scores).all()) for scores in scored]
    gains[asked] = np.where(finite, ndcg_at_k(np.maximum(ranks, 1), K), np.nan)
    return gains


def _evenly(rows: int, limit: int) -> np.ndarray:
    """Return at most `limit` row numbers, evenly picked."""
    return np.unique(np.linspace(0, rows - 1, min(rows, limit)).astype(int)) if rows else np.empty(0, np.int64)
