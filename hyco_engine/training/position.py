"""Where in a phase training is: what a call of `Trainer.train` holds beside the trainer's own state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.training.epoch_metrics import EpochMetrics


@attrs.frozen(kw_only=True)
class TrainingResult:
    """Of one call of `train`: the last epoch's metrics, whether any parameter changed, and what the user should know.

    `converged`: it ended early, or has nothing left to gain, after it had moved in this or an earlier call.
    """

    metrics: Mapping[str, float]
    moved: bool
    converged: bool = False
    notes: tuple[str, ...] = ()


@attrs.define(kw_only=True, eq=False)
class EpochPosition:
    """An epoch of batches: how many are done, what they gave, and the random numbers of those to come.

    `good` is the state at its start, where it may have to be gone back to. `layers` are torch's own generators as they
    are to be when the next batch begins; None: as they are.
    """

    first_step: int
    draws: torch.Generator
    good: Any = None
    batches: int = 0
    metrics: EpochMetrics = attrs.Factory(EpochMetrics)
    layers: Mapping[str, Tensor] | None = None

    def state_dict(self, device: torch.device) -> dict[str, Any]:
        layers = {"cpu": torch.default_generator.get_state()}
        if device.type == "cuda":
            layers["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "first_step": self.first_step,
            "draws": self.draws.get_state(),
            "good": self.good,
            "batches": self.batches,
            "metrics": copy.deepcopy(vars(self.metrics)),
            "layers": layers,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EpochPosition:
        draws = torch.Generator()
        draws.set_state(state["draws"])
        metrics = EpochMetrics()
        vars(metrics).update(copy.deepcopy(state["metrics"]))
        return cls(**{**state, "draws": draws, "metrics": metrics})

    def restore_layers(self, device: torch.device) -> None:
        """Give torch's own generators the numbers of the next batch."""
        if self.layers is not None:
            torch.default_generator.set_state(self.layers["cpu"])
            if device.type == "cuda" and "cuda" in self.layers:
                torch.cuda.set_rng_state(self.layers["cuda"], device)
            self.layers = None


@attrs.define(kw_only=True, eq=False)
class PhasePosition:
    """A phase: the learned parameters `before` it, whether it was the `first`, and what came of it so far.

    `weights` are those of the loss terms, where they are frozen for the phase; `epoch` is an epoch that is half done.
    `good` is the state at the start of the epoch whose loss was the lowest, `lowest`, so far: what is gone back to.
    """

    before: Mapping[str, Tensor]
    first: bool
    epochs: int = 0
    record: dict[str, Any] = attrs.Factory(dict)
    converged: bool = False
    weights: Mapping[str, float] | None = None
    epoch: EpochPosition | None = None
    good: Any = None
    lowest: float | None = None

    def state_dict(self, device: torch.device) -> dict[str, Any]:
        """All but `before`, which the model at the phase's start gives."""
        return {
            "first": self.first,
            "epochs": self.epochs,
            "record": dict(self.record),
            "converged": self.converged,
            "weights": None if self.weights is None else dict(self.weights),
            "epoch": None if self.epoch is None else self.epoch.state_dict(device),
            "good": self.good,
            "lowest": self.lowest,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], before: Mapping[str, Tensor]) -> PhasePosition:
        epoch = state["epoch"]
        return cls(**{**state, "before": before, "epoch": None if epoch is None else EpochPosition.from_state(epoch)})
