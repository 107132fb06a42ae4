"""The scalars of simulations, such as a viscosity: one number each, which a uniform static field of the state holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError


def with_scalars(states: Tensor, layout: StateLayout, scalars: Mapping[str, float | Tensor]) -> Tensor:
    """Return states `[B, C_all, *S]` that hold `scalars`, each one number for all states or `[B]`.

    `states` have all channels, or lack those of all scalars and indices of the layout; then all scalars must be given.
    Raises DataError for an unknown scalar, for one that is missing, and for states of another shape.
    """
    known, bare = layout.scalars, layout.bare
    if unknown := [name for name in scalars if name not in known]:
        raise DataError(f"the model takes no {unknown[0]!r}; it takes {', '.join(known) or 'no scalars'}")
    by = {layout.field(name).by for name in scalars} - {""}
    if apart := [name for name in known if layout.field(name).by in by and name not in scalars]:
        raise DataError(
            f"{' and '.join(scalars)} make the state one that holds its values, so it needs {apart[0]} too: give "
            f"{apart[0]} = ..."
        )
    own = {name: layout.channels(name).start for name in known}
    if states.shape[1] == layout.n_all:
        full = states.clone() if scalars else states
    elif states.shape[1] == bare.n_all:
        if missing := [name for name in known if name not in scalars]:
            raise DataError(
                f"the model needs the number {missing[0]} of the simulation: give {missing[0]} = ..., or a state whose "
                "last channels hold it"
            )
        # -1 in an index: the state holds its values
        full = states.new_full((states.shape[0], layout.n_all, *states.shape[2:]), -1.0)
        full[:, layout.places(bare.fields)] = states
    else:
        raise DataError(
            f"the states have {states.shape[1]} channels; the model takes {layout.n_all}"
            + (f", or {bare.n_all} beside {', '.join(own)}" if own else "")
        )
    for name, value in scalars.items():
        given = torch.as_tensor(value, dtype=full.dtype, device=full.device)
        if given.dim() > 1 or (given.dim() == 1 and len(given) not in (1, len(full))):
            raise DataError(f"{name} must be one number or {len(full)}, one for each state, not {list(given.shape)}")
        full[:, own[name]] = given.reshape(-1, *[1] * layout.n_axes)
        if index := layout.field(name).by:
            full[:, layout.channels(index).start] = -1.0
    return full


def number(states: Tensor, layout: StateLayout, name: str) -> Tensor:
    """Return the number `[B]` that a uniform field or an index of `states [B, C_all, *S]` holds."""
    return states[(slice(None), layout.channels(name).start, *[0] * layout.n_axes)]


def own_or_found(states: Tensor, layout: StateLayout, name: str, found: Tensor) -> Tensor:
    """Return a scalar `[B]`: the value in the state, or that of its group in `found [groups]`."""
    group = number(states, layout, layout.field(name).by).round().long()
    table = found.to(states.dtype)
    return torch.where(group < 0, number(states, layout, name), table[group.clamp(0, len(table) - 1)])


def beyond(scalars: Mapping[str, float], layout: StateLayout, statistics: Statistics | None) -> list[str]:
    """Return a sentence for each known scalar that lies outside of what the training data had."""
    if statistics is None:
        return []
    told = []
    for name, value in scalars.items():
        if layout.field(name).by:
            continue
        channel = layout.channels(name).start
        low, high = float(statistics.lowest[channel]), float(statistics.highest[channel])
        # the range is that of rounded numbers
        room = 1e-6 * max(abs(low), abs(high))
        if not low - room <= value <= high + room:
            told.append(
                f"{name} = {value:g} lies outside of the training data, which have {low:g} to {high:g}: the surrogate "
                "extrapolates"
            )
    return told
