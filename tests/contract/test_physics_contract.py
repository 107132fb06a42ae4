"""The built-in physics keep the public contract."""

from __future__ import annotations

from typing import Any

import attrs

from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, PhysicalModel
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.testing.contexts import tiny_grid
from hyco_engine.testing.physics import PhysicsContract

REGISTRY = Registry.discover()
# an equation has its own contracts, since its parameters are those of its text
KINDS = [
    kind
    for kind in REGISTRY.kinds("hyco_models", role="physical")
    if REGISTRY.origin("hyco_models", kind).distribution == "hyco-engine" and kind != "equation"
]
WHERE: dict[str, dict[str, Any]] = {
    "gray-scott": {"grid": tiny_grid(8, 6, upper=(14.0, 10.0)), "dt": 0.4},
    "inviscid-burgers": {"grid": tiny_grid(16)},
    "kuramoto-sivashinsky": {"grid": tiny_grid(16, upper=(22.0,)), "dt": 0.25},
    "smoke": {"dt": 0.1},
}
"""What a kind needs that is not content with the contract's own grid and step."""
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "burgers": [
        {"scheme": "semi-lagrangian"},
        {"learn": "advection"},
        {"scheme": "semi-lagrangian", "learn": "advection", "boundary": 0.0},
    ],
    "fisher-kpp": [{"learn": "capacity"}],
    "gray-scott": [{"scheme": "rk4"}],
    "heat": [
        {"order": 2, "boundary": "periodic"},
        {"conductivity": "bumps", "form": "non-conservative"},
        {"conductivity": "bumps", "order": 2, "boundary": "zero-gradient"},
    ],
    "inviscid-burgers": [{"limiter": "minmod", "boundary": "zero-gradient"}],
    "kuramoto-sivashinsky": [{"learn": "advection"}],
    "smoke": [{"walls": "free-slip"}],
    "navier-stokes": [{"forcing": "kolmogorov", "drag": True, "waves": 1}],
}
"""Further options that a kind is tested with; `learn` names an optional parameter."""
FIELDS = ("advection", "burgers", "fisher-kpp", "gray-scott", "heat", "inviscid-burgers")


def cases() -> dict[str, type[PhysicsContract]]:
    found: dict[str, type[PhysicsContract]] = {}
    for kind in KINDS:
        for given in ({}, *VARIANTS.get(kind, [])):
            may = kind in FIELDS and "conductivity" not in given and given.get("learn") != "advection"
            for fields in (False, True) if may else (False,):
                words = [*kind.split("-"), *map(str, given.values())]
                label = "".join(word.title() for word in words if word.isalnum())
                name = f"Test{label}{'Fields' if fields else ''}"
                found[name] = contract(name, kind, given, fields)
    return found


def contract(name: str, kind: str, given: dict[str, Any], fields: bool) -> type[PhysicsContract]:
    options = {key: value for key, value in given.items() if key not in ("boundary", "learn")}
    named = {given["learn"]: ParameterSetting(learn=True, field=fields)} if "learn" in given else {}

    def make(self: PhysicsContract, context: BuildContext) -> PhysicalModel:
        record = REGISTRY.get("hyco_models", kind, role="physical")
        context = attrs.evolve(context, parameters={**context.parameters, **named})
        model: PhysicalModel = REGISTRY.build("hyco_models", kind, record.options(**options), context)
        return model

    more = {"make": make, "fields": fields, "boundary": given.get("boundary"), **WHERE.get(kind, {})}
    return type(name, (PhysicsContract,), more)


globals().update(cases())


def test_parameters_that_may_be_fields_are_tested_as_fields() -> None:
    for kind in KINDS:
        model = contract("Probe", kind, {}, False)()._built()
        may = any(declared.may_be_field for declared in model.learnables.declarations.values())
        assert may == (kind in FIELDS), kind
