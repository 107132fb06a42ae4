"""The cache that makes generated samples again for every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hyco_engine.builtin.caches.ahead import Ahead
from hyco_engine.builtin.caches.values import Flat, Form, flatten
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Values


class OnTheFly(CacheBackend):
    """A backend that stores nothing. With `prefetch`, a thread makes the next batch while the present one is used."""

    uses_folder = False

    def __init__(self, prefetch: bool = True) -> None:
        self.prefetch = prefetch

    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        return OnTheFlySamples(recipe, self.prefetch)


class OnTheFlySamples(GeneratedSamples):
    """Samples of which only one batch is in memory, and another one in preparation.

    `nbytes` grows if a batch is larger than the recipe's. If the order of batches is known, small neighbours are
    made together, up to the recipe's batch size. The recipe's model must not change until `close`; with `prefetch` it
    runs in a thread of its own.
    """

    def __init__(self, recipe: Recipe, prefetch: bool = True) -> None:
        self._recipe = recipe
        self._prefetch = prefetch
        self._largest = min(recipe.batch_size, len(recipe))
        self._form = Form(None, None)
        self._ahead = Ahead(self._make, limit=recipe.batch_size, background=prefetch)
        self._closed = False

    def __len__(self) -> int:
        return len(self._recipe)

    @property
    def nbytes(self) -> int:
        # a larger batch than the recipe's consists of several, which stay in memory until it is complete
        blocks = 1 + self._prefetch + (self._largest > self._recipe.batch_size)
        return blocks * self._largest * self._recipe.sample_bytes

    def batch(self, indices: Tensor) -> Batch:
        if self._closed:
            raise ValueError("these samples are closed")
        flat = self._ahead.take(indices)
        return self._form.batch(flat)

    def inputs(self, indices: Tensor) -> Values:
        # inputs may exist before the teacher's rollout, but only the recipe knows how
        return self.batch(indices)[0]

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Announce the calls of `batch` to come, which are then made ahead, small ones together."""
        self._ahead.announce(batches)

    def close(self) -> None:
        self._closed = True
        self._ahead.close()

    def _make(self, indices: Tensor) -> Flat:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"indices from {int(indices.min())} to {int(indices.max())}, of {len(self)} samples")
        self._largest = max(self._largest, len(indices))
        parts = []
        for part in torch.split(indices, self._recipe.batch_size):
            batch = self._recipe.generate(part)
            self._form = Form.of(batch)
            parts.append(flatten(batch))
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
