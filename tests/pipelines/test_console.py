"""What a terminal shows of a run."""

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from pipelines.console import console_logger
from pipelines.run import failure_words


@dg.asset
def damaged(context: dg.AssetExecutionContext):
    context.log.info("two [red]files[/] to read")
    raise ValueError("a file is damaged")


@dg.asset(deps=[damaged])
def next_table(): ...


@dg.asset(deps=[next_table])
def last_table(): ...


@dg.asset
def another(context: dg.AssetExecutionContext):
    context.log.warning("a row was left out. Not executing. It goes on.")


def test_a_failed_step_is_shown_and_those_that_were_left_out_for_it_are_not(capsys):
    job = dg.Definitions(
        assets=[damaged, next_table, last_table, another], jobs=[dg.define_asset_job("night")],
        loggers={"console": console_logger},
    ).resolve_job_def("night")  # fmt: skip
    assert not job.execute_in_process(run_config={"loggers": {"console": {}}}, raise_on_error=False).success
    shown = capsys.readouterr().err
    assert "▸ damaged" in shown and "✗ damaged" in shown and "✓ another" in shown
    assert "two [red]files[/] to read" in shown and "a row was left out. Not executing. It goes on." in shown
    assert "next_table" not in shown and "last_table" not in shown


def test_an_interrupted_command_says_so_and_what_to_do():
    @dg.asset
    def slow():
        raise DagsterExecutionInterruptedError

    done = dg.materialize([slow], raise_on_error=False)
    assert failure_words(done, "nightly").startswith("nightly: slow: interrupted; what was published before stays. Run")


@pytest.mark.parametrize(("key", "said"), [("Hats [red]", " · Hats [red]"), ("2026-03-01", "")])
def test_a_step_is_shown_with_its_category_but_not_with_its_day(key, said, capsys):
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition([key]))
    def table(): ...

    job = dg.Definitions(
        assets=[table], jobs=[dg.define_asset_job("fit")], loggers={"console": console_logger}
    ).resolve_job_def("fit")  # fmt: skip
    assert job.execute_in_process(run_config={"loggers": {"console": {}}}, partition_key=key).success
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == f"  ▸ table{said}"
    assert shown[1].startswith(f"  ✓ table{said} ")
