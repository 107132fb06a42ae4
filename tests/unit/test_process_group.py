"""Real processes, which meet through torch.distributed: what they exchange, and how they hear of each other's end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from messages import error_naming
from torch.testing._internal.distributed.fake_pg import FakeStore

from hyco_engine.errors import SpecError
from hyco_engine.ranks import process_group
from hyco_engine.ranks.environment import Place, first_node, place, timeout
from hyco_engine.ranks.runtime import Single
from hyco_engine.ranks.shards import Shards, shards_for
from hyco_engine.testing.ranks import on_ranks

PROGRAM = """
import os, sys, time
import torch
from hyco_engine.parts import runtime_here
with runtime_here() as here:
    found = here.gather(torch.tensor([True, here.rank == 0]))
    assert [one.tolist() for one in found] == [[True, True], [True, False]], found
    assert here.sum(torch.tensor([0.1 + here.rank])).tolist() == [torch.tensor([0.1 + 1.1]).item()]
    given = torch.tensor([[1.5, 2.0], [here.rank, 0.5]]).t()
    assert here.fast_sum(given).tolist() == [[3.0, 1.0], [4.0, 1.0]]
    assert given[0, 1].item() == here.rank
    assert here.broadcast(b"from 0" if here.rank == 0 else b"") == b"from 0"
    here.barrier()
    here.agree("the state", b"same")
    try:
        here.agree("the state", b"0" if here.rank == 0 else b"1")
        raise AssertionError("nobody noticed")
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    how = sys.argv[1]
    try:
        if here.rank == 1 and how == "raises":
            raise ValueError("no more iron")
        if here.rank == 1 and how == "dies":
            os._exit(9)
        if here.rank == 1 and how == "sleeps":
            time.sleep(8)
            os._exit(9)
        here.barrier()
    except Exception as error:
        here.tell(error, 3, "train_physical of cycle 2")
        print(type(error).__name__, error, getattr(error, "exit_code", None), flush=True)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def started(
    rank: int,
    port: int,
    how: str,
    seconds: str = "60",
    *,
    size: int = 2,
    program: str = PROGRAM,
    names: tuple[str, str] = ("RANK", "WORLD_SIZE"),
) -> subprocess.Popen[str]:
    given = dict(zip(names, (str(rank), str(size)), strict=True))
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    given |= {"HYCO_ENGINE_RANK_TIMEOUT_S": seconds, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", program, how], env=os.environ | given, stdout=subprocess.PIPE, text=True
    )


COMES_AND_DIES = """
import os, sys
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, False, timedelta(seconds=60))
store.set("/".join(["here", "1"]), "yes")
store.get("here/0")
os._exit(9)
"""
MEETS = """
from hyco_engine.ranks import process_group
from hyco_engine.parts import runtime_here
process_group.CONNECTED_S = 2.0
try:
    runtime_here()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_rank_that_dies_while_all_connect_is_not_waited_for() -> None:
    """A rank that has come and then dies would else be waited for as long as one that has not come yet."""
    port = free_port()
    # srun has no store of its own
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    first = started(0, port, "", "1800", program=MEETS, names=names)
    other = started(1, port, "", program=COMES_AND_DIES)
    told = first.communicate(timeout=60)[0]
    other.communicate(timeout=60)
    assert other.returncode == 9
    assert told.startswith(f"RunError rank 0 of 2 could not meet the others at 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "RankFailed rank 1 failed in train_physical of cycle 2: no more iron 3"),
        ("dies", "RankFailed rank 1 ended without a word: it was killed, perhaps for memory, or its machine failed 1"),
        pytest.param(
            "sleeps",
            "RankFailed rank 1 did not answer within 4 s, the time that HYCO_ENGINE_RANK_TIMEOUT_S allows: look at "
            "what it does there, or allow more 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rank_0_tells_how_another_rank_ended(how: str, told: str) -> None:
    port = free_port()
    both = [started(rank, port, how, "4" if how == "sleeps" else "60") for rank in (0, 1)]
    lines = both[0].communicate(timeout=120)[0].splitlines()
    both[1].communicate(timeout=120)
    assert lines == [
        "RunError the state of rank 1 and of rank 0 differ: a part of the run depends on the process that it runs in, "
        "such as on its time, its files, or random numbers of its own",
        told,
    ]


def test_processes_of_srun_meet_too() -> None:
    port, names = free_port(), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    both = [started(rank, port, "raises", names=names) for rank in (0, 1)]
    lines = both[0].communicate(timeout=120)[0].splitlines()
    both[1].communicate(timeout=120)
    assert lines[1:] == ["RankFailed rank 1 failed in train_physical of cycle 2: no more iron 3"]


RING = """
import os
import torch
from hyco_engine.parts import runtime_here
with runtime_here() as here:
    here.barrier()
    if here.rank == 2:
        os._exit(9)
    try:
        here.gather(torch.zeros(1000))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.slow
