"""Files and texts that anybody may have written: regular files of bounded size, JSON and TOML of bounded nesting.

Everything here raises OSError or ValueError alone; the message says what is wrong, and the caller adds the place.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from hyco_engine.resources import free_memory

MAX_DEPTH = 64
"""How deep tables and lists may be nested; what the engine writes is far below."""
PARSED = 40
"""The bytes of memory that a byte of JSON takes at most once it is parsed: `{},{},...` takes most."""
_LONGEST = 18
"""Digits of a whole number that surely has 64 bits."""
_LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_DEPTH}}}""")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class TooLargeError(ValueError):
    """What is to be read or made does not fit into the free memory."""


def open_regular(path: Path, *, links: bool = True) -> IO[bytes]:
    """Open a regular file for reading; a FIFO or a device is not even opened, and without `links` no link is."""
    _refuse_other(path.stat() if links else path.lstat())
    # whatever takes the file's place in between
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"))
    handle = os.open(path, os.O_RDONLY | flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _refuse_other(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, *, most: int | None = None, memory: int = 1, links: bool = True) -> bytes:
    """Return the content of a regular file of at most `most` bytes; `memory` is what a byte takes in the end."""
    with open_regular(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise ValueError(f"it has {size} bytes, and the engine reads at most {most}")
        refuse_large(size * memory)
        # the file may grow while it is read
        return file.read(size)


def refuse_large(size: int) -> None:
    """Raise TooLargeError if so many bytes of memory are not free."""
    if size > (free := free_memory()):
        raise TooLargeError(f"it needs {size / 1e9:.3g} GB of memory, but only {free / 1e9:.3g} GB are free")


def _refuse_other(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        what = next((text for test, text in _KINDS if test(state.st_mode)), "no file")
        raise ValueError(f"it is {what}, and the engine reads regular files only")


def parse_json(content: bytes | str) -> Any:
    """Return what a strict JSON text holds. Numbers are finite; whole numbers beyond 64 bits become floats."""
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_deep(value)
    if _SURROGATE.search(text):
        # half a character, which nothing can print or write
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def tensors_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise ValueError("it is no safetensors file, or it is cut off")
    refuse_large(size * PARSED)
    header = parse_json(content[8 : 8 + size])
    found = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("its metadata must be texts by name")
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text."""
    # tomllib takes time and memory by the square of a key's length
    if _LONG_KEY.search(text):
        raise ValueError(f"a key in it has more than {MAX_DEPTH} parts")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _refuse_deep(value)
    return value


def _refuse_deep(value: Any) -> None:
    level: Iterable[Any] = (value,)
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for outer in level
            if isinstance(outer, dict | list)
            for entry in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} times")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]}... is too large")
    return value


def _int(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST else _float(text)
