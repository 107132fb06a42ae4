"""The cache that holds all generated samples in RAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from hyco_engine.builtin.caches.values import Form, chunks
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values


class Memory(CacheBackend):
    """A backend that evaluates the whole recipe, in index order, into tensors."""

    uses_folder = False

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        form = Form(None, None)
        held: dict[str, Tensor] = {}
        for start, stop, made_form, made in chunks(recipe):
            form = made_form
            for name, values in made.items():
                if not start:
                    held[name] = values.new_empty((len(recipe), *values.shape[1:]))
                held[name][start:stop] = values
            progress(stop)
        return MemorySamples(len(recipe), form, held)


class MemorySamples(GeneratedSamples):
    """Samples as tensors by flat name, with one row for each sample."""

    def __init__(self, count: int, form: Form, held: Mapping[str, Tensor]) -> None:
        self._count = count
        self._form = form
        self._held = dict(held)
        self._closed = False
        self._nbytes = sum(values.nbytes for values in held.values())

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def batch(self, indices: Tensor) -> Batch:
        self._check_open()
        return self._form.batch({name: values.index_select(0, indices) for name, values in self._held.items()})

    def inputs(self, indices: Tensor) -> Values:
        self._check_open()
        names = self._form.flat_names("input")
        return self._form.values("input", {name: self._held[name].index_select(0, indices) for name in names})

    def close(self) -> None:
        self._closed = True
        self._held.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("these samples are closed")
