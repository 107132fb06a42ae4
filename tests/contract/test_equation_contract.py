"""Physics whose equations are text keep the public contract, with both schemes."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, PhysicsContext
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.testing.contexts import tiny_grid
from hyco_engine.testing.physics import PhysicsContract

REGISTRY = Registry.discover()


class OfText(PhysicsContract):
    options: ClassVar[dict[str, Any]]
    start: ClassVar[dict[str, float]]

    def make(self, context: PhysicsContext) -> PhysicalModel:
        given = {name: context.parameters.get(name, ParameterSetting()) for name in self.start}
        settings = {
            name: setting if setting.init is not None else attrs.evolve(setting, init=self.start[name])
            for name, setting in given.items()
        }
        record = REGISTRY.get("hyco_models", "equation", role="physical")
        context = attrs.evolve(context, parameters={**context.parameters, **settings})
        model: PhysicalModel = REGISTRY.build("hyco_models", "equation", record.options(**self.options), context)
        return model


class TestSpectralEquation(OfText):
    """A third derivative, a product, and a sum of numbers."""

    grid = tiny_grid(16, upper=(12.0,))
    dt = 0.05
    options: ClassVar[dict[str, Any]] = {"rates": {"u": "-speed*u*dx(u) - d*dx(u, 3) + sin(x)*u**2"}}
    start: ClassVar[dict[str, float]] = {"speed": 1.0, "d": 0.5}


class TestDifferenceEquation(OfText):
    """Two fields, walls, a coefficient that varies, and functions."""

    grid = tiny_grid(12)
    dt = 0.001
    boundary = "zero-gradient"
    options: ClassVar[dict[str, Any]] = {
        "rates": {
            "u": "-u*dx(u) + nu*lap(u) - dx(c)",
            "c": "div(kappa*exp(c)*grad(c)) + where(c > 0, u, tanh(u)) - mean(c)",
        },
        "amplitude": 0.2,
    }
    start: ClassVar[dict[str, float]] = {"nu": 0.05, "kappa": 0.05}


class TestEquationWithFields(TestDifferenceEquation):
    fields = True
