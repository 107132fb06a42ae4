"""What the documentation shows is executed, or checked against what it speaks of."""

from __future__ import annotations

import importlib
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from doc_pages import blocks, first_column, install, links, shell_lines

from hyco_engine.cli import COMMANDS, cli
from hyco_engine.hooks import HOOKS, Registry
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import spec_from_dict
from hyco_engine.spec.reference import COMMAND, builtin_registry, reference
from hyco_engine.spec.structuring import option_fields
from hyco_engine.spec.values import has_keys, is_mapping, members

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README, USING, EXTENDING = ROOT / "README.md", DOCS / "using.md", DOCS / "extending.md"
TESTING = DOCS / "testing-plugins.md"
PAGES = (README, USING, EXTENDING, TESTING)

# What the README takes as given.
TINY = """
[run]
name = "tiny"
cycles = 3
[data]
kind = "simulate"
truth = { nu = 0.02 }
num_simulations = 3
num_frames = 6
resolution = { x = 16 }
dt = 0.02
split = { train = "0:1", val = "1:2", test = "2:3" }
[physical]
kind = "burgers"
[synthetic]
kind = "resnet"
width = 4
blocks = 1
[training.synthetic]
epochs_per_cycle = 1
[training.physical]
epochs_per_cycle = 1
"""
GIVEN = """
from math import inf
import torch
from phi.physics import diffuse
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.physics import FlowPhysics, ParameterDeclaration
state = torch.zeros(1, 1, 16)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules and distributions are found while the test lasts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page_run_in_order(page: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    if page is README:
        (place / "spec.toml").write_text(TINY)
        exec(GIVEN, names)  # noqa: S102 - the project's own pages, here and below
    found = blocks(page)
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.file is not None:
            write(place, block.file, block.text)
        if block.file == "pyproject.toml":
            install(block.text, place)
        elif block.file is not None and block.file.startswith("test_"):
            run_tests(importlib.import_module(block.file.removesuffix(".py")))
        elif block.language == "toml":
            structured(block.text, f"{page.name}:{block.line}")
        elif block.language == "python" and block.file is None:
            capsys.readouterr()
            exec(block.compiled(page), names)  # noqa: S102
            printed = capsys.readouterr().out
            if following is not None and following.language == "text":
                assert printed == following.text, f"{page.name}:{following.line}"


def run_tests(module: Any) -> None:
    """The methods of the module's test classes, none of which needs a fixture."""
    for name, cls in vars(module).items():
        if name.startswith("Test"):
            for test in (test for test in dir(cls) if test.startswith("test_")):
                getattr(cls(), test)()


def write(place: Path, name: str, text: str) -> None:
    """A file of the page; folders are packages."""
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if path.parent != place:
        (path.parent / "__init__.py").touch()
    importlib.invalidate_caches()


def structured(text: str, where: str) -> None:
    """A spec, or a part of one whose required rest does not matter."""
    tables = tomllib.loads(text)
    data = tables.setdefault("data", {})
    if data.setdefault("kind", "arrays") == "arrays":
        data.setdefault("path", "data.npz")
        if "time" not in data:
            data.setdefault("dt", 1.0)
    if not tables.keys() & {"physical", "synthetic"}:
        tables["synthetic"] = {"kind": "resnet"}
    if "physical" in tables:
        tables["physical"].setdefault("kind", "burgers")
    loaded = spec_from_dict(tables, Registry.discover())
    assert loaded.notes == (), where


@pytest.mark.parametrize("page", [README, USING, EXTENDING, DOCS / "results.md"], ids=lambda page: page.name)
def test_shell_lines_name_commands_options_and_files_that_exist(page: Path) -> None:
    lines = list(shell_lines(page))
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        if Path(program).name == "hyco-engine":
            parse(cli, arguments)
        else:
            assert program.rpartition("/")[2] in {"python3", "pip", "tox", "git", "cd", "."}, line
        for argument in arguments:
            if argument.startswith("docs/") or argument == "constraints.txt":
                assert (ROOT / argument).is_file(), line


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raises click.UsageError where click would; nothing is run."""
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        inner = command.get_command(click.Context(command), name)
        assert inner is not None, name
        command = inner
    command.make_context(command.name, list(arguments))


def test_the_parser_of_shell_lines_would_notice() -> None:
    parse(cli, ["run", "spec.toml", "--set", "a=1"])
    with pytest.raises(click.UsageError):
        parse(cli, ["run", "spec.toml", "--sett", "a=1"])
    with pytest.raises(AssertionError):
        parse(cli, ["plugins", "lsit"])


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    assert missing == []


# --- the generated page -------------------------------------------------------------------------------------------


def test_the_spec_reference_is_up_to_date() -> None:
    fresh = reference(builtin_registry())
    if fresh != (DOCS / "spec.md").read_text(encoding="utf-8"):
        pytest.fail(f"docs/spec.md is not what the option classes say; regenerate it: {COMMAND}", pytrace=False)


def test_every_key_has_help() -> None:
    registry = builtin_registry()
    classes: list[type] = [Spec]
    for hook in HOOKS:
        classes += [registry.get(hook, kind).options for kind in registry.kinds(hook)]
    seen: set[type] = set()
    lacking = []
    while classes:
        cls = classes.pop()
        if cls in seen:
            continue
        seen.add(cls)
        for field in option_fields(cls):
            if not field.metadata.get("help", "").strip():
                lacking.append(f"{cls.__name__}.{field.name}")
            parts = [part for tp in members(field.type) for part in (tp, *(getattr(tp, "__args__", ())))]
            classes += [part for tp in parts for part in members(tp) if isinstance(part, type) and has_keys(part)]
            assert not is_mapping(field.type) or parts
    assert lacking == []
    assert len(seen) > 20


# --- what pages list ----------------------------------------------------------------------------------------------


def test_every_hook_is_documented_with_an_example() -> None:
    assert sorted(first_column(EXTENDING, "## The six hooks")) == sorted(HOOKS)
    code = "\n".join(block.text for block in blocks(EXTENDING) if block.language == "python")
    for hook in HOOKS:
        assert f"@hookimpl\ndef {hook}():" in code


def test_every_command_is_documented() -> None:
    assert {name.split()[0] for name in first_column(USING, "## Commands")} == set(COMMANDS)


@attrs.define
class Finished:
    """A run, for the pages that say what it leaves."""

    folder: Path
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    import hyco_engine as hyco
    from hyco_engine.runs.metrics import read_metrics, read_summary

    folder = tmp_path_factory.mktemp("finished")
    paths = {"cache": str(folder / "cache"), "runs": str(folder / "runs")}
    result = hyco.run(tomllib.loads(TINY) | {"paths": paths}, overrides={"run.cycles": 1})
    return Finished(result.folder, read_summary(result.folder), read_metrics(result.folder))


def test_the_files_of_a_run_are_documented(finished: Finished) -> None:
    told = {name.rstrip("/").split("/")[0] for name in first_column(USING, "## The run folder")}
    made = {path.name for path in finished.folder.iterdir()}
    assert made <= told
    assert told - made <= {"parameters", "run.lock"}


def test_the_keys_of_the_summary_are_documented(finished: Finished) -> None:
    assert set(first_column(USING, "### summary.json")) == set(finished.summary)


def test_the_keys_of_metrics_are_documented(finished: Finished) -> None:
    told = set(first_column(USING, "### metrics.jsonl"))
    general = {"u": "<field>", "nu": "<name>"}
    for record in finished.metrics:
        for key in record:
            head, _, last = key.rpartition("/")
            assert key in told or f"{head}/{general.get(last)}" in told, key
