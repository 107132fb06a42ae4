"""What the data of a run say about the learned numbers of its physics: their posterior, and what a sampler finds of it.

With F the sum of squared residuals over the real training data, the density is

    p(theta) F(theta)^(-n/2)

The factor is the likelihood of n values with independent noise of unknown size, over which it is integrated with the
prior 1 / size (Jeffreys). n is the number of values that the error bars of the run stand for: where residuals are
correlated, or windows use a frame several times, it is smaller than the number of values, so that a posterior that is
normal has the standard errors that the run reports. The prior p is flat between the bounds of a parameter: in its
logarithm where steps are relative (in that of the distance to a lower bound below 0), else in its value. Without two
bounds, or down to 0, it is improper. Smoothness priors of fields belong to F.

Where start states were learned, F is the least one over them, with derivatives by the starts at the estimate: exact
where the physics is linear in its state, and else in second order.
Source of the density: G. E. P. Box, G. C. Tiao, "Bayesian Inference in Statistical Analysis" (1973), sec. 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.form import DataForm
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import DataError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.transforms import Transform
from hyco_engine.randomness import derive_generator
from hyco_engine.report.page import REPORT, write_report
from hyco_engine.report.posterior_panels import posterior_figure
from hyco_engine.report.shown import component_names
from hyco_engine.runs.loading import LoadedRun
from hyco_engine.runs.metrics import read_summary
from hyco_engine.runs.posterior import keep_posterior
from hyco_engine.threads import own_threads
from hyco_engine.training.discretisation import Excerpt
from hyco_engine.training.error_bars import independent
from hyco_engine.training.evaluation import model_rollout
from hyco_engine.training.linearized import Linearizer, StartDerivatives
from hyco_engine.training.problem import Problem

FAR = 5.0
"""Internal steps are as short as parameters need that lie so many standard errors away; beyond, the density is 0."""
WIDEST = 1.0
"""A first guess of the posterior is no wider in any unconstrained number: a factor of e, or the size of its start."""
EDGE = 0.02
"""A first guess is no closer to a bound than this share of the range between both: beyond, moves change nothing."""
SETTLING = 8
"""Most Newton steps of start states at the parameters that were found."""
MOST_NUMBERS = 2**26
"""The most derivatives by start states that are held."""
LONG_ENOUGH = 50
"""So many autocorrelation times make quantiles reliable, as the authors of emcee advise."""
LEVELS = (0.025, 0.5, 0.975)
MOST_DRAWS = 1000
PATHS = 40
"""The number of rollouts from which bands over time are found."""
SHARES = (0.25, 0.5, 0.75)
"""The places of these bands, as shares of the values of a state."""


class Posterior:
    """The posterior of the numbers `names` that a physics learns, around `point [P]` with the standard errors `spread`.

    A call gives the logarithm of the density up to a constant: `points [W, P] -> [W]`, -inf where the physics cannot be
    computed. Points are the unconstrained numbers of training. All of them are rolled out together where the physics
    is captured.
    """

    def __init__(self, problem: Problem, names: Sequence[str], spread: Tensor, count: float | None = None) -> None:
        """Take the data of `problem` at its model's present parameters, of which the standard errors `[P]` are known.

        `count` is the number n of values; None finds the one that the standard errors stand for.
        """
        assert problem.unknowns.physics is not None
        self._problem = problem
        self._physics: PhysicalModel = problem.unknowns.physics
        self._linearizer = Linearizer(self._physics, compiles=False)
        self.names = tuple(names)
        self.point = problem.unknowns.point()
        self.spread = spread.double()
        self._settle_steps()
        self._starts = None if problem.initial is None else _settled(problem, self._linearizer)
        self.count = self._implied_count() if count is None else count

    def _settle_steps(self) -> None:
        """Take internal steps that stay the same over the whole posterior, so that the density is smooth."""
        unknowns = self._problem.unknowns
        far = torch.diag(FAR * self.spread)
        corners = [self.point, *(self.point + far), *(self.point - far)]
        worst = max((c for c in corners if math.isfinite(unknowns.step_load(c))), key=unknowns.step_load)
        if unknowns.step_load(worst) > 1:
            unknowns.settle_steps(worst)

    def _implied_count(self) -> float:
        """Return n such that n independent values would give the standard errors."""
        if self._problem.initial is None:
            found = self._linearizer.normal_equations(self._problem, self.point[None])
            value, hessian = float(found.values[0]), found.hessian[0]
        else:
            arrow = self._linearizer.arrow(self._problem)
            value, hessian = float(arrow.values), arrow.reduced
        variances = independent(hessian, value, len(hessian) + 1)[0].diagonal()
        return float((variances / self.spread.square()).log().mean().exp())

    def __call__(self, points: Tensor) -> Tensor:
        points = points.double()
        unknowns = self._problem.unknowns
        usable = torch.tensor([bool(p.isfinite().all()) and unknowns.step_load(p) <= 1 for p in points])
        if not bool(usable.any()):
            return torch.full((len(points),), -torch.inf, dtype=torch.float64)
        # a graph is captured for one number of points, so a usable one stands in for the others
        asked = torch.where(usable[:, None], points, points[usable][0])
        density = self.log_prior(asked) - 0.5 * self.count * self._squares(asked).log()
        return torch.where(usable & density.isfinite(), density, -torch.inf)

    def _squares(self, points: Tensor) -> Tensor:
        """Return F at `points [W, P]`, as float64 `[W]`."""
        if self._starts is None:
            return self._linearizer.values(self._problem, points)
        found = torch.zeros(len(points), dtype=torch.float64)
        for (_, residual), basis in zip(self._linearizer.residuals(self._problem, points), self._starts, strict=True):
            r = residual.double().cpu()
            found += r.square().sum((1, 2)) - torch.einsum("bnd,sbn->sbd", basis, r).square().sum((1, 2))
        for k, point in enumerate(points if self._problem.prior else ()):
            found[k] += float(self._problem.prior.value(self._problem.unknowns.at(point)))
        return found

    def log_prior(self, points: Tensor) -> Tensor:
        """Return the logarithm of the prior density of `points [W, P]`, up to a constant: `[W]`."""
        total = torch.zeros(len(points), dtype=torch.float64)
        for name, own in self._parts(points):
            transform = self._physics.learnables.transform(name)
            raw = own.detach().requires_grad_()
            value = transform.to_value(raw)
            (slope,) = torch.autograd.grad(value.sum(), raw)
            density = slope.log() - _scale(transform, value).log()
            total += density.detach().sum(1)
        return total

    def values(self, points: Tensor) -> Tensor:
        """Return the values `[W, P]` of points, within their bounds."""
        parts = [self._physics.learnables.transform(name).to_value(own) for name, own in self._parts(points.double())]
        return torch.cat(parts, dim=1)

    def starts(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` different points `[count, P]` near the estimate, at which the density is not 0."""
        moves = torch.randn(count, len(self.point), generator=generator, dtype=torch.float64)
        moves *= 0.5 * self.spread.clamp(max=WIDEST)
        centre = torch.cat([self._within(name, own) for name, own in self._parts(self.point[None])], dim=1)[0]
        for _ in range(30):
            lost = self(centre + moves) == -torch.inf
            if not bool(lost.any()):
                return centre + moves
            moves[lost] /= 2
        raise DataError("the physics cannot be computed beside the parameters that were found")

    def _within(self, name: str, raw: Tensor) -> Tensor:
        """Return unconstrained numbers that are not closer to a bound than a share of the prior's range."""
        transform = self._physics.learnables.transform(name)
        if not math.isfinite(transform.upper - transform.lower):
            return raw
        edges = torch.tensor([transform.lower, transform.upper], dtype=torch.float64)
        logarithmic = transform.log and transform.lower > 0
        shares = torch.tensor([EDGE, 1 - EDGE], dtype=torch.float64)
        ends = (
            (edges[0].log() + shares * (edges[1] / edges[0]).log()).exp()
            if logarithmic
            else edges[0].lerp(edges[1], shares)
        )
        low, high = transform.to_raw(ends)
        return raw.clamp(low, high)

    def rollouts(self, points: Tensor, steps: int) -> Tensor:
        """Return rollouts `[W, steps, C_dyn, *S]` of the physics at each point from the first start state."""
        unknowns, found = self._problem.unknowns, []
        excerpt = Excerpt.of(self._problem, torch.tensor([0]))
        assert excerpt is not None
        try:
            for point in points:
                unknowns.move_to(point)
                found.append(model_rollout(self._physics)(excerpt.states, steps)[0].cpu())
        finally:
            unknowns.move_to(self.point)
        return torch.stack(found)

    def _parts(self, points: Tensor) -> list[tuple[str, Tensor]]:
        learnables = self._physics.learnables
        sizes = [learnables.raw[name].numel() for name in learnables.learned]
        return list(zip(learnables.learned, torch.split(points, sizes, dim=1), strict=True))


