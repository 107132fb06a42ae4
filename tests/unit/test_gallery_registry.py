"""What holds for every built-in physics, whichever is added: one test each over the whole registry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import attrs
import pytest
import torch
from gallery_cases import REGISTRY, Case, run, states
from torch import Tensor

from hyco_engine.physics.model import DeclaredModel
from hyco_engine.spec.choices import ParameterSetting

KINDS = [
    kind
    for kind in REGISTRY.kinds("hyco_models", role="physical")
    if REGISTRY.origin("hyco_models", kind).distribution == "hyco-engine"
]
SMALL = Case(kind="any", resolution=(8, 6))
"""What a kind runs on that needs nothing special."""
SPECIAL = {
    "gray-scott": {"upper": (14.0, 10.0), "dt": 0.4},
    "inviscid-burgers": {"resolution": (16,)},
    "kuramoto-sivashinsky": {"resolution": (16,), "upper": (22.0,), "dt": 0.25},
    "smoke": {"dt": 0.1},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "burgers": [{"options": {"scheme": "semi-lagrangian"}}],
    "gray-scott": [{"options": {"scheme": "rk4"}}],
    "heat": [
        {"options": {"order": 2}, "boundary": "periodic"},
        {"options": {"conductivity": "bumps", "form": "non-conservative"}},
        {"options": {"conductivity": "bumps", "order": 2}, "boundary": "zero-gradient"},
    ],
    "inviscid-burgers": [{"options": {"limiter": "minmod"}, "boundary": "zero-gradient"}],
    "smoke": [{"options": {"walls": "free-slip"}}],
    "navier-stokes": [{"options": {"forcing": "kolmogorov", "drag": True, "waves": 1}}],
}
"""Further options that a kind is tested with."""


def card(kind: str) -> str:
    """The docstring of the module in which a kind's physics is written."""
    return import_module(f"hyco_engine.builtin.models.{kind.replace('-', '_')}").__doc__ or ""


def all_cases() -> Iterator[Any]:
    for kind in KINDS:
        base = attrs.evolve(SMALL, kind=kind, **SPECIAL.get(kind, {}))
        cases = [base, *(attrs.evolve(base, **changes) for changes in VARIANTS.get(kind, []))]
        for case in cases:
            label = "-".join([kind, *map(str, case.options.values())])
            yield pytest.param(case, False, id=label)
            model = case.model(compile="eager")
            if any(d.may_be_field for d in model.learnables.declarations.values()):
                yield pytest.param(case, True, id=f"{label}-fields")


CASES = list(all_cases())
every_case = pytest.mark.parametrize(("case", "fields"), CASES)


BUILT: dict[Any, DeclaredModel] = {}


def build(case: Case, fields: bool, dtype: torch.dtype = torch.float64, compile: str = "graph") -> DeclaredModel:
    """The model with parameters moved off their starts, each that may be a field as one; built once."""
    key = (repr(case), fields, dtype, compile)
    if key not in BUILT:
        BUILT[key] = built(case, fields, dtype, compile)
    return BUILT[key]


def built(case: Case, fields: bool, dtype: torch.dtype, compile: str) -> DeclaredModel:
    declared = case.model(compile="eager").learnables.declarations.values()
    settings = {d.name: ParameterSetting(field=fields and d.may_be_field) for d in declared}
    model: DeclaredModel = case.model(parameters=settings, dtype=dtype, compile=compile)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for raw in model.learnables.raw.values():
            raw += 0.1 * torch.randn(raw.shape, generator=generator, dtype=torch.float64).to(raw.dtype)
    return model


