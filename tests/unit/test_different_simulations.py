"""Whole runs on simulations that differ: what physics, surrogates, identify and predict make of them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import error_naming
from safetensors.torch import load_file

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.scalars import number
from hyco_engine.engine import Engine
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.identifying import identify
from hyco_engine.report.run_figures import draw
from hyco_engine.runs.export import export
from hyco_engine.runs.loading import evaluate
from hyco_engine.runs.predicting import predict
from hyco_engine.training.linearized import Linearizer

TRUTH = [0.005, 0.01, 0.02, 0.03]


def diffusion(nu: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "equation", "compile": "eager", "rates": {"u": "nu*lap(u)"}, "parameters": {"nu": nu}}


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a spec of four simulations of a diffusion that differs between them; `changes` replace tables."""
    data = {
        "kind": "simulate",
        "name": "several",
        "resolution": {"x": 16},
        "bounds": {"x": [0.0, 1.0]},
        "dt": 0.02,
        "num_simulations": 4,
        "num_frames": 11,
        "truth": {"nu": {"grid": TRUTH}},
        "split": {"by": "time", "train": "0:8", "val": "8:11"},
    }
    return {
        "run": {"name": "several", "cycles": 1},
        "paths": {"runs": str(folder / "runs"), "cache": str(folder / "cache")},
        "data": data,
        "physical": diffusion({"init": 0.015, "scope": "simulation"}),
        **changes,
    }


SURROGATE: dict[str, Any] = {
    "synthetic": {"kind": "unet", "levels": 1, "width": 4},
    "training": {"synthetic": {"epochs_per_cycle": 1}},
    "augmentation": {"kind": "trust", "alpha": 1.0},
}
KNOWN = diffusion({"from": "nu"})


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, measuring: Callable[[], AbstractContextManager[None]]
) -> hyco.RunResult:
    with measuring():
        return hyco.Engine(spec(tmp_path_factory.mktemp("found")), draw=draw).run()


def test_each_simulation_gets_its_own_value_with_an_error_bar(found: hyco.RunResult) -> None:
    nu = found.summary["parameters"]["nu"]
    assert nu["by"] == "simulation"
    assert [own["group"] for own in nu["own"]] == ["0", "1", "2", "3"]
    for own, truth in zip(nu["own"], TRUTH, strict=True):
        assert own["truth"] == pytest.approx(truth)
        assert own["value"] == pytest.approx(truth, rel=1e-3)
        assert 0 < own["standard_error"] < 1e-3 * truth
        low, high = own["interval"]
        assert low < own["value"] < high
    assert nu["relative_error"] < 1e-3


def test_the_report_lists_the_values_of_all_simulations(found: hyco.RunResult) -> None:
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "nu of each simulation" in page


def test_new_simulations_are_identified_with_all_else_as_found(found: hyco.RunResult, tmp_path: Path) -> None:
    again = identify(found.folder, frames=5, overrides=["data.truth.nu = {grid = [0.015, 0.025]}"])
    values = [each["value"] for each in again["parameters"]["nu"]]
    assert values == pytest.approx([0.015, 0.025, 0.015, 0.025], rel=1e-2)
    assert again["simulations"] == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [2, 4])
def test_all_frames_of_short_series_identify(
    found: hyco.RunResult, frames: int, caplog: pytest.LogCaptureFixture
) -> None:
    again = identify(found.folder, frames=frames, overrides=["data.truth.nu = {grid = [0.015, 0.025]}"])
    values = [each["value"] for each in again["parameters"]["nu"]]
    assert values == pytest.approx([0.015, 0.025, 0.015, 0.025], rel=1e-2)
    assert "the series are too short to hold out a frame: all train, and nothing validates" in caplog.text


def test_identify_needs_parameters_in_which_simulations_differ(tmp_path: Path) -> None:
    table = spec(tmp_path, physical=diffusion({"init": 0.015}))
    table["data"]["truth"] = {"nu": 0.01}
    result = hyco.run(table)
    with error_naming(DataError, "all simulations share their parameters", "from", "scope"):
        identify(result.folder)


