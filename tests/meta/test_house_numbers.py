"""The numbers of the house keep to their goals, and the counts notice what they are to notice."""

from __future__ import annotations

import ast
import json

import house_numbers
import pytest

GOALS = {
    "names_in_a_cycle": 35,
    "package_cycles": 0,
    "foreign_private_accesses": 0,
    "isinstance_outside_tasks": 10,
    "arms_outside": 0,
}


@pytest.mark.parametrize("name", GOALS)
def test_goals_that_were_reached_are_kept(name: str) -> None:
    found = house_numbers.findings()[name]
    assert len(found) <= GOALS[name], "\n".join(found)


def test_the_script_prints_all_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    house_numbers.main(["--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == house_numbers.numbers()
    assert set(printed) == {
        "names_in_a_cycle",
        "package_cycles",
        "foreign_private_accesses",
        "isinstance_outside_tasks",
        "arms_outside",
        "source_lines",
    }


def test_a_cycle_of_packages_is_named_with_its_rarest_import() -> None:
    imports = {
        ("data", "errors"): ["hyco_engine.data.a:1"],
        ("runs", "data"): ["hyco_engine.runs.a:1", "hyco_engine.runs.a:2"],
        ("data", "report"): ["hyco_engine.data.b:7"],
        ("report", "runs"): ["hyco_engine.report.a:1", "hyco_engine.report.a:9"],
    }
    assert house_numbers.package_cycles(imports) == [
        "data -> report -> runs -> data: data imports report in hyco_engine.data.b:7"
    ]
    del imports["data", "report"]
    assert house_numbers.package_cycles(imports) == []


def test_every_import_counts_wherever_it_stands() -> None:
    found = house_numbers.edges()
    assert ("cli", "comparing") in found, "imports within functions are overlooked"
    assert ("hyco_engine", "engine") in found, "imports for type checkers are overlooked"
    assert ("interfaces", "physics") not in found


OWNER = "class A:\n    def __init__(self):\n        self._x = 1\n\ndef _f():\n    ...\n"


@pytest.mark.parametrize(
    ("code", "foreign"),
    [
        ("a._x = 2", True),
        ("def f(a):\n    return a.b._x", True),
        ("from hyco_engine.owner import _f", True),
        ("import hyco_engine.owner as owner\nowner._f()", True),
        ("class B(A):\n    def f(self):\n        return self._x", False),
        ("class B:\n    _x = 3\n    def same(self, other):\n        return self._x == other._x", False),
        ("def f(a):\n    return a.__class__, a.x", False),
        ("import torch\ntorch._C._somewhere()", False),
    ],
)
def test_private_names_of_another_module_are_noticed(code: str, foreign: bool) -> None:
    trees = {"owner": ast.parse(OWNER), "user": ast.parse(code)}
    assert bool(house_numbers.foreign_privates(trees)) == foreign
