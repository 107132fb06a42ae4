"""Several ranks prepare the data in turn: who loads and writes what, the same bits, and the errors of one process."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, numbered
from test_process_group import free_port
from tiny_specs import HEAT_HYBRID, heat_on_disk

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data import keeping
from hyco_engine.data.joined import JoinedSource
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import Noise, Observe, Split
from hyco_engine.errors import DataError
from hyco_engine.interfaces import Trajectory
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.testing.ranks import on_ranks

COUNT = 5


@attrs.define(kw_only=True)
class Grouped(ListSource):
    """A source that reads its simulations in groups of `size`."""

    size: int = 1

    def together(self, index: int) -> range:
        start = index - index % self.size
        return range(start, start + self.size)


@attrs.frozen(kw_only=True)
class Prepared:
    """What a rank has prepared: the `trajectories`, which simulations it `loaded`, and what it told."""

    trajectories: tuple[Trajectory, ...]
    loaded: list[int]
    told: list[tuple[int, int]]


def source(spoilt: tuple[int, ...] = (), size: int = 1) -> Grouped:
    """A source of simulations, of which those that are `spoilt` hold a value that is not finite."""
    trajectories = [numbered(6, index) for index in range(COUNT)]
    for index in spoilt:
        trajectories[index].dynamic[2, 0, 3] = torch.inf
    return Grouped(trajectories=trajectories, size=size)


def prepare(runtime: Runtime, cache: Path | None, own: Grouped | None = None, **keys: Any) -> Prepared:
    """Prepare the data on a rank, by a source of its own."""
    own = own or source()
    writes = keys.pop("writes", True)
    manager = DataManager(own, choice(split=Split(test="4:"), **keys), cache, writes=writes, runtime=runtime)
    told: list[tuple[int, int]] = []
    manager.prepare(lambda done, total: told.append((done, total)))
    return Prepared(trajectories=manager.trajectories, loaded=own.loaded, told=told)


def same(found: Prepared, other: Prepared) -> bool:
    return len(found.trajectories) == COUNT and all(
        torch.equal(mine.dynamic, theirs.dynamic) and torch.equal(mine.static, theirs.static)
        for mine, theirs in zip(found.trajectories, other.trajectories, strict=True)
    )


def files(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / "tensors" / "data").glob("*.safetensors"))}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The entries that each thread writes."""
    by_thread: dict[str, list[str]] = {}
    plain = keeping.write_entry

    def write_entry(path: Path, *given: Any) -> None:
        by_thread.setdefault(threading.current_thread().name, []).append(path.name.partition("-")[0])
        plain(path, *given)

    monkeypatch.setattr(keeping, "write_entry", write_entry)
    return by_thread


@pytest.mark.parametrize(
    ("ranks", "size", "loaded"),
    [
        (2, 1, [[0, 2, 4], [1, 3]]),
        (3, 1, [[0, 3], [1, 4], [2]]),
        (2, 2, [[0, 1, 4], [2, 3]]),
        (2, COUNT, [[0, 1, 2, 3, 4], []]),
        (8, 1, [[0], [1], [2], [3], [4], [], [], []]),
    ],
)
def test_each_simulation_is_loaded_once(ranks: int, size: int, loaded: list[list[int]], tmp_path: Path) -> None:
    alone = prepare(Single(), tmp_path / "alone")
    found = on_ranks(ranks, lambda runtime: prepare(runtime, tmp_path / "cache", source(size=size)))
    assert [one.loaded for one in found] == loaded
    assert all(same(one, alone) for one in found)
    assert files(tmp_path / "cache") == files(tmp_path / "alone")
    # each rank tells how many it has, and rank 0 in the order of one process
    assert [one.told for one in found] == [[(k + 1, COUNT) for k in range(COUNT)]] * ranks
    again = on_ranks(ranks, lambda runtime: prepare(runtime, tmp_path / "cache", source(size=size)))
    assert [one.loaded for one in again] == [[]] * ranks
    assert all(same(one, alone) for one in again)


