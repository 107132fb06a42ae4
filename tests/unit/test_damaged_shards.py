"""A shard that is cut off or cannot be read, even in that very moment, ends in an error that names it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_cases import Numbered, equal, everything

from hyco_engine.builtin.caches import disk
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.errors import RunError


@pytest.fixture(params=["preadv", "seek and read"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with `os.preadv`, and those without."""
    if request.param == "preadv":
        if not hasattr(os, "preadv"):
            pytest.skip("this system has no os.preadv")
    else:
        monkeypatch.delattr(os, "preadv", raising=False)


def before_each_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have something happen between the look at a file and the read."""
    plain = disk._read_into

    def read(*args: Any) -> bool:
        act()
        return plain(*args)

    monkeypatch.setattr(disk, "_read_into", read)


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("announced", [False, True])
def test_a_file_cut_off_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    samples = Disk(shard_bytes=200_000).hold(Numbered(400, size=256, batch_size=50), tmp_path)
    order = torch.randperm(400).split(50)
    first = samples.batch(order[1])
    shard = sorted(tmp_path.iterdir())[1]
    full = shard.stat().st_size
    before_each_read(monkeypatch, lambda: os.truncate(shard, 5000))
    if announced:
        samples.upcoming(order)
    with pytest.raises(RunError, match=rf"shard_00001.safetensors has 5000 bytes, and had {full}"):
        samples.batch(order[0])
    assert first[0].shape == (50, 256)
    samples.close()


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("announced", [False, True])
def test_all_is_read_in_any_order(tmp_path: Path, announced: bool) -> None:
    recipe = Numbered(400, size=257, batch_size=50)
    samples = Disk(shard_bytes=200_000).hold(recipe, tmp_path)
    assert equal(everything(samples), recipe.generate(torch.arange(400)))
    order = torch.randperm(400).split(7)
    if announced:
        samples.upcoming(order)
    batches = [samples.batch(indices) for indices in order]
    assert all(equal(batch, recipe.generate(indices)) for batch, indices in zip(batches, order, strict=True))
    samples.close()


def test_other_shards_stay_readable(tmp_path: Path) -> None:
    recipe = Numbered(400, size=256, batch_size=50)
    samples = Disk(shard_bytes=200_000).hold(recipe, tmp_path)
    os.truncate(sorted(tmp_path.iterdir())[1], 0)
    indices = torch.arange(10)
    assert torch.equal(samples.batch(indices)[1], recipe.generate(indices)[1])
    samples.close()


@pytest.mark.parametrize("announced", [False, True])
def test_a_file_that_the_disk_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    samples = Disk().hold(Numbered(10), tmp_path)

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before_each_read(monkeypatch, fail)
    if announced:
        samples.upcoming([torch.arange(4)])
    with pytest.raises(RunError, match=rf"in {tmp_path} are damaged: shard_00000.safetensors cannot be read: .*error"):
        samples.batch(torch.arange(4))
    samples.close()


def test_the_signals_of_the_process_are_left_alone(tmp_path: Path) -> None:
    """The engine may be embedded in somebody's simulator, whose signals are its own."""
    script = f"""
        import ctypes, pathlib, signal
        import torch
        from cache_cases import Numbered
        from hyco_engine.builtin.caches.disk import Disk

        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]

        def handlers():
            found = []
            for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
                found.append(libc.signal(number, None))
                libc.signal(number, found[-1])
            return found

        before = handlers()
        samples = Disk().hold(Numbered(10), pathlib.Path({str(tmp_path)!r}))
        samples.upcoming([torch.arange(4)])
        samples.batch(torch.arange(4))
        assert handlers() == before
        samples.close()
        assert handlers() == before
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, env=environment, text=True
    )
    assert ended.returncode == 0, ended.stderr
