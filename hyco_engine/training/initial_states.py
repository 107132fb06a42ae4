"""Initial states as unknowns, as in variational data assimilation (4D-Var).

Rollouts from noisy observed states inherit the noise, which biases parameters that damp it. So the start of each
window is x_b + delta, where delta is learned beside the parameters, and the observed start x_b counts as one more
observed frame, at lead time 0. If all frames have the same noise, that is the maximum-likelihood estimate, with no
weight to choose: strong-constraint 4D-Var with the background x_b and B = R.
Source: F.-X. Le Dimet, O. Talagrand, Tellus A 38 (1986).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.points import START
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch

_LOOKED_AT = 64
"""The number of samples whose spread is looked at."""

MOST_NUMBERS = 2**26
"""Derivatives by the start states are held as numbers up to so many for a window, and curvatures for all windows."""


class InitialStates(nn.Module):
    """The learned `shift [n_real, C_dyn, *S]` of the observed starts of the real samples, zero at first.

    Optimizers see it in units of `size [C_dyn, 1, ...]`, so that a step has the same meaning in every unit of a field.
    """

    size: Tensor

    def __init__(self, shift: Tensor, size: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("size", shift.new_ones(shift.shape[1], *[1] * (shift.dim() - 2)) if size is None else size)
        self.scaled = nn.Parameter(shift / self.size)

    @classmethod
    def of(cls, data: AugmentedDataset, n_dynamic: int, device: torch.device) -> InitialStates:
        """Return start states of the real samples of `data`, with a shift of zero, in units of their spread."""
        few = torch.linspace(0, data.n_real - 1, min(data.n_real, _LOOKED_AT)).long()
        states = data.real.inputs(few)
        assert isinstance(states, Tensor)  # rollouts begin from states
        own = states[:, :n_dynamic].transpose(0, 1).flatten(1).double()
        spread = (own - own.mean(1, keepdim=True)).square().mean(1).sqrt()
        # a power of two, so that no change of units rounds a shift
        size = torch.where(spread > 0, 2.0 ** spread.log2().round(), 1.0)
        shift = states.new_zeros(data.n_real, n_dynamic, *states.shape[2:])
        return cls(shift.to(device), size.to(shift).view(-1, *[1] * (shift.dim() - 2)).to(device))

    @classmethod
    def load(cls, saved: Mapping[str, Tensor]) -> InitialStates:
        """Return the start states of which `saved` is the state dict."""
        return cls(saved["size"] * saved["scaled"], saved["size"])

    @property
    def shift(self) -> Tensor:
        """The shift in the unit of each field."""
        return self.size * self.scaled

    def move_to(self, shift: Tensor) -> None:
        """Set the shift, given in the unit of each field."""
        self.scaled.data.copy_(shift.to(self.scaled).view_as(self.scaled) / self.size)

    @property
    def basis(self) -> Tensor:
        """The derivatives `[D, C_dyn, *S]` of a start state by its D numbers: states with one value and no other."""
        shape = self.scaled.shape[1:]
        unit = torch.eye(shape.numel(), dtype=self.scaled.dtype, device=self.scaled.device).view(-1, *shape)
        return self.size * unit

    def numbers(self, steps: int) -> int:
        """Return by how many values of its start a rollout's derivatives are held as numbers; else products do."""
        values = self.scaled[0].numel()
        return values if values**2 * (steps + 1) <= MOST_NUMBERS else 0

    def check(self, data: AugmentedDataset) -> None:
        """Raise RunError if these start states belong to other samples than those of `data`."""
        if len(self.scaled) != data.n_real:
            raise RunError(
                f"the initial states that were learned are of {len(self.scaled)} windows, and the data has "
                f"{data.n_real}"
            )

    def __call__(self, batch: Batch, indices: Tensor) -> Batch:
        """Return the samples at `indices` with their learned starts, and the observed start as the first target.

        Beside observations of sensors, that is a target by name. Generated samples keep their starts, which count as
        not observed.
        """
        states, targets = batch
        assert isinstance(states, Tensor)
        dynamic = self.scaled.shape[1]
        real = (indices < len(self.scaled)).to(states.device).view(-1, *[1] * (states.dim() - 1))
        chosen = self.size * self.scaled[indices.clamp(max=len(self.scaled) - 1).to(self.scaled.device)]
        start, static = states[:, :dynamic], states[:, dynamic:]
        moved = torch.cat([start + torch.where(real, chosen, 0.0), static], dim=1)
        observed = torch.where(real, start, math.nan)[:, None]
        if isinstance(targets, Tensor):
            return moved, torch.cat([observed, targets], dim=1)
        return moved, {**targets, START: observed}
