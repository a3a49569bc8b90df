"""What customers did, in order: training examples, nightly histories, query counts, item sequences, statistics.

Spark for what grows with the log, Arrow for what models and evaluation read. Nothing here looks past its own day, and
no example sees anything at or after its target's time, except where the `paper` click filter says so.
"""

from ml.sequences.examples import training_sequences
from ml.sequences.histories import active_users, user_histories
from ml.sequences.items import ItemSequences, history_sequences, item_sequences, purchases_only
from ml.sequences.queries import query_daily, query_title_pairs
from ml.sequences.statistics import dataset_statistics

__all__ = [
    "ItemSequences",
    "active_users",
    "dataset_statistics",
    "history_sequences",
    "item_sequences",
    "purchases_only",
    "query_daily",
    "query_title_pairs",
    "training_sequences",
    "user_histories",
]
