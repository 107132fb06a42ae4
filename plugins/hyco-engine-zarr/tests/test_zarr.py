"""The cache `zarr`: the contract of caches on a folder and in an fsspec store, damage, memory, equal training."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import hyco_engine_zarr
import pytest
import torch
import zarr
from hyco_engine_zarr import ZarrOptions
from hyco_engine_zarr.backend import Zarr, ZarrSamples, build
from torch import nn

from hyco_engine import HybridTrainer, Registry, Trainer
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Batch, CacheBackend, Player
from hyco_engine.runs.cache_manager import CacheManager
from hyco_engine.testing.caches import CacheContract
from hyco_engine.testing.contexts import tiny_context
from hyco_engine.testing.measuring import equal
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_windows
from hyco_engine.testing.recipes import Numbered
from hyco_engine.testing.specs import RunSpec
from hyco_engine.training.settings import TrainingSettings

pytest_plugins = ["hyco_engine.testing.fixtures"]


class TestInTheRunsFolder(CacheContract):
    def make(self) -> CacheBackend:
        return Zarr()


class TestInManyChunksOfWhichFewAreKept(CacheContract):
    def make(self) -> CacheBackend:
        return Zarr(chunk_bytes=150, memory_bytes=600)


class TestCompressed(CacheContract):
    def make(self) -> CacheBackend:
        return Zarr(compression="zstd", chunk_bytes=1000)


class TestInAnotherStore(CacheContract):
    def make(self) -> CacheBackend:
        return Zarr("memory://contract", chunk_bytes=300)


@pytest.fixture
def memory() -> Any:
    """The file system in this process's memory, with nothing of other tests in it."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return files


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/store"


def left(url: str) -> list[str]:
    files, path = fsspec.core.url_to_fs(url)
    found: list[str] = files.find(path)
    return found


# --- nothing is left --------------------------------------------------------------------------------------------------


