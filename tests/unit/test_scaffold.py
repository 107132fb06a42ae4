"""`plugins new`: what is written works, and what cannot be written is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyco_engine.cli.plugins import HOOK_NAMES, plugins
from hyco_engine.cli.scaffold import KINDS
from hyco_engine.errors import SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.spec.loading import load_spec
from hyco_engine.testing.distributions import Site

pytest_plugins = ["hyco_engine.testing.fixtures"]


def new(*arguments: str) -> str:
    result = CliRunner().invoke(plugins, ["new", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(plugins, ["new", *arguments])
    assert isinstance(result.exception, SpecError), result.output
    return str(result.exception)


CASES = {
    "strategy": ("--hook", "strategy"),
    "surrogate": ("--hook", "model"),
    "physics": ("--hook", "model", "--role", "physical"),
    "normalizer": ("--hook", "normalizer"),
    "cache": ("--hook", "cache"),
    "source": ("--hook", "source"),
    "tracker": ("--hook", "tracker"),
}


def test_there_is_a_template_for_every_hook() -> None:
    assert set(CASES) == set(KINDS)
    assert {arguments[1] for arguments in CASES.values()} == set(HOOK_NAMES)


@pytest.mark.parametrize("what", CASES)
def test_what_is_written_is_a_plugin_whose_example_is_right(
    what: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.folder)
    name, package = f"hyco-engine-new-{what}", f"hyco_engine_new_{what}"
    told = new(name, *CASES[what]).splitlines()
    assert f"wrote {name}/{package}/plugin.py" in told
    assert told[-1] == f'next: cd {name} && pip install -e ".[test]" && hyco-engine plugins check {name} && pytest'
    folder = site.folder / name
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    (points,) = project["project"]["entry-points"].values()
    (requirement,) = project["project"]["dependencies"]
    assert requirement.startswith("hyco-engine>=0.1,<0.2")
    # as an editable installation would
    monkeypatch.syspath_prepend(str(folder))
    site.install(name, project["project"]["version"], entry_points=points, requires=[requirement])
    importlib.invalidate_caches()
    registry = Registry.discover()
    (info,) = [info for info in registry.plugins if info.distribution == name]
    assert (info.status, info.reason, info.warnings) == ("ok", "", ())
    loaded = load_spec(folder / "example.toml", registry)
    assert loaded.notes == ()
    assert f"new-{what}" in (folder / "example.toml").read_text()
    for path in folder.rglob("*.py"):
        assert "$" not in path.read_text()
        assert all(len(line) <= 120 for line in path.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("what", CASES)
def test_its_tests_pass(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new(f"new-{what}", *CASES[what])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"new-{what}"]
    path = {"PYTHONPATH": str(tmp_path / f"new-{what}"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf").mkdir()
    assert refusal("shelf", "--hook", "cache") == (
        "NAME: shelf exists and is not overwritten; choose another name, or remove it"
    )
    assert list((tmp_path / "shelf").iterdir()) == []


ALLOWED = "use lower-case letters, digits and single dashes, with a letter first"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *[
            (name, f"{name!r} cannot name a plugin: {ALLOWED}, such as 'my-plugin' or 'hyco-engine-my-plugin'")
            for name in ("My-Plugin", "my_plugin", "a--b", "3d", "../a", "a/b", "a-", "")
        ],
        (
            "hyco-engine-3d",
            f"'hyco-engine-3d' cannot name a plugin: {ALLOWED} after 'hyco-engine-', such as 'my-plugin' or "
            "'hyco-engine-my-plugin'",
        ),
        *[
            (
                name,
                f"{name!r} cannot name a plugin: its package {name.replace('-', '_')!r} would hide an installed "
                "Python module of that name; choose another name",
            )
            for name in ("class", "json", "torch", "hyco-engine")
        ],
        ("auto", "the kind 'auto' of hyco_caches belongs to the core; choose another name"),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(name, "--hook", "cache") == f"NAME: {message}"
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal("hyco-engine-memory", "--hook", "cache")
    assert told.startswith("NAME: the kind 'memory' of hyco_caches belongs to plugin 'builtin-caches' (hyco-engine ")
    assert told.endswith("); choose another name")
    new("hyco-engine-memory", "--hook", "tracker")


def test_only_models_have_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal("shelf", "--hook", "cache", "--role", "physical")
    assert told == "--role: only a model has a role, a cache has none: leave out --role"
