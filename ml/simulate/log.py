"""The simulated shop's interaction log: customers in Spark, a block of days at a time, popularity fed back between."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ml.errors import BadInputError
from ml.simulate.choices import Action, Memory, shop_visit
from ml.simulate.needs import Stream, make_customer, stream, visits
from ml.simulate.search import ShopSearch, first_popularity, next_popularity
from ml.simulate.shop import Shop, catalog_table, make_shop
from ml.tables import TIME

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BLOCK_DAYS = 7
TASK_CUSTOMERS = 2000
"""Customers a Spark task takes at most; their events of a block are about 20,000."""
MARKER = "simulation.json"
"""Written last, with what the shop was made of: only a folder that has it is ever replaced."""
RAW_EVENT = pa.struct(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("event_time", TIME),
        ("action", pa.string()),
        ("item_id", pa.string()),
        ("query", pa.string()),
        ("position", pa.int32()),
        ("item", pa.int32()),
        ("event_date", pa.string()),
    ]
)
_MEMORY = pa.struct([("item", pa.int32()), ("day", pa.int32()), ("bought", pa.bool_())])
_BLOCK = pa.schema([("customer", pa.int64()), ("memory", pa.list_(_MEMORY)), ("events", pa.list_(RAW_EVENT))])
_BLOCK_SQL = (
    "customer long, memory array<struct<item:int,day:int,bought:boolean>>, events array<struct<event_id:string,"
    "user_id:string,session_id:string,event_time:timestamp,action:string,item_id:string,query:string,position:int,"
    "item:int,event_date:string>>"
)


def simulate_shop(
    spark: SparkSession,
    out: Path,
    *,
    customers: int,
    items: int,
    days: int,
    end: str,
    categories: list[str],
    seed: int,
    choice_seed: int | None = None,
    late_share: float = 0.003,
    duplicate_share: float = 0.001,
) -> bool:
    """Write `interactions/event_date=…/` and `catalog.parquet` of a simulated shop under `out`.

    The same arguments give the same events however Spark splits the work. `choice_seed` makes the same customers with
    the same needs choose otherwise. `late_share` of the events stand in the next day's partition, `duplicate_share`
    stand there twice. Returns False, and writes nothing, where exactly this shop already is.
    Raises BadInputError where `out` holds data that did not come from here.
    """
    arguments = {
        "customers": customers, "items": items, "days": days, "end": end, "categories": categories, "seed": seed,
        "choice_seed": choice_seed, "late_share": late_share, "duplicate_share": duplicate_share, "code": _code_hash(),
    }  # fmt: skip
    if not _may_write(out, arguments):
        return False
    shop = make_shop(items, days, end, categories, seed)
    work = out / ".simulating"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    recorder = _Recorder(shop, choice_seed if choice_seed is not None else seed, late_share, duplicate_share)
    _simulate_blocks(spark, shop, customers, recorder, work)
    _write_days(spark, work)
    pq.write_table(catalog_table(shop), work / "catalog.parquet")
    (out / MARKER).unlink(missing_ok=True)
    shutil.rmtree(out / "interactions", ignore_errors=True)
    (work / "interactions").replace(out / "interactions")
    (work / "catalog.parquet").replace(out / "catalog.parquet")
    (out / MARKER).write_text(json.dumps(arguments, indent=1) + "\n")
    shutil.rmtree(work)
    return True


def _may_write(out: Path, arguments: dict[str, object]) -> bool:
    marker = out / MARKER
    if marker.exists():
        return json.loads(marker.read_text()) != arguments
    for name in ("interactions", "catalog.parquet"):
        if (out / name).exists() and not (out / ".simulating").exists():
            raise BadInputError(f"{out / name} exists and was not simulated: choose an empty folder")
    return True


def _code_hash() -> str:
    """Return a hash of this package's source, so that a shop made by other code is made again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _simulate_blocks(spark: SparkSession, shop: Shop, customers: int, recorder: _Recorder, work: Path) -> None:
    """Write one folder of customers' events and memories per block of days; each block starts from the last one's."""
    shared = spark.sparkContext.broadcast(shop)
    popularity = first_popularity(shop)
    parallel = spark.sparkContext.defaultParallelism
    tasks = max(parallel, -(-customers // TASK_CUSTOMERS))
    frame: DataFrame = spark.range(0, customers, 1, tasks).selectExpr(
        "id AS customer", "CAST(array() AS array<struct<item:int,day:int,bought:boolean>>) AS memory"
    )
    for first in tqdm(range(0, shop.days, BLOCK_DAYS), desc="simulate", unit="block", disable=None):
        block = range(first, min(first + BLOCK_DAYS, shop.days))
        known = spark.sparkContext.broadcast(popularity)
        folder = str(work / f"block={first:05d}")
        frame.mapInArrow(_block_task(shared, known, block, recorder), _BLOCK_SQL).write.parquet(folder)
        done = spark.read.schema(_BLOCK_SQL).parquet(folder)
        popularity = next_popularity(popularity, *_counts(done))
        known.unpersist()
        frame = done.select("customer", "memory")
    shared.unpersist()


def _block_task(shared, known, block: range, recorder: _Recorder) -> Callable:  # noqa: ANN001 (Spark broadcasts)
    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        shop = shared.value
        search = ShopSearch(shop, known.value, block[0])
        for batch in batches:
            rows = []
            for row in batch.to_pylist():
                memory = _remembered(row["memory"])
                events = recorder.block(search, int(row["customer"]), block, memory)
                rows.append({"customer": row["customer"], "memory": _as_rows(memory), "events": events})
            yield pa.RecordBatch.from_pylist(rows, schema=_BLOCK)

    return task


def _remembered(rows: list[dict]) -> Memory:
    memory = Memory()
    for row in rows:
        (memory.bought if row["bought"] else memory.seen)[row["item"]] = row["day"]
    return memory


def _as_rows(memory: Memory) -> list[dict]:
    return [
        {"item": item, "day": day, "bought": bought}
        for bought, known in ((False, memory.seen), (True, memory.bought))
        for item, day in known.items()
    ]


def _counts(block: DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return item numbers with a block's clicks and purchases; as large as the catalogue, not as the log."""
    from pyspark.sql import functions as F

    frame = (
        block.selectExpr("inline(events)")
        .where("item IS NOT NULL")
        .groupBy("item")
        .agg(
            F.count_if(F.col("action") == "click").alias("click"),
            F.count_if(F.col("action") == "purchase").alias("bought"),
        )
        .toPandas()
    )
    return frame["item"].to_numpy(), frame["click"].to_numpy(), frame["bought"].to_numpy()


class _Recorder:
    """Turns a customer's visits into rows of the raw log, with the blemishes a real log has."""

    def __init__(self, shop: Shop, choice_seed: int, late_share: float, duplicate_share: float) -> None:
        self.first = np.datetime64(shop.start, "s")
        self.days = shop.days
        self.seed = shop.seed
        self.choice_seed = choice_seed
        self.late_share = late_share
        self.duplicate_share = duplicate_share

    def block(self, search: ShopSearch, number: int, block: range, memory: Memory) -> list[dict]:
        """Return one customer's raw rows of a block of days."""
        shop, rows = search.shop, []
        customer = make_customer(shop, number)
        for day in block:
            for visit in visits(shop, customer, day):
                actions = shop_visit(shop, search, customer, visit, day, memory, self.choice_seed)
                rows += self._rows(shop, number, day, visit.number, actions)
        return rows

    def _rows(self, shop: Shop, number: int, day: int, visit: int, actions: list[Action]) -> Iterator[dict]:
        rng = stream(self.choice_seed, Stream.RECORD, number, day, visit)
        user = f"U{number:07d}"
        searches = 0
        for order, action in enumerate(actions):
            # A search's id counts searches only, so that it is the same whatever else was done.
            searches += action.action == "search"
            name = f"s{searches}" if action.action == "search" else f"i{order}"
            late, twice = rng.random(2)
            partition = min(day + (late < self.late_share), self.days - 1)
            row = {
                "event_id": _event_id(self.seed, number, day, visit, name),
                "user_id": user,
                "session_id": f"{user}-{day}-{visit}",
                "event_time": (self.first + np.timedelta64(86_400 * day + action.second, "s")).astype(object),
                "action": action.action,
                "item_id": shop.item_id[action.item] if action.item >= 0 else None,
                "query": action.query,
                "position": action.position if action.position > 0 else None,
                "item": action.item if action.item >= 0 else None,
                "event_date": str(shop.day(partition)),
            }
            yield from [row] * (2 if twice < self.duplicate_share else 1)


def _event_id(*parts: object) -> str:
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=10).hexdigest()


def _write_days(spark: SparkSession, work: Path) -> None:
    """Write all blocks' events as `interactions/event_date=…/part-NNNNN.parquet`, nothing else beside them."""
    columns = [field.name for field in RAW_EVENT if field.name != "item"]
    staged = work / "staged"
    (
        spark.read.schema(_BLOCK_SQL)
        .parquet(*sorted(str(path) for path in work.glob("block=*")))
        .selectExpr("inline(events)")
        .select(columns)
        .repartition("event_date")
        .sortWithinPartitions("event_date", "event_time", "event_id")
        .write.option("maxRecordsPerFile", 2_000_000)
        .partitionBy("event_date")
        .parquet(str(staged))
    )
    for day in sorted(staged.glob("event_date=*")):
        folder = work / "interactions" / day.name
        folder.mkdir(parents=True)
        for number, path in enumerate(sorted(day.glob("*.parquet"))):
            path.replace(folder / f"part-{number:05d}.parquet")
