"""Residual network of the fields of a system without space.

Step            u(t + dt) = u(t) + s N(x), x the state by its mean and spread, s the spread of one step's change
Network         linear, `blocks` of h + linear(act(linear(act(h)))), linear; no normalisation layers
Sees            all fields, dynamic and static, and the numbers of the simulation
Take it         for data without space, such as time series; resnet is the same network for fields on a grid

References      K. He et al. (2016), Identity mappings in deep residual networks
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyco_engine.builtin.models.increment import IncrementNet, assemble
from hyco_engine.builtin.models.options_synthetic import ResNetOptions
from hyco_engine.builtin.models.resnet import ResNetBody
from hyco_engine.errors import DataError

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import MlpOptions
    from hyco_engine.interfaces import SurrogateContext


def build(options: MlpOptions, context: SurrogateContext) -> IncrementNet:
    """Build the surrogate `mlp`. Raise DataError for fields on a grid."""
    if context.layout is not None and context.layout.n_axes:
        raise DataError(
            'the surrogate "mlp" is for data without space, and these are fields on a grid: use kind = "resnet"',
            key="synthetic.kind",
        )
    # without axes of space, a convolution is a linear map of the channels
    same = ResNetOptions(width=options.width, blocks=options.blocks, activation=options.activation)
    return assemble(lambda layout, n_in: ResNetBody(same, layout, n_in), same, context, "mlp")
