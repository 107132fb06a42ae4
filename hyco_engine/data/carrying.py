"""A source whose states carry the scalars of their simulation, so that models know them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import SampleSource, Trajectory, TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.settings import FieldsScheme
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.checking import did_you_mean

_NO_PARAMETER = re.compile(r"(.*[._ ])?(seed|index|id|number)", re.IGNORECASE)
"""Names of numbers that tell simulations apart, and say nothing of what happens in them."""


def carrying(
    source: TrajectorySource | SampleSource, scheme: FieldsScheme, needed: Mapping[str, str]
) -> TrajectorySource | SampleSource:
    """Return the source whose states carry the scalars that `[data.fields]` names, and those `needed`: name -> key.

    By default these are the scalars that differ between simulations, but for seeds and indices. Raises DataError or
    SpecError, at the key that needs it, where a scalar is unknown.
    """
    listed = () if scheme.scalars == "auto" else scheme.scalars
    if isinstance(source, SampleSource):
        if listed:
            raise SpecError("scalars belong to simulations, and this data consists of samples", key=_KEY)
        return source
    static = {field.name for field in source.layout.static}
    wanted = {name: _KEY for name in listed} | {name: key for name, key in needed.items() if name not in static}
    known = source.scalars(0)
    for name, key in wanted.items():
        if name not in known:
            has = f"they have {', '.join(known)}" if known else "they have none; a table or data.scalars can name them"
            raise DataError(
                f"the simulations have no number {name!r}{did_you_mean(name, known)} ({has})", key=key
            )
    chosen = list(_varying(source)) if scheme.scalars == "auto" else list(listed)
    chosen += [name for name in wanted if name not in chosen]
    return _Carrying(source, chosen) if chosen else source


_KEY = "data.fields.scalars"


def _varying(source: TrajectorySource) -> Sequence[str]:
    """Return the scalars that differ between simulations and are no fields of the data."""
    every = [source.scalars(index) for index in range(source.num_simulations)]
    fields = {field.name for field in source.layout.fields}
    return [
        name
        for name in every[0]
        if name not in fields and not _NO_PARAMETER.fullmatch(name) and len({own[name] for own in every}) > 1
    ]


class _Carrying(DerivedSource):
    """A source with one more static field for each of the scalars `names`, which holds the simulation's own number."""

    def __init__(self, source: TrajectorySource, names: Collection[str]) -> None:
        super().__init__(source)
        old = source.layout
        if both := [name for name in names if name in {field.name for field in old.fields}]:
            raise DataError(
                f"{both[0]!r} is a field of the data and a number of each simulation: give the number another name "
                f'with data.scalars, such as {{{both[0]}_0 = "{both[0]}"}}',
                key=_KEY,
            )
        self._names = tuple(names)
        uniform = tuple(FieldInfo.uniform(name, old.grid.axes) for name in names)
        self.layout = StateLayout(grid=old.grid, dynamic=old.dynamic, static=old.static + uniform)

    def fingerprint(self) -> str:
        own = [[self.scalars(index)[name] for name in self._names] for index in range(self.num_simulations)]
        return hashlib.sha256(f"{self._names} {own} {self.source.fingerprint()}".encode()).hexdigest()

    def load(self, index: int) -> Trajectory:
        return self._with_scalars(self.source.load(index), index)

    def glimpse(self) -> Trajectory | None:
        seen = self.source.glimpse()
        return None if seen is None else self._with_scalars(seen, 0)

    def _with_scalars(self, trajectory: Trajectory, index: int) -> Trajectory:
        scalars = self.scalars(index)
        own = torch.tensor([scalars[name] for name in self._names], dtype=torch.float64)
        space = self.layout.spatial
        uniform = own.reshape(-1, *[1] * len(space)).expand(-1, *space)
        static: Tensor = torch.cat([trajectory.static.double(), uniform])
        return attrs.evolve(trajectory, static=static)
