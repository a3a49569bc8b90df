"""The `query_vectors` table: a query is encoded once per encoder and never again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.memory.encoders import TextEncoder
from ml.tables import TABLES


def append_vectors(existing: pa.Table | None, queries: Iterable[str], encoder: TextEncoder) -> pa.Table:
    """Return `query_vectors`: `existing` rows unchanged, then one for each of `queries` that this encoder lacks.

    New rows are sorted by query, so the order of `queries` does not matter.
    """
    schema = TABLES["query_vectors"].schema
    table = schema.empty_table() if existing is None else existing.select(schema.names).cast(schema)
    known = set(table.filter(pc.field("encoder") == encoder.name)["query"].to_pylist())
    new = sorted({query for query in queries if query} - known)
    vectors = encoder.encode(new)
    offsets = np.arange(len(new) + 1, dtype=np.int32) * encoder.dim
    added = pa.table(
        {
            "encoder": pa.repeat(pa.scalar(encoder.name), len(new)),
            "query": pa.array(new, pa.string()),
            "vector": pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float32())),
        }
    )
    return pa.concat_tables([table, added.cast(schema)])
