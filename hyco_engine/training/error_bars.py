"""Error bars of the learned parameters: standard errors, correlations, directions that the data do not determine.

With residuals r, Jacobian J and H = J^T J at the estimate, two covariances of the parameters:

    by values     v s^2 H^-1,  s^2 = |r|^2 / (n - v p)
    by blocks     H^-1 (sum_b G_b G_b^T) H^-1 K / (K - 1),  G_b = sum of J_i^T r_i over the windows i of block b

In the first, v values err as one. v = 1 for independent noise and rollouts from a known initial state. Overlapping
windows use each frame m times, and a fit to clean data leaves discretisation error, which is smooth: v is m times the
volume over which the residuals are correlated. Windows also start from observed, hence noisy, states, and noise may
differ from place to place, so windows need the second too: K blocks are simulations, or stretches of a simulation
longer than a window. Each parameter gets the larger standard error of the two. Neither knows of a bias: noise in the
start states of windows shifts parameters that damp it.

Where the start states are learned too, there is no such bias. H is then the Schur complement that is left of them for
the parameters (see `arrow`), each learned value counts as a parameter, and the first covariance is enough.
Sources: H. White, Econometrica 48 (1980); K.-Y. Liang, S. Zeger, Biometrika 73 (1986), for blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from scipy.special import stdtrit
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.recut import Every
from hyco_engine.data.windows import WindowDataset
from hyco_engine.interfaces import PhysicalModel, Samples, Values
from hyco_engine.physics.within import internal_steps
from hyco_engine.training.error_correlation import Correlation, correlation, volume_of_windows
from hyco_engine.training.least_squares import decrease, unit_scale
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.problem import Problem

if TYPE_CHECKING:
    from hyco_engine.training.trainer import Trainer

MOST_TANGENTS = 2**30
"""Most values times steps times parameters to push forward, a minute or two of work; more windows are left out."""
MOST_PARAMETERS = 50
"""Most parameters with error bars: data rarely determine the values of a field one by one."""
NEAR = 0.01
"""A parameter is near a bound if its distance is at most this share of the interval, or of the size of its start."""
MOST_VALUES = 1000
"""Most values of parameters with error bars, if many are those of single groups."""
WANTED_BLOCKS = 10
CONFIDENCE = 0.95

Side = Literal["lower", "upper"]


@attrs.frozen(kw_only=True, eq=False)
class ErrorBars:
    """The standard error of each learned number, named `nu`, or `name[k]` within a field.

    It is None if the data do not determine the number at all.
    """

    names: tuple[str, ...]
    standard_error: Mapping[str, float | None]
    interval: Mapping[str, tuple[float, float] | None]
    """The 95 % intervals from Student's t, mapped through the transform, so that they stay within the bounds."""
    correlation: tuple[tuple[float, ...], ...]
    covariance: Tensor
    """The correlations of the unconstrained parameters, `[P, P]`."""
    condition: float
    """The largest over the smallest singular value of J with columns of length 1."""
    assumption: str
    warnings: tuple[str, ...] = ()
    at_bound: Mapping[str, Side] = attrs.field(factory=dict)
    """The parameters that lie at a bound beyond which the data pull them."""
    reach: float
    """How many standard errors an interval reaches to both sides."""
    variance: float
    """The variance of one value of the loss's residuals, times the number of values that err as one."""
    widening: Tensor
    """The larger one of both variances of each unconstrained parameter over that by values, `[P]`."""
    left: float
    """What a Gauss-Newton step of parameters and start states would gain, in variances of one value; 0 at a minimum.

    The root of it is how many standard errors long the step is. Where a prior takes part in the fit it is 0.
    """
    by_blocks: Tensor | None = None
    """The standard errors `[P]` of the unconstrained parameters if blocks err independently; None for few blocks."""

    def to_data(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("names", "standard_error", "interval", "correlation", "condition", "assumption", "warnings")
        found = {name: _plain(getattr(self, name)) for name in names}
        # the table of all pairs of values of many groups would be longer than all else
        return found if len(self.names) <= MOST_PARAMETERS else {**found, "correlation": None}


@attrs.frozen(kw_only=True, eq=False)
class Blocks:
    """Groups of samples that belong together, and the number of times that each value is used."""

    of_sample: Tensor
    """The block of each sample, int64 `[n]`."""
    multiplicity: float = 1.0
    said: str = "samples"
    places: tuple[tuple[int, int], ...] = ()
    """The start (simulation, frame) of each sample; empty if samples are no windows."""


def error_bars(model: PhysicalModel, whole: Problem, linearizer: Linearizer) -> ErrorBars:
    """Return error bars at the model's present parameters, from the data of `whole`."""
    if whole.initial is not None:
        return _with_learned_starts(model, whole, linearizer)
    point = whole.unknowns.point()[None]
    blocks = find_blocks(whole.data, point.shape[1])
    found = _collect(whole, linearizer, point)
    seen = Correlation(volume=1.0, times=math.inf)
    if blocks.places and found.last_step is not None:
        seen = correlation(found.last_step, blocks.places)
    volume = blocks.multiplicity * seen.volume
    hessian = found.hessian
    covariance, dof = independent(hessian, found.squares, found.count, volume)
    # an interval must allow for an error size that was estimated from few independent frames
    dof = min(dof, max(2.0, seen.times))
    k = int(blocks.of_sample.max()) + 1
    assumption = "values err independently of each other"
    if blocks.places:
        assumption = f"every {volume:.3g} values err as one ({blocks.multiplicity:.3g} windows use each frame)"
    variance, own = found.squares / max(1.0, found.count / volume - len(hessian)), None
    if k >= fewest_blocks(len(hessian)):
        robust = by_blocks(hessian, found.scores, blocks.of_sample)
        own = robust.diagonal().sqrt()
        if blocks.places:
            covariance = _at_least(robust, covariance)
            assumption += f"; or, where that gives more, {k} {blocks.said} err independently"
            dof = min(dof, float(k - 1))
    gradient = found.scores.sum(0)
    return _bars(
        model,
        whole,
        point[0],
        hessian,
        gradient,
        covariance,
        dof,
        assumption,
        variance=variance,
        own=own,
        gain=float(decrease(hessian[None], gradient[None])),
    )


def _with_learned_starts(model: PhysicalModel, whole: Problem, linearizer: Linearizer) -> ErrorBars:
    """Return error bars where the start states are unknown too: v s^2 S^-1 with the Schur complement S of the starts.

    Each learned value takes a degree of freedom. Windows as long as simulations have residuals in every frame, so v is
    their correlation over time and space.
    """
    assert whole.initial is not None
    point, starts = whole.unknowns.point(), whole.initial.scaled.numel()
    arrow = linearizer.arrow(whole)
    # windows that overlap use each frame several times
    volume = find_blocks(whole.data, len(point)).multiplicity * _volume_in_windows(whole)
    dof = max(1.0, (arrow.count - starts) / volume - len(point))
    hessian = arrow.reduced
    variance, own = float(arrow.values) / dof, None
    covariance = variance * _inverse(hessian)
    if arrow.samples >= fewest_blocks(len(point)):
        own = by_blocks(hessian, arrow.scores(), torch.arange(arrow.samples)).diagonal().sqrt()
    assumption = f"the {starts} values of the start states are unknown too, and every {volume:.3g} values err as one"
    # where the starts are at their minimum, the parameters' own gradient is that of both
    return _bars(
        model,
        whole,
        point,
        hessian,
        arrow.gradient,
        covariance,
        dof,
        assumption,
        variance=variance,
        own=own,
        gain=float(arrow.decrease()),
    )


def _volume_in_windows(whole: Problem) -> float:
    """Return how many neighbouring values err as one, from the residuals of all frames of the windows on a grid."""
    residuals: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for chunk in whole.chunks():
            targets = chunk.batch[1]
            if not isinstance(targets, Tensor):
                return 1.0
            frames, space = targets.shape[1], targets.shape[3:]
            for name, values in whole.objective.residuals(whole.model, chunk.batch).items():
                residuals.setdefault(name, []).append(values.reshape(len(values), frames, -1, *space).cpu())
    return max(volume_of_windows(torch.cat(parts)) for parts in residuals.values())


def measure(trainer: Trainer, data: Samples) -> ErrorBars | None:
    """Return error bars of what `trainer` has learned, from real data; None if they cannot be computed."""
    model = trainer.unknowns.physics
    if model is None or not trainer.trainable or not trainer.objective.squared:
        return None
    every = sum(parameter.numel() for parameter in trainer.unknowns.parameters)
    if trainer.unknowns.numbers_of_a_sample > MOST_PARAMETERS or every > MOST_VALUES:
        return None
    learned = trainer.state.initial is not None
    used, left_out = (data, "") if learned else _affordable(trainer, data)
    found = error_bars(model, trainer.whole_loss(used, passes="tangents"), trainer.measuring)
    return attrs.evolve(found, assumption=found.assumption + left_out)


def _affordable(trainer: Trainer, data: Samples) -> tuple[Samples, str]:
    """Return (the samples to use, a text about those left out), from sizes alone."""
    batch = data.batch(torch.zeros(1, dtype=torch.int64))
    steps, states = trainer.objective.steps(batch), batch[0]
    if steps is None or not isinstance(states, Tensor):
        return data, ""
    kept = trainer.unknowns.numbers_of_a_sample * steps * states.numel()
    step = -(-len(data) * kept * internal_steps(trainer.model) // MOST_TANGENTS)
    if step <= 1:
        return data, ""
    used = Every(data, step)
    return used, f"; from {len(used)} of {len(data)} samples, evenly spread, to bound the time this takes"


def find_blocks(data: AugmentedDataset, count: int) -> Blocks:
    """Return the blocks of the windows of `data` for `count` parameters."""
    real: Samples = data.real
    step = 1
    if isinstance(real, Every):
        step, real = real.step, real.data
    if data.n_generated or not isinstance(real, WindowDataset):
        return Blocks(of_sample=torch.arange(len(data)))
    places = tuple(real.window(i) for i in range(0, len(real), step))
    simulations = sorted({simulation for simulation, _ in places})
    wanted = max(WANTED_BLOCKS, 3 * count)
    last = {s: max(frame for simulation, frame in places if simulation == s) for s in simulations}
    frames_used = sum(last[s] + real.horizon - min(f for t, f in places if t == s) for s in simulations)
    multiplicity = max(1.0, len(places) * real.horizon / max(1, frames_used))
    each = -(-wanted // len(simulations))
    if each == 1:
        index = {simulation: k for k, simulation in enumerate(simulations)}
        rows = [index[simulation] for simulation, _ in places]
        return Blocks(of_sample=torch.tensor(rows), multiplicity=multiplicity, places=places, said="simulations")
    rows, offset = [0] * len(places), 0
    for simulation in simulations:
        own = [(frame, i) for i, (s, frame) in enumerate(places) if s == simulation]
        first, span = min(own)[0], max(own)[0] - min(own)[0] + 1
        parts = max(1, min(each, span // (2 * (real.horizon + 1))))
        for frame, i in own:
            rows[i] = offset + (frame - first) * parts // span
        offset += parts
    return Blocks(of_sample=torch.tensor(rows), multiplicity=multiplicity, places=places, said="stretches of time")


@attrs.frozen(kw_only=True, eq=False)
class _Found:
    """J_i^T r_i `[n, P]`, H, |r|^2, the number of observed values, and the residuals of the windows' last steps."""

    scores: Tensor
    hessian: Tensor
    squares: float
    count: int
    last_step: Tensor | None


def _collect(whole: Problem, linearizer: Linearizer, point: Tensor) -> _Found:
    scores, last = [], []
    hessian, squares, count = torch.zeros(point.shape[1], point.shape[1], dtype=torch.float64), 0.0, 0
    for chunk, residual, jacobian in linearizer.linearized(whole, point):
        r, j = residual[0].double().cpu(), jacobian[0].double().cpu()
        scores.append(torch.einsum("bnp,bn->bp", j, r))
        hessian += torch.einsum("bnp,bnq->pq", j, j)
        squares += float(r.square().sum())
        # the residual and derivatives of a value that was not observed are 0
        count += int(((r != 0) | (j != 0).any(-1)).sum())
        last.append(_last_step(residual[0].cpu(), chunk.batch[1]))
    steps = [part for part in last if part is not None]
    return _Found(
        scores=torch.cat(scores),
        hessian=hessian,
        squares=squares,
        count=count,
        last_step=torch.cat(steps) if len(steps) == len(last) else None,
    )


def _last_step(residual: Tensor, targets: Values) -> Tensor | None:
    """Return `[B, C, *S]` from residuals `[B, T C S]` of the last field; several fields lie one after the other."""
    if not isinstance(targets, Tensor) or residual.shape[1] % targets[0].numel():
        return None
    channel = targets[0, 0, :1]
    return residual[:, -channel.numel() :].reshape(len(residual), *channel.shape)


def independent(hessian: Tensor, squares: float, count: int, volume: float = 1.0) -> tuple[Tensor, float]:
    """Return (v s^2 H^-1, degrees of freedom) for `count` values with the sum `squares`; v = `volume` err as one."""
    dof = max(1.0, count / volume - len(hessian))
    return squares / dof * _inverse(hessian), dof


def _inverse(hessian: Tensor) -> Tensor:
    """Return H^-1, in which directions beyond all precision have a huge but finite variance."""
    scale = unit_scale(hessian)
    values, vectors = torch.linalg.eigh(hessian / (scale[:, None] * scale))
    inverse: Tensor = (vectors / values.clamp(min=1e-15)) @ vectors.T / (scale[:, None] * scale)
    return inverse


def fewest_blocks(parameters: int) -> int:
    """Return how many blocks are enough to estimate a covariance of so many parameters from their scatter."""
    return max(5, 2 * parameters + 2)


def by_blocks(hessian: Tensor, scores: Tensor, of_sample: Tensor) -> Tensor:
    """Return H^-1 (sum_b G_b G_b^T) H^-1 K / (K - 1) with the sums G_b of `scores [n, P]` in each of K blocks."""
    k = int(of_sample.max()) + 1
    pulls = torch.zeros(k, scores.shape[1], dtype=torch.float64).index_add_(0, of_sample, scores)
    inverse = _inverse(hessian)
    return inverse @ (pulls.T @ pulls) @ inverse * (k / (k - 1))


def _at_least(covariance: Tensor, other: Tensor) -> Tensor:
    """Return `covariance` with each standard error raised to that of `other`; correlations stay."""
    ratio = (other.diagonal() / covariance.diagonal().clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=1).sqrt()
    return covariance * ratio[:, None] * ratio


def _bars(
    model: PhysicalModel,
    whole: Problem,
    point: Tensor,
    hessian: Tensor,
    gradient: Tensor,
    covariance: Tensor,
    dof: float,
    assumption: str,
    *,
    variance: float,
    own: Tensor | None,
    gain: float,
) -> ErrorBars:
    reach = quantile(dof)
    names, values, slopes, edges = _physical(model, point, covariance.diagonal().sqrt() * reach)
    known = hessian.diagonal() > 0
    raw_errors = covariance.diagonal().sqrt()
    errors = {n: float(raw_errors[k] * slopes[k].abs()) if known[k] else None for k, n in enumerate(names)}
    interval = {n: edges[k] if known[k] else None for k, n in enumerate(names)}
    widest = raw_errors.square() if own is None else torch.maximum(raw_errors, own).square()
    size = raw_errors.clamp(min=torch.finfo(torch.float64).tiny)
    correlation = (covariance / (size[:, None] * size) * (slopes.sign()[:, None] * slopes.sign())).clamp(-1, 1)
    scale = unit_scale(hessian)
    eigenvalues, vectors = torch.linalg.eigh(hessian / (scale[:, None] * scale))
    smallest, largest = float(eigenvalues[0].clamp(min=0)), float(eigenvalues[-1])
    condition = math.sqrt(largest / smallest) if smallest > 0 else math.inf
    pressed = _pressed(model, names, values, values - slopes * (_inverse(hessian) @ gradient.double().cpu()))
    mute = [name for k, name in enumerate(names) if not known[k]]
    notes = [f"the data say nothing about {name}: no prediction depends on it" for name in mute]
    notes += [
        f"{name} lies at its {side} bound, and the fit would go on beyond it: set wider bounds "
        f"(physical.parameters.{name.partition('[')[0]}.bounds), or ask whether the physics explains the data"
        for name, side in pressed.items()
    ]
    relative = vectors[:, 0] / scale * slopes / values.abs().clamp(min=1e-300)
    if bool(known.all()) and condition > torch.finfo(whole.unknowns.dtype).eps ** -0.5:
        notes.append(
            f"the parameters cannot be told apart: {_direction(names, relative)} together changes the predictions by "
            f"no more than rounding (condition number {condition:.2g}). Fix one of them (learn = false), or add data"
        )
    elif bool(known.all()):
        unsure = [
            f"{n} (± {errors[n]:.2g})" for k, n in enumerate(names) if float(raw_errors[k]) > 1 and n not in pressed
        ]
        if unsure:
            notes.append(
                f"hardly determined by the data: {', '.join(unsure)}; the least certain direction is "
                f"{_direction(names, relative)} together"
            )
    return ErrorBars(
        names=names,
        standard_error=errors,
        interval=interval,
        correlation=tuple(tuple(row) for row in correlation.tolist()),
        covariance=covariance,
        condition=condition,
        assumption=assumption,
        warnings=tuple(notes),
        at_bound=pressed,
        reach=reach,
        variance=variance,
        widening=(widest / (variance * _inverse(hessian).diagonal())).clamp(min=1),
        left=0.0 if whole.prior or not variance else gain / variance,
        by_blocks=own,
    )


def _pressed(model: PhysicalModel, names: Sequence[str], values: Tensor, ahead: Tensor) -> dict[str, Side]:
    """Return the parameters near a bound that a Gauss–Newton step without bounds, to `ahead`, would cross.

    The transform hides this: near a bound its slope vanishes, and with it the gradient that the search follows.
    """
    found: dict[str, Side] = {}
    for name, value, wanted in zip(names, values.tolist(), ahead.tolist(), strict=True):
        transform = model.learnables.transform(name.partition("[")[0])
        span = transform.upper - transform.lower
        near = NEAR * (span if math.isfinite(span) else transform.scale)
        if value - transform.lower <= near and wanted <= transform.lower:
            found[name] = "lower"
        elif transform.upper - value <= near and wanted >= transform.upper:
            found[name] = "upper"
    return found


def _physical(
    model: PhysicalModel, point: Tensor, reach: Tensor
) -> tuple[tuple[str, ...], Tensor, Tensor, list[tuple[float, float]]]:
    """Return (names, values, d value / d raw, values at raw -+ `reach`) of all learned numbers."""
    names: list[str] = []
    values, slopes, edges, start = [], [], [], 0
    for name in model.learnables.learned:
        shape = model.learnables.raw[name].shape
        part = slice(start, start + shape.numel())
        start = part.stop
        names += [name] if not shape else [f"{name}[{k}]" for k in range(shape.numel())]
        transform = model.learnables.transform(name)
        raw = point[part].clone().requires_grad_()
        value = transform.to_value(raw)
        (slope,) = torch.autograd.grad(value.sum(), raw)
        lower, upper = transform.to_value(point[part] - reach[part]), transform.to_value(point[part] + reach[part])
        values.append(value.detach())
        slopes.append(slope)
        edges += list(zip(lower.tolist(), upper.tolist(), strict=True))
    return tuple(names), torch.cat(values), torch.cat(slopes), edges


def quantile(dof: float) -> float:
    """Return how many standard errors a 95 % interval reaches to both sides, with `dof` degrees of freedom."""
    return float(stdtrit(dof, 0.5 + CONFIDENCE / 2))


def _direction(names: Sequence[str], relative: Tensor) -> str:
    """Return the larger parts of a direction, scaled to one percent, as in "a by +1 %, b by -0.5 %"."""
    relative = relative / relative[relative.abs().argmax()]
    order = relative.abs().argsort(descending=True).tolist()
    parts = [f"{names[k]} by {float(relative[k]):+.2g} %" for k in order if abs(float(relative[k])) > 0.05]
    return "changing " + ", ".join(parts[:6])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
