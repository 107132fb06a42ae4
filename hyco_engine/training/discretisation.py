"""The part of a parameter's error that comes from the grid and the internal step, by one step of defect correction.

With the predictions f of the physics and those F of the same physics on a finer grid with shorter internal steps, the
fit of F to the data has the residual r + d with the defect d = F - f. At the estimate J^T r = 0, so the Gauss-Newton
step of the finer fit is -H^-1 J^T d. It needs rollouts of the finer physics, but no derivatives of them: J is that of
the fit. This is the first step of Stetter's defect correction. The whole way to the exact solution is 1 / (1 - 3^-p) of
these steps if the error falls with the power p of the cell and the internal step: 1.5 for p = 1, 1.125 for p = 2, 1.01
for p = 4. Before any data, it counts as 1.25 +- 0.25 steps, and the error as twice the step, as in Roache's grid
convergence index. The data know more: with predictions f + w d, what a fit leaves is a parabola in the way w, whose
lowest point and curvature are a measurement of it.

Data may have been made on this very grid, as simulated ones are: then there is no such error, and the finer physics
fits worse. The evidence is the logarithm of the ratio of both likelihoods, each at its own fit, start states included.
Sources: H. J. Stetter, Numer. Math. 29 (1978), for defect correction; P. J. Roache, J. Fluids Eng. 116 (1994).
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.interfaces import Batch, Samples
from hyco_engine.physics.within import internal_steps
from hyco_engine.rollout import rollout
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.problem import Problem, to_device
from hyco_engine.training.refinement import Build, NotRefinable, Refinement

SAFETY = 2.0
"""The error over the step."""
WAY = 1.25
"""The whole way to the exact solution, in steps, for all that is known without data."""
VAGUENESS = 0.25
"""The standard deviation of that number."""
FIXED = 3e4
"""The fixed cost of a step, in values that a step computes in the same time."""
PASSES = 4.0
"""What an epoch costs, in rollouts: the values with their derivatives, and the steps that are tried."""
MOST_BYTES = 2**28
"""Rollouts are taken up to this size."""


class Held(Samples):
    """Rollouts that are held in memory: states `[n, C_all, *S]` and targets `[n, T, C_dyn, *S]`."""

    def __init__(self, states: Tensor, targets: Tensor) -> None:
        self.states, self.targets = states, targets

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.states[indices], self.targets[indices]


@attrs.frozen(kw_only=True, eq=False)
class Excerpt:
    """Windows of a whole loss: the states from which they roll out, what was observed, and what the physics predicts.

    With learned start states, `states` has these, and `observed` does not have the observed ones.
    """

    indices: Tensor
    states: Tensor
    observed: Tensor
    predicted: Tensor

    @property
    def residual(self) -> Tensor:
        """Prediction minus observation `[n, T, C_dyn, *S]`; NaN where nothing was observed."""
        return self.predicted - self.observed

    def some(self, chosen: Tensor) -> Excerpt:
        """Return the windows at the places `chosen`."""
        return Excerpt(
            indices=self.indices[chosen],
            states=self.states[chosen],
            observed=self.observed[chosen],
            predicted=self.predicted[chosen],
        )

    @classmethod
    def of(cls, whole: Problem, indices: Tensor) -> Excerpt | None:
        """Return the windows at `indices` of the real samples; None if the samples are no rollouts on a grid."""
        batch: Batch = to_device(whole.data.real.batch(indices), whole.device)
        states, observed = batch
        if not isinstance(states, Tensor) or not isinstance(observed, Tensor):
            return None
        if whole.initial is not None:
            started = whole.initial(batch, indices)[0]
            assert isinstance(started, Tensor)
            states = started.detach()
        with torch.no_grad():
            predicted = rollout(whole.model, states, observed.shape[1])
        return cls(indices=indices, states=states, observed=observed, predicted=predicted)


@attrs.frozen(kw_only=True, eq=False)
class Discretisation:
    """The step of the unconstrained parameters to the finer fit, and the defect of an excerpt's predictions.

    `left` is the loss that fits to f + w d leave, in the excerpt's sum of squares: a + b w + c w^2 as (a, b, c).
    """

    step: Tensor
    defect: Tensor
    left: tuple[float, float, float]
    refinement: Refinement

    @property
    def gain(self) -> float:
        """How much less of the loss the finer fit leaves."""
        return -self.left[1] - self.left[2]

    def way(self, variance: float) -> tuple[float, float]:
        """Return (the whole way in steps, its standard deviation), for the variance of a value of the excerpt's loss.

        Where data and expectation are further apart than both allow, neither is believed that much.
        """
        _, slope, curvature = self.left
        known = curvature / max(variance, torch.finfo(torch.float64).tiny)
        if not known > 0:
            return WAY, VAGUENESS
        seen, expected = -slope / (2 * curvature), 1 / VAGUENESS**2
        precision = expected + known
        apart = abs(seen - WAY) / math.sqrt(1 / expected + 1 / known)
        return (WAY * expected + seen * known) / precision, max(1.0, apart) / math.sqrt(precision)


def spread_out(count: int, wanted: int) -> Tensor:
    """Return the indices of `wanted` of `count` samples, evenly spread."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long()


