"""Distributions that look installed, without pip: metadata and modules in a folder on `sys.path`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path


class Site:
    """A folder on `sys.path` into which distributions are installed; the fixture `site` makes one for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        distribution: str,
        version: str = "1.0",
        *,
        modules: Mapping[str, str] | None = None,
        entry_points: Mapping[str, str] | None = None,
        requires: Iterable[str] = (),
    ) -> None:
        """Install a distribution. `modules` maps names to code, `entry_points` names to "module" or "module:object"."""
        for name, code in (modules or {}).items():
            path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        lines = [f"{name} = {target}\n" for name, target in (entry_points or {}).items()]
        self.metadata(distribution, version, "".join(["[hyco_engine]\n", *lines]) if lines else "", requires)

    def metadata(self, distribution: str, version: str, entry_points: str, requires: Iterable[str] = ()) -> None:
        """Install the metadata alone; `entry_points` is the text of entry_points.txt."""
        folder = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (folder / "METADATA").write_text("\n".join([*lines, ""]))
        (folder / "entry_points.txt").write_text(entry_points)
        importlib.invalidate_caches()