def test_samples_have_a_group_of_their_own_that_is_gone_afterwards(url: str) -> None:
    recipe = Numbered(10)
    with_other = Zarr(url).hold(recipe, None)
    samples = Zarr(url).hold(recipe, None)
    assert len({path.split(".zarr")[0] for path in left(url)}) == 2
    samples.close()
    samples.close()
    assert len({path.split(".zarr")[0] for path in left(url)}) == 1
    assert equal(tuple(with_other.batch(torch.arange(10))), recipe.generate(torch.arange(10)))
    with_other.close()
    assert left(url) == []


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("error", [RunError("it diverged"), Stopped()])
def test_nothing_is_left_where_generating_fails(url: str, error: BaseException) -> None:
    class Failing(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            if 8 in indices:
                assert left(url)
                raise error
            return super().generate(indices)

    with pytest.raises(type(error)):
        Zarr(url, chunk_bytes=100).hold(Failing(23), None)
    assert left(url) == []


def test_what_cannot_be_removed_is_told_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = Zarr(str(tmp_path)).hold(Numbered(3), None)
    assert isinstance(samples, ZarrSamples)

    def refuse(path: str, recursive: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(samples._place.files, "rm", refuse)
    samples.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"the generated samples in {samples._place.url} could not be removed; remove them by hand: "
        "PermissionError: [Errno 13] Permission denied"
    ]


# --- what is written --------------------------------------------------------------------------------------------------


def test_arrays_are_typed_chunked_and_bit_for_bit(tmp_path: Path) -> None:
    class Zeros(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            return torch.full((len(indices), 5), -0.0), torch.full((len(indices), 5), float("nan"), dtype=torch.float64)

    samples = Zarr(chunk_bytes=4 * 60).hold(Zeros(10, batch_size=3), tmp_path)
    group = zarr.open_group(str(tmp_path / "samples.zarr"), mode="r")
    kinds = {name: (str(array.dtype), array.shape, array.chunks) for name, array in group.arrays()}
    assert kinds == {"input": ("float32", (10, 5), (4, 5)), "target": ("float64", (10, 5), (4, 5))}
    inputs, targets = samples.batch(torch.tensor([9, 0]))
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(targets, torch.Tensor)
    assert inputs.signbit().all()
    assert targets.isnan().all()
    samples.close()


def test_no_more_than_a_chunk_and_a_batch_are_in_memory_while_generating(tmp_path: Path) -> None:
    """What is not in memory is in the store: all but the last, unfinished chunk."""
    written: list[tuple[int, int]] = []
    count, rows = 40, 6

    class Watched(Numbered):
        def generate(self, indices: torch.Tensor) -> Batch:
            chunks = [path for path in (tmp_path / "samples.zarr" / "input" / "c").rglob("*") if path.is_file()]
            written.append((int(indices[0]), len(chunks)))
            return super().generate(indices)

    recipe = Watched(count, batch_size=4)
    samples = Zarr(chunk_bytes=rows * recipe.sample_bytes).hold(recipe, tmp_path)
    assert written[1:] == [(made, made // rows) for made in range(4, count, 4)]
    assert isinstance(samples, ZarrSamples)
    assert samples._store is not None
    assert samples._store._buffer == {}
    samples.close()


def test_no_more_chunks_are_kept_than_there_is_memory_for(tmp_path: Path) -> None:
    recipe = Numbered(60)
    samples = Zarr(chunk_bytes=5 * recipe.sample_bytes, memory_bytes=40 * recipe.sample_bytes).hold(recipe, tmp_path)
    assert isinstance(samples, ZarrSamples)
    store = samples._store
    assert store is not None
    for order in (torch.arange(60), torch.randperm(60, generator=torch.Generator().manual_seed(0))):
        assert equal(tuple(samples.batch(order)), recipe.generate(order))
        assert len(store._kept) == 4
    samples.close()


# --- trouble ----------------------------------------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("harm", [delete, halve, flip])
def test_damage_is_told_with_the_place(tmp_path: Path, harm: Callable[[Path], None], compression: Any) -> None:
    samples = Zarr(chunk_bytes=240, compression=compression).hold(Numbered(10), tmp_path)
    harm(tmp_path / "samples.zarr" / "target" / "c" / "1" / "0" / "0")
    assert samples.batch(torch.arange(4))
    with pytest.raises(RunError) as error:
        samples.batch(torch.arange(10))
    place = str(tmp_path / "samples.zarr")
    told = (
        f"the generated samples in {place} are damaged: chunk 1 of 'target' is not what was written. Make sure that no "
        "other program writes there, then resume the run; or use another place (augmentation.cache.url) or cache "
        "(augmentation.cache.kind)"
    )
    # what zarr or the decompressor notices by itself is told in their words
    assert str(error.value) == told or str(error.value).startswith(f"cannot read the generated samples in {place}: ")
    if harm is delete or (harm is flip and compression == "none"):
        assert str(error.value) == told
    samples.close()


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as error:
        Zarr(str(tmp_path / "file")).hold(Numbered(1000), None)
    text = str(error.value)
    assert text.startswith(f"cannot write the generated samples in {tmp_path / 'file'}/hyco-samples-")
    assert text.endswith(
        "Not a directory: '" + text.split("directory: '")[1].split("'")[0] + "'; 0.1 MB are needed. Check that the "
        "place exists and can be written, use another (augmentation.cache.url), or choose another cache "
        "(augmentation.cache.kind)"
    )


def test_no_folder_at_all_is_told() -> None:
    with pytest.raises(RunError) as error:
        Zarr().hold(Numbered(3), None)
    assert str(error.value) == (
        "the cache 'zarr' was given no folder: set augmentation.cache.url, augmentation.cache.directory or "
        "paths.cache, or choose the cache 'memory' or 'on-the-fly'"
    )


def test_an_unknown_protocol_is_a_mistake_of_the_spec() -> None:
    with pytest.raises(SpecError) as error:
        build(ZarrOptions(url="nowhere://x"), tiny_context())
    assert [(problem.key, problem.message) for problem in error.value.problems] == [
        ("augmentation.cache.url", "fsspec cannot use 'nowhere://x': ValueError: Protocol not known: nowhere")
    ]


# --- as a plugin ------------------------------------------------------------------------------------------------------


def trained(cache: CacheBackend, folder: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of two models after two cycles."""
    models: dict[Player, nn.Module] = {"physical": Decay(), "synthetic": LinearSurrogate()}
    settings = TrainingSettings(epochs_per_cycle=3, batch_size=4, optimizer="adam")
    trainers = {
        player: Trainer(model, player=player, layout=decay_layout(), settings=settings)
        for player, model in models.items()
    }
    with CacheManager(folder, run_id="run", dset="decay") as folders:
        hybrid = HybridTrainer(**trainers, strategy=Count(), cache=cache, alpha=0.8, folders=folders)
        hybrid.train(decay_windows(), cycles=2)
    return [dict(model.state_dict()) for model in models.values()]


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_training_is_that_with_the_cache_memory(tmp_path: Path, url: str, compression: Any) -> None:
    wanted = trained(Memory(), tmp_path)
    assert all(equal(*pair) for pair in zip(trained(Memory(), tmp_path), wanted, strict=True))
    for place in (None, url):
        cache = Zarr(place, chunk_bytes=500, memory_bytes=2000, compression=compression)
        assert all(equal(*pair) for pair in zip(trained(cache, tmp_path), wanted, strict=True))
    assert left(url) == []
    assert not list(tmp_path.rglob("*.zarr"))


def test_it_runs_through_the_engine_and_the_spec(run_spec: RunSpec, builtin_registry: Registry, memory: Any) -> None:
    builtin_registry.register(hyco_engine_zarr, distribution="hyco-engine-zarr", version="0.1.0")
    cache = {"kind": "zarr", "url": "memory://engine", "compression": "zstd"}
    summary = run_spec({"augmentation": {"cache": cache}}, registry=builtin_registry).summary
    assert summary["status"] == "completed"
    assert summary["cache"]["kind"] == "zarr"
    assert summary["cache"]["peak_bytes"] > 0
    assert memory.find("") == []


def test_the_hook_module_is_light() -> None:
    code = (
        "import sys, hyco_engine_zarr; hyco_engine_zarr.hyco_caches(); assert not "
        "{'torch', 'phi', 'zarr', 'fsspec', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
