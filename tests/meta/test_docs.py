"""The code in the documentation runs, and its tables match the code that they describe."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import click
import phiml.backend as phi_backend
import pytest
from doc_pages import blocks, first_column, install, links, shell_lines

from hyco_engine import interfaces
from hyco_engine.cli import COMMANDS, cli
from hyco_engine.cli.reference import COMMAND as CLI_COMMAND
from hyco_engine.cli.reference import reference as cli_reference
from hyco_engine.hooks import HOOKS, Registry, hookspecs
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import spec_from_dict
from hyco_engine.spec.reference import COMMAND, builtin_registry, reference
from hyco_engine.spec.structuring import option_fields
from hyco_engine.spec.values import has_keys, is_mapping, members

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README, COMMANDS_PAGE, RUN_FOLDER = ROOT / "README.md", DOCS / "commands.md", DOCS / "run-folder.md"
EXTENDING = DOCS / "extending.md"
WRITTEN = [README, *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in WRITTEN if any(block.language in ("python", "toml") for block in blocks(page))]
HOOK_PAGES = {hook: DOCS / "hooks" / f"{hook.removeprefix('hyco_')}.md" for hook in HOOKS}

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
    """Give a working directory whose modules and distributions can be imported during the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    # `from phi.torch.flow import ...` sets it for the whole process
    backend = phi_backend.default_backend()
    yield tmp_path
    phi_backend.set_global_default_backend(backend)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def titled(page: Path) -> str:
    return str(page.relative_to(ROOT))


