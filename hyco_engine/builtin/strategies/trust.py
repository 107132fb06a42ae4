"""`trust`: the better a teacher is on held-out real data, compared with its pupil, the more samples it generates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hyco_engine.augment.balance import generated_count
from hyco_engine.augment.recipes import TeacherDiverged
from hyco_engine.builtin.strategies.starts import (
    SPIN_UP,
    States,
    check_steppers,
    drawn_starts,
    mixed_starts,
    random_starts,
    scalar_ranges,
    with_new_parameters,
)
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, PhysicalModel, Player, Strategy, Values
from hyco_engine.physics.disturbance import GROWTH, Disturbance
from hyco_engine.physics.within import fitted, instability, known_parameters, physics_within
from hyco_engine.rollout import evaluating, rollout

if TYPE_CHECKING:
    from hyco_engine.builtin.strategies import TrustOptions


UNTAUGHT = 0.25
"""The part of a usual phase in which a surrogate first learns from real data alone, where generated ones may follow."""

WIDER = 2.0
"""A teacher that is trusted beyond its usual share starts from states that deviate up to so many times as much."""


def trust(e_teacher: float, e_pupil: float, most: float = 1.0) -> float:
    """Return tau = min(most, (e_pupil / e_teacher)^2); 0 for a teacher that diverges, or without two numbers."""
    if not math.isfinite(e_teacher) or math.isnan(e_pupil):
        return 0.0
    # compared before it is divided: errors of 0, and a pupil that diverges
    return most if e_pupil >= math.sqrt(most) * e_teacher else (e_pupil / e_teacher) ** 2


def teachers_part(e_teacher: float, e_pupil: float) -> float:
    """Return which part of the squared difference between two models is the teacher's error."""
    if e_teacher == 0 or not math.isfinite(e_pupil):
        return 0.0
    return e_teacher**2 / (e_teacher**2 + e_pupil**2)


def _amplifies(context: CycleContext, teacher: Player, states: Values) -> bool:
    """Return whether a physics says that its steps from states are too long, and a disturbance of them indeed grows.

    What it says is a bound: a viscosity that is negative in a few cells may do no harm.
    """
    model, layout = context.models[teacher], context.layout
    if instability(model, states) is None:
        return False
    if not isinstance(states, Tensor) or layout is None:
        return True
    states = fitted(states, model)
    disturbance = Disturbance(states[:, : layout.n_dynamic], context.generator("disturbance"))
    static = states[:, layout.n_dynamic :]
    starts = torch.cat([disturbance.both, torch.cat([static, static])], dim=1)
    with torch.no_grad(), evaluating(model):
        path = rollout(model, starts, SPIN_UP + (context.real.horizon or 1))
    return any(disturbance.growth(both) > GROWTH for both in path.unbind(1))


