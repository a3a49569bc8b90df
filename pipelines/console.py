"""What a run prints in a terminal: a line when an asset starts and ends, and the assets' own messages."""

import logging
import re

import dagster as dg
from rich.console import Console

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
        if kind == "STEP_START":
            self.console.print(f"  [cyan]▸[/] {step}")
        elif kind == "STEP_SUCCESS" and event is not None:
            seconds = (event.step_success_data.duration_ms or 0) / 1000
            self.console.print(f"  [green]✓[/] {step} [dim]{seconds:.1f} s[/]")
        elif kind == "STEP_FAILURE":
            self.console.print(f"  [red]✗[/] {step}")
        elif event is None and record.levelno >= logging.INFO:
            message = str((meta.get("orig_message") if isinstance(meta, dict) else None) or record.getMessage())
            if not LEFT_OUT.fullmatch(message):
                self.console.print(f"    {message}", markup=False)


def _terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("hemline.run")
    logger.handlers = [RunHandler()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    return logger


console_logger = dg.LoggerDefinition(_terminal_logger, description="One line per asset, for terminals.")
