"""The physics of the run plus a learned correction: a surrogate for a physics that lacks something.

Step            u(t + dt) = physics(x) + s N(x), x the state in units of its mean and spread, s the spread of one step's
                change
Network         `depth` convolutions; by default with one tap, a source that depends on state and place at each point
Parameters      the surrogate holds its own copy of the physics' parameters, learned with the correction and stored with
                its weights
Boundary        the physics' own; features are padded by the same rule without values
Take it         where an equation is known in part: a drag, a source or a closure is missing. Where the physics is
                right, the correction can only do harm
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyco_engine.builtin.models.increment import OUTPUT_GAIN, Convolution, IncrementNet, activation, assemble
from hyco_engine.builtin.models.padding import FeaturePadding, for_convolutions, of_image
from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import Correction

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import CorrectedOptions
    from hyco_engine.interfaces import PhysicalModel, SurrogateContext


class Corrected(Correction):
    """`u(t + dt) = physics(x) + gate correction(x)`; parameters of the physics and weights are learned together.

    The physics is a copy of the run's, with parameters of its own, so that they need not account for what the
    correction explains. They are stored with the weights. The gate is 1, or 0 where held-out data speak against the
    correction.
    """

    gate: Tensor

    def __init__(self, physics: PhysicalModel, correction: IncrementNet) -> None:
        super().__init__()
        self.physics = physics
        self.correction = correction
        self.register_buffer("gate", torch.ones((), dtype=correction.mean.dtype))

    def forward(self, state: Tensor) -> Tensor:
        # the network returns the state plus its change
        change = self.correction(state) - state[:, : self.correction.n_dynamic]
        advanced: Tensor = self.physics(state) + self.gate * change
        return advanced

    def without(self, physics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: values.detach().clone() for name, values in self.state_dict().items()}
        theirs = {f"physics.{name}": values.detach().clone() for name, values in physics.items()}
        return {**own, **theirs, "gate": torch.zeros_like(self.gate)}


class CorrectionBody(nn.Module):
    """`depth` hidden convolutions; with one tap they are a source that depends on the state at each point alone."""

    def __init__(self, options: CorrectedOptions, layout: StateLayout, n_in: int) -> None:
        super().__init__()
        dims, kernel = len(layout.grid.axes), options.kernel_size
        padding = FeaturePadding(layout)
        # the input is padded before it is scaled
        layers = [Convolution(n_in, options.width, kernel, dims)]
        for _ in range(options.depth - 1):
            layers.append(Convolution(options.width, options.width, kernel, dims, padding=padding))
        self.layers = nn.ModuleList(layers)
        self.act = activation(options.activation)
        self.exit = Convolution(options.width, layout.n_dynamic, kernel, dims, padding=padding)
        self.exit.gain = OUTPUT_GAIN

    def forward(self, x: Tensor) -> Tensor:
        h = for_convolutions(x)
        for layer in self.layers:
            h = self.act(layer(h))
        out: Tensor = self.exit(h)
        return of_image(out, x)


def build(options: CorrectedOptions, context: SurrogateContext) -> Corrected:
    """Build the surrogate `corrected`. Raise SpecError where the spec has no physics to correct."""
    physics = context.physics()
    correction = assemble(lambda layout, n_in: CorrectionBody(options, layout, n_in), options, context, "corrected")
    return Corrected(physics, correction)
