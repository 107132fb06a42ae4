"""Bands around the mean of an ensemble, calibrated on held-out rollouts, and the share of other rollouts in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.ensemble import Bands, uncertainty
from hyco_engine.interfaces import Trajectory
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.rollout import evaluating, member_rollouts

LEVEL = 0.9
"""The share of the truth that bands are made to hold."""
MOST = 4096
"""So many errors of one simulation, field and lead time count at most, evenly chosen."""


def calibrate(
    model: nn.Module,
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    runtime: Runtime | None = None,
) -> Bands | None:
    """Return the bands that hold `LEVEL` of the observed values of each field and lead time; None if none is observed.

    A factor is a quantile of errors in units of `uncertainty`. Each simulation counts once, however many values it has,
    and the worst one twice: a further simulation may be as bad as that (see `_quantile`). Lead times without an
    observation have the factor of the next one that has some, or of the last. The rollouts are divided among the ranks
    of `runtime`.
    """
    steps = max(len(t.dynamic) for t in trajectories) - 1
    names = [field.name for field in layout.dynamic]
    found: list[dict[str, list[Tensor]]] = [{name: [] for name in names} for _ in range(steps)]
    for errors, paths, observed in _compared(model, trajectories, layout, device, runtime):
        sizes = uncertainty(paths)[0]
        for step in range(len(errors)):
            for name in names:
                own, seen = layout.channels(name), observed[step, layout.channels(name)]
                # a member that diverged has an infinite spread, within which everything lies
                ratios = (errors[step, own][seen] / sizes[step, own][seen]).nan_to_num(0.0)
                found[step][name].append(ratios[:: math.ceil(len(ratios) / MOST) or 1])
    factors = torch.full((steps, layout.n_dynamic), math.nan, dtype=torch.float64)
    for step, by_name in enumerate(found):
        for name, parts in by_name.items():
            if known := [part for part in parts if len(part)]:
                factors[step, layout.channels(name)] = _quantile(known)
    if not bool(factors.isfinite().any(0).all()):
        return None
    for column in factors.unbind(1):
        places = column.isfinite().nonzero()[:, 0]
        column.copy_(column[places[torch.searchsorted(places, torch.arange(steps)).clamp(max=len(places) - 1)]])
    return Bands(level=LEVEL, factors=factors)


def _quantile(simulations: Sequence[Tensor]) -> float:
    """Return the value below which `LEVEL` of the ratios of a further simulation lies, given those of known ones.

    Values of one simulation are alike, so that the number of simulations limits what is known of a further one. It is
    exchangeable with the others: the distribution of its values is the mean of theirs, and of one that nobody has seen
    (R. Dunn et al. (2023), Distribution-free prediction sets for two-layer hierarchical models). In place of an
    unbounded one, which would make bands of few simulations infinitely wide, the worst of them stands for it.
    """
    worst = max(simulations, key=lambda own: float(own.quantile(LEVEL)))
    every = [*simulations, worst]
    ratios, order = torch.cat(every).double().sort()
    weights = torch.cat([torch.full((len(own),), 1 / len(own), dtype=torch.float64) for own in every])[order]
    share = weights.cumsum(0) / len(every)
    return float(ratios[int((share < LEVEL - 1e-9).sum().clamp(max=len(ratios) - 1))])


def coverage(
    model: nn.Module,
    bands: Bands,
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str = "cpu",
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Return the share of observed values within the bands, `by_field` and `by_step`, and the `share` of all.

    The rollouts are divided among the ranks of `runtime`.
    """
    steps = max(len(t.dynamic) for t in trajectories) - 1
    inside = torch.zeros(steps, layout.n_dynamic, dtype=torch.float64)
    count = torch.zeros_like(inside)
    for errors, paths, observed in _compared(model, trajectories, layout, device, runtime):
        # the error of a diverged rollout is NaN, and in no band
        inside[: len(errors)] += (observed & (errors <= bands.half_width(paths)[0])).flatten(2).sum(2)
        count[: len(errors)] += observed.flatten(2).sum(2)

    def share(part: Tensor, of: Tensor) -> float | None:
        return float(part.sum() / of.sum()) if of.sum() else None

    return {
        "share": share(inside, count),
        "by_field": {
            field.name: share(inside[:, layout.channels(field.name)], count[:, layout.channels(field.name)])
            for field in layout.dynamic
        },
        "by_step": [share(*pair) for pair in zip(inside, count, strict=True)],
    }


def _compared(
    model: nn.Module,
    trajectories: Sequence[Trajectory],
    layout: StateLayout,
    device: torch.device | str,
    runtime: Runtime | None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the absolute error `[T, C_dyn, *S]` of each trajectory, the members' paths, and what was observed."""
    mask = sample_mask(layout)[: layout.n_dynamic]

    def rolled(trajectory: Trajectory) -> Tensor:
        start = torch.cat([trajectory.dynamic[0], trajectory.static])[None].to(device)
        with torch.no_grad(), evaluating(model):
            return member_rollouts(model, start, len(trajectory.dynamic) - 1).cpu().movedim(2, 0)

    for trajectory, found in zip(trajectories, (runtime or Single()).in_turn(trajectories, rolled), strict=True):
        targets, paths = trajectory.dynamic[1:].double(), found.movedim(0, 2).double()
        yield (paths.mean(0)[0] - targets).abs(), paths, ~targets.isnan() & mask
