"""What a day of `ingest` costs as one backfill, and as one run for each day.

    python -m benchmarks.backfill [--customers 200] [--items 200] [--days 56] [--chunk 14] [--alone 8]
    python -m benchmarks.backfill --settings hemline.yaml [--days 730] [--alone 8]

With `--settings`, the newest `--days` days of that log; else a simulated one. Tables, Dagster's records and work files
go into a temporary folder, so that nothing is published yet. Of the runs for one day each there are `--alone`, after
the backfill's last day: every day is published before them, which is what a cost that grows with the days would show.
The last line has the ratio. One Spark session serves both: a run for each day as Dagster's UI starts it begins another.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import dagster as dg

from ml.log import raw_days
from ml.settings import Settings
from pipelines.run import Runner
from pipelines.settings import load_settings


def simulated(folder: Path, customers: int, items: int, days: int) -> Settings:
    """Simulate a shop's log; return settings over it."""
    from pipelines.demo import simulate_shop_at

    last = (date.today() - timedelta(days=1)).isoformat()
    simulate_shop_at(folder / "raw", customers, items, days, last, ["Clothing", "Footwear"], 0)
    return Settings(
        raw_log=folder / "raw" / "interactions",
        catalog=folder / "raw" / "catalog.parquet",
        categories=["Clothing", "Footwear"],
        spark={"driver_memory": "2g"},  # pyright: ignore[reportArgumentType]
    )


def chunk_costs(runner: Runner, run_id: str) -> list[float]:
    """Return the seconds a day of `interactions`, chunk by chunk, as the run recorded them."""
    with runner.instance() as instance:
        records = instance.fetch_materializations(dg.AssetKey("interactions"), limit=1).records
    made = records[0].asset_materialization
    assert made is not None and records[0].run_id == run_id
    return list(made.metadata["seconds_a_day"].value)  # pyright: ignore[reportArgumentType]


def timed(runner: Runner, first: str, last: str) -> tuple[float, str]:
    """Ingest a range; return its seconds and the run."""
    began = time.perf_counter()
    done = runner.run("ingest", days=(first, last))
    return time.perf_counter() - began, done.run_id


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--customers", type=int, default=200)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--days", type=int, default=56)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--alone", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backfill-") as name:
        folder = Path(name)
        if options.settings:
            settings = load_settings(options.settings).settings
        else:
            settings = simulated(folder, options.customers, options.items, options.days)
        days = raw_days(settings.raw_log)[-options.days :]
        log = settings.log.model_copy(update={"chunk_days": options.chunk or settings.log.chunk_days})
        places = {"warehouse": folder / "warehouse", "home": folder / "home", "start_date": days[0], "log": log}
        runner = Runner(settings.model_copy(update=places))
        timed(runner, days[0], days[0])  # starts Spark
        together, run_id = timed(runner, days[0], days[-1])
        for number, seconds in enumerate(chunk_costs(runner, run_id)):
            first = number * log.chunk_days
            print(f"interactions, days {first + 1} … {min(first + log.chunk_days, len(days))}: {seconds:.3f} s a day")
        alone = [timed(runner, day, day)[0] for day in days[-options.alone :]]
        print(f"{len(days)} days as one run, {log.chunk_days} at a time: {together / len(days):.3f} s a day")
        print(f"{len(alone)} days, a run each: {median(alone):.3f} s a day (median)")
        print(f"ratio {median(alone) / (together / len(days)):.1f}")


if __name__ == "__main__":
    main()
