"""The seal of a run folder: checksums of its files, so that a damaged or exchanged file is an error.

`RUN/checksums.json`, {"<path in the folder>": "<SHA-256>"}, is written last, however the run ends, and removed while
the run is resumed; `hyco_engine.runs.reading` compares each file with it. It guards against accidents only, since
anybody who can write to the folder can write a new one.
"""

from __future__ import annotations

from pathlib import Path

from hyco_engine.runs.files import dump_json, entries_below, file_sha256, is_temporary, write_atomic
from hyco_engine.runs.lock import GUARD, LOCK
from hyco_engine.untrusted import parse_json

SEAL = "checksums.json"
_UNSEALED = ("log.txt", "report.html", "checkpoints", LOCK, GUARD, SEAL)
"""Files without a checksum here: they grow afterwards, can be made again, or have checksums of their own."""


def seal(folder: Path) -> None:
    """Write the checksums of the files in a run folder. Raise RunError where they cannot be written."""
    write_atomic(folder / SEAL, dump_json({name: file_sha256(folder / name) for name in _files(folder)}) + "\n")


def seal_also(folder: Path, name: str) -> None:
    """Add the checksum of a file that was written into a sealed run folder; those of all others stay as they are."""
    if (folder / SEAL).is_file():
        sums = parse_json((folder / SEAL).read_bytes())
        write_atomic(folder / SEAL, dump_json({**sums, name: file_sha256(folder / name)}) + "\n")


def _files(folder: Path) -> list[str]:
    files = (Path(entry.path) for entry in entries_below(folder) if entry.is_file(follow_symlinks=False))
    names = sorted(path.relative_to(folder) for path in files if not is_temporary(path))
    return [name.as_posix() for name in names if name.parts[0] not in _UNSEALED]
