"""The contracts of data: what a source gives and what a model is trained on. `hyco_engine.interfaces` exports them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout

if TYPE_CHECKING:
    from hyco_engine.data.settings import Split

Values = Tensor | Mapping[str, Tensor]
Batch = tuple[Values, Values]
"""(inputs, targets). Steppers: states `[B, C_all, *S]`, rollouts `[B, T, C_dyn, *S]`. Predictors: tensors by name."""


@attrs.frozen(kw_only=True, eq=False)
class Points:
    """What sensors saw of one simulation, wherever they were: N observations, in any order."""

    frame: Tensor
    """`[N]`, float64: when, in frames since the first frame of the trajectory; between two frames as well."""
    time: Tensor
    """`[N]`, float64: when, since the first frame of the whole simulation."""
    position: Tensor
    """`[N, n_axes]`, float64."""
    value: Tensor
    """`[N, C_dyn]`; NaN where not observed."""
    heldout: Tensor
    """`[N]`, bool: what validates in a split by sensor."""


@attrs.frozen(kw_only=True, eq=False)
class Trajectory:
    """One simulation: `dynamic [T, C_dyn, *S]` and `static [C_static, *S]`, channels as in the source's layout.

    With `points`, frames are NaN but for the first, from which the fields are rolled out to where the sensors are.
    """

    dynamic: Tensor
    static: Tensor
    points: Points | None = None


class TrajectorySource(ABC):
    """Simulations of fields on one grid. The core windows, splits and caches them."""

    layout: StateLayout
    dt: float
    num_simulations: int

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """Known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return {}

    @property
    def split(self) -> Split | None:
        """How the data's makers divided it, which holds where the spec divides nothing; None: they did not."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever what `load` returns would; cheap compared with loading."""

    @abstractmethod
    def load(self, index: int) -> Trajectory:
        """Simulation `index`, as float64 or float32. Raises DataError naming file and key."""

    def points(self, index: int) -> Points | None:
        """What sensors saw of simulation `index`, small enough for memory; None: data on the grid alone."""
        return None

    def frames(self, index: int) -> int | None:
        """Frames of simulation `index`, where known without loading it; None: load it to know."""
        return None

    def glimpse(self) -> Trajectory | None:
        """A simulation to judge the fields' sizes by before a run; None where it is not there to be read quickly."""
        return None

    def origin(self, field: str, index: int) -> str:
        """Where a field of a simulation comes from, for messages: "waves.mat, variable 'usol'". May be empty."""
        return ""


class Samples(ABC):
    """A data set of (input, target) pairs, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The samples at `indices` (int64, `[B]`, any order, repeats allowed), in that order."""

    observed_share: float = 1.0
    """The mean over all samples of the share of their targets that was observed."""

    horizon: int | None = None
    """Steps of the rollouts that targets by name belong to; None: there are none."""

    def inputs(self, indices: Tensor) -> Values:
        """The inputs alone, where that is cheaper."""
        return self.batch(indices)[0]

    def __getitem__(self, index: int) -> Batch:
        """One sample, without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        inputs, targets = self.batch(torch.tensor([index % len(self)]))
        return _first(inputs), _first(targets)


def _first(values: Values) -> Values:
    return values[0] if isinstance(values, Tensor) else {name: value[0] for name, value in values.items()}


class SampleSource(ABC):
    """Data that is no trajectory of fields: samples of (inputs by name, targets by name)."""

    @abstractmethod
    def samples(self, split: Literal["train", "val", "test"]) -> Samples:
        """The samples of one split; may be empty for val and test."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the samples would."""
