"""Every distribution under plugins/ from wheel to uninstallation, in the environment that runs this: `tox -e plugins`.

The engine's wheel is installed there already. Each plugin's wheel is built and installed, its tests and its example are
run; then they are uninstalled one by one, and after each everything that is left must still work. In the end the
environment has the engine alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from steps import command, expect, say

ROOT = Path(__file__).parents[2]
CORE = ROOT / "docs" / "examples" / "quickstart.toml"
SHORT = ("run.cycles=1", "training.synthetic.epochs_per_cycle=1", "training.physical.epochs_per_cycle=1")
"""Enough to see that an example's parts still work together."""
LONGEST_S = 60.0
"""Of processor time, which other programs on the machine change little."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="distributions, such as hyco-engine-fno; default: all")
    names = parser.parse_args().names or sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
    with tempfile.TemporaryDirectory() as scratch:
        examples = {name: example(name) for name in names}
        alone = kinds()
        for name in names:
            install(name, Path(scratch))
        everything = kinds()
        for name in names:
            ours = ("-c", ROOT / "pyproject.toml", "--rootdir", ROOT, ROOT / "plugins" / name)
            command("pytest", "-q", "-m", "not slow", *ours)
            seconds = run_example(examples[name], Path(scratch))
            expect(seconds < LONGEST_S, f"the example of {name} takes {seconds:.0f} s, more than {LONGEST_S:.0f} s")
            say(f"{name}: its tests pass, its example takes {seconds:.0f} s of processor time")
        while names:
            gone = names.pop(0)
            command("pip", "uninstall", "-q", "-y", gone)
            everything = {kind: owner for kind, owner in everything.items() if owner != gone}
            expect(kinds() == everything, f"without {gone} the kinds are {kinds()}, not {everything}")
            if extends(gone):
                told = hyco("check", examples[gone], code=2)
                expect("unknown" in told and "installed: " in told, f"without {gone} its example is told: {told}")
            for name in names:
                run_example(examples[name], Path(scratch), *SHORT)
            run_example(CORE, Path(scratch), *SHORT)
            say(f"{gone}: gone, and the rest works")
        expect(kinds() == alone, f"in the end the kinds are {kinds()}, not {alone}")


def example(name: str) -> Path:
    """Return the spec beside a plugin's pyproject.toml."""
    found = [path for path in (ROOT / "plugins" / name).glob("*.toml") if path.name != "pyproject.toml"]
    expect(len(found) == 1, f"{name} has {len(found)} examples, wanted one")
    return found[0]


def extends(name: str) -> bool:
    """Return whether a plugin offers kinds; one that does not works on finished runs."""
    project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return "hyco_engine" in project.get("entry-points", {})


def install(name: str, scratch: Path) -> None:
    """Its wheel, built apart from the sources, with what it requires; nothing it brings may be amiss."""
    command("pip", "wheel", "-q", "--no-deps", "-w", scratch / name, ROOT / "plugins" / name)
    (wheel,) = (scratch / name).glob("*.whl")
    command("pip", "install", "-q", wheel)
    command("pip", "check")
    if extends(name):
        hyco("plugins", "check", name)
    for plugin in plugins():
        expect(plugin["status"] == "ok" and not plugin["warnings"], f"with {name} installed: {plugin}")


def plugins() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(hyco("plugins", "list", "--json"))["plugins"]
    return found


def kinds() -> dict[str, str]:
    """Return the distribution of every kind that can be used."""
    return {
        f"{hook}: {kind}": plugin["distribution"]
        for plugin in plugins()
        if plugin["status"] == "ok"
        for hook, offered in plugin["kinds"].items()
        for kind in offered
    }


def run_example(spec: Path, scratch: Path, *changes: str) -> float:
    """Seconds of processor time that it takes."""
    sets = [part for change in changes for part in ("--set", change)]
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    summary = json.loads(hyco("run", spec, "--json", *sets, cwd=scratch))
    expect(summary["status"] == "completed", f"{spec.name}: {summary['status']}")
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start


def hyco(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Run the command; return its output, of an error that on stderr."""
    return command("hyco_engine", *arguments, code=code, cwd=cwd)


if __name__ == "__main__":
    main()
