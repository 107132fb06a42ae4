from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_cases import Numbered, equal, everything
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming
from safetensors import safe_open

from hyco_engine.builtin.caches import disk, hyco_caches
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.errors import PluginError, RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples

BACKENDS: dict[str, Callable[[], CacheBackend]] = {
    "memory": Memory,
    "disk": lambda: Disk(shard_bytes=200),
    "on-the-fly": OnTheFly,
    "on-the-fly, no thread": lambda: OnTheFly(prefetch=False),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> CacheBackend:
    return BACKENDS[request.param]()


def test_the_records_build_the_three_backends() -> None:
    records = {record.kind: record for record in hyco_caches()}
    built = {kind: record.factory(record.options(), None) for kind, record in records.items()}
    assert {kind: type(part) for kind, part in built.items()} == {
        "memory": Memory,
        "disk": Disk,
        "on-the-fly": OnTheFly,
    }
    assert records["disk"].factory(records["disk"].options(shard_mb=0.5), None).shard_bytes == 500_000
    with error_naming(ValueError, "> 0"):
        records["disk"].options(shard_mb=0)


def test_closed_samples_say_so(backend: CacheBackend, tmp_path: Path) -> None:
    samples = backend.hold(Numbered(10), tmp_path)
    assert equal(samples[-1], samples[9])
    samples.close()
    with pytest.raises(ValueError, match="closed"):
        samples.batch(torch.tensor([0]))


def test_indices_out_of_range_are_refused(backend: CacheBackend, tmp_path: Path) -> None:
    samples = backend.hold(Numbered(10), tmp_path)
    for wrong in (10, -1, 4000):
        with pytest.raises(IndexError):
            samples.batch(torch.tensor([0, wrong]))
    samples.close()


def test_nothing_to_hold(backend: CacheBackend, tmp_path: Path) -> None:
    samples = backend.hold(Numbered(0), tmp_path)
    assert (len(samples), samples.nbytes) == (0, 0)
    samples.close()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 300),
    generate=st.integers(1, 17),
    train=st.integers(1, 17),
    shard=st.integers(1, 40_000),
    named=st.booleans(),
    announce=st.booleans(),
    seed=st.integers(0, 99),
)
def test_one_epoch_is_the_same_whatever_holds_the_samples(
    count: int,
    size: int,
    generate: int,
    train: int,
    shard: int,
    named: bool,
    announce: bool,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = Numbered(count, size=size, batch_size=generate, named=named)
    order = torch.split(torch.randperm(count, generator=torch.Generator().manual_seed(seed)), train)
    epochs: list[list[Batch]] = []
    for cache in (Memory(), Disk(shard_bytes=shard), OnTheFly()):
        folder = tmp_path_factory.mktemp("cache")
        samples = cache.hold(recipe, folder)
        if announce:
            samples.upcoming(order)
        epochs.append([samples.batch(indices) for indices in order])
        samples.close()
        assert list(folder.iterdir()) == []
    memory, on_disk, on_the_fly = epochs
    assert all(map(equal, memory, on_disk))
    assert all(map(equal, memory, on_the_fly))


def test_nbytes_is_what_is_held(tmp_path: Path) -> None:
    recipe = Numbered(1000, size=64)
    assert recipe.sample_bytes == 64 * 12
    memory = Memory().hold(recipe, None)
    assert memory.nbytes == 1000 * 64 * 12
    on_disk = Disk(shard_bytes=100_000).hold(recipe, tmp_path)
    assert on_disk.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    on_disk.close()
    small, large = torch.arange(3), torch.arange(10)
    for prefetch, blocks in ((True, 2), (False, 1)):
        made = OnTheFly(prefetch=prefetch).hold(recipe, None)
        made.batch(small)
        assert made.nbytes == blocks * 4 * 64 * 12
        made.batch(large)  # put together from three of the recipe's
        assert made.nbytes == (blocks + 1) * 10 * 64 * 12
        made.close()
    assert OnTheFly().hold(Numbered(3, size=64), None).nbytes == 2 * 3 * 64 * 12


@pytest.mark.parametrize("cache", [Memory(), Disk()])
def test_a_recipe_whose_batches_differ_is_a_plugin_s_fault(cache: CacheBackend, tmp_path: Path) -> None:
    class Growing(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            inputs, targets = super().generate(indices)
            assert isinstance(targets, torch.Tensor)
            return inputs, targets.to(torch.float32) if 4 in indices else targets

    with error_naming(PluginError, "Growing", "'target'", [4, 1, 5], "torch.float32"):
        cache.hold(Growing(10), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- on the fly ----------------------------------------------------------------------------------------------


def test_small_batches_are_made_together_up_to_the_recipe_s_batch_size() -> None:
    recipe = Numbered(20, batch_size=6)
    samples = OnTheFly(prefetch=False).hold(recipe, None)
    order = [torch.tensor(part) for part in ([7, 1, 2], [3], [9], [4, 5], [6, 8, 0, 10, 11, 12, 13])]
    samples.upcoming(order)
    for indices in order:
        assert equal(samples.batch(indices), Numbered(20).generate(indices))
    assert recipe.calls == [[7, 1, 2, 3, 9], [4, 5], [6, 8, 0, 10, 11, 12], [13]]


def test_skipped_and_foreign_batches_change_nothing_for_the_others() -> None:
    recipe = Numbered(20, batch_size=6)
    samples = OnTheFly().hold(recipe, None)
    order = [torch.tensor(part) for part in ([7, 1], [2, 3], [4, 5], [6, 8], [9, 10])]
    samples.upcoming(order)
    for position in (1, 3, 4):  # as after a resumed epoch
        assert equal(samples.batch(order[position]), Numbered(20).generate(order[position]))
    assert equal(samples.batch(order[0]), Numbered(20).generate(order[0]))  # passed: made on the spot
    samples.close()
    assert recipe.calls[:2] == [[7, 1, 2, 3, 4, 5], [6, 8, 9, 10]]
    assert recipe.calls[-1] == [7, 1]


def test_the_next_batch_is_made_while_this_one_is_used() -> None:
    class Slow(Numbered):
        threads: set[str]

        def generate(self, indices: torch.Tensor) -> Batch:
            self.threads.add(threading.current_thread().name)
            time.sleep(0.02)
            return super().generate(indices)

    recipe = Slow(40, batch_size=4)
    recipe.threads = set()
    samples = OnTheFly().hold(recipe, None)
    order = torch.split(torch.arange(40), 4)
    samples.upcoming(order)
    samples.batch(order[0])
    before = threading.active_count()
    while len(recipe.calls) < 2:
        time.sleep(0.01)
    samples.batch(order[1])
    while len(recipe.calls) < 3:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(recipe.calls) == 3  # never more than the present batch and the next
    samples.close()
    assert threading.active_count() == before - 1
    assert all(name.startswith("hyco-generate") for name in recipe.threads)


def test_what_fails_in_the_background_fails_where_it_is_asked_for() -> None:
    class Diverging(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            if 5 in indices:
                raise RunError("it diverged")
            return super().generate(indices)

    order = torch.split(torch.arange(8), 2)
    samples = OnTheFly().hold(Diverging(8, batch_size=2), None)
    samples.upcoming(order)
    samples.batch(order[0])
    samples.batch(order[1])
    with error_naming(RunError, "it diverged"):
        samples.batch(order[2])
    samples.upcoming(order)
    samples.batch(order[0])
    samples.close()  # what was made ahead and never asked for is nobody's trouble


# --- files ---------------------------------------------------------------------------------------------------


def held(tmp_path: Path, count: int = 256, shard_bytes: int = 100_000) -> tuple[GeneratedSamples, list[Path]]:
    samples = Disk(shard_bytes=shard_bytes).hold(Numbered(count, size=256), tmp_path)
    return samples, sorted(tmp_path.iterdir())


def test_shards_are_safetensors_files_of_bounded_size(tmp_path: Path) -> None:
    samples, shards = held(tmp_path)
    assert [path.name for path in shards] == [f"shard_{k:05d}.safetensors" for k in range(len(shards))]
    assert len(shards) > 3
    for path in shards:
        assert path.stat().st_size <= 100_000 + 4096
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == {"samples"}
            assert file.get_tensor("samples").dtype == torch.uint8
    with safe_open(shards[0], framework="pt") as file:
        first = file.get_tensor("samples")[0, : 4 * 256].view(torch.float32)
    assert torch.equal(first, everything(samples)[0][0])
    samples.close()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=4),
    count=st.integers(1, 5000),
    shard=st.integers(1, 10_000_000),
)
def test_rows_hold_every_tensor_and_files_stay_small(sizes: list[int], count: int, shard: int) -> None:
    from hyco_engine.builtin.caches.shards import MAX_SHARDS, ShardLayout

    made = {f"t{k}": torch.full((1, size), k, dtype=torch.uint8) for k, size in enumerate(sizes)}
    plan = ShardLayout.plan(made, count, shard)
    assert plan.shards * plan.rows >= count > (plan.shards - 1) * plan.rows
    assert 1 <= plan.shards <= MAX_SHARDS
    if plan.shards < MAX_SHARDS // 2:
        assert plan.rows * plan.stride <= max(shard, plan.stride)
    assert sum(sizes) <= plan.stride <= sum(sizes) + 7 * len(sizes)
    words = plan.pack(made)
    for column in plan.columns:
        assert column.offset % 8 == 0
        assert torch.equal(column.values(words[:, column.words].clone()), made[column.name])


def flip(path: Path, where: float) -> None:
    with path.open("r+b") as file:
        head = int.from_bytes(file.read(8), "little") + 8
        place = head + int((path.stat().st_size - 1 - head) * where)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


def read_all(samples: GeneratedSamples) -> None:
    for indices in torch.split(torch.arange(len(samples)), 23):
        samples.batch(indices)


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.77, 0.9])
def test_a_flipped_byte_is_noticed(where: float, seen_before: bool, tmp_path: Path) -> None:
    samples, shards = held(tmp_path)
    if seen_before:
        read_all(samples)
    flip(shards[1], where)
    with error_naming(RunError, tmp_path, "shard_00001.safetensors"):
        read_all(samples)
    samples.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [0.0, 0.5, 0.9])
