"""The contract of a task, for every kind of data."""

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
from hyco_engine.data.precision import Precision
from hyco_engine.ensemble import Prediction
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicalModel, Player, Predictor, Samples, TermSpec, Trajectory
from hyco_engine.ranks.shards import Shards
from hyco_engine.rollout import rollout_with_bands
from hyco_engine.spec.classes import LossSpec
from hyco_engine.tasks.terms import declared_terms
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.losses import Objective
from hyco_engine.training.memory import Room
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


@attrs.frozen(kw_only=True, eq=False)
class Example:
    """A held-out simulation for figures."""

    split: Literal["val", "test"]
    trajectory: Trajectory
    layout: StateLayout
    dt: float


class Task(ABC):
    """The data of a spec, and all that depends on its kind.

    A task is made without loading a simulation, so that a plan needs only sizes; `read` loads the data on which a run
    trains and measures. All parts of a run are built in the same way before and after `read`.
    """

    @property
    def form(self) -> DataForm:
        """The form of the data, for building models. Before `read`, its statistics are `Statistics.unknown`."""
        return DataForm()

    @property
    def precision(self) -> Precision:
        """The precision that the data needs, or that was asked for."""
        return Precision(name="float32")

    # --- training ---

    @abstractmethod
    def read(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load and check all data, with a call of `progress(done, total)` for each simulation. Raises DataError."""

    @property
    def is_read(self) -> bool:
        """True if training data is available without loading anything."""
        return True

    @property
    @abstractmethod
    def train(self) -> Samples:
        """The real samples on which models train."""

    def samples(self, settings: TrainingSettings) -> Samples:
        """Return the real samples on which a model with these settings trains."""
        return self.train

    def horizon(self, settings: TrainingSettings) -> int:
        """Return the number of steps in the samples of a model with these settings; 0 if they are no rollouts."""
        return 0

    @property
    def noise(self) -> Mapping[str, float]:
        """The noise of each dynamic field, in standard deviations of the field, as far as it is known."""
        return {}

    def noise_summary(self) -> dict[str, dict[str, float]]:
        """Return the `level` of each field's noise in its own unit, and `relative` to the field's spread."""
        return {}

    def longest_windows(self) -> tuple[int, int] | None:
        """Return (horizon, stride) of the longest windows that share no frame; None if the data has none."""
        return None

    @abstractmethod
    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        """Return the objective of `model`, with the loss terms `specs` of its predictions for a batch of `train`."""

    def start_states(self, settings: TrainingSettings) -> Tensor | None:
        """Return a batch of start states `[B, C_all, *S]` of training rollouts; None if the data has no states."""
        return None

    # --- loss terms ---

    @abstractmethod
    def stepper_terms(self, player: Player) -> list[TermSpec]:
        """Return the loss terms of a stepper. Raises DataError if the data has no states."""

    @property
    def declared_sizes(self) -> Mapping[str, float] | None:
        """The spread of each term's data, which is its scale by default; None if the data has no fields."""
        return None

    def usual_sizes(self, player: Player) -> Mapping[str, float] | None:
        """Return the scales of a model's terms that have none, if they are known."""
        return self.declared_sizes

    def terms(self, player: Player, model: nn.Module, loss: LossSpec) -> list[TermSpec]:
        """Return a model's loss terms with the declarations of `[loss]`. Raises SpecError for a term that it lacks."""
        own = list(model.terms) if isinstance(model, Predictor) else self.stepper_terms(player)
        return declared_terms(own, player, loss, self.declared_sizes, self.usual_sizes(player))

    def scale_warning(self, terms: Mapping[Player, Sequence[TermSpec]]) -> str | None:
        """Return a warning with the scales to declare if a model's loss terms differ much in size, else None.

        Fields need none, since their spread is their scale.
        """
        return None

    # --- held-out data ---

    @property
    @abstractmethod
    def validates(self) -> bool:
        """True if there is validation data."""

    @abstractmethod
    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        """Return the measure of models on a held-out split; None if the split is empty."""

    def score(self, model: nn.Module, objective: Objective, shards: Shards, device: torch.device | str) -> float:
        """Return the score of a model on validation data, which all ranks measure together.

        It is measured from scratch, since what rollouts begin from may change between two phases.
        """
        heldout = self.heldout("val", objective, device)
        assert heldout is not None
        heldout = heldout.divided(shards)
        return heldout.score(heldout.measure(model))

    def begin_from_learned(self, physical: Trainer) -> Tensor | None:
        """Begin held-out rollouts from what a physics with learned start states knows of the frames before them.

        Return these states, which `begin_from` takes; None if rollouts begin from observed frames.
        """
        return None

    def begin_from(self, states: Tensor, settings: TrainingSettings) -> None:
        """Begin held-out rollouts from what `begin_from_learned` returned for a physics with these settings."""
        raise DataError("the models of this data begin no rollouts from other states", key="data")

    def rollouts(self, split: Literal["val", "test"]) -> Sequence[Trajectory]:
        """Return the held-out simulations over which rollouts are measured; none if the data has no simulations."""
        return ()

    def example(self) -> Example | None:
        """Return the first simulation of the test split, else of val; None if the data has no simulations."""
        return None

    def path(self, model: nn.Module, start: Tensor, steps: int) -> Prediction:
        """Return what a model predicts from `start [1, C_all, *S]` of the example, `[1, steps, C_dyn, *S]`."""
        return rollout_with_bands(model, start, steps)

    def whole_simulations(self) -> Sequence[Trajectory]:
        """Return all simulations from their first frame to their last; none if the data has no simulations."""
        return ()

    def check_fit(self, trained: DataForm, player: Player) -> None:
        """Raise DataError if a model that trained on states of the form `trained` cannot step this data."""
        layout = self.form.layout
        if trained.layout is None:
            return
        if layout is None or trained.text != self.form.text:
            raise DataError(f"the {player} model steps {trained.text}; this data has {self.form.text}", key="data")
        if [field.groups for field in trained.layout.static] != [field.groups for field in layout.static]:
            raise DataError(
                f"the {player} model has a value for each {' and '.join(trained.layout.indices)} of other data; "
                "hyco-engine identify finds the parameters of new simulations",
                key="data",
            )
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

    def check_physics(self, physical: PhysicalModel, kind: str) -> None:  # noqa: B027 - most know nothing of it
        """Raise SpecError if the physics `kind` and its parameters do not fit what is known of the data.

        One of both may be steady alone. There may be no parameter for a true value, or one of another shape, or a
        group of simulations that only validates, and for which no value is found.
        """

    # --- sizes ---

    @property
    @abstractmethod
    def n_real(self) -> int:
        """The number of training samples."""

    def count(self, settings: TrainingSettings) -> int:
        """Return the number of training samples of a model with these settings."""
        return self.n_real

    @abstractmethod
    def sample_bytes(self, settings: TrainingSettings) -> int:
        """Return the bytes of one generated sample, input and target, for a model with these settings."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes of the data for `hyco-engine check`."""
        return {}

    def memory(self, settings: TrainingSettings, internal: int, room: Room | None = None) -> dict[str, Any] | None:
        """Return the most memory of a physics' gradient, for `hyco-engine check`; None if there are no rollouts.

        A frame has `internal` internal steps. `room` is what a pass over all samples may take; None for batches.
        """
        return None

    def summary(self) -> dict[str, Any] | None:
        """Return a summary of the data for the results, or None."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """Return a text that changes with the data, so that a run is never resumed on other data."""

    @property
    @abstractmethod
    def text(self) -> str:
        """A description of the data in one sentence."""

    def simulations(self) -> DataManager:
        """Return the simulations, to write them as files. Raises SpecError if the data has no simulations."""
        raise SpecError("observations at points are no simulations", key="data.kind")
