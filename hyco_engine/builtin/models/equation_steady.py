"""The physics of equations whose states do not change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyco_engine.builtin.models.equation_physics import Equation, Parameters
from hyco_engine.builtin.models.options_physical import EquationOptions
from hyco_engine.data.fields import StateLayout
from hyco_engine.equations.meaning import KEY, Meaning
from hyco_engine.equations.schemes import Central
from hyco_engine.equations.terms import Symbol, degree, means, symbols
from hyco_engine.errors import DataError, SpecError
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.steady import Stencil
from hyco_engine.physics.steady_model import SteadyPhysics

MOST_DENSE = 2000
"""The most unknowns of steady states in which the mean of a field joins all of them."""


class SteadyEquation(Equation, SteadyPhysics):
    """Equations of states that do not change."""

    def __init__(self, options: EquationOptions, meaning: Meaning, settings: Mapping[str, ParameterSetting]) -> None:
        """Raise SpecError for what needs time, and for equations without space."""
        layout = meaning.layout
        if not layout.n_axes:
            raise SpecError("steady states are fields on a grid, and this data has no space", key=f"{KEY}.steady")
        self.central = Central(meaning)
        super().__init__(options, meaning, self.central)
        at_sides = {symbol for node in meaning.walls.values() for symbol in symbols(node)}
        timed = {"data.boundary": bool(at_sides.intersection(meaning.timed)), f"{KEY}.steady": self.uses_time}
        timed |= {f"{KEY}.parameters.{name}.along": bool(setting.along) for name, setting in settings.items()}
        if keys := [key for key, found in timed.items() if found]:
            raise SpecError("a steady state does not depend on time: leave t, series and along out", key=keys[0])
        grid, terms = layout.grid, [term.core for own in self.central.terms for term in own]
        self.linear = all(degree(core) <= 1 for core in terms)
        varying = (symbol for core in terms if degree(core) for symbol in symbols(core))
        self.alike = self.linear and not any(symbol.kind == "static" for symbol in varying)
        boxes = self.central.boxes
        if any(degree(mean) for core in terms for mean in means(core)):
            if (unknowns := layout.n_dynamic * math.prod(grid.resolution)) > MOST_DENSE:
                raise SpecError(
                    f"the mean of a field joins all {unknowns} unknowns; with it, at most {MOST_DENSE} are possible",
                    key=f"{KEY}.steady",
                )
            boxes = frozenset([tuple(n - 1 for n in grid.resolution)])
        self.stencil = Stencil(
            components=layout.n_dynamic,
            resolution=grid.resolution,
            periodic=tuple(layout.dynamic[0].boundary.is_periodic(axis) for axis in grid.axes),
            boxes=boxes,
        )

    def residual(self, dynamic: Tensor, fields: Mapping[str, Tensor], parameters: Parameters) -> Tensor:
        known = {Symbol("parameter", name): value for name, value in parameters.items()}
        varying = {symbol: fields[symbol.name][:, symbol.component] for symbol in self.meaning.statics}
        numbers: dict[Symbol, Tensor] = {}
        for symbol, value in known.items():
            uniform = value.dim() == 0 or tuple(value.shape[-self.layout.n_axes :]) == (1,) * self.layout.n_axes
            (numbers if uniform else varying)[symbol] = value
        return self.central.change(dynamic, varying)(dynamic, numbers)

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        return 1

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        return 0.0

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        return None

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        way = "is linear, and is solved directly" if self.linear else "is solved by Newton's method"
        if self.stencil.iterates:
            way = "is linear, and is solved once" if self.linear else way
            matrices = "multigrid and GMRES (sparse factors where that does not converge)"
        else:
            matrices = "sparse factors"
        return [
            f"the steady equation {way}, with {matrices} of central differences of fourth order; derivatives follow "
            "from the implicit function theorem",
            *self.given_told(),
        ]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        if not layout.static:
            raise DataError(
                "steady states that are simulated differ in their inputs alone: name a static field of the equation in "
                "physical.inputs",
                key=f"{KEY}.inputs",
            )
        states = super().initial_states(layout, count, generator)
        # the first guess
        states[:, : layout.n_dynamic] = 0.0
        return states
