"""The contract of cache backends, as a test suite.

    class TestMine(CacheContract):
        def make(self) -> CacheBackend:
            return Mine()

pytest collects the tests of the subclass.
"""

from __future__ import annotations

import inspect
import os
import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from hyco_engine.augment.shared import SharedRecipe
from hyco_engine.errors import HycoError, RunError
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.testing.damage import NotRemade, read_elsewhere
from hyco_engine.testing.measuring import declared, difference, global_generators
from hyco_engine.testing.ranks import together
from hyco_engine.testing.recipes import Numbered

COUNT = 23
TURNS = 500
"""How often a thread that is to end may be found running, with a pause in between. On a busy machine pauses are longer,
since they end when this thread gets its turn."""


class CacheContract(ABC):
    """The tests of every cache backend, wherever it holds samples."""

    tolerance: ClassVar[float] = 0.0
    """How far samples may differ from the recipe's, relative to the largest value, at most 1e-6; 0 means bit by bit."""
    named: ClassVar[bool] = True
    """Whether it holds samples that are tensors by name; if not, it refuses them with an error of the engine."""

    @abstractmethod
    def make(self) -> CacheBackend:
        """Return a new backend."""

    # --- tests --------------------------------------------------------------------------------------------------------

    def test_samples_are_the_recipes_in_any_order_and_repeated(self) -> None:
        orders = ([3, 22, 0, 3, 7], list(range(COUNT)), [11], list(range(COUNT))[::-1])
        with self._held(Numbered(COUNT)) as (samples, _):
            assert len(samples) == COUNT, f"it says that it holds {len(samples)} of {COUNT} samples"
            for order in orders:
                self._check(samples, Numbered(COUNT), order)

    @declared
    def test_samples_may_be_tensors_by_name(self) -> None:
        if self.named:
            with self._held(Numbered(COUNT, named=True)) as (samples, _):
                self._check(samples, Numbered(COUNT, named=True), [5, 1, 22, 1])
            return
        try:
            with self._held(Numbered(COUNT, named=True)) as (samples, _):
                samples.batch(torch.arange(2))
        except HycoError:
            return
        raise AssertionError("named is False, but tensors by name are not refused with a HycoError")

    def test_samples_of_every_size_and_number_are_held(self) -> None:
        for count, size, batch_size in ((1, 1, 1), (4, 3, 4), (9, 257, 4), (5, 1000, 64)):
            recipe = Numbered(count, size=size, batch_size=batch_size)
            with self._held(recipe) as (samples, _):
                self._check(samples, recipe, list(range(count)))

    def test_batches_that_were_announced_are_the_same(self) -> None:
        order = torch.split(torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)), 4)
        with self._held(Numbered(COUNT)) as (samples, _):
            for _ in range(2):
                samples.upcoming(order)
                for indices in order:
                    self._check(samples, Numbered(COUNT), indices.tolist())

    def test_what_is_given_may_be_changed(self) -> None:
        with self._held(Numbered(COUNT)) as (samples, _):
            for part in samples.batch(torch.arange(COUNT)):
                assert isinstance(part, torch.Tensor)
                assert not part.requires_grad, "samples have gradients"
                part.zero_()
            self._check(samples, Numbered(COUNT), list(range(COUNT)))

    def test_samples_are_made_in_order_in_the_recipes_batches(self) -> None:
        recipe, told = Numbered(10, batch_size=4), list[int]()
        with self._held(recipe, told.append):
            if recipe.calls:
                wanted = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
                assert recipe.calls == wanted, f"it asked for the samples {recipe.calls}, not in order as {wanted}"
        rising = told == sorted(told) and all(0 <= made <= 10 for made in told)
        assert rising, f"progress was called with {told} for 10 samples, not with growing numbers up to 10"

    def test_an_index_beyond_the_last_sample_is_an_error(self) -> None:
        with self._held(Numbered(10)) as (samples, _):
            for wrong in (10, 4000):
                try:
                    samples.batch(torch.tensor([0, wrong]))
                except IndexError:
                    continue
                raise AssertionError(f"the index {wrong} of 10 samples must raise an IndexError")

    def test_closing_leaves_nothing_and_may_be_repeated(self) -> None:
        with tempfile.TemporaryDirectory() as folder, global_generators("holding samples"):
            threads = set(threading.enumerate())
            samples = self._backend().hold(Numbered(COUNT), Path(folder))
            samples.upcoming([torch.arange(4), torch.arange(4, 8)])
            samples.batch(torch.arange(4))
            samples.close()
            samples.close()
            left = sorted(path.name for path in Path(folder).rglob("*"))
            assert not left, f"after close(), its folder still contains {', '.join(left)}"
            for _ in range(TURNS):
                if not set(threading.enumerate()) - threads:
                    return
                time.sleep(0.01)
            running = set(threading.enumerate()) - threads
            assert not running, f"after close(), the thread {running.pop().name!r} still runs"

    def test_nbytes_is_what_is_held(self) -> None:
        recipe = Numbered(200, size=300)
        with self._held(recipe) as (samples, folder):
            samples.batch(torch.arange(4))
            on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            least = on_disk or 4 * recipe.sample_bytes
            assert samples.nbytes >= least, f"nbytes is {samples.nbytes}, but {least} bytes are held"
            most = 4 * len(recipe) * recipe.sample_bytes
            assert samples.nbytes <= most, f"nbytes is {samples.nbytes}, but all samples together have {most // 4}"

    def test_holders_side_by_side_do_not_meet(self) -> None:
        backend, recipes = self._backend(), [Numbered(COUNT, offset=1000 * k) for k in range(3)]
        wrong: list[BaseException] = []

        def work(recipe: Numbered, folder: Path, barrier: threading.Barrier) -> None:
            try:
                folder.mkdir()
                barrier.wait()
                samples = backend.hold(recipe, folder)
                barrier.wait()
                for order in ([3, 1, 22], list(range(COUNT))):
                    self._check(samples, recipe, order)
                barrier.wait()
                samples.close()
            except BaseException as error:
                wrong.append(error)
                barrier.abort()

        with tempfile.TemporaryDirectory() as root:
            barrier = threading.Barrier(len(recipes))
            threads = [
                threading.Thread(target=work, args=(recipe, Path(root) / f"{k}", barrier))
                for k, recipe in enumerate(recipes)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for error in sorted(wrong, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise AssertionError(f"with three data sets at once: {type(error).__name__}: {error}") from error

    def test_closing_one_leaves_the_others(self) -> None:
        backend = self._backend()
        with self._held(Numbered(COUNT), backend=backend) as (samples, _):
            with self._held(Numbered(COUNT, offset=500), backend=backend):
                pass
            self._check(samples, Numbered(COUNT), list(range(COUNT)))

    def test_a_run_without_a_cache_folder_is_served_or_told(self) -> None:
        backend = self._backend()
        try:
            samples = backend.hold(Numbered(COUNT), None)
        except HycoError:
            assert backend.uses_folder, "uses_folder is False, but hold() refuses to work without a folder"
            return
        self._check(samples, Numbered(COUNT), list(range(COUNT)))
        samples.close()

    def test_what_a_recipe_raises_is_told_as_it_is(self) -> None:
        class Diverging(Numbered):
            def generate(self, indices: torch.Tensor) -> Batch:
                if 8 in indices:
                    raise RunError("it diverged")
                return super().generate(indices)

        recipe = Diverging(COUNT)
        try:
            with self._held(recipe) as (samples, _):
                samples.batch(torch.arange(COUNT))
        except RunError as error:
            if "it diverged" not in str(error):
                raise AssertionError(f"the recipe's error 'it diverged' became: {error}") from error
        else:
            raise AssertionError("an error of the recipe does not reach the caller")

    def test_ranks_that_share_the_work_hold_the_same_samples(self) -> None:
        def held(runtime: Runtime) -> None:
            recipe = Numbered(COUNT)
            with self._held(SharedRecipe(recipe, runtime)) as (samples, _):
                for order in ([3, 22, 0, 3], list(range(COUNT))):
                    self._check(samples, Numbered(COUNT), order)

        together("the backend", held)

    def test_a_missing_or_truncated_file_is_noticed(self) -> None:
        """The result is an error or the right samples, but never other samples and never the end of the process."""
        with self._held(Numbered(COUNT, size=600)) as (_, folder):
            if not _files(folder):
                return  # a new process costs seconds
        try:
            wrong = read_elsewhere(self.elsewhere())
        except NotRemade as why:
            warnings.warn(
                f"the reading of damaged files is not checked, because a new process cannot make this contract: {why}",
                stacklevel=2,
            )
            return
        assert not wrong, wrong

    def elsewhere(self) -> Mapping[str, Any]:
        """Return what `hyco_engine.testing.damage` needs to make this contract in a new process."""
        cls = type(self)
        if "<locals>" in cls.__qualname__:
            raise NotRemade(f"the class {cls.__qualname__} is not at the top of its module")
        return {"file": inspect.getfile(cls), "module": cls.__module__, "class": cls.__qualname__}

    def read_damaged(self, reading: Callable[[str], None]) -> str:
        """Damage files of held samples, read them, and return what went wrong, or ""; each case is told to `reading`.

        Wrong samples are wrong; an error is right.
        """
        recipe, order = Numbered(COUNT, size=600), list(range(COUNT))
        with self._held(recipe) as (_, folder):
            names = _files(folder)
        for name in names[:: max(1, len(names) // 6)]:
            for what, harm in (("cut to half", _halve), ("emptied", _empty), ("deleted", Path.unlink)):
                with self._held(recipe) as (samples, folder):
                    try:
                        harm(folder / name)
                    except PermissionError:
                        continue  # Windows protects files that are open
                    reading(f"{name} was {what}")
                    try:
                        self._check(samples, Numbered(COUNT, size=600), order)
                    except AssertionError:
                        return "reading gives other samples without an error"
                    except Exception:
                        continue
        return ""

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _backend(self) -> CacheBackend:
        backend = self.make()
        assert isinstance(backend, CacheBackend), f"the factory returns a {type(backend).__name__}, not a CacheBackend"
        return backend

    @contextmanager
    def _held(
        self,
        recipe: Recipe,
        progress: Callable[[int], None] = lambda made: None,
        backend: CacheBackend | None = None,
    ) -> Iterator[tuple[GeneratedSamples, Path]]:
        with tempfile.TemporaryDirectory() as folder:
            samples = (backend or self._backend()).hold(recipe, Path(folder), progress)
            right = isinstance(samples, GeneratedSamples)
            assert right, f"hold() returns a {type(samples).__name__}, not GeneratedSamples"
            try:
                yield samples, Path(folder)
            finally:
                samples.close()

    def _check(self, samples: GeneratedSamples, recipe: Numbered, order: list[int]) -> None:
        indices = torch.tensor(order)
        wanted = recipe.generate(indices)
        found = difference(tuple(samples.batch(indices)), wanted, self.tolerance)
        assert not found, f"the samples {_short(order)} are not those of the recipe: {found}"
        found = difference(samples.inputs(indices), wanted[0], self.tolerance)
        assert not found, f"the inputs of the samples {_short(order)} are not those of the recipe: {found}"


def _files(folder: Path) -> list[str]:
    """Return the names of the files that hold something."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def _short(order: list[int]) -> str:
    return str(order) if len(order) < 8 else f"[{order[0]}, {order[1]}, ..., {order[-1]}]"


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)