class Trust(Strategy):
    """Generates `int(n_real * alpha * tau)` rollouts, each with the weight of a real sample.

    Both errors are measured on the same held-out real data right before each phase, without the noise of the data; but
    the real samples from which a network learns have this noise, so its own error includes it. A teacher's samples
    carry its squared error; since their number is proportional to tau, the error that they add is at most alpha times
    the pupil's own held-out loss. A phase for which no sample is left is bitwise that of a model trained alone.

    With new starts this holds only if the teacher's error there is its error on the data. The law of a physics that is
    the better model holds there, too, but another teacher may be much worse. So the pupil's loss on what another
    teacher generates is measured. It is what the two models differ by, of which e_teacher^2 / (e_teacher^2 +
    e_pupil^2) is the teacher's error, and tau is at most the pupil's loss on real samples over that part.

    tau is at most 1 for a physics, all samples of which a step of its optimizer takes. A surrogate may be taught as
    many more as its epoch has room for: `epoch_samples`, real and generated. A physics so much better than it also
    teaches beyond the data, since its law holds there: from mixed states that deviate from their mean up to `WIDER`
    times as much, or as little.

    A surrogate's errors average out in the few parameters of a physics, whereas a network copies the errors of a wrong
    physics. So a physics that is worse than the surrogate is not accepted as its teacher, unless its rollouts start
    from real windows.
    """

    def __init__(self, options: TrustOptions, epoch_samples: int = 0) -> None:
        self.options = options
        self.epoch_samples = epoch_samples

    def max_generated(self, n_real: int, alpha: float) -> int:
        return max(generated_count(n_real, alpha), self.epoch_samples - n_real) if alpha else 0

    def phases(self, cycle: int) -> Sequence[Phase]:
        """Plan the usual phases, and before the first cycle's let both models learn from real data alone.

        A physics with guessed parameters is no teacher, and any teacher has a smaller error than an untrained pupil.
        """
        if cycle:
            return super().phases(cycle)
        warmup = Phase(player="physical", epochs=self.options.warmup, taught=False)
        # with an epoch to fill, the surrogate need not learn by heart what few real samples there are
        part = UNTAUGHT if self.epoch_samples else 1.0
        return warmup, Phase(player="synthetic", taught=False, part=part), Phase(player="physical")

    def last_phases(self) -> Sequence[Phase]:
        """Plan a polish of the physics, as long as its warm-up."""
        return (Phase(player="physical", epochs=self.options.warmup or None, taught=False),)

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:
        check_steppers(models)
        if self.options.starts == "drawn" and cast("PhysicalModel", models["physical"]).starts_alike:
            raise SpecError(
                "physical.initial gives the start state, and the physics can draw no other: choose other starts",
                key="augmentation.starts",
            )
        if not heldout:
            raise SpecError(
                "this strategy compares the models' errors on held-out data, and no data is held out: set "
                'data.split.val, or set augmentation.kind = "count", which needs no held-out data',
                key="augmentation.kind",
            )

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        n_real, alpha = len(context.real), context.alpha
        limit = self.max_generated(n_real, alpha) if phase.player == "synthetic" else generated_count(n_real, alpha)
        if limit == 0:
            return None  # no sample would be generated, so the errors need not be measured
        errors = context.errors()
        e_teacher, e_pupil = errors[phase.teacher], errors[phase.player]
        # the real samples of a network have the noise of the data, which the few parameters of a physics average out
        noisy = context.noisy_errors or context.errors
        own_error = noisy()[phase.player] if phase.player == "synthetic" else e_pupil
        # what diverges in generated rollouts may still be finite over the few frames that are held out
        unstable = _amplifies(context, phase.teacher, context.real.inputs(torch.arange(1)))
        most = max(1.0, limit / (n_real * alpha))
        tau = 0.0 if unstable else trust(e_teacher, own_error, most)
        better = trust(e_teacher, e_pupil) == 1
        accepted = better or phase.player == "physical" or self.options.starts == "real"
        count = generated_count(n_real, alpha * tau) if accepted else 0
        recipe = None
        if count:
            # only mixed states can be made wider
            for wider in (WIDER, 1.0) if tau > 1 and self.options.starts == "mixed" else (1.0,):
                states, spin_up = self._starts(context, phase.teacher, count, wider)
                if wider > 1 and _amplifies(context, phase.teacher, states(torch.arange(count))):
                    continue
                recipe = context.rollout_recipe(phase.teacher, states, count, spin_up)
                # a teacher that diverges is noticed here; if from usual starts, too, that is told when it generates
                with suppress(TeacherDiverged):
                    generated, part = context.loss(phase.player, recipe), teachers_part(e_teacher, e_pupil)
                    if phase.player == "physical" or not better:
                        imported = part * generated if part else 0.0
                        tau = min(tau, trust(math.sqrt(imported), math.sqrt(context.loss(phase.player)), most))
                    break
            if (left := generated_count(n_real, alpha * tau)) < count:
                count, spin_up = left, None if spin_up is None else spin_up[:left]
                recipe = context.rollout_recipe(phase.teacher, states, count, spin_up) if count else None
        record = {"e_teacher": e_teacher, "e_pupil": e_pupil, "tau": tau, "accepted": count > 0}
        return Augmentation(recipe=recipe, expected_ratio=alpha * tau if accepted else 0.0, record=record)

    def _starts(self, context: CycleContext, teacher: Player, count: int, wider: float) -> tuple[States, Tensor | None]:
        """Return the states from which rollouts start, and how many steps the teacher takes before.

        Mixed states deviate from their mean up to `wider` times as much as the data.
        """
        generator = context.generator("starts")
        steady = any(own.steady for model in context.models.values() for own in physics_within(model).values())
        if self.options.starts == "real":
            return random_starts(context.real, count, generator), None
        states: States
        layout = context.layout
        if layout is None:
            raise RunError(
                f'the starts "{self.options.starts}" are fields on a grid, and this data has none; set starts = "real"'
            )
        if self.options.starts == "drawn":
            states, new = drawn_starts(context.models["physical"], context.generator), layout.scalars
        else:
            states = mixed_starts(context.real, layout, count, generator, wider)
            new = known_parameters(context.models[teacher], layout)
        if new:
            ranges = scalar_ranges(new, context.models["physical"], context.real, layout)
            states = with_new_parameters(states, layout, ranges, count, context.generator("parameters"))
        # a steady state is reached at once, and from the same first guess as in the data
        return states, None if steady else torch.randint(1, SPIN_UP + 1, (count,), generator=generator)
