"""The warehouse: Parquet tables that are published whole, partition by partition, or not at all."""

from ml.warehouse.contents import TableCheckError
from ml.warehouse.files import PublishError
from ml.warehouse.views import parquet_views
from ml.warehouse.warehouse import Publication, Warehouse, open_warehouse

__all__ = ["Publication", "PublishError", "TableCheckError", "Warehouse", "open_warehouse", "parquet_views"]
