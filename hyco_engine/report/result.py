"""The result of a run for its caller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from hyco_engine.interfaces import Player
from hyco_engine.report.brief import brief_html, brief_text


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunResult:
    """The result of a run: its folder, the content of summary.json, and the trained models in eval mode.

    `resumed_completed` is true if the run to resume was completed before, so that nothing was done.
    """

    folder: Path
    summary: Mapping[str, Any]
    physical: nn.Module | None = None
    synthetic: nn.Module | None = None
    resumed_completed: bool = False

    def __repr__(self) -> str:
        return brief_text(self.folder, self.summary)

    def _repr_html_(self) -> str:
        return brief_html(self.folder, self.summary)


def run_result(
    folder: Path, summary: Mapping[str, Any], models: Mapping[Player, nn.Module], *, resumed_completed: bool = False
) -> RunResult:
    """Return the result with the models that the run has."""
    ready: dict[str, Any] = {player: model.eval() for player, model in models.items()}
    return RunResult(folder=folder, summary=summary, resumed_completed=resumed_completed, **ready)