# PhiFlow's own, of scripts that are written as its users write them
@pytest.mark.filterwarnings("ignore:Use Tensor.dim.size:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=titled)
def test_blocks_of_a_page_run_in_order(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    if page is README:
        (place / "spec.toml").write_text(TINY)
        exec(GIVEN, names)  # noqa: S102 - the project's own pages, here and below
    found = blocks(page)
    for block, following in zip(found, [*found[1:], None], strict=True):
        where = f"{page.name}:{block.line}"
        if block.file is not None:
            write(place, block.file, block.text)
        if block.file == "pyproject.toml":
            install(block.text, place)
        elif block.language == "toml":
            structured(block.text, where)
        elif block.language == "python" and block.file is None:
            capsys.readouterr()
            exec(block.compiled(page), names)  # noqa: S102
            printed = capsys.readouterr().out
            if following is not None and following.language == "text":
                assert printed == following.text, f"{page.name}:{following.line}"
        elif block.language == "python" and Path(block.file or "").name.startswith("test_"):
            assert pytest.main(["-q", "-p", "no:cacheprovider", "-c", "pytest.ini", str(block.file)]) == 0, where
    written = [Path(b.file) for b in found if b.language == "python" and b.file is not None]
    modules = [path.with_suffix("").as_posix().replace("/", ".") for path in written if path.stem[:5] != "test_"]
    assert [name for name in modules if name not in sys.modules] == [], "shown and not run"


def write(place: Path, name: str, text: str) -> None:
    """Write a file of the page; its folders become packages."""
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    if path.parent != place and path.parent.name != "tests":
        (path.parent / "__init__.py").touch()
    (place / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    importlib.invalidate_caches()


def structured(text: str, where: str) -> None:
    """Structure a spec, or a part of one, without its other required keys."""
    tables = tomllib.loads(text)
    data = tables.setdefault("data", {})
    if data.setdefault("kind", "arrays") == "arrays":
        data.setdefault("path", "data.npz")
        if not data.keys() & {"time", "steady"}:
            data.setdefault("dt", 1.0)
    if not tables.keys() & {"physical", "synthetic"}:
        tables["synthetic"] = {"kind": "resnet"}
    if "physical" in tables:
        tables["physical"].setdefault("kind", "burgers")
    loaded = spec_from_dict(tables, Registry.discover())
    assert loaded.notes == (), where


@pytest.mark.parametrize("page", [page for page in WRITTEN if any(shell_lines(page))], ids=titled)
def test_shell_lines_name_commands_options_and_files_that_exist(page: Path) -> None:
    lines = list(shell_lines(page))
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        if Path(program).name == "hyco-engine":
            parse(cli, arguments)
        else:
            assert program.rpartition("/")[2] in {"python", "python3", "pip", "tox", "git", "cd", "."}, line
        for argument in arguments:
            if argument.startswith("docs/") or argument == "constraints.txt":
                assert (ROOT / argument).is_file(), line


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parse a command line without running it. Raise click.UsageError where click would."""
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


@pytest.mark.parametrize("page", WRITTEN, ids=titled)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    assert missing == []


# --- generated pages ----------------------------------------------------------------------------------------------


def test_the_spec_reference_is_up_to_date() -> None:
    fresh = reference(builtin_registry())
    if fresh != (DOCS / "spec.md").read_text(encoding="utf-8"):
        pytest.fail(f"docs/spec.md is not what the option classes say; regenerate it: {COMMAND}", pytrace=False)


def test_the_command_reference_is_up_to_date() -> None:
    if cli_reference() != (DOCS / "cli.md").read_text(encoding="utf-8"):
        pytest.fail(f"docs/cli.md is not what the commands say; regenerate it: {CLI_COMMAND}", pytrace=False)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the program that makes the gallery of models."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("make_pictures")


def test_the_gallery_of_models_is_up_to_date(gallery: Any) -> None:
    if gallery.page(builtin_registry()) != gallery.PAGE.read_text(encoding="utf-8"):
        message = f"docs/models.md is not what the models say; regenerate it: {gallery.COMMAND} --text"
        pytest.fail(message, pytrace=False)


def test_every_model_has_a_small_picture(gallery: Any) -> None:
    kinds = builtin_registry().kinds("hyco_models")
    assert sorted([*gallery.PHYSICAL, *gallery.SURROGATES]) == sorted(kinds)
    sizes = {path.stem: path.stat().st_size for path in gallery.IMAGES.iterdir()}
    assert sorted(sizes) == sorted(kinds)
    assert max(sizes.values()) < gallery.MAX_BYTES == 150_000


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


def unquoted(signature: str) -> str:
    """Annotations are text, in quotes of either sort."""
    return re.sub("['\"]", "", signature)


def test_every_hook_has_its_page() -> None:
    assert sorted(first_column(EXTENDING, "## The six hooks")) == sorted(HOOKS)
    assert sorted(HOOK_PAGES.values()) == sorted((DOCS / "hooks").glob("*.md"))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_page_of_a_hook_shows_its_signature_and_an_implementation(hook: str) -> None:
    spec = getattr(hookspecs, hook)
    code = [block.text for block in blocks(HOOK_PAGES[hook])]
    assert unquoted(f"def {hook}{inspect.signature(spec)}\n") in code
    assert any(f"@hookimpl\ndef {hook}():" in text for text in code)
    assert any(text.startswith("# pyproject.toml\n") for text in code)


@pytest.mark.parametrize(
    ("hook", "contract"),
    [
        ("hyco_strategies", interfaces.Strategy),
        ("hyco_normalizers", interfaces.LossNormalizer),
        ("hyco_caches", interfaces.CacheBackend),
        ("hyco_caches", interfaces.GeneratedSamples),
        ("hyco_sources", interfaces.TrajectorySource),
        ("hyco_sources", interfaces.SampleSource),
        ("hyco_trackers", interfaces.Tracker),
    ],
)
def test_the_page_of_a_hook_shows_the_contracts_methods(hook: str, contract: type) -> None:
    shown = next(b.text for b in blocks(HOOK_PAGES[hook]) if re.search(rf"^class {contract.__name__}\b", b.text, re.M))
    shown = re.split(rf"^class {contract.__name__}\b", shown, flags=re.MULTILINE)[1].split("\nclass ")[0]
    members = {n: m for n, m in vars(contract).items() if inspect.isfunction(m) or isinstance(m, property)}
    for name, member in members.items():
        function = member.fget if isinstance(member, property) else member
        assert re.search(rf"def {name}\((.*?)\)", shown), name
        line = next(line for line in shown.splitlines() if f"def {name}(" in line)
        if "progress=" not in line:  # a default that has no literal form
            assert unquoted(f"def {name}{inspect.signature(function)}") in unquoted(line)
        assert line.rstrip().endswith("# abstract") == (getattr(member, "__isabstractmethod__", False)), name


def test_every_command_is_documented() -> None:
    assert {name.split()[0] for name in first_column(COMMANDS_PAGE, "## The commands")} == set(COMMANDS)


@attrs.define
class Finished:
    """A run, for the pages that say what it leaves."""

    folder: Path
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, drawn: None, measuring: Callable[[], AbstractContextManager[None]]
) -> Finished:
    import hyco_engine as hyco
    from hyco_engine.runs.metrics import read_metrics, read_summary

    folder = tmp_path_factory.mktemp("finished")
    paths = {"cache": str(folder / "cache"), "runs": str(folder / "runs")}
    with measuring():
        result = hyco.run(tomllib.loads(TINY) | {"paths": paths}, overrides={"run.cycles": 1})
    return Finished(result.folder, read_summary(result.folder), read_metrics(result.folder))


def test_the_files_of_a_run_are_documented(finished: Finished) -> None:
    told = {name.rstrip("/").split("/")[0] for name in first_column(RUN_FOLDER, "## Files")}
    made = {path.name for path in finished.folder.iterdir()}
    assert made <= told
    assert told - made <= {"inputs", "parameters", "run.lock"}


def test_the_keys_of_the_summary_are_documented(finished: Finished) -> None:
    assert set(first_column(RUN_FOLDER, "## summary.json")) == set(finished.summary)


def test_the_keys_of_metrics_are_documented(finished: Finished) -> None:
    told = set(first_column(RUN_FOLDER, "## metrics.jsonl"))
    general = {"u": "<field>", "nu": "<name>"}
    for record in finished.metrics:
        for key in record:
            head, _, last = key.rpartition("/")
            assert key in told or f"{head}/{general.get(last)}" in told, key
