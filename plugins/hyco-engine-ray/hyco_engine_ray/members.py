"""Members of a sweep as tasks of Ray.

All state of a sweep is in its folder, so a task is no more than the command that runs one member, or goes on with it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import ray

from hyco_engine.sweeping import Member, Sweep

LOST = 3
"""Ray starts a task again so many times if the machine or the process under it was lost."""


def run_members(
    sweep: Sweep, *, cores: int = 1, gpus: float = 0, options: Sequence[str] = ()
) -> Iterator[tuple[Member, str]]:
    """Run all members that neither are completed nor run, as tasks of the Ray cluster to which this process belongs.

    Yields each member with its status as its run ends. Each takes this many cores and GPUs; `options` are further ones
    of `hyco-engine sweep`.
    """
    task = ray.remote(_run).options(num_cpus=cores, num_gpus=gpus, max_retries=LOST)
    left = {
        task.remote(str(sweep.folder.absolute()), number, list(options)): member
        for number, member in enumerate(sweep.members)
        if sweep.status(member) not in ("completed", "running")
    }
    try:
        while left:
            (done, *_), _ = ray.wait(list(left))
            member = left.pop(done)
            # what the member's run says counts, and not what Ray says of the task
            yield member, sweep.status(member)
    finally:
        for task_left in left:
            ray.cancel(task_left)


def _run(folder: str, number: int, options: Sequence[str]) -> int:
    """Run a member in a process of its own, and return its exit code."""
    command = [sys.executable, "-m", "hyco_engine", "sweep", folder, "--resume", "--member", str(number), *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        # a task that is cancelled asks its run to end with a checkpoint
        if process.poll() is None:
            process.terminate()
            process.wait()