def test_a_byte_that_is_flipped_between_two_epochs_is_noticed(where: float, tmp_path: Path) -> None:
    samples, shards = held(tmp_path)
    read_all(samples)
    before = shards[2].stat()
    flip(shards[2], where)
    os.utime(shards[2], ns=(before.st_atime_ns, before.st_mtime_ns))  # covering one's tracks
    with error_naming(RunError, "shard_00002.safetensors"):
        read_all(samples)
    samples.close()


@pytest.mark.parametrize("size", [0, 1, 5000, 20_000])
@pytest.mark.parametrize("seen_before", [False, True])
def test_a_truncated_file_is_noticed(size: int, seen_before: bool, tmp_path: Path) -> None:
    samples, shards = held(tmp_path)
    if seen_before:
        read_all(samples)
    full = shards[0].stat().st_size
    os.truncate(shards[0], size)
    with error_naming(RunError, "shard_00000.safetensors", size, full):
        read_all(samples)
    os.truncate(shards[0], full)  # as long as before, but zeros
    with error_naming(RunError, "shard_00000.safetensors"):
        read_all(samples)
    samples.close()


@pytest.mark.parametrize("seen_before", [False, True])
def test_training_goes_on_when_the_folder_is_deleted(seen_before: bool, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    samples, _ = held(folder)
    expected = Memory().hold(Numbered(256, size=256), None)
    if seen_before:
        read_all(samples)
    shutil.rmtree(folder)
    assert equal(everything(samples), everything(expected))
    samples.close()


def test_a_file_put_in_a_shard_s_place_is_not_read(tmp_path: Path) -> None:
    samples, shards = held(tmp_path)
    expected = everything(samples)
    shutil.copy(shards[1], tmp_path / "other")
    os.replace(tmp_path / "other", shards[0])
    assert equal(everything(samples), expected)
    samples.close()


def test_disk_without_a_folder() -> None:
    with error_naming(RunError, "disk"):
        Disk().hold(Numbered(3), None)


def test_a_folder_that_is_missing_or_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with error_naming(RunError, tmp_path / "gone", "No such file or directory"):
        Disk().hold(Numbered(3), tmp_path / "gone")

    def refuse(*args: Any, **kwargs: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with error_naming(RunError, tmp_path, "Permission denied", "0.0 MB"):
            Disk().hold(Numbered(3), tmp_path)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = disk._write_all, []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write_all", full)
        with error_naming(RunError, tmp_path, "No space left on device", "0.8 MB"):
            held(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_is_too_small(small_disk: Path) -> None:
    calls = Numbered(1000, size=256)
    with error_naming(RunError, small_disk, "3.1 MB", "1.0 MB"):
        Disk().hold(calls, small_disk)
    assert calls.calls == []  # told before anything was generated
    assert list(small_disk.iterdir()) == []


def test_a_real_disk_that_fills_up_meanwhile(small_disk: Path) -> None:
    class Filling(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            if 100 in indices:
                (small_disk / "somebody else's").write_bytes(bytes(300_000))
            return super().generate(indices)

    with error_naming(RunError, small_disk, "No space left on device"):
        Disk(shard_bytes=50_000).hold(Filling(300, size=256), small_disk)
    assert [path.name for path in small_disk.iterdir()] == ["somebody else's"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RunError("diverged")])
def test_nothing_is_left_when_generating_fails(failure: Any, tmp_path: Path) -> None:
    class Failing(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            if 8 in indices:
                raise failure
            return super().generate(indices)

    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        Disk(shard_bytes=100).hold(Failing(20), tmp_path)
    assert list(tmp_path.iterdir()) == []
