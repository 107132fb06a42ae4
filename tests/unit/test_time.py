"""The time of a state: as an input of physics and surrogates, of measured series, and of parameters that follow it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gallery_cases import REGISTRY, Case
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.builtin.models.options_physical import EquationOptions, Series
from hyco_engine.builtin.models.series import read_series
from hyco_engine.builtin.sources.options import SimulateOptions
from hyco_engine.builtin.sources.simulate import SimulateSource
from hyco_engine.cli import cli
from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import TIME, Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import DataError, RunError, SpecError
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.knots import at_times
from hyco_engine.physics.settings import ParameterSetting, PhysicalChoice
from hyco_engine.rollout import rollout, rollout_with_bands
from hyco_engine.testing.measuring import difference

pytestmark = pytest.mark.usefixtures("measured")

TAU = 2 * math.pi


def model(rate: str, dt: float, parts: int = 1, **more: Any) -> Any:
    """Return `u_t = rate` on a periodic line of length 2 pi, with `parts` internal steps a frame."""
    made = {key: more.pop(key) for key in ("parameters", "resolution", "boundary") if key in more}
    changes = {"compile": more.pop("compile", "eager"), "inner_dt": dt / parts}
    own = {"resolution": (16,), "upper": (TAU,), "boundary": "periodic"} | made
    return Case(kind="equation", dt=dt, options={"rates": {"u": rate}, **more}, **own).model(**changes)


def begun(own: Any, values: Tensor, time: float) -> Tensor:
    """Return the states of that time with these values `[B, *S]`."""
    state = values.new_zeros(len(values), own.layout.n_all, *values.shape[1:])
    state[:, 0] = values
    state[:, own.layout.channels(TIME).start] = time
    return state


def nodes(own: Any) -> Tensor:
    return torch.tensor(own.layout.grid.centers("x"), dtype=torch.float64)


class TestATimeInRates:
    # u = exp(-t) sin x + cos(3 t) solves it
    RATE = "0.02*dx(u, 2) - 0.98*exp(-t)*sin(x) - 3*sin(3*t)"

    def solution(self, x: Tensor, t: float) -> Tensor:
        return math.exp(-t) * torch.sin(x) + math.cos(3 * t)

    @pytest.mark.parametrize("scheme", ["spectral", "finite-difference"])
    def test_is_that_of_each_stage_so_that_the_order_in_time_is_four(self, scheme: str) -> None:
        errors = []
        for parts in (2, 4, 8):
            own = model(self.RATE, 0.5, parts, scheme=scheme, resolution=(48,))
            x = nodes(own)
            found = rollout(own, begun(own, self.solution(x, 0.7)[None], 0.7), 4)[0, -1, 0]
            errors.append(float((found - self.solution(x, 2.7)).abs().max()))
        orders = [math.log2(a / b) for a, b in pairwise(errors)]
        assert orders == pytest.approx([4, 4], abs=0.4)
        assert errors[-1] < 1e-4

    @pytest.mark.parametrize("scheme", ["spectral", "finite-difference"])
    def test_is_an_input_of_the_captured_step(self, scheme: str) -> None:
        rate = "a*cos(t)*dx(u) + 0.1*dx(u, 2)"
        captured, written = (
            model(rate, 0.05, 2, scheme=scheme, parameters={"a": 0.7}, compile=way) for way in ("graph", "eager")
        )
        values = torch.stack([torch.sin(nodes(written)), torch.cos(nodes(written))])
        for time in (0.0, 2.0):
            state = begun(written, values, time)
            gradients = []
            for own in (captured, written):
                loss = rollout(own, state, 3).square().sum()
                gradients.append(torch.autograd.grad(loss, own.learnables.raw["a"])[0])
            assert difference(rollout(captured, state, 3), rollout(written, state, 3), 1e-12) == ""
            assert float(gradients[0]) == pytest.approx(float(gradients[1]), rel=1e-9)
        assert captured.execution[0] == "graph"

    def test_of_the_samples_of_a_batch_is_their_own(self) -> None:
        own = model("sin(t)*u", 0.1, 4)
        state = torch.cat([begun(own, torch.ones(1, 16, dtype=torch.float64), time) for time in (0.0, 1.5)])
        found = rollout(own, state, 5)[:, -1, 0, 0].tolist()
        exact = [math.exp(math.cos(a) - math.cos(a + 0.5)) for a in (0.0, 1.5)]
        assert found == pytest.approx(exact, rel=1e-7)

    def test_is_refused_where_states_do_not_hold_it(self) -> None:
        context = BuildContext(seed=0, registry=REGISTRY, layout=model("dx(u)", 0.1).layout, dt=0.1, compile="eager")
        with pytest.raises(DataError) as caught:
            REGISTRY.build("hyco_models", "equation", EquationOptions(rates={"u": "t*u"}), context)
        assert str(caught.value) == (
            "data.fields.time: the physics depends on time, which the states of this data do not hold: set "
            "data.fields.time = true"
        )


class Clock(nn.Module):
    """Predicts the time of the state."""

    advances = (0.5,)

    def forward(self, state: Tensor) -> Tensor:
        return state[:, 1:]


class TestStatesThatHoldTheirTime:
    LAYOUT = StateLayout(
        grid=Grid(axes=(), resolution=(), lower=(), upper=()),
        dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ())),),
        static=(FieldInfo.time((), 0.5),),
    )

    def test_begin_windows_at_their_own_time(self) -> None:
        frames = torch.arange(8.0)[:, None]
        windows = WindowDataset(
            [Trajectory(dynamic=frames, static=torch.tensor([t])) for t in (0.0, 10.0)],
            horizon=2,
            stride=2,
            advances=self.LAYOUT.advances,
        )
        states, _ = windows.batch(torch.tensor([0, 1, 2, 3, 5]))
        assert states.tolist() == [[0, 0], [2, 1], [4, 2], [0, 10], [4, 12]]
        assert torch.equal(windows.inputs(torch.tensor([2])), states[2:3])

    def test_pass_it_on_from_frame_to_frame_of_a_rollout(self) -> None:
        state = torch.tensor([[0.0, 3.0]])
        assert rollout(Clock(), state, 4)[0, :, 0].tolist() == [3.0, 3.5, 4.0, 4.5]
        learned = state.requires_grad_()
        assert rollout(Clock(), learned, 4, checkpoint_every=3)[0, :, 0].tolist() == [3.0, 3.5, 4.0, 4.5]

    def test_of_generated_samples_follow_their_spin_up(self) -> None:
        lead = torch.tensor([0, 3])
        recipe = RolloutRecipe(
            Clock(),
            lambda indices: torch.tensor([[9.0, 1.0]] * 2)[indices],
            2,
            horizon=2,
            layout=self.LAYOUT,
            lead=lead,
        )
        states, path = recipe.generate(torch.arange(2))
        assert states[:, 1].tolist() == [1.0, 2.5]
        assert path[..., 0].tolist() == [[1.0, 1.5], [2.5, 3.0]]

    def test_keep_it_in_their_layout_and_statistics(self) -> None:
        assert StateLayout.from_data(json.loads(json.dumps(self.LAYOUT.to_data()))) == self.LAYOUT
        found = Statistics.of(
            [Trajectory(dynamic=torch.rand(11, 1), static=torch.tensor([t])) for t in (0.0, 2.0)], self.LAYOUT
        )
        assert (float(found.lowest[1]), float(found.highest[1])) == (0.0, 7.0)
        assert float(found.mean[1]) == pytest.approx(3.5)
        assert float(found.states[:, 1].max()) == 7.0


class TestAMeasuredSeries:
    def write(self, folder: Path, text: str) -> Path:
        (folder / "q.csv").write_text(text)
        return folder / "q.csv"

    def test_is_linear_between_its_values_and_constant_beyond(self) -> None:
        times, values = torch.tensor([0.0, 1.0, 3.0]).double(), torch.tensor([2.0, 4.0, 0.0]).double()
        at = torch.tensor([-1.0, 0.0, 0.25, 1.0, 2.5, 3.0, 9.0]).double()
        assert at_times(at, times, values).tolist() == [2.0, 2.0, 2.5, 4.0, 1.0, 0.0, 0.0]
        assert torch.autograd.gradcheck(
            lambda values, at: at_times(at, times, values), (values.requires_grad_(), (at + 0.1).requires_grad_())
        )

    def test_is_read_in_the_order_of_time_without_what_is_missing(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "value,time\n3,2\n,1\n1,0\n")
        assert [part.tolist() for part in read_series(Series(file=path), "q")] == [[0.0, 2.0], [1.0, 3.0]]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                "time,a,b\n0,1,2\n1,1,2\n",
                "physical.constants.q.value: {} does not say which of time, a, b is q: name it",
            ),
            ("a,b\n0,1\n1,2\n", "physical.constants.q.time: {} does not say which of a, b are the times: name them"),
            ("t,q\n1,1\n1,2\n", "physical.constants.q.time: {} has two values at the time 1"),
            (
                "t,q\n2024-01-01,1\n2024-01-02,2\n",
                "physical.constants.q.time: {}: 't' holds date-times, and those of the data may count from another "
                "moment: write the times as numbers, in the time of the data",
            ),
        ],
    )
    def test_that_is_not_clear_is_refused(self, text: str, told: str, tmp_path: Path) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(DataError) as caught:
            read_series(Series(file=path), "q")
        assert str(caught.value) == told.format(path)


class TestAParameterAlongTime:
    def test_has_the_value_in_the_middle_of_each_internal_step(self) -> None:
        setting = ParameterSetting(init=1.0, along="t", knots=2)
        own = model("k*u", 0.5, 5, parameters={"k": setting})
        # without data, the knots are at 0 and 1
        with torch.no_grad():
            own.learnables.raw["k"].copy_(torch.tensor([1.0, 3.0]))
        found = rollout(own, begun(own, torch.ones(1, 16, dtype=torch.float64), 0.0), 2)[0, :, 0, 0]
        # the integral of 1 + 2 t
        assert found.log().tolist() == pytest.approx([0.75, 2.0], rel=1e-5)

    def test_has_derivatives_by_each_knot(self) -> None:
        own = model("k*u + 0*dx(u)", 0.25, 2, parameters={"k": ParameterSetting(init=1.0, along="t", knots=3)})
        state = begun(own, torch.ones(1, 16, dtype=torch.float64), 0.0)

        def end(raw: Tensor) -> Tensor:
            moved = {"learnables.raw.k": raw}
            return torch.func.functional_call(_Rolled(own), {f"own.{k}": v for k, v in moved.items()}, (state,))

        assert torch.autograd.gradcheck(end, (own.learnables.raw["k"].detach().clone().requires_grad_(),))

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ({"along": "t", "field": True}, "a function of time has one value for all of space and all simulations"),
            ({"along": "t", "scope": "simulation"}, "leave field and scope out"),
        ],
    )
    def test_belongs_to_all_of_space_and_all_simulations(self, setting: Mapping[str, Any], told: str) -> None:
        with pytest.raises(SpecError, match=told):
            ParameterSetting(init=1.0, **setting)


class _Rolled(nn.Module):
    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, state: Tensor) -> Tensor:
        return rollout(self.own, state, 3)[0, -1, 0, 0]


DT, FRAMES = 0.25, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tank that a measured inflow fills, as scipy solves it: u' = q(t) - k u + b cos(t) u."""
    folder = tmp_path_factory.mktemp("tank")
    times = np.linspace(0.0, 14.0, 29)
    inflow = 1 + np.sin(0.7 * times)
    np.savetxt(folder / "q.csv", np.c_[times, inflow], delimiter=",", header="time,inflow", comments="")
    frames = 2.0 + DT * np.arange(FRAMES)

    def slope(t: float, u: Any) -> Any:
        return np.interp(t, times, inflow) - 0.4 * u + 0.5 * math.cos(t) * u

    made = [
        solve_ivp(slope, (frames[0], frames[-1]), [u], t_eval=frames, rtol=1e-9, atol=1e-11, max_step=0.05).y[0]
        for u in (0.2, 1.5, 3.0)
    ]
    np.savez(folder / "tank.npz", u=np.stack(made), times=frames)
    return folder


