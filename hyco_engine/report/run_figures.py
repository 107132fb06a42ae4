"""The figures at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyco_engine.interfaces import Player, Samples
from hyco_engine.report.figures import comparison_figure, history_figure
from hyco_engine.runs.metrics import read_metrics
from hyco_engine.training.evaluation import model_rollout

if TYPE_CHECKING:
    from hyco_engine.assembly import Data


def draw(folder: Path, summary: Mapping[str, Any], data: Data, models: Mapping[Player, nn.Module]) -> list[Path]:
    """`figures/history.png`, and for fields `figures/comparison.png` of the first held-out simulation."""
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    drawn = [history_figure(read_metrics(folder), summary, figures / "history.png")]
    real = data.test if len(data.test) else data.val
    if isinstance(real, Samples) or not len(real) or data.layout is None or data.dt is None:
        return drawn
    truth = real[0]
    predictions = {}
    for player, model in models.items():
        start = torch.cat([truth.dynamic[0], truth.static])[None]
        device = next((t.device for t in [*model.parameters(), *model.buffers()]), start.device)
        rolled = model_rollout(model)(start.to(device), len(truth.dynamic) - 1)[0].cpu()
        predictions[player] = torch.cat([truth.dynamic[:1], rolled]).numpy()
    path = figures / "comparison.png"
    drawn.append(comparison_figure(truth.dynamic.numpy(), predictions, data.layout, data.dt, path))
    return drawn
