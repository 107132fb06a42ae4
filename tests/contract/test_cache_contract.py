"""The built-in cache backends keep the public contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyco_engine.builtin.caches import hyco_caches
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.builtin.caches.memory import Memory, MemorySamples
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe
from hyco_engine.testing.caches import CacheContract


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
