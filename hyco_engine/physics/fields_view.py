"""Samples as PhiFlow Fields: a view of tensor samples, and a data set of samples that are given as Fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from phi.field import Field
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import DataError
from hyco_engine.interfaces import Batch, Samples
from hyco_engine.physics.layout import SAMPLES, Converter

FieldSample = tuple[dict[str, Field], dict[str, list[Field]]]
"""(every field at t0, the dynamic fields at t1 to T)."""
HeldSample = tuple[Mapping[str, Field], Mapping[str, Sequence[Field]]]


class FieldView(Samples):
    """A data set seen as Fields: `view[i]` computes a `FieldSample` without batch dimension.

    It is itself a data set of tensors, so a trainer of `samples` can train on the view.
    """

    def __init__(self, samples: Samples, layout: StateLayout) -> None:
        self.samples = samples
        self.layout = layout
        self._converter = Converter(layout)

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> Batch:
        return self.samples.batch(indices)

    def inputs(self, indices: Tensor) -> Tensor | Mapping[str, Tensor]:
        return self.samples.inputs(indices)

    def __getitem__(self, index: int) -> FieldSample:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        states, rollouts = self.samples.batch(torch.tensor([index % len(self)]))
        if not isinstance(states, Tensor) or not isinstance(rollouts, Tensor):
            raise DataError("only samples of states and rollouts can be viewed as Fields")
        first = {name: _single(field) for name, field in self._converter.fields(states).items()}
        names = [field.name for field in self.layout.dynamic]
        steps = self._converter.rollout_fields(rollouts, names)
        return first, {name: [_single(step[name]) for step in steps] for name in names}


class FieldSamples(Samples):
    """A data set of samples given as Fields, each `(fields at t0 by name, lists of fields at t1 to T by name)`.

    All lists must have the same length. Samples are converted into tensors of `dtype` (default: that of the Fields)
    when they are asked for.
    """

    def __init__(
        self,
        samples: Sequence[HeldSample],
        layout: StateLayout,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Raise DataError if a sample lacks a field or has another number of steps than the first sample."""
        self.samples = samples
        self.layout = layout
        self.dtype = dtype
        self._converter = Converter(layout)
        self._dynamic = [field.name for field in layout.dynamic]
        self._all = [field.name for field in layout.fields]
        horizons = {_horizon(sample[1], self._dynamic, index) for index, sample in enumerate(samples)}
        if len(horizons) > 1:
            raise DataError(f"all samples need the same number of steps, but these have {sorted(horizons)}")

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> Batch:
        states, rollouts = [], []
        for index in indices.tolist():
            first, later = self.samples[index]
            steps = [dict(zip(later, fields, strict=True)) for fields in zip(*later.values(), strict=True)]
            states.append(self._converter.tensor(first, self._all))
            rollouts.append(self._converter.rollout_tensor(steps, self._dynamic))
        return torch.cat(states).to(self.dtype), torch.cat(rollouts).to(self.dtype)

    def __getitem__(self, index: int) -> HeldSample:  # type: ignore[override]
        return self.samples[index]


def _single(field: Field) -> Field:
    return field[{SAMPLES: 0}]


def _horizon(later: Mapping[str, Sequence[Field]], names: Sequence[str], index: int) -> int:
    missing = [name for name in names if name not in later]
    lengths = {len(later[name]) for name in names if name in later}
    if missing or len(lengths) != 1:
        raise DataError(
            f"sample {index} needs a list of Fields for each of {', '.join(names)}, all of one length, but has "
            f"{', '.join(f'{name}: {len(fields)}' for name, fields in later.items()) or 'none'}"
        )
    return lengths.pop()
