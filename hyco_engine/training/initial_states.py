"""Initial states as unknowns, as in variational data assimilation (4D-Var).

Rollouts from noisy observed states inherit the noise, which biases parameters that damp it. So the start of each
window is learned beside the parameters, and the observed start counts as one more observed frame, at lead time 0. If
all frames have the same noise, that is the maximum-likelihood estimate, with no weight to choose: strong-constraint
4D-Var with B = R.

Only waves are learned that the data show, the observed starts (`visible_waves`) or the residuals of all frames
(`shown_waves`), and a start has no other ones. A start that followed the noise in all waves of a grid
would have waves that turn many times from frame to frame: some parameters fit these better than the true ones, and
error bars would take their size for knowledge.
Source: F.-X. Le Dimet, O. Talagrand, Tellus A 38 (1986).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.points import START
from hyco_engine.data.waves import waves_of
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch
from hyco_engine.training.visible_waves import visible_waves

_LOOKED_AT = 64
"""The number of samples whose spread is looked at."""

MOST_NUMBERS = 2**26
"""Derivatives by the start states are held as numbers up to so many for a window, and curvatures for all windows."""


class InitialStates(nn.Module):
    """The learned starts of the real samples: each is its observed start plus what D numbers say.

    The numbers `scaled [n_real, D]` are zero at first. They are coefficients of the waves `learned`, a bool mask
    `[C_dyn, *S]`, in units of `size [C_dyn]`, so that a step has the same meaning in every unit of a field. Where all
    waves are learned, they are the values of the states themselves.
    """

    size: Tensor
    learned: Tensor

    def __init__(self, scaled: Tensor, size: Tensor, learned: Tensor, layout: StateLayout) -> None:
        super().__init__()
        self.register_buffer("size", size)
        self.register_buffer("learned", learned)
        self.scaled = nn.Parameter(scaled)
        self._layout = layout
        self.waves = None if bool(learned.all()) else waves_of(layout)

    @classmethod
    def of(cls, data: AugmentedDataset, layout: StateLayout, device: torch.device) -> InitialStates:
        """Return the start states of the real samples of `data`, in units of their spread."""
        few = torch.linspace(0, data.n_real - 1, min(data.n_real, _LOOKED_AT)).long()
        states = data.real.inputs(few)
        assert isinstance(states, Tensor)  # rollouts begin from states
        own = states[:, : layout.n_dynamic].transpose(0, 1).flatten(1).double()
        spread = (own - own.mean(1, keepdim=True)).square().mean(1).sqrt()
        # a power of two, so that no change of units rounds a number
        size = torch.where(spread > 0, 2.0 ** spread.log2().round(), 1.0).to(states)
        learned = visible_waves(data.real, layout)
        return cls(states.new_zeros(data.n_real, int(learned.sum())), size, learned, layout).to(device)

    @classmethod
    def load(cls, saved: Mapping[str, Tensor], layout: StateLayout) -> InitialStates:
        """Return the start states of which `saved` is the state dict."""
        return cls(saved["scaled"], saved["size"], saved["learned"], layout)

    def of_others(self, data: AugmentedDataset) -> InitialStates:
        """Return the start states of other samples of the same fields, the real ones of `data`."""
        return InitialStates.of(data, self._layout, self.size.device)

    def take(self, saved: Mapping[str, Tensor]) -> None:
        """Take over the state dict of these start states at an earlier time, when fewer waves may have been learned."""
        self.learned = saved["learned"].to(self.learned)
        self.scaled = nn.Parameter(saved["scaled"].to(self.scaled, copy=True))

    def some(self, indices: Tensor) -> InitialStates:
        """Return the learned starts of the samples at `indices` alone, which are learned further apart from these."""
        return InitialStates(self.scaled.detach()[indices], self.size, self.learned, self._layout)

    @property
    def count(self) -> int:
        """The number D of numbers of a start."""
        return self.scaled.shape[1]

    @property
    def basis(self) -> Tensor:
        """The derivatives `[D, C_dyn, *S]` of a start state by its D numbers."""
        return self.states(torch.eye(self.count, dtype=self.scaled.dtype, device=self.scaled.device))

    def learn(self, learned: Tensor, data: AugmentedDataset) -> None:
        """Learn the waves `learned` from here on, which are others than before; the starts keep those that stay.

        `data` has the observed starts.
        """
        new = learned.to(self.learned.device)
        kept = torch.empty(len(self.scaled), *new.shape, dtype=self.scaled.dtype, device=self.scaled.device)
        for indices in torch.split(torch.arange(data.n_real), _LOOKED_AT):
            states = data.real.inputs(indices)
            assert isinstance(states, Tensor)  # rollouts begin from states
            # a hidden wave was left out of the observed start
            kept[indices] = -self.coefficients(states[:, : len(new)].to(kept)) / self._sizes
        kept[:, self.learned] = self.scaled.detach()
        self.scaled = nn.Parameter(kept[:, new])
        self.learned = new

    def states(self, scaled: Tensor) -> Tensor:
        """Return the change of a state `[..., C_dyn, *S]` that numbers `[..., D]` make."""
        shape = *scaled.shape[:-1], *self.learned.shape
        if self.waves is None:
            return self._sizes * scaled.reshape(shape)
        coefficients = scaled.new_zeros(shape)
        coefficients[..., self.learned] = scaled
        return self._sizes * self._from_waves(coefficients)

    def numbers_of(self, states: Tensor) -> Tensor:
        """Return J^T x `[..., D]` for states `[..., C_dyn, *S]`, where J are the derivatives of states by numbers."""
        own = self._sizes * states
        return own.flatten(-self.learned.dim()) if self.waves is None else self.coefficients(own)[..., self.learned]

    def numbers(self, steps: int) -> int:
        """Return by how many values of its start a rollout's derivatives are held as numbers; else products do."""
        values = self.learned.numel() * self.count
        return self.count if values * (steps + 1) <= MOST_NUMBERS else 0

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
        dynamic = len(self.learned)
        real = (indices < len(self.scaled)).to(states.device).view(-1, *[1] * (states.dim() - 1))
        chosen = self.scaled[indices.clamp(max=len(self.scaled) - 1).to(self.scaled.device)]
        start, static = states[:, :dynamic], states[:, dynamic:]
        begun = start if self.waves is None else self._visible(start)
        moved = torch.cat([torch.where(real, begun + self.states(chosen), start), static], dim=1)
        observed = torch.where(real, start, math.nan)[:, None]
        if isinstance(targets, Tensor):
            return moved, torch.cat([observed, targets], dim=1)
        return moved, {**targets, START: observed}

    def in_sizes(self, states: Tensor) -> Tensor:
        """Return states `[..., C_dyn, *S]` in units of `size`."""
        return states / self._sizes

    @property
    def _sizes(self) -> Tensor:
        return self.size.view(-1, *[1] * (self.learned.dim() - 1))

    def _visible(self, states: Tensor) -> Tensor:
        """Return states `[..., C_dyn, *S]` without their waves that are not learned."""
        return self._from_waves(torch.where(self.learned, self.coefficients(states), 0.0))

    def coefficients(self, states: Tensor) -> Tensor:
        """Return the coefficients of states `[..., C_dyn, *S]`, and zeros where there are no waves."""
        assert self.waves is not None
        return self._padded([w.coefficients(one) for w, one in zip(self.waves, self._channels(states), strict=True)])

    def _from_waves(self, coefficients: Tensor) -> Tensor:
        """Return the states of which `coefficients` returns the coefficients."""
        assert self.waves is not None
        channels = zip(self.waves, self._channels(coefficients), strict=True)
        return self._padded([waves.values(one[corner(waves.lengths)]) for waves, one in channels])

    def _channels(self, states: Tensor) -> tuple[Tensor, ...]:
        return states.unbind(-self.learned.dim())

    def _padded(self, channels: list[Tensor]) -> Tensor:
        """Return channels `[..., C_dyn, *S]`, filled up with zeros where they are smaller."""
        axes, space = range(-1, -self.learned.dim(), -1), self.learned.shape[1:]
        filled = [
            functional.pad(one, [end for axis in axes for end in (0, space[axis] - one.shape[axis])])
            for one in channels
        ]
        return torch.stack(filled, dim=-self.learned.dim())
