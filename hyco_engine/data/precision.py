"""The choice between float32 and float64, by the digits that each keeps of how a field varies.

A field that varies by 1 around 101325 has 7 digits in float32, and its variation 2 of them. Models learn the variation,
so its digits count: float32 serves where it keeps at least four of them, which biases parameters by less than 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ENOUGH = 4.0
"""The digits of a variation that a precision must keep. A diffusivity learned from a field with an offset was off by
less than 1e-6 of its value at 4.4 digits, 2e-5 at 3.4, 3e-4 at 2.4 and 2e-3 at 1.4."""
_SIZES = (1e-15, 1e15)
"""Fields of these sizes have squares, and spacings their fourth powers, in the range of float32."""
_SPACINGS = (1e-8, 1e8)


@attrs.frozen(kw_only=True)
class Variation:
    """How a field varies: by `spread` around `level`, stored as `stored`."""

    name: str
    level: float
    spread: float
    largest: float
    stored: torch.dtype

    def digits(self, dtype: torch.dtype) -> float:
        """Return how many decimal digits of the variation `dtype` keeps."""
        kept = self.spread / self.largest / torch.finfo(dtype).eps
        return math.log10(kept) if kept > 1 else 0.0

    @property
    def is_rounding(self) -> bool:
        """True if rounding of the stored values can make a constant vary as much."""
        return self.spread <= 4 * torch.finfo(self.stored).eps * abs(self.level)

    def told(self, dtype: torch.dtype) -> str:
        """Return a sentence that says how many digits of the variation `dtype` keeps."""
        kept = f"{self.digits(dtype):.1f}" if self.digits(dtype) >= 0.1 else "0"
        return (
            f"{self.name!r} lies around {self.level:.6g} and varies by {self.spread:.2g}, of which "
            f"{_named(dtype)} keeps {kept} digits"
        )


@attrs.frozen(kw_only=True)
class Precision:
    """The precision of a run, with the reason for the choice and the warnings that belong to it."""

    name: str
    reason: str | None = None
    warnings: tuple[str, ...] = ()


def choose_precision(seen: Trajectory | None, layout: StateLayout, asked: str | None) -> Precision:
    """Choose the precision for data like the simulation `seen`; None if nothing is known about it.

    What was `asked` for is kept; None leaves the choice open. Warnings name the digits where they are too few.
    """
    found = [] if seen is None else list(variations(seen, layout))
    varying = [field for field in found if not field.is_rounding]
    name, reason = asked or "float32", None
    if asked is None:
        poor = [field.told(torch.float32) for field in varying if field.digits(torch.float32) < ENOUGH]
        poor += _out_of_range(varying, layout)
        if poor:
            name, reason = "float64", f'run.precision = "float64", since {" and ".join(poor)}'
    return Precision(name=name, reason=reason, warnings=tuple(_warnings(found, layout, name)))


def variations(seen: Trajectory, layout: StateLayout) -> Iterator[Variation]:
    """Yield the variation of each field that is not the same everywhere."""
    mask = sample_mask(layout)
    for field in layout.fields:
        own = layout.channels(field.name)
        for channel in range(own.start, own.stop):
            values = _values(seen, layout, channel, mask)
            if len(values) and bool((values != values[0]).any()):
                largest = values.double().abs().max()
                # relative to the largest, since squares might leave the range
                relative = values.double() / largest
                yield Variation(
                    name=field.name,
                    level=float(largest * relative.mean()),
                    spread=float(largest * relative.std(correction=0)),
                    largest=float(largest),
                    stored=values.dtype,
                )


def _values(seen: Trajectory, layout: StateLayout, channel: int, mask: Tensor) -> Tensor:
    """Return all finite values of a channel, `[N]`."""
    n = layout.n_dynamic
    if channel >= n:
        return seen.static[channel - n][mask[channel]]
    values = seen.dynamic[:, channel][:, mask[channel]].flatten()
    if seen.points is not None:
        values = torch.cat([values, seen.points.value[:, channel]])
    return values[values.isfinite()]


def _out_of_range(found: list[Variation], layout: StateLayout) -> Iterator[str]:
    for field in found:
        if not _SIZES[0] <= field.spread <= field.largest <= _SIZES[1]:
            yield f"the squares of {field.name!r}, which varies by {field.spread:.2g}, leave the range of float32"
    for axis, dx in zip(layout.grid.axes, layout.grid.spacing, strict=True):
        if not _SPACINGS[0] <= dx <= _SPACINGS[1]:
            yield f"derivatives on cells of {dx:.2g} along {axis} leave the range of float32"


def _warnings(found: list[Variation], layout: StateLayout, name: str) -> Iterator[str]:
    dynamic = {field.name for field in layout.dynamic}
    for field in found:
        dtype = max((DTYPES[name], field.stored), key=lambda dtype: torch.finfo(dtype).eps)
        if field.digits(dtype) >= ENOUGH or (field.is_rounding and field.name not in dynamic):
            continue
        if dtype == DTYPES[name] == torch.float32 and field.stored == torch.float64:
            remedy = 'leave run.precision out, or set it to "float64"'
        elif dtype == torch.float32:
            remedy = "the data is stored so: store it as float64, or without its offset"
        else:
            remedy = "store the data without its offset"
        yield f"{field.told(dtype)}, too few to learn from: {remedy}"


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
