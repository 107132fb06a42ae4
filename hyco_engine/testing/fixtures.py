"""Fixtures for tests of plugins. A test module, or the outermost conftest.py, loads them:

pytest_plugins = ["hyco_engine.testing.fixtures"]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from hyco_engine.hooks.loading import ENGINE, normalise
from hyco_engine.hooks.registry import Registry
from hyco_engine.testing.distributions import Site
from hyco_engine.testing.specs import RunSpec, merged
from hyco_engine.variables import DISABLE_VARIABLE

__all__ = ["builtin_registry", "run_spec", "site"]


@pytest.fixture
def builtin_registry() -> Registry:
    """Return a registry for this test with the engine's kinds and no other plugin; add yours with `register`."""
    points = entry_points(group="hyco_engine")
    return Registry.discover(
        entry_points=[point for point in points if point.dist is not None and normalise(point.dist.name) == ENGINE]
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Yield an empty `Site` for fake distributions; modules imported from it are forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv(DISABLE_VARIABLE, raising=False)
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def run_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """Return a function: `run_spec({"augmentation": {"kind": "mine"}})` runs a tiny spec and returns its `RunResult`.

    Tables without a `kind` are merged into those of `hyco_engine.testing.specs.TINY`; tables with a `kind` replace
    them, and None removes one. A path, or TOML text, runs as it is. The run works in `tmp_path`, which becomes the
    working directory. `registry=None` means the installed plugins.
    """
    import hyco_engine as hyco

    monkeypatch.chdir(tmp_path)

    def run(spec: Mapping[str, Any] | str | Path, *, registry: Registry | None = None, **more: Any) -> Any:
        given: Any = spec
        if isinstance(spec, Mapping):
            given = merged(spec)
        elif isinstance(spec, str) and "\n" in spec:
            given = tmp_path / "spec.toml"
            given.write_text(spec, encoding="utf-8")
        return hyco.run(given, registry=registry, **more)

    return run
