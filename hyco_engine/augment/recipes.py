"""Recipes: the way in which generated samples are computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyco_engine.data.clock import later
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import RunError
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import Batch, Recipe, Samples
from hyco_engine.physics.within import instability, physics_within
from hyco_engine.rollout import evaluating, rollout


class TeacherDiverged(RunError):
    """Raised for a teacher whose rollout is not finite."""


class FirstSamples(Samples):
    """The first samples of a recipe, at most `count`, generated whenever they are asked for."""

    def __init__(self, recipe: Recipe, count: int) -> None:
        self._recipe = recipe
        self._count = min(count, len(recipe))

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Tensor) -> Batch:
        return self._recipe.generate(indices)


class RolloutRecipe(Recipe):
    """Samples of a start and the teacher's rollout from it: `[B, C_all, *S]` and `[B, T, C_dyn, *S]`, `T = horizon`.

    `states(indices) -> [B, C_all, *S]` gives the starts and must be pure. With a spin-up `lead [count]` (int64), sample
    i starts from the state that the teacher reaches `lead[i]` steps later. The teacher runs in eval mode and without
    gradients, and it must not change while the recipe is in use. In error messages, `where` says what the samples are
    for, e.g. `"cycle 2, for the synthetic model"`, and `who` names the teacher.
    """

    def __init__(
        self,
        teacher: nn.Module,
        states: Callable[[Tensor], Tensor],
        count: int,
        *,
        horizon: int,
        layout: StateLayout,
        lead: Tensor | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
        where: str = "",
        who: str = "",
    ) -> None:
        if count < 0 or horizon < 1 or batch_size < 1:
            raise ValueError(
                f"count must be >= 0, horizon >= 1 and batch_size >= 1, not {count}, {horizon} and {batch_size}"
            )
        self.teacher = teacher
        self.states = states
        self.horizon = horizon
        self.lead = lead
        self.layout = layout
        self.device = torch.device(device)
        self.dtype = dtype
        self.where = where
        self.who = who or type(teacher).__name__
        self._count = count
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._count

    @property
    def sample_bytes(self) -> int:
        channels = self.layout.n_all + self.horizon * self.layout.n_dynamic
        return channels * math.prod(self.layout.spatial) * self.dtype.itemsize

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def generate(self, indices: Tensor) -> Batch:
        """Generate as in `Recipe`. Raises TeacherDiverged if predictions are not finite.

        Raises RunError if starts are not finite, or if anything has the wrong shape.
        """
        starts = self.states(indices).to(device=self.device, dtype=self.dtype)
        self._check(starts, indices, (self.layout.n_all, *self.layout.spatial), "a start")
        lead = torch.zeros_like(indices) if self.lead is None else self.lead[indices]
        steps = int(lead.max()) + self.horizon
        place = f"generating for {self.where}" if self.where else "generating"
        with attributed(self.who, place), torch.no_grad(), evaluating(self.teacher):
            path = rollout(self.teacher, starts, steps)
        self._check(path, indices, (steps, self.layout.n_dynamic, *self.layout.spatial), f"a rollout of {steps} steps")
        if self.lead is not None:
            path = torch.cat([starts[:, None, : self.layout.n_dynamic], path], dim=1)
            frames = lead[:, None] + torch.arange(self.horizon + 1)
            path = path[torch.arange(len(path))[:, None], frames]
            static = later(
                starts[:, self.layout.n_dynamic :], self.layout.advances, lead.to(starts.device), self.layout.n_axes
            )
            starts, path = torch.cat([path[:, 0], static], dim=1), path[:, 1:]
        return starts.cpu(), path.to(device="cpu", dtype=self.dtype)

    def _check(self, made: Tensor, indices: Tensor, shape: tuple[int, ...], what: str) -> None:
        teacher = type(self.teacher).__name__
        place = f"{self.where}: " if self.where else ""
        if made.shape != (len(indices), *shape):
            raise RunError(
                f"{place}generating with {teacher}: {what} must be {list(shape)}, got {list(made.shape[1:])} for "
                f"{made.shape[0]} of {len(indices)} samples"
            )
        finite = made.isfinite()
        if finite.all():
            return
        bad = (~finite.flatten(1).all(1)).nonzero().flatten()
        first = int(bad[0])
        found = f"in {len(bad)} of {len(indices)} samples (first: sample {int(indices[first])}"
        channel = (~finite[first]).nonzero()[0]
        if what == "a start":
            raise RunError(
                f"{place}the starts for {teacher} hold non-finite values {found}, field "
                f"{self._field(int(channel[0]))}); start from states that are observed everywhere"
            )
        raise TeacherDiverged(
            f"{place}{teacher} generated non-finite values {found}, step {int(channel[0]) + 1} of {made.shape[1]}, "
            f"field {self._field(int(channel[1]))}): its rollout diverges{self._cure(indices)}"
        )

    def _cure(self, indices: Tensor) -> str:
        if not physics_within(self.teacher):
            return "; train it longer before it teaches, or lower its learning rate or the horizon"
        told = instability(self.teacher, self.states(indices))
        if told is not None:
            return f". {told}"
        return "; set physical.dt to a shorter internal step, or narrow the bounds of its parameters"

    def _field(self, channel: int) -> str:
        return next(repr(f.name) for f in self.layout.fields if channel < self.layout.channels(f.name).stop)
