"""Atomic writing of files, so that a reader finds the old or the new content, never a part; strict JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hyco_engine.errors import RunError, SpecError, how_to_write


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step; the content is on the disk on return. Raise RunError, leaving no file behind."""
    # half a character, as in the name of a folder that is no UTF-8, becomes a question mark
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp")


def is_temporary(path: Path) -> bool:
    """Return True for a temporary file of `write_atomic`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies below a folder, however deep; no link is followed."""
    left = [os.fspath(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a failed write, in the user's terms."""
    return RunError(f"cannot write {path}: {error.strerror or error}; {how_to_write(error)}")


def numbered_folder(parent: Path, name: str) -> Path:
    """Make `<parent>/<name>-<n>` with the next n; two processes never get the same folder. Raise SpecError."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max((_number(entry.name, name) for entry in parent.iterdir()), default=0) + 1
        while True:
            path = parent / f"{name}-{number}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path
    except OSError as error:
        raise SpecError(f"cannot make a run folder in {parent}: {error.strerror}", key="paths.runs") from error


def _number(folder: str, name: str) -> int:
    prefix, dash, digits = folder.rpartition("-")
    return int(digits) if prefix == name and dash and digits.isascii() and digits.isdecimal() else 0


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def plain(value: Any, where: str = "value") -> Any:
    """Return `value` as plain dicts, lists, numbers and text. Raise TypeError with the key of anything else.

    NaN and infinities stay. A tensor is refused, since only the caller knows whether to take its item or its list.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} must be text")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where}: cannot write a {type(value).__name__} as JSON; pass numbers, text, lists and dicts "
        "(a tensor's .item() or .tolist())"
    )


def finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump_json(value: Any, *, indent: int | None = 2) -> str:
    """Return plain data as strict JSON, with null for NaN and infinities, on one line if `indent` is None."""
    return json.dumps(finite(plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)
