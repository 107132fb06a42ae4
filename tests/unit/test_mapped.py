"""A file that is cut off in the very moment it is read ends in an error, not in the end of the process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from cache_cases import Numbered
from torch import Tensor

from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.builtin.caches.mapped import Mapped
from hyco_engine.errors import RunError


def bus_handler() -> int | None:
    """What the process does on SIGBUS."""
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    found = libc.signal(signal.SIGBUS, None)
    libc.signal(signal.SIGBUS, found)
    return found


@pytest.mark.parametrize("announced", [False, True])
def test_a_file_cut_off_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    before = bus_handler()
    samples = Disk(shard_bytes=200_000).hold(Numbered(400, size=256, batch_size=50), tmp_path)
    assert bus_handler() != before
    order = torch.randperm(400).split(50)
    first = samples.batch(order[1])
    if announced:
        samples.upcoming(order)
    shard = sorted(tmp_path.iterdir())[1]
    full = shard.stat().st_size
    plain = Mapped.select

    def select(self: Mapped, indices: Tensor) -> Tensor:
        os.truncate(shard, 5000)
        return plain(self, indices)

    monkeypatch.setattr(Mapped, "select", select)
    with pytest.raises(RunError, match=rf"shard_00001.safetensors has 5000 bytes, and had {full}"):
        samples.batch(order[0])
    assert first[0].shape == (50, 256)
    samples.close()
    assert bus_handler() == before


def test_other_shards_stay_readable(tmp_path: Path) -> None:
    recipe = Numbered(400, size=256, batch_size=50)
    samples = Disk(shard_bytes=200_000).hold(recipe, tmp_path)
    os.truncate(sorted(tmp_path.iterdir())[1], 0)
    indices = torch.arange(10)
    assert torch.equal(samples.batch(indices)[1], recipe.generate(indices)[1])
    samples.close()


@pytest.mark.parametrize("held", [False, True])
def test_what_is_not_ours_ends_the_process_as_ever(tmp_path: Path, held: bool) -> None:
    script = f"""
        import mmap, os, pathlib, sys
        import numpy as np
        from cache_cases import Numbered
        from hyco_engine.builtin.caches.disk import Disk
        folder = pathlib.Path({str(tmp_path)!r})
        (folder / "shards").mkdir()
        samples = Disk().hold(Numbered(10), folder / "shards")
        if not {held}:
            samples.close()
        with (folder / "foreign").open("w+b") as file:
            file.write(bytes(3 * mmap.PAGESIZE))
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0)
        os.truncate(folder / "foreign", 0)
        print(np.frombuffer(mapped, np.uint8).sum())
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=60, env=environment
    )
    assert ended.returncode == -signal.SIGBUS, ended.stderr
