"""Residual convolutional network on the grid.

Step            u(t + dt) = u(t) + s N(x), x the state by its mean and spread, s the spread of one step's change
Network         convolution, `blocks` of h + conv(act(conv(act(h)))), convolution; all at full resolution; no
                normalisation layers, so that every sample is computed alone
Sees            (2 blocks + 2) (kernel_size - 1) / 2 cells to each side with dilation 1; more with `dilations`
Boundary        states are padded by their boundary condition, features by the same rule without values
Equivariant     to shifts along periodic axes, unless `positions` makes cell positions an input
Take it         for one to three dimensions and steps in which nothing moves farther than the network sees

References      K. He et al. (2016), Identity mappings in deep residual networks; dilations: K. Stachenfeld et al.
                (2022), Learned coarse models for efficient turbulence simulation
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hyco_engine.builtin.models.increment import OUTPUT_GAIN, Convolution, IncrementNet, activation, assemble
from hyco_engine.builtin.models.padding import FeaturePadding, for_convolutions, of_image
from hyco_engine.data.fields import StateLayout

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import ResNetOptions
    from hyco_engine.interfaces import SurrogateContext


class ResidualBlock(nn.Module):
    """`h + conv(act(conv(act(h))))` (He et al. 2016, "Identity mappings in deep residual networks")."""

    def __init__(self, options: ResNetOptions, dilation: int, padding: FeaturePadding, dims: int) -> None:
        super().__init__()
        width, kernel = options.width, options.kernel_size
        self.first = Convolution(width, width, kernel, dims, dilation=dilation, padding=padding)
        self.second = Convolution(width, width, kernel, dims, dilation=dilation, padding=padding)
        # scaled down, since without normalisation layers the sum over blocks grows with their number
        self.second.gain = 1.0 / math.sqrt(options.blocks)
        self.act = activation(options.activation)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.second(self.act(self.first(self.act(h))))
        return out


class ResNetBody(nn.Module):
    """Input convolution, `blocks` residual blocks at full resolution, output convolution.

    It has no normalisation layers, so every sample is computed alone. With growing `dilations` it is the dilated ResNet
    of Stachenfeld et al. 2022, "Learned coarse models for efficient turbulence simulation".
    """

    def __init__(self, options: ResNetOptions, layout: StateLayout, n_in: int) -> None:
        super().__init__()
        dims, width, kernel = len(layout.grid.axes), options.width, options.kernel_size
        padding = FeaturePadding(layout)
        dilations = [options.dilations[i % len(options.dilations)] for i in range(options.blocks)]
        self.entry = Convolution(n_in, width, kernel, dims)
        self.entry.gain = 1.0
        self.blocks = nn.Sequential(*(ResidualBlock(options, d, padding, dims) for d in dilations))
        self.act = activation(options.activation)
        self.exit = Convolution(width, layout.n_dynamic, kernel, dims, padding=padding)
        self.exit.gain = OUTPUT_GAIN

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.exit(self.act(self.blocks(self.entry(for_convolutions(x)))))
        return of_image(out, x)


def build(options: ResNetOptions, context: SurrogateContext) -> IncrementNet:
    """Build the surrogate `resnet`. Without `positions` it is exactly equivariant to shifts along periodic axes."""
    return assemble(lambda layout, n_in: ResNetBody(options, layout, n_in), options, context, "resnet")
