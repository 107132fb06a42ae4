"""Spectral convolution: a learned linear map of the lowest frequencies, independent of the resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SpectralConvolution(nn.Module):
    """`[B, n_in, *S] -> [B, n_out, *S]`: out(k) = W(k) in(k) for |k_a| < modes_a along every axis a, 0 beyond.

    in(k) are the coefficients of the Fourier series, so one weight fits every resolution. Along the last axis there are
    only the frequencies k >= 0, as in the transform of a real field; along the other axes k has both signs. Weights are
    real numbers `[K, n_in, n_out, 2]`, since casting a module to another precision would drop imaginary parts; they are
    unset until `initialise`.
    """

    def __init__(self, n_in: int, n_out: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        self.kept = (*(2 * m - 1 for m in self.modes[:-1]), self.modes[-1])
        self.weight = nn.Parameter(torch.empty(math.prod(self.kept), n_in, n_out, 2))

    def initialise(self, generator: torch.Generator, gain: float) -> None:
        """Draw normal weights that make each output frequency `gain` times the root mean square of the inputs."""
        std = gain / math.sqrt(2 * self.weight.shape[1])
        with torch.no_grad():
            self.weight.copy_(torch.empty(self.weight.shape).normal_(0.0, std, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        c = self._transform(x)
        # one matrix product for each frequency
        c = c.flatten(2).permute(2, 0, 1) @ torch.view_as_complex(self.weight)
        c = c.permute(1, 2, 0)
        return self._back(c.reshape(*c.shape[:2], *self.kept), sizes)

    def _transform(self, x: Tensor) -> Tensor:
        """Transform axis by axis, and drop the other frequencies at once."""
        last = x.dim() - 1
        c: Tensor = torch.fft.rfft(x, dim=last, norm="forward").narrow(last, 0, self.modes[-1])
        for axis in range(2, last):
            m = self.modes[axis - 2]
            c = torch.fft.fft(c, dim=axis, norm="forward")
            if m > 1:
                c = torch.cat([c.narrow(axis, 0, m), c.narrow(axis, c.shape[axis] - (m - 1), m - 1)], dim=axis)
            else:
                c = c.narrow(axis, 0, 1)
        return c

    def _back(self, c: Tensor, sizes: Sequence[int]) -> Tensor:
        last = c.dim() - 1
        for axis in range(2, last):
            m, n = self.modes[axis - 2], sizes[axis - 2]
            shape = list(c.shape)
            shape[axis] = n - shape[axis]
            nothing = c.new_zeros(shape)
            c = torch.cat([c.narrow(axis, 0, m), nothing, c.narrow(axis, m, m - 1)], dim=axis)
            c = torch.fft.ifft(c, dim=axis, norm="forward")
        x: Tensor = torch.fft.irfft(c, n=sizes[-1], dim=last, norm="forward")
        return x
