"""What is kept for how long, and what may go: old partitions, files of superseded models, forgotten work."""

from ml.retention.removal import Removal
from ml.retention.tables import first_log_day, old_partitions
from ml.retention.versions import unneeded_versions
from ml.retention.work import forgotten_work

__all__ = ["Removal", "first_log_day", "forgotten_work", "old_partitions", "unneeded_versions"]