def _scale(transform: Transform, value: Tensor) -> Tensor:
    """Return what the prior density of a value is in inverse proportion to: 1 where it is flat."""
    if not transform.log:
        return torch.ones_like(value)
    return value if transform.lower >= 0 else value - transform.lower


def _settled(problem: Problem, linearizer: Linearizer) -> list[Tensor]:
    """Move the learned start states to their minimum, and return orthonormal bases `[B, N, D]` of what they change."""
    assert problem.initial is not None
    scaled = problem.initial.scaled
    if problem.initial.count * sum(_residuals(problem, linearizer)) > MOST_NUMBERS:
        raise DataError("the start states that were learned have too many values for a posterior of the parameters")
    for _ in range(SETTLING):
        arrow = linearizer.arrow(problem)
        step, gain = arrow.start_step()
        scaled.data += step.to(scaled).view_as(scaled)
        if gain < 1e-8 * float(arrow.values):
            break
    point, bases = problem.unknowns.point()[None], []
    for chunk in problem.chunks():
        derivatives = StartDerivatives(problem, chunk, None, point)
        count = derivatives.count
        unit = torch.eye(problem.initial.count, dtype=torch.float64)[:, None].expand(-1, count, -1)
        with torch.no_grad():
            columns = derivatives.push(unit)
        bases.append(torch.linalg.qr(columns.movedim(0, -1).double().cpu()).Q)
    return bases


