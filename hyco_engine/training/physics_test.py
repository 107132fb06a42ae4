"""A test of the physics: do its residuals look as the noise of the data makes them look, and if not, what is missing?

If the physics is right, a residual is noise of the target minus what the rollout makes of the noise of its start. That
is neither white nor of one size: diffusion correlates the noise of the start, and steps amplify or damp it. So
residuals of this kind are drawn, with the noise of the data and the physics at the estimate, and four statistics of
each field are compared with those of the draws:

    time        the correlation of neighbouring lead times
    space       the correlation of neighbouring cells
    bias        the mean square of the mean over all windows, over the mean square
    large       the mean square of the means over large cells of space and lead time, over the mean square

None of them depends on the size of the noise, which is only estimated. The size itself fails where it is far above the
noise. A statistic fails if it is above what all but a share `ALARMS` of right physics would give, over all tests of the
run together (Student's t for the next draw, Bonferroni). Where the grid is too coarse, residuals are smooth too: what
fails must fail again with the residual that a finer physics would leave (see `discretisation`).

Data without noise leave what the solvers differ by, which is always smooth. There the size alone counts: residuals
should be of the size of the discretisation error and become smaller with a finer physics, or be small.

What is missing is the rate at which the residual grows: it is compared with simple terms of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from scipy.special import stdtrit
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.noise import NOISY
from hyco_engine.data.padding import component_sides
from hyco_engine.data.windows import WindowDataset
from hyco_engine.equations.evaluation import continued
from hyco_engine.interfaces import Samples
from hyco_engine.randomness import derive_generator
from hyco_engine.rollout import rollout
from hyco_engine.training.discretisation import Excerpt, spread_out

DRAWS = 20
"""Residuals of a right physics that are drawn."""
ALARMS = 0.02
"""The share of runs with a right physics in which any test may fail."""
MUCH = 1.5
"""Size of residuals, relative to that which the noise explains, above which the noise does not explain them."""
FAR = 3.0
"""Size of residuals, relative to the discretisation error, above which that does not explain them; without noise."""
SMALL = 1e-3
"""Residuals below this part of the field's spread are too small to matter, however smooth they are."""
PARTS = 4
"""Regions along each axis, and stretches of lead time."""
LEADS = 8
"""Lead times up to which the residual counts as growing evenly."""
MAP = 64
"""Most cells along an axis of the map in one dimension, and a third of that in more."""
TERMS = 5
"""Terms that are named."""


@attrs.frozen(kw_only=True)
class FieldTest:
    """The residual of one field, and what is to be expected of a right physics."""

    residual: float
    spread: float
    noise: float | None
    """The size that the noise of the data gives residuals; None for data without noise."""
    defect: float | None
    """The size of the discretisation error; None if it is not known."""
    ratio: float
    """The size of the residual over the expected one."""
    statistics: Mapping[str, float]
    expected: Mapping[str, float]
    failed: tuple[str, ...]
    by_lead: tuple[float, ...]
    """The size by lead time, over the expected one."""
    by_region: Any
    """The size in regions, over the expected one: nested lists, one level for each axis."""

    @property
    def correlated(self) -> bool:
        return any(name != "size" for name in self.failed)


