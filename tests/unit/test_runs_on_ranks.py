"""Whole runs on several ranks: they end with the weights and metrics of one process, and rank 0 alone writes."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import error_naming
from tiny_specs import HEAT_HYBRID

import hyco_engine as hyco
from hyco_engine.errors import RunError, SpecError
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.report.result import RunResult
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.testing.ranks import on_ranks

pytestmark = pytest.mark.usefixtures("measured")

SPEC: dict[str, Any] = HEAT_HYBRID | {
    "run": {"cycles": 1, "shards": 2},
    "data": HEAT_HYBRID["data"] | {"num_frames": 6},
    "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.2}}},
    "augmentation": {"kind": "count", "alpha": 0.5},
}
OWN = ("timings", "peak_rss_bytes")
"""What differs from one execution to the next."""


def execute(
    runtime: Runtime, folder: Path, changes: dict[str, Any], draw: Any = lambda *given: (), **more: Any
) -> RunResult:
    changed = {"paths.cache": str(folder.parent / "cache"), **changes}
    return hyco.Engine(copy.deepcopy(SPEC), overrides=changed, runtime=runtime, draw=draw).run(folder, **more)


def results(folder: Path) -> dict[str, Any]:
    """Return all that a run found, with the bytes of its weights."""
    summary = json.loads((folder / "summary.json").read_text())
    weights = {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}
    return {**{name: value for name, value in summary.items() if name not in OWN}, **weights}


GAUSS_NEWTON = {"training.physical.optimizer": "gauss-newton", "augmentation.cache.kind": "disk"}
LBFGS = {"training.physical.optimizer": "lbfgs", "augmentation.kind": "trust", "augmentation.cache.kind": "on-the-fly"}
FAST = GAUSS_NEWTON | {"run.shards": "auto", "run.reduction": "fast"}
MORE: dict[str, dict[str, Any]] = {
    "adam": {},
    "several starts": {"training.physical.optimizer": "gauss-newton", "training.physical.starts": 2},
    "learned starts": {"training.physical.optimizer": "gauss-newton", "training.physical.initial_states": "learned"},
    "two-arms": {"augmentation.kind": "two-arms", "augmentation.arms": [{"kind": "trust"}, {"kind": "count"}]},
    "interaction": {"augmentation.kind": "interaction"},
    "ensemble": {"synthetic.members": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    execute(Single(), folder, GAUSS_NEWTON)
    return folder


def test_two_ranks_find_what_one_process_finds(tmp_path: Path, alone: Path) -> None:
    found = on_ranks(2, lambda runtime: execute(runtime, tmp_path / "run", GAUSS_NEWTON))
    assert results(tmp_path / "run") == results(alone)
    assert [one.summary["metrics"] for one in found] == [found[0].summary["metrics"]] * 2
    assert "shards = 2" in (tmp_path / "run" / "spec.toml").read_text()
    # rank 1 leaves nothing anywhere
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["run"]
    assert not list((tmp_path / "cache").glob("generated/**/*"))


def test_a_signal_to_one_rank_ends_all_and_one_process_goes_on(tmp_path: Path, alone: Path) -> None:
    def interrupted(runtime: Runtime) -> str:
        asked = iter(range(10**6))
        with pytest.raises(Interrupted) as caught:
            execute(
                runtime,
                tmp_path / "run",
                GAUSS_NEWTON,
                stop=lambda: "SIGTERM" if runtime.rank == 1 and next(asked) > 7 else None,
            )
        return str(caught.value)

    told = on_ranks(2, interrupted)
    assert told == ["interrupted by a signal to rank 1", "interrupted by SIGTERM"]
    execute(Single(), tmp_path / "run", GAUSS_NEWTON, resume=True)
    assert results(tmp_path / "run") == results(alone)


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fast") / "run"
    on_ranks(3, lambda runtime: execute(runtime, folder, FAST))
    return folder


def test_fast_sums_find_the_same_to_rounding(fast: Path, alone: Path) -> None:
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (fast, alone))
    kappa, expected = (summary["parameters"]["kappa"]["final"] for summary in (one, other))
    assert kappa == pytest.approx(expected, rel=1e-6)
    for model in ("physical", "synthetic"):
        errors = [summary["metrics"][model]["test"]["nrmse"] for summary in (one, other)]
        assert errors[0] == pytest.approx(errors[1], rel=0.01)
    # the spec says nothing of the number of processes, so another number may go on
    run = tomllib.loads((fast / "spec.toml").read_text())["run"]
    assert (run["reduction"], run["shards"]) == ("fast", "auto")


def test_another_number_of_processes_goes_on_with_fast_sums(fast: Path, tmp_path: Path) -> None:
    on_ranks(2, lambda runtime: execute(runtime, fast, FAST | {"run.cycles": 2}, resume=True))
    summary = json.loads((fast / "summary.json").read_text())
    assert (summary["status"], summary["cycles"]) == ("completed", 2)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [LBFGS, *MORE.values()], ids=["lbfgs", *MORE])
def test_every_way_finds_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    execute(Single(), tmp_path / "alone", changes)
    on_ranks(2, lambda runtime: execute(runtime, tmp_path / "run", changes))
    assert results(tmp_path / "run") == results(tmp_path / "alone")


def test_processes_that_cannot_share_the_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        on_ranks(4, lambda runtime: execute(runtime, tmp_path / "run", {}))
    assert "run.shards: 4 processes cannot share 2 shards: start 1, 2 of them" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_fast_sums_have_no_shards() -> None:
    with error_naming(SpecError, "leave shards out", key="run.shards"):
        hyco.Engine(copy.deepcopy(SPEC), overrides={"run.reduction": "fast"})


def test_a_failure_of_one_rank_is_told_by_all(tmp_path: Path) -> None:
    spec = copy.deepcopy(SPEC) | {"run": {"cycles": 1, "shards": 2, "seed": 5}}

    def work(runtime: Runtime) -> None:
        seed = {"run.seed": 6} if runtime.rank == 1 else {}
        hyco.Engine(copy.deepcopy(spec), overrides=seed, runtime=runtime).run(tmp_path / "run")

    with pytest.raises(RunError) as caught:
        on_ranks(2, work)
    assert str(caught.value).startswith("the spec of rank 1 and of rank 0 differ: ")
    assert not (tmp_path / "run").exists()


def sensors(folder: Path) -> dict[str, Any]:
    """A spec of readings of a rod, u = exp(-0.2 pi^2 t) cos(pi x), for a physics and a function of place and time."""
    times, places = np.tile(np.arange(1, 7) * 0.1, 8), np.repeat((np.arange(8) + 0.5) / 8, 6)
    table = np.stack([times, places, np.exp(-0.2 * np.pi**2 * times) * np.cos(np.pi * places)], axis=1)
    np.savetxt(folder / "sensors.csv", table, delimiter=",", header="t,x,u", comments="")
    np.save(folder / "start.npy", np.cos(np.pi * (np.arange(8) + 0.5) / 8))
    return {
        "run": {"cycles": 1, "shards": 2},
        "data": {
            "kind": "points",
            "path": str(folder / "sensors.csv"),
            "resolution": {"x": 8},
            "bounds": {"x": [0.0, 1.0]},
            "boundary": "zero-gradient",
            "dt": 0.1,
            "num_predict_steps": 6,
            "split": {"by": "sensor"},
            "heldout": 0.25,
            "initial": {"u": {"file": str(folder / "start.npy")}},
        },
        "physical": {"kind": "heat", "compile": "eager", "dt": 0.02, "parameters": {"kappa": {"init": 0.3}}},
        "synthetic": {"kind": "coordinate-mlp", "width": 4, "depth": 1, "duration": 0.6},
        "augmentation": {"kind": "interaction", "points": 8},
        "training": {
            "synthetic": {"epochs_per_cycle": 2, "batch_size": 4, "points_per_sample": 4},
            "physical": {"epochs_per_cycle": 2, "optimizer": "lbfgs"},
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [(), ("physical", "augmentation")], ids=["both", "surrogate alone"])
def test_sensors_find_the_same(left_out: tuple[str, ...], tmp_path: Path) -> None:
    spec = {name: value for name, value in sensors(tmp_path).items() if name not in left_out}

    def run(runtime: Runtime, name: str) -> RunResult:
        paths = {"paths.cache": str(tmp_path / "cache")}
        return hyco.Engine(copy.deepcopy(spec), overrides=paths, runtime=runtime, draw=lambda *given: ()).run(
            tmp_path / name
        )

    run(Single(), "alone")
    on_ranks(2, lambda runtime: run(runtime, "run"))
    assert results(tmp_path / "run") == results(tmp_path / "alone")