def test_what_is_observed_is_made_in_turn(tmp_path: Path, written: dict[str, list[str]]) -> None:
    observe = Observe(noise=Noise(level=0.1))
    alone = prepare(Single(), tmp_path / "alone", observe=observe)
    written.clear()
    found = on_ranks(2, lambda runtime: prepare(runtime, tmp_path / "cache", observe=observe))
    assert written == {
        f"rank {rank}": [f"{kind}_{index:06d}" for kind in ("sim", "observed") for index in range(rank, COUNT, 2)]
        for rank in (0, 1)
    }
    assert all(same(one, alone) for one in found)
    assert files(tmp_path / "cache") == files(tmp_path / "alone")
    assert not same(alone, prepare(Single(), tmp_path / "alone"))


WITHOUT = {
    "no cache": lambda folder, rank: (None, True),
    "a cache that stays": lambda folder, rank: (folder / "shared", False),
    "a cache of each rank": lambda folder, rank: (folder / f"rank{rank}", True),
}


@pytest.mark.parametrize("where", WITHOUT.values(), ids=WITHOUT)
def test_without_a_shared_cache_each_rank_loads_all(
    where: Callable[[Path, int], tuple[Path | None, bool]], tmp_path: Path
) -> None:
    def work(runtime: Runtime) -> Prepared:
        cache, writes = where(tmp_path, runtime.rank)
        return prepare(runtime, cache, writes=writes)

    found = on_ranks(2, work)
    # the own ones first, of each turn
    assert [one.loaded for one in found] == [[0, 1, 2, 3, 4], [1, 0, 3, 2, 4]]
    assert same(found[0], found[1])
    assert same(found[0], prepare(Single(), None))
    # rank 0 alone makes a folder
    assert {path.name: len(files(path)) for path in tmp_path.iterdir()} in ({}, {"rank0": COUNT})


@pytest.mark.parametrize(
    ("spoilt", "loaded"),
    [((3,), [[0, 2, 3], [1, 3, 3]]), ((2, 3), [[0, 2, 2], [1, 3, 2]]), ((4,), [[0, 2, 4, 4], [1, 3, 4]])],
    ids=["of rank 1", "of both", "of rank 0"],
)
def test_a_mistake_in_the_data_is_told_as_in_one_process(
    spoilt: tuple[int, ...], loaded: list[list[int]], tmp_path: Path
) -> None:
    def told(runtime: Runtime, cache: Path) -> tuple[str, list[int]]:
        own = source(spoilt)
        with pytest.raises(DataError) as caught:
            prepare(runtime, cache, own)
        return str(caught.value), own.loaded

    message, _ = told(Single(), tmp_path / "alone")
    assert f"simulation {spoilt[0]}" in message
    assert on_ranks(2, lambda runtime: told(runtime, tmp_path / "cache")) == [(message, own) for own in loaded]
    # nobody wrote what is spoilt, and the folder is free for the next run
    assert not {f"sim_{index:06d}" for index in spoilt} & {name.partition("-")[0] for name in files(tmp_path / "cache")}
    assert prepare(Single(), tmp_path / "cache").loaded[0] == spoilt[0]


def test_a_disk_that_is_full_for_another_rank_costs_no_second_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = keeping.write_entry

    def write_entry(*given: Any) -> None:
        if threading.current_thread().name == "rank 1":
            raise OSError("the disk is full")
        plain(*given)

    monkeypatch.setattr(keeping, "write_entry", write_entry)
    found = on_ranks(2, lambda runtime: prepare(runtime, tmp_path))
    assert [one.loaded for one in found] == [[0, 1, 2, 3, 4], [1, 3]]
    assert same(found[0], found[1])
    assert len(files(tmp_path)) == COUNT


