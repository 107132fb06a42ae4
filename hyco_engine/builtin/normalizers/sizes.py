"""The sizes of a batch's loss terms over all ranks, by one fused sum and one transfer to the host a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import LossTerm

TINY = torch.finfo(torch.float32).tiny
"""Lower limit of all sizes that something is divided by."""


@attrs.frozen
class Sizes:
    """Sums over the samples b of one term, with weights w_b and losses l_b. Samples of weight 0 are left out."""

    weight: float = 0.0
    """sum w"""
    loss: float = 0.0
    """sum w l"""
    square: float = 0.0
    """sum w l^2"""
    samples: float = 0.0
    """Number of samples with w > 0."""

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(*(a + b for a, b in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))

    @property
    def finite(self) -> bool:
        return math.isfinite(self.weight) and math.isfinite(self.loss)

    @property
    def mean(self) -> float:
        """Return L = sum w l / sum w."""
        return self.loss / self.weight

    @property
    def rms(self) -> float:
        """Return sqrt(sum w l^2 / sum w)."""
        return math.sqrt(self.square / self.weight)

    @property
    def std(self) -> float:
        """Return sqrt(sum w (l - L)^2 / sum w)."""
        return math.sqrt(max(self.square / self.weight - self.mean**2, 0.0))


def weighted(term: LossTerm) -> tuple[Tensor, Tensor]:
    """Return `w [B]` and `w l [B]`; a sample of weight 0 adds nothing, whatever its loss."""
    if term.sample_weight is None:
        return torch.ones_like(term.per_sample), term.per_sample
    weight = term.sample_weight
    return weight, torch.where(weight > 0, weight * term.per_sample, 0.0)


def global_sizes(
    names: Sequence[str], terms: Mapping[str, LossTerm], reduce_sum: Callable[[Tensor], Tensor]
) -> dict[str, Sizes]:
    """Return the sizes of the terms `names` over all ranks; for a term that it lacks, this rank adds zeros.

    All ranks must give the same names in the same order.
    """
    device = next((term.per_sample.device for term in terms.values()), torch.device("cpu"))
    # float32 overflows in the squares of losses above 1e19
    dtype = torch.float32 if device.type == "mps" else torch.float64
    nothing = torch.zeros(4, dtype=dtype, device=device)
    rows = [_sums(terms[name], dtype) if name in terms else nothing for name in names]
    if not rows:
        return {}
    found = reduce_sum(torch.stack(rows).flatten()).reshape(-1, 4).tolist()
    return {name: Sizes(*row) for name, row in zip(names, found, strict=True)}


def _sums(term: LossTerm, dtype: torch.dtype) -> Tensor:
    loss = term.per_sample.detach().to(dtype)
    if term.sample_weight is None:
        count = torch.full_like(loss[:0].sum(), len(loss))
        return torch.stack([count, loss.sum(), loss.square().sum(), count])
    weight = term.sample_weight.detach().to(dtype)
    there = weight > 0
    loss = torch.where(there, loss, 0.0)
    return torch.stack([weight.sum(), (weight * loss).sum(), (weight * loss.square()).sum(), there.sum().to(dtype)])
