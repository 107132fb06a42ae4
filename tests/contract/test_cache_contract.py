"""The built-in cache backends keep the public contract."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyco_engine.builtin.caches import hyco_caches
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.builtin.caches.memory import Memory, MemorySamples
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe
from hyco_engine.testing.caches import CacheContract
from hyco_engine.testing.damage import NotRemade, read_elsewhere
from hyco_engine.testing.recipes import Numbered


class TestMemory(CacheContract):
    def make(self) -> CacheBackend:
        return Memory()


class TestDisk(CacheContract):
    def make(self) -> CacheBackend:
        return Disk()


class TestDiskInManyShards(CacheContract):
    def make(self) -> CacheBackend:
        return Disk(shard_bytes=200)


class TestOnTheFly(CacheContract):
    def make(self) -> CacheBackend:
        return OnTheFly()


class TestOnTheFlyWithoutThread(CacheContract):
    def make(self) -> CacheBackend:
        return OnTheFly(prefetch=False)


def test_every_built_in_cache_is_here() -> None:
    assert {record.kind for record in hyco_caches()} == {"memory", "disk", "on-the-fly"}


class Rounding(Memory):
    def hold(self, recipe: Recipe, *more: Any) -> GeneratedSamples:
        samples = super().hold(recipe, *more)
        samples.__class__ = RoundedSamples
        return samples


class RoundedSamples(MemorySamples):
    def batch(self, indices: torch.Tensor) -> Batch:
        inputs, targets = super().batch(indices)
        return inputs, targets.half().double() if isinstance(targets, torch.Tensor) else targets


class Mapped(CacheBackend):
    """Memory-mapped files whose size nobody looks at."""

    def hold(self, recipe: Recipe, folder: Path | None, progress: Any = None) -> GeneratedSamples:
        assert folder is not None
        return MappedSamples(recipe, folder)


class MappedSamples(GeneratedSamples):
    left = False

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        whole = recipe.generate(torch.arange(len(recipe)))
        self.files = []
        for name, part in zip(("inputs", "targets"), whole, strict=True):
            assert isinstance(part, torch.Tensor)
            np.save(folder / name, part.numpy())
            self.files.append(folder / f"{name}.npy")

    def __len__(self) -> int:
        return len(np.load(self.files[0], mmap_mode="r")) if self.files else 0

    @property
    def nbytes(self) -> int:
        return 1

    def batch(self, indices: torch.Tensor) -> Batch:
        inputs, targets = (torch.from_numpy(np.load(f, mmap_mode="r")[indices.numpy()]) for f in self.files)
        return inputs, targets


class Shared(Memory):
    """One place for all that is held."""

    recipe: Recipe | None = None

    def hold(self, recipe: Recipe, *more: Any) -> GeneratedSamples:
        self.recipe = recipe
        samples = super().hold(recipe, *more)
        owner = self

        class Looking(MemorySamples):
            def batch(self, indices: torch.Tensor) -> Batch:
                assert owner.recipe is not None
                return owner.recipe.generate(indices)

        samples.__class__ = Looking
        return samples


BROKEN: list[tuple[type[CacheBackend], str, str]] = [
    (Rounding, "samples_are_the_recipes", r"the samples \[3, 22, 0, 3, 7\] are not those of the recipe: targets: off"),
    (Mapped, "closing", r"after close\(\), its folder still contains inputs.npy, targets.npy"),
    (Mapped, "nbytes", "nbytes is 1, but 720256 bytes are held"),
    (Shared, "closing_one", "the samples .* are not those of the recipe"),
    (Shared, "holders", "with three data sets at once: AssertionError: the samples"),
]


@pytest.mark.parametrize(("backend", "test", "message"), BROKEN, ids=[f"{c[0].__name__} {c[1]}" for c in BROKEN])
def test_the_contract_notices(backend: type[CacheBackend], test: str, message: str) -> None:
    contract = type("Broken", (CacheContract,), {"make": lambda self: backend()})()
    name = next(name for name in dir(contract) if name.startswith(f"test_{test}"))
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)()


# --- damaged files, which a new process reads ---


def damaged(part: MappedSamples) -> bool:
    return not part.files[0].exists() or part.files[0].stat().st_size < 50_000


class KeptMapped(MappedSamples):
    def __init__(self, recipe: Recipe, folder: Path) -> None:
        super().__init__(recipe, folder)
        self.maps = [np.load(file, mmap_mode="r") for file in self.files]

    def batch(self, indices: torch.Tensor) -> Batch:
        inputs, targets = (torch.from_numpy(kept[indices.numpy()]) for kept in self.maps)
        return inputs, targets


class Unending(MappedSamples):
    def batch(self, indices: torch.Tensor) -> Batch:
        while damaged(self):
            pass
        return super().batch(indices)


class Zeroed(MappedSamples):
    def batch(self, indices: torch.Tensor) -> Batch:
        inputs, targets = Numbered(23, size=600).generate(indices)
        assert isinstance(inputs, torch.Tensor)
        return (0 * inputs if damaged(self) else inputs), targets


class Unclosed(MappedSamples):
    def batch(self, indices: torch.Tensor) -> Batch:
        raise RunError("damaged")

    def close(self) -> None:
        if damaged(self):
            raise OSError("it cannot be closed")


class _Holding(CacheContract):
    samples: type[MappedSamples] = MappedSamples

    def make(self) -> CacheBackend:
        made = Mapped()
        made.hold = lambda recipe, folder, progress=None: self.samples(recipe, folder)  # type: ignore[method-assign]
        return made


class HoldingMapped(_Holding):
    samples = KeptMapped


class HoldingUnending(_Holding):
    samples = Unending


class HoldingZeroed(_Holding):
    samples = Zeroed


class HoldingUnclosed(_Holding):
    samples = Unclosed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows protects files that are mapped")
@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (
            HoldingMapped,
            f"inputs.npy was cut to half while it was in use, and reading ends the whole process by signal "
            f"{signal.SIGBUS}; look at the file's size before you read it",
        ),
        (
            HoldingUnending,
            "inputs.npy was cut to half while it was in use, and reading does not end within 1 s of processor time",
        ),
        (
            HoldingZeroed,
            "inputs.npy was cut to half while it was in use, and reading gives other samples without an error",
        ),
        (
            HoldingUnclosed,
            "inputs.npy was cut to half while it was in use, and closing fails: OSError: it cannot be closed",
        ),
    ],
)
def test_what_a_damaged_file_does_is_told(contract: type[CacheContract], message: str) -> None:
    assert read_elsewhere(contract().elsewhere(), processor_s=1) == message


ANOTHER_LIBRARY = ThreadPoolExecutor(1)
"""What some libraries have: a thread that does all their work, and of which a forked process has nothing."""


class ThroughAThread(Disk):
    def hold(self, *given: Any) -> GeneratedSamples:
        samples = super().hold(*given)
        read = samples.batch
        samples.batch = lambda indices: ANOTHER_LIBRARY.submit(read, indices).result()  # type: ignore[method-assign]
        return samples


class ReadingThroughAThread(CacheContract):
    def make(self) -> CacheBackend:
        return ThroughAThread()


def test_a_library_with_threads_of_its_own_is_read_in_several_checks_at_once() -> None:
    assert ANOTHER_LIBRARY.submit(threading.active_count).result() > 1
    contract = ReadingThroughAThread()
    with ThreadPoolExecutor(2) as checks:
        assert list(checks.map(lambda _: read_elsewhere(contract.elsewhere()), range(2))) == ["", ""]


def test_what_no_other_process_can_make_is_told() -> None:
    class Local(CacheContract):
        def make(self) -> CacheBackend:
            return Disk()

    with pytest.warns(UserWarning, match=r"not checked, because .* is not at the top of its module"):
        Local().test_a_missing_or_truncated_file_is_noticed()
    with pytest.raises(NotRemade, match="has no attribute 'Gone'"):
        read_elsewhere({**ReadingThroughAThread().elsewhere(), "class": "Gone"})
    with pytest.raises(NotRemade, match="'gone'"):
        read_elsewhere({"kind": "gone"})
