"""Properties of every built-in physics: each test runs over the whole registry."""

from __future__ import annotations

import math
from importlib import import_module

import attrs
import pytest
import torch
from gallery_cases import REGISTRY, Case, run, states, windows

from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

KINDS = [
    kind
    for kind in REGISTRY.kinds("hyco_models", role="physical")
    if REGISTRY.origin("hyco_models", kind).distribution == "hyco-engine"
]
SMALL = Case(kind="any", resolution=(8, 6))
"""What a kind runs on that needs nothing special."""
SPECIAL = {
    "equation": {"options": {"rates": {"u": "nu*lap(u) - u*dx(u)"}}, "parameters": {"nu": 0.02}},
    "gray-scott": {"upper": (14.0, 10.0), "dt": 0.4},
    "inviscid-burgers": {"resolution": (16,)},
    "kuramoto-sivashinsky": {"resolution": (16,), "upper": (22.0,), "dt": 0.25},
    "smoke": {"dt": 0.1},
}


def card(kind: str) -> str:
    """Return the docstring of the module that defines a kind's physics."""
    return import_module(f"hyco_engine.builtin.models.{kind.replace('-', '_')}").__doc__ or ""


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
    own = {name: value for name, value in SPECIAL.get(kind, {}).items() if name in ("options", "parameters")}
    case = attrs.evolve(SMALL, kind=kind, dt=1e-4, resolution=(6, 5, 7)[:axes], **own)
    model = case.model(compile="eager")
    made = run(model, states(model, 1), 1)
    assert made.shape == (1, 2, model.layout.n_dynamic, *case.resolution)
    assert bool(made.isfinite().all())
    assert not torch.equal(made[:, 0], made[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_run_as_they_are_written_are_differentiated_forwards(kind: str) -> None:
    """Differences would take two rollouts for each parameter, five times as long as forward mode."""
    model = attrs.evolve(SMALL, kind=kind, **SPECIAL.get(kind, {})).model(compile="eager")
    trainer = Trainer(model, player="physical", layout=model.layout, settings=TrainingSettings())
    whole = trainer.whole_loss(windows(model, count=1, frames=3))
    point = whole.unknowns.point()
    step = torch.full_like(point, 1e-6)
    ends = []
    for where in (point - step, point + step, point):
        ((_, residual, jacobian),) = trainer.linearizer.linearized(whole, where[None])
        ends.append(residual)
    assert trainer.linearizer.way == "together", trainer.linearizer.reason
    torch.testing.assert_close(jacobian @ step, (ends[1] - ends[0]) / 2, rtol=1e-5, atol=1e-12)


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
