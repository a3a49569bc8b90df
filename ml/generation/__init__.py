"""What the language model writes: constrained item code, then a free title, fast over many customers.

`trie` says which codes exist, `beam` searches them, `prefix_cache` shares the instruction's keys and values, `batch`
and `sampling` write a batch, `decoding` answers any number of rows, `chunks` keeps finished parts on disk, `on_spark`
makes them on a cluster's executors.
"""

from ml.generation.chunks import AnswerTask, candidate_rows, generate_in_chunks
from ml.generation.decoding import Generated, generate
from ml.generation.on_spark import ModelFolders, generate_on_spark
from ml.generation.trie import CodeTrie

__all__ = [
    "AnswerTask",
    "CodeTrie",
    "Generated",
    "ModelFolders",
    "candidate_rows",
    "generate",
    "generate_in_chunks",
    "generate_on_spark",
]
