"""Surrogates that know what the physics has found for each group of simulations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.scalars import own_or_found
from hyco_engine.data.statistics import Statistics
from hyco_engine.ensemble import build_ensemble
from hyco_engine.interfaces import SurrogateContext


class InformedSurrogate(nn.Module):
    """A stepper `model` that gets, for states which name a group of simulations, the values that were found for it.

    States have the channels of `layout`; those of `model` lack its indices, and hold the values less their mean over
    the groups, in units of their spread. `inform` gives the values.
    """

    def __init__(self, model: nn.Module, layout: StateLayout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        like = next((p for p in model.parameters()), torch.empty(()))
        self._names = tuple(name for name in layout.scalars if layout.field(name).by)
        for name in self._names:
            groups = len(layout.field(layout.field(name).by).groups)
            self.register_buffer(f"found_{name}", torch.zeros(groups, dtype=like.dtype, device=like.device))
            self.register_buffer(f"scale_{name}", torch.tensor([0.0, 1.0], dtype=like.dtype, device=like.device))
        self._kept = layout.places(layout.without(layout.indices).fields)

    def forward(self, state: Tensor) -> Tensor:
        channels = list(state.unbind(1))
        for name in self._names:
            channel = self.layout.channels(name).start
            mean, spread = self._buffer("scale", name)
            own = (own_or_found(state, self.layout, name, self._buffer("found", name)) - mean) / spread
            channels[channel] = own.reshape(-1, *[1] * self.layout.n_axes).expand_as(channels[channel])
        stepped: Tensor = self.model(torch.stack([channels[k] for k in self._kept], dim=1))
        return stepped

    def inform(self, values: Mapping[str, Tensor]) -> None:
        """Take the values `[groups]` that a physics has found, by name."""
        with torch.no_grad():
            for name in self._names:
                found = values[name]
                mean, spread = found.mean(), found.std(correction=0)
                if not spread > 1e-3 * mean.abs():
                    spread = mean.abs() if mean else torch.ones_like(mean)
                self._buffer("found", name).copy_(found)
                self._buffer("scale", name).copy_(torch.stack([mean, spread]))

    def _buffer(self, kind: str, name: str) -> Tensor:
        return cast("Tensor", getattr(self, f"{kind}_{name}"))


def build_surrogate(
    build: Callable[[SurrogateContext], nn.Module], context: SurrogateContext, members: int
) -> nn.Module:
    """Return the surrogate, or the ensemble of `members`, that `build` makes; informed where the layout has indices."""
    return build_ensemble(lambda own: build_informed(build, own), context, members)


def build_informed(build: Callable[[SurrogateContext], nn.Module], context: SurrogateContext) -> nn.Module:
    """Return the surrogate that `build` makes, informed where the layout of the data has indices."""
    model, layout = _built(build, context), context.layout
    if layout is not None and layout.advances:
        model.advances = layout.advances  # type: ignore[assignment]
    return model


def _built(build: Callable[[SurrogateContext], nn.Module], context: SurrogateContext) -> nn.Module:
    layout = context.layout
    if layout is None or not layout.indices:
        return build(context)
    inner = layout.without(layout.indices)
    kept = layout.places(inner.fields)
    own = context.statistics
    if own is not None:
        moved = {name: getattr(own, name)[kept] for name in ("mean", "std", "largest", "lowest", "highest")}
        own = Statistics(**moved, change_std=own.change_std, states=own.states[:, kept])
    return InformedSurrogate(build(attrs.evolve(context, layout=inner, statistics=own)), layout)
