"""The examples run to their ends, and the figures of docs/gallery.md made anew from them: `tox -e gallery`.

    python tests/validation/gallery.py [EXAMPLE...] [--data DIR]

`--data` names the folder of published data; examples that need it are left out where it is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "examples"
PAGE = ROOT / "docs" / "gallery.md"
IMAGES = ROOT / "docs" / "images"
PUBLISHED = ROOT.parent / "shared" / "data"
EXAMPLES = sorted(DOCS.glob("*.toml"))
SCRIPT = DOCS / "embedding.py"
NEEDS = {"burgers_shock": "raissi_pinns/burgers_shock.mat", "gray-scott": "hyco_grayscott"}
"""What is published, and not in this repository."""
MEASURED = {
    "bar": ['data.path="bar.npz"'],
    "bar-sensors": ['data.path="bar-sensors.csv"', 'data.initial.u.file="bar-start.npy"'],
}
"""What docs/examples/measure.py writes."""
HISTORY = {"advection", "bar-sensors", "fisher-kpp", "heat", "inviscid-burgers"}
"""Examples whose training says more than a rollout: parameters that are fields, and readings without a grid."""


class Missing(Exception):
    """The published data is not there."""


def run_example(path: Path, folder: Path, published: Path = PUBLISHED) -> dict[str, Any]:
    """Run it in `folder`, as a user would; what `hyco-engine run --json` prints. Raises Missing."""
    command = [sys.executable, "-m", "hyco_engine", "run", str(path), "--json"]
    changes = []
    if path.stem in NEEDS:
        if not (published / NEEDS[path.stem]).exists():
            raise Missing(f"there is no {published / NEEDS[path.stem]}")
        changes = [f'data.path="{published / NEEDS[path.stem]}"']
    if path.stem in MEASURED:
        ran([sys.executable, str(DOCS / "measure.py")], folder)
        changes = MEASURED[path.stem]
    found: dict[str, Any] = json.loads(ran(command + [arg for change in changes for arg in ("--set", change)], folder))
    return found


def ran(command: list[str], folder: Path) -> str:
    """Run a command; return its stdout. Raise RuntimeError with its output where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def keep(run: Path, name: str) -> Path | None:
    """Copy the figure that docs/gallery.md shows to docs/images/<name>.png; return None where it shows none."""
    out = IMAGES / f"{name}.png"
    if f"(images/{out.name})" not in PAGE.read_text(encoding="utf-8"):
        return None
    return Path(shutil.copyfile(run / "figures" / ("history.png" if name in HISTORY else "comparison.png"), out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", nargs="*", help="names, such as heat; none: all")
    parser.add_argument("--data", type=Path, default=PUBLISHED)
    arguments = parser.parse_args()
    for path in (*EXAMPLES, SCRIPT):
        if arguments.examples and path.stem not in arguments.examples:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder, start = Path(name), time.monotonic()
            try:
                if path == SCRIPT:
                    ran([sys.executable, str(path)], folder)
                else:
                    run_example(path, folder, arguments.data)
            except Missing as missing:
                print(f"{path.stem}: left out, {missing}", flush=True)
                continue
            (run,) = (folder / "runs").iterdir()
            told = [path.stem, f"{time.monotonic() - start:.0f} s"]
            if (out := keep(run, path.stem)) is not None:
                told += [str(out.relative_to(ROOT)), f"{out.stat().st_size / 1000:.0f} kB"]
            print(*told, sep=", ", flush=True)


if __name__ == "__main__":
    main()
