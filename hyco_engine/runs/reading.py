"""The one reader of the files in a run folder, whoever made the folder.

A run folder is data: only regular files in it are read, no link is followed, sizes are compared with the free memory
before anything is read, and a file that `checksums.json` names is compared with its checksum.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hyco_engine.errors import DataError
from hyco_engine.runs.files import entries_below
from hyco_engine.runs.seal import SEAL
from hyco_engine.untrusted import PARSED, parse_json, parse_toml, read_regular

SPEC = "spec.toml"
"""The resolved spec of a run; a folder without it is no run folder."""
MAX_TEXT = 2**24
"""The most bytes of a text that describes a run: spec.toml, environment.json, checksums.json."""


class RunFiles:
    """The files of a run folder, by names such as `weights/physical-final.safetensors`.

    Each method raises DataError, which names the file, where an entry is anything but an undamaged regular file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name, of whatever kind."""
        try:
            return os.path.lexists(self.folder / name)
        except ValueError:
            return False

    def read(self, name: str, *, memory: int = 1, most: int | None = None) -> bytes | None:
        """Return the content of a file, None where there is none; each byte takes `memory` bytes in the end."""
        content = self._read(name, memory, most)
        if content is not None and self.has(SEAL):
            self._compare(name, content)
        return content

    def text(self, name: str) -> str | None:
        """Return the content of a text file, None where there is none."""
        content = self.read(name, memory=PARSED, most=MAX_TEXT)
        try:
            return None if content is None else content.decode("utf-8")
        except ValueError as error:
            raise self.damaged(name, error) from error

    def json(self, name: str) -> Any:
        """Return what a JSON file holds, None where there is no file."""
        content = self.read(name, memory=PARSED)
        try:
            return None if content is None else parse_json(content)
        except ValueError as error:
            raise self.damaged(name, error) from error

    def toml(self, name: str) -> dict[str, Any] | None:
        """Return the tables of a TOML file, None where there is no file."""
        text = self.text(name)
        try:
            return None if text is None else parse_toml(text)
        except ValueError as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, why: Exception | str) -> DataError:
        """Return the error for a file whose content cannot be what a run wrote."""
        return DataError(f"{self.folder / name} is damaged: {why}")

    def names(self) -> list[str]:
        """Return the names of all regular files in the folder."""
        files = (Path(entry.path) for entry in entries_below(self.folder) if entry.is_file(follow_symlinks=False))
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def refuse_others(self) -> None:
        """Raise DataError where the folder holds anything but regular files and folders, before a run writes to it."""
        for entry in entries_below(self.folder):
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                what = "a link" if entry.is_symlink() else "neither a file nor a folder"
                raise DataError(
                    f"{entry.path} is {what}, and a run writes only to files of its own: remove {entry.name}"
                )

    def _read(self, name: str, memory: int, most: int | None) -> bytes | None:
        path = self.folder / name
        try:
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts:
                raise ValueError("it is not in the run folder")
            for parent in list(pure.parents)[:-1]:
                if (self.folder / parent).is_symlink():
                    raise ValueError(f"{parent} is a link, and the engine follows no links in a run folder")
            return read_regular(path, memory=memory, most=most, links=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"cannot read {path}: {error}") from error

    def _compare(self, name: str, content: bytes) -> None:
        if self._sums.get(name) != hashlib.sha256(content).hexdigest():
            raise DataError(
                f"{self.folder / name} is damaged: its checksum is not the one in {SEAL}. Restore the file from a "
                f"copy, or remove {SEAL} to read the file as it is"
            )

    @cached_property
    def _sums(self) -> dict[str, Any]:
        try:
            found = parse_json(self._read(SEAL, PARSED, MAX_TEXT) or b"")
            if not isinstance(found, dict):
                raise ValueError("it must be a JSON object")
        except (DataError, ValueError) as error:
            raise DataError(
                f"{self.folder / SEAL} is damaged: {error}; if you remove it, the run's files are read without "
                f"verification"
            ) from error
        return found
