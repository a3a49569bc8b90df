"""What a row of results says of where it came from: data, settings, seed and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

import pyarrow as pa

from ml.code import code_fingerprint


def origin(examples: pa.Table, contents: object, settings: Mapping[str, object], seed: int) -> dict[str, object]:
    """Return the columns that evaluation and experiment rows share.

    `examples`: the rows of `training_sequences`, whose newest day is named; `contents`: names of the files of every
    table that was read (`Warehouse.content`), as plain JSON; `settings`: those that can change the result.
    """
    newest = max(examples["target_date"].to_pylist(), default="no example")
    digest = hashlib.blake2b(json.dumps(contents).encode(), digest_size=6).hexdigest()
    return {
        "data": f"{newest} {digest}",
        "settings": json.dumps(settings, sort_keys=True),
        "seed": seed,
        "code_version": f"{version('hemline')} {code_fingerprint()}",
    }