def test_who_waits_for_a_rank_that_has_failed_notices_it() -> None:
    """Rank 0 of four waits for neighbours in a ring that are alive when they give up, and wait for rank 0 to end."""
    port = free_port()
    ranks = [started(rank, port, "", size=4, program=RING) for rank in range(4)]
    told = [ranks[rank].communicate(timeout=process_group.ENDING_S - 10)[0].splitlines() for rank in (0, 1, 3)]
    ranks[2].communicate()
    assert all(line.startswith("RankFailed rank 2 ended without a word: ") for (line,) in told), told


class Everybody(FakeStore):
    """A store to which all ranks have come."""

    def set(self, key: str, value: str) -> None:
        pass

    def wait(self, keys: list[str], timeout: Any) -> None:
        pass


def test_the_traffic_of_a_thousand_processes_is_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch's fake process group of 1024, which exchanges nothing; docs/processes.md has the numbers."""
    size, weights, parameters, samples = 1024, 1000, 10, 1024
    begin = dist.init_process_group
    monkeypatch.setattr(process_group, "rendezvous", lambda *given, **more: iter([(Everybody(), 0, size)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **more: begin("fake", **more))
    # what is fake has no time to set
    monkeypatch.setattr(dist.distributed_c10d, "_set_pg_timeout", lambda timeout: None)
    received: list[int] = []
    for name in ("all_gather", "all_reduce"):
        plain = getattr(dist, name)

        def counted(values: Any, *given: Any, plain: Any = plain) -> None:
            received.append(sum(one.nbytes for one in (values if isinstance(values, list) else [values, values])))
            plain(values, *given)

        monkeypatch.setattr(dist, name, counted)
    here = Place(starter="srun", rank=0, size=size, local_rank=0, host="127.0.0.1", port=1)
    with process_group.ProcessGroup(here, timeout_s=10) as runtime:
        exact, fast = Shards(size, runtime), Shards(size, runtime, exact=False)
        exact.sum([torch.zeros(weights)])
        fast.sum([torch.zeros(weights)])
        exact.sum([torch.zeros(1, parameters**2 + parameters + 1, dtype=torch.float64)])
        exact.joined(torch.zeros(1, 2, dtype=torch.float64), samples)
    assert received == [
        4 * size * weights,
        8 * weights,
        8 * size * (parameters**2 + parameters + 1),
        16 * samples,
    ]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "1234"}
SRUN = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[03,07-09]",
    "MASTER_PORT": "1234",
}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        # the script of a job for several tasks is one process
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        (TORCHRUN, Place(starter="torchrun", rank=3, size=4, local_rank=1, host="node7", port=1234)),
        (SRUN, Place(starter="srun", rank=2, size=8, local_rank=0, host="gpu03", port=1234)),
        (MPIRUN, Place(starter="mpirun", rank=1, size=2, local_rank=0, host="127.0.0.1", port=20000)),
    ],
    ids=["nothing", "one process", "a job's script", "torchrun", "srun", "mpirun"],
)
def test_the_starter_of_the_processes_is_known(environment: Mapping[str, str], found: Place | None) -> None:
    assert place(environment) == found


@pytest.mark.parametrize(
    ("nodes", "first"), [("a1", "a1"), ("a1,b2", "a1"), ("node[07-09,12]", "node07"), ("n[1,3]-ib,m2", "n1-ib")]
)
def test_the_first_of_a_list_of_machines(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_what_the_environment_lacks_is_named() -> None:
    with error_naming(SpecError, "which must be a number", key="RANK"):
        place(TORCHRUN | {"RANK": "first"})
    with error_naming(SpecError, "does not say where they meet", key="MASTER_ADDR"):
        place(MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    with error_naming(SpecError, "must be a number of seconds", key="HYCO_ENGINE_RANK_TIMEOUT_S"):
        timeout({"HYCO_ENGINE_RANK_TIMEOUT_S": "soon"})


def test_shards_that_are_left_open_suit_the_processes() -> None:
    assert shards_for("auto", Single()) == 1
    assert [shards_for("auto", one) for one in map(_of_size, (2, 8, 16))] == [8, 8, 16]
    with error_naming(SpecError, "3 processes cannot share 8 shards: start 1, 2, 4, 8 of", key="run.shards"):
        shards_for("auto", _of_size(3))


def _of_size(size: int) -> Single:
    runtime = Single()
    runtime.size = size
    return runtime


def test_every_sample_is_in_one_shard() -> None:
    for samples in (1, 3, 8, 13, 64):
        ends = Shards(8).cut(samples)
        sizes = [stop - start for start, stop in ends]
        assert [start for start, _ in ends[1:]] == [stop for _, stop in ends[:-1]]
        assert sum(sizes) == samples
        assert max(sizes) - min(sizes) <= 1
        # ranks have as much to do as one another
        halves = on_ranks(2, lambda runtime, sizes=sizes: sum(sizes[k] for k in Shards(8, runtime).own))
        assert abs(halves[0] - halves[1]) <= 1
