"""The figures of a run."""

from __future__ import annotations

from hyco_engine.report.comparison import comparison_figure
from hyco_engine.report.history import history_figure

__all__ = ["comparison_figure", "history_figure"]
