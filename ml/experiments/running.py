"""One experiment: fits what differs, asks the fixed test examples, ranks, and compares with another experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.comparison.mixup_ranking import MixupRanking
from ml.errors import HemlineError
from ml.evaluation import (
    CoreSystem,
    ItemExamples,
    System,
    compare,
    evaluate_ranks,
    item_examples,
    rank_targets,
    references,
)
from ml.experiments.catalogue import Experiment, other_systems, source_category
from ml.experiments.fingerprint import settings_read, tables_read
from ml.files import make_folder
from ml.fits.answers import answers_of
from ml.fits.examples import part_of, read_examples
from ml.fits.fitting import TitleVectors
from ml.fits.fusing import category_items, encoded_titles
from ml.fits.prompting import training_prompts
from ml.origins import origin
from ml.prompts import sample_examples
from ml.section import Section
from ml.settings import Settings
from ml.tables import TABLES
from ml.warehouse import Warehouse

if TYPE_CHECKING:
    from ml.baselines.recformer import Recformer
    from ml.models.run import TrackedRun

OURS = "ours_mixup"


def run_experiment(
    settings: Settings, warehouse: Warehouse, experiment: Experiment, run: TrackedRun, labels: Mapping[str, str]
) -> dict[str, pa.Table]:
    """Return the rows of `experiment_metrics` and `experiment_ranks`.

    `labels` are the columns that say which run made them. Raises HemlineError where the experiment its differences are
    from is not published yet.
    """
    base = _ranks_of(warehouse, experiment.against) if experiment.against else {}
    work = _Work(settings, warehouse, experiment, run)
    contents = tables_read(settings, warehouse, experiment)
    made = origin(work.asked, contents, settings_read(settings, experiment), settings.experiments.seed)
    ranks = work.ranks()
    rows = [
        {"system": system, "example_id": example, "rank": None if np.isnan(rank) else int(rank)}
        for system, own in ranks.items()
        for example, rank in own.items()
    ]
    metrics = []
    for system, own in ranks.items():
        names = {"kind": experiment.kind, "question": experiment.question, "system": system, **labels, **made}
        against = [base[system][example] for example in own] if system in base else None
        leads = compare(list(own.values()), against, settings.evaluation) if against else {}
        for row in evaluate_ranks(list(own.values()), settings.evaluation):
            ends = leads.get(str(row["metric"]), (None, None, None))
            lead = dict(zip(("difference", "difference_low", "difference_high"), ends, strict=True))
            metrics.append({**names, **row, **lead})
            run.metric(f"{system}/{row['metric']}", float(str(row["value"])))
    return {
        "experiment_metrics": pa.Table.from_pylist(metrics, schema=TABLES["experiment_metrics"].schema),
        "experiment_ranks": pa.Table.from_pylist(rows, schema=TABLES["experiment_ranks"].schema),
    }


def _ranks_of(warehouse: Warehouse, name: str) -> dict[str, dict[str, int | None]]:
    rows = warehouse.read("experiment_ranks", experiment=name).to_pylist()
    if not rows:
        raise HemlineError(f"the experiment {name!r} comes first: others are compared with it")
    ranks: dict[str, dict[str, int | None]] = {}
    for row in rows:
        ranks.setdefault(row["system"], {})[row["example_id"]] = row["rank"]
    return ranks


class _Work:
    def __init__(self, settings: Settings, warehouse: Warehouse, experiment: Experiment, run: TrackedRun) -> None:
        own = settings.experiments
        prompts = {"max_train": max(1, round(own.prompts * experiment.share)), "purchases_only_share": 0.0}
        self.settings = settings.model_copy(
            update={
                "prompts": settings.prompts.model_copy(update={**prompts, **experiment.prompts}),
                "generation": settings.generation.model_copy(update={"beams": 1}),
            }
        )
        self.warehouse, self.experiment, self.run = warehouse, experiment, run
        self.source = source_category(settings)
        self.category = experiment.category or self.source
        self.folder = settings.work_folder / "experiments"
        self.examples = read_examples(warehouse, [self.source])
        self.asked = read_examples(warehouse, [self.category])
        self.test = sample_examples(self.asked, "temporal", ["test"], own.users, own.seed)
        self.items = category_items(warehouse, self.category)

    def ranks(self) -> dict[str, dict[str, float]]:
        """Return the rank of every test example's target among the category's catalogue, by system and example."""
        shown = item_examples(self.test)
        core = self._core()
        ranks = {OURS: self._own(shown, core)}
        for name in other_systems(self.settings, self.experiment):
            ranks[name] = self._other(name, shown, core)
        return {system: dict(zip(shown.example_ids, own, strict=True)) for system, own in ranks.items()}

    def _other(self, name: str, shown: ItemExamples, core: CoreSystem) -> np.ndarray:
        """Return another system's ranks of the test examples; NaN, which counts as 0, where it had nothing to learn."""
        from ml.baselines.recformer import RowSystem
        from ml.retrieval import NothingToTrain

        listed = self.items["item_id"].to_pylist()
        try:
            if name.startswith("recformer"):
                rows = RowSystem(self._recformer(name), self.test)
                return rank_targets(rows, rows.examples, listed)
            return rank_targets(core if name == "core" else self._item_system(name), shown, listed)
        except NothingToTrain as error:
            self.run.text(str(error), f"{name}_not_fitted.txt")
            return np.full(len(shown), np.nan)

    def _item_system(self, name: str) -> System:
        """Return a system that knows items by their ids, fitted on the share of the asked category's training part."""
        from ml.baselines import baseline
        from ml.retrieval import NothingToTrain
        from ml.sequences import item_sequences

        train = item_sequences(self._share(self.asked), "temporal", "train")
        if not train.sequences:
            raise NothingToTrain(f"{name}: {self.category} has no training step")
        counting = {system.name: system for system in references(self.settings.item_embeddings)}
        system = counting.get(name) or baseline(name, self.settings.evaluation.baselines)
        held_out = part_of(self.asked, "temporal", "validation")
        system.fit(train, item_sequences(held_out, "temporal", "train_validation", train.items))
        return system

    def _recformer(self, name: str) -> Recformer:
        """Return Recformer, fitted on the share of the source's training part alone.

        It reads text: the items of other categories are encoded by weights that never saw one of their purchases. So
        one fit, with the whole shop's catalogue, serves every category it is asked about.
        """
        from ml.baselines.recformer import Recformer

        settings = self.settings.evaluation.recformer
        catalog = pa.concat_tables(category_items(self.warehouse, each) for each in self.settings.categories)
        folder = self.folder / name / self._key(settings, self.warehouse.content("catalog"))
        if folder.exists():
            return Recformer.load(folder, settings, catalog)
        recformer = Recformer(settings, catalog, name == "recformer_queries", self.run)
        validation = part_of(self.examples, "temporal", "validation").filter(pc.field("eligible"))
        recformer.fit_examples(self._share(self.examples), "temporal", validation)
        make_folder(folder, recformer.save)
        return recformer

    def _own(self, shown: ItemExamples, core: CoreSystem) -> np.ndarray:
        assert core.core is not None
        adapter, label = self._adapter()
        answers = answers_of(
            self.settings, self.warehouse, adapter, label, self.category, self.test, "all", self.folder / "answers"
        )
        titles = self._titles()
        listed = self.items["item_id"].to_pylist()
        vectors = encoded_titles(titles, self.items["title"].to_pylist())
        n = {"both": self.settings.recommendations.mixup_n, "title": 0, "id": len(listed)}[self.experiment.lists]
        return MixupRanking(answers, core.core, titles, listed, vectors).ranks(shown, n)

    def _adapter(self) -> tuple[Path, str]:
        """Return the adapter of these prompts, fitted unless another experiment has fitted the same, and its name."""
        from ml.language_model import fit_adapter, prepare_base_model

        model = self.settings.language_model
        rows = training_prompts(self.settings, self.warehouse, [self.source])
        digest = hashlib.blake2b(json.dumps([rows["input_ids"].to_pylist(), model.model_dump(mode="json")]).encode())
        name = digest.hexdigest()[:16]
        folder = prepare_base_model(model.base_model, model.revision, self.settings.models_folder)
        train, validation = (rows.filter(pc.field("temporal_split") == part) for part in ("train", "validation"))
        work = self.folder / "adapters" / name
        return fit_adapter(folder, train, validation, model, work, self.run).folder, name

    def _core(self) -> CoreSystem:
        """Return CORE, fitted on the share of the training part."""
        from ml.retrieval import Core
        from ml.sequences import item_sequences

        system = CoreSystem(self.settings.item_embeddings)
        folder = self.folder / "core" / self._key(self.settings.item_embeddings)
        if folder.exists():
            return CoreSystem(self.settings.item_embeddings, Core.load(folder))
        data = item_sequences(self._share(self.examples), "temporal", "train")
        held_out = part_of(self.examples, "temporal", "validation")
        system.fit(data, item_sequences(held_out, "temporal", "train_validation", data.items))
        assert system.core is not None
        make_folder(folder, system.core.save)
        return system

    def _titles(self) -> TitleVectors:
        """Return what encodes titles, fitted on the share of the training part."""
        from ml.memory import load_text_encoder
        from ml.retrieval import NothingToTrain, TitleEncoder, train_title_encoder

        memory = self.settings.memory
        if self.experiment.titles == "text_encoder":
            return load_text_encoder(memory.encoder, memory.batch_size)
        folder = self.folder / "title_encoder" / self._key(self.settings.title_encoder)
        if folder.exists():
            return TitleEncoder.load(folder)
        pairs = self.warehouse.read("query_title_pairs", category=self.source)
        train = self._share(part_of(pairs, "temporal", "train"), "event_id")
        known = sorted(set(category_items(self.warehouse, self.source)["title"].to_pylist()))
        validation = part_of(pairs, "temporal", "validation")
        try:
            encoder = train_title_encoder(train, validation, known, self.settings.title_encoder, self.run)
        except NothingToTrain:
            return load_text_encoder(memory.encoder, memory.batch_size)
        make_folder(folder, encoder.save)
        return encoder

    def _share(self, rows: pa.Table, key: str = "example_id") -> pa.Table:
        """Return a seeded share of the training rows with all the others; which ones, their ids decide."""
        if self.experiment.share >= 1:
            return rows
        limit, seed = self.experiment.share * 2**32, self.settings.experiments.seed
        kept = [
            part != "train"
            or int.from_bytes(hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=4).digest()) < limit
            for name, part in zip(rows[key].to_pylist(), rows["temporal_split"].to_pylist(), strict=True)
        ]
        return rows.filter(pa.array(kept, pa.bool_()))

    def _key(self, section: Section, *more: Any) -> str:
        """Return a name of what a model is fitted on, and how."""
        what: list[Any] = [
            self.warehouse.content("training_sequences", category=self.source), self.experiment.share,
            self.settings.experiments.seed, section.model_dump(mode="json"), *more,
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=8).hexdigest()
