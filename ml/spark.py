"""The one way to a Spark session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.settings import SparkSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def spark_session(settings: SparkSettings, app_name: str = "hemline") -> SparkSession:
    """Return the process's Spark session, started with `settings` if there is none.

    Times are UTC throughout, and Parquet time stamps are microseconds, as `ml.tables` has them.
    """
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.appName(app_name)
        .master(settings.master)
        .config("spark.driver.memory", settings.driver_memory)
        .config("spark.sql.shuffle.partitions", str(settings.shuffle_partitions))
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.warehouse.dir", "/tmp/hemline-spark-warehouse")
    )
    for key, value in settings.conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()
