"""What a run prints in a terminal: a line when an asset starts and ends, and the assets' own messages."""

import logging
import re

import dagster as dg
from rich.console import Console
from rich.markup import escape

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# Dagster's line for every step that is left out after a failure: dozens in a night, and none says what to do.
LEFT_OUT = re.compile(r"Dependencies for step .*\. Not executing\.")


class RunHandler(logging.Handler):
    """Prints Dagster's log records in a person's words."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print the records a person wants to see."""
        meta = getattr(record, "dagster_meta", None) or {}
        event = meta.get("dagster_event") if isinstance(meta, dict) else getattr(record, "dagster_event", None)
        step = meta.get("step_key") if isinstance(meta, dict) else None
        kind = event.event_type_value if event is not None else None
        what = f"{step}{_partition(meta)}"
        if kind == "STEP_START":
            self.console.print(f"  [cyan]▸[/] {what}")
        elif kind == "STEP_SUCCESS" and event is not None:
            seconds = (event.step_success_data.duration_ms or 0) / 1000
            self.console.print(f"  [green]✓[/] {what} [dim]{seconds:.1f} s[/]")
        elif kind == "STEP_FAILURE":
            self.console.print(f"  [red]✗[/] {what}")
        elif event is None and record.levelno >= logging.INFO:
            message = str((meta.get("orig_message") if isinstance(meta, dict) else None) or record.getMessage())
            if not LEFT_OUT.fullmatch(message):
                self.console.print(f"    {message}", markup=False)


def _partition(meta: object) -> str:
    """Return the category or experiment of a run; its day is said above its steps, or was typed."""
    tags = (meta.get("job_tags") if isinstance(meta, dict) else None) or {}
    name = tags.get("dagster/partition", "")
    return f" · {escape(name)}" if name and not DAY.fullmatch(name) else ""


def _terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("hemline.run")
    logger.handlers = [RunHandler()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    return logger


console_logger = dg.LoggerDefinition(_terminal_logger, description="One line per asset, for terminals.")
