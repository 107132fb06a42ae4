"""The use of a finished run: its report, other data, other weights, export for use without this package."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.errors import DataError, RunError
from hyco_engine.interfaces import Tracker
from hyco_engine.runs import export as module
from hyco_engine.runs.export import export
from hyco_engine.runs.loading import evaluate
from hyco_engine.runs.predicting import predict

pytestmark = pytest.mark.usefixtures("measured")

SPEC: dict[str, Any] = {
    "run": {"name": "small", "cycles": 1},
    "data": {
        "kind": "simulate",
        "truth": {"nu": 0.02},
        "num_simulations": 3,
        "num_frames": 8,
        "resolution": {"x": 16},
        "dt": 0.02,
        "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
    },
    "physical": {"kind": "burgers"},
    "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
    "training": {"synthetic": {"epochs_per_cycle": 2}, "physical": {"epochs_per_cycle": 1}},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, drawn: None) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("results")
    return hyco.run(SPEC | {"paths": {"cache": str(folder / "cache"), "runs": str(folder / "runs")}})


def told(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    return done.exit_code, done.stdout, done.stderr


# --- at the end of a run --------------------------------------------------------------------------------------------


def test_a_run_ends_in_a_report(result: hyco.RunResult) -> None:
    page = (result.folder / "report.html").read_text()
    assert 'id="time" type="range"' in page
    assert "Error against lead time, test data" in page
    assert repr(result).startswith(f"RunResult({result.folder}, completed: nu was found to within ")
    assert "<td>nu</td>" in result._repr_html_()


def test_figures_that_fail_are_a_warning(tmp_path: Path) -> None:
    def fail(*drawn: object) -> tuple[()]:
        raise ValueError("no ink")

    said: list[str] = []

    class Listener(Tracker):
        def warned(self, message: str) -> None:
            said.append(message)

    paths = {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")}
    data = SPEC["data"] | {"physics": {"kind": "burgers"}}
    alone = {key: value for key, value in SPEC.items() if key != "physical"}
    done = hyco.Engine(alone | {"data": data, "paths": paths}, callbacks=[Listener()], draw=fail).run()
    assert done.summary["status"] == "completed"
    (told,) = (message for message in said if "figures" in message)
    assert "ValueError: no ink" in told


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_has_every_metric(result: hyco.RunResult) -> None:
    found = evaluate(result.folder, "test")
    assert (found["dt"], found["weights"], found["status"]) == (0.02, "final", "completed")
    for player in ("physical", "synthetic", "persistence"):
        own = found["metrics"][player]["test"]
        for metric in ("nrmse", "vrmse", "nrmse_by_step"):
            assert own[metric] == pytest.approx(result.summary["metrics"][player]["test"][metric], rel=1e-6)
        assert set(own["by_field"]["u"]) == {
            *("nrmse", "vrmse", "rmse", "mae", "linf", "pearson_r", "conserved_rmse", "boundary_rmse"),
            *("spectral_mse/low", "spectral_mse/mid", "spectral_mse/high", "correlation_time"),
        }
        assert len(own["by_step"]["u"]["pearson_r"]) == 7


def test_evaluate_writes_a_table(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "metrics.csv"
    code, text, _ = told("evaluate", result.folder, "--split", "test", "--csv", out)
    assert code == 0
    assert text.splitlines()[-1] == f"wrote {out}"
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0]) == ["model", "split", "metric", "field", "step", "time", "value"]
    found = result.summary["metrics"]["synthetic"]["test"]
    (last,) = [
        row
        for row in rows
        if (row["model"], row["metric"], row["field"], row["step"]) == ("synthetic", "nrmse", "u", "7")
    ]
    assert last["time"] == "0.14"
    assert float(last["value"]) == pytest.approx(found["nrmse_by_step"][-1], rel=1e-6)
    assert len(rows) == 3 * (12 + 12 + 11 * 7)


def foreign(folder: Path, shape: tuple[int, ...], dt: float = 0.02) -> list[str]:
    rng = np.random.default_rng(0)
    np.savez(folder / "other.npz", u=rng.normal(size=shape))
    data = {
        "kind": '"arrays"', "path": f'"{folder / "other.npz"}"', "variables": '{ u = "u" }', "axes": '"stx"',
        "bounds": "{ x = [0.0, 1.0] }", "boundary": '"periodic"', "dt": dt, "name": '"other"', "truth": "{ nu = 0.5 }",
    }  # fmt: skip
    return [f"data.{key}={value}" for key, value in data.items()]


def test_evaluate_on_other_data(result: hyco.RunResult, tmp_path: Path) -> None:
    other = foreign(tmp_path, (3, 8, 16))
    found = evaluate(result.folder, "test", overrides=other)["metrics"]
    own = evaluate(result.folder, "test")["metrics"]
    assert found["persistence"]["test"]["nrmse"] > 1
    assert found["synthetic"]["test"]["nrmse"] != own["synthetic"]["test"]["nrmse"]


def test_other_data_must_fit(result: hyco.RunResult, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        evaluate(result.folder, "test", overrides=foreign(tmp_path, (3, 8, 12)))
    assert str(error.value).endswith(
        "the physical model steps the fields u (1, centered) on 16 cells along x in [0, 1]; this data has the fields u "
        "(1, centered) on 12 cells along x in [0, 1]"
    )
    with error_naming(DataError, 0.02, 0.05):
        evaluate(result.folder, "test", overrides=foreign(tmp_path, (3, 8, 16), dt=0.05))


def test_mistakes_are_told_with_their_line(result: hyco.RunResult) -> None:
    code, _, error = told("evaluate", result.folder, "--split", "test", "--set", 'data.split.test="3:4"')
    assert code == 2
    assert error.startswith("error: --set: data.split.test: ")


def test_the_best_weights(result: hyco.RunResult, tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.sin(2 * np.pi * np.arange(16) / 16))
    surrogate = hyco.load_surrogate(result.folder, "best")
    predict(result.folder, tmp_path / "start.npy", tmp_path / "out.npy", 1, which="best")
    state = torch.from_numpy(np.load(tmp_path / "start.npy")).float()[None, None]
    with torch.no_grad():
        np.testing.assert_allclose(np.load(tmp_path / "out.npy")[0], surrogate(state)[0].numpy(), rtol=1e-6, atol=1e-6)


# --- export ---------------------------------------------------------------------------------------------------------

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hyco_engine", "phi", "phiml", "attrs", "attr", "cattrs", "safetensors"):
            raise ImportError(f"{name} is not to be used here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import torch

program = torch.export.load(sys.argv[1]).module()
np.save(sys.argv[3], program(torch.from_numpy(np.load(sys.argv[2]))).numpy())
print(sorted(name for name in sys.modules if name.startswith("hyco")))
"""


