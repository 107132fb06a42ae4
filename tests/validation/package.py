"""What users install: sdist and wheel of the engine and of everything under plugins/, `tox -e package`.

Each distribution is built and checked, its wheel is installed in the environment that runs this, which had none of them
before, and a user's script is checked by mypy against what is installed. The tests in the engine's sdist that check the
project itself pass there.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

from steps import command, expect, say

ROOT = Path(__file__).parents[2]
ENGINE = "hyco-engine"
SCRIPT = """
from pathlib import Path

import hyco_engine as hyco
{imports}

def found(spec: Path) -> float:
    result: hyco.RunResult = hyco.run(spec, overrides={{"run.cycles": 2}})
    value: float = result.summary["parameters"]["nu"]["final"]
    return value


def offered() -> str:
    try:
        return ", ".join(hyco.Registry.discover().kinds("hyco_models"))
    except hyco.PluginError as error:
        return str(error.problems[0].message)
"""


def main() -> None:
    distributions = [ENGINE, *sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for distribution in distributions:
            source = ROOT if distribution == ENGINE else ROOT / "plugins" / distribution
            command("build", "--outdir", scratch / distribution, source)
            wheel, sdist = (only(scratch / distribution, pattern) for pattern in ("*.whl", "*.tar.gz"))
            command("twine", "check", "--strict", wheel, sdist)
            check_wheel(wheel, distribution.replace("-", "_"))
            command("pip", "install", "-q", wheel)
            command("pip", "check")
            check_types(scratch, distribution)
            say(f"{distribution}: {wheel.stat().st_size / 1e3:.0f} kB, installed, its types serve")
        check_sdist(only(scratch / ENGINE, "*.tar.gz"), scratch / "unpacked")


def check_wheel(wheel: Path, package: str) -> None:
    """A wheel has its licence and its types, and its page leads to the project."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    folders = {name.partition("/")[0] for name in names}
    expect(folders == {package, path.partition("/")[0]}, f"{wheel.name} has the folders {sorted(folders)}")
    expect(f"{package}/py.typed" in names, f"{wheel.name} has no py.typed")
    expect(any(name.endswith("/licenses/LICENSE") for name in names), f"{wheel.name} has no LICENSE")
    classifiers = metadata.get_all("Classifier", [])
    expect("Operating System :: POSIX" in classifiers, f"{wheel.name} does not say that it is for POSIX")
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    expect({"Homepage", "Documentation", "Changelog", "Issues"} <= urls, f"{wheel.name} has only the URLs {urls}")
    broken = [link for link in links(metadata) if not link.startswith(("https://", "#"))]
    expect(not broken, f"the page of {wheel.name} has links that lead nowhere: {broken}")


def links(metadata: Message) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", str(metadata.get_payload()))


def check_types(scratch: Path, distribution: str) -> None:
    """A user's script that imports the distribution passes mypy in its strict mode, far from the sources."""
    folder = scratch / "user"
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    plugin = (
        ""
        if distribution == ENGINE
        else f"import {distribution.replace('-', '_')} as plugin\n\nNAME: str = plugin.__name__\n"
    )
    script.write_text(SCRIPT.format(imports=plugin))
    command("mypy", "--strict", script.name, cwd=folder)
    script.write_text(script.read_text().replace("value: float", "value: list[float]").replace("-> str", "-> int"))
    told = command("mypy", "--strict", script.name, cwd=folder, code=1)
    expect('expected "int"' in told, f"mypy does not know the types of {distribution}:\n{told}")


def check_sdist(sdist: Path, folder: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    command("pytest", "-q", "-p", "no:cacheprovider", "tests/meta", cwd=root)
    say("the tests of the project pass in its sdist")


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


if __name__ == "__main__":
    main()
