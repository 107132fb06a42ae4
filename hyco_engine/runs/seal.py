"""The seal of a run folder: checksums of its files, so that a damaged or exchanged file is an error.

`RUN/checksums.json`, {"<path in the folder>": "<SHA-256>"}, is written last, however the run ends, and removed while
the run is resumed. It guards against accidents only, since anybody who can write to the folder can write a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from hyco_engine.errors import DataError
from hyco_engine.runs.files import dump_json, is_temporary, write_atomic
from hyco_engine.runs.lock import LOCK

SEAL = "checksums.json"
MAX_BYTES = 2**24
_UNSEALED = ("log.txt", "report.html", "checkpoints", LOCK, SEAL)
"""Files without a checksum here: they grow afterwards, can be made again, or have checksums of their own."""


def seal(folder: Path) -> None:
    """Write the checksums of the files in a run folder. Raise RunError where they cannot be written."""
    write_atomic(folder / SEAL, dump_json({name: _sha256(folder / name) for name in _files(folder)}) + "\n")


def verify(folder: Path, path: Path) -> None:
    """Raise DataError if a file differs from what the run in `folder` left; a file without a checksum passes."""
    if not (folder / SEAL).exists() or not path.exists():
        return
    try:
        with (folder / SEAL).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES} bytes")
        sums = json.loads(text)
        found = sums.get(path.relative_to(folder).as_posix())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{folder / SEAL} is damaged: {error}; if you remove it, the run's files are read without verification"
        ) from error
    if found != _sha256(path):
        raise DataError(
            f"{path} is damaged: its checksum is not the one in {SEAL}. Restore the file from a copy, or remove "
            f"{SEAL} to read the file as it is"
        )


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and name.parts[0] not in _UNSEALED and not is_temporary(path):
            yield name.as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
