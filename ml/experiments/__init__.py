"""The paper's ablations, zero-shot and low-resource runs: each a small difference over the defaults.

`experiments` lists them for a shop's settings, `run_experiment` makes one's rows.
"""

from ml.experiments.catalogue import Experiment, experiments
from ml.experiments.fingerprint import made_from

__all__ = ["Experiment", "experiments", "made_from"]
