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
"""(inputs, targets): states `[B, C_all, *S]` and rollouts for steppers, tensors by name for predictors."""


@attrs.frozen(kw_only=True, eq=False)
class Points:
    """The observations of one simulation by sensors: N observations, in any order."""

    frame: Tensor
    """`[N]`, float64: the time in frames since the first frame of the trajectory; it may lie between two frames."""
    time: Tensor
    """`[N]`, float64: the time since the first frame of the whole simulation."""
    position: Tensor
    """`[N, n_axes]`, float64: the place of the sensor."""
    value: Tensor
    """`[N, C_dyn]`: the observed values; NaN means "not observed"."""
    heldout: Tensor
    """`[N]`, bool: the observations that validate in a split by sensor."""


@attrs.frozen(kw_only=True, eq=False)
class Trajectory:
    """One simulation: `dynamic [T, C_dyn, *S]` and `static [C_static, *S]`, channels as in the source's layout.

    With `points`, all frames but the first are NaN: rollouts start from the first frame and are read at the sensors.
    What `scalars` and `labels` of the source say of the simulation is with it in all that the data manager gives.
    """

    dynamic: Tensor
    static: Tensor
    points: Points | None = None
    scalars: Mapping[str, float] = attrs.Factory(dict)
    """The known numbers of the whole simulation by name, such as its Reynolds number."""
    labels: Mapping[str, str] = attrs.Factory(dict)
    """The known groups of the simulation by name, such as the rig that it was measured on."""
    simulation: int | None = None
    """The number of the simulation among those of the source."""


class TrajectorySource(ABC):
    """Simulations of fields on one grid. The core divides them into windows and splits, and caches them."""

    layout: StateLayout
    dt: float
    num_simulations: int
    guesses_scalars: bool = False
    """Whether `scalars` are any numbers that may mean something: only those count which the spec names."""
    guesses_start: bool = False
    """Whether the first frame of each simulation is a first guess, and no observation."""
    marks_missing: bool = False
    """Whether NaN in dynamic fields is what the data mark as not observed, whatever the spec says."""

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """The known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return {}

    @property
    def split(self) -> Split | None:
        """The split of the data's authors, which holds if the spec gives none; None if the authors gave none."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever the result of `load` would; it is cheap compared with loading."""

    @abstractmethod
    def load(self, index: int) -> Trajectory:
        """Return simulation `index` as float64 or float32. Raises DataError that names file and key."""

    def points(self, index: int) -> Points | None:
        """Return the observations of simulation `index`, small enough for memory; None for data on the grid alone."""
        return None

    def frames(self, index: int) -> int | None:
        """Return the number of frames of simulation `index` if it is known without loading, else None."""
        return None

    def read_whole(self, index: int) -> int:
        """Return the bytes that are first read, and held, where simulation `index` is in a file that is read whole."""
        return 0

    def together(self, index: int) -> range:
        """Return the simulations that cost hardly more than `index` alone, as they are read or made in one go with it.

        Several processes divide what is left. The ranges do not overlap, and do not depend on what was loaded before.
        """
        return range(index, index + 1)

    def scalars(self, index: int) -> Mapping[str, float]:
        """Return the known numbers of simulation `index` by name, such as parameters; it is cheap, and loads no field.

        They are equally named for all simulations.
        """
        return {}

    def start(self, index: int) -> float:
        """Return the time of the first frame of simulation `index`."""
        return 0.0

    def labels(self, index: int) -> Mapping[str, str]:
        """Return the groups that simulation `index` belongs to, by name, such as {"rig": "B"}."""
        return {}

    def release(self) -> None:  # noqa: B027 - not every source holds what it read
        """Free the memory that reading took, because other files are read next; `load` may be called again later."""

    def glimpse(self) -> Trajectory | None:
        """Return a simulation from which field scales are judged before a run, or None if none can be read quickly."""
        return None

    def origin(self, field: str, index: int) -> str:
        """Return where a field of a simulation comes from, for messages: "waves.mat, variable 'usol'". May be empty."""
        return ""


class Samples(ABC):
    """A data set of (input, target) pairs, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices` (int64, `[B]`, any order, repeats allowed), in that order."""

    observed_share: float = 1.0
    """The mean over all samples of the observed share of their targets."""

    horizon: int | None = None
    """The number of steps of the rollouts that targets by name belong to; None if there are no rollouts."""

    def inputs(self, indices: Tensor) -> Values:
        """Return the inputs alone; override it if that is cheaper than `batch`."""
        return self.batch(indices)[0]

    def __getitem__(self, index: int) -> Batch:
        """Return one sample without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        inputs, targets = self.batch(torch.tensor([index % len(self)]))
        return _first(inputs), _first(targets)


def _first(values: Values) -> Values:
    return values[0] if isinstance(values, Tensor) else {name: value[0] for name, value in values.items()}


class SampleSource(ABC):
    """Data that is not a trajectory of fields: samples of (inputs by name, targets by name)."""

    @abstractmethod
    def samples(self, split: Literal["train", "val", "test"]) -> Samples:
        """Return the samples of one split; val and test may be empty."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever the samples would."""
