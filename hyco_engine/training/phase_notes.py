"""What a phase's numbers do not say, and the user should know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import PhysicalModel, Player
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.full_batch import FullBatch
from hyco_engine.training.position import PhasePosition

if TYPE_CHECKING:
    from hyco_engine.training.trainer import Trainer


@attrs.define
class SkippedBatches:
    """Batches of a phase that a normalizer left out, or whose terms it left out."""

    batches: int = 0
    skipped: int = 0
    whole_epochs: int = 0
    nonfinite: dict[str, int] = attrs.Factory(dict)

    def epoch(self, epoch: EpochMetrics) -> None:
        """Count one epoch."""
        self.batches += epoch.batches
        self.skipped += epoch.skipped
        self.whole_epochs += int(0 < epoch.batches == epoch.skipped)
        for name, count in epoch.nonfinite.items():
            self.nonfinite[name] = self.nonfinite.get(name, 0) + count

    def note(self, player: Player) -> str | None:
        """What to tell of them; None where there were none."""
        if not self.skipped and not self.nonfinite:
            return None
        where = ", ".join(f"{name!r} in {count}" for name, count in self.nonfinite.items())
        text = f"of {self.batches} batches of the {player} model {self.skipped} were left out"
        text += f"; losses were not finite: {where}" if where else ""
        if self.whole_epochs:
            text += f"; nothing at all was learned in {self.whole_epochs} epoch(s)"
        return text + f". Lower training.{player}.lr, set clip_grad_norm, or shorten data.num_predict_steps"


def phase_notes(trainer: Trainer, phase: PhasePosition, epochs: int) -> tuple[str, ...]:
    """What to tell of a phase of `epochs`; what holds for all phases is told after the first."""
    player, name, optimizer = trainer.player, trainer.optimizer_name, trainer._optimizer
    notes = [*trainer._warnings, trainer._skipped.note(player)]
    if phase.first:
        notes.append(None if trainer.multi_start is None else trainer.multi_start.message)
        if trainer._memory is not None and trainer._memory.message:
            notes.append(f"the {player} model: {trainer._memory.message}")
        if name == "gauss-newton" and trainer.linearizer.way == "differences":
            notes.append(
                f"the {player} model's derivatives are finite differences, since forward mode fails: "
                f"{trainer.linearizer.reason}"
            )
    if isinstance(optimizer, FullBatch) and optimizer.nonfinite:
        count = optimizer.nonfinite
        notes.append(f"{name} took back {count} steps of the {player} model to where its loss is not finite")
    if phase.first:
        notes.append(_unmoved(trainer.model, phase.before, epochs, name))
    return tuple(note for note in notes if note)


def _unmoved(model: nn.Module, before: Mapping[str, Tensor], epochs: int, optimizer: str) -> str | None:
    """Parameters of a physics that are as they were while others moved."""
    if not isinstance(model, PhysicalModel):
        return None
    now = dict(model.named_parameters())
    still = [name.removeprefix("learnables.raw.") for name, old in before.items() if torch.equal(old, now[name])]
    if not 0 < len(still) < len(before):
        return None
    return (
        f"{', '.join(still)} did not move in {epochs} epochs of {optimizer}: it was right from the start, or the loss "
        "does not depend on it"
    )


def parameter_means(model: nn.Module) -> dict[str, float]:
    """`param/<name>` of a physics' parameters; a field's mean."""
    if not isinstance(model, PhysicalModel):
        return {}
    with torch.no_grad():
        return {f"param/{name}": float(value.mean()) for name, value in model.learnables.values().items()}
