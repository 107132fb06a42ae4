"""`interaction`: the published loss of HYCO (arXiv 2509.14123), a misfit of both models at ghost points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import Grid, StateLayout
from hyco_engine.data.points import Sensors
from hyco_engine.errors import RunError
from hyco_engine.interfaces import (
    Augmentation,
    Batch,
    CycleContext,
    ExtraTerm,
    LossTerm,
    Phase,
    PhysicalModel,
    Player,
    Predictor,
    Strategy,
    TermSpec,
)
from hyco_engine.rollout import evaluating, rollout
from hyco_engine.training.point_losses import predicted_at

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import InteractionOptions


class Interaction(Strategy):
    """Generates no samples; adds alpha * mean (u_player - stop[u_teacher])^2 over ghost points to each phase's loss.

    Minibatch optimizers see new points in every batch and epoch. Optimizers that iterate over all samples see one set
    of points a phase, since their estimate of the loss's curvature holds for one set only.
    """

    def __init__(self, options: InteractionOptions) -> None:
        self.options = options

    def phases(self, cycle: int) -> Sequence[Phase]:
        """Plan one phase a model; a model that only teaches comes first, and `cooperate` ends the physics' teaching."""
        cooperating = not self.options.cooperate or cycle < self.options.cooperate
        order: tuple[Player, Player] = ("synthetic", "physical")
        if self.options.teach == "synthetic":
            order = ("physical", "synthetic")
        pupils = order if self.options.teach == "both" else order[1:]
        return [Phase(player=p, taught=p in pupils and (cooperating or p == "synthetic")) for p in order]

    def last_phases(self) -> Sequence[Phase]:
        """Plan a polish for a physics that is taught up to the last cycle."""
        polishes = self.options.teach != "synthetic" and not self.options.cooperate
        return (Phase(player="physical", taught=False),) if polishes else ()

    def max_generated(self, n_real: int, alpha: float) -> int:
        return 0

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        if context.alpha == 0:
            return None
        if context.layout is None or context.real.horizon is None:
            raise RunError("the strategy interaction draws ghost points from a domain, and this data has no grid")
        ghosts = Ghosts(
            teacher=context.models[phase.teacher],
            layout=context.layout,
            steps=context.real.horizon,
            points=self.options.points,
            dt=_physics(context).dt,
            steady=_physics(context).steady,
        )
        terms = [GhostTerm(ghosts, spec, context.alpha) for spec in context.terms[phase.player]]
        return Augmentation(terms=terms, record={"alpha": context.alpha, "ghost_points": self.options.points})


def _physics(context: CycleContext) -> PhysicalModel:
    return cast("PhysicalModel", context.models["physical"])


def ghost_points(grid: Grid, count: int, points: int, steps: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw `frame [count, points]` uniform in 0..steps and `position [count, points, n_axes]` uniform in the domain."""
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    where = torch.rand(count, points, len(grid.axes), generator=generator)
    # rounding must not move a point out of the domain
    position = (lower + where * (upper - lower)).clamp(lower, upper)
    return {"frame": steps * torch.rand(count, points, generator=generator), "position": position}


@attrs.define(kw_only=True, eq=False)
class Ghosts:
    """Both models at ghost points of a batch: steppers by rollouts from its states, predictors by direct evaluation."""

    teacher: nn.Module
    layout: StateLayout
    steps: int
    points: int
    dt: float
    steady: bool = False
    """Whether the last frame alone is a state, as that of a steady physics is."""
    _last: tuple[Batch, Tensor] | None = None
    _taught: tuple[Tensor, Tensor] | None = None

    def differences(self, model: nn.Module, batch: Batch, generator: torch.Generator, *, again: bool) -> Tensor:
        """Return model minus teacher, `[B, points, C_dyn]`; with `again`, reuse the result for the same batch."""
        if again and self._last is not None and self._last[0] is batch:
            return self._last[1]
        states, targets = batch
        if not isinstance(states, Tensor):
            raise TypeError("ghost points need rollouts from states, and the samples of this data are inputs by name")
        at = ghost_points(self.layout.grid, len(states), self.points, self.steps, generator)
        if self.steady:
            at["frame"] = torch.full_like(at["frame"], float(self.steps))
        at = {name: values.to(states.device, states.dtype) for name, values in at.items()}
        with torch.no_grad(), evaluating(self.teacher):
            theirs = self._read(self.teacher, self._teacher_path, states, targets, at)
        difference = self._read(model, self._path, states, targets, at) - theirs
        self._last = (batch, difference)
        return difference

    def _read(
        self,
        model: nn.Module,
        path: Callable[[nn.Module, Tensor], Tensor],
        states: Tensor,
        targets: Tensor | Mapping[str, Tensor],
        at: Mapping[str, Tensor],
    ) -> Tensor:
        if isinstance(model, Predictor):
            where = {"position": at["position"], "time": _times(targets, at["frame"], self.dt)}
            return predicted_at(model, where, self.layout)
        whole = path(model, states)
        if len(whole) == len(states):
            return Sensors(self.layout)(whole, at["frame"], at["position"])
        read = Sensors(self.layout)(whole, at["frame"].reshape(1, -1), at["position"].flatten(0, 1)[None])
        return read.view(len(states), -1, read.shape[-1])

    def _path(self, model: nn.Module, states: Tensor) -> Tensor:
        """Return `[B, steps + 1, C_dyn, *S]`: the states and the rollout from them."""
        return torch.cat([states[:, None, : self.layout.n_dynamic], rollout(model, states, self.steps)], dim=1)

    def _teacher_path(self, teacher: nn.Module, states: Tensor) -> Tensor:
        """Return the teacher's path, with B = 1 where all states are equal."""
        # the teacher does not change within a phase, so one rollout serves all epochs where all samples start alike
        first = states[:1] if bool((states == states[:1]).all()) else states
        if self._taught is None or not torch.equal(self._taught[0], first):
            self._taught = (first, self._path(teacher, first))
        return self._taught[1]


def _times(targets: Tensor | Mapping[str, Tensor], frame: Tensor, dt: float) -> Tensor:
    """Return the time since the simulation's start at `frame [B, N]`, which counts from each sample's start.

    `targets` are those of `PointWindows`.
    """
    if isinstance(targets, Tensor):
        raise TypeError(
            "a predictor can be compared with the physics at ghost points only for data of sensors, and this data has "
            "frames"
        )
    return targets["time"][:, :1] + dt * (frame - targets["frame"][:, :1])


class GhostTerm(ExtraTerm):
    """The misfit in one field; all fields of a batch share the points and the rollouts."""

    def __init__(self, ghosts: Ghosts, spec: TermSpec, alpha: float) -> None:
        self.ghosts = ghosts
        self.field = spec.name
        self.spec = attrs.evolve(spec, name=f"interaction/{spec.name}", priority=alpha * spec.priority)
        names = [field.name for field in ghosts.layout.dynamic]
        self.first = spec.name == names[0]

    def term(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossTerm:
        difference = self.ghosts.differences(model, batch, generator, again=not self.first)
        squares = difference[..., self.ghosts.layout.channels(self.field)].square()
        return LossTerm(spec=self.spec, per_sample=squares.flatten(1).mean(1))
