"""Every example spec is right for the installed plugins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hyco_engine.hooks.registry import Registry
from hyco_engine.spec.loading import dump_spec, load_spec, spec_from_dict

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.toml"))


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {"quickstart.toml", "count.toml", "burgers_shock.toml"}


def test_the_gallery_shows_every_example() -> None:
    page = (DOCS / "gallery.md").read_text()
    # the documents' own case is there for who knows them
    shown = [path for path in EXAMPLES if path.stem != "count"] + sorted((DOCS / "examples").glob("embedding.py"))
    assert [path.name for path in shown if f"(examples/{path.name})" not in page] == []
    pictures = {path.stem: path.stat().st_size for path in (DOCS / "images").glob("*.png")}
    assert set(pictures) == {path.stem for path in shown}
    assert max(pictures.values()) <= 150_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_loads_and_its_resolved_form_is_the_same_spec(path: Path) -> None:
    registry = Registry.discover()
    loaded = load_spec(path, registry)
    assert loaded.notes == ()
    assert spec_from_dict(tomllib.loads(dump_spec(loaded.spec)), registry).spec == loaded.spec
