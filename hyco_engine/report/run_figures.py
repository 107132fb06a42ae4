"""The pictures at the end of a run: figures, the held-out rollout behind them, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyco_engine.interfaces import Player
from hyco_engine.report.comparison import comparison_figure
from hyco_engine.report.history import history_figure
from hyco_engine.report.page import run_name, write_report
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.rollout import evaluating
from hyco_engine.runs.metrics import find_metrics, of_kept_arms

if TYPE_CHECKING:
    from hyco_engine.tasks import Task


def draw(folder: Path, summary: Mapping[str, Any], task: Task, models: Mapping[Player, nn.Module]) -> Iterator[Path]:
    """Into a run folder: `figures/history.png`; for fields `figures/comparison.png` and the first held-out rollout
    (`hyco_engine.report.rollouts`); last `report.html`, which shows what there is of them.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    records = of_kept_arms(find_metrics(folder) or (), summary)
    name = run_name(folder)
    yield history_figure(records, summary, figures / "history.png", title=f"{name}: how training went")
    if (rollout := held_out_rollout(task, models)) is not None:
        path = figures / "comparison.png"
        title = f"{name}: a held-out {rollout.split_name} simulation"
        yield comparison_figure(rollout.truth, rollout.predictions, rollout.layout, rollout.dt, path, title=title)
        yield rollout.save(folder)
    yield write_report(folder, summary=summary)


def held_out_rollout(task: Task, models: Mapping[Player, nn.Module]) -> HeldOutRollout | None:
    """The task's held-out example and the models' rollouts from its first frame; None where it has no fields."""
    example = task.example()
    if example is None:
        return None
    truth = example.trajectory
    predictions, bands = {}, {}
    for player, model in models.items():
        start = torch.cat([truth.dynamic[0], truth.static])[None]
        device = next((t.device for t in [*model.parameters(), *model.buffers()]), start.device)
        with torch.no_grad(), evaluating(model):
            rolled = task.path(model, start.to(device), len(truth.dynamic) - 1).each(lambda x: x[0].cpu())
        first = truth.dynamic[:1]
        predictions[str(player)] = torch.cat([first, rolled.mean]).float().numpy()
        if rolled.upper is not None:
            bands[str(player)] = torch.cat([torch.zeros_like(first), rolled.upper - rolled.mean]).float().numpy()
    return HeldOutRollout(
        truth=truth.dynamic.float().numpy(),
        predictions=predictions,
        layout=example.layout,
        dt=example.dt,
        split=example.split,
        bands=bands,
    )
