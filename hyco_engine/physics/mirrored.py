"""Fourier transforms of fields that continue evenly or oddly beyond their sides: cosine and sine transforms in one.

Such a continuation is periodic, and central differences of even order keep its symmetry: the transform of one period
makes them products with their symbols, exactly as differences with these ghost cells are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyco_engine.data.fields import Grid, Rule

Sides = tuple[Rule, Rule]
_HALF = {"zero-gradient": 1, "symmetric": 1, "antisymmetric": -1}
"""The parity of the continuation about the outer face of the last cell."""


def mirrors(sides: Sides) -> bool:
    """Return whether continuation by these rules is periodic."""
    return all(rule.kind == "periodic" or _parity(rule) is not None for rule in sides)


def _parity(rule: Rule) -> tuple[float, int] | None:
    """Return how far beyond the last cell the mirror is, and its parity; None for a rule without one."""
    if rule.kind in _HALF:
        return 0.5, _HALF[rule.kind]
    # the first cell beyond the side has the value
    return (1.0, -1) if rule.kind == "constant" and rule.value == 0.0 else None


class Mirrored:
    """Transforms of values `[..., *S]`, whose spectra are those of one period of their continuation."""

    def __init__(self, grid: Grid, sides: Sequence[Sides], like: Tensor) -> None:
        self.shape = grid.resolution
        self.axes = tuple(range(-len(self.shape), 0))
        self._maps = [_period(n, own) for n, own in zip(self.shape, sides, strict=True)]
        self._periods = tuple(len(index) for index, _ in self._maps)
        self._seconds = []
        for axis, (period, dx) in enumerate(zip(self._periods, grid.spacing, strict=True)):
            count = period // 2 + 1 if axis == len(self.shape) - 1 else period
            theta = 2 * math.pi / period * torch.arange(count, dtype=torch.float64, device=like.device)
            second = (16 * torch.cos(theta) - torch.cos(2 * theta) - 15) / (6 * dx**2)
            self._seconds.append(second.reshape([-1 if other == axis else 1 for other in range(len(self.shape))]))
        self._like = like
        self.shape_of = torch.Size((*self._periods[:-1], self._periods[-1] // 2 + 1))
        """The shape of a spectrum along the axes."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the spectrum of values."""
        for axis, (index, sign) in zip(self.axes, self._maps, strict=True):
            if len(index) != values.shape[axis]:
                shape = [-1 if other == axis else 1 for other in self.axes]
                found = values.index_select(axis, torch.tensor(index, device=values.device))
                values = found * torch.tensor(sign, dtype=values.dtype, device=values.device).reshape(shape)
        spectrum: Tensor = torch.fft.rfftn(values, dim=self.axes)
        return spectrum

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the values of a spectrum."""
        values: Tensor = torch.fft.irfftn(spectrum, s=self._periods, dim=self.axes)
        for axis, n in zip(self.axes, self.shape, strict=True):
            values = values.narrow(axis, 0, n)
        return values

    def symbol(self, orders: Sequence[int]) -> Tensor:
        """Return the factor of central differences of these even orders along each axis."""
        total = torch.ones((), dtype=torch.float64, device=self._like.device)
        for n, second in zip(orders, self._seconds, strict=True):
            total = total * second ** (n // 2)
        return total.to(self._like.dtype)


def _period(n: int, sides: Sides) -> tuple[list[int], list[float]]:
    """Return the cells of which one period of the continuation consists, and the factor of each."""
    lower, upper = (_parity(rule) for rule in sides)
    if lower is None or upper is None:
        return list(range(n)), [1.0] * n
    start, end = -lower[0], n - 1 + upper[0]
    length = round((2 if lower[1] == upper[1] else 4) * (end - start))
    index, sign = [], []
    for place in range(length):
        at, factor = float(place), 1.0
        while not 0 <= at <= n - 1:
            mirror, parity = (end, upper[1]) if at > n - 1 else (start, lower[1])
            if at == mirror:
                # an odd function is 0 at its mirror
                at, factor = 0.0, 0.0
            else:
                at, factor = 2 * mirror - at, factor * parity
        index.append(round(at))
        sign.append(factor)
    return index, sign