@attrs.frozen(kw_only=True)
class PhysicsTest:
    """The test of all fields. The physics explains the data if none failed, else `missing` says what lacks."""

    fields: Mapping[str, FieldTest]
    draws: int
    windows: int
    missing: tuple[Mapping[str, Any], ...] = ()
    rate: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def explained(self) -> bool:
        return not any(test.failed for test in self.fields.values())

    @property
    def verdict(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        failed = {name: test for name, test in self.fields.items() if test.failed}
        if not failed:
            return ""
        name, worst = max(failed.items(), key=lambda item: item[1].ratio)
        of = f" of {name}" if len(self.fields) > 1 else ""
        what = "the noise" if worst.noise is not None else "the error of the grid" if worst.defect else "what matters"
        # without noise, what two exact solvers leave is smooth as well
        smooth = " and correlated" if worst.correlated or worst.noise is None else ""
        return f"the model does not explain the data: residuals{of} are {worst.ratio:.2g} times {what}{smooth}"

    def to_data(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"explained": self.explained, "verdict": self.verdict, **attrs.asdict(self)}


def physics_test(
    model: Callable[[Tensor], Tensor],
    layout: StateLayout,
    dt: float,
    excerpt: Excerpt,
    noise: Mapping[str, float],
    *,
    data: Samples,
    learned_starts: bool,
    defect: Tensor | None = None,
    finer_residual: Tensor | None = None,
    most: int | None = None,
    seed: int = 0,
) -> PhysicsTest:
    """Test the physics on the windows of `excerpt`, which are some of `data`, or on `most` of them.

    `noise` is the standard deviation of each field's noise in its own unit. The residual with a finer physics at its
    own estimate is `finer_residual`, and `defect` the difference between both physics' predictions.
    """
    if most is not None and most < len(excerpt.indices):
        chosen = spread_out(len(excerpt.indices), most)
        excerpt = excerpt.some(chosen)
        defect, finer_residual = (None if own is None else own[chosen] for own in (defect, finer_residual))
    size = torch.cat([torch.full((field.channels,), float(noise.get(field.name, 0.0))) for field in layout.dynamic]).to(
        excerpt.predicted
    )
    observed = ~excerpt.observed.isnan()
    spread = _spreads(excerpt, layout)
    noisy = {name: noise.get(name, 0.0) > NOISY * spread[name] for name in spread}
    tests = 4 * sum(noisy.values())

    def of(values: Tensor, name: str) -> Tensor:
        own = layout.channels(name)
        return torch.where(observed[:, :, own], values[:, :, own], torch.nan).double().cpu()

    draws = {name: _Draws() for name, there in noisy.items() if there}
    for values in _drawn(model, excerpt, size, data, learned_starts, seed) if draws else ():
        for name, known in draws.items():
            known.add(of(values, name))
    found = {}
    for name in noisy:
        residuals = [of(excerpt.residual, name), *([] if finer_residual is None else [of(finer_residual, name)])]
        floor = None if defect is None else _rms(of(defect, name))
        found[name] = _tested(residuals, draws.get(name), floor, spread[name], tests)
    test = PhysicsTest(fields=found, draws=DRAWS if draws else 0, windows=len(excerpt.indices))
    if test.explained:
        return test
    rate = _rate(excerpt, dt)
    terms = _terms(excerpt, rate, layout)
    return attrs.evolve(test, missing=terms, rate=_maps(rate, layout))


# --- one field --------------------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class _Draws:
    """The statistics of drawn residuals of one field, and the sum of their squares, value by value."""

    statistics: dict[str, list[float]] = attrs.field(factory=dict)
    squares: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor) -> None:
        for name, of in STATISTICS.items():
            self.statistics.setdefault(name, []).append(of(values))
        self.squares = values.square() if self.squares is None else self.squares + values.square()
        self.count += 1

    @property
    def typical(self) -> Tensor:
        """The root mean square of each value over the draws."""
        assert self.squares is not None
        return (self.squares / self.count).sqrt()


def _tested(
    residuals: list[Tensor], draws: _Draws | None, defect: float | None, spread: float, tests: int
) -> FieldTest:
    """Test residuals `[n, T, C, *S]`, of which all have to fail; NaN where nothing was observed."""
    first, least = residuals[0], min(map(_rms, residuals))
    statistics = {name: of(first) for name, of in STATISTICS.items()}
    failed: list[str] = []
    compared = None if draws is None else draws.typical
    if draws is not None and compared is not None:
        noise = expected = _rms(compared)
        limit = _limit(tests, draws.count)
        means = {}
        for name, of in STATISTICS.items():
            known = torch.tensor(draws.statistics[name], dtype=torch.float64)
            means[name] = float(known.mean())
            bound = means[name] + limit * float(known.std())
            if min(of(residual) for residual in residuals) > bound:
                failed.append(name)
        if least > MUCH * noise:
            failed.append("size")
        if least <= FAR * SMALL * spread:
            # few or coarse data may seem noisier than they are, and rounding errors are no noise
            failed.clear()
    else:
        means = {}
        noise = math.nan
        expected = max(defect or 0.0, SMALL * spread)
        # a finer physics leaves at most a half of the defect, if its error falls in proportion to the cell
        limit = max(defect or 0.0, FAR * SMALL * spread)
        if _rms(first) > FAR * expected or (len(residuals) > 1 and least > limit):
            failed.append("size")
    return FieldTest(
        residual=_rms(first),
        spread=spread,
        noise=None if draws is None else noise,
        defect=defect,
        ratio=_rms(first) / expected if expected else math.inf,
        statistics=statistics,
        expected=means,
        failed=tuple(failed),
        by_lead=tuple(_by_lead(first, compared, expected)),
        by_region=_by_region(first, compared, expected),
    )


