"""Specs with mistakes in them, for tests: valid ones of the examples, in which something is changed."""

from __future__ import annotations

import copy
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import tomli_w
from click.testing import CliRunner
from hypothesis import strategies as st

from hyco_engine.cli import cli

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.toml"))
TEXTS = [path.read_text() for path in EXAMPLES]

numbers = st.sampled_from([0, 1, -1, 7, 2**31, 2**63 - 1, 0.0, -0.5, 1e-300, 1e308, float("nan"), float("inf")])
texts = st.sampled_from(
    [
        "",
        "x",
        "../x",
        "/",
        "a\nb",
        "\u202e",
        "<b>",
        "auto",
        "0:3",
        "9:1",
        "burgers",
        "unet",
        "count",
        "nan",
        "u",
        "é" * 300,
    ]
) | st.text(max_size=8)
scalars = numbers | texts | st.booleans() | st.just(date(2026, 1, 1))
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "x", "nu", "init"]), inner, max_size=2)
    ),
    max_leaves=4,
)
names = st.sampled_from(
    ["x", "kind", "epochs", "epoch_per_cycle", "seed", "cycle", "../a", "a.b", "", "split", "compile"]
)


def places(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within tables."""
    found = [path] if path else []
    if isinstance(table, dict):
        for key, value in table.items():
            found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Return the text of a spec with one to three mistakes, or with changes that are none."""
    text = draw(st.sampled_from(TEXTS))
    if draw(st.integers(0, 4)) == 0:  # in the text
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        return (
            text[:start]
            + draw(st.text(max_size=6) | st.sampled_from(["[", "]]", '"', "=", "\n", "#", "'''"]))
            + text[stop:]
        )
    spec = copy.deepcopy(tomllib.loads(text))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(places(spec) or [("run",)]))
        table = spec
        for key in where[:-1]:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if not isinstance(table, dict) or where[-1] not in table:
            continue
        what = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if what == "replace":
            table[where[-1]] = draw(values)
        elif what == "remove":
            del table[where[-1]]
        elif what == "rename":
            table[draw(names)] = table.pop(where[-1])
        else:
            table[draw(names)] = draw(values)
    return tomli_w.dumps(spec)


def judge(text: str, folder: Path) -> None:
    """Check that `check` either succeeds or reports the spec's mistakes, each with a place, and makes no run."""
    path = folder / "spec.toml"
    path.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(cli, ["check", str(path)])
    assert result.exit_code in (0, 2), (result.exit_code, result.output)
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        told = result.stderr.removeprefix("error: ").splitlines()
        problems = (
            [line for line in told if line.startswith("  ") and not line.startswith("    ")] if len(told) > 1 else told
        )
        assert all("spec.toml" in line or "." in line.split(":")[0] for line in (problems or told)[:1]), result.stderr
    # what must be loaded to be counted is kept for the run
    assert {entry.name for entry in folder.iterdir()} <= {"spec.toml", "cache"}
