"""Noisy held-out data: rollouts begin from what a physics knows, and models are compared without the noise."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_specs import in_time
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.data.heldout import HeldOutStretches
from hyco_engine.hooks.records import ModelRecord
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicsContext, Samples
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.runs.loading import evaluate
from hyco_engine.tasks import grid
from hyco_engine.testing.problems import LinearSurrogate, decay_layout, decay_trajectories
from hyco_engine.testing.ranks import on_ranks
from hyco_engine.training.analyses import analyses
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.trainer import Trainer

NAN = math.nan


def stretch(*values: float, simulation: int = 0) -> Trajectory:
    return Trajectory(dynamic=torch.tensor(values)[:, None, None], static=torch.tensor([[5.0]]), simulation=simulation)


def stretches(measure: Any = "continuation") -> HeldOutStretches:
    """Return those of two simulations whose frames 0 to 4 and 10 to 12 train."""
    return HeldOutStretches(
        measure=measure,
        trajectories=(stretch(0, NAN, NAN, NAN, NAN, 5, 6), stretch(10, NAN, NAN, 13, simulation=1)),
        first=(0, 10),
        last_known=(torch.tensor([[4.0]]), torch.tensor([[12.0]])),
        known_at=(4, 12),
    )


def test_a_continuation_begins_from_the_last_state_that_is_known_before_its_stretch() -> None:
    known = {0: [(2, torch.tensor([[2.5]])), (4, torch.tensor([[4.5]])), (5, torch.tensor([[5.5]]))]}
    begun = stretches().begin_from(known, advances=[0.5])
    assert begun.trajectories[0].dynamic.flatten().tolist() == [4.5, 5, 6]
    # the time of the state goes on with it
    assert begun.trajectories[0].static.flatten().tolist() == [7.0]
    assert begun.first == (4, 10)
    assert begun.last_known[0].flatten().tolist() == [4.5]
    # nothing is known of the other simulation
    torch.testing.assert_close(
        begun.trajectories[1].dynamic, stretches().trajectories[1].dynamic, rtol=0, atol=0, equal_nan=True
    )
    assert begun.last_known[1].flatten().tolist() == [12.0]
    # a state that is known of an earlier frame is a start, and no last frame
    begun = stretches().begin_from({0: [(2, torch.tensor([[2.5]]))]})
    assert begun.trajectories[0].dynamic[0].item() == 2.5
    assert begun.last_known[0].flatten().tolist() == [4.0]
    rollouts = stretches("rollout")
    assert rollouts.begin_from(known) is rollouts


def test_a_continuation_passes_through_the_frames_that_train() -> None:
    assert stretches().passed() == [(0, range(1, 5)), (1, range(11, 13))]
    assert stretches("rollout").passed() == []


# --- errors without noise -----------------------------------------------------------------------------------------


def wrong(weight: float) -> nn.Module:
    model = LinearSurrogate()
    nn.init.constant_(model.weight, weight)
    return model


def noisy(noise: float, seed: int) -> list[Trajectory]:
    """Return 40 decays from exact starts with noise in all later frames."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for trajectory in decay_trajectories(40, 8):
        drawn = noise * torch.randn(trajectory.dynamic.shape, generator=generator, dtype=trajectory.dynamic.dtype)
        drawn[0] = 0
        found.append(Trajectory(dynamic=trajectory.dynamic + drawn, static=trajectory.static))
    return found


def squares(data: list[Trajectory], model: nn.Module, noise: float) -> float:
    name = decay_layout().dynamic[0].name
    heldout = HeldOutRollouts(data, decay_layout(), noise={name: noise})
    return (heldout.error(model) / heldout.score(heldout.measure(model))) ** 2


def test_the_noise_of_the_targets_is_no_error_of_a_model() -> None:
    noise, model = 0.1, wrong(0.8)
    clean = decay_trajectories(40, 8)
    start = torch.stack([own.dynamic[0] for own in clean])
    paths = [start := model(start) for _ in range(7)]
    missed = torch.stack(paths, dim=1) - torch.stack([own.dynamic[1:] for own in clean])
    own = float(missed.square().mean().detach())
    # the share of squared errors that is not noise, in units of the spread of each lead time
    found = [squares(noisy(noise, seed), model, noise) for seed in range(8)]
    spread = torch.stack([one.dynamic[1:] for one in clean]).flatten(2).double()
    sizes = (spread.transpose(0, 1).flatten(1).var(1, correction=0) + noise**2)[:, None]
    expected = missed.detach().square().transpose(0, 1).flatten(1).double() / sizes
    wanted = float(expected.sum() / (expected + noise**2 / sizes).sum())
    assert own > 0
    assert np.mean(found) == pytest.approx(wanted, rel=0.1)


def test_no_less_than_the_uncertainty_of_the_noise_is_left() -> None:
    perfect = wrong(math.exp(-0.1))
    found = [squares(noisy(0.1, seed), perfect, 0.1) for seed in range(20)]
    values = 40 * 7 * decay_trajectories(1, 8)[0].dynamic[0].numel()
    assert min(found) == pytest.approx(math.sqrt(2 / values), rel=0.3)
    assert max(found) < 4 * math.sqrt(2 / values)


def test_without_noise_an_error_is_the_score() -> None:
    model, data = wrong(0.8), noisy(0.1, 0)
    heldout = HeldOutRollouts(data, decay_layout())
    assert heldout.error(model) == heldout.score(heldout.measure(model))


# --- whole runs -----------------------------------------------------------------------------------------------------


