"""What a starter of processes tells each of them: its rank, their number, and where they meet."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.ranks.runtime import Runtime, Single

TIMEOUT_VARIABLE = "HYCO_ENGINE_RANK_TIMEOUT_S"
"""The variable that says how many seconds a rank waits for the others."""
TIMEOUT_S = 1800.0


@attrs.frozen(kw_only=True)
class Place:
    """The place of one process among `size`; they meet at `host` and `port`."""

    starter: str
    rank: int
    size: int
    local_rank: int
    host: str
    port: int


def place(environment: Mapping[str, str]) -> Place | None:
    """Return the place that torchrun, srun or OpenMPI's mpirun gave this process; None if it is alone.

    Raises SpecError if a part of it is missing.
    """
    found = _torchrun(environment) or _slurm(environment) or _open_mpi(environment)
    return found if found is not None and found.size > 1 else None


def runtime_here() -> Runtime:
    """Return the runtime of this process, as torchrun, srun or mpirun started it; one process alone has nobody to meet.

    Use it as a context, at whose end the process parts from the others.
    """
    return runtime_at(place(os.environ))


def runtime_at(here: Place | None) -> Runtime:
    """Return the runtime of a process at this place, which meets the others there."""
    if here is None:
        return Single()
    from hyco_engine.ranks.process_group import ProcessGroup

    return ProcessGroup(here, timeout_s=timeout(os.environ))


def _torchrun(environment: Mapping[str, str]) -> Place | None:
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return None
    return Place(
        starter="torchrun",
        rank=_number(environment, "RANK"),
        size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK", 0),
        host=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environment, "MASTER_PORT", 29500),
    )


def _slurm(environment: Mapping[str, str]) -> Place | None:
    # sbatch sets the number of tasks for its script too, which is one process; only srun counts the tasks of a step
    if "SLURM_STEP_NUM_TASKS" not in environment or "SLURM_PROCID" not in environment:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    name = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
    return Place(
        starter="srun",
        rank=_number(environment, "SLURM_PROCID"),
        size=_number(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environment, "SLURM_LOCALID", 0),
        host=environment.get("MASTER_ADDR", first_node(nodes)),
        port=_number(environment, "MASTER_PORT", _port(name)),
    )


def _open_mpi(environment: Mapping[str, str]) -> Place | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment or "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    size = _number(environment, "OMPI_COMM_WORLD_SIZE")
    here = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", size)
    if here != size and "MASTER_ADDR" not in environment:
        raise SpecError(
            "mpirun started processes on several machines and does not say where they meet: add -x MASTER_ADDR=<the "
            "first machine>",
            key="MASTER_ADDR",
        )
    name = environment.get("PMIX_NAMESPACE", environment.get("OMPI_MCA_ess_base_jobid", ""))
    return Place(
        starter="mpirun",
        rank=_number(environment, "OMPI_COMM_WORLD_RANK"),
        size=size,
        local_rank=_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0),
        host=environment.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(environment, "MASTER_PORT", _port(name)),
    )


def first_node(nodes: str) -> str:
    """Return the first machine of SLURM's list of them, such as `node[07-09,12]` or `a1,b[2,5]`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise SpecError(f"SLURM's list of nodes {nodes!r} cannot be read: set MASTER_ADDR", key="MASTER_ADDR")
    return "".join(part or "" for part in found.groups())


def _port(name: str) -> int:
    """Return a port that follows from the name of a job, so that two jobs on one machine rarely meet at one."""
    return 20000 + zlib.crc32(name.encode()) % 20000


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise SpecError(f"the environment has {name} = {text!r}, which must be a number", key=name) from None


def timeout(environment: Mapping[str, str]) -> float:
    """Return how many seconds a rank waits for the others. Raises SpecError if the environment has no such number."""
    text = environment.get(TIMEOUT_VARIABLE)
    try:
        seconds = TIMEOUT_S if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise SpecError(f"{TIMEOUT_VARIABLE} = {text!r} must be a number of seconds", key=TIMEOUT_VARIABLE)
    return seconds
