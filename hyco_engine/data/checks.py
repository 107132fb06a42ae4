"""Checks that refuse faulty data before any model trains on it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from hyco_engine.data.contracts import Trajectory, TrajectorySource
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.errors import DataError, PluginError

log = logging.getLogger("hyco_engine")

CHUNK_ELEMENTS = 2**24
_LIMITS = (32767.0, 32768.0, 2147483647.0, 2147483648.0)
"""The ends of the ranges of integers, which packed numbers leave."""


def check_shapes(trajectory: Trajectory, layout: StateLayout, index: int, kind: str) -> None:
    """Raise PluginError if the shapes or types of simulation `index` break the contract of the source `kind`.

    Raises DataError if the simulation has no frames.
    """
    shapes = (tuple(trajectory.dynamic.shape[1:]), tuple(trajectory.static.shape))
    wanted = ((layout.n_dynamic, *layout.spatial), (layout.n_all - layout.n_dynamic, *layout.spatial))
    if trajectory.dynamic.ndim < 1 or shapes != wanted:
        raise PluginError(
            f"the source {kind!r} returned simulation {index} with dynamic {list(trajectory.dynamic.shape)} and "
            f"static {list(trajectory.static.shape)}; its layout requires [frames, {str(list(wanted[0]))[1:]} and "
            f"{list(wanted[1])}"
        )
    for name, values in (("dynamic", trajectory.dynamic), ("static", trajectory.static)):
        if values.dtype not in (torch.float32, torch.float64):
            raise PluginError(f"the source {kind!r} returned {name} as {values.dtype}; it must be float32 or float64")
    if len(trajectory.dynamic) == 0:
        raise DataError(f"simulation {index} has no frames", key="data")


def check_values(trajectory: Trajectory, source: TrajectorySource, index: int, *, allow_missing: bool = False) -> None:
    """Raise DataError if a field of simulation `index` holds inf or NaN; the message names the first such value.

    With `allow_missing`, NaN means "not observed" and passes. Padding is not checked.
    """
    layout = source.layout
    mask = sample_mask(layout)
    groups = ((layout.dynamic, trajectory.dynamic, 0), (layout.static, trajectory.static[None], layout.n_dynamic))
    for fields, values, first in groups:
        group = mask[first : first + values.shape[1]]
        step = max(1, CHUNK_ELEMENTS // max(1, group.numel()))
        for start in range(0, len(values), step):
            chunk = values[start : start + step]
            bad = (chunk.isinf() if allow_missing else ~chunk.isfinite()) & group
            if bool(bad.any()):
                frame = None if values is not trajectory.dynamic else start
                raise _refusal(bad, chunk, fields, source, index, frame)


def warn_of_likely_gaps(values: Tensor, what: str) -> None:
    """Warn if the least or the largest of `values` looks like what programs write for "not observed".

    That is a number such as -9999 or 1e20 that occurs several times, far outside of all others.
    """
    seen = values[values.isfinite()].double()
    if seen.numel() < 4:
        return
    for extreme in (float(seen.min()), float(seen.max())):
        if not _is_no_measurement(extreme):
            continue
        others = seen[seen != extreme]
        count = len(seen) - len(others)
        if count < 2 or len(others) < 2:
            continue
        low, high = float(others.min()), float(others.max())
        if max(low - extreme, extreme - high) > 10 * (high - low) > 0:
            log.warning(
                "%s holds %g %d times, far outside of its other values, %g to %g: if it means that they were not "
                "observed, set data.observe.mask.value = %g",
                what,
                extreme,
                count,
                low,
                high,
                extreme,
            )


def _is_no_measurement(value: float) -> bool:
    """Return whether a number is one that programs write where there is none."""
    digits = f"{abs(value):.7g}".replace(".", "")
    nines = len(digits) >= 3 and set(digits) == {"9"}
    return nines or abs(value) in _LIMITS or (abs(value) >= 1e15 and f"{abs(value):.4g}"[:2] in ("1e", "9."))


def _refusal(
    bad: Tensor, chunk: Tensor, fields: tuple[FieldInfo, ...], source: TrajectorySource, index: int, start: int | None
) -> DataError:
    frame, channel, *place = bad.nonzero()[0].tolist()
    names = [(f.name, f.components[c] if f.components else None) for f in fields for c in range(f.channels)]
    name, component = names[channel]
    where = f"{name!r}" if component is None else f"{name!r} (component {component})"
    when = "" if start is None else f", frame {start + frame}"
    cell = ", ".join(f"{axis} {i}" for axis, i in zip(source.layout.grid.axes, place, strict=True))
    origin = source.origin(name, index)
    value = chunk[frame, channel][tuple(place)]
    total = int(bad.sum())
    more = "" if total == 1 else f", and {total - 1} more near it"
    remedy = (
        'remove or repair it, or say with data.observe.mask.value = "nan" that it was not observed'
        if value.isnan() and start is not None
        else "it must be repaired at its source"
    )
    return DataError(
        f"{origin + ': ' if origin else ''}the field {where} of simulation {index} is {float(value)} "
        f"at index {cell}{when}{more}; {remedy}",
        key="data",
    )
