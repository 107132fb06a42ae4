"""Several starts at once: all minima that a search finds, and the lowest of them as the place to go on from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.transforms import Transform
from hyco_engine.training.full_batch import LBFGS, step_reach
from hyco_engine.training.least_squares import LevenbergMarquardt
from hyco_engine.training.linearized import LaneProblem, Linearizer
from hyco_engine.training.whole_loss import WholeLoss

SAME = 0.02
"""Minima closer than this in every unconstrained parameter (on the log scale: two percent) are one."""


@attrs.frozen(kw_only=True)
class Minimum:
    """Where some of the starts ended. `values`: of scalars; a field's mean."""

    loss: float
    starts: int
    converged: bool
    values: Mapping[str, float]


@attrs.frozen(kw_only=True)
class MultiStart:
    """What became of `starts` starts: `minima`, best first; `lost`, where the loss never was finite."""

    starts: int
    lost: int
    minima: tuple[Minimum, ...]
    spread: Mapping[str, tuple[float, float]]
    """Smallest and largest value over the ends of all starts that were not lost."""

    @property
    def message(self) -> str | None:
        """What the user should know, if anything."""
        parts = []
        if len(self.minima) > 1:
            best, *others = self.minima
            told = "; ".join(f"{_told(m.values)} with loss {m.loss:.3g} ({m.starts} starts)" for m in others[:4])
            parts.append(
                f"{len(self.minima)} minima were found from {self.starts} starts. The lowest is {_told(best.values)} "
                f"with loss {best.loss:.3g} ({best.starts} starts); others: {told}"
            )
        if self.lost:
            parts.append(f"{self.lost} of {self.starts} starts were lost: the loss is not finite there")
        return ". ".join(parts) or None

    def to_data(self) -> dict[str, Any]:
        """JSON-able."""
        return attrs.asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> MultiStart:
        """What `to_data` gave."""
        return cls(**{**data, "minima": tuple(Minimum(**minimum) for minimum in data["minima"])})


def search_starts(
    model: nn.Module,
    whole: WholeLoss,
    linearizer: Linearizer,
    *,
    method: str,
    starts: int,
    iterations: int,
    generator: torch.Generator,
) -> MultiStart | None:
    """Search from several starts; the model is left at the lowest minimum found. None where it is no physics."""
    if not isinstance(model, PhysicalModel):
        return None
    points = draw_starts(model, starts, generator)
    if method == "lbfgs":
        return search_lbfgs(model, whole, points, iterations)
    return search_gauss_newton(model, whole, linearizer, points, iterations)


def draw_starts(model: PhysicalModel, count: int, generator: torch.Generator) -> Tensor:
    """`[count, P]` unconstrained starts: the model's own, then others, spread evenly over the range of each parameter.

    Between two bounds all of the range (its logarithm where steps are relative), else a factor of up to e^2 or twice
    the start's size to both sides. A field is moved as a whole.
    """
    columns = []
    for name in model.learnables.learned:
        own = model.learnables.raw[name].detach().double().cpu().flatten()
        # one draw from each of the equal parts of the range, in random order: a Latin hypercube
        parts = torch.randperm(count, generator=generator)
        places = (parts + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        moved = own + _moves(model.learnables.transform(name), own, places)[:, None]
        moved[0] = own
        columns.append(moved)
    return torch.cat(columns, dim=1)


def _moves(transform: Transform, own: Tensor, places: Tensor) -> Tensor:
    centre = own.mean()
    lower, upper = transform.lower, transform.upper
    if not math.isfinite(upper - lower):
        return 4 * places - 2
    if transform.log and lower > 0:
        value = lower * (upper / lower) ** (0.02 + 0.96 * places)
    else:
        value = lower + (upper - lower) * (0.02 + 0.96 * places)
    return transform.to_raw(value) - centre


def search_gauss_newton(
    model: PhysicalModel, whole: WholeLoss, linearizer: Linearizer, points: Tensor, iterations: int
) -> MultiStart:
    """Gauss-Newton from all points at once, as lanes of one batched rollout; the model ends at the lowest minimum."""
    problem = LaneProblem(whole, linearizer)
    search = LevenbergMarquardt(lanes=len(points), precision=whole.dtype, reach=step_reach(model))
    done = torch.zeros(len(points), dtype=torch.bool)
    values = torch.full((len(points),), math.inf, dtype=torch.float64)
    for _ in range(iterations):
        step = search.iterate(problem, points)
        points, values = step.points, step.values
        done = step.converged | ~step.moved
        if bool(done.all()):
            break
    return _gather(model, whole, points, values, done)


def search_lbfgs(model: PhysicalModel, whole: WholeLoss, points: Tensor, iterations: int) -> MultiStart:
    """L-BFGS from one point after the other; the model ends at the lowest minimum."""
    ends, losses, done = [], [], []
    for point in points:
        whole.move_to(point)
        search = LBFGS(whole.parameters, step_reach(model))
        search.begin(real_only=True)
        loss, converged = math.inf, False
        for _ in range(iterations):
            made = search.iterate(whole)
            loss, converged = made.loss, made.converged
            if converged or not math.isfinite(loss):
                break
        ends.append(whole.point())
        losses.append(loss)
        done.append(converged)
    return _gather(model, whole, torch.stack(ends), torch.tensor(losses, dtype=torch.float64), torch.tensor(done))


def _gather(model: PhysicalModel, whole: WholeLoss, points: Tensor, values: Tensor, done: Tensor) -> MultiStart:
    kept = values.isfinite().nonzero().flatten()
    order = kept[values[kept].argsort()].tolist()
    groups: list[list[int]] = []
    for lane in order:
        near = (g for g in groups if float((points[g[0]] - points[lane]).abs().max()) < SAME)
        group = next(near, None)
        if group is None:
            groups.append([lane])
        else:
            group.append(lane)
    means = [_means(model, whole, points[lane]) for lane in order]
    minima = tuple(
        Minimum(
            loss=float(values[group[0]]),
            starts=len(group),
            converged=bool(done[group[0]]),
            values=means[order.index(group[0])],
        )
        for group in groups
    )
    if order:
        whole.move_to(points[order[0]])
    spread = {name: (min(m[name] for m in means), max(m[name] for m in means)) for name in (means[0] if means else ())}
    return MultiStart(starts=len(points), lost=len(points) - len(kept), minima=minima, spread=spread)


def _means(model: PhysicalModel, whole: WholeLoss, point: Tensor) -> dict[str, float]:
    values = model.learnables.values(
        {name.removeprefix("learnables.raw."): value for name, value in whole.named(point).items()}
    )
    return {name: float(values[name].mean()) for name in model.learnables.learned}


def _told(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in dict(values).items())
