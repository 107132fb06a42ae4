"""Rules of the house that a reader could not check by eye."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import doc_pages
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hyco_engine"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PLUGINS = sorted(ROOT.glob("plugins/*/hyco_engine_*/**/*.py"))
FORBIDDEN = re.compile(
    r"\bpickle\.loads?\b|(?<!safetensors\.)\btorch\.load\(|allow_pickle\s*=\s*True|\bshell\s*=\s*True|(?<![.\w])(?:eval|exec)\("
)
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SCENES = PACKAGE / "data" / "scene_pickle.py"
"""The one reader of pickles, which looks up no name that it finds."""


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_there_is_a_package_to_check() -> None:
    assert len(MODULES) > 40
    assert len(PLUGINS) > 10


@pytest.mark.parametrize("path", [*MODULES, *PLUGINS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_read_can_execute(path: Path) -> None:
    assert FORBIDDEN.findall(path.read_text()) == []
    assert bool(imported(path) & UNPICKLERS) == (path == SCENES)


def test_the_gate_would_notice() -> None:
    for line in ("pickle.load(f)", "torch.load(p)", "np.load(p, allow_pickle = True)", "eval(x)", "run(x, shell=True)"):
        assert FORBIDDEN.search(line)
    for line in ("model.eval()", "json.load(f)", "safetensors.torch.load(b)", "np.load(p, allow_pickle=False)"):
        assert not FORBIDDEN.search(line)


@pytest.mark.parametrize(
    "path",
    # the façade lies above all rooms, and no room imports it
    [p for p in MODULES if "builtin" not in p.relative_to(PACKAGE).parts and p != PACKAGE / "parts.py"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_core_never_imports_builtin(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith("hyco_engine.builtin")}


STABLE = (ROOT / "docs" / "stability.md").read_text().split("## What plugins may rely on")[1].split("\n## ")[0]
ROWS = [re.findall(r"`([\w.]+)`", line) for line in STABLE.splitlines() if line.startswith("| `")]
TABLE = {module: set(names) for module, *names in ROWS}
LISTED = set(re.findall(r"`(hyco_engine[\w.]*)`", STABLE)) - set(TABLE)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_use_only_what_stays_as_it_is(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hyco_engine":
            names = {alias.name for alias in node.names}
            assert node.module in LISTED or names <= TABLE.get(node.module, set()), (node.module, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_use_only_what_stays_as_it_is(page: Path) -> None:
    for block in doc_pages.blocks(page):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hyco_engine":
                assert node.module in LISTED or node.module.startswith("hyco_engine.testing."), (
                    node.module,
                    block.line,
                )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_phiflow_appears_in_one_room_and_in_physics_authors_files(path: Path) -> None:
    allowed = path.parent == PACKAGE / "physics" or path.parent == PACKAGE / "builtin" / "models"
    if not allowed:
        assert not {name for name in imported(path) if name.split(".")[0] in ("phi", "phiml")}
