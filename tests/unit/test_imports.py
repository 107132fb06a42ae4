"""Light start: what only talks about specs and plugins imports neither torch nor phi, and is quick."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyco_engine.hooks import HOOKS
from hyco_engine.testing.distributions import Site

HEAVY = ("torch", "phi", "phiml", "matplotlib", "rich")

REPORT = """
import json, sys
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.stderr.write(json.dumps(heavy) + "\\n")
"""


def heavy_imports(code: str, cwd: Path, path: Path | None = None) -> list[str]:
    """Run `code` in a fresh interpreter, with `path` on its path, and name the heavy modules it imported."""
    script = f"try:\n    {code}\nexcept SystemExit:\n    pass\n{REPORT.format(heavy=HEAVY)}"
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.splitlines()[-1]))


def command(*arguments: str) -> str:
    return f"from hyco_engine.cli import main; import sys; sys.argv[1:] = {list(arguments)!r}; main()"


@pytest.mark.parametrize(
    "code",
    [
        "import hyco_engine",
        "import hyco_engine.parts",
        "import hyco_engine.hooks, hyco_engine.spec",
        "from hyco_engine.hooks import Registry; Registry.discover()",
        command("--help"),
        command("--version"),
        command("plugins", "list", "--json"),
        command("plugins", "check", "--json"),
        command("schema"),
    ],
)
def test_light_start(code: str, tmp_path: Path) -> None:
    assert heavy_imports(code, tmp_path) == []


def test_a_table_loads_rich_and_nothing_else(tmp_path: Path) -> None:
    assert heavy_imports(command("plugins", "list"), tmp_path) == ["rich"]


PLUGIN = """
from hyco_engine import Record, hookimpl, option, options
from hyco_engine.hooks.records import imported

@options
class Options:
    size: int = option(3, help="how large", ge=1)

@hookimpl
def {hook}():
    return [Record(kind="kind-{number}", summary="a kind", options=Options, factory=imported("torch"))]
"""


@pytest.mark.parametrize("arguments", [("plugins", "list"), ("plugins", "check"), ("schema",)])
def test_light_start_with_ten_plugins(arguments: tuple[str, ...], tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.folder.mkdir()
    hooks = sorted(set(HOOKS) - {"hyco_models"})
    for number in range(10):
        code = PLUGIN.format(hook=hooks[number % len(hooks)], number=number)
        name = f"plugin_{number}"
        site.install(f"plugin-{number}", modules={name: code}, entry_points={name: name})
    # rich lays out the tables of what is listed
    assert set(heavy_imports(command(*arguments), tmp_path, site.folder)) <= {"rich"}
    listing, env = command("plugins", "list"), os.environ | {"PYTHONPATH": str(site.folder)}
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, env=env)
    assert all(f"kind-{number}" in done.stdout for number in range(10))


def test_light_start_of_check_with_a_bad_spec(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[run]\nseed = "x"\n[synthetic]\nkind = "unte"\n')
    assert heavy_imports(command("check", "bad.toml"), tmp_path) == []


def test_built_ins_load_without_failure_or_warning() -> None:
    code = (
        "from hyco_engine.hooks import Registry\n"
        "for p in Registry.discover().plugins:\n"
        "    if p.distribution == 'hyco-engine' and (p.status != 'ok' or p.warnings):\n"
        "        print(p, p.status, p.reason, p.warnings)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(("arguments", "most"), [(("--help",), 250), (("plugins", "list"), 450)])
def test_few_modules_start_a_command(arguments: tuple[str, ...], most: int) -> None:
    """The time of a start is that of its imports, whatever else the machine does."""
    counted = f"try:\n    {command(*arguments)}\nexcept SystemExit:\n    pass\nsys.stderr.write(str(len(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True)
    assert int(done.stderr) <= most
