"""A script: a real stage of the small shop and a batch of answers, on executors in other processes.

    python -m tests.ml.spark_cluster SHOP WAREHOUSE

`WAREHOUSE` gets the tables; `SHOP/answers.json` the answers; `SHOP/executors.json` what the executors were.
"""

import json
import os
import stat
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_shop import LAST, Shop

from tests.ml.generation_models import FORMAT, byte_tokenizer, random_trie, tiny_model

INSTRUCTION = list(b"Recommend:\n")
ROWS = 20
TABLES = {
    "interactions": {"date": LAST},
    "rejected_interactions": {"date": LAST},
    "query_daily": {"date": LAST},
    "training_sequences": {"category": "Clothing"},
    "user_histories": {"date": LAST},
}
GPU = "7"
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For virtual machines that end before much compiling pays."""


def own_spark_home(folder):
    """Return a SPARK_HOME in `folder`: executors write below it, and not into the installed package."""
    import pyspark

    (folder / "work").mkdir(parents=True)
    for path in Path(pyspark.__file__).parent.iterdir():
        if path.name != "work":
            (folder / path.name).symlink_to(path)
    return str(folder)


def publish(settings, session):
    """Ingest through Dagster, then sequences and histories: SQL, Python functions and Arrow batches on executors."""
    from ml import sequences
    from ml.warehouse import Warehouse
    from pipelines import flows
    from pipelines.run import Runner

    flows.ingest(Runner(settings), LAST)
    warehouse = Warehouse(settings.warehouse)
    events = warehouse.frame(session, "interactions")
    examples = sequences.training_sequences(events, settings.sequences, LAST, "UTC").where("category = 'Clothing'")
    warehouse.publish_frame("training_sequences", examples, category="Clothing")
    warehouse.publish_frame("user_histories", sequences.user_histories(events, settings.sequences, LAST, 28), date=LAST)
    return {name: warehouse.content(name, **levels) for name, levels in TABLES.items()}


def answer_task(folder):
    """A tiny model with an adapter that changes its answers, and rows to ask it about."""
    import numpy as np
    import torch

    from ml.generation import AnswerTask, ModelFolders
    from ml.language_model.adapter import add_lora, save_adapter
    from ml.settings import GenerationSettings, LanguageModelSettings

    how = LanguageModelSettings(lora_r=4)
    if not (folder / "base").exists():
        model = tiny_model("llama")
        model.save_pretrained(folder / "base")
        byte_tokenizer().save_pretrained(folder / "base")
        adapted = add_lora(model, how)
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.2)
        save_adapter(adapted, folder / "adapter")
    random = np.random.default_rng(0)
    inputs = [INSTRUCTION + random.integers(0, 256, random.integers(1, 20)).tolist() for _ in range(ROWS)]
    options = GenerationSettings(
        max_new_tokens=8, batch_size=3, chunk_users=4, beams=1, temperature=0.8, executors="spark"
    )
    task = AnswerTask(INSTRUCTION, random_trie(random)[0], FORMAT, options, "model 1")
    return ModelFolders(folder / "base", folder / "adapter", how), task, inputs, [f"user {i}" for i in range(ROWS)]


def what_executors_are(session):
    """Where each Python worker of an executor has `ml` from, its process, its parent, and the GPU it took."""

    def look(_):
        import ml

        yield os.getpid(), os.getppid(), ml.__path__[0], os.environ.get("CUDA_VISIBLE_DEVICES")

    return sorted(set(session.sparkContext.parallelize(range(8), 8).mapPartitions(look).collect()))


def main(folder, warehouse):
    from ml.generation import generate_on_spark
    from ml.spark import SparkSource

    discovery = folder / "gpus.sh"
    discovery.write_text(f'#!/bin/sh\necho \'{{"name": "gpu", "addresses": ["{GPU}"]}}\'\n')
    discovery.chmod(discovery.stat().st_mode | stat.S_IEXEC)
    conf = {
        **{f"spark.{who}.resource.gpu.amount": "1" for who in ("worker", "executor", "task")},
        **{f"spark.{who}.resource.gpu.discoveryScript": str(discovery) for who in ("worker", "executor")},
        "spark.sql.codegen.wholeStage": "false",  # hundreds of rows: compiling takes longer than running
    }
    shop = Shop(folder).settings
    spark = shop.spark.model_copy(update={"master": "local-cluster[2,1,1024]", "conf": conf})
    settings = shop.model_copy(update={"spark": spark, "warehouse": warehouse, "home": folder / "cluster-home"})
    session = SparkSource(spark).session
    print("tables", time.monotonic(), flush=True)
    publish(settings, session)
    print("answers", time.monotonic(), flush=True)
    folders, task, inputs, keys = answer_task(folder / "answering")
    answers = generate_on_spark(session, folders, task, inputs, keys, folder / "answering" / "chunks")
    print("executors", time.monotonic(), flush=True)
    (folder / "answers.json").write_text(json.dumps([asdict(answer) for answer in answers]))
    (folder / "executors.json").write_text(json.dumps([os.getpid(), what_executors_are(session)]))
    session.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
