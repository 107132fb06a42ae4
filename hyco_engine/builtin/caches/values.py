"""Conversion of batches, whose inputs and targets may be one tensor or tensors by name, into flat names and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor

from hyco_engine.errors import PluginError
from hyco_engine.interfaces import Batch, Recipe, Values

Flat = dict[str, Tensor]


@attrs.frozen
class Form:
    """The names of the tensors that inputs and targets consist of. None stands for one tensor without a name.

    Flat names are `input` and `target`, or `input/<name>` and `target/<name>`.
    """

    input: tuple[str, ...] | None
    target: tuple[str, ...] | None

    @classmethod
    def of(cls, batch: Batch) -> Form:
        return cls(*(tuple(part) if isinstance(part, Mapping) else None for part in batch))

    def flat_names(self, part: str) -> tuple[str, ...]:
        """Return the flat names of `"input"` or `"target"`."""
        names = self.input if part == "input" else self.target
        return (part,) if names is None else tuple(f"{part}/{name}" for name in names)

    def values(self, part: str, flat: Mapping[str, Tensor]) -> Values:
        """Return one part of a batch, out of tensors by flat name."""
        names = self.input if part == "input" else self.target
        return flat[part] if names is None else {name: flat[f"{part}/{name}"] for name in names}

    def batch(self, flat: Mapping[str, Tensor]) -> Batch:
        return self.values("input", flat), self.values("target", flat)


def flatten(batch: Batch) -> Flat:
    """Return all tensors of a batch by flat name."""
    flat: Flat = {}
    for part, values in zip(("input", "target"), batch, strict=True):
        if isinstance(values, Tensor):
            flat[part] = values
        else:
            flat.update({f"{part}/{name}": value for name, value in values.items()})
    return flat


def chunks(recipe: Recipe) -> Iterator[tuple[int, int, Form, Flat]]:
    """Yield all samples of a recipe in index order: (start, stop, form, tensors `[stop - start, ...]` by flat name).

    Every cache that stores samples takes them from here, so that all caches make them in the same batches. Raises
    PluginError if the batches of a recipe differ in names, shapes or types.
    """
    form, like = Form(None, None), dict[str, tuple[torch.Size, torch.dtype]]()
    for start in range(0, len(recipe), recipe.batch_size):
        stop = min(start + recipe.batch_size, len(recipe))
        batch = recipe.generate(torch.arange(start, stop))
        flat = {name: values.detach() for name, values in flatten(batch).items()}
        if not start:
            form, like = Form.of(batch), {name: (values.shape[1:], values.dtype) for name, values in flat.items()}
        _check(recipe, start, stop, flat, like)
        yield start, stop, form, flat


def _check(
    recipe: Recipe, start: int, stop: int, flat: Flat, like: Mapping[str, tuple[torch.Size, torch.dtype]]
) -> None:
    for name, values in flat.items():
        if len(values) != stop - start or (values.shape[1:], values.dtype) != like.get(name):
            wanted = like.get(name, "nothing of this name")
            raise PluginError(
                f"the recipe {type(recipe).__name__} made {name!r} as {list(values.shape)} of {values.dtype} for the "
                f"samples {start} to {stop - 1}, but {wanted} a sample at first; all samples of a recipe must be alike"
            )
    if flat.keys() != like.keys():
        raise PluginError(
            f"the recipe {type(recipe).__name__} made {', '.join(flat)} for the samples {start} to {stop - 1}, but "
            f"{', '.join(like)} at first; all samples of a recipe must be alike"
        )