def test_values_of_other_simulations_are_not_measured_on_new_data(found: hyco.RunResult) -> None:
    with error_naming(DataError, "data.truth.nu", "identify", key="data"):
        evaluate(found.folder, "val", overrides=["data.truth.nu = {grid = [0.015, 0.025]}"])
    with error_naming(DataError, "each simulation of other data", key="data"):
        evaluate(found.folder, "val", overrides=["data.num_simulations = 3"])
    assert "physical" in evaluate(found.folder, "val")["metrics"]


def test_simulations_of_a_group_share_a_value(tmp_path: Path) -> None:
    table = spec(tmp_path, physical=diffusion({"init": 0.015, "scope": "group", "group": "rig"}))
    table["data"] |= {"truth": {"nu": {"grid": [0.01, 0.02]}}, "scalars": {"rig": "nu"}}
    own = hyco.run(table).summary["parameters"]["nu"]["own"]
    assert [one["group"] for one in own] == ["0.01", "0.02"]
    assert [one["value"] for one in own] == pytest.approx([0.01, 0.02], rel=1e-3)


def test_a_simulation_that_only_validates_has_no_value(tmp_path: Path) -> None:
    table = spec(tmp_path)
    table["data"]["split"] = {"by": "simulation", "train": "0:3", "val": "3:4"}
    with error_naming(SpecError, "simulation 3", "identify", key="physical.parameters.nu.scope"):
        Engine(table).plan()


def test_the_physics_teaches_at_new_parameters_and_the_surrogate_knows_them(tmp_path: Path) -> None:
    table = spec(tmp_path, physical=KNOWN, **SURROGATE)
    table["run"]["cycles"] = 2
    result = hyco.run(table)
    physics = hyco.load_physics(result.folder)
    assert physics.learnables.given == {"nu": "nu"}
    assert result.summary["data"]["fields"] == ["u", "nu"]
    taught = [entry for entry in result.summary["cooperation"] if entry["direction"] == "physical->synthetic"]
    assert taught[0]["n_generated"] > 0
    surrogate = hyco.load_surrogate(result.folder)
    state = torch.sin(torch.linspace(0, 6, 16)).reshape(1, 1, 16)
    assert not torch.equal(surrogate(state, nu=0.005), surrogate(state, nu=0.03))
    out = tmp_path / "exported.safetensors"
    export(result.folder, out)
    assert torch.equal(hyco.load_surrogate(out)(state, nu=0.01), surrogate(state, nu=0.01))


def test_a_surrogate_is_told_what_the_physics_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = hyco.run(spec(tmp_path, **SURROGATE))
    surrogate = hyco.load_surrogate(result.folder)
    own = [one["value"] for one in result.summary["parameters"]["nu"]["own"]]
    assert surrogate.model.found_nu.tolist() == pytest.approx(own, rel=1e-4)
    state = torch.sin(torch.linspace(0, 6, 16)).reshape(1, 1, 16)
    # a state of simulation 2 is stepped as one with the value of simulation 2
    numbered = torch.cat([state, torch.zeros(1, 1, 16), torch.full((1, 1, 16), 2.0)], dim=1)
    assert torch.equal(surrogate(numbered), surrogate(state, nu=float(surrogate.model.found_nu[2])))
    np.save(tmp_path / "start.npy", state[0].numpy())
    out = tmp_path / "path.npy"
    predict(result.folder, tmp_path / "start.npy", out, 3, parameters={"nu": 0.02})
    assert np.load(out).shape == (3, 1, 16)
    with error_naming(DataError, "needs the number nu"):
        predict(result.folder, tmp_path / "start.npy", out, 3)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    table = spec(tmp_path, **SURROGATE)
    table["run"]["cycles"] = 2
    whole = hyco.run(table, run_dir=tmp_path / "whole")
    count = 0

    def stop() -> str | None:
        nonlocal count
        count += 1
        return "enough" if count == 12 else None

    engine = Engine(table)
    with pytest.raises(KeyboardInterrupt):
        engine.run(tmp_path / "parts", stop=stop)
    resumed = Engine(table).run(tmp_path / "parts", resume=True)
    for player in ("physical", "synthetic"):
        one, other = (load_file(r.folder / "weights" / f"{player}-final.safetensors") for r in (whole, resumed))
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_derivatives_by_the_values_of_groups_equal_those_of_one_sample_after_the_other(tmp_path: Path) -> None:
    captured = {"kind": "burgers", "parameters": {"nu": {"scope": "simulation"}}}
    engine = Engine(spec(tmp_path, physical=captured))
    assembler = Assembler(engine.spec, Registry.discover())
    task = assembler.task()
    task.read()
    trainer = assembler.prepare(task).trainers["physical"]
    samples = AugmentedDataset(task.samples(trainer.settings))
    whole = trainer.whole_loss(samples)
    point = whole.unknowns.point()[None]
    linearizer = Linearizer(trainer.model, compiles=False)
    (chunk, _, jacobian), *_ = linearizer.linearized(whole, point)
    assert linearizer.way == "captured"
    slow = Linearizer(trainer.model, compiles=False)
    slow._rollout = None
    (_, _, expected), *_ = slow.linearized(whole, point)
    torch.testing.assert_close(jacobian, expected, rtol=2e-3, atol=2e-5 * float(expected.abs().max()))
    group = number(chunk.batch[0], task.form.layout, "simulation").long()
    others = jacobian[0].abs().sum(1)
    others[torch.arange(len(group)), group] = 0
    assert float(others.max()) == 0, "a sample depends on the value of its own simulation alone"


