"""Neural sequential recommenders under the evaluation's protocol, each fitted on item ids alone.

`baseline` makes one by name. One network a file (`gru4rec`, `sasrec`, `bert4rec`, `nextitnet`), all over the base of
`network`; `losses` and `trainer` are shared. torch is loaded when a system is made, not with the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml.errors import BadInputError

if TYPE_CHECKING:
    from ml.baselines.settings import BaselineSettings
    from ml.evaluation.protocol import System

NAMES = ("gru4rec", "sasrec", "bert4rec", "nextitnet")

__all__ = ["NAMES", "baseline"]


def baseline(name: str, settings: BaselineSettings) -> System:
    """Return the system called `name`, one of `NAMES`, not yet fitted.

    Raises BadInputError for any other name.
    """
    if name not in NAMES:
        raise BadInputError(f"baseline {name!r}: expected one of {', '.join(NAMES)}")
    from ml.baselines.system import NeuralSystem

    return NeuralSystem(name, settings)
