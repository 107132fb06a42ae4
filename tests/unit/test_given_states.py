"""Values at sides and start states that follow from parameters: solved, learned, told, and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gallery_cases import Case
from messages import error_naming
from scipy.integrate import solve_ivp
from test_equations import model

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Boundary, Rule
from hyco_engine.data.padding import extend
from hyco_engine.errors import DataError, HycoError, SpecError
from hyco_engine.physics.boundaries import boundary_to_extrapolation
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.report.page_tables import detail_tables
from hyco_engine.rollout import rollout
from hyco_engine.runs.keeper import Interrupted

pytestmark = pytest.mark.usefixtures("measured")

WALL = {"x": {"lower": "T_left*cos(w*t)", "upper": "zero-gradient"}}
BUMP = "A*exp(-20*(x - x0)**2)"
SPEC: dict[str, Any] = {
    "run": {"name": "wall", "cycles": 1},
    "data": {
        "kind": "simulate",
        "truth": {"k": 0.1, "T_left": 1.5, "A": 2.0, "x0": 0.4},
        "num_simulations": 1,
        "num_frames": 17,
        "resolution": {"x": 12},
        "dt": 0.02,
        "boundary": {"x": {"lower": "T_left", "upper": "zero-gradient"}},
        "num_predict_steps": 4,
        "split": {"by": "time", "train": "0:12", "val": "12:17"},
    },
    "physical": {
        "kind": "equation",
        "compile": "eager",
        "rates": {"u": "k*lap(u)"},
        "initial": {"u": BUMP},
        "parameters": {
            "k": {"init": 0.2, "bounds": [0.0, 10.0]},
            "T_left": {"init": 0.5},
            "A": {"init": 1.0},
            "x0": {"init": 0.6},
        },
    },
    "training": {"physical": {"epochs_per_cycle": 10}},
}


def changed(**tables: Any) -> dict[str, Any]:
    """Return the spec with other values of the keys of its tables."""
    return {name: {**table, **tables.get(name, {})} for name, table in SPEC.items()}


def heated(**more: Any) -> Any:
    parameters = {"k": 0.1, "T_left": 2.0, "w": 3.0}
    return model("k*lap(u)", (32,), boundary=WALL, parameters=parameters, dt=0.01, **more)


class TestAValueAtASide:
    def test_is_that_of_the_formula_at_each_stage(self) -> None:
        own = heated()
        state = torch.zeros(1, 2, 32, dtype=torch.float64)
        found = rollout(own, state, 20)[0, -1, 0].detach().numpy()
        dx = 1 / 32

        # another code: the ghost cells of the same walls, and scipy's own steps
        def slope(t: float, u: Any) -> Any:
            wall = 2 * math.cos(3 * t)
            wide = np.concatenate([[2 * wall - u[0], wall], u, [u[-1], u[-2]]])
            second = 16 * (wide[1:-3] + wide[3:-1]) - wide[:-4] - wide[4:] - 30 * u
            return 0.1 * second / (12 * dx**2)

        wanted = solve_ivp(slope, (0, 0.2), np.zeros(32), rtol=1e-10, atol=1e-12).y[:, -1]
        # the wall jumps at the start, which Runge-Kutta of fixed steps meets less exactly
        assert np.abs(found - wanted).max() < 2e-5

    def test_is_the_number_that_it_stands_for(self) -> None:
        named = model(
            "k*lap(u)", (16,), boundary={"x": {"lower": "a + 1", "upper": "b"}}, parameters={"k": 0.1, "a": 1, "b": 3}
        )
        plain = model("k*lap(u)", (16,), boundary={"x": {"lower": 2.0, "upper": 3.0}}, parameters={"k": 0.1})
        state = plain.initial_states(2, torch.Generator().manual_seed(0))
        assert torch.equal(named.initial_states(2, torch.Generator().manual_seed(0)), state)
        assert torch.equal(rollout(named, state, 3), rollout(plain, state, 3))

    def test_of_steady_states_is_exact_for_a_linear_profile(self) -> None:
        own = Case(
            kind="equation",
            resolution=(20,),
            options={"steady": {"u": "lap(u)"}},
            boundary={"x": {"lower": "a", "upper": "b"}},
            parameters={"a": 1.0, "b": 3.0},
        ).model()
        state = torch.zeros(1, 1, 20, dtype=torch.float64)
        found = own(state)
        # the first cell beyond a side has the value
        wanted = 1 + 2 * (torch.arange(20, dtype=torch.float64) + 1) / 21
        assert torch.allclose(found[0, 0], wanted, atol=1e-10)
        (slope,) = torch.autograd.grad(found.sum(), own.learnables.raw["b"])
        unit = torch.autograd.grad(own.learnables.values()["b"], own.learnables.raw["b"])[0]
        assert float(slope / unit) == pytest.approx(10.0)

    def test_may_vary_along_the_side(self) -> None:
        # the wave that decays over the depth; walls of y lie at the centres of the first cells beyond the grid
        n = 24
        dy = 1 / (n + 1)
        own = Case(
            kind="equation",
            resolution=(n, n),
            lower=(0.0, dy / 2),
            upper=(1.0, 1 - dy / 2),
            options={"steady": {"u": "lap(u) + s"}, "inputs": ["s"]},
            boundary={"x": "periodic", "y": {"lower": "A*sin(2*pi*x)", "upper": 0.0}},
            parameters={"A": 3.0},
        ).model()
        found = own(torch.zeros(1, 2, n, n, dtype=torch.float64))[0, 0]
        x, y = (torch.tensor(own.layout.grid.centers(axis), dtype=torch.float64) for axis in "xy")
        k = 2 * math.pi
        unit = torch.sin(k * x)[:, None] * (torch.sinh(k * (1 - y)) / math.sinh(k))[None]
        assert float((found.detach() - 3 * unit).abs().max()) < 0.012
        (slope,) = torch.autograd.grad(found.sum() + found[3].sum(), own.learnables.raw["A"])
        raw = torch.autograd.grad(own.learnables.values()["A"], own.learnables.raw["A"])[0]
        assert float(slope / raw) == pytest.approx(float((found.sum() + found[3].sum()).detach()) / 3)

    @pytest.mark.parametrize("compile", ["eager", "graph"])
    def test_that_varies_along_the_side_and_in_time_is_met_at_corners(self, compile: str) -> None:
        # a solution of the heat equation; beyond sides with a value, differences have order 2
        text = "a*({x}**2 + {y}**2 + 4*k*t) + b*{x}*{y}"
        sides = {
            "x": {"lower": text.format(x="(-0.05)", y="y"), "upper": text.format(x="1.05", y="y")},
            "y": {"lower": text.format(x="x", y="(-0.05)"), "upper": text.format(x="x", y="1.05")},
        }
        parameters = {"k": 0.1, "a": 2.0, "b": -1.0}
        own = model("k*lap(u)", (10, 10), boundary=sides, parameters=parameters, dt=0.01, compile=compile)
        x = torch.tensor(own.layout.grid.centers("x"), dtype=torch.float64)
        x, y = torch.meshgrid(x, x, indexing="ij")
        state = torch.zeros(1, 2, 10, 10, dtype=torch.float64)
        state[0, 0] = 2 * (x**2 + y**2) - x * y
        found = rollout(own, state, 3)[0, -1, 0]
        wanted = state[0, 0] + 2 * 4 * 0.1 * 0.03
        error = (found - wanted).detach().abs()
        assert float(error.max()) < 0.003
        assert float(error[4:6, 4:6].max()) < 2e-5
        slopes = torch.autograd.grad(found.square().sum(), list(own.learnables.raw.values()))
        assert all(float(slope.abs()) > 0.0 for slope in slopes)

    def test_enters_the_number_of_internal_steps(self) -> None:
        def least(side: Any, **parameters: float) -> float:
            sides = {"x": {"lower": side, "upper": "zero-gradient"}}
            own = model("-u*dx(u) + nu*lap(u)", (64,), boundary=sides, parameters={"nu": 1e-3, **parameters}, dt=0.01)
            values = {name: torch.tensor(value) for name, value in {"nu": 1e-3, **parameters}.items()}
            return float(own.physics.least_steps(own.layout, {"u": 1.0}, values, 0.01))

        assert least(0.0) == least(-0.5) == least("a", a=0.2)
        assert least(10.0) == least("a", a=10.0) == least("a*cos(t)", a=-10.0) > 5 * least(0.0)

    def test_goes_on_with_the_slope_where_nobody_knows_it(self) -> None:
        rule = Rule.parse("T_left")
        x = torch.arange(4.0)[None]
        assert extend(x, 1, 2, 1, (rule, rule)).tolist() == [[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]]
        assert Boundary.parse({"x": "T_left"}, "x").to_data() == {"x": {"lower": "T_left", "upper": "T_left"}}

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                "periodc",
                "data.boundary.x.lower: unknown boundary 'periodc'; did you mean 'periodic'? Use a number, {normal, "
                "tangential}, or one of periodic, ",
            ),
            ("T_lft", "or a formula of parameters, which need start values in physical.parameters"),
            (
                "T_left + x",
                "data.boundary.x.lower: column 10, at 'x': 'x' is the same along the sides of x: write a number",
            ),
            ("dx(T_left)", "a side has one value at each place: leave derivatives and means out"),
            (
                "T_left + u",
                "column 10, at 'u': 'u' varies within the domain; a side takes numbers, the time, and positions along",
            ),
            ("T_left/(1 - 1)", "data.boundary.x.lower: column 1, at 'T_left/(1 - 1)': is no finite number"),
            (
                "constants.c",
                "unknown name 'constants.c'; there are k, T_left, A, x0, t, pi. A constant has its value in",
            ),
            ("constant", "unknown boundary 'constant': use a number"),
        ],
    )
    def test_that_has_no_meaning_is_refused(self, text: str, told: str) -> None:
        with pytest.raises(SpecError) as caught:
            hyco.Engine(changed(data={"boundary": {"x": {"lower": text, "upper": "zero-gradient"}}})).plan()
        assert told in str(caught.value)

    def test_of_a_vector_and_of_what_varies_is_refused(self) -> None:
        sides = {"x": {"lower": "grad(T_left)", "upper": 0.0}, "y": "periodic"}
        with pytest.raises(SpecError, match="at 'grad\\(T_left\\)': a side has one value at each place: leave"):
            model("lap(u)", (8, 8), boundary=sides, parameters={"T_left": 1.0})
        setting = ParameterSetting(init=1.0, field=True)
        with pytest.raises(SpecError, match=r"column 1, .*: 'T_left' varies within the domain"):
            model("lap(u)", (8,), boundary=WALL, parameters={"T_left": setting})

    def test_is_refused_where_no_derivative_sees_it(self) -> None:
        sides = {"x": {"lower": "a", "upper": 0.0}, "y": 0.0}
        with error_naming(SpecError, "'a'", "along x", key="data.boundary.x.lower"):
            model("dy(u, 2)", (8, 8), boundary=sides, parameters={"a": 1.0})
        for rates in ("dx(u) + dy(u, 2)", "dy(u, 2) + a*u"):
            model(rates, (8, 8), boundary=sides, parameters={"a": 1.0})
        known = ParameterSetting(init=1.0, learn=False)
        model("dy(u, 2)", (8, 8), boundary=sides, parameters={"a": known})

    def test_may_follow_from_measured_series_and_constants_alone(self, tmp_path: Path) -> None:
        (tmp_path / "level.csv").write_text("time,level\n0,1\n1,2\n")
        series = {"file": str(tmp_path / "level.csv")}
        sides = {"x": {"lower": "constants.level + constants.c", "upper": "zero-gradient"}}
        spec = changed(
            data={"boundary": sides, "truth": {"k": 0.1}},
            physical={"constants": {"level": series, "c": 1.0}, "initial": {}, "parameters": {"k": {"init": 0.2}}},
        )
        # the states hold their time, though nothing but the series at the side depends on it
        engine = hyco.Engine(spec)
        assert "u = level(t) + 1 at x = 0" in "\n".join(engine.plan()["notes"])

    def test_is_refused_by_physics_that_cannot_take_it(self) -> None:
        heat = {"kind": "heat", "parameters": {"kappa": {"init": 0.1}}}
        data = {"boundary": "kappa", "truth": {"kappa": 0.1}}
        spec = {**changed(data=data), "physical": heat}
        with pytest.raises(SpecError, match="Formulas of parameters are for physical"):
            hyco.Engine(spec).plan()

    def test_has_no_place_in_scenes(self) -> None:
        sides = Boundary.parse({"x": {"lower": "T_left", "upper": 0.0}}, "x")
        with pytest.raises(DataError, match="Scenes need numbers at the sides, and the boundary of 'u' is the formula"):
            boundary_to_extrapolation(sides, "x", name="u")


class TestAStartState:
    @pytest.mark.parametrize("boundary", ["periodic", "zero-gradient"])
    def test_takes_the_place_of_the_state_at_the_first_time_alone(self, boundary: str) -> None:
        own = model("0*u", (16,), boundary=boundary, parameters={"A": 2.0, "x0": 0.4}, initial={"u": BUMP}, dt=0.1)
        x = torch.tensor(own.layout.grid.centers("x"), dtype=torch.float64)
        bump = 2 * torch.exp(-20 * (x - 0.4) ** 2)
        state = torch.ones(2, 2, 16, dtype=torch.float64)
        state[0, 1], state[1, 1] = 0.0, 0.1
        found = own(state)[:, 0]
        assert torch.allclose(found[0], bump)
        assert torch.allclose(found[1], torch.ones(16, dtype=torch.float64))

    def test_may_be_that_of_a_component_and_a_field_of_parameters(self) -> None:
        rates = {"v": "0*v", "u": "0*u"}
        own = model(
            rates, (8, 8), vectors=["v"], boundary="periodic", initial={"v.y": "a*y"}, parameters={"a": 3.0}, dt=0.1
        )
        found = own(
            torch.ones(1, 4, 8, 8, dtype=torch.float64) * torch.tensor([1.0, 1.0, 1.0, 0.0])[None, :, None, None]
        )
        y = torch.tensor(own.layout.grid.centers("y"), dtype=torch.float64)
        assert torch.allclose(found[0, 1], (3 * y).expand(8, 8))
        assert torch.allclose(found[0, 0], torch.ones(8, 8, dtype=torch.float64))

    @pytest.mark.parametrize("compile", ["eager", "graph"])
    def test_and_a_side_have_the_derivatives_of_differences(self, compile: str) -> None:
        parameters = {"k": 0.1, "T_left": 2.0, "w": 3.0, "A": 1.0, "x0": 0.4}
        own = model(
            "k*lap(u)", (16,), boundary=WALL, parameters=parameters, initial={"u": BUMP}, dt=0.01, compile=compile
        )
        state = torch.zeros(1, 2, 16, dtype=torch.float64)

        def loss() -> torch.Tensor:
            return rollout(own, state, 4).square().sum()

        loss().backward()
        for name, raw in own.learnables.raw.items():
            with torch.no_grad():
                raw += 1e-5
                above = float(loss())
                raw -= 2e-5
                below = float(loss())
                raw += 1e-5
            assert float(raw.grad) == pytest.approx((above - below) / 2e-5, rel=1e-6), name

    @pytest.mark.parametrize(
        ("initial", "told"),
        [
            ({"u": "A*u"}, "physical.initial.u: column 3, at 'u': 'u' has no value yet where it starts"),
            ({"v": "A"}, "physical.initial: 'v' is no field with a rate; there are u"),
            ({"u.x": "A"}, "physical.initial.u.x: 'u' has no components"),
            ({"u.": "A"}, 'physical.initial.u."": is no name that an equation could contain'),
            ({"u": "A*"}, "physical.initial.u: column 1, at 'A*': a number, a name or an operator is missing"),
        ],
    )
    def test_that_has_no_meaning_is_refused(self, initial: dict[str, str], told: str) -> None:
        with pytest.raises(SpecError) as caught:
            hyco.Engine(changed(physical={"initial": initial})).plan()
        assert told in str(caught.value)

    def test_leaves_nothing_to_draw(self) -> None:
        with pytest.raises(HycoError, match="all 3 simulations would be the same: let them differ in a parameter"):
            hyco.Engine(changed(data={"num_simulations": 3, "split": {"train": "0:2", "val": "2:3"}})).plan()
        spec = changed() | {
            "synthetic": {"kind": "resnet", "width": 2, "blocks": 1},
            "augmentation": {"kind": "trust", "starts": "drawn", "alpha": 1.0},
        }
        with pytest.raises(SpecError, match="gives the start state, and the physics can draw no other"):
            hyco.Engine(spec).plan()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return hyco.Engine(changed()).run(tmp_path_factory.mktemp("runs") / "wall")


class TestARun:
    def test_finds_walls_and_starts_as_any_parameter(self, result: Any) -> None:
        found = result.summary["parameters"]
        assert {name: round(own["final"], 3) for name, own in found.items()} == {
            "k": 0.1,
            "T_left": 1.5,
            "A": 2.0,
            "x0": 0.4,
        }
        assert all(own["standard_error"] > 0 for own in found.values())

    def test_has_its_equations_in_results_and_report(self, result: Any) -> None:
        physics = result.summary["physics"]
        assert [one["unicode"] for one in physics["equations"]] == [
            "∂t u = k·∂x² u",
            "u = A·exp(-20·(x - x0)²) at t = 0",
            "u = T_left at x = 0",
        ]
        assert physics["equations"][0]["other"] == ["k·∂x² u"]
        assert physics["steps"]["frame"] == 0.02
        assert physics["steps"]["longest"] > physics["steps"]["internal"]
        (table,) = [one for one in detail_tables(result.summary) if one["title"] == "Equations"]
        assert table["rows"][0] == ["∂t u = k·∂x² u", "–", "k·∂x² u", r"\partial_t u = k \partial_{x}^{2} u"]
        assert table["note"].startswith("The equation is solved by central differences of fourth order")
        assert "A frame of 0.02 has" in table["note"]

    def test_tells_what_the_formulas_give(self, tmp_path: Path) -> None:
        notes = "\n".join(hyco.Engine(changed()).plan()["notes"])
        assert "formulas give values at sides, which surrogates do not see: u = T_left at x = 0" in notes
        assert (
            "rollouts of the physics from t = 0 begin in a state that a formula gives, and those of surrogates in the "
            "observed one: u = A·exp(-20·(x - x0)²) at t = 0"
        ) in notes
        spec = tmp_path / "spec.toml"
        spec.write_text(
            '[data]\nkind = "simulate"\nresolution = {x = 8}\ndt = 0.1\nnum_simulations = 1\ntruth = {a = 1.0}\n'
            'boundary.x = {lower = "a", upper = 0.0}\nsplit.by = "time"\n'
            '[physical]\nkind = "equation"\nrates.u = "lap(u)"\nparameters.a.init = 2.0\n'
        )
        shown = json.loads(CliRunner().invoke(cli, ["equation", str(spec), "--json"]).stdout)
        assert [one["unicode"] for one in shown["equations"]] == ["∂t u = ∂x² u", "u = a at x = 0"]
        assert shown["equations"][1]["latex"] == "u = a \\text{ at } x = 0"


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(tmp_path: Path, result: Any) -> None:
    moments = iter(range(100))
    with pytest.raises(Interrupted):
        hyco.Engine(changed()).run(tmp_path / "run", stop=lambda: "SIGTERM" if next(moments) == 3 else None)
    again = hyco.Engine(changed()).run(tmp_path / "run", resume=True)
    for name in ("parameters", "metrics", "physics"):
        assert again.summary[name] == result.summary[name]
    weights = "weights/physical-final.safetensors"
    assert (again.folder / weights).read_bytes() == (result.folder / weights).read_bytes()


def test_sensors_need_no_first_frame_where_the_physics_gives_it(tmp_path: Path) -> None:
    rows = ["t,x,u"]
    for x in (0.05, 0.3, 0.45, 0.6, 0.9):
        for t in (0.005, 0.04, 0.08, 0.12):
            rows.append(f"{t},{x},{1.3 * math.exp(-t) * math.sin(2 * math.pi * (x - 0.2))}")
    (tmp_path / "wells.csv").write_text("\n".join(rows))
    spec = {
        "run": {"cycles": 1},
        "data": {
            "kind": "points",
            "path": str(tmp_path / "wells.csv"),
            "resolution": {"x": 32},
            "dt": 0.02,
            "boundary": "periodic",
            "num_predict_steps": 6,
            "split": {"by": "sensor"},
        },
        "physical": {
            "kind": "equation",
            "rates": {"u": "-k*u"},
            "initial": {"u": "A*sin(2*pi*(x - x0))"},
            "parameters": {"k": {"init": 0.5, "bounds": [0.0, 9.0]}, "A": {"init": 0.5}, "x0": {"init": 0.1}},
        },
        "training": {"physical": {"epochs_per_cycle": 15}},
    }
    found = hyco.Engine(spec).run(tmp_path / "run").summary["parameters"]
    # linear interpolation between cells is off by (2 pi / 32)^2 / 8
    assert found["A"]["final"] == pytest.approx(1.3, rel=0.01)
    assert found["k"]["final"] == pytest.approx(1.0, rel=0.01)
    assert found["x0"]["final"] == pytest.approx(0.2, rel=0.01)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "physical.initial gives the first frame, and 5 observations between it and the next one are left out" in log
