"""Checkpoints of a run: nested plain values and tensors, as pairs of files

    checkpoints/000012.safetensors   all tensors
    checkpoints/000012.json          the rest, size and SHA-256 of the tensors' file, and its own SHA-256

Each file is replaced in one step, the JSON last, so a pair with a JSON file is complete. A reader searches the folder
for the newest pair that is complete and intact; no pointer names it. Sizes are checked before a file is read, and
reading executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from hyco_engine.errors import RunError
from hyco_engine.runs.files import write_atomic
from hyco_engine.untrusted import PARSED, read_regular

FORMAT = 3
KEPT = 2
MAX_JSON_BYTES = 2**28
_FILE = re.compile(r"([0-9]{6,9})\.(json|safetensors)")
_MARK = "$"
_COPIES = 2
"""The content of a file of tensors, and the tensors."""


class Damaged(Exception):
    """Raised for a checkpoint that differs from what was written."""


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A checkpoint that was read. `notes` name newer ones that could not be used."""

    path: Path
    content: Mapping[str, Any]
    notes: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one folder, which is made with the first one. Only one process may write at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._intact: list[int] = []

    def save(self, content: Mapping[str, Any]) -> Path:
        """Write the next checkpoint and keep only the newest older one that is intact. Raise RunError, keeping all."""
        number = max(self._numbers(), default=0) + 1
        tensors: dict[str, Tensor] = {}
        tree = _encoded(content, tensors, "")
        data = _safetensors(tensors)
        told = {"format": FORMAT, "tensors": {"bytes": len(data), "sha256": _sha256(data)}, "content": tree}
        write_atomic(self._path(number, "safetensors"), data)
        write_atomic(self._path(number, "json"), json.dumps({**told, "sha256": _sha256(_canonical(told))}))
        self._intact = [*self._intact, number][-KEPT:]
        for path in self._files():
            if int(path.stem) not in self._intact:
                with suppress(OSError):
                    path.unlink()
        return self._path(number, "json")

    def newest(self, usable: Callable[[Mapping[str, Any]], str | None] = lambda content: None) -> Checkpoint | None:
        """Return the newest checkpoint that is complete, intact and `usable`; None if the folder has none at all.

        `usable` returns None or the reason why a content cannot be used. Raise RunError if no checkpoint can be used.
        """
        notes: list[str] = []
        for number in sorted(self._numbers("json"), reverse=True):
            path = self._path(number, "json")
            try:
                content = self._read(number)
                why = usable(content)
            except Damaged as error:
                why = f"it is damaged: {error}"
            if why is None:
                self._intact = [number]
                return Checkpoint(path=path, content=content, notes=tuple(notes))
            notes.append(f"the checkpoint {path} cannot be used: {why}")
        if notes:
            told = "\n".join(notes)
            raise RunError(f"{told}\n{self.folder} holds no other checkpoint: start again with a new run folder")
        return None

    def _read(self, number: int) -> dict[str, Any]:
        try:
            told = json.loads(_bounded(self._path(number, "json"), MAX_JSON_BYTES, PARSED).decode())
            if told.pop("sha256") != _sha256(_canonical(told)):
                raise Damaged("its checksum does not match its content")
            if told["format"] != FORMAT:
                raise Damaged(f"its format is {told['format']!r}, and this engine reads format {FORMAT}")
            size = told["tensors"]["bytes"]
            data = _bounded(self._path(number, "safetensors"), size, _COPIES)
            if len(data) != size or _sha256(data) != told["tensors"]["sha256"]:
                raise Damaged(f"{self._path(number, 'safetensors').name} is not the file that was written with it")
            content = _decoded(told["content"], _tensors(data))
        except Damaged:
            raise
        except OSError as error:
            raise Damaged(f"{error.filename}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from error
        if not isinstance(content, dict):
            raise Damaged("its content is no table")
        return content

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:06d}.{suffix}"

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)]

    def _numbers(self, suffix: str = "") -> set[int]:
        return {int(path.stem) for path in self._files() if path.suffix.endswith(suffix)}


def packed(content: Mapping[str, Any]) -> bytes:
    """Return the content of a checkpoint as bytes, for another process of the run."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encoded(content, tensors, "")).encode()
    return len(tree).to_bytes(8, "little") + tree + _safetensors(tensors)


def unpacked(data: bytes) -> dict[str, Any]:
    """Return the content of which `data` are the bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    content: dict[str, Any] = _decoded(json.loads(data[8:end]), _tensors(data[end:]))
    return content


def _bounded(path: Path, most: int, memory: int) -> bytes:
    """Return the file's content. Raise Damaged, without reading, for a file that is too large."""
    try:
        return read_regular(path, most=most, memory=memory, links=False)
    except FileNotFoundError:
        raise Damaged(f"there is no file {path.name}") from None
    except ValueError as error:
        raise Damaged(f"{path.name}: {error}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    # each tensor is copied, since safetensors refuses tied weights, which share memory
    data: bytes = save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
    return data


def _tensors(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # each tensor is copied, since its place in the file does not align it in memory
        return {name: value.clone() for name, value in load(data).items()}
    except SafetensorError as error:
        raise Damaged(str(error)) from error


def _encoded(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Return `value` in JSON's types, with marks for other types; put its tensors into `tensors`, named by path."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {_MARK: "float", "is": str(value)}
        case Tensor():
            # names may contain slashes
            name = path if path not in tensors else f"{path}#{len(tensors)}"
            tensors[name] = value
            return {_MARK: "tensor", "is": name}
        case tuple():
            return {_MARK: "tuple", "is": [_encoded(v, tensors, f"{path}/{k}") for k, v in enumerate(value)]}
        case list():
            return [_encoded(v, tensors, f"{path}/{k}") for k, v in enumerate(value)]
        case Mapping() if all(isinstance(key, str) and key != _MARK for key in value):
            return {key: _encoded(v, tensors, f"{path}/{key}") for key, v in value.items()}
        case Mapping():
            pairs = [(_encoded(k, tensors, path), _encoded(v, tensors, f"{path}/{k}")) for k, v in value.items()]
            return {_MARK: "items", "is": pairs}
        case _:
            raise RunError(f"a checkpoint cannot hold {path}, which is a {type(value).__name__}")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: _decoded(entry, tensors) for key, entry in value.items()}
    match value[_MARK], value["is"]:
        case "float", "nan" | "inf" | "-inf" as text:
            return float(text)
        case "tensor", str() as name:
            return tensors[name]
        case "tuple", list() as entries:
            return tuple(_decoded(entry, tensors) for entry in entries)
        case "items", list() as pairs:
            return {_decoded(key, tensors): _decoded(entry, tensors) for key, entry in pairs}
    raise Damaged(f"the mark {value[_MARK]!r} is unknown")
