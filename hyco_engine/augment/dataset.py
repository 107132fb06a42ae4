"""Real and generated samples as one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, GeneratedSamples, Samples, Values


class AugmentedDataset(Samples):
    """The real samples, then the generated ones; a permutation of all indices mixes both in every batch.

    `weight` is what one generated sample counts in the loss. `generated` None: real samples alone. Closing the
    generated samples stays with whoever made them.
    """

    def __init__(self, real: Samples, generated: GeneratedSamples | None = None, weight: float = 1.0) -> None:
        self.real = real
        self.generated = generated
        self.weight = weight
        self.n_real = len(real)
        self.n_generated = 0 if generated is None else len(generated)

    def __len__(self) -> int:
        return self.n_real + self.n_generated

    def is_generated(self, indices: Tensor) -> Tensor:
        """`[B]`, bool."""
        return indices >= self.n_real

    def sample_weight(self, indices: Tensor) -> Tensor | None:
        """`[B]`, float32: `weight` where generated, else 1. None where every sample of the data set counts 1."""
        if self.weight == 1 or not self.n_generated:
            return None
        return torch.where(self.is_generated(indices), self.weight, 1.0).to(torch.float32)

    def batch(self, indices: Tensor) -> Batch:
        """As in `Samples`. Raises RunError where real and generated samples do not fit together."""
        if self.generated is None or not self.n_generated:
            return self.real.batch(indices)
        real, generated = self._places(indices)
        if not len(generated):
            return self.real.batch(indices)
        theirs = self.generated.batch(indices[generated] - self.n_real)
        if not len(real):
            return _fresh(theirs[0]), _fresh(theirs[1])
        ours = self.real.batch(indices[real])
        return _mix(ours[0], theirs[0], real, generated, "input"), _mix(ours[1], theirs[1], real, generated, "target")

    def inputs(self, indices: Tensor) -> Values:
        if self.generated is None or not self.n_generated:
            return self.real.inputs(indices)
        real, generated = self._places(indices)
        if not len(generated):
            return self.real.inputs(indices)
        theirs = self.generated.inputs(indices[generated] - self.n_real)
        if not len(real):
            return _fresh(theirs)
        return _mix(self.real.inputs(indices[real]), theirs, real, generated, "input")

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Tell the order of the calls of `batch` to come, so that generated samples can be made ahead."""
        if self.generated is not None and self.n_generated:
            ours = (indices[self.is_generated(indices)] - self.n_real for indices in batches)
            # not part of the contract yet
            upcoming = getattr(self.generated, "upcoming", None)
            if upcoming is not None:
                upcoming([indices for indices in ours if len(indices)])

    def _places(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Positions within the batch of the real and of the generated samples."""
        mask = self.is_generated(indices)
        return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def _mix(ours: Values, theirs: Values, real: Tensor, generated: Tensor, what: str) -> Values:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _interleave(ours, theirs, real, generated, what)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.keys() == theirs.keys():
        return {name: _interleave(ours[name], theirs[name], real, generated, f"{what} {name!r}") for name in ours}
    raise RunError(
        f"real and generated samples do not fit together: the {what} of real ones is {_kind(ours)}, of generated ones "
        f"{_kind(theirs)}; the recipe must make what the data has"
    )


def _fresh(values: Values) -> Values:
    """A copy: sums may depend on where in memory numbers lie, and a cache may give views of a larger block."""
    if isinstance(values, Tensor):
        return values.clone(memory_format=torch.contiguous_format)
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}


def _interleave(ours: Tensor, theirs: Tensor, real: Tensor, generated: Tensor, what: str) -> Tensor:
    if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
        raise RunError(
            f"real and generated samples do not fit together: the {what} of a real one is {_shape(ours)}, of a generated "
            f"one {_shape(theirs)}; the recipe must make what the data has"
        )
    mixed = ours.new_empty((len(real) + len(generated), *ours.shape[1:]))
    mixed.index_copy_(0, real.to(mixed.device), ours)
    return mixed.index_copy_(0, generated.to(mixed.device), theirs.to(mixed.device))


def _shape(values: Tensor) -> str:
    return f"{list(values.shape[1:])} of {str(values.dtype).removeprefix('torch.')}"


def _kind(values: Values) -> str:
    return "one tensor" if isinstance(values, Tensor) else f"tensors named {', '.join(values) or 'nothing'}"
