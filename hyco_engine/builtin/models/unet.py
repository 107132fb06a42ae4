"""U-Net on the grid.

Step            u(t + dt) = u(t) + s N(x), x the state by its mean and spread, s the spread of one step's change
Network         `levels` halvings of the resolution with doubled channels, as many doublings, skips between equals; no
                normalisation layers, so that every sample is computed alone
Sees            about 2^levels times as far as its kernels: the whole domain with few levels
Boundary        states are padded by their boundary condition, features by the same rule without values; any resolution
                of at least 2^(levels + 1) cells
Equivariant     to shifts by 2^levels cells along periodic axes, unless `positions` makes cell positions an input
Take it         where one step acts over long distances: pressure, fast waves, long time steps

References      O. Ronneberger et al. (2015), U-Net: convolutional networks for biomedical image segmentation
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from hyco_engine.builtin.models.increment import OUTPUT_GAIN, Convolution, IncrementNet, activation, assemble
from hyco_engine.builtin.models.padding import FeaturePadding, for_convolutions, of_image
from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.errors import SpecError

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import UNetOptions
    from hyco_engine.interfaces import SurrogateContext


NARROW, WIDE = 16, 32
"""The widths from which the engine chooses."""
LEVELS = 2
MOST_LEVELS = 5
COARSE = 128
"""Fine grids have more than `LEVELS` levels, so that the coarsest has about so many cells along the shortest axis.

What moves on a fine grid is many cells long, and a network with few levels sees only a part of it.
"""


class DoubleConvolution(nn.Module):
    """Two convolutions, each followed by the nonlinearity."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        options: UNetOptions,
        padding: FeaturePadding,
        dims: int,
        *,
        padded: bool = False,
    ) -> None:
        super().__init__()
        kernel = options.kernel_size
        self.first = Convolution(n_in, n_out, kernel, dims, padding=None if padded else padding)
        self.second = Convolution(n_out, n_out, kernel, dims, padding=padding)
        self.act = activation(options.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x))))


class UNetBody(nn.Module):
    """`levels` halvings with doubled channels, as many doublings, skips (Ronneberger et al. 2015).

    Halving is the mean over pairs of cells, doubling repeats cells. Where a level has an odd number of cells,
    one more is added by the boundary rule before halving and cropped after doubling, so that every resolution
    fits; at such a level a periodic axis has a seam of half a coarse cell. It has no normalisation layers, so every
    sample is computed alone.
    """

    def __init__(self, options: UNetOptions, levels: int, width: int, layout: StateLayout, n_in: int) -> None:
        super().__init__()
        self.dims = dims = len(layout.grid.axes)
        self.padding = FeaturePadding(layout)
        widths = [width * 2**level for level in range(levels + 1)]
        pairs = list(itertools.pairwise(widths))
        self.entry = DoubleConvolution(n_in, widths[0], options, self.padding, dims, padded=True)
        pad = self.padding
        self.down = nn.ModuleList(DoubleConvolution(a, b, options, pad, dims) for a, b in pairs)
        self.up = nn.ModuleList(DoubleConvolution(a + b, a, options, pad, dims) for a, b in reversed(pairs))
        self.exit = Convolution(widths[0], layout.n_dynamic, options.kernel_size, dims, padding=self.padding)
        self.exit.gain = OUTPUT_GAIN

    def forward(self, x: Tensor) -> Tensor:
        h = self.entry(for_convolutions(x))
        skips = []
        for block in self.down:
            skips.append(h)
            h = block(halve(self.padding(h, [(0, n % 2) for n in h.shape[-self.dims :]]), self.dims))
        for block, skip in zip(self.up, reversed(skips), strict=True):
            h = block(torch.cat((crop(double(h, self.dims), skip.shape[2:]), skip), dim=1))
        out: Tensor = self.exit(h)
        return of_image(out, x)


def halve(x: Tensor, dims: int) -> Tensor:
    """Return the means over pairs of cells along the last `dims` axes of `[B, C, *S]`, whose lengths are even."""
    pool = functional.avg_pool2d if x.dim() == 4 else functional.avg_pool3d
    return pool(x, [1] * (x.dim() - 2 - dims) + [2] * dims)


def double(x: Tensor, dims: int) -> Tensor:
    """Return `[B, C, *S]` with each cell repeated once along the last `dims` axes."""
    size = [*x.shape[2:-dims], *(2 * n for n in x.shape[-dims:])]
    return functional.interpolate(x, size=size, mode="nearest")


def crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the first `shape` cells of `[B, C, *S]`."""
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, 0, n)
    return x


def settled(options: UNetOptions, context: SurrogateContext) -> UNetOptions:
    """Return the options with levels that the grid allows, and the widest network whose steps fit into the budget."""
    levels, width = _size(options, context.layout, context.operations)
    return cast("UNetOptions", attrs.evolve(cast("Any", options), levels=levels, width=width))


def _size(options: UNetOptions, layout: StateLayout | None, most: float | None) -> tuple[int, int]:
    """Return levels and width; a width that is left open costs `most` operations for each sample, or is the least."""
    levels, width = options.levels, options.width
    if levels == "auto":
        levels = _levels(min(layout.grid.resolution, default=COARSE) if layout is not None else COARSE)
    if width == "auto":
        fits = layout is not None and most is not None and _operations(options, layout, levels, WIDE) <= most
        width = WIDE if fits else NARROW
    return levels, width


def _levels(cells: int) -> int:
    """Return the number of levels for a grid with so many cells along its shortest axis."""
    if cells < 8:
        return 1
    return max(LEVELS, min(MOST_LEVELS, round(math.log2(cells / COARSE))))


def _operations(options: UNetOptions, layout: StateLayout, levels: int, width: int) -> int:
    """Return the number of operations, forward and backward, that the convolutions spend on one sample."""
    cells = [math.prod(math.ceil(n / 2**level) for n in layout.spatial) for level in range(levels + 1)]
    widths = [width * 2**level for level in range(levels + 1)]
    products: int = cells[0] * width * (layout.n_all + width + layout.n_dynamic)
    for (fine, a), (coarse, b) in itertools.pairwise(zip(cells, widths, strict=True)):
        products += coarse * b * (a + b) + fine * a * (a + b + a)
    # a product and a sum each, once forward and twice backward
    taps = math.prod([options.kernel_size] * len(layout.grid.axes))
    return 6 * taps * products


def _check_size(grid: Grid, levels: int) -> None:
    needed = 2 ** (levels + 1)
    axis, cells = min(zip(grid.axes, grid.resolution, strict=True), key=lambda pair: pair[1])
    if cells >= needed:
        return
    fits = cells.bit_length() - 2
    remedy = f"set levels = {fits}" if fits >= 1 else 'use kind = "resnet"'
    raise SpecError(
        f"{levels} levels need {needed} or more cells along each axis, and axis {axis} has {cells}: {remedy}",
        key="synthetic.levels",
    )


def build(options: UNetOptions, context: SurrogateContext) -> IncrementNet:
    """Build the surrogate `unet`.

    Without `positions` it is equivariant to shifts by multiples of `2^levels` cells along periodic axes whose
    resolution is such a multiple.
    Raise SpecError where the coarsest level would hold less than two cells along an axis.
    """
    levels, width = _size(options, context.layout, context.operations)
    if context.layout is not None and context.layout.n_axes:
        _check_size(context.layout.grid, levels)
    return assemble(lambda layout, n_in: UNetBody(options, levels, width, layout, n_in), options, context, "unet")
