"""The engine needs nothing that only POSIX has: to import, to run, to lock, to be asked to end, to look at memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

TAKEN_AWAY = """
    import os, signal, sys
    import filelock, matplotlib.pyplot, phi.torch.flow, psutil, torch  # they know the system they are on

    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[name] = None
    for name in ("fork", "pread", "preadv", "pwrite", "pwritev", "O_NOFOLLOW", "O_CLOEXEC", "sched_getaffinity"):
        vars(os).pop(name, None)
    for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGBUS", "SIGALRM"):
        vars(signal).pop(name, None)
"""

SPEC = """
[run]
name = "small"
cycles = 1
[data]
kind = "simulate"
truth = {nu = 0.02}
num_simulations = 4
num_frames = 6
resolution = {x = 16}
dt = 0.02
split = {train = "0:2", val = "2:3", test = "3:4"}
[physical]
kind = "burgers"
compile = "graph"
[synthetic]
kind = "resnet"
width = 4
blocks = 1
[augmentation]
kind = "count"
alpha = 1.0
[augmentation.cache]
kind = "disk"
[training.synthetic]
epochs_per_cycle = 1
[training.physical]
epochs_per_cycle = 1
"""

RUN = """
    import hyco_engine as hyco
    from hyco_engine.resources import limit_text
    from hyco_engine.runs.listing import list_runs
    from hyco_engine.runs.signals import stop_on_signals

    with stop_on_signals() as stop:
        result = hyco.run("spec.toml")
        assert stop() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == "SIGTERM"
    assert result.summary["cache"]["kind"] == "disk"
    assert result.summary["peak_rss_bytes"] > 1e7
    assert limit_text()
    print([run["status"] for run in list_runs(result.folder.parent)])
"""


def test_a_whole_run_without_what_posix_alone_has(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    code = textwrap.dedent(TAKEN_AWAY) + textwrap.dedent(RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, env=environment, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "['completed']\n"), done.stderr
