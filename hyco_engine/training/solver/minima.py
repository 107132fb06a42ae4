"""What searches from several starts found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Minimum:
    """Where some of the searches ended; `values` are the parameters there, of a field its mean."""

    loss: float
    starts: int
    converged: bool
    values: Mapping[str, float]


@attrs.frozen(kw_only=True)
class Minima:
    """Where `starts` searches ended: `minima`, the best first; the `lost` ones never had a finite loss."""

    starts: int
    lost: int
    minima: tuple[Minimum, ...]
    spread: Mapping[str, tuple[float, float]]
    """Smallest and largest value over the ends of all starts that were not lost."""

    @property
    def message(self) -> str | None:
        """What the user should know; None where all searches ended in one minimum."""
        parts = []
        if len(self.minima) > 1:
            best, *others = self.minima
            told = "; ".join(f"{_told(m.values)} with loss {m.loss:.3g} ({m.starts} starts)" for m in others[:4])
            parts.append(
                f"{len(self.minima)} minima were found from {self.starts} starts. The lowest is {_told(best.values)} "
                f"with loss {best.loss:.3g} ({best.starts} starts); others: {told}"
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


def _told(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} = {value:.4g}" for name, value in dict(values).items())
