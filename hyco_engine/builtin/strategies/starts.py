"""The states from which teachers roll out generated samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.scalars import number, with_scalars
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import PhysicalModel, Player, Predictor, Samples

States = Callable[[Tensor], Tensor]
"""A pure function `states(indices [B]) -> [B, C_all, *S]`."""
SPIN_UP = 20
"""Largest number of spin-up steps from a mixed state, so that the sample starts on the teacher's own attractor."""
_LOOKED_AT = 4096
"""The most samples in which the range of a simulation's numbers is sought."""


def check_steppers(models: Mapping[Player, nn.Module]) -> None:
    """Raise SpecError where a model is a predictor, which makes no rollouts."""
    for player, model in models.items():
        if isinstance(model, Predictor):
            raise SpecError(
                f"this strategy generates rollouts, and the {player} model {type(model).__name__} steps no states: set "
                'augmentation.kind = "interaction", which compares both models at points and generates no samples, or '
                "augmentation.alpha = 0, with which each model learns from real data alone",
                key="augmentation.kind",
            )


def random_starts(real: Samples, count: int, generator: torch.Generator) -> States:
    """Return the start states of `count` real windows, picked by a permutation; each further round takes a new one."""
    rounds = -(-count // len(real))
    chosen = torch.cat([torch.randperm(len(real), generator=generator) for _ in range(rounds)])[:count]
    return lambda indices: _inputs(real, chosen[indices])


def mixed_starts(
    real: Samples, layout: StateLayout, count: int, generator: torch.Generator, wider: float = 1.0
) -> States:
    """Return new states, each a mixture of two real start states that are shifted along the periodic axes.

    Deviations from the pair's mean m are mixed as (w a + (1 - w) b) / sqrt(w^2 + (1 - w)^2), which keeps their spread;
    a weighted mean would have a smaller spread than the data. They are multiplied by a number between 1 / `wider` and
    `wider`, drawn on a logarithmic scale. The result stays within the pair's range so widened, channel by channel, and
    what has one sign keeps it. Static channels are those of the first state, not shifted.
    """
    pairs = torch.randint(len(real), (2, count), generator=generator)
    axes = periodic_axes(layout)
    shifts = [torch.randint(layout.spatial[axis], (2, count), generator=generator) for axis in axes]
    share = torch.rand(count, generator=generator)
    sizes = wider ** (2 * torch.rand(count, generator=generator) - 1)

    def over_space(values: Tensor, reduced: Callable[[Tensor, int], Tensor]) -> Tensor:
        return reduced(values.reshape(*values.shape[:2], -1), 2).reshape(*values.shape[:2], *[1] * layout.n_axes)

    def shifted(values: Tensor, own: int, indices: Tensor) -> Tensor:
        if not axes:
            return values
        by = torch.stack([shift[own, indices] for shift in shifts], -1).tolist()
        dims = [axis + 1 for axis in axes]
        return torch.stack([torch.roll(v, s, dims) for v, s in zip(values, by, strict=True)])

    def states(indices: Tensor) -> Tensor:
        first, second = (_inputs(real, pair[indices]) for pair in pairs)
        a, b = (shifted(s[:, : layout.n_dynamic], own, indices) for own, s in enumerate((first, second)))
        weight, size = (own[indices].to(a.dtype).reshape(-1, *[1] * (a.ndim - 1)) for own in (share, sizes))
        mean = over_space((a + b) / 2, Tensor.mean)
        mixed = (weight * (a - mean) + (1 - weight) * (b - mean)) / (weight**2 + (1 - weight) ** 2).sqrt()
        lower, upper = over_space(torch.minimum(a, b), Tensor.amin), over_space(torch.maximum(a, b), Tensor.amax)
        least, most = lower - (wider - 1) * (mean - lower), upper + (wider - 1) * (upper - mean)
        least = torch.where(lower >= 0, torch.maximum(least, lower / wider), least)
        most = torch.where(upper <= 0, torch.minimum(most, upper / wider), most)
        return torch.cat([(mean + size * mixed).clamp(least, most), first[:, layout.n_dynamic :]], dim=1)

    return states


def with_new_parameters(
    states: States,
    layout: StateLayout,
    ranges: Mapping[str, tuple[float, float]],
    count: int,
    generator: torch.Generator,
) -> States:
    """Return `states` with new scalars of a simulation, drawn for each of `count` states within their `ranges`.

    They are drawn evenly, on a logarithmic scale where all are positive: a teacher that takes parameters from them
    knows there what no data say.
    """
    if not ranges:
        return states
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in zip(*ranges.values(), strict=True))
    places = torch.rand(count, len(ranges), generator=generator, dtype=torch.float64)
    drawn = torch.where(low > 0, low * (high / low) ** places, low + (high - low) * places)

    def renewed(indices: Tensor) -> Tensor:
        numbers = drawn[indices].unbind(1)
        return with_scalars(states(indices), layout, dict(zip(ranges, numbers, strict=True)))

    return renewed


def scalar_ranges(
    names: Sequence[str], physics: nn.Module, real: Samples, layout: StateLayout
) -> dict[str, tuple[float, float]]:
    """Return the range of scalars: what the physics found, of those that it finds for groups, else of real samples."""
    few = torch.linspace(0, len(real) - 1, min(len(real), _LOOKED_AT)).long()
    found = cast("PhysicalModel", physics).learnables.values()
    ranges = {}
    for name in names:
        values = found[name] if layout.field(name).by else number(_inputs(real, few), layout, name)
        ranges[name] = float(values.detach().min()), float(values.detach().max())
    return ranges


def drawn_starts(physics: nn.Module, generator: Callable[..., torch.Generator]) -> States:
    """Return the physics' own initial states, as the source `simulate` draws them; `generator("starts", i)` draws i."""
    own = cast("PhysicalModel", physics)
    return lambda indices: torch.cat([own.initial_states(1, generator("starts", i)) for i in indices.tolist()])


def periodic_axes(layout: StateLayout) -> list[int]:
    """Return the positions of the axes along which all fields are periodic, so that states may be shifted there."""
    axes = layout.grid.axes
    return [i for i, axis in enumerate(axes) if all(field.boundary.is_periodic(axis) for field in layout.dynamic)]


def _inputs(real: Samples, indices: Tensor) -> Tensor:
    inputs = real.inputs(indices)
    if not isinstance(inputs, Tensor):
        raise TypeError("rollouts start from states, and the samples of this data are inputs by name")
    return inputs
