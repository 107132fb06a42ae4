"""The conversion of a source's fields to other units: `[data.scale]` and `[data.units]`.

A unit that the spec asks for converts a field whose own unit the data gives. A scale converts by its numbers, and the
unit then names the result. The source, the boundary values and the value that means "not observed" are in the units of
the source; whoever reads from here on knows the converted values alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Batch, Points, Samples, SampleSource, Trajectory, TrajectorySource, Values
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.fields import Boundary, FieldInfo, Rule, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.settings import Scale, SourceChoice
from hyco_engine.data.thin_axes import without_thin_axes
from hyco_engine.data.units import between
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean


def converted(source: TrajectorySource | SampleSource, choice: SourceChoice) -> TrajectorySource | SampleSource:
    """Return the source without axes of one cell, in the units that the spec asks for; itself if it is so."""
    asked = bool(choice.scale or choice.units)
    scales = {name: scale if isinstance(scale, Scale) else Scale(factor=scale) for name, scale in choice.scale.items()}
    if isinstance(source, SampleSource):
        if choice.units:
            raise SpecError("units belong to fields, and this data consists of samples", key="data.units")
        return _ConvertedSamples(source, scales) if asked else source
    source = without_thin_axes(source, choice)
    if not asked:
        return source
    mask = choice.observe.mask
    return _ConvertedTrajectories(source, scales, choice.units, None if mask is None else mask.value)


class _ConvertedTrajectories(DerivedSource):
    """Trajectories whose fields are `factor * value + offset`; entries equal to `missing` stay what they are."""

    def __init__(
        self, source: TrajectorySource, scales: Mapping[str, Scale], units: Mapping[str, str], missing: Any
    ) -> None:
        names = [field.name for field in source.layout.fields]
        _check_names(scales, names, "data.scale")
        _check_names(units, names, "data.units")
        super().__init__(source)
        named = {name: unit for name, unit in units.items() if name not in scales}
        scales = {**_between_units(source.layout, named), **scales}
        self._missing = missing
        self._described = repr(sorted(scales.items()))
        old = source.layout
        groups = [[_converted_field(field, scales, units) for field in group] for group in (old.dynamic, old.static)]
        self.layout = StateLayout(grid=old.grid, dynamic=tuple(groups[0]), static=tuple(groups[1]))
        whole = [scales.get(field.name, Scale()) for field in old.fields for _ in range(field.channels)]
        self._factor = torch.tensor([scale.factor for scale in whole], dtype=torch.float64)
        self._offset = torch.tensor([scale.offset for scale in whole], dtype=torch.float64)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._described} {self.source.fingerprint()}".encode()).hexdigest()

    def changed_points(self, points: Points) -> Points:
        return attrs.evolve(points, value=self._converted(points.value, slice(0, self.layout.n_dynamic), n_axes=0))

    def changed(self, trajectory: Trajectory, index: int) -> Trajectory:
        # padding stays zero
        own, n, n_axes = sample_mask(self.layout), self.layout.n_dynamic, self.layout.n_axes
        dynamic = torch.where(own[:n], self._converted(trajectory.dynamic, slice(0, n), n_axes), 0.0)
        static = torch.where(own[n:], self._converted(trajectory.static, slice(n, None), n_axes), 0.0)
        return attrs.evolve(trajectory, dynamic=dynamic, static=static)

    def _converted(self, values: Tensor, channels: slice, n_axes: int) -> Tensor:
        """Return the values `[..., C, *S]` of some channels, with `n_axes` axes behind the channels, in float64."""
        shape = (-1, *[1] * n_axes)
        new = values.double() * self._factor[channels].reshape(shape) + self._offset[channels].reshape(shape)
        return new if self._missing in (None, "nan") else torch.where(values == self._missing, values.double(), new)


class _ConvertedSamples(SampleSource):
    """Samples whose targets are `factor * value + offset`."""

    def __init__(self, source: SampleSource, scales: Mapping[str, Scale]) -> None:
        self._source = source
        self._scales = scales

    def samples(self, split: Literal["train", "val", "test"]) -> Samples:
        return _Scaled(self._source.samples(split), self._scales)

    def fingerprint(self) -> str:
        described = repr(sorted(self._scales.items()))
        return hashlib.sha256(f"{described} {self._source.fingerprint()}".encode()).hexdigest()


class _Scaled(Samples):
    def __init__(self, samples: Samples, scales: Mapping[str, Scale]) -> None:
        self._samples = samples
        self._scales = scales
        self.observed_share, self.horizon = samples.observed_share, samples.horizon
        if len(samples):
            targets = samples.batch(torch.zeros(1, dtype=torch.int64))[1]
            numbers = [] if isinstance(targets, Tensor) else [n for n, v in targets.items() if v.is_floating_point()]
            _check_names(scales, numbers, "data.scale")

    def __len__(self) -> int:
        return len(self._samples)

    def inputs(self, indices: Tensor) -> Values:
        return self._samples.inputs(indices)

    def batch(self, indices: Tensor) -> Batch:
        inputs, targets = self._samples.batch(indices)
        assert not isinstance(targets, Tensor)
        return inputs, {name: self._converted(name, values) for name, values in targets.items()}

    def _converted(self, name: str, values: Tensor) -> Tensor:
        scale = self._scales.get(name)
        return values if scale is None else (values.double() * scale.factor + scale.offset).to(values.dtype)


def _check_names(given: Iterable[str], known: Iterable[str], key: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise DataError(
                f"the data has no field {name!r}{did_you_mean(name, known)} (its fields: {', '.join(known)})",
                key=f"{key}.{name}",
            )


def _between_units(layout: StateLayout, units: Mapping[str, str]) -> dict[str, Scale]:
    """Return the conversions of fields whose unit the data gives and the spec wants to be another one."""
    own = {field.name: field.unit for field in layout.fields}
    return {name: between(own[name], unit, name) for name, unit in units.items() if own[name] not in ("1", unit)}


def _converted_field(field: FieldInfo, scales: Mapping[str, Scale], units: Mapping[str, str]) -> FieldInfo:
    scale = scales.get(field.name, Scale())
    sides = {axis: tuple(_rule(rule, scale, field) for rule in pair) for axis, pair in field.boundary.sides.items()}
    return attrs.evolve(field, boundary=Boundary(sides=cast("Any", sides)), unit=units.get(field.name, field.unit))


def _rule(rule: Rule, scale: Scale, field: FieldInfo) -> Rule:
    """Return the boundary condition of the converted field."""
    if rule.kind == "constant":
        many = isinstance(rule.value, tuple)
        values = tuple(scale.factor * v + scale.offset for v in cast("Any", rule.value if many else (rule.value,)))
        return attrs.evolve(rule, value=values if many else values[0])
    if rule.normal is not None and rule.tangential is not None:
        normal, tangential = (_rule(part, scale, field) for part in (rule.normal, rule.tangential))
        return attrs.evolve(rule, normal=normal, tangential=tangential)
    if scale.offset and rule.kind in ("antisymmetric", "antireflect"):
        raise DataError(
            f"the boundary {rule.kind!r} changes the sign of {field.name!r}, which an offset of {scale.offset:g} does "
            "not allow: convert without an offset",
            key=f"data.scale.{field.name}",
        )
    return rule
