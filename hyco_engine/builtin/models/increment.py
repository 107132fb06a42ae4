"""The parts that the grid surrogates share: scaled input, predicted change, padded convolutions, seeded weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyco_engine.builtin.models.padding import FeaturePadding, StatePadding, as_image, of_image
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.errors import DataError

if TYPE_CHECKING:
    from hyco_engine.builtin.models.options_synthetic import CorrectedOptions, ResNetOptions, UNetOptions
    from hyco_engine.data.statistics import Statistics
    from hyco_engine.interfaces import SurrogateContext

OUTPUT_GAIN = 1e-2
"""Gain of the last layer's initial weights. It makes the untrained surrogate nearly persistence, which is a better
start than noise; and since it is not zero, the first gradient already reaches every layer."""

_CONVOLVE = {4: functional.conv2d, 5: functional.conv3d}
OF_IMAGES = ("resnet", "unet")
"""The surrogates that only fields on a grid can have."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the nonlinearity of that name."""
    return _ACTIVATIONS[name]


class IncrementNet(nn.Module):
    """A surrogate step that predicts the change: `u(t + dt) = u(t) + s * body((pad(x) - mean) / std)`.

    `x [B, C_all, *S]` is the state, `u` its dynamic channels, `s [C_dyn]` the spread of their one-step change. The
    state is padded before it is scaled, so boundary values hold exactly. `body` maps `[B, C_all, *(S + 2 reach)]` to
    `[B, C_dyn, *S]`; `positions [P, *(S + 2 reach)]`, the same for all states, are appended to its input as further
    channels. The padding of staggered layouts is never read, and is zero in the result.

    Without `statistics` nothing is scaled (mean 0, std 1). A net into which weights are loaded needs none, since the
    statistics are buffers that are stored with the weights.
    """

    mean: Tensor
    std: Tensor
    change_std: Tensor
    own: Tensor | None
    positions: Tensor | None

    def __init__(
        self,
        body: nn.Module,
        reach: int,
        layout: StateLayout,
        statistics: Statistics | None,
        dtype: torch.dtype,
        positions: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.pad = StatePadding(layout, reach)
        self.n_dynamic = layout.n_dynamic
        mean, std, change = _scales(layout, statistics)
        shape = (-1, *(1 for _ in layout.grid.axes))
        self.register_buffer("mean", mean.to(dtype, copy=True).reshape(shape))
        self.register_buffer("std", std.to(dtype, copy=True).reshape(shape))
        self.register_buffer("change_std", change.to(dtype, copy=True).reshape(shape))
        mask = sample_mask(layout)[: layout.n_dynamic]
        # weight files need not hold what follows from the layout
        self.register_buffer("positions", None if positions is None else positions.to(dtype), persistent=False)
        self.register_buffer("own", None if bool(mask.all()) else mask, persistent=False)

    def forward(self, state: Tensor) -> Tensor:
        scaled = (self.pad(state) - self.mean) / self.std
        if self.positions is not None:
            scaled = torch.cat([scaled, self.positions.expand(state.shape[0], *self.positions.shape)], dim=1)
        advanced = state[:, : self.n_dynamic] + self.change_std * self.body(scaled)
        return advanced if self.own is None else torch.where(self.own, advanced, 0.0)


def _scales(layout: StateLayout, statistics: Statistics | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, spread, and spread of the one-step change."""
    if statistics is None:
        return torch.zeros(layout.n_all), torch.ones(layout.n_all), torch.ones(layout.n_dynamic)
    return statistics.mean, statistics.std, statistics.change_std


def positions(layout: StateLayout, reach: int) -> Tensor:
    """Return where cells are, `[P, *(S + 2 reach)]`, float64, in -1..1.

    A periodic axis gives two channels, sine and cosine of the position's angle; any other axis gives its position.
    """
    sizes = [n + 2 * reach for n in layout.spatial]
    channels = []
    for k, axis in enumerate(layout.grid.axes):
        place = (torch.arange(-reach, layout.spatial[k] + reach, dtype=torch.float64) + 0.5) / layout.spatial[k]
        periodic = layout.dynamic[0].boundary.is_periodic(axis)
        angle = 2 * math.pi * place
        for values in (torch.sin(angle), torch.cos(angle)) if periodic else (2 * place - 1,):
            channels.append(values.reshape(-1, *[1] * (len(sizes) - k - 1)).expand(sizes))
    return torch.stack(channels)


class Convolution(nn.Module):
    """Convolution of `[B, C, *S]` in up to 3 dimensions; without any, it is a linear map of the channels.

    With `padding` it keeps the resolution; without, its input is expected to be padded already. A grid of one
    dimension may also come as an image of one row.

    Weights are unset until `initialise`: torch's own layers would draw them from the global generator.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        dims: int,
        *,
        dilation: int = 1,
        padding: FeaturePadding | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, *[kernel] * dims))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.dilation = dilation
        self.widths = [(dilation * (kernel - 1) // 2,) * 2] * dims
        self.padding = padding
        self.gain = math.sqrt(2.0)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw normal weights of standard deviation `gain / sqrt(fan in)` (He et al. 2015); set the bias to zero."""
        with torch.no_grad():
            std = self.gain / math.sqrt(self.weight[0].numel())
            self.weight.copy_(torch.empty(self.weight.shape).normal_(0.0, std, generator=generator))
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return functional.linear(x, self.weight, self.bias)
        if self.padding is not None:
            x = self.padding(x, self.widths)
        image, weight = as_image(x), as_image(self.weight)
        return of_image(_CONVOLVE[image.dim()](image, weight, self.bias, dilation=self.dilation), x)


def assemble(
    make_body: Callable[[StateLayout, int], nn.Module],
    options: ResNetOptions | UNetOptions | CorrectedOptions,
    context: SurrogateContext,
    kind: str,
) -> IncrementNet:
    """Build the surrogate around `make_body(layout, input channels)`, with seeded weights, on the run's device.

    Raise DataError for data that has no fields on a grid.
    """
    if context.layout is None:
        raise DataError(f"the surrogate {kind!r} needs fields on a grid, and this data has none", key="synthetic.kind")
    if not context.layout.n_axes and kind in OF_IMAGES:
        raise DataError(
            f'the surrogate {kind!r} needs fields on a grid, and this data has no space: use kind = "mlp"',
            key="synthetic.kind",
        )
    reach = options.kernel_size // 2
    where = positions(context.layout, reach) if options.positions and context.layout.n_axes else None
    body = make_body(context.layout, context.layout.n_all + (0 if where is None else len(where)))
    generator = context.generator("weights", "synthetic")
    for layer in body.modules():
        if isinstance(layer, Convolution):
            layer.initialise(generator)
    net = IncrementNet(body, reach, context.layout, context.statistics, context.dtype, where)
    return net.to(device=context.device, dtype=context.dtype)
