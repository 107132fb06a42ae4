"""What every task gives, whatever its data is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.form import DataForm
from hyco_engine.data.manager import DataManager
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicalModel, Player, Predictor, Samples, TermSpec, Trajectory
from hyco_engine.spec.classes import LossSpec
from hyco_engine.tasks.terms import declared_terms
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.losses import Objective
from hyco_engine.training.settings import TrainingSettings


@attrs.frozen(kw_only=True, eq=False)
class Example:
    """A held-out simulation to show."""

    split: Literal["val", "test"]
    trajectory: Trajectory
    layout: StateLayout
    dt: float


class Task(ABC):
    """The data of a spec, and all that depends on the kind of data it is.

    A task is made without loading a simulation, so that a plan can be told from sizes; `read` loads what a run trains
    and measures on. All parts of a run are built in the same way before and after `read`.
    """

    @property
    def form(self) -> DataForm:
        """What models are built for. Until the data is read its statistics are those of `Statistics.unknown`."""
        return DataForm()

    # --- training ---

    @abstractmethod
    def read(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load and check all data; `progress(done, total)` is told of each simulation. Raises DataError."""

    @property
    def is_read(self) -> bool:
        """Whether training data can be looked at without loading anything."""
        return True

    @property
    @abstractmethod
    def train(self) -> Samples:
        """The real samples that models train on."""

    @abstractmethod
    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        """What `model` is trained on: the loss terms `specs` of its predictions for a batch of `train`."""

    def start_states(self, count: int) -> Tensor | None:
        """Up to `count` states `[B, C_all, *S]` that training rollouts start from; None where there are no states."""
        return None

    # --- loss terms ---

    @abstractmethod
    def stepper_terms(self, player: Player) -> list[TermSpec]:
        """The loss terms of a model that steps states. Raises DataError where there are no states."""

    @property
    def declared_sizes(self) -> Mapping[str, float] | None:
        """What `scale = "data"` means, by term; None where it means nothing."""
        return None

    def terms(self, player: Player, model: nn.Module, loss: LossSpec) -> list[TermSpec]:
        """The loss terms of a model with what `[loss]` declares for them. Raises SpecError for a term it lacks."""
        own = list(model.terms) if isinstance(model, Predictor) else self.stepper_terms(player)
        return declared_terms(own, player, loss, self.declared_sizes)

    @abstractmethod
    def scale_warning(self, terms: Mapping[Player, Sequence[TermSpec]]) -> str | None:
        """What the user should declare where the loss terms of a model are of unlike sizes; None where all is well."""

    # --- held-out data ---

    @property
    @abstractmethod
    def validates(self) -> bool:
        """Whether there is validation data."""

    @abstractmethod
    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        """How models are measured on a held-out split; None where the split is empty."""

    def example(self) -> Example | None:
        """The first simulation of the test split, else of val; None where the data has no simulations."""
        return None

    def check_fit(self, trained: DataForm, player: Player) -> None:
        """Raise DataError where a model that was trained on states of the form `trained` cannot step this data."""
        if trained.layout is None:
            return
        if trained.text != self.form.text:
            raise DataError(f"the {player} model steps {trained.text}; this data has {self.form.text}", key="data")
        dt, own = trained.dt, self.form.dt
        if dt is not None and own is not None and not math.isclose(dt, own, rel_tol=1e-6):
            raise DataError(
                f"the {player} model steps by {dt:g}; the frames of this data are {own:g} apart", key="data"
            )

    # --- the physics ---

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """Known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return {}

    def check_truth(self, physical: PhysicalModel, kind: str) -> None:  # noqa: B027 - most know no truth
        """Raise SpecError where a true value is of no parameter of the physics `kind`, or of another shape."""

    # --- sizes ---

    @property
    @abstractmethod
    def n_real(self) -> int:
        """The number of training samples."""

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """Bytes of one generated sample, input and target."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What `hyco-engine check` tells of the data."""
        return {}

    def memory(self, settings: TrainingSettings, inner_dt: float | None) -> dict[str, Any] | None:
        """What the gradient of a physics keeps at most, for `hyco-engine check`; None where nothing is rolled out."""
        return None

    def summary(self) -> dict[str, Any] | None:
        """What the results say of the data that was read; None: nothing."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """A text that changes with the data, so that a run is never resumed on other data."""

    @property
    @abstractmethod
    def text(self) -> str:
        """One sentence that says what the data is."""

    def simulations(self) -> DataManager:
        """The simulations, to write them as files. Raises SpecError where the data is no simulations."""
        raise SpecError("observations at points are no simulations", key="data.kind")