def test_a_damaged_entry_is_built_by_the_rank_whose_turn_it_is(tmp_path: Path) -> None:
    prepare(Single(), tmp_path)
    good = files(tmp_path)
    spoilt = sorted((tmp_path / "tensors" / "data").glob("sim_000003-*"))[0]
    spoilt.write_bytes(b"nothing")
    found = on_ranks(2, lambda runtime: prepare(runtime, tmp_path))
    assert [one.loaded for one in found] == [[], [3]]
    assert all(same(one, prepare(Single(), None)) for one in found)
    assert files(tmp_path) == good


# --- what sources read in one go ---


def test_sources_tell_what_they_read_in_one_go(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 8))
    np.savez(tmp_path / "u.npz", u=values)
    np.save(tmp_path / "u.npy", values)

    def opened(path: Path | list[str]) -> Any:
        data = {"kind": "arrays", "path": path if isinstance(path, list) else str(path), "dt": 0.1, "axes": "stx"}
        data |= {"bounds": {"x": [0.0, 1.0]}, "boundary": "periodic"}
        engine = hyco.Engine({"data": data, "synthetic": {"kind": "resnet"}})
        return Assembler(engine.spec, engine.registry).source()

    whole, pieces = opened(tmp_path / "u.npz"), opened(tmp_path / "u.npy")
    for _ in range(2):
        assert [whole.together(index) for index in range(3)] == [range(3)] * 3
        assert [pieces.together(index) for index in range(3)] == [range(k, k + 1) for k in range(3)]
        # what is held already changes nothing
        whole.load(1)
    joined = JoinedSource([whole, pieces, whole], ["a", "b", "c"])
    told = [joined.together(index) for index in range(9)]
    assert told == [range(3)] * 3 + [range(k, k + 1) for k in (3, 4, 5)] + [range(6, 9)] * 3


def test_simulations_that_are_made_together_stay_together() -> None:
    spec: dict[str, Any] = copy.deepcopy(HEAT_HYBRID) | {"physical": {"kind": "heat", "compile": "eager"}}
    spec["data"] |= {"num_simulations": 40, "split": {"train": "0:20", "val": "20:30", "test": "30:40"}}
    del spec["training"], spec["synthetic"]
    engine = hyco.Engine(spec)
    source = Assembler(engine.spec, engine.registry).source()
    assert {source.together(index) for index in range(40)} == {range(32), range(32, 40)}  # type: ignore[union-attr]


# --- runs ---


def test_a_signal_to_a_rank_ends_the_preparation_of_all(tmp_path: Path) -> None:
    spec = copy.deepcopy(HEAT_HYBRID) | {"run": {"cycles": 1, "shards": 2}}
    spec |= {"physical": {"kind": "heat", "compile": "eager"}, "paths": {"cache": str(tmp_path / "cache")}}
    spec["augmentation"] = {"kind": "count"}

    def work(runtime: Runtime) -> str:
        with pytest.raises(KeyboardInterrupt) as caught:
            hyco.Engine(copy.deepcopy(spec), runtime=runtime).run(
                tmp_path / "run", stop=lambda: "SIGTERM" if runtime.rank == 1 else None
            )
        assert isinstance(caught.value, Interrupted) == (runtime.rank == 1)
        return str(caught.value)

    assert on_ranks(2, work) == ["interrupted by SIGTERM"] * 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("mask", [{}, {"value": "nan"}], ids=["counted before", "counted when read"])