def _limit(tests: int, draws: int) -> float:
    """Return how many standard deviations of the draws the next one exceeds with the probability `ALARMS / tests`."""
    return float(stdtrit(draws - 1, 1 - ALARMS / max(1, tests))) * math.sqrt(1 + 1 / draws)


def _rms(values: Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.square().mean().sqrt()) if known.numel() else 0.0


def _time(values: Tensor) -> float:
    return _lagged(values, 1)


def _space(values: Tensor) -> float:
    """Return the correlation of neighbouring cells, in the mean over the axes that have any."""
    found = [_lagged(values, axis) for axis in range(3, values.dim()) if values.shape[axis] > 1]
    return sum(found) / len(found) if found else 0.0


def _lagged(values: Tensor, axis: int) -> float:
    n = values.shape[axis]
    if n < 2:
        return 0.0
    products = values.narrow(axis, 1, n - 1) * values.narrow(axis, 0, n - 1)
    known = products[~products.isnan()]
    power = _rms(values) ** 2
    return float(known.mean()) / power if known.numel() and power else 0.0


def _bias(values: Tensor) -> float:
    power = _rms(values) ** 2
    return _rms(values.nanmean(0)) ** 2 / power if power else 0.0


def _large(values: Tensor) -> float:
    """Return the mean square of the means over large cells, over the mean square."""
    power = _rms(values) ** 2
    means = values
    for axis in range(1, values.dim()):
        if axis != 2:
            parts = torch.tensor_split(means, min(PARTS, means.shape[axis]), dim=axis)
            means = torch.cat([part.nanmean(axis, keepdim=True) for part in parts], dim=axis)
    return _rms(means) ** 2 / power if power else 0.0


STATISTICS: Mapping[str, Callable[[Tensor], float]] = {"time": _time, "space": _space, "bias": _bias, "large": _large}


def _by_lead(values: Tensor, compared: Tensor | None, expected: float) -> list[float]:
    def of(values: Tensor, lead: int) -> float:
        return _rms(values[:, lead])

    leads = range(values.shape[1])
    return [of(values, k) / ((of(compared, k) if compared is not None else expected) or math.inf) for k in leads]


def _by_region(values: Tensor, compared: Tensor | None, expected: float, axis: int = 3) -> Any:
    if axis == values.dim():
        return _rms(values) / ((_rms(compared) if compared is not None else expected) or math.inf)
    count = min(PARTS, values.shape[axis])
    own = torch.tensor_split(values, count, dim=axis)
    other = [None] * count if compared is None else torch.tensor_split(compared, count, dim=axis)
    return [_by_region(part, reference, expected, axis + 1) for part, reference in zip(own, other, strict=True)]


def _spreads(excerpt: Excerpt, layout: StateLayout) -> dict[str, float]:
    found = {}
    for field in layout.dynamic:
        own = excerpt.observed[:, :, layout.channels(field.name)].double()
        known = own[~own.isnan()]
        found[field.name] = float(known.std()) if known.numel() > 1 else 0.0
    return found


# --- residuals of a right physics -------------------------------------------------------------------------------------


def _drawn(
    model: Callable[[Tensor], Tensor], excerpt: Excerpt, size: Tensor, data: Samples, learned: bool, seed: int
) -> Iterator[Tensor]:
    """Yield residuals of the physics on data that it explains but for noise, `[n, T, C_dyn, *S]` each."""
    steps, dynamic = excerpt.observed.shape[1:3]
    space = excerpt.observed.shape[3:]
    table = _frames(data, excerpt.indices, steps)
    size = size.reshape(-1, *(1 for _ in space))
    generator = derive_generator(seed, "physics test")
    for _ in range(DRAWS):
        every = torch.randn(int(table.max()) + 1, dynamic, *space, generator=generator, dtype=torch.float64)
        noise = every.to(size)[table] * size
        if learned:
            # a start that is learned takes up noise of its own frame, and little of that of later ones
            yield -noise[:, 1:]
            continue
        states = torch.cat([excerpt.states[:, :dynamic] + noise[:, 0], excerpt.states[:, dynamic:]], dim=1)
        with torch.no_grad():
            moved = rollout(model, states, steps) - excerpt.predicted  # type: ignore[arg-type]
        yield moved - noise[:, 1:]


def _frames(data: Samples, indices: Tensor, steps: int) -> Tensor:
    """Return which frame each state and target of the windows is, `[n, T + 1]`: windows may share frames."""
    n = len(indices)
    if not isinstance(data, WindowDataset):
        return torch.arange(n * (steps + 1)).view(n, steps + 1)
    places = [data.window(index) for index in indices.tolist()]
    keys = [(simulation, frame + k) for simulation, frame in places for k in range(steps + 1)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys]).view(n, steps + 1)


