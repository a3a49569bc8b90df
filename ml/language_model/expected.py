"""How long a fit without a GPU takes, said before it begins."""

from __future__ import annotations

import pyarrow as pa

from ml.language_model.batches import PromptTokens
from ml.language_model.loading import has_gpu
from ml.settings import LanguageModelSettings

_TOKENS_A_SECOND = (100, 300)
"""What a model of 135M parameters was trained at on two cores (docs/results.md, what each stage costs)."""
_LONG_SECONDS = 4 * 3600


def slow_fit(prompts: pa.Table, settings: LanguageModelSettings) -> str | None:
    """Return a warning where a fit on these `prompts` may take more than four hours on this machine's CPU."""
    tokens = PromptTokens(prompts).lengths.sum() * (settings.epochs + settings.hard_share * settings.hard_epochs)
    slow, fast = (tokens / speed for speed in _TOKENS_A_SECOND)
    if slow < _LONG_SECONDS or has_gpu():
        return None
    return (
        f"{prompts.num_rows:,} prompts, {tokens / 1e6:,.1f} million tokens to train without a GPU. A model of 135M "
        f"parameters takes {fast / 3600:,.0f} to {slow / 3600:,.0f} hours for that on two cores. The setting "
        f"prompts.max_train, or the profile two_cores, trains on a sample; a run that is stopped goes on from its "
        f"newest checkpoint while prompts and settings stay the same"
    )