def _residuals(problem: Problem, linearizer: Linearizer) -> list[int]:
    """Return the numbers of residuals of the chunks."""
    return [part[0].numel() for _, part in linearizer.residuals(problem, problem.unknowns.point()[None])]


@attrs.frozen(kw_only=True, eq=False)
class Chain:
    """What a sampler returns: the points `[steps, walkers, P]` that no longer depend on where they began."""

    points: Tensor
    accepted: float
    """The share of the steps that were accepted."""
    autocorrelation_time: float
    """The longest one of a number, in steps."""


Sampler = Callable[[Posterior, torch.Generator], Chain]


def sample_posterior(
    run_dir: Path | str,
    sampler: Sampler,
    *,
    seed: int | None = None,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Let `sampler` sample the posterior of a run's parameters, and keep what it finds in the run folder and report.

    The random numbers follow from `seed`, by default that of the run. Returns the content of `posterior.json`:
    `parameters` (for each name `mean`, `standard_deviation`, `median`, the 95 % `interval`, `draws`), `correlation`,
    `bands` (values of the first simulation over time), how well it was sampled, and a `warning` or None. Raises
    DataError where the run has no posterior.
    """
    run = LoadedRun(run_dir, registry, overrides=overrides)
    with own_threads(run.spec.run.threads):
        posterior, problem = _posterior_of(run)
        chain = sampler(posterior, derive_generator(run.spec.run.seed if seed is None else seed, "posterior"))
        found = {"run": str(run_dir), **_summary(posterior, chain)}
        found["bands"] = _bands(posterior, problem, run.weights("physical").form, chain)
    keep_posterior(run.folder, found)
    posterior_figure(found, run.folder / "figures" / "posterior.png")
    if (run.folder / REPORT).is_file():
        write_report(run.folder)
    return found


def _posterior_of(run: LoadedRun) -> tuple[Posterior, Problem]:
    model, weights = run.model_and_weights("physical", "final")
    physics = cast("PhysicalModel", model)
    bars = (read_summary(run.folder).get("identification") or {}).get("error_bars")
    if not bars:
        raise DataError(
            f"the run {run.folder} has no error bars, so it is not known what its data say: a run has them that learns "
            "at most 50 numbers by squared errors and is completed"
        )
    if unknown := [name for name, error in bars["standard_error"].items() if error is None]:
        raise DataError(
            f"the data of {run.folder} say nothing about {', '.join(unknown)}: set learn = false and run again"
        )
    task = run.assembler.task(writes=False)
    task.read()
    task.check_fit(weights.form, "physical")
    trainer = run.assembler.trainer("physical", physics, task)
    data = task.samples(trainer.settings)
    if trainer.settings.initial_states == "learned":
        assert trainer.layout is not None  # start states are those of fields
        trainer.state.learn_starts(AugmentedDataset(data), trainer.layout, trainer.device)
    problem = trainer.whole_loss(data, passes="tangents")
    errors = torch.tensor([bars["standard_error"][name] for name in bars["names"]], dtype=torch.float64)
    return Posterior(problem, bars["names"], errors / physics.learnables.slopes().abs()), problem


def _summary(posterior: Posterior, chain: Chain) -> dict[str, Any]:
    steps, walkers, _ = chain.points.shape
    values = posterior.values(chain.points.flatten(0, 1))
    quantiles = torch.quantile(values, torch.tensor(LEVELS, dtype=torch.float64), dim=0)
    drawn = values[_spread_out(len(values), MOST_DRAWS)]
    parameters = {
        name: {
            "mean": float(own.mean()),
            "standard_deviation": float(own.std()),
            "median": float(quantiles[1, k]),
            "interval": [float(quantiles[0, k]), float(quantiles[2, k])],
            "draws": drawn[:, k].tolist(),
        }
        for k, (name, own) in enumerate(zip(posterior.names, values.T, strict=True))
    }
    known = math.isfinite(chain.autocorrelation_time)
    short = not known or steps < LONG_ENOUGH * chain.autocorrelation_time
    return {
        "parameters": parameters,
        "correlation": torch.corrcoef(values.T).reshape(len(parameters), -1).tolist(),
        "values": posterior.count,
        "walkers": walkers,
        "steps": steps,
        "accepted": chain.accepted,
        "autocorrelation_time": chain.autocorrelation_time if known else None,
        "effective_samples": int(len(values) / chain.autocorrelation_time) if known else 0,
        "warning": f"the chain is shorter than {LONG_ENOUGH} autocorrelation times: take more steps" if short else None,
    }


def _bands(posterior: Posterior, problem: Problem, form: DataForm, chain: Chain) -> list[dict[str, Any]]:
    """Return a few values of the first simulation over time, as they are observed and as the physics predicts them."""
    data, layout = problem.data.real, form.layout
    if not isinstance(data, WindowDataset) or layout is None or form.dt is None:
        return []
    simulation, frame = data.window(0)
    seen = data.trajectories[simulation].dynamic[frame + 1 :]
    points = chain.points.flatten(0, 1)
    paths = posterior.rollouts(points[_spread_out(len(points), PATHS)], len(seen))
    names, found = component_names(layout), []
    # what a reading errs by, from what is left of the first simulation
    left = (seen - paths.median(0).values).movedim(1, 0).flatten(1).double()
    noise = left.square().nanmean(1).sqrt().tolist()
    times = [form.dt * (k + 1) for k in range(len(seen))]
    for k, share in enumerate(SHARES[: len(names) if not layout.n_axes else None]):
        component = k % len(names)
        place = [int(share * n) for n in seen.shape[2:]]
        at = ", ".join(
            f"{axis} = {layout.grid.centers(axis)[min(i, n - 1)]:.4g}"
            for axis, i, n in zip(layout.grid.axes, place, layout.grid.resolution, strict=True)
        )
        # [draws, frames], and the frames of what was observed
        own, observed = paths[:, :, component].double(), seen[:, component].double()
        for i in place:
            own, observed = own[:, :, i], observed[:, i]
        low, middle, high = torch.quantile(own, torch.tensor(LEVELS, dtype=torch.float64), dim=0).tolist()
        found.append(
            {
                "value": f"{names[component]}{f' at {at}' if at else ''}",
                "time": times,
                "observed": [None if math.isnan(value) else value for value in observed.tolist()],
                "low": low,
                "median": middle,
                "high": high,
                "noise": noise[component],
            }
        )
    return found


def _spread_out(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()
