"""Sliding windows over trajectories: the training samples of data on a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Samples, Trajectory

GATHER_BYTES = 2**28
"""The size in bytes up to which trajectories are joined in memory, so that a batch is one gather."""


def count_windows(frames: int, horizon: int, stride: int = 1) -> int:
    """Return the number of windows in one trajectory: 50 frames and horizon 3 give 47."""
    return max(0, (frames - horizon - 1) // stride + 1)


class WindowDataset(Samples):
    """Samples of a state `[C_all, *S]` and targets `[horizon, C_dyn, *S]`: every `stride`-th frame and its successors.

    Trajectories may differ in length; a window never reaches from one into the next, and a trajectory that is too short
    has no window. NaN in a target means "not observed" and is passed on. A state never holds NaN: windows that would
    start from such a state are left out, and so are windows whose targets are all NaN. `skipped` counts both,
    `without_start` only the former. `complete` promises that there is no NaN at all, which saves a search for it.
    `samples [C_dyn, *S]` is False on padding, which is never observed; None means that there is no padding. `advances`
    are those of the layout; static channels of a trajectory are those of its first frame.

    Trajectories larger than memory stay where they are: memory-mapped tensors are read window by window.
    """

    horizon: int

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        *,
        horizon: int,
        stride: int = 1,
        complete: bool = False,
        samples: Tensor | None = None,
        advances: Sequence[float] = (),
    ) -> None:
        if horizon < 1 or stride < 1:
            raise ValueError(f"horizon and stride must be at least 1, not {horizon} and {stride}")
        self.horizon = horizon
        self.stride = stride
        self._advances = tuple(advances)
        self.trajectories = tuple(trajectories)
        counts = [count_windows(len(t.dynamic), horizon, stride) for t in self.trajectories]
        starts = [torch.arange(count) * stride for count in counts]
        self.without_start = 0
        self.unreached = 0
        """The number of observed frames that are in no window."""
        self.observed_share = 1.0
        """The mean over all windows of the observed share of their targets."""
        if not complete:
            starts = self._usable(starts, samples)
        self._frame = torch.cat(starts) if starts else torch.empty(0, dtype=torch.int64)
        kept = torch.tensor([len(s) for s in starts], dtype=torch.int64)
        self._simulation = torch.repeat_interleave(torch.arange(len(starts)), kept)
        self.skipped: int = sum(counts) - len(self._frame)
        self._steps = torch.arange(1, horizon + 1)
        self._has_static = any(t.static.shape[0] for t in self.trajectories)
        self._join()

    def _usable(self, starts: Sequence[Tensor], samples: Tensor | None) -> list[Tensor]:
        """Return the starts with a complete state and an observed target. Reads one frame at a time."""
        kept, shares = [], []
        for trajectory, own in zip(self.trajectories, starts, strict=True):
            startable = torch.zeros(len(trajectory.dynamic), dtype=torch.bool)
            counts = torch.zeros(len(trajectory.dynamic) + 1, dtype=torch.int64)
            broken, total = bool(trajectory.static.isnan().any()), 1
            for frame, values in enumerate(trajectory.dynamic):
                missing = values.isnan()
                startable[frame] = not broken and not bool(missing.any())
                seen = ~missing if samples is None else ~missing[samples]
                counts[frame + 1], total = seen.sum(), seen.numel()
            self.without_start += int((~startable[own]).sum())
            sums = counts.cumsum(0)
            shares.append((sums[own + self.horizon + 1] - sums[own + 1]) / (self.horizon * total))
            usable = startable[own] & (shares[-1] > 0)
            kept.append(own[usable])
            within = (kept[-1][:, None] + torch.arange(self.horizon + 1)).reshape(-1)
            outside = counts[1:] > 0
            outside[within] = False
            self.unreached += int(outside.sum())
            shares[-1] = shares[-1][usable]
        if sum(map(len, kept)):
            self.observed_share = float(torch.cat(shares).mean())
        return kept

    def _join(self) -> None:
        """Join all frames in one tensor if they are small enough."""
        self._frames: Tensor | None = None
        self._statics: Tensor | None = None
        size = sum(t.dynamic.nbytes + t.static.nbytes for t in self.trajectories)
        if not self.trajectories or (size > GATHER_BYTES and len(self.trajectories) > 1):
            return
        lengths = torch.tensor([len(t.dynamic) for t in self.trajectories])
        self._row = self._frame + (lengths.cumsum(0) - lengths)[self._simulation]
        frames = [t.dynamic for t in self.trajectories]
        self._frames = torch.cat(frames) if len(frames) > 1 else frames[0]
        if self._has_static:
            self._statics = torch.stack([t.static for t in self.trajectories])

    def __len__(self) -> int:
        return len(self._frame)

    def window(self, index: int) -> tuple[int, int]:
        """Return (position of the window's trajectory in `trajectories`, first frame)."""
        return int(self._simulation[index]), int(self._frame[index])

    @property
    def sample_bytes(self) -> int:
        """The bytes of one sample, state and targets."""
        if not self.trajectories:
            return 0
        first = self.trajectories[0]
        return first.static.nbytes + (self.horizon + 1) * first.dynamic[0].nbytes

    def inputs(self, indices: Tensor) -> Tensor:
        """Return the states alone: `[B, C_all, *S]`."""
        return self._with_static(self._gather(indices, torch.zeros(1, dtype=torch.int64))[:, 0], indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return (states `[B, C_all, *S]`, targets `[B, horizon, C_dyn, *S]`), both contiguous."""
        if self._frames is not None:
            return self.inputs(indices), self._gather(indices, self._steps)
        # each group of windows costs a call, so one call reads states and targets
        frames = self._gather(indices, torch.arange(self.horizon + 1))
        return self._with_static(frames[:, 0], indices), frames[:, 1:].contiguous()

    def _gather(self, indices: Tensor, steps: Tensor) -> Tensor:
        """Return `[B, len(steps), C_dyn, *S]`: the frames that many steps after the windows' starts."""
        if self._frames is not None:
            rows = self._row[indices, None] + steps
            found = self._frames.index_select(0, rows.reshape(-1))
            return found.reshape(*rows.shape, *found.shape[1:])
        simulation, order = self._simulation[indices].sort(stable=True)
        rows = self._frame[indices[order], None] + steps
        groups, sizes = torch.unique_consecutive(simulation, return_counts=True)
        parts = [
            self.trajectories[group].dynamic.index_select(0, part.reshape(-1))
            for group, part in zip(groups.tolist(), torch.split(rows, sizes.tolist()), strict=True)
        ]
        found = torch.cat(parts)
        return found.reshape(*rows.shape, *found.shape[1:]).index_select(0, order.argsort())

    def _with_static(self, dynamic: Tensor, indices: Tensor) -> Tensor:
        if not self._has_static:
            return dynamic.contiguous()
        simulation = self._simulation[indices]
        if self._statics is not None:
            static = self._statics.index_select(0, simulation)
        else:
            static = torch.stack([self.trajectories[i].static for i in simulation.tolist()])
        static = later(static, self._advances, self._frame[indices], static.dim() - 2)
        return torch.cat([dynamic, static], dim=1)
