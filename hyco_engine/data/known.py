"""What a spec makes of a source before fields are read: names of known numbers, and every k-th frame."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import groupby

import attrs

from hyco_engine.data.contracts import Points, Trajectory, TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.joined import FILE
from hyco_engine.data.settings import SourceChoice
from hyco_engine.data.table import Row, SimulationTable, read_table
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean


def described(source: TrajectorySource, choice: SourceChoice, named: Iterable[str] = ()) -> TrajectorySource:
    """Return the source with the frames and scalars that the spec asks for, or the source itself.

    `named` are scalars that the spec names elsewhere than in `[data]`.
    """
    offered = source.scalars(0)
    if source.guesses_scalars:
        listed = () if choice.fields.scalars == "auto" else choice.fields.scalars
        source = _Only(source, {*choice.scalars.values(), *listed, choice.split.name, *named})
    if choice.table is not None:
        source = _Told(source, read_table(choice.table))
    if choice.scalars:
        source = _Named(source, choice.scalars, list({**offered, **source.scalars(0)}))
    return _Thinned(source, choice.every) if choice.every > 1 else source


class _Only(DerivedSource):
    """A source that guesses which of its numbers are scalars: only those count which the spec names."""

    def __init__(self, source: TrajectorySource, names: Set[str]) -> None:
        super().__init__(source)
        self._names = names

    def scalars(self, index: int) -> Mapping[str, float]:
        return {name: value for name, value in self.source.scalars(index).items() if name in self._names}


class _Told(DerivedSource):
    """A source of whose simulations a table tells more; it has the last word."""

    def __init__(self, source: TrajectorySource, table: SimulationTable) -> None:
        super().__init__(source)
        self._rows = _rows(table, source)

    def scalars(self, index: int) -> Mapping[str, float]:
        return {**self.source.scalars(index), **self._rows[index].scalars}

    def labels(self, index: int) -> Mapping[str, str]:
        return {**self.source.labels(index), **self._rows[index].labels}


def _rows(table: SimulationTable, source: TrajectorySource) -> list[Row]:
    """Return the row of each simulation: its own one, or the only one of its file."""
    total = range(source.num_simulations)
    if not table.files:
        if len(table.rows) != len(total):
            raise DataError(
                f"{table.path} has {len(table.rows)} rows, and the data {len(total)} simulations: give a row for each, "
                f"in their order, or name the files in a column `file`",
                key="data.table",
            )
        return list(table.rows)
    found: list[Row] = []
    for place, (name, group) in enumerate(groupby(source.labels(index).get(FILE, "") for index in total)):
        count = len(list(group))
        own = [row for row in table.rows if row.file == place]
        if len(own) not in (1, count):
            raise DataError(
                f"{table.path} has {len(own)} rows for {name or table.files[0].name}, which holds {count} simulations: "
                f"give one row for all of them, or one for each, in their order",
                key="data.table",
            )
        found += own * count if len(own) == 1 else own
    return found


class _Thinned(DerivedSource):
    """A source of which every k-th frame is used."""

    def __init__(self, source: TrajectorySource, every: int) -> None:
        super().__init__(source)
        self._every = every
        self.dt = source.dt * every

    def fingerprint(self) -> str:
        return hashlib.sha256(f"every {self._every} {self.source.fingerprint()}".encode()).hexdigest()

    def frames(self, index: int) -> int | None:
        count = self.source.frames(index)
        return None if count is None else -(-count // self._every)

    def changed_points(self, points: Points) -> Points:
        return attrs.evolve(points, frame=points.frame / self._every)

    def changed(self, trajectory: Trajectory, index: int) -> Trajectory:
        # a copy, so that the other frames are not kept in memory
        return attrs.evolve(trajectory, dynamic=trajectory.dynamic[:: self._every].clone())


class _Named(DerivedSource):
    """A source some of whose scalars have other names."""

    def __init__(self, source: TrajectorySource, names: Mapping[str, str], known: Sequence[str]) -> None:
        """`known` are the scalars that could be named. Raises DataError if another one is."""
        super().__init__(source)
        self._names = names
        for name, place in names.items():
            if place not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise DataError(
                    f"the data has no number {place!r} for each of its {self.num_simulations} simulations"
                    f"{did_you_mean(place, known)} ({has})",
                    key=f"data.scalars.{name}",
                )

    def scalars(self, index: int) -> Mapping[str, float]:
        found = self.source.scalars(index)
        kept = {name: value for name, value in found.items() if name not in self._names.values()}
        return kept | {name: found[place] for name, place in self._names.items()}