def loss_and_gradients(model: DeclaredModel, state: Tensor) -> tuple[Tensor, list[Tensor]]:
    """After one step; of the sum of squares, which unlike that of the values nothing conserves."""
    state = state.clone().requires_grad_()
    after = model(state)
    return after.detach(), list(torch.autograd.grad(after.square().sum(), [state, *model.learnables.raw.values()]))


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_captured_is_eager(case: Case, fields: bool, dtype: torch.dtype, tolerance: float) -> None:
    graph, eager = (build(case, fields, dtype, how) for how in ("graph", "eager"))
    assert eager.execution[0] == "eager"
    state = states(graph, 3, seed=5)
    value, gradients = loss_and_gradients(graph, state)
    wanted, wanted_gradients = loss_and_gradients(eager, state)
    assert graph.execution[0] == "graph"
    for one, two in zip([value, *gradients], [wanted, *wanted_gradients], strict=True):
        assert one.dtype == dtype
        assert bool(two.isfinite().all())
        assert float((one - two).abs().max()) <= tolerance * float(two.abs().max())


@every_case
def test_gradients_are_those_of_finite_differences(case: Case, fields: bool) -> None:
    model = build(case, fields)
    state = states(model, 3, seed=5)
    _, (_, *gradients) = loss_and_gradients(model, state)

    def loss() -> float:
        with torch.no_grad():
            return float(model(state).square().sum())

    for (name, raw), gradient in zip(model.learnables.raw.items(), gradients, strict=True):
        direction = torch.randn(raw.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        direction = direction / direction.norm()
        start, sides = raw.detach().clone(), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                raw.copy_(start + step * direction)
            sides.append(loss())
        with torch.no_grad():
            raw.copy_(start)
        slope = float((gradient * direction).sum())
        noise = 1e-9 * abs(loss())
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=max(noise, 1e-12)), name
        assert slope != 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_every_simulation_starts_differently(kind: str) -> None:
    model = attrs.evolve(SMALL, kind=kind, **SPECIAL.get(kind, {})).model()
    drawn = states(model, 4)
    assert drawn.shape == (4, model.layout.n_all, *model.layout.spatial)
    assert bool(drawn.isfinite().all())
    dynamic = drawn[:, : model.layout.n_dynamic]
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(dynamic[i], dynamic[j]), (i, j)
    assert not torch.allclose(states(model, 1, seed=1)[:, : model.layout.n_dynamic], dynamic[:1])
    torch.testing.assert_close(states(model, 4), drawn, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_default_steps_are_stable_and_far_longer_ones_are_told(kind: str) -> None:
    case = attrs.evolve(SMALL, kind=kind, **SPECIAL.get(kind, {}))
    model = case.model()
    state = states(model)
    assert model.stability(state) is None
    assert bool(run(model, state, 5).isfinite().all())
    dt = 1e4 * case.dt
    text = case.model(dt=dt, inner_dt=dt).stability(state)
    assert text is not None
    assert text.startswith(f"{kind}: ")
    assert f"{dt:g}" in text
    assert "physical.dt" in text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "1, 2 or 3 dimensions" in " ".join(card(kind).split())])
@pytest.mark.parametrize("axes", [1, 3])
def test_what_is_said_to_run_in_any_dimension_does(kind: str, axes: int) -> None:
    case = attrs.evolve(SMALL, kind=kind, dt=1e-4, resolution=(6, 5, 7)[:axes])
    model = case.model(compile="eager")
    made = run(model, states(model, 1), 1)
    assert made.shape == (1, 2, model.layout.n_dynamic, *case.resolution)
    assert bool(made.isfinite().all())
    assert not torch.equal(made[:, 0], made[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_cards_say_what_they_must(kind: str) -> None:
    model = attrs.evolve(SMALL, kind=kind, **SPECIAL.get(kind, {})).model()
    text = card(kind)
    words = ["Equation", "Field", "Parameter", "Boundary", "Solutions", "Order", "Numerical diffusion", "Reference"]
    for word in words:
        assert word.lower() in text.lower(), f"the card of {kind} says nothing of {word}"
    for declaration in model.learnables.declarations.values():
        assert f"`{declaration.name}`" in text
        assert declaration.help
        assert declaration.unit
        assert math.isfinite(declaration.init)