def test_a_mistake_in_the_data_ends_a_run_as_in_one_process(mask: dict[str, str], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 6, 8))
    values[1, 2, 3] = np.inf
    np.save(tmp_path / "u.npy", values)
    data = {"kind": "arrays", "path": str(tmp_path / "u.npy"), "dt": 0.1, "axes": "stx", "boundary": "periodic"}
    data |= {"bounds": {"x": [0.0, 1.0]}, "split": HEAT_HYBRID["data"]["split"]}
    data |= {"observe": {"mask": mask}} if mask else {}
    spec = copy.deepcopy(HEAT_HYBRID) | {"data": data, "physical": {"kind": "heat"}, "run": {"shards": 2}}
    spec |= {"paths": {"cache": str(tmp_path / "cache")}, "augmentation": {"kind": "count"}}

    def told(runtime: Runtime) -> str:
        with pytest.raises(DataError) as caught:
            hyco.Engine(copy.deepcopy(spec), runtime=runtime).run(tmp_path / "run")
        return str(caught.value)

    message = told(Single())
    assert "simulation 1" in message
    assert on_ranks(2, told) == [message] * 2
    assert not (tmp_path / "run").exists()


SCRIPT = """
import os, sys
from hyco_engine.cli import main
from hyco_engine.data import keeping

plain = keeping.write_entry

def write_entry(path, *given):
    plain(path, *given)
    with open("written" + os.environ.get("RANK", ""), "a") as file:
        print(path.name.partition("-")[0], file=file)

keeping.write_entry = write_entry
sys.argv = ["hyco-engine", "run", "spec.toml", "--quiet", "--run-dir", "run"]
main()
"""


def processes(folder: Path, ranks: int) -> tuple[list[int], list[str]]:
    """Run the spec in a folder; return the exit codes of the processes, and the errors that rank 0 prints."""
    port = str(free_port())
    started = []
    for rank in range(ranks):
        given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if ranks > 1:
            given |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            given |= {"HYCO_ENGINE_RANK_TIMEOUT_S": "120"}
        command = [sys.executable, "-c", SCRIPT]
        started.append(subprocess.Popen(command, cwd=folder, env=os.environ | given, stderr=subprocess.PIPE, text=True))
    told = [one.communicate(timeout=240)[1] for one in started]
    errors = [line.replace(str(folder), "") for line in told[0].splitlines() if "error" in line or "Traceback" in line]
    return [one.returncode for one in started], errors


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [None, 1], ids=["good", "spoilt"])
def test_processes_prepare_in_turn(spoilt: int | None, tmp_path: Path) -> None:
    values = np.cos(np.linspace(0, 2 * np.pi, 8, endpoint=False)) * np.exp(-0.1 * np.arange(6))[:, None]
    data = np.stack([k * values for k in range(1, 4)])
    if spoilt is not None:
        data[spoilt, 3, 2] = np.inf
    simulated = heat_on_disk(cycles=1, epochs=1)
    head, _, rest = simulated.partition("[data]")
    arrays = '[data]\nkind = "arrays"\npath = "u.npy"\ndt = 0.01\naxes = "stx"\nbounds.x = [0.0, 1.0]\n'
    arrays += 'boundary = "periodic"\nsplit = {train = "0:1", val = "1:2", test = "2:3"}\n[physical]'
    spec = head + "shards = 2\n" + arrays + rest.partition("[physical]")[2] + '[paths]\ncache = "cache"\n'
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        np.save(folder / "u.npy", data)
        (folder / "spec.toml").write_text(spec)
        found.append(processes(folder, ranks))
    (codes, told), (both, told_by_two) = found
    assert both == codes * 2 == [0 if spoilt is None else 2] * 2
    assert told_by_two == told
    # the mistake is in what rank 1 takes, so nobody writes it, nor what would come after
    indices = (["0", "2"], ["1"]) if spoilt is None else (["0"], [])
    for rank, own in enumerate(indices):
        there = tmp_path / "2" / f"written{rank}"
        assert (there.read_text().split() if there.exists() else []) == [f"sim_00000{index}" for index in own]
    if spoilt is None:
        summaries = [json.loads((tmp_path / k / "run" / "summary.json").read_text()) for k in ("1", "2")]
        assert summaries[0]["metrics"] == summaries[1]["metrics"]
    else:
        assert [line.partition(": /u.npy")[0] for line in told] == ["error: spec.toml:5: data"]
        assert not (tmp_path / "2" / "run").exists()
