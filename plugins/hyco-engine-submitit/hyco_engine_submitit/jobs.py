"""The job of a member, and its submission.

All state of a sweep is in its folder, so a job is no more than the command that runs one member, or goes on with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import Executor, Job
from submitit.helpers import Checkpointable, DelayedSubmission

from hyco_engine.sweeping import Member, open_sweep

LOGS = "submitit"
"""The folder, within that of the sweep, in which submitit keeps its jobs and what they print."""


class MemberJob(Checkpointable):  # type: ignore[misc] # submitit has no types here
    """Runs one member of the sweep in `folder`, with further `options` of `hyco-engine sweep`."""

    def __init__(self, folder: str, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self.options = list(options)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, number: int) -> int:
        """Return the exit code."""
        command = [sys.executable, "-m", "hyco_engine", "sweep", self.folder, "--resume", "--member", str(number)]
        self._process = subprocess.Popen([*command, *self.options], env=_environment())
        return self._process.wait()

    def checkpoint(self, number: int) -> DelayedSubmission:
        """End the run with a checkpoint, since the job's time is over; the job is queued again, and goes on from it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(MemberJob(self.folder, self.options), number)


def _environment() -> dict[str, str]:
    """Return the environment without SLURM's tasks: a member is one process, whatever the job has."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_STEP", "SLURM_PROCID"))}


def submit(folder: Path, executor: Executor, options: Sequence[str] = ()) -> list[tuple[Member, Job[Any]]]:
    """Submit all members that neither are completed nor run, as one array of jobs; return each with its job."""
    sweep = open_sweep(folder)
    waiting = [
        (number, member)
        for number, member in enumerate(sweep.members)
        if sweep.status(member) not in ("completed", "running")
    ]
    if not waiting:
        return []
    numbers = [number for number, _ in waiting]
    jobs = executor.map_array(MemberJob(str(folder.absolute()), options), numbers)
    return [(member, job) for (_, member), job in zip(waiting, jobs, strict=True)]
