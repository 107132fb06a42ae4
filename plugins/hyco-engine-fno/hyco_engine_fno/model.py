"""Fourier neural operator (Li et al. 2021, "Fourier neural operator for parametric partial differential equations",
arXiv 2010.08895)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyco_engine.builtin.models.increment import OUTPUT_GAIN, Convolution, IncrementNet, activation, positions
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine_fno.spectral import SpectralConvolution

if TYPE_CHECKING:
    from hyco_engine.interfaces import SurrogateContext
    from hyco_engine_fno import FNOOptions


class FourierLayer(nn.Module):
    """`K h + W h`: K acts over long distances through low frequencies, W point by point."""

    def __init__(self, width: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(width, width, modes)
        self.pointwise = Convolution(width, width, 1, len(modes))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights with which the output has the size of the input, once the nonlinearity halves the variance."""
        self.spectral.initialise(generator, gain=1.0)
        self.pointwise.gain = 1.0
        self.pointwise.initialise(generator)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.spectral(h) + self.pointwise(h)
        return out


class FNOBody(nn.Module):
    """Lifts each point to features, applies Fourier layers with a nonlinearity between them, and projects each point.

    It maps `[B, n_in, *(S + 2 reach)]` to `[B, C_dyn, *S]`. `widths` are the samples beyond each side that it uses on
    each axis: transforms are periodic, and these samples keep the two sides of an open axis apart.
    """

    def __init__(self, options: FNOOptions, layout: StateLayout, n_in: int, modes: Sequence[int], reach: int) -> None:
        super().__init__()
        width, dims = options.width, layout.n_axes
        self.widths = padding_widths(layout, options.padding)
        self.reach = reach
        self.lift = Convolution(n_in, width, 1, dims)
        self.lift.gain = 1.0
        self.layers = nn.ModuleList(FourierLayer(width, modes) for _ in range(options.layers))
        self.project = Convolution(width, 2 * width, 1, dims)
        self.exit = Convolution(2 * width, layout.n_dynamic, 1, dims)
        self.exit.gain = OUTPUT_GAIN
        self.act = activation(options.activation)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from `generator`."""
        for part in (self.lift, *self.layers, self.project, self.exit):
            part.initialise(generator)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.lift(_cropped(x, [self.reach - width for width in self.widths]))
        for i, layer in enumerate(self.layers):
            h = layer(self.act(h) if i else h)
        h = _cropped(h, self.widths)
        out: Tensor = self.exit(self.act(self.project(h)))
        return out


def _cropped(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Return `x [B, C, *S]` without so many samples at both sides of each axis."""
    for axis, width in enumerate(widths, start=2):
        x = x.narrow(axis, width, x.shape[axis] - 2 * width)
    return x


def padding_widths(layout: StateLayout, share: float) -> list[int]:
    """Return the samples to add at either side of each axis: none where all dynamic fields are periodic."""
    return [
        0 if all(field.boundary.is_periodic(axis) for field in layout.dynamic) else math.ceil(share * n)
        for axis, n in zip(layout.grid.axes, layout.spatial, strict=True)
    ]


def checked_modes(options: FNOOptions, layout: StateLayout) -> tuple[int, ...]:
    """Return the modes for each axis. Raise SpecError for a wrong number of them, or if an axis cannot hold them."""
    axes, modes = layout.grid.axes, options.modes
    if len(modes) not in (1, len(axes)):
        raise SpecError(
            f"modes has {len(modes)} numbers, and the data {len(axes)} axes ({', '.join(axes)}): give one number for "
            "all axes or one for each",
            key="synthetic.modes",
        )
    modes = modes * len(axes) if len(modes) == 1 else modes
    for axis, m, n, width in zip(axes, modes, layout.spatial, padding_widths(layout, options.padding), strict=True):
        held = n + 2 * width
        if 2 * m - 1 > held:
            raise SpecError(
                f"{m} modes need {2 * m - 1} or more cells, and axis {axis} has {held}"
                f"{f', {2 * width} of them beyond its sides' if width else ''}: {(held + 1) // 2} at most",
                key="synthetic.modes",
            )
    return modes


def build(options: FNOOptions, context: SurrogateContext) -> IncrementNet:
    """Build the surrogate `fno`.

    Raise DataError for data without fields, SpecError for a grid too coarse for `modes`.
    """
    layout = context.layout
    if layout is None:
        raise DataError("the surrogate 'fno' needs fields on a grid, and this data has none", key="synthetic.kind")
    modes = checked_modes(options, layout)
    reach = max(padding_widths(layout, options.padding))
    where = positions(layout, reach) if options.positions else None
    body = FNOBody(options, layout, layout.n_all + (0 if where is None else len(where)), modes, reach)
    body.initialise(context.generator("weights", "synthetic"))
    net = IncrementNet(body, reach, layout, context.statistics, context.dtype, where)
    return net.to(device=context.device, dtype=context.dtype)
