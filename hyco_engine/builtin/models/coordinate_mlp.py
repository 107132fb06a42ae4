"""A surrogate that is a function of position and time: u(x, t), for observations at points.

Function        u(x, t), position and time scaled to -1..1, output by mean and spread of the data; one output a field
Network         `depth` layers of `width` with tanh
Boundary        none: the network knows only the observations that it was trained on
Take it         for sensors anywhere in space and time, of one simulation; it makes no steps, so it cannot begin from
                another initial state
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyco_engine.errors import DataError
from hyco_engine.interfaces import Predictor, TermSpec, Values

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import CoordinateMLPOptions
    from hyco_engine.data.fields import StateLayout
    from hyco_engine.interfaces import SurrogateContext


class CoordinateMLP(Predictor):
    """tanh layers from `{"position": [M, n_axes], "time": [M]}` to each dynamic field, `[M]` or `[M, components]`.

    Position is scaled to -1..1 over the domain, time to -1..1 over `duration`, the output by mean and spread of the
    data. It represents one simulation, the one that it was trained on.
    """

    origin: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, options: CoordinateMLPOptions, layout: StateLayout, context: SurrogateContext) -> None:
        super().__init__()
        grid = layout.grid
        lower = [*grid.lower, 0.0]
        upper = [*grid.upper, options.duration]
        self.fields = [(field.name, layout.channels(field.name), bool(field.components)) for field in layout.dynamic]
        sides = list(zip(lower, upper, strict=True))
        self.register_buffer("origin", torch.tensor([(a + b) / 2 for a, b in sides], dtype=context.dtype))
        self.register_buffer("scale", torch.tensor([2 / (b - a) for a, b in sides], dtype=context.dtype))
        statistics, n = context.statistics, layout.n_dynamic
        self.register_buffer("mean", torch.zeros(n) if statistics is None else statistics.mean[:n].clone())
        self.register_buffer("std", torch.ones(n) if statistics is None else statistics.std[:n].clone())
        sizes = [layout.n_axes + 1, *[options.width] * options.depth, n]
        generator = context.generator("weights", "synthetic")
        self.layers = nn.ModuleList(_linear(a, b, generator) for a, b in pairwise(sizes))

    @property
    def terms(self) -> list[TermSpec]:
        return [TermSpec(name=name) for name, _, _ in self.fields]

    def forward(self, inputs: Values) -> Mapping[str, Tensor]:
        if isinstance(inputs, Tensor):
            raise TypeError("a coordinate-mlp takes positions and times, and was given states")
        x = torch.cat([inputs["position"], inputs["time"][:, None]], dim=1)
        x = (x - self.origin) * self.scale
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        values = self.mean + self.std * self.layers[-1](x)
        return {
            name: values[:, channels] if vector else values[:, channels.start] for name, channels, vector in self.fields
        }


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """Return a layer with uniform weights within sqrt(6 / (n_in + n_out)) (Glorot and Bengio 2010) and zero bias."""
    # torch initialises the layer from the global generator, which the core isolates; these values replace it
    layer = nn.Linear(n_in, n_out)
    bound = math.sqrt(6 / (n_in + n_out))
    with torch.no_grad():
        layer.weight.copy_(torch.empty(n_out, n_in).uniform_(-bound, bound, generator=generator))
        layer.bias.zero_()
    return layer


def build(options: CoordinateMLPOptions, context: SurrogateContext) -> CoordinateMLP:
    """Build the surrogate `coordinate-mlp`."""
    if context.layout is None:
        raise DataError("the surrogate 'coordinate-mlp' needs a domain: give the data a grid", key="synthetic.kind")
    return CoordinateMLP(options, context.layout, context).to(device=context.device, dtype=context.dtype)
