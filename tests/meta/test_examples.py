"""Every example spec is right for the installed plugins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hyco_engine.hooks.registry import Registry
from hyco_engine.spec.loading import dump_spec, load_spec, spec_from_dict

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.toml"))


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"quickstart.toml", "count.toml", "burgers_shock.toml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_loads_and_its_resolved_form_is_the_same_spec(path: Path) -> None:
    registry = Registry.discover()
    loaded = load_spec(path, registry)
    assert loaded.notes == ()
    assert spec_from_dict(tomllib.loads(dump_spec(loaded.spec)), registry).spec == loaded.spec
