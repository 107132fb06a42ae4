"""The budget of the error of each parameter: noise, grid, what the residuals show, and one total that says which it is.

    statistical      the standard error of `error_bars`
    misfit           the standard error if windows, or stretches of time, err independently (sandwich covariance)
    discretisation   how far the estimate is from that of a finer grid and shorter internal steps
    start_noise      how far noise in observed start states has moved the estimate (see the module of that name)
    total            the root of the sum of squares of these two and of the larger one of the standard errors

An interval lies around the estimate that a perfect grid would give, which is some steps to the finer fit away. If the
data do not tell whether they were made on this very grid, it has both that estimate and the present one in it. Its
half-width combines the larger standard error and the vagueness of that way; the start noise comes to both ends. It
cannot be trusted if the physics does not explain the data, since no residual tells how far a wrong physics has moved a
parameter; if the discretisation is a large part of the value, since then the step to the finer fit is only a guess; at
a bound; and if the curvature says too little, as where other minima fit as well, but no profile could be computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import PhysicalModel, Samples
from hyco_engine.physics.transforms import Transform
from hyco_engine.physics.within import internal_steps
from hyco_engine.training.discretisation import (
    PASSES,
    SAFETY,
    VAGUENESS,
    WAY,
    Discretisation,
    Excerpt,
    allowed,
    discretisation,
    refined,
    spread_out,
    work_of,
)
from hyco_engine.training.error_bars import ErrorBars
from hyco_engine.training.linearized import BatchedProblem, JointProblem, Linearizer
from hyco_engine.training.physics_test import DRAWS
from hyco_engine.training.problem import Problem
from hyco_engine.training.profile import NoProfile, Profiles
from hyco_engine.training.refinement import Build, NotRefinable
from hyco_engine.training.start_noise import start_noise
from hyco_engine.training.trainer import Trainer

LARGE = 0.1
"""A discretisation error above this part of the value is a guess: the next order counts too."""
FINER_SHARE = 0.25
"""The finer physics may take this part of what training took; the rest is for derivatives and all graphs."""
LEAST_WORK = 2.0**22
"""What it may always take, a fraction of a second: a short training must not leave the error of the grid unknown."""
VAGUE = 0.5
"""Total error, relative to the value, from which on the curvature at the minimum says too little."""
FEWEST = 16
"""So many evaluations are allowed for profiles even after the shortest identification."""
DECIDED = math.log(100.0)
"""Evidence from which on it counts as certain whether the data were made on this very grid."""
LEFT = 0.1
"""Less than this part of the difference between both physics is what the first step to the finer fit leaves."""
ROUNDINGS = 16
"""Data without any noise leave errors of rounding: an interval reaches at least so many of them to both sides."""
MOST_FINER = 4
"""Most times as many cells that are proposed: further on, nothing is known from here."""
UNFINISHED = "the search ended before it had converged: train longer (run.cycles), or start closer"
ALIKE = 2.0
"""Minima whose losses differ by no more than this factor fit about as well."""


@attrs.frozen(kw_only=True, eq=False)
class ErrorBudget:
    """The budgets of all learned numbers by name, as summary.json has them, and what they were computed from."""

    entries: Mapping[str, dict[str, Any]]
    excerpt: Excerpt | None = None
    discretisation: Discretisation | None = None
    why_not: str = ""
    """Why there is no discretisation error."""
    finer_residual: Tensor | None = None
    """The residual of the excerpt with the finer physics at its own estimate."""
    tested: int = 1
    """How many windows of the excerpt may be rolled out for each draw of a test of the physics."""

    def after(self, unexplained: str) -> ErrorBudget:
        """Return the budget after a test of the physics, which says in words what it does not explain, if anything."""
        if not unexplained:
            return self
        entries = {}
        for name, entry in self.entries.items():
            # a search that goes on may explain the data at its end
            told = f"{UNFINISHED}; {unexplained}" if entry["verdict"] == UNFINISHED else unexplained
            entries[name] = entry | {"trusted": False, "verdict": told}
        return attrs.evolve(self, entries=entries)


@attrs.frozen(kw_only=True)
class _Profiled:
    """The interval of an unconstrained parameter by its profile, or why there is none."""

    ends: tuple[float, float] | None = None
    why_not: str | None = None


@attrs.frozen(kw_only=True, eq=False)
class _Finer:
    """The discretisation error, as far as it is known."""

    found: Discretisation | None = None
    certain: bool = False
    """Whether the data tell that they were not made on this very grid."""
    way: tuple[float, float] = (WAY, VAGUENESS)
    """The way to the perfect grid in steps to the finer fit, and its standard deviation."""
    excerpt: Excerpt | None = None
    residual: Tensor | None = None
    why_not: str = ""
    """Why nothing is known about the grid."""


def error_budget(
    trainer: Trainer,
    data: Samples,
    bars: ErrorBars,
    build: Build | None = None,
    noise: Mapping[str, float] | None = None,
    *,
    converged: bool = True,
) -> ErrorBudget:
    """Return the budget of the parameters of `trainer`, whose error bars from `data` are `bars`.

    `converged` says whether the search ended because nothing was left to gain.

    `build` makes the physics on another grid; without it there is no discretisation error. `noise` is the standard
    deviation of each field's noise, if there is any that matters. What this takes is bounded by what training took,
    counted in rollouts.
    """
    model = trainer.unknowns.physics
    assert model is not None
    whole = trainer.whole_loss(data, passes="tangents")
    work = work_of(whole, trainer.epochs_done)
    finer = _finer(whole, trainer.measuring, build, max(LEAST_WORK, FINER_SHARE * work), bars.variance)
    intervals = _profiles(trainer, model, whole, bars)
    points = whole.unknowns.point()
    owners = _owners(model)
    bias = None
    if noise and trainer.state.initial is None and finer.excerpt is not None:
        bias = start_noise(whole, trainer.measuring, finer.excerpt, model.layout, noise, trainer.seed)
    entries = {}
    for k, name in enumerate(bars.names):
        moved = None if bias is None else float(bias[k])
        entries[name] = _entry(model, bars, k, points, owners[k], finer, moved, intervals.get(name, _Profiled()))
        if not converged and bars.left > bars.reach**2 and name not in bars.at_bound:
            entries[name] |= {"trusted": False, "verdict": UNFINISHED}
    return ErrorBudget(
        entries=entries,
        excerpt=finer.excerpt,
        discretisation=finer.found,
        why_not=finer.why_not,
        finer_residual=finer.residual,
        tested=max(1, allowed(whole, work / DRAWS)),
    )


def _owners(model: PhysicalModel) -> list[Transform]:
    """Return the transform of each learned number."""
    learnables = model.learnables
    return [learnables.transform(name) for name in learnables.learned for _ in range(learnables.raw[name].numel())]


# --- the grid -------------------------------------------------------------------------------------------------------


def _finer(whole: Problem, linearizer: Linearizer, build: Build | None, work: float, variance: float) -> _Finer:
    indices = spread_out(len(whole.data.real), max(1, allowed(whole, work)))
    excerpt = Excerpt.of(whole, indices)
    if excerpt is None:
        return _Finer(why_not="the data are no fields on a grid")
    if build is None:
        return _Finer(excerpt=excerpt, why_not="nobody told how to build the physics on another grid")
    if whole.prior:
        return _Finer(excerpt=excerpt, why_not="a smoothness prior takes part in the fit")
    try:
        refinement, count = refined(whole, build, work)
        chosen = spread_out(len(indices), count)
        excerpt = excerpt.some(chosen)
        found = discretisation(whole, linearizer, excerpt, refinement)
    except NotRefinable as error:
        return _Finer(excerpt=excerpt, why_not=str(error))
    residual = _at_finer_fit(whole, indices, chosen, found)
    residual = residual if _finite(residual, excerpt) else excerpt.residual + found.defect
    # the variance of a value of the whole loss, of which the excerpt's has fewer
    variance *= len(whole.data.real) / len(excerpt.indices)
    evidence = found.gain / max(2 * variance, torch.finfo(torch.float64).tiny)
    now, then = _size(excerpt.residual), _size(residual)
    if evidence < -DECIDED and then > LEFT * _size(found.defect):
        why = (
            "the data agree with this grid and these internal steps, so they were made with them: the residual is "
            f"{now:.2g}, and that of a finer physics {then:.2g}"
        )
        return _Finer(excerpt=excerpt, residual=residual, why_not=why)
    certain = evidence > DECIDED
    # data that may come from this very grid say nothing about the way to a perfect one
    way = found.way(variance) if certain else (WAY, VAGUENESS)
    why = "" if refinement.grid else f"the internal steps alone are shorter, since {refinement.why_not}"
    return _Finer(found=found, certain=certain, way=way, excerpt=excerpt, residual=residual, why_not=why)


def _at_finer_fit(whole: Problem, indices: Tensor, chosen: Tensor, found: Discretisation) -> Tensor:
    """Return the residual of the finer physics where its fit is, by the coarse one's change on the way there.

    It is that of the `chosen` ones of the windows at `indices`, all of which a graph is known for.
    """
    here = whole.unknowns.point()
    try:
        whole.unknowns.move_to(here + found.step)
        moved = Excerpt.of(whole, indices)
    finally:
        whole.unknowns.move_to(here)
    assert moved is not None
    return moved.some(chosen).residual + found.defect


def _finite(residual: Tensor, excerpt: Excerpt) -> bool:
    return bool(residual[~excerpt.observed.isnan()].isfinite().all())


def _size(residual: Tensor) -> float:
    return float(residual[~residual.isnan()].double().square().mean().sqrt())


# --- profile intervals ------------------------------------------------------------------------------------------------


def _profiles(trainer: Trainer, model: PhysicalModel, whole: Problem, bars: ErrorBars) -> dict[str, _Profiled]:
    """Return the profiles of those parameters of which the curvature says too little; bounds come first."""
    if whole.prior or not 0 < bars.variance < math.inf:
        return {}
    point, transforms, several = whole.unknowns.point(), _owners(model), _several_minima(trainer)
    need: dict[int, float] = {}
    for k, name in enumerate(bars.names):
        error = bars.standard_error[name]
        if error is None:
            continue
        share = error / max(abs(_value(transforms[k], float(point[k]))), torch.finfo(torch.float64).tiny)
        if name in bars.at_bound or several or share > VAGUE:
            need[k] = math.inf if name in bars.at_bound else share
    if not need:
        return {}
    others = _other_minima(trainer, model) if whole.initial is None else []
    place = whole.point()
    kind = BatchedProblem if whole.initial is None else JointProblem
    profiles = Profiles(
        kind(whole, trainer.measuring),
        place,
        trust_region=whole.unknowns.trust_region(),
        left=_affordable(trainer, len(point)),
        computable=lambda tried: whole.computable(tried[: len(point)]),
    )
    found = {}
    try:
        for k in sorted(need, key=lambda k: -need[k]):
            size = bars.reach * float(bars.covariance[k, k].sqrt())
            excess = bars.reach**2 * bars.variance * float(bars.widening[k])
            try:
                ends = profiles.interval(k, transforms[k], excess=excess, size=size, others=others)
                found[bars.names[k]] = _Profiled(ends=ends)
            except NoProfile as error:
                found[bars.names[k]] = _Profiled(why_not=str(error))
    finally:
        whole.move_to(place)
    return found


def _affordable(trainer: Trainer, numbers: int) -> int:
    """Return how many linearisations cost no more than training did, counted in rollouts."""
    passes = 2.0 + numbers if trainer.optimizer_name == "gauss-newton" else PASSES
    return max(FEWEST, int(trainer.epochs_done * passes / (1 + numbers)))


def _several_minima(trainer: Trainer) -> bool:
    """Return True if a search from several starts found minima that fit about as well as the lowest one."""
    found = () if trainer.minima is None else trainer.minima.minima
    return len(found) > 1 and found[1].loss <= ALIKE * found[0].loss


def _other_minima(trainer: Trainer, model: PhysicalModel) -> list[Tensor]:
    """Return the other minima `[P]` that fit about as well; none if parameters are fields.

    Of a field the mean alone is known.
    """
    found = () if trainer.minima is None else trainer.minima.minima
    learnables = model.learnables
    if any(learnables.raw[name].numel() > 1 for name in learnables.learned):
        return []
    points = []
    for minimum in (other for other in found[1:] if other.loss <= ALIKE * found[0].loss):
        values = {name: torch.tensor(minimum.values[name], dtype=torch.float64) for name in learnables.learned}
        points.append(torch.stack([learnables.transform(name).to_raw(value) for name, value in values.items()]))
    return points


# --- one parameter ----------------------------------------------------------------------------------------------------


def _entry(
    model: PhysicalModel,
    bars: ErrorBars,
    k: int,
    point: Tensor,
    transform: Transform,
    finer: _Finer,
    bias: float | None,
    profiled: _Profiled,
) -> dict[str, Any]:
    name, raw = bars.names[k], float(point[k])
    found: dict[str, Any] = dict.fromkeys(
        ("statistical", "misfit", "discretisation", "discretisation_shift", "start_noise", "profile", "total")
    )
    found |= {"interval": None, "correlation": _partner(bars, k)}
    found |= {"discretisation_reason": finer.why_not or None, "profile_reason": profiled.why_not}
    statistical = bars.standard_error[name]
    if statistical is None:
        return found | {"trusted": False, "verdict": "the data say nothing about it"}
    value = _value(transform, raw)

    def moved(by: float) -> float:
        return _value(transform, raw + by) - value

    found["statistical"] = noise = statistical
    raw_error, more = float(bars.covariance[k, k].sqrt()), 0.0
    if bars.by_blocks is not None:
        found["misfit"] = float(bars.by_blocks[k]) * _slope(transform, raw)
        noise, raw_error = max(noise, found["misfit"]), max(raw_error, float(bars.by_blocks[k]))
    if bias is not None:
        found["start_noise"] = abs(moved(bias))
        more = abs(bias)
    low, high = -bars.reach * raw_error, bars.reach * raw_error
    if profiled.ends is not None:
        low, high = (end - raw for end in profiled.ends)
        found["profile"] = [_value(transform, end) for end in profiled.ends]
    least = ROUNDINGS * torch.finfo(model.learnables.raw[name.partition("[")[0]].dtype).eps * max(1.0, abs(raw))
    low, high = min(low, -least), max(high, least)
    ways = [0.0]
    if finer.found is not None:
        step = float(finer.found.step[k])
        found |= {"discretisation": abs(moved(step * SAFETY)), "discretisation_shift": moved(step)}
        way, spread = finer.way
        ways = [way * step] if finer.certain else [0.0, way * step]
        # the larger the error of the grid is, the less does its first step say
        large = found["discretisation"] / (LARGE * abs(value)) if value else 1.0
        vague = bars.reach * math.hypot(spread, VAGUENESS * max(0.0, large - 1)) * step
        low, high = -math.hypot(low, vague), math.hypot(high, vague)
    found["total"] = math.hypot(noise, found["discretisation"] or 0.0, found["start_noise"] or 0.0)
    found["interval"] = [
        _value(transform, raw + min(ways) + low - more),
        _value(transform, raw + max(ways) + high + more),
    ]
    trusted, verdict = _judged(model, finer.found, value, noise, found, bars.at_bound.get(name))
    return found | {"trusted": trusted, "verdict": verdict}


def _value(transform: Transform, raw: float) -> float:
    if not math.isfinite(raw):
        return transform.upper if raw > 0 else transform.lower
    return float(transform.to_value(torch.tensor(raw, dtype=torch.float64)))


def _slope(transform: Transform, raw: float) -> float:
    at = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(transform.to_value(at), at)
    return abs(float(slope))


def _partner(bars: ErrorBars, k: int) -> dict[str, Any] | None:
    """Return the parameter with which this one is most correlated, and the correlation."""
    row = [abs(c) if j != k and math.isfinite(c) else -1.0 for j, c in enumerate(bars.correlation[k])]
    best = max(range(len(row)), key=row.__getitem__)
    return None if row[best] < 0 else {"with": bars.names[best], "value": bars.correlation[k][best]}


def _judged(
    model: PhysicalModel,
    finer: Discretisation | None,
    value: float,
    noise: float,
    found: Mapping[str, Any],
    bound: str | None,
) -> tuple[bool, str]:
    """Return whether the interval can be trusted, and the verdict in words."""
    if bound is not None:
        return False, f"at its {bound} bound, beyond which the fit would go on"
    if found["profile_reason"] is not None:
        return False, f"the curvature says too little here, and no profile is known: {found['profile_reason']}"
    if finer is not None and finer.refinement.dear:
        return False, "the error of the grid is not known, as a finer one would take longer than the identification"
    grid, starts = found["discretisation"] or 0.0, found["start_noise"] or 0.0
    if max(grid, starts) <= noise:
        return True, "trusted"
    trusted = max(grid, starts) <= LARGE * abs(value)
    if finer is None or starts > grid:
        return trusted, (
            f"dominated by the noise of start states, which may move it by {_percent(starts, value)}: "
            'set training.physical.initial_states to "learned"'
        )
    return trusted, _refine(model, finer, grid, value, noise)


def _refine(model: PhysicalModel, found: Discretisation, size: float, value: float, noise: float) -> str:
    """Return what would make the error of the grid as small as that of the noise, if it falls with its square."""
    finer = min(MOST_FINER, max(2, math.ceil(math.sqrt(size / noise)))) if noise > 0 else MOST_FINER
    by = f"which may move it by {_percent(size, value)}"
    dt = model.dt / internal_steps(model) / finer
    if not found.refinement.grid:
        return f"dominated by the internal step, {by}: set physical.dt to {dt:.3g} or less"
    grid = model.layout.grid
    cells = " and ".join(f"{finer * n} cells along {axis}" for axis, n in zip(grid.axes, grid.resolution, strict=True))
    return (
        f"dominated by the grid and the internal step, {by}: refine to {cells}, and set physical.dt to {dt:.3g} or less"
    )


def _percent(size: float, value: float) -> str:
    return f"{100 * size / abs(value):.2g} %" if value else f"{size:.2g}"
