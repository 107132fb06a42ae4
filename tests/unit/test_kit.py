"""The fixtures for authors' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hyco_engine.errors import HycoError
from hyco_engine.hooks import HOOKS, Record, Registry
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Strategy
from hyco_engine.spec.options import options
from hyco_engine.testing.contexts import LAYOUTS, tiny_context, tiny_layout
from hyco_engine.testing.distributions import Site
from hyco_engine.testing.specs import TINY, RunSpec, merged

pytestmark = pytest.mark.usefixtures("measured")

pytest_plugins = ["hyco_engine.testing.fixtures"]

HOOK_MODULE = """
from hyco_engine import Record, hookimpl, options

@options
class Nothing:
    \"\"\"No options.\"\"\"

@hookimpl
def hyco_caches():
    return [Record(kind="shelf", summary="a shelf", options=Nothing, factory=lambda options, context: None)]
"""


@options
class Nothing:
    """No options."""


class Never(Strategy):
    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        return None


def never() -> Record:
    return Record(kind="never", summary="no samples", options=Nothing, factory=lambda options, context: Never())


def test_a_distribution_is_installed_without_pip_and_forgotten(site: Site) -> None:
    site.install("shelf-plugin", "2.1", modules={"shelf.plugin": HOOK_MODULE}, entry_points={"shelf": "shelf.plugin"})
    site.install("late", modules={"late": HOOK_MODULE}, entry_points={"late": "late"}, requires=["hyco-engine>=99"])
    found = {info.name: info for info in Registry.discover().plugins}
    assert str(found["shelf"]) == "plugin 'shelf' (shelf-plugin 2.1)"
    assert found["shelf"].kinds == {"hyco_caches": ("shelf",)}
    assert found["late"].reason.startswith("it requires hyco-engine >=99, but ")
    assert "shelf.plugin" in sys.modules


def test_what_another_test_installed_is_gone() -> None:
    assert "shelf" not in {info.name for info in Registry.discover().plugins}
    assert "shelf.plugin" not in sys.modules


def test_the_registry_holds_the_engines_kinds_alone(site: Site, builtin_registry: Registry) -> None:
    site.install("shelf-plugin", modules={"shelf": HOOK_MODULE}, entry_points={"shelf": "shelf"})
    assert {info.distribution for info in builtin_registry.plugins} == {"hyco-engine"}
    assert all(builtin_registry.kinds(hook) for hook in HOOKS)
    builtin_registry.register(never(), hook="hyco_strategies", distribution="mine", version="1")
    assert "never" not in Registry.discover().kinds("hyco_strategies")


def test_a_tiny_spec_runs_with_a_part_of_ones_own(
    run_spec: RunSpec, builtin_registry: Registry, tmp_path: Path
) -> None:
    builtin_registry.register(never(), hook="hyco_strategies", distribution="mine", version="1")
    changes = {"augmentation": {"kind": "never"}, "run": {"cycles": 1}}
    result = run_spec(changes, registry=builtin_registry, overrides={"training.synthetic.epochs_per_cycle": 1})
    assert result.summary["status"] == "completed"
    assert result.summary["cycles"] == 1
    assert [entry["n_generated"] for entry in result.summary["balance"]] == [0, 0]
    assert result.folder.resolve().is_relative_to(tmp_path)


def test_a_spec_as_text_runs_as_it_is(run_spec: RunSpec) -> None:
    text = '[run]\ncycles = 1\n[data]\nkind = "arrays"\npath = "none.npz"\ndt = 1.0\n[synthetic]\nkind = "resnet"\n'
    with pytest.raises(HycoError, match=r"spec\.toml:5: data\.path: "):
        run_spec(text)


def test_tables_with_a_kind_replace_others_are_merged_and_none_takes_out() -> None:
    made = merged({"synthetic": {"kind": "unet"}, "run": {"cycles": 5}, "physical": None, "loss": {"a": 1}})
    assert made["synthetic"] == {"kind": "unet"}
    assert made["run"] == {**TINY["run"], "cycles": 5}
    assert made["loss"] == {"a": 1}
    assert "physical" not in made
    assert TINY["run"]["cycles"] == 2


def test_tiny_layouts_are_of_all_kinds() -> None:
    assert {layout.n_axes for layout in LAYOUTS} == {1, 2, 3}
    assert {len(layout.static) for layout in LAYOUTS} == {0, 1}
    staggered = tiny_layout(6, 5, boundary=0.0, vector=True, sampling="staggered")
    assert staggered.has_filler
    context = tiny_context(staggered, seed=3, dt=0.5)
    assert (context.seed, context.dt, context.layout) == (3, 0.5, staggered)
    assert context.statistics is not None
    assert context.statistics.std.shape == (2,)
    assert tiny_context().layout is None