def spec(folder: Path, physical: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Return the spec of a run on the data."""
    data = {
        "kind": "arrays",
        "path": str(folder / "tank.npz"),
        "axes": "st",
        "time": "times",
        "variables": {"u": "u"},
        "num_predict_steps": 4,
        "split": {"by": "time", "train": "0:32", "val": "32:40"},
    }
    own = {} if physical is None else {"physical": {"kind": "equation", "compile": "eager", "dt": DT / 2, **physical}}
    paths = {"runs": str(folder / "runs"), "cache": str(folder / "cache")}
    return {"run": {"name": "tank", "cycles": 1}, "paths": paths, "data": data, **own, **more}


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Return the folder of a run of both models, in which the time is an input."""
    physical = {
        "rates": {"u": "constants.inflow - k*u + b*cos(t)*u"},
        "constants": {"inflow": {"file": str(folder / "q.csv")}},
        "parameters": {"k": {"init": 0.8, "bounds": [0.0, 10.0]}, "b": {"init": 0.1}},
    }
    synthetic = {"kind": "mlp", "width": 8}
    training = {"synthetic": {"epochs_per_cycle": 2}}
    hyco.run(spec(folder, physical, synthetic=synthetic, training=training), run_dir=folder / "whole")
    return folder / "whole"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_parameters_are_found_beside_a_measured_series(whole: Path) -> None:
    found = summary(whole)
    values = {name: entry["final"] for name, entry in found["parameters"].items()}
    # the data begin at t = 2
    assert values == pytest.approx({"k": 0.4, "b": 0.5}, rel=1e-4)
    assert found["metrics"]["physical"]["val"]["vrmse"] < 1e-4


def test_a_run_is_loaded_with_its_own_copy_of_a_series(whole: Path, folder: Path, tmp_path: Path) -> None:
    copy = "inputs/constants.inflow.file.csv"
    assert (whole / copy).read_bytes() == (folder / "q.csv").read_bytes()
    sums = json.loads((whole / "checksums.json").read_text())
    assert sums[copy] == sha256((folder / "q.csv").read_bytes()).hexdigest()
    state = torch.tensor([[1.0, 2.5]])
    wanted = hyco.load_physics(whole)(state)
    moved = tmp_path / "moved"
    shutil.copytree(whole, moved)
    (folder / "q.csv").rename(folder / "away.csv")
    try:
        assert torch.equal(hyco.load_physics(moved)(state), wanted)
        (moved / copy).unlink()
        with pytest.raises(DataError, match=f"holds no {copy}, which the physics reads"):
            hyco.load_physics(moved)
    finally:
        (folder / "away.csv").rename(folder / "q.csv")


def test_a_run_is_not_resumed_with_another_series(folder: Path, tmp_path: Path) -> None:
    series, run = tmp_path / "q.csv", tmp_path / "run"
    series.write_bytes((folder / "q.csv").read_bytes())
    physical = {
        "rates": {"u": "constants.inflow - k*u"},
        "constants": {"inflow": {"file": str(series)}},
        "parameters": {"k": {"init": 0.8, "bounds": [0.0, 10.0]}},
    }
    training = {"physical": {"epochs_per_cycle": 1}}
    hyco.run(spec(folder, physical, training=training), run_dir=run)
    longer = {"run": {"name": "tank", "cycles": 2}}
    series.write_text(series.read_text() + "99,0\n")
    with pytest.raises(RunError) as caught:
        hyco.run(spec(folder, physical, training=training) | longer, run_dir=run, resume=True)
    assert str(caught.value) == (
        f"physical.constants.inflow.file: {series} has changed since the run began: restore it from "
        f"{run / 'inputs' / 'constants.inflow.file.csv'}, or start again with a new run folder"
    )
    shutil.copyfile(run / "inputs" / "constants.inflow.file.csv", series)
    hyco.run(spec(folder, physical, training=training) | longer, run_dir=run, resume=True)
    assert summary(run)["cycles"] == 2


def test_simulated_data_are_made_again_for_another_series(tmp_path: Path) -> None:
    series = tmp_path / "q.csv"
    options = EquationOptions(rates={"u": "constants.q"}, constants={"q": Series(file=series)})
    choice = PhysicalChoice(kind="equation", options=options)
    found = []
    for level in (1.0, 1.0, 3.0):
        series.write_text(f"t,q\n0,{level}\n")
        context = BuildContext(seed=0, registry=REGISTRY, physical=choice, num_frames=3)
        source = SimulateSource(SimulateOptions(resolution={}, dt=0.1, num_simulations=2), context)
        found.append(source.fingerprint())
    assert found[0] == found[1] != found[2]


def test_a_surrogate_gets_the_time_and_is_rolled_out_with_it(whole: Path) -> None:
    surrogate = hyco.load_surrogate(whole)
    state = torch.ones(1, 1)
    early, late = (surrogate(state, t=time) for time in (2.0, 6.0))
    assert not torch.equal(early, late)
    with_time = torch.tensor([[1.0, 2.0]])
    path = rollout_with_bands(surrogate, with_time, 2).mean
    assert torch.equal(path[:, 1], surrogate(path[:, 0], t=2.0 + DT))


def test_a_parameter_along_time_follows_an_unknown_input(folder: Path) -> None:
    physical = {
        "rates": {"u": "q - 0.4*u + 0.5*cos(t)*u"},
        "parameters": {"q": {"init": 1.0, "along": "t", "knots": 16}},
    }
    hyco.run(spec(folder, physical), run_dir=folder / "along")
    entry = summary(folder / "along")["parameters"]["q"]
    assert entry["times"] == pytest.approx(np.linspace(2.0, 2.0 + 31 * DT, 16).tolist())
    found = np.load(folder / "along" / entry["final"]["file"])
    assert found == pytest.approx(1 + np.sin(0.7 * np.array(entry["times"])), abs=0.08)
    assert any("q = a function of time, " in sentence for sentence in summary(folder / "along")["verdict"])
    physics = hyco.load_physics(folder / "along")
    assert physics.learnables.times("q").tolist() == pytest.approx(entry["times"])


def test_simulated_data_begin_at_zero_and_their_physics_knows_the_time(tmp_path: Path) -> None:
    data = {"kind": "simulate", "resolution": {}, "dt": 0.1, "num_simulations": 2, "num_frames": 5, "skip_frames": 3}
    physical = {"kind": "equation", "rates": {"u": "cos(t)"}, "compile": "eager"}
    hyco.Engine({"data": data, "physical": physical}).simulate(tmp_path / "out", "csv")
    rows = np.genfromtxt(tmp_path / "out" / "series.csv", delimiter=",", names=True)
    assert rows.dtype.names == ("s", "t", "u")
    for simulation in (0, 1):
        own = rows[rows["s"] == simulation]
        assert own["u"] - own["u"][0] == pytest.approx(np.sin(own["t"]), abs=1e-7)


def test_the_time_is_an_input_of_a_surrogate_alone_where_the_spec_asks_for_it(folder: Path) -> None:
    changed = spec(folder, None, synthetic={"kind": "mlp", "width": 8})
    changed["data"] |= {"fields": {"time": True}}
    plan = hyco.Engine(changed).plan()
    assert plan["data"]["scalars"] == ["t"]


def test_the_command_writes_the_time_and_a_series(folder: Path) -> None:
    toml = folder / "equation.toml"
    toml.write_text(
        """
[data]
kind = "arrays"
path = "tank.npz"
axes = "st"
time = "times"
variables.u = "u"
[physical]
kind = "equation"
rates.u = "constants.inflow - k*u*sin(t)"
constants.inflow = { file = "q.csv" }
parameters.k.init = 1.0
"""
    )
    result = CliRunner().invoke(cli, ["equation", str(toml)])
    assert result.exit_code == 0, result.output
    assert "∂t u = inflow(t) - k·u·sin(t)" in result.output
