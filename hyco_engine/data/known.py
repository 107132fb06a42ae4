"""What is known of each simulation as a whole: `[data.scalars]` gives the source's numbers names of the spec."""

from __future__ import annotations

from collections.abc import Mapping

from hyco_engine.data.contracts import TrajectorySource
from hyco_engine.data.derived import DerivedSource
from hyco_engine.data.settings import SourceChoice
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean


def described(source: TrajectorySource, choice: SourceChoice) -> TrajectorySource:
    """Return the source with the scalars that the spec names; the source itself if it names none."""
    return _Named(source, choice.scalars) if choice.scalars else source


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
