"""The mean, the spread and the range of the fields in the train split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.masks import sample_mask

CHUNK_ELEMENTS = 2**18
"""How many values are processed at once; it is fastest if they fit into the processor's cache."""


@attrs.frozen(kw_only=True, eq=False)
class Statistics:
    """Statistics that scale the models' inputs and outputs: float64 on the CPU, one entry per channel.

    Means are per channel: a mean flow is a vector, and its subtraction prefers no direction. Spreads are per field, the
    same for all components of a vector: scaling the components differently would make rotated flows look different to a
    model. Division by a spread is always safe: a field that does not vary beyond rounding has its own size as spread,
    or 1 if it is 0, and one that does not change in time has its spread as that of its change.
    """

    mean: Tensor
    """`[C_all]`: the mean."""
    std: Tensor
    """`[C_all]`: the standard deviation around `mean`."""
    change_std: Tensor
    """`[C_dyn]`: the root mean square of the change from one frame to the next. It is not taken around the mean change,
    because it scales predicted changes, which have no offset. Across frames that were not observed, the change counts
    as even."""
    largest: Tensor = attrs.field()
    """`[C_all]`: the largest magnitude; if it is unknown, `|mean|` plus four standard deviations."""
    lowest: Tensor = attrs.field()
    """`[C_all]`: the smallest value; if it is unknown, `mean` less four standard deviations."""
    highest: Tensor = attrs.field()
    """`[C_all]`: the largest value; if it is unknown, `mean` plus four standard deviations."""

    states: Tensor = attrs.field()
    """`[N, C_all]`: some of the states where there is no space, and a state is so few numbers; else none."""

    @states.default
    def _none(self) -> Tensor:
        return torch.zeros(0, len(self.mean), dtype=torch.float64)

    @largest.default
    def _usual(self) -> Tensor:
        return self.mean.abs() + 4 * self.std

    @lowest.default
    def _usual_lowest(self) -> Tensor:
        return self.mean - 4 * self.std

    @highest.default
    def _usual_highest(self) -> Tensor:
        return self.mean + 4 * self.std

    @classmethod
    def unknown(
        cls, layout: StateLayout, scalars: Mapping[str, Tensor] | None = None, states: Tensor | None = None
    ) -> Statistics:
        """Return the statistics that stand in for those of data that is not read yet: mean 0 and spread 1.

        `scalars` are known numbers of all simulations, whose range is that of their uniform fields. That of all other
        fields is NaN, since nothing is known of it. `states` are those that can be known.
        """
        channels, dynamic = layout.n_all, layout.n_dynamic
        unknown = [torch.full((channels,), torch.nan) for _ in ("lowest", "highest")]
        found = cls(
            mean=torch.zeros(channels),
            std=torch.ones(channels),
            change_std=torch.ones(dynamic),
            lowest=unknown[0],
            highest=unknown[1],
            **({} if states is None else {"states": states}),
        )
        for name in layout.scalars:
            own = layout.channels(name).start
            values = (scalars or {}).get(name, torch.zeros(1))
            found.lowest[own], found.highest[own] = values.min(), values.max()
        return found

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory], layout: StateLayout, guessed: int = 0) -> Statistics:
        """Compute them from all values that are neither padding nor NaN; reads a bounded number of frames at a time.

        The first `guessed` frames count for changes alone.
        """
        mask = sample_mask(layout)
        own, fixed = mask[: layout.n_dynamic], mask[layout.n_dynamic :]
        dynamic, static, change = _Moments(own), _Moments(fixed), _Moments(own)
        rounding = 0.0
        if not layout.n_axes:
            trajectories = list(trajectories)
        for trajectory in trajectories:
            rounding = max(rounding, torch.finfo(trajectory.dynamic.dtype).eps)
            static.add(_ends(trajectory, layout) if layout.advances else trajectory.static[None])
            frames, changes = trajectory.dynamic, _Changes()
            step = max(1, CHUNK_ELEMENTS // max(1, frames[0].numel()))
            for start in range(0, len(frames), step):
                chunk = frames[start : start + step].double()
                dynamic.add(chunk[max(0, guessed - start) :])
                for part in changes.of(chunk):
                    change.add(part)
            if trajectory.points is not None:
                dynamic.add_points(trajectory.points.value)
        mean = torch.cat([dynamic.mean, static.mean])
        # the spread that rounding alone can give to a constant
        least = 4 * rounding * mean.abs()
        variance = torch.cat([dynamic.variance, static.variance])
        # where no two frames were observed, the change is taken to be as large as the field
        square = torch.where(change.count > 0, change.variance + change.mean**2, dynamic.variance)
        std = _spread(variance, least, mean.abs(), layout.fields)
        n = layout.n_dynamic
        return cls(
            mean=mean,
            std=std,
            change_std=_spread(square, least[:n], std[:n], layout.dynamic),
            largest=torch.cat([dynamic.largest, static.largest]),
            lowest=torch.cat([dynamic.lowest, static.lowest]),
            highest=torch.cat([dynamic.highest, static.highest]),
            **({} if layout.n_axes else {"states": some_states(trajectories, layout)}),
        )

    def to_data(self) -> dict[str, Any]:
        """Return a JSON-able form that `from_data` reads back exactly."""
        numbers = {name: getattr(self, name).tolist() for name in _NAMES}
        return numbers | ({"states": self.states.tolist()} if len(self.states) else {})

    @classmethod
    def from_data(cls, data: Any) -> Statistics:
        """Read what `to_data` returned; the range may be missing. Raises ValueError on anything else."""
        if not isinstance(data, Mapping) or not {*_NAMES[:3]} <= data.keys():
            raise ValueError(f"statistics need the entries {', '.join(_NAMES[:3])}")
        for name in _NAMES:
            if not _are_numbers(data.get(name, [])):
                raise ValueError(f"{name} of the statistics must be a list of finite numbers")
        states, count = data.get("states", []), len(data["mean"])
        if not isinstance(states, list) or not all(_are_numbers(row) and len(row) == count for row in states):
            raise ValueError("states of the statistics must be lists of finite numbers, one for each channel")
        known = [*_NAMES, *(["states"] if states else [])]
        return cls(**{name: torch.tensor(data[name], dtype=torch.float64) for name in known if name in data})

    def check_fit(self, layout: StateLayout) -> None:
        """Raise ValueError unless there is a number for each channel of the layout, and all spreads are above 0."""
        for name in _NAMES:
            count = layout.n_dynamic if name == "change_std" else layout.n_all
            if len(own := getattr(self, name)) != count:
                raise ValueError(f"{name} of the statistics has {len(own)} numbers, and the layout {count} channels")
        for name in ("std", "change_std"):
            if not bool((getattr(self, name) > 0).all()):
                raise ValueError(f"{name} of the statistics must be above 0")


RANGE = ("lowest", "highest")
_NAMES = ("mean", "std", "change_std", "largest", *RANGE)
SOME_FRAMES = 16
"""The number of frames from which the spread of what advances evenly is computed."""
MOST_STATES = 32
"""The number of states that are kept."""


def _are_numbers(row: Any) -> bool:
    return isinstance(row, list) and all(isinstance(n, int | float) and math.isfinite(n) for n in row)


def _statics(trajectory: Trajectory, layout: StateLayout) -> Tensor:
    """Return the static channels of each frame, `[T, C_static]`, where there is no space."""
    every = trajectory.static.expand(len(trajectory.dynamic), -1)
    return later(every, layout.advances, torch.arange(len(every)), 0)


def _ends(trajectory: Trajectory, layout: StateLayout) -> Tensor:
    """Return the static channels `[n, C_static, *S]` of a few frames, among them the first and the last one."""
    frames = torch.linspace(0, len(trajectory.dynamic) - 1, SOME_FRAMES, dtype=torch.float64)
    return later(trajectory.static.double()[None], layout.advances, frames, layout.n_axes)


def some_states(trajectories: Iterable[Trajectory], layout: StateLayout) -> Tensor:
    """Return states `[n, C_all]` of trajectories without space that were observed completely.

    They are chosen evenly, beside those in which each channel is least and largest.
    """
    every = [torch.cat([t.dynamic, _statics(t, layout)], dim=1).double() for t in trajectories]
    states = torch.cat(every)
    states = states[~states.isnan().any(1)]
    if len(states) <= MOST_STATES:
        return states
    ends = torch.cat([states.argmin(0), states.argmax(0)])[: MOST_STATES // 2]
    even = torch.linspace(0, len(states) - 1, MOST_STATES - len(ends)).round().long()
    return states[torch.cat([ends, even])]


class _Changes:
    """Computes the changes per frame of one trajectory, between consecutive observed values."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._age: Tensor | None = None

    def of(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield the changes `[n, C, *S]` for the next `frames [m, C, *S]`."""
        if self._last is not None:
            frames = torch.cat([self._last[None], frames])
        if self._age is None and bool(frames.sum().isfinite()):
            self._last = frames[-1]
            yield frames.diff(dim=0)
            return
        last = frames[0]
        age = torch.ones_like(last) if self._age is None else self._age
        for frame in frames[1:]:
            yield ((frame - last) / age)[None]
            seen = ~frame.isnan()
            last, age = torch.where(seen, frame, last), torch.where(seen, 1.0, age + 1)
        self._last, self._age = last, age


class _Moments:
    """The count, mean, variance and range per channel of `[N, C, *S]` chunks.

    Chunks are merged as in Chan, Golub & LeVeque 1979.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.whole = bool(mask.all())
        self.count = torch.zeros(len(mask), dtype=torch.float64)
        self.mean = torch.zeros(len(mask), dtype=torch.float64)
        self.squares = torch.zeros(len(mask), dtype=torch.float64)
        self._low = torch.full((len(mask),), torch.inf, dtype=torch.float64)
        self._high = -self._low

    def add(self, values: Tensor) -> None:
        if not values.numel():
            return
        values = values.double()
        dims = [0, *range(2, values.ndim)]
        shape = (-1, *(1 for _ in range(values.ndim - 2)))
        total = values.sum(dims)
        if self.whole and bool(total.isfinite().all()):
            count = torch.full_like(self.count, values[:, :1].numel())
            mean = total / count.clamp(min=1)
            squares = (values - mean.reshape(shape)).square_().sum(dims)
            low, high = values.amin(dims), values.amax(dims)
        else:
            seen = self.mask & ~values.isnan()
            count = seen.sum(dims).double()
            mean = torch.where(seen, values, 0.0).sum(dims) / count.clamp(min=1)
            squares = torch.where(seen, values - mean.reshape(shape), 0.0).square().sum(dims)
            low = torch.where(seen, values, torch.inf).amin(dims)
            high = torch.where(seen, values, -torch.inf).amax(dims)
        self._reach(low, high)
        self._merge(count, mean, squares)

    def add_points(self, values: Tensor) -> None:
        """Add observations at points, `[N, C]`."""
        seen = ~values.isnan()
        count = seen.sum(0).double()
        mean = torch.where(seen, values.double(), 0.0).sum(0) / count.clamp(min=1)
        self._merge(count, mean, torch.where(seen, values.double() - mean, 0.0).square().sum(0))
        if len(values):
            values = values.double()
            self._reach(torch.where(seen, values, torch.inf).amin(0), torch.where(seen, values, -torch.inf).amax(0))

    def _reach(self, low: Tensor, high: Tensor) -> None:
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)

    @property
    def lowest(self) -> Tensor:
        """The smallest values; 0 where there is none."""
        return torch.where(self.count > 0, self._low, 0.0)

    @property
    def highest(self) -> Tensor:
        """The largest values; 0 where there is none."""
        return torch.where(self.count > 0, self._high, 0.0)

    @property
    def largest(self) -> Tensor:
        """The largest magnitudes; 0 where there is no value."""
        return torch.maximum(self.lowest.abs(), self.highest.abs())

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = (self.count + count).clamp(min=1)
        offset = mean - self.mean
        self.squares = self.squares + squares + offset**2 * self.count * count / total
        self.mean = self.mean + offset * count / total
        self.count = self.count + count

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count.clamp(min=1)


def _spread(variance: Tensor, least: Tensor, instead: Tensor, fields: Sequence[FieldInfo]) -> Tensor:
    """Return the root of the variance averaged over each field's components.

    Where that is not above `least`, return the largest of its components in `instead`, or 1 if they are 0.
    """
    parts, start = [], 0
    for field in fields:
        own = slice(start, start + field.channels)
        root = variance[own].mean().sqrt()
        if root <= least[own].max():
            size = instead[own].max()
            root = size if size > 0 else torch.ones_like(size)
        parts.append(root.expand(field.channels))
        start += field.channels
    return torch.cat(parts)


def field_sizes(layout: StateLayout, statistics: Statistics) -> dict[str, float]:
    """Return the standard deviation of each dynamic field, for a vector the root mean square over its components."""
    return {
        field.name: float(statistics.std[layout.channels(field.name)].square().mean().sqrt())
        for field in layout.dynamic
    }
