"""A source whose states carry the scalars of their simulation, so that models know them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence

import attrs
import torch

from hyco_engine.data.contracts import Trajectory, TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.fields import SIMULATION, TIME, FieldInfo, StateLayout
from hyco_engine.data.settings import FieldsScheme
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean

_NO_PARAMETER = re.compile(r"(.*[._ ])?(seed|index|id|number)", re.IGNORECASE)
"""Names of numbers that tell simulations apart, and say nothing of what happens in them."""


_KEY = "data.fields.scalars"


def carrying(
    source: TrajectorySource,
    scheme: FieldsScheme,
    given: Mapping[str, str],
    found: Mapping[str, str],
    *,
    time: bool = False,
) -> TrajectorySource:
    """Return the source whose states carry the scalars that `[data.fields]` names, and those that parameters need.

    By default these are the scalars that differ between simulations, but for seeds and indices. `given` has the scalars
    that parameters take from the data, by the key that names them. `found` has the parameters that are learned for each
    group of simulations, and the name of the index of their groups: `SIMULATION`, or a label. A state carries that
    index, and room for the value. With `time`, a state also carries its time. Raises DataError, at the key that needs
    it, for what is unknown.
    """
    static = {field.name for field in source.layout.static}
    listed = () if scheme.scalars == "auto" else scheme.scalars
    wanted = dict.fromkeys(listed, _KEY) | {name: key for key, name in given.items() if name not in static}
    known = source.scalars(0)
    for name, key in wanted.items():
        if name not in known:
            has = f"they have {', '.join(known)}" if known else "they have none; a table or data.scalars can name them"
            raise DataError(f"the simulations have no number {name!r}{did_you_mean(name, known)} ({has})", key=key)
        for index in range(source.num_simulations):
            if not math.isfinite(value := source.scalars(index)[name]):
                raise DataError(f"simulation {index} has {name} = {value}, and models need a finite number", key=key)
        if name in found.values():
            raise DataError(
                f"{name!r} names the groups of {' and '.join(own for own in found if found[own] == name)}, so models "
                f'cannot get it as a number too: give it a second name with data.scalars = {{{name} = "{name}", '
                f'{name}_value = "{name}"}}, and take {name}_value',
                key=key,
            )
    chosen = [*_varying(source)] if scheme.scalars == "auto" else []
    groups = {index: groups_of(source, index) for index in dict.fromkeys(found.values())}
    names = [name for name in dict.fromkeys((*chosen, *wanted)) if name not in found and name not in groups]
    return _Carrying(source, names, found, groups, time=time) if names or found or time else source


def _varying(source: TrajectorySource) -> Sequence[str]:
    """Return the finite scalars that differ between simulations and are no fields of the data."""
    every = [source.scalars(index) for index in range(source.num_simulations)]
    fields = {field.name for field in source.layout.fields}
    return [
        name
        for name in every[0]
        if name not in fields
        and not _NO_PARAMETER.fullmatch(name)
        and all(math.isfinite(own[name]) for own in every)
        and len({own[name] for own in every}) > 1
    ]


def groups_of(source: TrajectorySource, name: str) -> list[str]:
    """Return the name of the group of each simulation. Raises DataError."""
    every = range(source.num_simulations)
    if name == SIMULATION:
        return [str(index) for index in every]
    found = []
    for index in every:
        own: Mapping[str, object] = {**source.scalars(index), **source.labels(index)}
        if name not in own:
            raise DataError(
                f"simulation {index} has no group {name!r}{did_you_mean(name, own)} (it has "
                f"{', '.join(own) or 'no label'})",
                key="physical.parameters",
            )
        found.append(str(own[name]))
    return found


class _Carrying(DerivedSource):
    """A source with further static fields.

    There is one for each of the scalars `names`, which holds the simulation's own number, one for each of the
    parameters `found`, which is 0, one for each index in `groups`, which has the group of each simulation, and one for
    the `time`.
    """

    def __init__(
        self,
        source: TrajectorySource,
        names: Sequence[str],
        found: Mapping[str, str],
        groups: Mapping[str, Sequence[str]],
        *,
        time: bool,
    ) -> None:
        super().__init__(source)
        old = source.layout
        if time and TIME in {field.name for field in old.fields}:
            raise DataError(
                f"{TIME!r} names a field of the data, and the time of a state, which the models get: give the field "
                f'another name, such as data.variables = {{ {TIME.upper()} = "{TIME}" }}',
                key="data.variables",
            )
        new = (*names, *found, *groups, *((TIME,) if time else ()))
        if both := [name for name in new if name in {field.name for field in old.fields} or new.count(name) > 1]:
            raise DataError(
                f"{both[0]!r} names a field of the data and a number of each simulation: give the number another name "
                f'with data.scalars, such as {{{both[0]}_0 = "{both[0]}"}}',
                key=_KEY,
            )
        self._names, self._found, self._has_time = tuple(names), tuple(found), time
        places = {name: {group: k for k, group in enumerate(dict.fromkeys(own))} for name, own in groups.items()}
        self._groups = {name: [places[name][group] for group in own] for name, own in groups.items()}
        axes = old.grid.axes
        static = [
            *(FieldInfo.uniform(name, axes) for name in names),
            *(FieldInfo.uniform(name, axes, by=index) for name, index in found.items()),
            *(FieldInfo.index(name, axes, list(own)) for name, own in places.items()),
            *((FieldInfo.time(axes, source.dt),) if time else ()),
        ]
        self.layout = StateLayout(grid=old.grid, dynamic=old.dynamic, static=old.static + tuple(static))

    def fingerprint(self) -> str:
        own = [self._numbers(index) for index in range(self.num_simulations)]
        described = f"{[field.to_data() for field in self.layout.static]} {own} {self.source.fingerprint()}"
        return hashlib.sha256(described.encode()).hexdigest()

    def _numbers(self, index: int) -> list[float]:
        scalars = self.scalars(index)
        return [
            *(float(scalars[name]) for name in self._names),
            *(0.0 for _ in self._found),
            *(float(own[index]) for own in self._groups.values()),
            *((self.start(index),) if self._has_time else ()),
        ]

    def changed(self, trajectory: Trajectory, index: int) -> Trajectory:
        own = torch.tensor(self._numbers(index), dtype=torch.float64)
        space = self.layout.spatial
        uniform = own.reshape(-1, *[1] * len(space)).expand(-1, *space)
        return attrs.evolve(trajectory, static=torch.cat([trajectory.static.double(), uniform]))
