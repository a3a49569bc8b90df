"""How every asset is declared: Dagster's decorators, with what all assets share.

- An error that passes by itself (`ml.transient`) is tried again, later and later; any other fails the run at once.
- An error that quotes a password (a server's address, say) is recorded without it (`ml.secrets`).
- A step runs once at a time: two runs of one partition, one from the UI and one from the command line, take turns. A
  day's step excludes the same step of every other day, because ranges of days overlap and a night reads the one before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import dagster as dg

from ml.secrets import redacted
from ml.transient import UnreachableError, is_transient
from ml.warehouse import Warehouse

MAX_RETRIES = 4
FIRST_WAIT_SECONDS = 30.0
"""Doubled for every further try: 30 s, 1, 2 and 4 minutes, longer than a server takes to restart."""


def asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset as `dagster.asset` does."""
    return lambda compute: dg.asset(**options)(retried(compute))


def multi_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare assets that are made together, as `dagster.multi_asset` does."""
    return lambda compute: dg.multi_asset(**options)(retried(compute))


def retried(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return `compute`, a function or a generator, run alone and with its transient errors tried again."""
    if inspect.isgeneratorfunction(compute):

        @wraps(compute)
        def generate(*arguments: Any, **named: Any) -> Iterator[Any]:
            with retries(), alone(named.get("warehouse")):
                yield from compute(*arguments, **named)

        return generate

    @wraps(compute)
    def call(*arguments: Any, **named: Any) -> Any:
        with retries(), alone(named.get("warehouse")):
            return compute(*arguments, **named)

    return call


@contextmanager
def retries() -> Iterator[None]:
    """Ask Dagster to run the step again after a pause where the block raises what passes by itself."""
    try:
        yield
    except Exception as raised:
        error = redacted(raised)
        if not is_transient(raised):
            if error is raised:
                raise
            raise error from None
        context = dg.AssetExecutionContext.get()
        tries = 1 + context.op_execution_context.retry_number
        if tries > MAX_RETRIES:
            raise UnreachableError(
                f"{type(raised).__name__}: {str(error)[:500]}: tried {tries} times in vain. What was published before "
                "is as it was; see that the server or store answers, and run again."
            ) from error
        wait = FIRST_WAIT_SECONDS * 2**context.op_execution_context.retry_number
        context.log.warning(
            f"{type(error).__name__}: {str(error)[:300]}: tried again in {wait:.0f} s, {MAX_RETRIES} times at most"
        )
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=wait) from error


def step_names(assets: Iterable[dg.AssetsDefinition]) -> Iterator[str]:
    """Yield the name of each step that `alone` may hold for these assets, partitioned as they run."""
    for one in assets:
        partitions = one.partitions_def
        if partitions is None or isinstance(partitions, dg.TimeWindowPartitionsDefinition):
            yield one.op.name
        else:
            yield from (f"{one.op.name} {key}" for key in partitions.get_partition_keys())


@contextmanager
def alone(warehouse: Warehouse | None) -> Iterator[None]:
    """Wait until no other run is in this step of this warehouse, and keep others out of it; without one, do nothing."""
    if warehouse is None:
        yield
        return
    context = dg.AssetExecutionContext.get()
    by_day = context.has_partition_key and isinstance(
        context.assets_def.partitions_def, dg.TimeWindowPartitionsDefinition
    )
    name = context.op_execution_context.op.name
    if context.has_partition_key and not by_day:
        name += f" {context.partition_key}"
    with warehouse.step(name, lambda: context.log.warning("another run is in this step: waiting until it is through")):
        yield