def test_files_in_the_layout_of_the_well_train_conditioned_as_they_are(tmp_path: Path) -> None:
    pairs = {"Du": 0.2, "Dv": 0.1, "f": {"each": [0.014, 0.018, 0.026]}, "k": {"each": [0.054, 0.051, 0.057]}}
    grid = {"resolution": {"x": 8, "y": 8}, "bounds": {"x": [0.0, 8.0], "y": [0.0, 8.0]}, "dt": 1.0}
    made = spec(tmp_path, physical={"kind": "gray-scott"})
    made["data"] = {"kind": "simulate", "name": "pairs", "num_simulations": 3, "num_frames": 6, "truth": pairs, **grid}
    Engine(made).simulate(tmp_path / "well", "well")
    taken = {"kind": "gray-scott", "parameters": {"f": {"from": "f"}, "k": {"from": "k"}}}
    read = spec(tmp_path, physical=taken, **SURROGATE)
    read["data"] = {"kind": "well", "name": "read", "path": str(tmp_path / "well")}
    result = hyco.run(read)
    surrogate = hyco.load_surrogate(result.folder)
    assert surrogate.layout.scalars == ("f", "k")
    assert result.summary["metrics"]["physical"]["val"]["nrmse"] < 1e-3, "the physics took the pair of each simulation"


def test_listed_fields_leave_the_groups_in_the_states(tmp_path: Path) -> None:
    table = spec(tmp_path)
    table["data"]["fields"] = {"dynamic": ["u"]}
    own = hyco.run(table).summary["parameters"]["nu"]["own"]
    assert [one["value"] for one in own] == pytest.approx(TRUTH, rel=1e-3)


def test_a_number_that_names_groups_is_given_under_a_second_name(tmp_path: Path) -> None:
    table = spec(tmp_path, physical={"kind": "burgers", "parameters": {"nu": {"scope": "group", "group": "rig"}}})
    table["data"] |= {"scalars": {"rig": "nu"}, "fields": {"scalars": ["rig"]}}
    with error_naming(DataError, "'rig' names the groups of nu", "rig_value", key="data.fields.scalars"):
        Engine(table).plan()
    table["data"] |= {"scalars": {"rig": "nu", "rig_value": "nu"}, "fields": {"scalars": ["rig_value"]}}
    Engine(table).plan()


def test_a_surrogate_that_contains_the_physics_has_no_values_of_groups(tmp_path: Path) -> None:
    table = spec(tmp_path, **{**SURROGATE, "synthetic": {"kind": "corrected"}})
    with error_naming(SpecError, "simulations differ in nu", "leave scope out", key="synthetic.kind"):
        Engine(table).plan()


def test_simulated_data_need_the_true_values_of_what_differs(tmp_path: Path) -> None:
    for own in ({"scope": "simulation"}, {"from": "nu"}):
        table = spec(tmp_path, physical={"kind": "burgers", "parameters": {"nu": {"scope": "simulation"}}})
        table["physical"]["parameters"]["nu"] = own
        del table["data"]["truth"]
        with error_naming(SpecError, "needs the true value of 'nu'", key="data.truth.nu"):
            Engine(table).plan()


