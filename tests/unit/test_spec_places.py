"""Every key of a TOML text is found on its line, whatever the text looks like."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.errors import DataError, Problem
from hyco_engine.spec.places import Places, key_text, locate_keys

TRICKY = '''\
# [not.a] = "table"
a = 1 # b = 2

"quoted = key" = """
[fake]
c = 3 """"
  [ table . 'sub.table' ] # comment
d = {e = 1, "f" = {g = [ { h = 1 }, 2 ]}, i = "x"}
j.k = [ # [no]
  "l = 1", [
  {m = 2}],
] # n = 3
o."p\\"q" = \'\'\'
[fake2]
\'r = 1\'\'\'\' # s = 1
t = "\\"#[x]"
[[array]]
u = {}
v = """\\
   \\"""w = 1"""
[table.x]
y = 2020-01-01T00:00:00Z
z = 1.5
'''


def test_tricky_text() -> None:
    tomllib.loads(TRICKY)
    sub = ("table", "sub.table")
    assert locate_keys(TRICKY) == {
        ("a",): 2,
        ("quoted = key",): 4,
        ("table",): 7,
        sub: 7,
        (*sub, "d"): 8,
        (*sub, "d", "e"): 8,
        (*sub, "d", "f"): 8,
        (*sub, "d", "f", "g"): 8,
        (*sub, "d", "i"): 8,
        (*sub, "j"): 9,
        (*sub, "j", "k"): 9,
        (*sub, "o"): 13,
        (*sub, "o", 'p"q'): 13,
        (*sub, "t"): 16,
        ("array",): 17,
        ("array", "u"): 18,
        ("array", "v"): 19,
        ("table", "x"): 21,
        ("table", "x", "y"): 22,
        ("table", "x", "z"): 23,
    }


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(alphabet="ab\"'\\#[]{}=.,\n\t ", max_size=12),
    TEXT,
    st.dates(),
)
ARRAYS = st.lists(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=4)
TABLES = st.recursive(
    st.dictionaries(TEXT, LEAVES | ARRAYS, max_size=4),
    lambda inner: st.dictionaries(TEXT, LEAVES | ARRAYS | inner, max_size=4),
    max_leaves=12,
)


def paths(table: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, value in table.items():
        found |= {(*path, name)} | (paths(value, (*path, name)) if isinstance(value, dict) else set())
    return found


@given(TABLES, st.booleans())
def test_written_by_tomli_w(table: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(table, multiline_strings=multiline)
    assert set(locate_keys(text)) == paths(tomllib.loads(text))


KEYS = st.text(alphabet="abc-1", min_size=1, max_size=3) | st.sampled_from(["a.b", "x = 1", "[t]", "#", ""])
VALUES = st.sampled_from(
    [
        "1",
        "inf",
        "'''\n[no]\nx = 1\n'''",
        '"""\na = "\\"""\n#"""',
        "[\n  1, # ]\n {a = 1},\n]",
        '"#"',
        "'['",
        "1979-05-27",
    ]
)
NOISE = st.sampled_from(["", "\n", "# [comment] a = 1\n", "   \n\t\n"])


def _written(key: str) -> str:
    return key if key.strip("abc-1") == "" and key else f'"{key}"'


@st.composite
def by_hand(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """A text in many styles, and the line on which each key was written."""
    text = draw(NOISE)
    lines: dict[tuple[str, ...], int] = {}
    for table in [None, *draw(st.lists(KEYS, unique=True, max_size=4))]:
        if table is not None:
            lines[table,] = text.count("\n") + 1
            text += f"{draw(st.sampled_from(['', '  ']))}[ {_written(table)} ]{draw(st.sampled_from(['', ' # [c]']))}\n"
        prefix = () if table is None else (table,)
        for name in draw(st.lists(KEYS, unique=True, max_size=4)):
            # a name of its own for keys of the root, which must not meet a table's
            path = (*prefix, name) if table is not None else (f"root {name}",)
            here = text.count("\n") + 1
            lines[path] = here
            written = _written(path[-1])
            match draw(st.sampled_from(["plain", "dotted", "inline"])):
                case "plain":
                    text += f"{written} = {draw(VALUES)}"
                case "dotted":
                    lines[(*path, "sub")] = here
                    text += f"{written} . sub={draw(VALUES)}"
                case "inline":
                    first = draw(VALUES)
                    lines[(*path, "one")] = here
                    lines[(*path, "two")] = here + first.count("\n")
                    lines[(*path, "two", "three")] = here + first.count("\n")
                    text += f"{written} = {{one = {first}, two = {{ three = {draw(VALUES)} }} }}"
            text += draw(st.sampled_from(["\n", "  # x = [\n", "\r\n"])) + draw(NOISE)
    return text, lines


@given(by_hand())
def test_written_by_hand(written: tuple[str, dict[tuple[str, ...], int]]) -> None:
    text, lines = written
    tomllib.loads(text)
    assert locate_keys(text) == lines


def test_key_text() -> None:
    assert key_text(["a", "b c", "d", 0, 'e"']) == 'a."b c".d[0]."e\\""'


@pytest.mark.parametrize(
    ("key", "file", "line"),
    [
        ("data.path", "s.toml", 7),
        ("data.path[3]", "s.toml", 7),
        ("data.split.val", "s.toml", 6),
        ('data."a.b".c', "s.toml", 6),
        ("nothing", "s.toml", None),
        ("run.cycles", "--set", None),
        ("run.cyclesx", "s.toml", None),
        ("physical.kind", "--set", None),
    ],
)
def test_located_at_the_nearest_key(key: str, file: str, line: int | None) -> None:
    places = Places(
        file=Path("s.toml"),
        lines={"data": 6, "data.path": 7},
        overridden=("run.cycles", "physical"),
    )
    problem = places.located(Problem(message="m", key=key))
    assert (str(problem.file), problem.line) == (file, line)


def test_locate_fills_only_what_is_unknown() -> None:
    places = Places(file=Path("s.toml"), lines={"data": 6})
    error = DataError(
        [Problem(message="empty", key="data.split"), Problem(message="odd"), Problem(message="x", key="a")]
    )
    assert places.locate(error) is error
    assert str(error) == "s.toml:6: data.split: empty\nodd\ns.toml: a: x"
