"""The base of sources that change what another source gives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hyco_engine.data.contracts import Points, Trajectory, TrajectorySource
from hyco_engine.data.settings import Split


class DerivedSource(TrajectorySource):
    """Gives all that `source` gives, as it is; a subclass overrides what it changes, such as `changed`."""

    def __init__(self, source: TrajectorySource) -> None:
        self.source = source
        self.layout, self.dt, self.num_simulations = source.layout, source.dt, source.num_simulations
        self.guesses_scalars = source.guesses_scalars
        self.marks_missing = source.marks_missing
        self.guesses_start = source.guesses_start

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self.source.truth

    @property
    def split(self) -> Split | None:
        return self.source.split

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def changed(self, trajectory: Trajectory, index: int) -> Trajectory:
        """Return what is made of simulation `index` of the source."""
        return trajectory

    def changed_points(self, points: Points) -> Points:
        """Return what is made of observations of the source."""
        return points

    def load(self, index: int) -> Trajectory:
        return self.changed(self.source.load(index), index)

    def points(self, index: int) -> Points | None:
        points = self.source.points(index)
        return None if points is None else self.changed_points(points)

    def frames(self, index: int) -> int | None:
        return self.source.frames(index)

    def read_whole(self, index: int) -> int:
        return self.source.read_whole(index)

    def together(self, index: int) -> range:
        return self.source.together(index)

    def scalars(self, index: int) -> Mapping[str, float]:
        return self.source.scalars(index)

    def start(self, index: int) -> float:
        return self.source.start(index)

    def labels(self, index: int) -> Mapping[str, str]:
        return self.source.labels(index)

    def release(self) -> None:
        self.source.release()

    def glimpse(self) -> Trajectory | None:
        seen = self.source.glimpse()
        return None if seen is None else self.changed(seen, 0)

    def origin(self, field: str, index: int) -> str:
        return self.source.origin(field, index)
