"""Learnable parameters: bounds by smooth transforms, settings by the user, mistakes told by key."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from messages import error_naming

from hyco_engine.data.fields import Grid
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.physics.parameters import Learnables, ParameterDeclaration, profile
from hyco_engine.physics.settings import ArrayFile, ParameterSetting, Profile
from hyco_engine.physics.transforms import Transform, choose_transform
from hyco_engine.training.jacobian import push_forward

INF = math.inf
GRID = Grid(axes=("x", "y"), resolution=(4, 3), lower=(0.0, -1.0), upper=(1.0, 1.0))
NU = ParameterDeclaration(name="nu", init=0.05, unit="m^2/s", bounds=(0.0, INF), may_be_field=True, help="viscosity")
DRAG = ParameterDeclaration(name="drag", init=0.0)


def transforms() -> st.SearchStrategy[Transform]:
    bound = st.floats(-10, 10).map(lambda value: round(value, 3))
    linear = st.tuples(st.one_of(st.just(-INF), bound), st.one_of(st.just(INF), bound), st.floats(0.01, 100))
    log = st.tuples(st.floats(0, 10), st.one_of(st.just(INF), st.floats(10.5, 1000)))
    return st.one_of(
        linear.filter(lambda b: b[1] - b[0] > 0.1).map(
            lambda b: choose_transform("linear", b[0], b[1], b[2], positive=True)
        ),
        log.map(lambda b: choose_transform("log", b[0], b[1], 1.0, positive=True)),
    )


def test_midway_between_its_bounds_a_parameter_has_its_gradient() -> None:
    raw = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = Transform(lower=0.0, upper=11.0, log=True, scale=1.0).to_value(raw)
    (slope,) = torch.autograd.grad(value, raw)
    # 11 sigmoid(raw) has the slope 11 / 4 at 0
    assert (float(value.detach()), float(slope)) == (5.5, 2.75)


@settings(max_examples=200, deadline=None)
@given(transform=transforms(), raw=st.floats(-12, 12))
def test_transforms_stay_within_their_bounds_and_invert(transform: Transform, raw: float) -> None:
    start = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    value = transform.to_value(start)
    (slope,) = torch.autograd.grad(value, start)
    assert slope > 0
    value = value.detach()
    assume(transform.lower < value < transform.upper)
    again = transform.to_value(transform.to_raw(value))
    size = max(1e-3, *(abs(x) for x in (float(value), transform.lower, transform.upper) if math.isfinite(x)))
    assert abs(float(again - value)) <= 8 * torch.finfo(torch.float64).eps * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [-80.0, -40.0, 40.0, 80.0])
@pytest.mark.parametrize("bounds", [(0.0, INF), (0.0, 1.0), (-1.0, 1.0), (-1.0, INF), (-INF, 1.0)])
def test_gradients_never_vanish(bounds: tuple[float, float], raw: float, dtype: torch.dtype) -> None:
    transform = choose_transform("auto", *bounds, 0.5, positive=True)
    start = torch.tensor(raw, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(transform.to_value(start), start)
    assert slope > 0


@pytest.mark.parametrize(
    ("bounds", "transform", "log"),
    [
        ((0.0, INF), "auto", True),
        ((1e-5, 1.0), "auto", True),
        ((-1.0, 1.0), "auto", False),
        ((-INF, INF), "auto", False),
        ((0.0, INF), "linear", False),
    ],
)
def test_a_step_in_raw_is_a_few_percent_of_the_value(bounds: tuple[float, float], transform: str, log: bool) -> None:
    setting = ParameterSetting(init=0.3, bounds=bounds, transform=transform)  # type: ignore[arg-type]
    learnables = Learnables([NU], {"nu": setting}, dtype=torch.float64)
    assert learnables.transform("nu").log is log
    step = learnables.values({"nu": learnables.raw["nu"] + 0.03})["nu"] / learnables.values()["nu"] - 1
    assert 0.01 < step < 0.05


def test_two_sided_is_sigmoid_like_near_both_ends() -> None:
    transform = choose_transform("linear", 0.0, 1.0, 0.5, positive=True)
    raw = torch.tensor([-200.0, 200.0], dtype=torch.float64)
    assert torch.equal(transform.to_value(raw).round(), torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_start_at_init_in_the_precision_asked_for(dtype: torch.dtype) -> None:
    learnables = Learnables([NU, DRAG], {"nu": ParameterSetting(init=0.3, bounds=(0.1, 0.7))}, dtype=dtype)
    values = {name: value.detach() for name, value in learnables.values().items()}
    assert values["nu"].dtype == dtype
    assert values["nu"].shape == ()
    assert float(values["nu"]) == pytest.approx(0.3, rel=4 * torch.finfo(dtype).eps)
    assert float(values["drag"]) == 0.0


def test_names_units_and_state_dict() -> None:
    learnables = Learnables([NU, DRAG], {"drag": ParameterSetting(learn=False)})
    assert learnables.names == ("nu", "drag")
    assert learnables.learned == ("nu",)
    assert learnables.declaration("nu").unit == "m^2/s"
    assert list(learnables.state_dict()) == ["raw.nu", "fixed.drag"]
    assert [name for name, _ in learnables.named_parameters()] == ["raw.nu"]
    assert not learnables.values()["drag"].requires_grad


def test_values_of_other_raw_numbers_are_differentiable() -> None:
    learnables = Learnables([NU], dtype=torch.float64)
    raw = {"nu": torch.tensor(-2.0, dtype=torch.float64)}
    value, slope = push_forward(
        lambda r: learnables.values({"nu": r})["nu"], (raw["nu"],), (torch.ones_like(raw["nu"]),)
    )
    assert float(value) == pytest.approx(math.exp(-2.0))
    assert float(slope) == pytest.approx(math.exp(-2.0))


def test_fields() -> None:
    setting = ParameterSetting(init=Profile(offset=0.1, scale=2.0), field=True)
    learnables = Learnables([NU], {"nu": setting}, GRID, torch.float64)
    assert learnables.is_field("nu")
    assert learnables.values()["nu"].shape == (4, 3)
    assert torch.allclose(learnables.values()["nu"], profile(Profile(offset=0.1, scale=2.0), GRID))
    x, y = 0.125, -1 + 1 / 3
    expected = 0.1 + 2 * math.sin(math.pi * x) ** 2 * math.sin(math.pi * (y + 1) / 2) ** 2
    assert float(learnables.values()["nu"][0, 0].detach()) == pytest.approx(expected)


def test_a_field_may_have_bounds_of_its_own() -> None:
    free = ParameterDeclaration(name="nu", init=1.0, bounds=(0, INF), may_be_field=True, field_bounds=(-INF, INF))
    number = Learnables([free])
    field = Learnables([free], {"nu": ParameterSetting(field=True)}, GRID)
    assert (number.transform("nu").lower, number.transform("nu").log) == (0, True)
    assert (field.transform("nu").lower, field.transform("nu").log) == (-INF, False)
    assert torch.equal(field.values()["nu"], torch.ones(4, 3))


def test_a_field_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "nu.npy", np.arange(12.0).reshape(4, 3) + 1)
    setting = ParameterSetting(init=ArrayFile(file=tmp_path / "nu.npy"), field=True)
    learnables = Learnables([NU], {"nu": setting}, GRID, torch.float64)
    assert torch.allclose(learnables.values()["nu"], torch.arange(12.0, dtype=torch.float64).reshape(4, 3) + 1)


def test_set() -> None:
    learnables = Learnables([NU, DRAG], {"drag": ParameterSetting(learn=False)}, dtype=torch.float64)
    learnables.set_("nu", 0.7)
    learnables.set_("drag", 0.2)
    assert {name: float(value.detach()) for name, value in learnables.values().items()} == pytest.approx(
        {"nu": 0.7, "drag": 0.2}
    )
    field = Learnables([NU], {"nu": ParameterSetting(field=True)}, GRID)
    field.set_("nu", 0.7)
    assert torch.allclose(field.values()["nu"], torch.full((4, 3), 0.7))
    with error_naming(SpecError, "nu = -1", "(0, inf)"):
        learnables.set_("nu", -1.0)
    with error_naming(SpecError, "nu", (4, 3), (2,)):
        field.set_("nu", torch.ones(2))


def test_learning_keeps_the_bounds() -> None:
    learnables = Learnables([NU], {"nu": ParameterSetting(init=0.5, bounds=(0.2, 0.8))})
    optimizer = torch.optim.SGD(learnables.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (learnables.values()["nu"] * -10.0).backward()
        optimizer.step()
    assert 0.79 < float(learnables.values()["nu"].detach()) <= 0.8
    assert learnables.raw["nu"].grad is not None
    assert learnables.raw["nu"].grad < 0


@pytest.mark.parametrize(
    ("setting", "key", "named"),
    [
        ({"init": -1.0}, ".init", ["nu = -1", "(0, inf)"]),
        ({"init": 0.0}, ".init", ["nu = 0", "(0, inf)"]),
        ({"init": math.nan}, ".init", ["finite"]),
        ({"init": Profile()}, ".init", ["field = true"]),
        ({"init": Profile(offset=-1.0), "field": True}, ".init", ["(0, inf)"]),
        ({"bounds": (-INF, 1.0), "transform": "log"}, "", ["log", "lower bound"]),
        ({"init": ArrayFile(file=Path("gone.npy")), "field": True}, ".init.file", ["gone.npy"]),
    ],
)
def test_wrong_settings(setting: dict[str, object], key: str, named: list[str]) -> None:
    with error_naming(SpecError, *named, key=f"physical.parameters.nu{key}"):
        Learnables([NU], {"nu": ParameterSetting(**setting)}, GRID)  # type: ignore[arg-type]


def test_all_mistakes_are_told_at_once() -> None:
    given_settings = {
        "nuu": ParameterSetting(),
        "nu": ParameterSetting(init=-1.0),
        "drag": ParameterSetting(field=True),
    }
    with pytest.raises(SpecError) as caught:
        Learnables([NU, DRAG], given_settings, GRID)
    assert [problem.key for problem in caught.value.problems] == [
        "physical.parameters.nuu",
        "physical.parameters.nu.init",
        "physical.parameters.drag.field",
    ]
    assert "it has nu, drag; did you mean 'nu'?" in caught.value.problems[0].message
    assert "cannot be a field" in caught.value.problems[2].message


@pytest.mark.parametrize(
    ("setting", "learned"),
    [
        (ParameterSetting(), ()),
        (ParameterSetting(init=1.3), ()),
        (ParameterSetting(learn=False), ()),
        (ParameterSetting(learn=True), ("factor",)),
    ],
)
def test_an_optional_parameter_is_there_once_it_is_named(setting: ParameterSetting, learned: tuple[str, ...]) -> None:
    factor = ParameterDeclaration(name="factor", init=1.0, optional=True)
    without = Learnables([NU, factor])
    assert without.names == without.learned == ("nu",)
    assert list(without.values()) == ["nu"]
    assert list(without.state_dict()) == ["raw.nu"]
    assert list(without.declarations) == ["nu", "factor"]
    named = Learnables([NU, factor], {"factor": setting})
    assert named.names == ("nu", "factor")
    assert named.learned == ("nu", *learned)
    assert float(named.values()["factor"].detach()) == pytest.approx(setting.init or 1.0)


def test_a_field_needs_a_grid() -> None:
    with error_naming(SpecError, "nu", key="physical.parameters.nu.field"):
        Learnables([NU], {"nu": ParameterSetting(field=True)})


def test_wrong_files(tmp_path: Path) -> None:
    wrong = {
        "shape": (np.ones(5), "has the shape (5,), but the grid has (4, 3) cells"),
        "text": (np.array(["a"]), "the engine reads only real numbers"),
        "objects": (np.array([{}], dtype=object), "cannot read"),
    }
    for name, (array, message) in wrong.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        setting = ParameterSetting(init=ArrayFile(file=tmp_path / f"{name}.npy"), field=True)
        with pytest.raises(SpecError) as caught:
            Learnables([NU], {"nu": setting}, GRID)
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "values", "training"])
def test_names_that_cannot_be(name: str) -> None:
    with error_naming(PluginError, repr(name)):
        ParameterDeclaration(name=name, init=1.0)


def test_empty_bounds_are_the_authors_mistake() -> None:
    with error_naming(PluginError, "'k'", "(1, 0)"):
        ParameterDeclaration(name="k", init=1.0, bounds=(1.0, 0.0))
