"""What a spec makes of a source before fields are read: names of known numbers, and every k-th frame."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs

from hyco_engine.data.contracts import Points, Trajectory, TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.settings import SourceChoice
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean


def described(source: TrajectorySource, choice: SourceChoice) -> TrajectorySource:
    """Return the source with the frames and scalars that the spec asks for, or the source itself."""
    if choice.scalars:
        source = _Named(source, choice.scalars)
    return _Thinned(source, choice.every) if choice.every > 1 else source


class _Thinned(DerivedSource):
    """A source of which every k-th frame is used."""

    def __init__(self, source: TrajectorySource, every: int) -> None:
        super().__init__(source)
        self._every = every
        self.dt = source.dt * every

    def fingerprint(self) -> str:
        return hashlib.sha256(f"every {self._every} {self.source.fingerprint()}".encode()).hexdigest()

    def load(self, index: int) -> Trajectory:
        return self._thinned(self.source.load(index))

    def frames(self, index: int) -> int | None:
        count = self.source.frames(index)
        return None if count is None else -(-count // self._every)

    def points(self, index: int) -> Points | None:
        points = self.source.points(index)
        return None if points is None else attrs.evolve(points, frame=points.frame / self._every)

    def glimpse(self) -> Trajectory | None:
        seen = self.source.glimpse()
        return None if seen is None else self._thinned(seen)

    def _thinned(self, trajectory: Trajectory) -> Trajectory:
        # a copy, so that the other frames are not kept in memory
        return attrs.evolve(trajectory, dynamic=trajectory.dynamic[:: self._every].clone())


class _Named(DerivedSource):
    """A source some of whose scalars have other names."""

    def __init__(self, source: TrajectorySource, names: Mapping[str, str]) -> None:
        super().__init__(source)
        self._names = names
        known = source.scalars(0)
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
