"""The physics of equations without space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyco_engine.builtin.models.equation_physics import Equation, Parameters, counted
from hyco_engine.builtin.models.options_physical import EquationOptions
from hyco_engine.data.fields import TIME, StateLayout
from hyco_engine.data.scalars import number as number_in
from hyco_engine.equations.accuracy import MOST, ROUGH, TOLERANCE, Advance, accurate_steps, reached
from hyco_engine.equations.meaning import KEY, Meaning
from hyco_engine.equations.schemes import Central
from hyco_engine.equations.stability import probes
from hyco_engine.equations.terms import Symbol
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import LEARNING_ROOM


class System(Equation):
    """Equations without space: a state is one number for each component, and steps are as short as accuracy asks."""

    def __init__(self, options: EquationOptions, meaning: Meaning, context: PhysicsContext) -> None:
        """Raise SpecError for what needs space."""
        if options.scheme != "auto":
            raise SpecError(
                "the data have no space, and a system of equations without it no scheme", key=f"{KEY}.scheme"
            )
        for name, setting in context.parameters.items():
            if setting.field:
                raise SpecError("there is no space over which it could vary", key=f"{KEY}.parameters.{name}.field")
        super().__init__(options, meaning, Central(meaning), context.times)
        layout, statistics = meaning.layout, context.statistics
        self._known = statistics is not None and len(statistics.states) > 1
        if statistics is not None and self._known:
            self._states = statistics.states
        else:
            around, most = options.offset, 2 * options.amplitude
            ends = probes(dict.fromkeys(meaning.components, (around - most, around + most)))
            dynamic = torch.stack(list(ends.values()), dim=1)
            static = dynamic.new_zeros(len(dynamic), layout.n_all - layout.n_dynamic)
            self._states = torch.cat([dynamic, static], dim=1)

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        least = self.least_steps(layout, size, parameters, dt)
        if math.isfinite(least):
            return max(1, math.ceil(LEARNING_ROOM * least - 1e-9))
        values = ", ".join(f"{name} = {float(value):.3g}" for name, value in parameters.items())
        raise DataError(
            f"with {values}, frames of {dt:g} are not accurate even with {MOST} internal steps, from states of the "
            "data: check units, bounds and start values of the parameters, and the time between frames, or set "
            "physical.dt",
            key="physical.dt",
        )

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        """Return the number of steps at which a frame is accurate."""
        states, n = self._states, layout.n_dynamic
        with torch.no_grad():
            if not self._known:
                # the data are yet to be made, and are what these states become
                found = reached(self._advance(states, parameters, dt), states[:, :n])
                states = torch.cat([found, found.new_zeros(len(found), layout.n_all - n)], dim=1)
            return accurate_steps(self._advance(states, parameters, dt), states[:, :n], states[:, :n].std(0))

    def _advance(self, states: Tensor, parameters: Parameters, dt: float) -> Advance:
        """Return the function that makes some steps of a frame; what does not change is that of `states [N, C_all]`."""
        others = {Symbol("parameter", name): value.to(states) for name, value in parameters.items()}
        for symbol in self.meaning.statics:
            others[symbol] = states[:, self.layout.channels(symbol.name)][:, symbol.component]
        begin = number_in(states, self.layout, TIME) if self.meaning.timed else None

        def advance(dynamic: Tensor, steps: int) -> Tensor:
            for index in range(steps):
                time = None if begin is None else begin + index * dt / steps
                dynamic = self.scheme.step(dynamic, others, time, dt / steps)
            return dynamic

        return advance

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        states = torch.cat([state[info.name] for info in layout.fields], dim=1).double()
        dynamic = states[:, : layout.n_dynamic]
        spread = (self._states if self._known else states)[:, : layout.n_dynamic].std(0, correction=0).to(states.device)
        with torch.no_grad():
            steps = accurate_steps(self._advance(states, parameters, dt), dynamic, spread, ROUGH)
        if steps <= 1:
            return None
        return (
            f"equation: steps of dt = {dt:g} are too long: half of the step changes a field by more than {ROUGH:g} of "
            f"its spread. Set physical.dt to at most {dt / steps:.3g}"
        )

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        return [
            f"the system of equations is solved by classical Runge-Kutta with {counted(internal_steps)}, so many that "
            f"twice as many change a frame by less than {TOLERANCE:g} of the spread of each field",
            *self.given_told(),
        ]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(count, layout.n_all, generator=generator, dtype=torch.float64)
        return self.options.offset + self.options.amplitude * drawn
