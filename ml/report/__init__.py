"""The evaluation as one page a person can read, and its figures as PNG files; everything is read from the tables."""

from ml.report.page import write_report

__all__ = ["write_report"]
