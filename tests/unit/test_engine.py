"""Whole runs, small: what a spec asks for is what the run folder holds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import error_naming
from tiny_specs import BURGERS
from tiny_specs import TINY as SPEC

import hyco_engine as hyco
from hyco_engine.errors import DataError, HycoError, PluginError, RunError, SpecError
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.interfaces import CacheBackend, Strategy, Tracker
from hyco_engine.report.run_figures import draw
from hyco_engine.runs.loading import evaluate
from hyco_engine.runs.metrics import read_metrics
from hyco_engine.runs.predicting import predict
from hyco_engine.spec.options import options


def changed(**tables: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    for name, table in tables.items():
        if table is None:
            spec.pop(name)
        else:
            spec[name] = {**spec.get(name, {}), **table}
    return spec


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("finished")
    return hyco.run(changed(paths={"cache": str(folder / "cache")}), run_dir=folder / "run")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]


def test_metrics_have_a_line_an_epoch_and_one_a_validation(finished: hyco.RunResult) -> None:
    lines = read_metrics(finished.folder)
    trained = [line for line in lines if "train/loss" in line]
    validated = [line for line in lines if "val/nrmse" in line]
    assert len(trained) == 2 * (2 + 2)
    assert len(validated) == 4
    assert all(
        {"time", "cycle", "phase", "epoch", "step", "train/loss_real", "train/loss_generated"} <= set(line)
        for line in trained
    )
    assert all("param/nu" in line for line in trained if line["phase"] == "train_physical")
    assert all("val/nrmse/u" in line for line in validated)


def test_nothing_generated_is_left_behind(finished: hyco.RunResult) -> None:
    cache = finished.folder.parent / "cache"
    assert {path.name.split("-")[0] for path in cache.rglob("*.safetensors")} == {f"sim_00000{i}" for i in range(4)}
    assert not [path for path in cache.rglob("*") if "preds" in str(path) or ("owners" in str(path) and path.is_file())]


def test_the_resolved_spec_reproduces_the_run(finished: hyco.RunResult, tmp_path: Path) -> None:
    again = hyco.run(finished.folder / "spec.toml", run_dir=tmp_path / "again")
    assert weights(again.folder) == weights(finished.folder)


def test_another_seed_gives_another_run(finished: hyco.RunResult, tmp_path: Path) -> None:
    other = hyco.run(SPEC, overrides={"run.seed": 1}, run_dir=tmp_path / "other")
    assert (
        weights(other.folder)["synthetic-final.safetensors"] != weights(finished.folder)["synthetic-final.safetensors"]
    )


@pytest.mark.parametrize("kind", ["disk", "on-the-fly"])
def test_three_ways_to_hold_samples_one_training(kind: str, finished: hyco.RunResult, tmp_path: Path) -> None:
    other = hyco.run(SPEC, overrides={"augmentation.cache.kind": kind}, run_dir=tmp_path / "other")
    assert other.summary["cache"]["kind"] == kind
    if kind == "disk":
        assert weights(other.folder) == weights(finished.folder)
    mine, theirs = (r.synthetic.state_dict() for r in (other, finished) if r.synthetic is not None)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_two_engines_live_in_one_process(finished: hyco.RunResult, tmp_path: Path) -> None:
    first = hyco.Engine(SPEC)
    second = hyco.Engine(SPEC, overrides={"run.seed": 1})
    other = second.run(tmp_path / "second")
    one = first.run(tmp_path / "first")
    assert weights(one.folder) == weights(finished.folder) != weights(other.folder)


def test_an_embedded_run_leaves_global_generators_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global one is what must not change
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    hyco.run(SPEC, run_dir=tmp_path / "run")
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# --- baselines ------------------------------------------------------------------------------------------------------


def test_surrogate_only_and_physics_only_are_the_same_program(tmp_path: Path) -> None:
    surrogate = hyco.run(
        changed(physical=None, data={"physics": SPEC["physical"] | {"parameters": {}}}), run_dir=tmp_path / "s"
    )
    physics = hyco.run(changed(synthetic=None), run_dir=tmp_path / "p")
    assert set(surrogate.summary["metrics"]) == {"synthetic", "persistence"}
    assert set(physics.summary["metrics"]) == {"physical", "persistence"}
    assert surrogate.summary["metrics"]["persistence"] == physics.summary["metrics"]["persistence"]
    assert surrogate.summary["parameters"] == {}
    assert physics.summary["parameters"]["nu"]["moved"]
    assert [b["n_generated"] for r in (surrogate, physics) for b in r.summary["balance"]] == [0] * 4
    assert surrogate.summary["cache"] is physics.summary["cache"] is None
    assert {path.name for path in (physics.folder / "weights").iterdir()} == {
        "physical-final.safetensors",
        "physical-best.safetensors",
    }


def test_hybrid_with_alpha_zero_equals_the_baselines_bit_for_bit(tmp_path: Path) -> None:
    hybrid = hyco.run(changed(augmentation={"kind": "count", "alpha": 0.0}), run_dir=tmp_path / "h")
    physics = hyco.run(changed(synthetic=None), run_dir=tmp_path / "p")
    name = "physical-final.safetensors"
    assert weights(hybrid.folder)[name] == weights(physics.folder)[name]
    assert "trains on real data alone" in hybrid.summary["warnings"][0]


# --- finished runs --------------------------------------------------------------------------------------------------


def test_a_loaded_surrogate_is_the_trained_one(finished: hyco.RunResult) -> None:
    model = hyco.load_surrogate(finished.folder)
    state = torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(0))
    assert finished.synthetic is not None
    with torch.no_grad():
        assert torch.equal(model(state), finished.synthetic.cpu()(state))
    assert not model.training


def test_loaded_physics_has_the_parameters_that_were_found(finished: hyco.RunResult) -> None:
    found = float(hyco.load_physics(finished.folder).learnables.values()["nu"].detach())
    assert found == finished.summary["parameters"]["nu"]["final"]


def test_evaluate_measures_what_the_run_measured(finished: hyco.RunResult) -> None:
    measured = evaluate(finished.folder, "test")["metrics"]
    for player, metrics in finished.summary["metrics"].items():
        assert measured[player]["test"]["nrmse"] == pytest.approx(metrics["test"]["nrmse"], rel=1e-6)


def test_predict_rolls_a_state_out(finished: hyco.RunResult, tmp_path: Path) -> None:
    state = np.sin(2 * np.pi * (np.arange(16) + 0.5) / 16)
    np.save(tmp_path / "state.npy", state)
    told = predict(finished.folder, tmp_path / "state.npy", tmp_path / "out.npy", 5, "physical")
    out = np.load(tmp_path / "out.npy")
    assert out.shape == (5, 1, 16) == tuple(told["shape"])
    step = hyco.load_physics(finished.folder)(torch.as_tensor(state, dtype=torch.float32)[None, None])
    np.testing.assert_allclose(out[0], step[0].detach().numpy(), rtol=1e-6, atol=1e-6)
    np.savez(tmp_path / "state.npz", u=state)
    predict(finished.folder, tmp_path / "state.npz", tmp_path / "out.npz", 5, "physical")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["u"], out)


def test_predict_says_which_shape_it_wants(finished: hyco.RunResult, tmp_path: Path) -> None:
    np.save(tmp_path / "state.npy", np.zeros((2, 7)))
    with error_naming(DataError, tmp_path / "state.npy", [2, 7], [1, 16]):
        predict(finished.folder, tmp_path / "state.npy", tmp_path / "out.npy", 5)


def test_predict_refuses_damaged_files(finished: hyco.RunResult, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04abc")
    np.savez(tmp_path / "objects.npz", u=np.array([{}], dtype=object))
    with (tmp_path / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    for name in ("cut.npz", "objects.npz", "huge.npy"):
        with error_naming(DataError, tmp_path / name):
            predict(finished.folder, tmp_path / name, tmp_path / "out.npy", 5)


def test_a_boundary_that_does_not_fit_the_field_is_located(tmp_path: Path) -> None:
    with error_naming(DataError, "'u'", "2 values", "1 component", key="data.boundary"):
        hyco.Engine(BURGERS, overrides={"data.boundary": [1.0, 2.0]}).plan()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with error_naming(DataError, tmp_path):
        hyco.load_surrogate(tmp_path)


# --- plans and failures ---------------------------------------------------------------------------------------------


def test_a_plan_tells_sizes_without_simulating(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyco_engine.data.manager import DataManager

    monkeypatch.setattr(DataManager, "prepare", lambda *args: pytest.fail("a plan must not simulate"))
    plan = hyco.Engine(BURGERS).plan()
    assert (plan["n_real"], plan["n_generated"]) == (10, 5)
    assert plan["cache"]["kind"] == "memory"
    assert plan["cache"]["estimated_bytes"] == 5 * 4 * 16 * 4
    # 4 windows of 16 cells in float32 a batch, 3 frames of two steps, and no more than 200 tensors a step
    assert plan["memory"] == {
        "most_bytes": 4 * 16 * 4 * 3 * 2 * 200,
        "reason": "at most, for the physics' gradient of a batch over 3 frames of 2 internal steps; beyond "
        "training.physical.memory_gb = 4, states are computed again instead of kept",
    }
    assert plan["parts"]["physical"] == {"kind": "burgers", "distribution": "hyco-engine", "version": "0.1.0"}
    assert [(p["cycle"], p["phase"]) for p in plan["phases"]] == [
        (cycle, phase) for cycle in (0, 1) for phase in ("train_synthetic", "train_physical")
    ]
    json.dumps(plan)


@pytest.mark.parametrize("cells", [16, 16384])
def test_a_plan_tells_whether_several_processes_are_faster(cells: int) -> None:
    # in such short frames one internal step is enough on any grid
    spec = changed(data={"resolution": {"x": cells}, "dt": 1e-9}, synthetic=None)
    # 4 windows of 3 frames in a batch, and 200 operations of 0.3 ns on each value
    work = 4 * 3 * 200 * 0.3e-6 * cells
    several = work / 2 > 3
    assert hyco.Engine(spec).plan()["processes"] == {
        "pays": several,
        "reason": f"a step of the physics takes about {work:.2g} ms; two processes save half of it, and lose 3 ms when "
        f"they meet: {'several processes are' if several else 'one process is'} faster",
    }


def bad(error: type[HycoError], message: str, key: str | None, **tables: Any) -> None:
    with pytest.raises(error) as caught:
        hyco.run(changed(**tables))
    (problem,) = caught.value.problems
    assert (problem.key, message in problem.message) == (key, True), problem
    # nothing was started, so nothing is left
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("error", "message", "key", "tables"),
    [
        (
            DataError,
            "'7:9' reaches beyond the data, which has 4 simulations",
            "data.split.test",
            {"data": {"split": {"train": "0:2", "val": "2:3", "test": "7:9"}}},
        ),
        (
            SpecError,
            "there is no loss term 'v'; the terms are u",
            "loss.terms.v",
            {"loss": {"terms": {"v": {"scale": 2.0}}}},
        ),
        (
            SpecError,
            "the truth of 'nu' has the shape [16], the parameter []",
            "data.truth.nu",
            {"data": {"truth": {"nu": {"profile": "sin-squared", "offset": 0.1}}}},
        ),
        (
            SpecError,
            "the truth 0.02 of 'nu' is outside of its bounds (0.1, 1), so it cannot be found",
            "data.truth.nu",
            {"physical": {"parameters": {"nu": {"init": 0.5, "bounds": [0.1, 1.0]}}}},
        ),
        (SpecError, "has no parameter 'mu'", "physical.parameters.mu", {"physical": {"parameters": {"mu": {}}}}),
        (
            SpecError,
            "6 levels need 128 or more cells along each axis, and axis x has 16: set levels = 3",
            "synthetic.levels",
            {"synthetic": {"kind": "unet", "width": 4, "levels": 6}},
        ),
        (SpecError, "the device 'cuda:7' cannot be used", "run.device", {"run": {"device": "cuda:7"}}),
    ],
)
def test_mistakes_that_only_the_data_shows_are_told_before_any_training(
    error: type[HycoError], message: str, key: str, tables: dict[str, Any]
) -> None:
    spec = changed(**tables)
    if "synthetic" in tables:
        del spec["synthetic"]["blocks"]
    with pytest.raises(error) as caught:
        hyco.run(spec)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message
    # nothing was started, so nothing is left
    assert not list(Path("runs").glob("*"))


def test_a_run_folder_in_use_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with error_naming(SpecError, tmp_path / "mine", key="--run-dir"):
        hyco.run(SPEC, run_dir=tmp_path / "mine")
    assert files(tmp_path / "mine") == {"notes.txt"}


class Interrupting(Tracker):
    """Raises in the n-th phase."""

    def __init__(self, phase: str, error: BaseException) -> None:
        self.phase = phase
        self.error = error
        self.summary: Mapping[str, Any] = {}

    def phase_started(self, record: Mapping[str, Any]) -> None:
        if record["phase"] == self.phase:
            raise self.error

    def finished(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary


AFTER_SYNTHETIC = ("generate_synthetic", "train_physical")


@pytest.mark.parametrize("phase", ["generate_physical", "train_synthetic", "generate_synthetic", "train_physical"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("broken")])
def test_whatever_ends_a_run_leaves_no_generated_samples(phase: str, error: BaseException, tmp_path: Path) -> None:
    tracker = Interrupting(phase, error)
    drawn: list[Any] = []
    engine = hyco.Engine(
        changed(augmentation={"cache": {"kind": "disk"}}),
        callbacks=[tracker],
        draw=lambda folder, *parts: drawn.append(folder) or (),
    )
    with pytest.raises(type(error)):
        engine.run(tmp_path / "run")
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert tracker.summary["status"] == status
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == status
    assert not list((tmp_path / "cache").rglob("*preds*"))
    # only what was trained is worth a file
    trained = {"synthetic-final.safetensors", "synthetic-best.safetensors"} if phase in AFTER_SYNTHETIC else set()
    assert {path.name for path in tmp_path.rglob("run/weights/*")} == trained
    assert drawn == ([tmp_path / "run"] if trained and status == "failed" else [])


# --- foreign parts --------------------------------------------------------------------------------------------------


@options
class NoOptions:
    pass


class Foreign:
    """A plugin whose factory returns whatever it is told to."""

    def __init__(self, hook: str, part: Any) -> None:
        setattr(self, hook, hookimpl(self._function(hook, part)))

    @staticmethod
    def _function(hook: str, part: Any) -> Any:
        def function() -> list[Record]:
            return [Record(kind="foreign", summary="a test", options=NoOptions, factory=lambda options, context: part)]

        function.__name__ = hook
        return function


def registry_with(hook: str, part: Any) -> hyco.Registry:
    registry = hyco.Registry.discover()
    registry.register(Foreign(hook, part), distribution="foreign-plugin", version="1.2")
    return registry


def test_a_factory_that_returns_something_else_is_named(tmp_path: Path) -> None:
    registry = registry_with("hyco_strategies", 3)
    with error_naming(PluginError, "'foreign'", "'foreign-plugin'", "(foreign-plugin 1.2)", "int", "Strategy"):
        hyco.run(changed(augmentation={"kind": "foreign"}), registry=registry)


def test_third_party_strategy_and_cache_serve(tmp_path: Path, finished: hyco.RunResult) -> None:
    from hyco_engine.builtin.caches.memory import Memory
    from hyco_engine.builtin.strategies.count import Count

    class Theirs(Count):
        pass

    class TheirCache(Memory):
        pass

    registry = registry_with("hyco_strategies", Theirs())
    registry.register(Foreign("hyco_caches", TheirCache()), distribution="foreign-cache", version="1")
    spec = changed(augmentation={"kind": "foreign", "cache": {"kind": "foreign"}})
    result = hyco.run(spec, registry=registry, run_dir=tmp_path / "run")
    assert weights(result.folder) == weights(finished.folder)
    assert isinstance(Theirs(), Strategy)
    assert isinstance(TheirCache(), CacheBackend)


def test_a_run_without_validation_data_keeps_the_last_weights(tmp_path: Path) -> None:
    result = hyco.run(changed(data={"split": {"train": "0:3", "val": "3:4"}}), run_dir=tmp_path / "run")
    assert set(result.summary["metrics"]["physical"]) == {"val"}
    assert math.isfinite(result.summary["metrics"]["physical"]["val"]["nrmse"])


def test_errors_of_parameters_are_relative_and_know_the_gauge() -> None:
    from hyco_engine.runs.summary import relative_error

    truth = torch.tensor([3.0, -4.0])
    assert relative_error(torch.tensor([3.0, -3.5]), truth) == pytest.approx(0.1)
    assert relative_error(truth + 7.0, truth, "constant") == pytest.approx(0.0, abs=1e-12)
    assert relative_error(truth + 7.0, truth) > 1.0
    assert relative_error(torch.tensor(0.3), torch.tensor(0.0)) == pytest.approx(0.3)
    # one true number for a field that was learned
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor(1.0)) == pytest.approx(1 / 2**0.5)


# --- a whole run with its error bars and figures ----------------------------------------------------------------------
# last in the module, since what follows would find error bars too


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, measured: None) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return hyco.Engine(BURGERS, draw=draw).run(folder / "run")


def test_a_run_leaves_what_the_contract_says(whole: hyco.RunResult) -> None:
    assert files(whole.folder) == {
        # the last two of four phases
        *(f"checkpoints/{number}.{suffix}" for number in ("000003", "000004") for suffix in ("json", "safetensors")),
        "spec.toml",
        "environment.json",
        "log.txt",
        "metrics.jsonl",
        "summary.json",
        "checksums.json",
        "figures/history.png",
        "figures/comparison.png",
        "figures/rollout.safetensors",
        "report.html",
        *(f"weights/{p}-{w}.safetensors" for p in ("physical", "synthetic") for w in ("final", "best")),
    }
    summary = json.loads((whole.folder / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["error"] is None
    assert summary["cycles"] == 2
    assert set(summary["metrics"]) == {"physical", "synthetic", "persistence"}
    for metrics in summary["metrics"].values():
        assert set(metrics) == {"val", "test"}
        assert {"nrmse", "vrmse", "nrmse_by_field", "nrmse_by_step"} <= set(metrics["val"])
        assert len(metrics["val"]["nrmse_by_step"]) == 7
    nu = summary["parameters"]["nu"]
    errors = {"relative_error", "standard_error", "at_bound", "budget"}
    assert set(nu) == {"initial", "final", "best", "last", "truth", "unit", "moved"} | errors
    assert (nu["truth"], nu["moved"], nu["unit"]) == (0.02, True, "length^2/time")
    assert nu["initial"] == pytest.approx(0.05, rel=1e-6)
    assert nu["relative_error"] == pytest.approx(abs(nu["final"] - 0.02) / 0.02, rel=1e-5)
    phases = ["train_synthetic", "train_physical"]
    assert [(b["cycle"], b["phase"]) for b in summary["balance"]] == [(c, p) for c in (0, 1) for p in phases]
    assert all((b["n_real"], b["n_generated"], b["weight"], b["ok"]) == (10, 5, 1.0, True) for b in summary["balance"])
    assert summary["cache"]["kind"] == "memory"
    assert summary["cache"]["estimated_bytes"] == 5 * (1 + 3) * 16 * 4 == summary["cache"]["peak_bytes"]
    assert set(summary["timings"]["phases"]) == {
        "prepare_data",
        "compile",
        "generate_physical",
        "train_synthetic",
        "generate_synthetic",
        "train_physical",
        "evaluate",
        "error_budget",
        "checkpoint",
    }
    assert summary["physics"]["compile"] == "graph"
    assert summary["seed"] == 0
    assert summary["peak_rss_bytes"] > 1e7
    assert summary["versions"]["hyco-engine"]


def test_the_same_spec_twice_gives_equal_bytes(whole: hyco.RunResult, tmp_path: Path) -> None:
    again = hyco.run(BURGERS, run_dir=tmp_path / "again")
    assert weights(again.folder) == weights(whole.folder)
    assert untimed(again.folder) == untimed(whole.folder)
    assert again.summary["parameters"] == whole.summary["parameters"]