class Fronts(TorchPhysics):
    """du/dt = rate (u - u^3), solved exactly: what is small grows, noise too."""

    parameters = (ParameterDeclaration(name="rate", init=3.0, bounds=(0.0, math.inf)),)

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes))], []

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        u, grown = fields["u"], torch.exp(2 * dt * parameters["rate"])
        return {"u": u * grown.sqrt() / (1 + u**2 * (grown - 1)).sqrt()}


@hyco.options
class NoOptions:
    pass


def fronts(options: NoOptions, context: PhysicsContext) -> TorchModel:
    return TorchModel(Fronts(), context)


def registry() -> Registry:
    found = Registry.discover()
    record = ModelRecord(kind="fronts", role="physical", summary="fronts", options=NoOptions, factory=fronts)
    found.register(record, distribution="test-fronts", version="1", hook="hyco_models")
    return found


def run_of(spec: Mapping[str, Any], folder: Path, runtime: Runtime | None = None, **more: Any) -> hyco.RunResult:
    return hyco.Engine(copy.deepcopy(dict(spec)), registry=registry(), runtime=runtime).run(folder, **more)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the spec of a physics on 31 frames with 5 % of noise, in which noise of the start grows 20 times."""
    folder = tmp_path_factory.mktemp("fronts")
    x, t, rate = (np.arange(32) + 0.5) / 32, np.arange(31) * 0.05, 4.0
    start = 0.1 * np.cos(2 * np.pi * x) + 0.05 * np.sin(4 * np.pi * x)
    grown = np.exp(2 * rate * t)[:, None]
    values = start * np.sqrt(grown) / np.sqrt(1 + start**2 * (grown - 1))
    values += 0.05 * values.std() * np.random.default_rng(0).normal(size=values.shape)
    np.savez(folder / "fronts.npz", u=values, x=x, t=t)
    return in_time(folder / "fronts.npz", {"kind": "fronts", "compile": "graph"})


def vrmse(summary: Mapping[str, Any], model: str, split: str = "test") -> float:
    return float(summary["metrics"][model][split]["vrmse"])


@pytest.fixture(scope="module")
def run(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> hyco.RunResult:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_of(spec, folder / "run")


def test_noise_in_start_states_does_not_hide_a_right_physics(
    run: hyco.RunResult, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.summary["data"]["measure"] == {"val": "continuation", "test": "continuation"}
    level = run.summary["noise"]["u"]["relative"]
    assert vrmse(run.summary, "physical") < 1.2 * level
    monkeypatch.chdir(tmp_path)
    observed = run_of({**spec, "training": {"physical": {"initial_states": "observed"}}}, tmp_path / "run")
    assert vrmse(observed.summary, "physical") > 2 * vrmse(run.summary, "physical")
    assert not list(observed.folder.glob("weights/analyses*"))


def test_what_is_measured_later_begins_from_the_same_states(run: hyco.RunResult) -> None:
    again = evaluate(run.folder, "test", registry=registry())["metrics"]
    for model in ("physical", "persistence"):
        assert again[model]["test"]["nrmse"] == run.summary["metrics"][model]["test"]["nrmse"]


def test_states_that_are_worse_than_what_was_observed_are_left_out(
    run: hyco.RunResult, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def wrong(trainer: Trainer, data: Samples, chosen: Tensor) -> Tensor:
        return -analyses(trainer, data, chosen)

    monkeypatch.setattr(grid, "analyses", wrong)
    found = run_of(spec, tmp_path / "run")
    assert not list(found.folder.glob("weights/analyses*"))
    assert found.summary["parameters"] == run.summary["parameters"]
    values = np.load(spec["data"]["path"])["u"]
    each = [((values[20] - values[k]) ** 2).mean() / (values[k] ** 2).mean() for k in range(21, 26)]
    held = found.summary["metrics"]["persistence"]["val"]["nrmse"]
    assert held == pytest.approx(np.exp(np.log(each).mean() / 2), rel=1e-5)


def test_a_hybrid_that_two_ranks_stop_and_resume_begins_from_the_same_states(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = {**spec, "synthetic": {"kind": "resnet", "width": 4, "blocks": 1}}
    both["run"] = {"budget": "3 epochs", "cycles": 2, "device": "cpu", "shards": 2}
    asked: list[None] = []

    def stop(last: int | None = None) -> str | None:
        asked.append(None)
        return "SIGTERM" if len(asked) == last else None

    run_of(both, tmp_path / "whole", stop=stop)
    last = 2 * len(asked) // 3
    asked.clear()

    def interrupted(runtime: Runtime) -> None:
        with pytest.raises(Interrupted):
            run_of(both, tmp_path / "part", runtime, stop=partial(stop, last) if runtime.rank == 0 else lambda: None)

    on_ranks(2, interrupted)
    on_ranks(2, lambda runtime: run_of(both, tmp_path / "part", runtime, resume=True))
    texts = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "part")]
    for key in ("metrics", "cooperation", "parameters"):
        assert texts[0][key] == texts[1][key]
    weights = [{p.name: p.read_bytes() for p in (tmp_path / name / "weights").iterdir()} for name in ("whole", "part")]
    assert "analyses.safetensors" in weights[0]
    assert weights[0] == weights[1]


def test_a_damaged_file_of_states_is_named(run: hyco.RunResult, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    (folder / "checksums.json").unlink()
    (folder / "weights" / "analyses.safetensors").write_bytes(b"no tensors")
    with pytest.raises(hyco.DataError, match=r"analyses\.safetensors is damaged"):
        evaluate(folder, "test", registry=registry())
