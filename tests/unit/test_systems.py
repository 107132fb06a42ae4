"""Systems of equations without space: time series with gaps in, parameters, a surrogate, curves and predictions out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from messages import error_naming
from scipy.integrate import solve_ivp

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.data.fields import Grid
from hyco_engine.equations.accuracy import accurate_steps
from hyco_engine.errors import DataError, SpecError
from hyco_engine.report.run_figures import draw
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.spec.dumping import dump_spec

pytestmark = pytest.mark.usefixtures("measured")


@attrs.frozen
class System:
    """A system, its true parameters, and the states and times from which scipy makes data."""

    rates: Mapping[str, str]
    truth: Mapping[str, float]
    slope: Callable[[Any, Mapping[str, float]], list[float]]
    starts: list[list[float]]
    dt: float
    frames: int
    steps: int = 1
    """Internal steps of a frame, as few as suffice."""

    def data(self) -> dict[str, Any]:
        """Return each field `[simulations, frames]`, and the times."""
        times = self.dt * np.arange(self.frames)
        made = [
            solve_ivp(
                lambda t, y: self.slope(y, self.truth), (0, times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-12
            ).y
            for start in self.starts
        ]
        return {name: np.stack([one[k] for one in made]) for k, name in enumerate(self.rates)} | {"t": times}

    def spec(self, data: Mapping[str, Any], off: float = 2.0) -> dict[str, Any]:
        """Return the spec that finds the parameters from starts `off` times the truth."""
        held = len(self.starts) - 1
        return {
            "run": {"name": "system", "cycles": 1},
            "data": {"kind": "arrays", "time": "t", "split": {"train": f"0:{held}", "val": f"{held}:"}, **data},
            "physical": {
                "kind": "equation",
                "compile": "eager",
                "dt": self.dt / self.steps,
                "rates": dict(self.rates),
                "parameters": {name: {"init": off * value, "bounds": [0.0, 1e3]} for name, value in self.truth.items()},
            },
        }


PREY = System(
    rates={"prey": "a*prey - b*prey*predator", "predator": "d*prey*predator - c*predator"},
    truth={"a": 1.1, "b": 0.4, "c": 0.4, "d": 0.1},
    slope=lambda y, p: [p["a"] * y[0] - p["b"] * y[0] * y[1], p["d"] * y[0] * y[1] - p["c"] * y[1]],
    starts=[[10.0, 5.0], [4.0, 2.0], [6.0, 1.0]],
    dt=0.25,
    frames=25,
    steps=2,
)
OTHERS = {
    "michaelis-menten": System(
        rates={"S": "-vmax*S/(km + S)", "P": "vmax*S/(km + S)"},
        truth={"vmax": 1.5, "km": 0.7},
        slope=lambda y, p: [-p["vmax"] * y[0] / (p["km"] + y[0]), p["vmax"] * y[0] / (p["km"] + y[0])],
        starts=[[3.0, 0.0], [1.0, 0.2]],
        dt=0.2,
        frames=16,
    ),
    "sir": System(
        rates={
            "S": "-beta*S*I/constants.N",
            "I": "beta*S*I/constants.N - gamma*I",
            "R": "gamma*I",
        },
        truth={"beta": 0.4, "gamma": 0.1},
        slope=lambda y, p: [
            -p["beta"] * y[0] * y[1] / 1000,
            p["beta"] * y[0] * y[1] / 1000 - p["gamma"] * y[1],
            p["gamma"] * y[1],
        ],
        starts=[[990.0, 10.0, 0.0], [900.0, 50.0, 50.0]],
        dt=2.0,
        frames=21,
        steps=3,
    ),
    "lorenz": System(
        rates={"u": "sigma*(v - u)", "v": "u*(rho - w) - v", "w": "u*v - beta*w"},
        truth={"sigma": 10.0, "rho": 28.0, "beta": 8 / 3},
        slope=lambda y, p: [
            p["sigma"] * (y[1] - y[0]),
            y[0] * (p["rho"] - y[2]) - y[1],
            y[0] * y[1] - p["beta"] * y[2],
        ],
        starts=[[1.0, 1.0, 20.0], [-5.0, -4.0, 25.0]],
        dt=0.02,
        frames=61,
    ),
}


def table(path: Path, data: Mapping[str, Any], gaps: int = 0) -> Path:
    """Write series as a table with a row for each simulation and frame; every so manieth entry is empty."""
    names = [name for name in data if name != "t"]
    rows, entry = [",".join(["s", "t", *names])], 0
    for simulation in range(len(data[names[0]])):
        for frame, time in enumerate(data["t"]):
            row = [f"tank {simulation}", repr(float(time))]
            for name in names:
                entry += 1
                row.append("" if gaps and frame and entry % gaps == 0 else repr(float(data[name][simulation, frame])))
            rows.append(",".join(row))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of prey and predators, from a table with gaps."""
    folder = tmp_path_factory.mktemp("prey")
    spec = PREY.spec({"path": str(table(folder / "prey.csv", PREY.data(), gaps=23))})
    spec["data"] |= {"truth": dict(PREY.truth), "num_predict_steps": 2}
    spec["synthetic"] = {"kind": "mlp", "width": 32, "blocks": 1}
    spec["training"] = {"synthetic": {"epochs_per_cycle": 50, "batch_size": 8}, "physical": {"epochs_per_cycle": 3}}
    spec["paths"] = {"cache": str(folder / "cache")}
    (folder / "spec.json").write_text(json.dumps(spec))
    hyco.Engine(spec, draw=draw).run(folder / "run")
    return folder / "run"


