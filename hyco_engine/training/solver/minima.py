"""The minima that searches from several starts find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Minimum:
    """A point at which some of the searches ended; `values` are the parameters there, for a field its mean."""

    loss: float
    starts: int
    converged: bool
    values: Mapping[str, float]


@attrs.frozen(kw_only=True)
class Minima:
    """The ends of `starts` searches: the `minima`, best first, and the number `lost` without any finite loss."""

    starts: int
    lost: int
    minima: tuple[Minimum, ...]
    spread: Mapping[str, tuple[float, float]]
    """Smallest and largest value over the ends of all starts that were not lost."""

    @property
    def message(self) -> str | None:
        """A message to the user; None if all searches ended in one minimum."""
        parts = []
        if len(self.minima) > 1:
            best, *others = self.minima
            rest = "; ".join(f"{_text(m.values)} with loss {m.loss:.3g} ({m.starts} starts)" for m in others[:4])
            parts.append(
                f"{len(self.minima)} minima were found from {self.starts} starts. The lowest is {_text(best.values)} "
                f"with loss {best.loss:.3g} ({best.starts} starts); others: {rest}"
            )
        if self.lost:
            parts.append(f"{self.lost} of {self.starts} starts were lost: the loss is not finite there")
        return ". ".join(parts) or None

    def to_data(self) -> dict[str, Any]:
        """Return plain values."""
        return attrs.asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Minima:
        """Return the object of which `data` are the plain values."""
        return cls(**{**data, "minima": tuple(Minimum(**minimum) for minimum in data["minima"])})


def _text(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in dict(values).items())