# --- what is missing --------------------------------------------------------------------------------------------------


def _rate(excerpt: Excerpt, dt: float) -> Tensor:
    """Return the rate that the physics lacks, `[n, C_dyn, *S]`: the slope of what it misses over the first leads."""
    missed = -excerpt.residual[:, :LEADS].double()
    leads = torch.arange(1, missed.shape[1] + 1, dtype=torch.float64, device=missed.device)
    leads = leads.reshape(1, -1, *(1 for _ in missed.shape[2:])).expand_as(missed)
    known = ~missed.isnan()
    above = torch.where(known, leads * missed, 0.0).sum(1)
    below = torch.where(known, leads.square(), 0.0).sum(1)
    return torch.where(below > 0, above / (dt * below.clamp(min=1)), torch.nan)


def _terms(excerpt: Excerpt, rate: Tensor, layout: StateLayout) -> tuple[dict[str, Any], ...]:
    """Return the simple terms of the state that resemble the missing rate most, field by field."""
    states = torch.cat([excerpt.states[:, None, : layout.n_dynamic], excerpt.predicted[:, :LEADS]], dim=1).mean(1)
    candidates = _candidates(states.double(), layout)
    found = []
    for name, channel in _components(layout):
        own = rate[:, channel]
        known = ~own.isnan()
        scored = []
        for term, values in candidates.items():
            product = float((own * values)[known].sum())
            squares = float(values.square()[known].sum())
            power = float(own[known].square().sum())
            if squares > 0 and power > 0:
                scored.append((product / math.sqrt(squares * power), product / squares, term))
        scored.sort(key=lambda entry: -abs(entry[0]))
        found += [
            {"field": name, "term": term, "correlation": correlation, "coefficient": coefficient}
            for correlation, coefficient, term in scored[:TERMS]
        ]
    return tuple(found)


def _components(layout: StateLayout) -> list[tuple[str, int]]:
    names = [
        f"{field.name}.{field.components[k]}" if field.components else field.name
        for field in layout.dynamic
        for k in range(field.channels)
    ]
    return list(zip(names, range(len(names)), strict=True))


def _candidates(states: Tensor, layout: StateLayout) -> dict[str, Tensor]:
    """Return simple terms of the states `[n, C_dyn, *S]` by name, each `[n, *S]`."""
    found: dict[str, Tensor] = {"1": torch.ones_like(states[:, 0])}
    for name, channel in _components(layout):
        values = states[:, channel]
        found |= {name: values, f"{name}^2": values.square(), f"{name}^3": values**3}
        field = next(f for f in layout.dynamic if name.partition(".")[0] == f.name)
        component = channel - layout.channels(field.name).start
        for number, (axis, dx) in enumerate(zip(layout.grid.axes, layout.grid.spacing, strict=True)):
            if field.sampling == "staggered" or values.shape[1 + number] < 3:
                continue
            wide = continued(values, 1 + number, 1, *component_sides(field, component, axis))
            n = values.shape[1 + number]
            lower, upper = wide.narrow(1 + number, 0, n), wide.narrow(1 + number, 2, n)
            first, second = (upper - lower) / (2 * dx), (upper - 2 * values + lower) / dx**2
            found |= {f"{name}_{axis}": first, f"{name}_{axis}{axis}": second, f"{name} {name}_{axis}": values * first}
    return found


def _maps(rate: Tensor, layout: StateLayout) -> dict[str, Any]:
    """Return the mean missing rate of each component, thinned, as nested lists; None where nothing was observed."""
    found = {}
    for name, channel in _components(layout):
        mean = rate[:, channel].nanmean(0)
        if mean.dim() == 3:
            mean = mean[..., mean.shape[2] // 2]
        most = MAP if mean.dim() == 1 else MAP // 3
        for axis in range(mean.dim()):
            if mean.shape[axis] > most:
                parts = torch.tensor_split(mean, most, dim=axis)
                mean = torch.cat([part.nanmean(axis, keepdim=True) for part in parts], dim=axis)
        found[name] = _rounded(mean.cpu())
    return found


def _rounded(values: Tensor) -> Any:
    if values.dim():
        return [_rounded(part) for part in values]
    number = float(values)
    return float(f"{number:.4g}") if math.isfinite(number) else None
