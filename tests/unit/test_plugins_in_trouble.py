"""A plugin that fails anywhere in a run is named; what the run has is safe, and goes on once the plugin is mended."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from messages import error_naming
from test_resuming import SPEC, results
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.builtin.caches.memory import Memory, MemorySamples
from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.errors import HycoError, PluginError
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.interfaces import Augmentation, Batch, GeneratedSamples, Trajectory, TrajectorySource
from hyco_engine.spec.options import options
from hyco_engine.testing.problems import decay_layout

pytestmark = pytest.mark.usefixtures("measured")

NAMED = "troubled-plugin 1.2"


class Trouble:
    """What goes wrong, and at which of its calls."""

    what: ClassVar[str] = ""
    left: ClassVar[int] = 0

    @classmethod
    def now(cls, what: str) -> bool:
        if what != cls.what:
            return False
        cls.left -= 1
        return cls.left < 0

    @classmethod
    def here(cls, what: str) -> None:
        if cls.now(what):
            raise KeyError("no such table")


class Surrogate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, state: Tensor) -> Tensor:
        mode = "model trains" if torch.is_grad_enabled() else "model predicts"
        Trouble.here(mode)
        if Trouble.now(f"{mode} a shape"):
            return state.repeat(1, 2, 1)
        found = self.weight * state
        return found * math.nan if Trouble.now(f"{mode} nan") else found


class Picky(Count):
    def augment(self, phase: Any, context: Any) -> Augmentation | None:
        Trouble.here("strategy")
        return super().augment(phase, context)


class Keeping(Memory):
    def hold(self, *given: Any) -> GeneratedSamples:
        Trouble.here("cache holds")
        samples = super().hold(*given)
        assert isinstance(samples, MemorySamples)
        samples.__class__ = KeptSamples
        return samples


class KeptSamples(MemorySamples):
    def batch(self, indices: Tensor) -> Batch:
        Trouble.here("cache gives")
        return super().batch(indices)


class Forgetful(RunningMean):
    def __call__(self, *given: Any) -> Any:
        Trouble.here("normalizer")
        return super().__call__(*given)

    def load_state_dict(self, state: Any) -> None:
        if not Trouble.now("state"):
            super().load_state_dict(state)


class Waves(TrajectorySource):
    def __init__(self) -> None:
        self.layout = decay_layout(16)
        self.dt, self.num_simulations = 0.02, 4

    def fingerprint(self) -> str:
        Trouble.here("source")
        return "waves"

    def load(self, index: int) -> Trajectory:
        Trouble.here("source loads")
        x = torch.arange(16, dtype=torch.float64) / 16
        t = torch.arange(8, dtype=torch.float64)[:, None] * 0.02
        values = 1.5 + 0.5 * torch.exp(-t) * torch.sin(2 * math.pi * (x + 0.1 * index))
        if Trouble.now("source loads a shape"):
            values = values[:, :7]
        static = torch.zeros(0, *values.shape[1:], dtype=torch.float64)
        return Trajectory(dynamic=values[:, None].clone(), static=static)


@options
class Nothing:
    """No options."""


def offer(make: Callable[[], Any], cls: type[Any] = Record, **more: Any) -> list[Any]:
    return [cls(kind="troubled", summary="a test", options=Nothing, factory=lambda options, context: make(), **more)]


class Plugin:
    @hookimpl
    def hyco_models(self) -> Any:
        return offer(Surrogate, ModelRecord, role="synthetic")

    @hookimpl
    def hyco_strategies(self) -> Any:
        return offer(Picky)

    @hookimpl
    def hyco_caches(self) -> Any:
        return offer(Keeping)

    @hookimpl
    def hyco_normalizers(self) -> Any:
        return offer(Forgetful)

    @hookimpl
    def hyco_sources(self) -> Any:
        return offer(Waves)


@pytest.fixture(autouse=True)
def _no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    Trouble.what = ""


def run(folder: Path, resume: bool = False, registry: hyco.Registry | None = None) -> Any:
    if registry is None:
        registry = hyco.Registry.discover()
        registry.register(Plugin(), distribution="troubled-plugin", version="1.2")
    spec = copy.deepcopy(SPEC)
    spec["data"] = {"kind": "troubled", "name": "waves", "split": SPEC["data"]["split"]}
    spec["physical"]["compile"] = "eager"
    spec["synthetic"] = {"kind": "troubled"}
    spec["augmentation"] = {"kind": "troubled", "alpha": 0.5, "cache": {"kind": "troubled"}}
    spec["loss"] = {"normalizer": {"kind": "troubled"}}
    for player in ("physical", "synthetic"):
        spec["training"][player]["epochs_per_cycle"] = 1
    return hyco.Engine(spec, registry=registry).run(folder, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "run")
    return results(folder / "run")


CASES = [
    # what, at which call, how the message goes on
    ("model trains", 8, "epoch 2, batch 1.*KeyError: 'no such table'"),
    ("model trains a shape", 8, "epoch 2, batch 1.*RuntimeError: stack expects each tensor to be equal size"),
    ("model trains nan", 8, "epoch 2, batch 1.*'u'.*8 of 8 samples"),
    ("model predicts", 8, "cycle 0.*synthetic.*KeyError: 'no such table'"),
    ("model predicts", 30, "test data.*KeyError: 'no such table'"),
    ("model predicts nan", 8, "5 of 5 samples"),
    ("strategy", 2, "test_plugins_in_trouble.py:[0-9]+.*KeyError: 'no such table'"),
    ("cache holds", 2, "test_plugins_in_trouble.py:[0-9]+.*KeyError: 'no such table'"),
    ("cache gives", 3, "KeyError: 'no such table'"),
    ("normalizer", 4, "__call__.*KeyError: 'no such table'"),
]


@pytest.mark.parametrize(("what", "call", "message"), CASES, ids=[f"{what} {call}" for what, call, _ in CASES])
def test_trouble_in_the_middle_of_a_run(
    what: str, call: int, message: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    Trouble.what, Trouble.left = what, call
    with pytest.raises(HycoError, match=message) as caught:
        run(folder)
    if "nan" not in what:
        assert isinstance(caught.value, PluginError)
        assert caught.value.exit_code == 3
        assert NAMED in str(caught.value)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", str(caught.value))
    assert list((folder / "checkpoints").glob("*.json"))
    Trouble.what = ""
    run(folder, resume=True)
    assert results(folder) == whole


@pytest.mark.parametrize("what", ["source", "source loads", "source loads a shape"])
def test_a_source_in_trouble_leaves_no_run_behind_that_looks_like_one(what: str, tmp_path: Path) -> None:
    Trouble.what, Trouble.left = what, 1 if what == "source loads" else 0
    with pytest.raises(HycoError) as caught:
        run(tmp_path / "run")
    if what == "source loads a shape":
        assert "7" in str(caught.value)
    else:
        assert NAMED in str(caught.value)
    assert not (tmp_path / "run" / "weights").exists()
    Trouble.what = ""
    run(tmp_path / "run", resume=True)


def test_a_state_that_does_not_come_back_is_named_and_nothing_is_lost(whole: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Trouble.what, Trouble.left = "strategy", 2
    with pytest.raises(PluginError):
        run(folder)
    kept = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    Trouble.what, Trouble.left = "state", 0
    with pytest.raises(PluginError, match=rf"{NAMED}.* state"):
        run(folder, resume=True)
    Trouble.what = ""
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == kept
    run(folder, resume=True)
    assert results(folder) == whole


def test_a_plugin_that_is_missing_on_resume_is_told_and_nothing_is_lost(whole: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Trouble.what, Trouble.left = "strategy", 2
    with pytest.raises(PluginError):
        run(folder)
    Trouble.what = ""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with error_naming(HycoError, "'troubled'"):
        run(folder, resume=True, registry=hyco.Registry.discover())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    run(folder, resume=True)
    assert results(folder) == whole
