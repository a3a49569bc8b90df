"""Fusing lists: every source proposes items and scores them, a small model fitted on validation orders them.

`sources` holds what is known about every item, `proposals` collects a customer's candidates, `features` describes them,
`ranker` is the model that orders them. The paper joins two lists at a fixed N instead (`ml.retrieval.mixup`).
"""

from ml.ranking.asked import Asked, asked_of_examples, asked_of_histories
from ml.ranking.sources import Demand, Sources

__all__ = ["Asked", "Demand", "Sources", "asked_of_examples", "asked_of_histories"]
