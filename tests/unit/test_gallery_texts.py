"""The equations as text in the cards of the built-in physics: they and the physics give the same rates of change."""

from __future__ import annotations

import inspect
import math
import re
from importlib import import_module
from typing import Any

import pytest
import torch
from gallery_cases import Case
from torch import Tensor

from hyco_engine.builtin.models import hyco_models
from hyco_engine.physics.settings import ParameterSetting

DT = 1e-6
PLANE: dict[str, Any] = {"upper": (1.0, 1.0), "boundary": "periodic"}


def texts(kind: str) -> dict[str, str]:
    """Return the rates in the card of a kind."""
    card = " ".join(inspect.getdoc(import_module(f"hyco_engine.builtin.models.{kind.replace('-', '_')}")).split())  # type: ignore[union-attr]
    return dict(re.findall(r'`rates\.(\w+) = "([^"]*)"`', card))


def waves(own: Any, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Return the same random long waves on the cells of any grid, for each channel."""
    grid = own.layout.grid
    generator = torch.Generator().manual_seed(seed)
    places = torch.meshgrid(
        *[
            torch.tensor(grid.centers(axis), dtype=torch.float64) / upper
            for axis, upper in zip(grid.axes, grid.upper, strict=True)
        ],
        indexing="ij",
    )
    found = []
    for _ in range(own.layout.n_all):
        total = torch.full_like(places[0], mean)
        for _ in range(4):
            numbers = torch.randint(-2, 3, (len(places),), generator=generator)
            phase, size = 6.28 * torch.rand(1, generator=generator), torch.rand(1, generator=generator)
            total = total + 0.3 * size * torch.cos(
                2 * math.pi * sum(n * x for n, x in zip(numbers, places, strict=True)) + phase
            )
        found.append(total)
    return torch.stack(found)[None]


def rates(own: Any, state: Tensor) -> Tensor:
    n = own.layout.n_dynamic
    with torch.no_grad():
        return (own(state) - state[:, :n]) / DT


def both(
    kind: str,
    resolution: tuple[int, ...],
    values: dict[str, Any],
    *,
    scheme: str = "auto",
    vectors: Any = (),
    inputs: Any = (),
    **more: Any,
) -> tuple[Any, Any]:
    """Return the built-in physics, and that of the text in its card, on one grid."""
    built = Case(kind=kind, resolution=resolution, parameters=values, dt=DT, **{"boundary": "periodic", **more})
    options = {"rates": texts(kind), "scheme": scheme, "vectors": vectors, "inputs": inputs}
    more.pop("options", None)
    own = Case(
        kind="equation",
        resolution=resolution,
        parameters=values,
        dt=DT,
        **{"boundary": "periodic", **more, "options": options},
    )
    return built.model(compile="eager", inner_dt=DT), own.model(compile="eager", inner_dt=DT)


FIXED = {"advection": ParameterSetting(init=0.7, learn=False), "capacity": ParameterSetting(init=1.4, learn=False)}
CASES: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any], float]] = [
    (
        "advection",
        (24, 20),
        {"mx": 0.3, "my": -0.2},
        {"vectors": ["v"], "inputs": ["v"], "scheme": "finite-difference"},
        1e-6,
    ),
    (
        "burgers",
        (24, 20),
        {"nu": 0.02, "advection": FIXED["advection"]},
        {"vectors": ["u"], "scheme": "finite-difference"},
        1e-6,
    ),
    (
        "fisher-kpp",
        (24, 20),
        {"D": 0.01, "r": 1.3, "capacity": FIXED["capacity"]},
        {"scheme": "finite-difference"},
        1e-6,
    ),
    ("heat", (24, 20), {"kappa": 0.1}, {"scheme": "finite-difference"}, 1e-6),
    (
        "kuramoto-sivashinsky",
        (48,),
        {"alpha": 1.1, "nu": 0.8, "advection": FIXED["advection"]},
        {"upper": (22.0,)},
        1e-4,
    ),
    # of second order in space
    ("gray-scott", (32, 40), {"Du": 0.16, "Dv": 0.08, "f": 0.04, "k": 0.06}, {"upper": (32.0, 40.0)}, 0.05),
]


def error(kind: str, resolution: tuple[int, ...], values: dict[str, Any], more: dict[str, Any]) -> float:
    built, own = both(kind, resolution, values, **more)
    state = waves(own)
    if kind == "advection":
        # the built-in takes v as it comes
        assert [info.name for info in built.layout.fields] == [info.name for info in own.layout.fields]
    wanted = rates(built, state)
    return float((rates(own, state) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("kind", "resolution", "values", "more", "allowed"), CASES, ids=[case[0] for case in CASES])
def test_a_text_and_the_physics_agree(
    kind: str, resolution: tuple[int, ...], values: dict[str, Any], more: dict[str, Any], allowed: float
) -> None:
    found = error(kind, resolution, values, more)
    assert found < allowed
    if allowed > 1e-3:
        finer = error(kind, tuple(2 * n for n in resolution), values, more)
        assert finer == pytest.approx(found / 4, rel=0.2)


def test_shocks_in_a_potential() -> None:
    errors = []
    for n in (40, 80):
        setting = ParameterSetting(init=0.0, field=True)
        built, own = both("inviscid-burgers", (n,), {"potential": setting}, scheme="shock")
        state = waves(own, mean=1.0)
        for one in (built, own):
            one.learnables.set_("potential", waves(own, seed=1)[0, 0])
        wanted = rates(built, state)
        errors.append(float((rates(own, state) - wanted).abs().mean() / wanted.abs().mean()))
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 3


def test_a_flow_agrees_but_for_its_pressure() -> None:
    built, own = both(
        "navier-stokes", (24, 24), {"nu": 0.01, "drag": 0.3}, vectors=["u"], inputs=["p"], options={"drag": True}
    )
    flow = built.initial_states(1, torch.Generator().manual_seed(0))
    # of long waves, which no scheme cuts off
    spectrum = torch.fft.rfft2(flow)
    few = (torch.fft.fftfreq(24, 1 / 24).abs()[:, None] < 4) & (torch.arange(13) < 4)
    flow = torch.fft.irfft2(spectrum * few, s=(24, 24))
    apart = torch.fft.rfft2(rates(built, flow) - rates(own, torch.cat([flow, 0 * flow[:, :1]], dim=1)))[0]
    kx, ky = torch.fft.fftfreq(24, 1 / 24)[:, None], torch.arange(13)
    # a gradient has no vorticity
    assert float((kx * apart[1] - ky * apart[0]).abs().max()) < 1e-4 * float(apart.abs().max())
    assert float(apart.abs().max()) > 1.0


def test_every_built_in_physics_says_its_text() -> None:
    kinds = [record.kind for record in hyco_models() if record.role == "physical" and record.kind != "equation"]
    assert {kind: bool(texts(kind)) for kind in kinds} == dict.fromkeys(kinds, True)


def vortex(x: Tensor, y: Tensor) -> Tensor:
    """Return u_x of a vortex in the unit box, where nothing passes the walls; u_y is its negative transpose."""
    return torch.sin(math.pi * x)[:, None] ** 2 * torch.sin(2 * math.pi * y)[None]


def test_the_text_of_smoke_is_that_of_its_smoke() -> None:
    found = texts("smoke")
    errors = []
    for n in (12, 24):
        built = Case(kind="smoke", resolution=(n, n), parameters={"buoyancy": 0.5, "nu": 0.01, "D": 0.02}, dt=DT)
        made = built.model(compile="eager", inner_dt=DT)
        own = Case(
            kind="equation",
            resolution=(n, n),
            boundary="zero-gradient",
            parameters={"buoyancy": 0.5, "nu": 0.01, "D": 0.02},
            dt=DT,
            options={"rates": found, "vectors": ["velocity"], "inputs": ["p"]},
        ).model(compile="eager", inner_dt=DT)
        h = 1 / n
        cell, face = (
            (torch.arange(n, dtype=torch.float64) + 0.5) * h,
            (torch.arange(n - 1, dtype=torch.float64) + 1) * h,
        )
        smoke = 1 + 0.5 * torch.cos(math.pi * cell)[:, None] * torch.cos(2 * math.pi * cell)[None]
        state = torch.zeros(1, 3, n, n, dtype=torch.float64)
        state[0, 0] = smoke
        state[0, 1, : n - 1, :], state[0, 2, :, : n - 1] = vortex(face, cell), -vortex(face, cell).T
        centred = torch.stack([smoke, vortex(cell, cell), -vortex(cell, cell).T, 0 * smoke])[None]
        assert [info.name for info in made.layout.dynamic] == ["smoke", "velocity"]
        wanted, got = rates(made, state)[0, 0], rates(own, centred)[0, 0]
        errors.append(float((got - wanted).abs().max() / wanted.abs().max()))
    assert errors[0] < 0.15
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.3)