def test_a_program_runs_with_torch_alone(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "surrogate.pt2"
    code, text, error = told("export", result.folder, "--out", out, "--steps", 3)
    assert (code, error) == (0, "")
    assert text.splitlines()[0] == f"wrote {out} and {tmp_path / 'surrogate.toml'}"
    states = np.random.default_rng(0).normal(size=(7, 1, 16)).astype(np.float32)
    np.save(tmp_path / "states.npy", states)
    (tmp_path / "alone.py").write_text(ALONE)
    files = [str(tmp_path / name) for name in ("alone.py", "surrogate.pt2", "states.npy", "out.npy")]
    done = subprocess.run([sys.executable, "-I", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    surrogate = hyco.load_surrogate(result.folder)
    state, wanted = torch.from_numpy(states), []
    with torch.no_grad():
        for _ in range(3):
            state = surrogate(state)
            wanted.append(state)
    got = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(got, torch.stack(wanted, 1).numpy(), rtol=1e-6, atol=1e-6)


def test_weights_that_build_themselves_again(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "surrogate.safetensors"
    assert export(result.folder, out, "safetensors")["difference"] == 0.0
    state = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(hyco.load_surrogate(out)(state), hyco.load_surrogate(result.folder)(state))
    first = out.read_bytes()
    export(result.folder, out)
    assert out.read_bytes() == first
    with error_naming(DataError, "synthetic-final.safetensors"):
        hyco.load_surrogate(result.folder / "weights" / "synthetic-final.safetensors")


def test_predict_takes_an_exported_file_in_place_of_the_run(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "surrogate.safetensors"
    export(result.folder, out)
    states = np.random.default_rng(0).normal(size=(3, 1, 16))
    np.savez(tmp_path / "states.npz", u=states)
    rest = ["--input", tmp_path / "states.npz", "--steps", 4, "--out"]
    code, text, error = told("predict", out, *rest, tmp_path / "file.npz")
    assert (code, error) == (0, "")
    assert text == f"wrote {tmp_path / 'file.npz'}: 4 steps of 0.02 by the synthetic model of {out}\n"
    assert told("predict", result.folder, *rest, tmp_path / "run.npz")[0] == 0
    got, wanted = (np.load(tmp_path / f"{name}.npz")["u"] for name in ("file", "run"))
    assert got.shape == (3, 4, 1, 16)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)

    code, _, error = told("predict", out, *rest, tmp_path / "no.npz", "--model", "physical")
    wrong = f"error: {out} holds one surrogate with one set of weights; for the physics name the run folder\n"
    assert (code, error) == (2, wrong)
    code, _, error = told("predict", out, *rest, tmp_path / "no.npz", "--which", "best")
    assert (code, error) == (2, wrong.replace("physics", "best weights"))


def test_a_surrogate_with_the_physics_inside_travels_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corrected = {"kind": "corrected", "width": 4}
    folder = hyco.run(SPEC | {"synthetic": corrected, "run": {"name": "inside", "cycles": 1}}).folder
    assert export(folder, Path("whole.safetensors"))["difference"] == 0.0
    state = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(hyco.load_surrogate("whole.safetensors")(state), hyco.load_surrogate(folder)(state))


def test_no_program_is_read_back(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "surrogate.pt2"
    export(result.folder, out)
    np.save(tmp_path / "state.npy", np.zeros((1, 16)))
    code, _, error = told("predict", out, "--input", tmp_path / "state.npy", "--steps", 1, "--out", tmp_path / "no.npy")
    assert code == 2
    assert error == (
        f"error: {out} is neither a run folder nor a surrogate exported as .safetensors; the engine reads no "
        f"exported program (.pt2), since reading can execute its content: run one that you trust with torch, as "
        f"docs/results.md shows\n"
    )


def test_the_description(result: hyco.RunResult, tmp_path: Path) -> None:
    export(result.folder, tmp_path / "surrogate.pt2")
    about = tomllib.loads((tmp_path / "surrogate.toml").read_text())
    found = result.summary["parameters"]["nu"]
    nu = {"value": found["final"], "standard_error": found["standard_error"], "unit": "length^2/time"}
    assert about["parameters"] == {"nu": {**nu, "start": found["initial"], "truth": 0.02, "learned": True}}
    assert about["physics"] == {"kind": "burgers"}
    surrogate = about["surrogate"]
    assert surrogate["grid"] == {"x": {"cells": 16, "lower": 0.0, "upper": 1.0}}
    assert (surrogate["file"], surrogate["dt"], surrogate["steps"]) == ("surrogate.pt2", 0.02, 1)
    assert (surrogate["input"], surrogate["output"]) == (
        "float tensor [batch, 1, 16]",
        "float tensor [batch, 1, 1, 16]",
    )
    assert [(field["name"], field["role"]) for field in surrogate["fields"]] == [("u", "dynamic")]
    export(result.folder, tmp_path / "alone.toml", "toml")
    assert tomllib.loads((tmp_path / "alone.toml").read_text()) == {k: v for k, v in about.items() if k != "surrogate"}


def test_what_differs_is_not_written(result: hyco.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with error_naming(RunError, "exported surrogate", "nothing was written"):
        export(result.folder, tmp_path / "surrogate.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_so(
    result: hyco.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Branches(torch.nn.Module):
        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return state if float(state.sum()) > 0 else -state

    real = module._surrogate
    monkeypatch.setattr(module, "_surrogate", lambda run, which: (Branches(), real(run, which)[1]))
    with error_naming(RunError, "torch.export", "'resnet'", "--format safetensors"):
        export(result.folder, tmp_path / "surrogate.pt2")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--format", "torch-export", "--out", "here.toml"],
            "the name here.toml is for the format toml, and the format is torch-export: call the file here.pt2\n",
        ),
        (
            ["--format", "toml", "--out", "here.safetensors"],
            "the name here.safetensors is for the format safetensors, and the format is toml: call the file "
            "here.toml\n",
        ),
        (["--out", "no/where.pt2"], "cannot write where.pt2: there is no folder no"),
    ],
)
def test_places_that_cannot_be(
    result: hyco.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = told("export", result.folder, *args)
    assert code == 2
    assert error.startswith(f"error: {message}")


def test_as_json(result: hyco.RunResult, tmp_path: Path) -> None:
    out = tmp_path / "parameters.toml"
    code, text, _ = told("export", result.folder, "--format", "toml", "--out", out, "--json")
    assert code == 0
    told_so = {"run": str(result.folder), "format": "toml", "files": [str(out)], "difference": None}
    assert json.loads(text) == told_so
