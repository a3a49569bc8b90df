"""What the language model reads: `item_codes` and `prompts` (paper 4.2, design: prompt)."""

import dagster as dg

from assets.common import TrainConfig, scope_categories, table_metadata
from assets.define import asset
from ml.measure import timed
from ml.settings import Settings
from ml.warehouse import Warehouse


@asset(group_name="prompts", deps=["catalog", "base_model"])
def item_codes(
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """A short code of single tokens for every item; codes of new items are appended, none is ever reused."""
    from ml.language_model import load_tokenizer, prepare_base_model
    from ml.prompts import assign_codes, similar_side_by_side

    with timed() as cost:
        model = settings.language_model
        tokenizer = load_tokenizer(prepare_base_model(model.base_model, model.revision, settings.models_folder))
        existing = warehouse.read("item_codes") if warehouse.exists("item_codes") else None
        items = similar_side_by_side(warehouse.read("catalog"), settings.prompts.attributes)
        codes = assign_codes(tokenizer, existing, items)
        published = warehouse.publish("item_codes", codes)
    return dg.MaterializeResult(metadata=table_metadata([published], codes, cost))


@asset(group_name="prompts", deps=["training_sequences", "item_codes", "query_daily", "query_vectors"])
def prompts(
    context: dg.AssetExecutionContext,
    config: TrainConfig,
    settings: dg.ResourceParam[Settings],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.MaterializeResult:
    """Training and validation prompts of one model partition, with the memory as of the day before each target."""
    from ml.fits.prompting import training_prompts

    with timed() as cost:
        scope = context.partition_key
        categories = scope_categories(settings, warehouse, scope)
        if not categories:
            return dg.MaterializeResult(metadata={"note": f"no model of its own for {scope!r}"})
        rows = training_prompts(settings, warehouse, categories)
        published = warehouse.publish("prompts", rows, category=scope)
    lengths = [len(i) + len(r) for i, r in zip(rows["input_ids"], rows["response_ids"], strict=True)]
    return dg.MaterializeResult(
        metadata={
            **table_metadata([published], rows.select(["category", "variant", "temporal_split"]), cost),
            "tokens": sum(lengths),
            "longest_prompt": max(lengths, default=0),
        }
    )
