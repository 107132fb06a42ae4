"""Initial states as unknowns, as in variational data assimilation (4D-Var).

Rollouts from noisy observed states inherit the noise, which biases parameters that damp it. So the start of each
window is x_b + delta, where delta is learned beside the parameters, and the observed start x_b counts as one more
observed frame, at lead time 0. If all frames have the same noise, that is the maximum-likelihood estimate, with no
weight to choose: strong-constraint 4D-Var with the background x_b and B = R.
Source: F.-X. Le Dimet, O. Talagrand, Tellus A 38 (1986).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.points import START
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch


class InitialStates(nn.Module):
    """The learned `shift [n_real, C_dyn, *S]` of the observed starts of the real samples, zero at first."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift)

    @classmethod
    def of(cls, data: AugmentedDataset, n_dynamic: int, device: torch.device) -> InitialStates:
        """Return start states of the real samples of `data`, with a shift of zero."""
        states = data.real.inputs(torch.tensor([0]))
        assert isinstance(states, Tensor)  # rollouts begin from states
        return cls(states.new_zeros(data.n_real, n_dynamic, *states.shape[2:]).to(device))

    @property
    def basis(self) -> Tensor:
        """All D states `[D, C_dyn, *S]` with one value of 1 and no other."""
        shape = self.shift.shape[1:]
        return torch.eye(shape.numel(), dtype=self.shift.dtype, device=self.shift.device).view(-1, *shape)

    def check(self, data: AugmentedDataset) -> None:
        """Raise RunError if these start states belong to other samples than those of `data`."""
        if len(self.shift) != data.n_real:
            raise RunError(
                f"the initial states that were learned are of {len(self.shift)} windows, and the data has {data.n_real}"
            )

    def __call__(self, batch: Batch, indices: Tensor) -> Batch:
        """Return the samples at `indices` with their learned starts, and the observed start as the first target.

        Beside observations of sensors, that is a target by name. Generated samples keep their starts, which count as
        not observed.
        """
        states, targets = batch
        assert isinstance(states, Tensor)
        dynamic = self.shift.shape[1]
        real = (indices < len(self.shift)).to(states.device).view(-1, *[1] * (states.dim() - 1))
        chosen = self.shift[indices.clamp(max=len(self.shift) - 1).to(self.shift.device)]
        start, static = states[:, :dynamic], states[:, dynamic:]
        moved = torch.cat([start + torch.where(real, chosen, 0.0), static], dim=1)
        observed = torch.where(real, start, math.nan)[:, None]
        if isinstance(targets, Tensor):
            return moved, torch.cat([observed, targets], dim=1)
        return moved, {**targets, START: observed}