def allowed(whole: Problem, work: float, refinement: Refinement | None = None) -> int:
    """Return how many windows a physics may roll out, 0 for none, if it may cost `work`.

    Costs are in internal steps of one window, of which each has a fixed cost too. Without `refinement` the physics is
    that of the problem.
    """
    batch = whole.data.real.batch(torch.tensor([0]))
    states = batch[0]
    size = sum(t.numel() * t.element_size() for t in batch if isinstance(t, Tensor))
    if not isinstance(states, Tensor):
        return 0
    steps = internal_steps(whole.model if refinement is None else refinement.model)
    cells = 1 if refinement is None else refinement.cells
    count = (work / steps - FIXED) / (cells * states.numel())
    return max(0, min(len(whole.data.real), int(count), MOST_BYTES // (cells * size)))


def work_of(whole: Problem, epochs: int) -> float:
    """Return what `epochs` of identification cost, in the unit of `allowed`."""
    states = whole.data.real.batch(torch.tensor([0]))[0]
    values = states.numel() * len(whole.data) if isinstance(states, Tensor) else 0
    return PASSES * max(1, epochs) * internal_steps(whole.model) * (FIXED + values)


def discretisation(whole: Problem, linearizer: Linearizer, excerpt: Excerpt, refinement: Refinement) -> Discretisation:
    """Return the step to the fit of the finer physics. Raises NotRefinable where that gives no finite numbers."""
    with torch.no_grad():
        finer = refinement.predictions(excerpt.states, excerpt.observed.shape[1])
    defect = finer - excerpt.predicted
    if not bool(defect.isfinite().all()):
        raise NotRefinable("the finer physics does not stay finite from the interpolated start states")
    # targets of which the residual is that of the finer physics, and that of one as far away on the other side
    with linearizer.keeping():
        back, before, after = (
            _fit(whole, linearizer, excerpt, excerpt.states, excerpt.observed - way * defect) for way in (-1, 0, 1)
        )
    step = after.step - before.step
    if not bool(step.isfinite().all()):
        raise NotRefinable("the derivatives of the predictions are not finite")
    left = (before.left, (after.left - back.left) / 2, (after.left + back.left) / 2 - before.left)
    return Discretisation(step=step, defect=defect, left=left, refinement=refinement)


@attrs.frozen(kw_only=True, eq=False)
class _Fit:
    """The parameters' part of a Gauss-Newton step from the present point, and the sum of squares that it would leave.

    Without usable derivatives, the step is NaN.
    """

    step: Tensor
    left: float


def newton_step(whole: Problem, linearizer: Linearizer, excerpt: Excerpt, states: Tensor, targets: Tensor) -> Tensor:
    """Return the step of `_Fit` for other states and targets."""
    return _fit(whole, linearizer, excerpt, states, targets).step


def _fit(whole: Problem, linearizer: Linearizer, excerpt: Excerpt, states: Tensor, targets: Tensor) -> _Fit:
    """Fit other states and targets; learned start states are learned from there on, against the observed ones."""
    initial = None
    if whole.initial is not None:
        initial = whole.initial.some(excerpt.indices)
        learned = initial.states(initial.scaled.detach())
        dynamic = learned.shape[1]
        states = torch.cat([states[:, :dynamic] - learned, states[:, dynamic:]], dim=1)
    held = AugmentedDataset(Held(states.cpu(), targets.cpu()))
    problem = attrs.evolve(whole, data=held, initial=initial, terms=())
    point = whole.unknowns.point()
    model = linearizer.normal_equations(problem, point[None]) if initial is None else linearizer.arrow(problem)
    if not bool(model.usable.all()):
        return _Fit(step=torch.full_like(point, torch.nan), left=torch.nan)
    step = model.step(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64), None)
    return _Fit(step=step[0, : len(point)], left=float(model.values) - float(model.decrease()))


def refined(whole: Problem, build: Build, work: float) -> tuple[Refinement, int]:
    """Return the finer physics that is affordable, and the number of windows to take. Raises NotRefinable."""
    model = whole.unknowns.physics
    assert model is not None
    found = Refinement.of(model, build)
    count = allowed(whole, work, found)
    if found.grid and not count:
        found = Refinement.of(model, build, grid=False)
        count = allowed(whole, work, found)
    return found, max(1, count)
