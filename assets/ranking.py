"""The model that fuses all lists: `ranker`."""

import dagster as dg

from assets.common import TrainConfig, as_of_day, scope_categories
from assets.define import asset
from assets.tracking import fit_tags, judged
from ml.errors import BadInputError
from ml.measure import timed
from ml.models.registry import ModelRegistry
from ml.settings import Settings
from ml.warehouse import Warehouse


@asset(
    group_name="retrieval",
    deps=["adapter", "title_encoder", "item_embeddings", "training_sequences", "query_daily", "query_vectors"],
)
def ranker(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
    registry: dg.ResourceParam[ModelRegistry],
) -> dg.MaterializeResult:
    """The small model that orders the items of all lists, fitted on validation examples that no list has seen."""
    from ml.fits.fitting import load_title_vectors
    from ml.fits.fusing import fit_fusion, validation_answers
    from ml.fits.gate import consider
    from ml.fits.trials import ranker_trial
    from ml.models.champions import require_champion
    from ml.retrieval import Core

    scope = context.partition_key
    categories = scope_categories(settings, warehouse, scope)
    chosen = settings.recommendations
    if not categories or chosen.order != "fusion":
        return dg.MaterializeResult(metadata={"note": f"no ranker for {scope!r}: no models of its own, or mixup"})
    parts = {kind: require_champion(registry, kind, scope) for kind in ("title_encoder", "item_embeddings")}
    tags = fit_tags(context, as_of_day(config, warehouse), "")
    with timed() as cost, registry.run("ranker", scope, tags=tags, params=chosen.ranker.model_dump()) as run:
        answers = validation_answers(settings, warehouse, registry, categories, scope)
        try:
            ranked = fit_fusion(
                settings, warehouse, categories, answers, load_title_vectors(parts["title_encoder"].folder),
                Core.load(parts["item_embeddings"].folder), settings.work_folder / "ranker" / scope,
            )  # fmt: skip
        except BadInputError as error:
            context.log.warning(f"{error}; lists are joined by the mixup")
            return dg.MaterializeResult(metadata={"note": str(error), **cost.metadata()})
        fitted = ranked.fitted
        inputs = {f"{kind}_version": version.version for kind, version in parts.items()}
        version = run.register(fitted.folder, fitted_until=fitted.fitted_until, **inputs)
        if ranked.answer_gain is not None:
            run.metric("answer_gain_ndcg", ranked.answer_gain[0])
        decision = consider(registry, run, version, ranker_trial(settings, ranked), settings)
    return dg.MaterializeResult(
        metadata={
            **judged(context, version, decision),
            "questions": fitted.examples,
            "questions_with_an_answer": ranked.answered,
            "answer_gain_ndcg": _with_interval(ranked.answer_gain),
            "uses_answers": ranked.uses_answers,
            "fitted_until": fitted.fitted_until,
            **cost.metadata(),
        }
    )


def _with_interval(gain: tuple[float, float, float] | None) -> str:
    """What the language model's answers add to validation's NDCG@10, for people."""
    if gain is None:
        return "the language model is not asked (setting `recommendations.ranker.answered`)"
    return f"{gain[0]:+.4f} [{gain[1]:+.4f}, {gain[2]:+.4f}]"
