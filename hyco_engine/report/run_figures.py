"""The pictures at the end of a run: figures, the held-out rollout behind them, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyco_engine.interfaces import Player, Samples
from hyco_engine.report.figures import comparison_figure, history_figure
from hyco_engine.report.page import run_name, write_report
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.runs.metrics import METRICS, of_kept_arms, read_metrics
from hyco_engine.training.evaluation import model_rollout

if TYPE_CHECKING:
    from hyco_engine.assembly import Data


def draw(folder: Path, summary: Mapping[str, Any], data: Data, models: Mapping[Player, nn.Module]) -> Iterator[Path]:
    """Draw the figures and the report of a run folder; yield each path.

    They are `figures/history.png`; for fields also `figures/comparison.png` and the first held-out rollout
    (`hyco_engine.report.rollouts`); and last `report.html`, which shows those that exist.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    records = of_kept_arms(read_metrics(folder), summary) if (folder / METRICS).is_file() else []
    name = run_name(folder)
    yield history_figure(records, summary, figures / "history.png", title=f"{name}: how training went")
    if (rollout := held_out_rollout(data, models)) is not None:
        path = figures / "comparison.png"
        title = f"{name}: a held-out {rollout.split_name} simulation"
        yield comparison_figure(rollout.truth, rollout.predictions, rollout.layout, rollout.dt, path, title=title)
        yield rollout.save(folder)
    yield write_report(folder, summary=summary)


def held_out_rollout(data: Data, models: Mapping[Player, nn.Module]) -> HeldOutRollout | None:
    """Roll the models out on the first simulation of the test split, else of val; None where there are no fields."""
    split, real = ("test", data.test) if len(data.test) else ("val", data.val)
    if isinstance(real, Samples) or not len(real) or data.layout is None or data.dt is None:
        return None
    truth = real[0]
    predictions = {}
    for player, model in models.items():
        start = torch.cat([truth.dynamic[0], truth.static])[None]
        device = next((t.device for t in [*model.parameters(), *model.buffers()]), start.device)
        rolled = model_rollout(model)(start.to(device), len(truth.dynamic) - 1)[0].cpu()
        predictions[str(player)] = torch.cat([truth.dynamic[:1], rolled]).float().numpy()
    return HeldOutRollout(
        truth=truth.dynamic.float().numpy(), predictions=predictions, layout=data.layout, dt=data.dt, split=split
    )
