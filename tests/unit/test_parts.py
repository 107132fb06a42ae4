"""The façades: every name is there, typed as it is found, and importing them loads nothing heavy."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import hyco_engine
import hyco_engine.parts
import hyco_engine.physics

FACADES = [hyco_engine, hyco_engine.parts, hyco_engine.physics]
NAMES = [(facade, name) for facade in FACADES for name in facade.__all__]


def described(value: object) -> str:
    return value.__name__ if isinstance(value, ModuleType) else str(value)


@pytest.mark.parametrize(("facade", "name"), NAMES, ids=described)
def test_each_name_is_found_where_type_checkers_are_told(facade: ModuleType, name: str) -> None:
    assert facade.__file__ is not None
    tree = ast.parse(Path(facade.__file__).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hyco_engine")
        for alias in node.names
    }
    assert getattr(facade, name) is getattr(import_module(typed[name]), name)


@pytest.mark.parametrize("facade", FACADES, ids=described)
def test_a_name_that_is_not_there_is_an_attribute_error(facade: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"{facade.__name__}.*nothing"):
        _ = facade.nothing
