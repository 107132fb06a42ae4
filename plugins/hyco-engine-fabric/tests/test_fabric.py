"""Runs on processes of Lightning Fabric: the bits of one process, interruptions, and what is told of mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hyco_engine_fabric import FabricRuntime
from lightning_fabric import Fabric

from hyco_engine.ranks.runtime import RankFailed

SPEC = Path(__file__).parents[1] / "fabric.toml"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HYCO_ENGINE_RANK_TIMEOUT_S", "120")
    # the other ranks are new processes, which find the plugin where this one does
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def fabric(*arguments: str | Path, devices: int = 2) -> subprocess.Popen[str]:
    return started("hyco_engine_fabric", SPEC, *arguments, "--accelerator", "cpu", "--devices", str(devices))


def weights(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(run, "weights").iterdir())}


def test_two_processes_end_with_the_bits_of_one_and_an_interrupted_run_goes_on() -> None:
    longer = ("--set", "training.synthetic.epochs_per_cycle=30")
    alone = started("hyco_engine", "run", SPEC, "--run-dir", "alone", *longer)
    assert alone.communicate(timeout=300) is not None
    assert alone.returncode == 0
    first = fabric("--run-dir", "shared", *longer)
    while not Path("shared/metrics.jsonl").is_file():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    told, errors = first.communicate(timeout=300)
    assert first.returncode == 130, told + errors
    assert "interrupted by SIGTERM; the same command goes on" in errors
    assert list(Path("shared/checkpoints").glob("*.json"))
    again = fabric("--run-dir", "shared", *longer)
    told, errors = again.communicate(timeout=300)
    assert (again.returncode, told.splitlines()[-1]) == (0, "completed: shared"), errors
    assert weights("shared") == weights("alone")


def test_a_rank_that_is_killed_ends_the_other_one() -> None:
    process = fabric("--run-dir", "killed", "--set", "training.synthetic.epochs_per_cycle=100000")
    while not Path("killed/metrics.jsonl").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (other,) = _children(process.pid)
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    # Fabric watches its processes
    assert f"PID {other} terminated with code -9" in errors


def test_a_mistake_is_told_once_before_anything_starts() -> None:
    process = fabric("--run-dir", "run", "--set", "run.cycles=-1")
    told, errors = process.communicate(timeout=120)
    assert (process.returncode, told) == (2, "")
    assert errors.count("error: ") == 1
    assert not Path("run").exists()


def test_one_process_has_nobody_to_meet() -> None:
    alone = Fabric(accelerator="cpu", devices=1)
    alone.launch()
    runtime = FabricRuntime(alone)
    assert (runtime.rank, runtime.size) == (0, 1)
    values = torch.tensor([True, False])
    assert runtime.gather(values)[0] is values
    assert runtime.broadcast(b"word") == b"word"
    assert runtime.broadcast(b"") == b""
    assert torch.equal(runtime.fast_sum(torch.ones(2)), torch.ones(2))


def test_who_is_gone_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Fabric(accelerator="cpu", devices=1)
    alone.launch()
    runtime = FabricRuntime(alone)
    runtime.size = 2

    def closed(*values: object, **options: object) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nand a stack")

    monkeypatch.setattr(alone, "all_gather", closed)
    monkeypatch.setattr(alone, "all_reduce", closed)
    for meeting in (runtime.gather, runtime.fast_sum):
        with pytest.raises(RankFailed) as error:
            meeting(torch.ones(1))
        assert str(error.value) == "another rank has ended or does not answer: Connection closed by peer [127.0.0.1]:1"


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children() if "hyco_engine_fabric" in " ".join(child.cmdline())]
