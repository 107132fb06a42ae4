"""Built-in kinds have no privilege: republished they give the same run, and others serve in their place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from hyco_engine.cli.scaffold import KINDS, write_plugin
from hyco_engine.hooks import HOOKS, Registry
from hyco_engine.testing.specs import TINY, RunSpec

pytestmark = pytest.mark.usefixtures("measured")

pytest_plugins = ["hyco_engine.testing.fixtures"]

BUILT_IN = {point.name: point for point in entry_points(group="hyco_engine") if point.name.startswith("builtin-")}


def test_republished_under_another_name_the_built_ins_give_the_identical_run(
    run_spec: RunSpec, builtin_registry: Registry
) -> None:
    republished = Registry()
    for name, point in BUILT_IN.items():
        republished.register(point.load(), distribution="another-engine", version="9.9", name=name)
    assert {hook: republished.kinds(hook) for hook in HOOKS} == {hook: builtin_registry.kinds(hook) for hook in HOOKS}
    spec = {"trackers": {"csv": {}}, "augmentation": {"kind": "count", "alpha": 0.5, "cache": {"kind": "disk"}}}
    ours, theirs = (run_spec(spec, registry=registry) for registry in (builtin_registry, republished))
    for player in ("physical", "synthetic"):
        one, two = getattr(ours, player).state_dict(), getattr(theirs, player).state_dict()
        assert list(one) == list(two)
        assert all(torch.equal(one[name], two[name]) for name in one)
    for key in ("metrics", "parameters", "balance", "cache", "warnings"):
        assert ours.summary[key] == theirs.summary[key]
    assert (ours.folder / "metrics.csv").read_text() == (theirs.folder / "metrics.csv").read_text()


@pytest.fixture
def scaffolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`scaffolded(what)` writes a plugin from its template and imports its hook module."""

    def write(what: str) -> Any:
        write_plugin(f"third-{what}", what, tmp_path, Registry())
        monkeypatch.syspath_prepend(str(tmp_path / f"third-{what}"))
        return importlib.import_module(f"third_{what}.plugin")

    yield write
    for name in [name for name in sys.modules if name.startswith("third_")]:
        del sys.modules[name]


SPLIT = {"train": "0:4", "val": "4:5", "test": "5:6"}
SIMULATED = {**TINY["data"], "truth": {"kappa": 0.02, "k": 0.3}}
CASES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "hyco_models": (
        ("surrogate", "physics"),
        {
            "data": SIMULATED,
            "physical": {"kind": "third-physics", "compile": "eager"},
            "synthetic": {"kind": "third-surrogate"},
        },
    ),
    "hyco_strategies": (("strategy",), {"augmentation": {"kind": "third-strategy", "alpha": 0.5}}),
    "hyco_normalizers": (("normalizer",), {"loss": {"normalizer": {"kind": "third-normalizer"}}}),
    "hyco_caches": (
        ("cache",),
        {"augmentation": {"kind": "count", "alpha": 0.5, "cache": {"kind": "third-cache"}}},
    ),
    "hyco_sources": (("source",), {"data": {"kind": "third-source", "split": SPLIT}, "physical": None}),
    "hyco_trackers": (("tracker",), {"trackers": {"third-tracker": {}}}),
}


def test_every_hook_has_a_case() -> None:
    assert set(CASES) == set(HOOKS)
    assert {what for plugins, _ in CASES.values() for what in plugins} == set(KINDS)


@pytest.mark.parametrize("hook", CASES)
def test_with_the_built_ins_of_a_hook_disabled_another_plugin_serves(
    hook: str, scaffolded: Any, run_spec: RunSpec
) -> None:
    plugins, tables = CASES[hook]
    registry = Registry.discover([f"builtin-{hook.removeprefix('hyco_')}"], BUILT_IN.values())
    assert registry.kinds(hook) == ()
    for what in plugins:
        registry.register(scaffolded(what), distribution=f"third-{what}", version="1.0")
    result = run_spec(tables, registry=registry, overrides={"run.cycles": 1})
    assert result.summary["status"] == "completed"
    assert registry.kinds(hook) == tuple(sorted(f"third-{what}" for what in plugins))
