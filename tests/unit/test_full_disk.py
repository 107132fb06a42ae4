"""A disk that is full, or that nobody may write to, at every phase of a run: told, nothing left over, resumable."""

from __future__ import annotations

import copy
import errno
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_resuming import SPEC, results

import hyco_engine as hyco
from hyco_engine.errors import HycoError
from hyco_engine.interfaces import Tracker

PHASES = ["generate_physical", "train_synthetic", "generate_synthetic", "train_physical"]
CHANGES = {"augmentation.cache.kind": "disk", "run.cycles": 1, "physical.compile": "eager"}


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = not _mount(folder, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, *options: str) -> int:
    return subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode


def fill(folder: Path) -> None:
    """Somebody else takes all that is left."""
    with (folder / "somebody else's").open("ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class FillAt(Tracker):
    def __init__(self, phase: str, folder: Path) -> None:
        self.phase, self.folder = phase, folder

    def phase_started(self, record: Mapping[str, Any]) -> None:
        if record["phase"] == self.phase:
            fill(self.folder)


def run(folder: Path, cache: Path, resume: bool = False, callbacks: Any = ()) -> Any:
    overrides = {**CHANGES, "paths.cache": str(cache)}
    return hyco.Engine(copy.deepcopy(SPEC), overrides=overrides, callbacks=callbacks).run(folder, resume=resume)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "run", folder / "cache")
    return _comparable(folder / "run")


def _comparable(folder: Path) -> dict[str, Any]:
    found = results(folder)
    # where the cache was is no result
    return {"weights": found["weights"], "metrics": found["metrics"]}


@pytest.mark.parametrize("phase", ["generate_physical", "generate_synthetic"])
def test_the_cache_s_disk_is_full(phase: str, disk: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    folder, cache = tmp_path / "run", disk / "cache"
    with pytest.raises(HycoError, match=r"cannot .*/generated.*: No space left on device.* cache") as caught:
        run(folder, cache, callbacks=[FillAt(phase, disk)])
    assert "augmentation.cache.directory" in str(caught.value)
    assert files(cache / "generated") == []
    (disk / "somebody else's").unlink()
    run(folder, cache, resume=True)
    assert _comparable(folder) == whole


@pytest.mark.parametrize("phase", PHASES)
def test_the_run_folder_s_disk_is_full(
    phase: str, disk: Path, tmp_path: Path, whole: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, cache = disk / "run", tmp_path / "cache"
    with pytest.raises(HycoError, match="No space left on device"):
        run(folder, cache, callbacks=[FillAt(phase, disk)])
    assert files(cache / "generated") == []
    assert not list(disk.rglob("*.tmp"))
    (disk / "somebody else's").unlink()
    run(folder, cache, resume=True)
    assert _comparable(folder) == whole
    assert "Traceback" not in capfd.readouterr().err


def test_the_disk_is_full_before_anything_begins(disk: Path, tmp_path: Path) -> None:
    fill(disk)
    with pytest.raises(HycoError, match=r"cannot write to .*tensors.*: .*No space left on device.*; free space or set"):
        run(tmp_path / "run", disk / "cache")
    with pytest.raises(HycoError, match="No space left on device"):
        run(disk / "run", tmp_path / "cache")
    assert not [path for path in disk.rglob("*") if path.suffix in (".safetensors", ".tmp")]
    (disk / "somebody else's").unlink()
    run(disk / "run", disk / "cache", resume=True)


def test_a_disk_that_nobody_may_write_to(disk: Path, tmp_path: Path) -> None:
    assert _mount(disk, "-o", "remount,ro") == 0
    with pytest.raises(
        HycoError, match=r"cannot write to .*tensors.*: Read-only file system; allow writing there or set"
    ):
        run(tmp_path / "run", disk / "cache")
    with pytest.raises(HycoError, match="Read-only file system"):
        run(disk / "other", tmp_path / "cache")
    assert _mount(disk, "-o", "remount,rw") == 0
    run(tmp_path / "run", disk / "cache", resume=True)
