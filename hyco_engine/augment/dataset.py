"""The data set of a training phase: real and generated samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hyco_engine.data.points import GRID, PointParts
from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, GeneratedSamples, Samples, Values


class AugmentedDataset(Samples):
    """The real samples followed by the generated ones; a permutation of all indices mixes both in every batch.

    `weight` is how much one generated sample counts in the loss relative to a real one. A partly observed real sample
    counts by its observed share. A generated sample is complete and counts by the mean share of the real ones, so that
    the ratio of both in the loss is that of the balance. With `generated=None` there are only real samples. The caller
    closes the generated samples.
    """

    def __init__(self, real: Samples, generated: GeneratedSamples | None = None, weight: float = 1.0) -> None:
        self.real = real
        self.generated = generated
        self.weight = weight
        self.n_real = len(real)
        self.n_generated = 0 if generated is None else len(generated)

    def in_parts(self, size: int, seed: int) -> AugmentedDataset:
        """Return the real samples of sensors alone, in parts of `size` observations."""
        return AugmentedDataset(PointParts(self.real, size, seed))

    def __len__(self) -> int:
        return self.n_real + self.n_generated

    def is_generated(self, indices: Tensor) -> Tensor:
        """Return bool `[B]`: which samples are generated."""
        return indices >= self.n_real

    def sample_weight(self, indices: Tensor) -> Tensor | None:
        """Return float32 `[B]`: what each sample counts. Return None if every sample of the data set counts 1."""
        weight = self.weight * self.real.observed_share
        if weight == 1 or not self.n_generated:
            return None
        return torch.where(self.is_generated(indices), weight, 1.0).to(torch.float32)

    def batch(self, indices: Tensor) -> Batch:
        """Return a batch as `Samples` does. Raises RunError if real and generated samples do not fit together."""
        inputs, targets = self._joined(indices, lambda samples, own: samples.batch(own))
        return inputs, targets

    def fingerprint(self) -> bytes:
        """Return bytes that tell data sets apart by their sizes, weights, and first and last samples."""
        found = [repr((self.n_real, self.n_generated, self.weight)).encode()]
        for values in self.batch(torch.tensor([0, len(self) - 1])):
            tensors = [values] if isinstance(values, Tensor) else values.values()
            found += [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors]
        return b"".join(found)

    def inputs(self, indices: Tensor) -> Values:
        return self._joined(indices, lambda samples, own: (samples.inputs(own),))[0]

    def _joined(self, indices: Tensor, read: Callable[[Samples, Tensor], tuple[Values, ...]]) -> tuple[Values, ...]:
        """Return what `read` returns of real and of generated samples, inputs or (inputs, targets), in one batch."""
        mask = self.is_generated(indices)
        if self.generated is None or not bool(mask.any()):
            return read(self.real, indices)
        theirs = read(self.generated, indices[mask] - self.n_real)
        if bool(mask.all()):
            return tuple(map(_copied, theirs))
        ours = read(self.real, indices[~mask])
        order = _positions(mask)
        parts = [(ours[0], theirs[0]), *map(_with_same_names, ours[1:], theirs[1:])]
        return tuple(_mix(*part, order, what) for part, what in zip(parts, ("input", "target"), strict=False))

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Announce the coming calls of `batch` in order, so that generated samples can be computed ahead."""
        if self.generated is None or not self.n_generated or not batches:
            return
        order = torch.cat(list(batches))
        mask = self.is_generated(order)
        ends = torch.tensor([len(indices) for indices in batches]).cumsum(0)
        stops = torch.cat([torch.zeros(1, dtype=torch.int64), mask.cumsum(0)])[ends].tolist()
        counts = [stop - start for start, stop in pairwise([0, *stops]) if stop > start]
        self.generated.upcoming(torch.split(order[mask] - self.n_real, counts))


def _positions(mask: Tensor) -> Tensor:
    """Return for each place in a batch where its sample is in the concatenation of real and generated samples."""
    rank = torch.where(mask, mask.cumsum(0), (~mask).cumsum(0)) - 1
    return torch.where(mask, rank + (~mask).sum(), rank)


def _with_same_names(ours: Values, theirs: Values) -> tuple[Values, Values]:
    """Give targets at sensors and generated rollouts the same names; what one lacks is marked as not observed."""
    if isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or "value" not in ours:
        return ours, theirs
    none = {GRID: theirs.new_full((1, *theirs.shape[1:]), math.nan).expand(len(ours["value"]), *theirs.shape[1:])}
    empty = {name: values.new_zeros(len(theirs), *values.shape[1:]) for name, values in ours.items()}
    empty["value"] = torch.full_like(empty["value"], math.nan)
    return {**ours, **none}, {**empty, GRID: theirs}


def _mix(ours: Values, theirs: Values, order: Tensor, what: str) -> Values:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _interleave(ours, theirs, order, what)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.keys() == theirs.keys():
        return {name: _interleave(ours[name], theirs[name], order, f"{what} {name!r}") for name in ours}
    raise RunError(
        f"real and generated samples do not fit together: the {what} of real ones is {_kind(ours)}, of generated ones "
        f"{_kind(theirs)}; the recipe must generate the same kind as the data has"
    )


def _copied(values: Values) -> Values:
    """Return a copy: a cache may return views of a larger block, and sums may depend on the place in memory."""
    if isinstance(values, Tensor):
        return values.clone(memory_format=torch.contiguous_format)
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in values.items()}


def _interleave(ours: Tensor, theirs: Tensor, order: Tensor, what: str) -> Tensor:
    if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
        raise RunError(
            f"real and generated samples do not fit together: the {what} of a real one is {_shape(ours)}, of a "
            f"generated one {_shape(theirs)}; the recipe must generate the same shape and type as the data has"
        )
    # two sequential copies are faster than one copy to scattered places
    joined = torch.cat([ours, theirs.to(ours.device)])
    return joined.index_select(0, order.to(joined.device))


def _shape(values: Tensor) -> str:
    return f"{list(values.shape[1:])} of {str(values.dtype).removeprefix('torch.')}"


def _kind(values: Values) -> str:
    return "one tensor" if isinstance(values, Tensor) else f"tensors named {', '.join(values) or 'nothing'}"
