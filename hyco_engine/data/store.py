"""The file of one simulation: safetensors with metadata that describe it and a checksum over both."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout

FORMAT = "hyco-engine-tensors-1"
_PIECE = 2**24


class Unusable(Exception):
    """The reason why a cache entry cannot be used."""


@attrs.frozen(kw_only=True)
class Entry:
    """The identity of a cached simulation: equal entries hold the same tensors, up to the number of frames."""

    layout: StateLayout
    dt: float
    dtype: torch.dtype
    fingerprint: str
    index: int
    num_frames: int | None
    """The number of frames that the spec asks for; None means all."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that distinguish it from other entries of the same simulation."""
        return hashlib.sha256(json.dumps(self.describe(0), sort_keys=True).encode()).hexdigest()[:12]

    def describe(self, frames: int) -> dict[str, Any]:
        """Return the entry as JSON-able metadata, without the checksum."""
        return {
            "format": FORMAT,
            "layout": self.layout.to_data(),
            "dt": self.dt,
            "dtype": str(self.dtype).removeprefix("torch."),
            "fingerprint": self.fingerprint,
            "simulation": self.index,
            "num_frames": self.num_frames,
            "frames": frames,
        }


def write_entry(path: Path, entry: Entry, trajectory: Trajectory) -> None:
    """Write a temporary file and rename it to `path`, so that `path` is never half written. Raises OSError."""
    trajectory = Trajectory(dynamic=_ready(trajectory.dynamic, entry), static=_ready(trajectory.static, entry))
    # processes of other machines may have the same number
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    described = entry.describe(len(trajectory.dynamic))
    text = json.dumps({**described, "checksum": _checksum(described, trajectory)})
    tensors = {"dynamic": trajectory.dynamic, "static": trajectory.static}
    try:
        try:
            save_file(tensors, temporary, metadata={"hyco": text})
        except SafetensorError as error:  # safetensors reports a full disk this way
            number = re.search(r"\(os error ([0-9]+)\)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from error
        with temporary.open("r+b") as file:  # Windows syncs no file that is open for reading alone
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_entry(path: Path, entry: Entry) -> Trajectory:
    """Return the memory-mapped tensors at `path`. Raises Unusable unless they are undamaged and those of `entry`.

    It reads every byte once, for the checksum.
    """
    try:
        if path.exists() and not path.is_file():
            raise Unusable("it is no regular file")
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["hyco"])
            if not isinstance(metadata, Mapping):
                raise Unusable("its metadata is damaged")
            if set(file.keys()) != {"dynamic", "static"}:
                raise Unusable(f"it holds {', '.join(sorted(file.keys()))} in place of dynamic and static")
            trajectory = Trajectory(dynamic=file.get_tensor("dynamic"), static=file.get_tensor("static"))
    except FileNotFoundError:
        raise Unusable("it is missing") from None
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise Unusable(f"it is damaged ({str(error) or type(error).__name__})") from error
    layout = entry.layout
    described = entry.describe(metadata.get("frames", 0))
    # a mismatch is reported before damage: a correct checksum says nothing about the entry of another simulation
    for name, value in described.items():
        if metadata.get(name) != value:
            raise Unusable(f"it is stale: its {name} differs")
    dynamic = (described["frames"], layout.n_dynamic, *layout.spatial)
    static = (layout.n_all - layout.n_dynamic, *layout.spatial)
    found = [(tuple(values.shape), values.dtype) for values in (trajectory.dynamic, trajectory.static)]
    if found != [(dynamic, entry.dtype), (static, entry.dtype)]:
        raise Unusable("it is damaged (its tensors do not fit its metadata)")
    if metadata != {**described, "checksum": _checksum(described, trajectory)}:
        raise Unusable("it is damaged (its checksum does not fit)")
    return trajectory


def _ready(values: Tensor, entry: Entry) -> Tensor:
    return values.detach().to("cpu", entry.dtype).contiguous()


def _checksum(described: Mapping[str, Any], trajectory: Trajectory) -> str:
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for values in (trajectory.dynamic, trajectory.static):
        digest.update(str(tuple(values.shape)).encode())
        flat = memoryview(values.reshape(-1).view(torch.uint8).numpy().data) if values.numel() else memoryview(b"")
        for start in range(0, len(flat), _PIECE):
            digest.update(flat[start : start + _PIECE])
    return digest.hexdigest()