def written(path: Path, **arrays: Any) -> dict[str, Any]:
    """Write two simulations of a decaying wave and `arrays` to a file, and return the `[data]` that reads them."""
    x, t = np.arange(64) / 64, np.arange(12)[:, None]
    u = np.stack([np.sin(2 * np.pi * (x + 0.1 * k)) * np.exp(-0.05 * t) for k in range(2)])
    np.savez(path, u=u, **arrays)
    own = {"path": str(path), "axes": "stx", "bounds": {"x": [0.0, 1.0]}, "dt": 0.1, "boundary": "periodic"}
    return {"kind": "arrays", "name": path.stem, "variables": {"u": "u"}, "split": {"by": "time"}, **own}


def test_a_plan_knows_no_range_of_a_field_that_is_not_read(tmp_path: Path) -> None:
    data = written(tmp_path / "map.npz", k=np.full((2, 64), 0.01))
    data |= {"variables": {"u": "u", "k": {"variable": "k", "axes": "sx"}}, "fields": {"static": ["k"]}}
    table = spec(tmp_path, data=data, physical={"kind": "burgers", "parameters": {"nu": {"from": "k"}}})
    Engine(table).plan()


def test_data_that_give_a_parameter_have_no_other_truth_of_it(tmp_path: Path) -> None:
    data = {**written(tmp_path / "two.npz", nu=np.array([0.01, 0.02])), "truth": {"nu": 0.01}}
    with error_naming(SpecError, "the data give nu", "leave it out", key="data.truth.nu"):
        Engine(spec(tmp_path, data=data, physical=KNOWN)).plan()


def test_new_data_are_identified_without_the_noise_that_the_run_added(tmp_path: Path) -> None:
    made = spec(tmp_path)
    made["data"] |= {"num_simulations": 2, "truth": {"nu": {"grid": [0.01, 0.02]}}}
    u = np.stack([one.dynamic[:, 0].numpy() for one in frames_of(made)])
    np.savez(tmp_path / "two.npz", u=u)
    own = {"axes": "stx", "bounds": {"x": [0.0, 1.0]}, "dt": 0.02, "boundary": "periodic", "variables": {"u": "u"}}
    data = {"kind": "arrays", "name": "two", "path": str(tmp_path / "two.npz"), "split": {"by": "time"}, **own}
    noisy = spec(tmp_path, data={**data, "observe": {"noise": {"level": 0.2}}})
    result = hyco.run(noisy)
    found = identify(result.folder, tmp_path / "two.npz")["parameters"]["nu"]
    assert [each["value"] for each in found] == pytest.approx([0.01, 0.02], rel=1e-3)


def frames_of(table: dict[str, Any]) -> Any:
    task = Assembler(Engine(table).spec, Registry.discover()).task()
    task.read()
    return [task.simulations().clean(index) for index in range(2)]


def test_steps_that_are_too_long_for_held_out_parameters_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = spec(tmp_path, physical={"kind": "burgers", "parameters": {"nu": {"from": "nu"}}})
    table["data"] |= {"truth": {"nu": {"each": [0.01, 0.01, 0.02, 1.0]}}}
    table["data"]["split"] = {"by": "simulation", "train": "0:2", "val": "2:3", "test": "3:4"}
    result = hyco.run(table)
    told = [text for text in result.summary["warnings"] if text.startswith("on the test data, burgers: steps of dt")]
    assert len(told) == 1
    assert "physical.dt" in told[0]
    assert not [text for text in result.summary["warnings"] if "on the val data" in text]
    np.save(tmp_path / "start.npy", np.zeros((1, 16), np.float32))
    for nu, lines in ((0.01, 0), (1.0, 1)):
        caplog.clear()
        predict(result.folder, tmp_path / "start.npy", tmp_path / "out.npy", 1, "physical", parameters={"nu": nu})
        assert caplog.text.count("steps of dt") == lines


def test_an_exported_description_has_the_values_of_all_simulations(found: hyco.RunResult, tmp_path: Path) -> None:
    export(found.folder, tmp_path / "found.toml")
    nu = tomllib.loads((tmp_path / "found.toml").read_text(encoding="utf-8"))["parameters"]["nu"]
    assert nu["by"] == "simulation"
    assert [one["group"] for one in nu["own"]] == ["0", "1", "2", "3"]
    assert [one["value"] for one in nu["own"]] == pytest.approx(TRUTH, rel=1e-3)
