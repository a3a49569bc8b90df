"""A night's lists by the paper's mixup (4.4): by the language model's answer, else by the customer's own history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.night.lists import Ranked
from ml.night.serving import night_id_index, night_title_index
from ml.settings import Settings

if TYPE_CHECKING:
    from ml.night.serving import ServingModels
    from ml.night.shelf import Shelf
    from ml.retrieval import VectorIndex


class MixupLists:
    """Makes lists of one category and night, customers by customers; the indexes of the shelf are built once."""

    def __init__(self, settings: Settings, shelf: Shelf, models: ServingModels) -> None:
        self._settings, self._shelf, self._models = settings.recommendations, shelf, models
        self._by_title = night_title_index(models, shelf, settings)
        self._by_id = night_id_index(models, shelf, settings)
        self._known = set() if self._by_id is None else set(self._by_id.ids)
        self._core_row = {item: row for row, item in enumerate(models.core.items)}

    def of(self, histories: pa.Table, generations: pa.Table, bought: Mapping[str, set[str]]) -> dict[str, Ranked]:
        """Return the lists of the customers of `histories`, by user id; `bought` are items to leave out.

        Nobody without an item step or a usable answer has one.
        """
        answers = {r["user_id"]: r for r in generations.to_pylist() if r["parsed"] and r["item_id"] in self._shelf}
        answered = pa.array(sorted(answers), pa.string())
        rest = histories.filter(~pc.field("user_id").isin(answered))
        asked = [answers[user] for user in histories["user_id"].to_pylist() if user in answers]
        return {**self._by_history(rest, bought), **self._by_answer(asked, bought)}

    def _by_answer(self, answers: Sequence[Mapping[str, str]], bought: Mapping[str, set[str]]) -> dict[str, Ranked]:
        """Return mixup lists: the id query is the named item's embedding, the title query the written title's.

        An empty title falls back to the named item's own; an item that CORE does not know still leads its list.
        """
        from ml.retrieval import retrieve

        if not answers:
            return {}
        n, k = self._settings.mixup_n, self._settings.k
        users, named = [r["user_id"] for r in answers], [r["item_id"] for r in answers]
        titles = self._models.titles.encode([r["title"] or self._shelf.titles[r["item_id"]] for r in answers])
        excluded = [bought.get(user, set()) for user in users]
        if self._by_id is None:
            found = retrieve(titles, titles, self._by_title, self._by_title, 0, k, None, excluded)
        else:
            ids = _item_vectors(named, self._by_id)
            found = retrieve(ids, titles, self._by_id, self._by_title, n, k, None, excluded)
        return {
            user: items if not n or item in self._known or item in left_out else _led_by(item, items, k)
            for user, item, items, left_out in zip(users, named, found, excluded, strict=True)
        }

    def _by_history(self, histories: pa.Table, bought: Mapping[str, set[str]]) -> dict[str, Ranked]:
        """Return lists made without the language model: CORE's vector of the history, then titles like the last's."""
        from ml.retrieval import retrieve

        steps_of = zip(histories["user_id"].to_pylist(), histories["steps"].to_pylist(), strict=True)
        items_of = {user: [step["item_id"] for step in steps if step["item_id"]] for user, steps in steps_of}
        items_of = {user: items for user, items in items_of.items() if items}
        if not items_of:
            return {}
        k, core = self._settings.k, self._models.core
        last = [self._shelf.titles.get(items[-1], "") for items in items_of.values()]
        titles = self._models.titles.encode(last)
        titles[[not title for title in last]] = 0
        if self._by_id is None:
            by_id, ids = self._by_title, np.zeros_like(titles)
        else:
            by_id, ids = self._by_id, np.zeros((len(items_of), core.item_embeddings.shape[1]), np.float32)
            sequences = [
                np.array([self._core_row[i] for i in items if i in self._core_row], np.int32)
                for items in items_of.values()
            ]
            if known := [place for place, sequence in enumerate(sequences) if len(sequence)]:
                ids[known] = core.encode([sequences[place] for place in known])
        excluded = [bought.get(user, set()) for user in items_of]
        lists = retrieve(ids, titles, by_id, self._by_title, k, k, None, excluded)
        return {user: found for user, found in zip(items_of, lists, strict=True) if found}


def _item_vectors(items: Sequence[str], index: VectorIndex) -> np.ndarray:
    known = set(index.ids)
    have = [i for i in items if i in known]
    vectors = dict(zip(have, index.vectors_of(have), strict=True)) if have else {}
    dim = next(iter(vectors.values())).shape[0] if vectors else index.vectors_of([index.ids[0]]).shape[1]
    return np.stack([vectors.get(i, np.zeros(dim, np.float32)) for i in items]).astype(np.float32)


def _led_by(item: str, items: Ranked, k: int) -> Ranked:
    rest = [entry for entry in items if entry[0] != item]
    return [(item, "id", 1.0), *rest][:k]
