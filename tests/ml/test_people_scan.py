"""The scan that proves a customer is nowhere does find one, in every kind of file."""

import gzip
import json
import sqlite3
import zipfile
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from people_scan import findings
from safetensors.numpy import save_file

WORD = "kanarie-ünïque"
ROWS = pa.table({"a": [1, 2], "steps": [[{"query": f"for {WORD}"}], []]})


def parquet(path, rows=ROWS):
    pq.write_table(rows, path, compression="zstd")


def sqlite(path):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE a (body TEXT)")
        database.execute("INSERT INTO a VALUES (?)", (json.dumps({"text": json.dumps([WORD])}),))


def archive(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("inside", WORD * 20)


def arrow(path):
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, ROWS.schema) as writer:
        writer.write_table(ROWS)


KINDS = {
    "values.parquet": parquet,
    "metadata.parquet": lambda path: parquet(path, pa.table({"a": [1]}).replace_schema_metadata({"who": WORD})),
    "escaped.json": lambda path: path.write_text(json.dumps([{"a": {WORD: 1}}])),
    "lines.jsonl": lambda path: path.write_text(f"{{}}\n{json.dumps({'a': WORD})}\n"),
    "some.db": sqlite,
    "log.err": lambda path: path.write_text(f"x {WORD}\n"),
    "page.html": lambda path: path.write_text(WORD.replace("ü", "&uuml;").replace("ï", "&#239;")),
    "packed.gz": lambda path: path.write_bytes(gzip.compress(WORD.encode() * 20)),
    "packed.npz": archive,
    "names.npy": lambda path: np.save(path, np.array([WORD])),
    "rows.arrow": arrow,
    "w.safetensors": lambda path: save_file({"w": np.zeros(2)}, path, metadata={"who": WORD}),
    f"{WORD}.txt": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_word_is_found_in_every_kind_of_file_and_another_in_none(tmp_path, name):
    KINDS[name](tmp_path / name)
    assert findings(tmp_path, [WORD, "not-there"]) == {name: {WORD}}
    assert findings(tmp_path, [WORD], leave_out=[tmp_path]) == {}


def test_token_ids_are_read_as_text(tmp_path):
    ids = [ord(letter) for letter in "kanarienvogel"]
    parquet(tmp_path / "prompts.parquet", pa.table({"input_ids": [ids], "other": [[0.5]]}))
    assert findings(tmp_path, ["kanarienvogel"]) == {}
    read = findings(tmp_path, ["kanarienvogel"], decode=lambda ids: "".join(map(chr, ids)))
    assert read == {"prompts.parquet": {"kanarienvogel"}}