def test_parameters_and_a_surrogate_come_from_a_table_with_gaps(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    for name, value in PREY.truth.items():
        assert summary["parameters"][name]["final"] == pytest.approx(value, rel=1e-3)
        assert summary["parameters"][name]["standard_error"] < 1e-3 * value
    val = {model: numbers["val"]["nrmse"] for model, numbers in summary["metrics"].items()}
    assert val["synthetic"] < 0.5 * val["persistence"]
    assert val["physical"] < 1e-3 * val["persistence"]


def test_a_report_shows_curves(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert "Truth and models on a held-out validation simulation" in page
    for field in ("prey", "predator"):
        assert f'aria-label="{field}"' in page
    assert "spectra" not in page
    assert (whole / "figures" / "comparison.png").stat().st_size > 1000


def test_predictions_have_no_axes(whole: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.array([10.0, 5.0]))
    np.savez(tmp_path / "starts.npz", prey=np.array([10.0, 4.0]), predator=np.array([5.0, 2.0]))
    found = {}
    for name, out in (("start.npy", "a.npy"), ("starts.npz", "b.npz")):
        arguments = ["predict", str(whole), "--model", "physical", "--steps", "3"]
        arguments += ["--input", str(tmp_path / name), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        found[out] = np.load(tmp_path / out) if out.endswith("npy") else dict(np.load(tmp_path / out).items())
    assert found["a.npy"].shape == (3, 2)
    assert found["b.npz"]["prey"].shape == (2, 3, 1)
    data = PREY.data()
    assert found["a.npy"][:, 0] == pytest.approx(data["prey"][0, 1:4], rel=1e-4)
    assert found["b.npz"]["predator"][1, :, 0] == pytest.approx(data["predator"][1, 1:4], rel=1e-4)


def test_a_surrogate_is_exported_for_states_without_axes(whole: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["export", str(whole), "--out", str(tmp_path / "prey.pt2")])
    assert result.exit_code == 0, result.output
    model = hyco.load_surrogate(whole)
    states = torch.tensor([[10.0, 5.0], [4.0, 2.0], [1.0, 1.0]])
    exported = torch.export.load(tmp_path / "prey.pt2").module()
    torch.testing.assert_close(exported(states)[:, 0], model(states))
    assert model(states).shape == (3, 2)


def test_an_interrupted_run_goes_on_as_if_it_were_not(whole: Path, tmp_path: Path) -> None:
    spec = json.loads((whole.parent / "spec.json").read_text())
    asked = iter([None, None, "SIGTERM"])
    with error_naming(Interrupted, "SIGTERM"):
        hyco.Engine(spec).run(tmp_path / "run", stop=lambda: next(asked, None))
    hyco.Engine(spec).run(tmp_path / "run", resume=True)
    for player in ("physical", "synthetic"):
        name = f"weights/{player}-final.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_are_found_from_starts_two_times_off(name: str, tmp_path: Path) -> None:
    system = OTHERS[name]
    np.savez(tmp_path / "data.npz", **system.data())
    fields = list(system.rates)
    spec = system.spec({"path": str(tmp_path / "data.npz"), "variables": {f: f for f in fields}, "axes": "st"})
    spec["data"]["num_predict_steps"] = 2
    if name == "sir":
        spec["physical"]["constants"] = {"N": 1000.0}
    hyco.Engine(spec).run(tmp_path / "run")
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["parameters"]
    for parameter, value in system.truth.items():
        assert found[parameter]["final"] == pytest.approx(value, rel=1e-3)


# --- internal steps ---


def decay(dt: float, truth: float = 1.0, **physical: Any) -> dict[str, Any]:
    """Return the spec of u' = -k u, which simulates its own data."""
    return {
        "data": {
            "kind": "simulate",
            "truth": {"k": truth},
            "resolution": {},
            "dt": dt,
            "num_simulations": 3,
            "num_frames": 5,
            "split": {"train": "0:2", "val": "2:3"},
        },
        "physical": {
            "kind": "equation",
            "rates": {"u": "-k*u"},
            "offset": 2.0,
            "amplitude": 0.3,
            "parameters": {"k": {"init": truth}},
            **physical,
        },
    }


def changed(spec: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        *tables, last = key.split(".")
        table = spec
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return spec


def test_simulated_series_are_accurate_to_the_tolerance(tmp_path: Path) -> None:
    spec = hyco.Engine(decay(1.0)).spec
    (tmp_path / "spec.toml").write_text(dump_spec(spec))
    result = CliRunner().invoke(cli, ["simulate", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "data")])
    assert "written as a table: --format csv" in result.output
    arguments = ["simulate", str(tmp_path / "spec.toml"), "--out", str(tmp_path / "data"), "--format", "csv"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    made = np.loadtxt(tmp_path / "data" / "series.csv", delimiter=",", skiprows=1)[:, 2].reshape(3, 5)
    assert made[:, 1:] == pytest.approx(made[:, :-1] * math.exp(-1.0), rel=2e-6)


@pytest.mark.parametrize("rate", [0.3, 1.0, 20.0])
def test_the_number_of_steps_is_the_smallest_that_is_accurate(rate: float) -> None:
    def factor(steps: int) -> float:
        z = -rate / steps
        return (1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** steps

    found = accurate_steps(lambda u, steps: u * factor(steps), torch.tensor([[1.0], [3.0]]).double(), torch.ones(1))
    error = [3 * abs(factor(steps) - math.exp(-rate)) for steps in (math.ceil(found), math.ceil(0.7 * found) - 1 or 1)]
    assert error[0] < 1.3e-6
    assert error[1] > 1e-6


def test_what_no_step_resolves_is_refused_with_its_values() -> None:
    with error_naming(
        DataError,
        "physical.dt: with k = 1e+06, frames of 1 are not accurate even with 1024 internal steps, from states of the "
        "data: check units, bounds and start values of the parameters, and the time between frames, or set physical.dt",
    ):
        hyco.Engine(decay(1.0, truth=1e6)).plan()


# --- what is refused ---


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("-k*lap(u)", "column 4, at 'lap(u)': lap needs axes of space, and the data have none"),
        ("-k*dx(u)", "column 4, at 'dx(u)': dx needs axes of space, and the data have none"),
        ("mean(u)", "column 1, at 'mean(u)': mean needs axes of space, and the data have none"),
        ("-k*x", "column 4, at 'x': unknown name 'x'; there are u, k, t, pi."),
    ],
)
def test_rates_without_space_have_no_words_of_space(rate: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        hyco.Engine(decay(1.0, rates={"u": rate})).plan()
    assert f"physical.rates.u: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"physical.scheme": "spectral"},
            "physical.scheme: the data have no space, and a system of equations without it no scheme",
        ),
        (
            {"physical.parameters.k.field": True},
            "physical.parameters.k.field: there is no space over which it could vary",
        ),
        (
            {"synthetic.kind": "resnet"},
            "synthetic.kind: the surrogate 'resnet' needs fields on a grid, and this data has no space: use "
            'kind = "mlp"',
        ),
        (
            {"synthetic.kind": "unet"},
            "synthetic.kind: the surrogate 'unet' needs fields on a grid, and this data has no space: use "
            'kind = "mlp"',
        ),
        (
            {"data.resolution": {"x": 8}, "synthetic.kind": "mlp"},
            'synthetic.kind: the surrogate "mlp" is for data without space, and these are fields on a grid: use '
            'kind = "resnet"',
        ),
    ],
)
def test_what_needs_space_says_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((SpecError, DataError)) as caught:
        hyco.Engine(changed(decay(1.0), changes)).plan()
    assert str(caught.value) == message


def test_a_physics_of_fields_on_a_grid_refuses_series() -> None:
    spec = decay(1.0)
    spec["physical"] = {"kind": "heat"}
    spec["data"]["truth"] = {"kappa": 1.0}
    with pytest.raises(DataError) as caught:
        hyco.Engine(spec).plan()
    assert str(caught.value) == (
        'physical.kind: Heat needs fields on a grid, and this data has no space; physical.kind = "equation" takes '
        "rates of change of any numbers"
    )


def arrays(path: Path, text: str, **more: Any) -> str:
    """Return what the source says that cannot read a table."""
    path.write_text(text)
    spec = PREY.spec({"path": str(path), "split": {"by": "time"}, **more})
    with pytest.raises((SpecError, DataError)) as caught:
        hyco.Engine(spec).plan()
    return str(caught.value).replace(str(path), "FILE")


def test_tables_that_are_no_series_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert arrays(path, "s,t,prey\nA,0,1\nA,1,1\nB,0,1\n") == (
        "data.path: cannot read FILE: simulation 'A' has 2 rows and 'B' has 1; give rows with empty entries for what "
        "was not observed, or a file for each simulation (a list in data.path); "
        'kind = "points" takes simulations at their own times'
    )
    assert arrays(path, "s,t,prey,predator\nA,0,1,1\nA,1,1,1\nB,0,1,1\nB,2,1,1\n") == (
        "data.time: FILE: the times 't' differ between simulations; give a file for each simulation, as a list in "
        'data.path, or a table: kind = "points" reads series at their own times'
    )
    assert arrays(path, "t,prey,predator\n0,1,1\n1,1,1\n", boundary="periodic") == (
        "data.boundary: the fields have no axes of space, and no boundary: leave it out"
    )


def test_a_grid_may_have_no_axes() -> None:
    grid = Grid(axes=(), resolution=(), lower=(), upper=())
    assert Grid.from_data(json.loads(json.dumps(grid.to_data()))) == grid
    assert grid.text == "without space"


def test_inspect_prints_a_section_that_reads_series(tmp_path: Path) -> None:
    data = PREY.data()
    table(tmp_path / "prey.csv", data, gaps=9)
    np.savez(tmp_path / "prey.npz", t=data["t"], prey=data["prey"][0], predator=data["predator"][0])
    found = {}
    for name in ("prey.csv", "prey.npz"):
        found[name] = CliRunner().invoke(cli, ["inspect", str(tmp_path / name)]).output
    assert "read as 3 simulations of 25 frames, 0.25 apart; prey, predator without space" in found["prey.csv"]
    assert "read as 1 simulation of 25 frames, 0.25 apart; prey, predator without space" in found["prey.npz"]
