"""The task of data without fields, which has inputs and targets by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hyco_engine.data.settings import Observe, SourceChoice
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Player, Samples, SampleSource, TermSpec
from hyco_engine.tasks.base import Task
from hyco_engine.tasks.terms import sample_sizes, scale_warning
from hyco_engine.training.evaluation import HeldOut, HeldOutSamples
from hyco_engine.training.losses import Objective, objective_for
from hyco_engine.training.settings import TrainingSettings


class SampleTask(Task):
    """The task to predict named targets from named inputs; the loss on held-out samples measures the predictors.

    Raises SpecError if the spec has settings that only simulations allow, and DataError if there are no samples.
    """

    def __init__(self, source: SampleSource, choice: SourceChoice) -> None:
        if choice.observe != Observe():
            raise SpecError(
                "noise and masks apply to simulations of fields, but this data consists of samples", key="data.observe"
            )
        if choice.split.by == "time":
            raise SpecError(
                "samples have no frames, so no split by time: their source divides them", key="data.split.by"
            )
        if choice.scalars or choice.table is not None:
            key = "data.scalars" if choice.scalars else "data.table"
            raise SpecError("known numbers belong to simulations, but this data consists of samples", key=key)
        if choice.every > 1:
            raise SpecError("samples have no frames of which some could be left out", key="data.every")
        self._source = source
        self._train = source.samples("train")
        if not len(self._train):
            raise DataError("the data has no sample to train on", key="data")
        self._heldout: dict[Literal["val", "test"], Samples] = {
            "val": source.samples("val"),
            "test": source.samples("test"),
        }

    @property
    def train(self) -> Samples:
        return self._train

    def read(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Do nothing: the source has given its samples already."""

    def objective(self, model: nn.Module, specs: Sequence[TermSpec]) -> Objective:
        return objective_for(model, None, specs)

    def stepper_terms(self, player: Player) -> list[TermSpec]:
        raise DataError(
            f"the {player} model steps states of fields forward, and this data has no fields", key=f"{player}.kind"
        )

    def scale_warning(self, terms: Mapping[Player, Sequence[TermSpec]]) -> str | None:
        sizes = sample_sizes(self.train, next(iter(terms.values()), ()))
        return scale_warning(terms, sizes)

    @property
    def validates(self) -> bool:
        return len(self._heldout["val"]) > 0

    def heldout(
        self, split: Literal["val", "test"], objective: Objective, device: torch.device | str = "cpu"
    ) -> HeldOut | None:
        real = self._heldout[split]
        return HeldOutSamples(real, objective, device) if len(real) else None

    @property
    def n_real(self) -> int:
        return len(self.train)

    def sample_bytes(self, settings: TrainingSettings) -> int:
        """Return the bytes of one real sample; a generated one is of the same kind."""
        parts: list[Tensor] = []
        for values in self.train.batch(torch.tensor([0])):
            parts += [values] if isinstance(values, Tensor) else list(values.values())
        return sum(part.nbytes for part in parts)

    def digest(self) -> str:
        digest = hashlib.sha256(str(len(self.train)).encode())
        digest.update(self._source.fingerprint().encode())
        return digest.hexdigest()

    @property
    def text(self) -> str:
        return f"{len(self.train)} samples to train on"
