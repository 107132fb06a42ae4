"""Files that the physics of a run reads beside the data, such as measured series.

A run keeps a copy of each in `RUN/inputs/`, from which its models are loaded wherever the run folder lies, and its
checkpoints have their digests, so that a run is never resumed with others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hyco_engine.errors import RunError
from hyco_engine.runs.files import file_sha256
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import with_paths

FOLDER = "inputs"


def is_input(key: str) -> bool:
    """Return whether the path of this key is that of such a file; parameters keep the fields that they start from."""
    return key.startswith("physical.") and not key.startswith("physical.parameters.")


def input_files(spec: Spec) -> dict[str, Path]:
    """Return the files by their keys."""
    found: dict[str, Path] = {}
    with_paths(spec, lambda key, path: found.setdefault(key, path))
    return {key: path for key, path in found.items() if is_input(key)}


def copy_of(key: str, path: Path) -> str:
    """Return the name in the run folder of the copy of a file."""
    return f"{FOLDER}/{re.sub(r'[^A-Za-z0-9_.-]', '_', key.removeprefix('physical.'))}{path.suffix}"


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its key, empty for what is no file."""
    return {key: file_sha256(path) if path.is_file() else "" for key, path in files.items()}


def check_inputs(files: Mapping[str, Path], now: Mapping[str, str], before: Mapping[str, str], folder: Path) -> None:
    """Raise RunError where the digest of a file is not what it was `before`; earlier versions did not keep it."""
    for key, path in files.items():
        if before.get(key, now[key]) != now[key]:
            copy = folder / copy_of(key, path)
            raise RunError(
                f"{key}: {path} has changed since the run began: restore it from {copy}, or start again with a new run "
                "folder"
            )
