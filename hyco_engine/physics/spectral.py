"""Real Fourier transforms of torch tensors on periodic grids: derivatives, products without aliasing, projection.

Spectra are those of `torch.fft.rfftn` over all space axes: `[..., n_1, ..., n_d // 2 + 1]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.errors import DataError


class Spectrum:
    """Transforms on one grid and its wave numbers. A step creates it in the state's type."""

    def __init__(self, grid: Grid, like: Tensor) -> None:
        real = like.real.dtype if like.is_complex() else like.dtype
        self.shape = grid.resolution
        self.axes = tuple(range(-len(self.shape), 0))
        numbers = [self._numbers(axis, like.device) for axis in self.axes]
        lengths = [upper - lower for lower, upper in zip(grid.lower, grid.upper, strict=True)]
        waves = [2 * math.pi / length * n for n, length in zip(numbers, lengths, strict=True)]
        self.square = _sum([wave.square() for wave in waves]).to(real)
        """`|k|^2`."""
        self._every = [wave.to(real) for wave in waves]
        # the derivative of the shortest wave is zero at all grid points
        self.waves = [
            torch.where(2 * n.abs() == size, 0.0, wave).to(real)
            for wave, n, size in zip(waves, numbers, self.shape, strict=True)
        ]
        """The wave number k along each axis, for derivatives."""
        self.resolved = _product([3 * n.abs() < size for n, size in zip(numbers, self.shape, strict=True)]).to(real)
        """1 for the lower two thirds of the waves along each axis, else 0. Products of such waves have no aliases."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the spectrum of values `[..., *S]`."""
        spectrum: Tensor = torch.fft.rfftn(values, dim=self.axes)
        return spectrum

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the values `[..., *S]` of a spectrum."""
        values: Tensor = torch.fft.irfftn(spectrum, s=self.shape, dim=self.axes)
        return values

    def derivative(self, spectrum: Tensor, axis: int) -> Tensor:
        """Return the spectrum of the derivative along axis number `axis`."""
        return 1j * self.waves[axis] * spectrum

    def symbol(self, orders: Sequence[int]) -> Tensor:
        """Return the factor `(ik)^n` of a partial derivative of these orders along each axis; real if n is even."""
        total = torch.ones((), dtype=self.square.dtype, device=self.square.device)
        for axis, n in enumerate(orders):
            if n:
                total = total * (self.waves if n % 2 else self._every)[axis] ** n
        turns = sum(orders) % 4
        return total * (1, 1j, -1, -1j)[turns]

    @cached_property
    def length(self) -> Tensor:
        """`|k|` of the wave numbers for derivatives."""
        return _sum([wave.square() for wave in self.waves]).sqrt()

    @cached_property
    def across(self) -> Tensor:
        """The unit vector `(-k_y, k_x) / |k|`, `[2, *waves]` in two dimensions: a velocity without divergence has it.

        It is zero for the mean, and for the shortest waves, whose derivatives are zero.
        """
        x, y = (wave.expand_as(self.length) for wave in self.waves)
        return torch.stack([-y, x]) / torch.where(self.length == 0, 1.0, self.length)

    def _numbers(self, axis: int, device: torch.device) -> Tensor:
        """Return the integer wave numbers along an axis, shaped to broadcast over the spectrum."""
        n = self.shape[axis]
        if axis == -1:
            numbers = torch.arange(n // 2 + 1, device=device, dtype=torch.float64)
        else:
            index = torch.arange(n, device=device, dtype=torch.float64)
            numbers = torch.where(2 * index > n, index - n, index)
        return numbers.reshape([-1 if other == axis else 1 for other in self.axes])


def require_periodic(layout: StateLayout, kind: str) -> None:
    """Raise DataError if a dynamic field is not periodic along an axis."""
    for field in layout.dynamic:
        for axis in layout.grid.axes:
            if not field.boundary.is_periodic(axis):
                raise DataError(
                    f"{kind} is solved in a periodic box, but the boundary of {field.name!r} along {axis} is "
                    f'{field.boundary.to_data()[axis]["lower"]!r}: set boundary = "periodic" if the data are periodic, '
                    "or choose another kind",
                    key="data.boundary",
                )


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _product(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total & part
    return total
