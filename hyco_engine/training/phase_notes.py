"""What a phase's numbers do not say, and the user should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import PhysicalModel, Player
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.full_batch import FullBatch
from hyco_engine.training.linearized import Linearizer


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


def full_batch_note(optimizer: FullBatch, name: str, player: Player) -> str | None:
    """Of steps that were taken back."""
    if not optimizer.nonfinite:
        return None
    return f"{name} took back {optimizer.nonfinite} steps of the {player} model to where its loss is not finite"


def differences_note(linearizer: Linearizer, player: Player) -> str | None:
    """Of derivatives that had to be finite differences."""
    if linearizer.way != "differences":
        return None
    return f"the {player} model's derivatives are finite differences, since forward mode fails: {linearizer.reason}"


def unmoved_note(model: nn.Module, before: Mapping[str, Tensor], epochs: int, optimizer: str) -> str | None:
    """Of parameters of a physics that are as they were while others moved."""
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


def told(*notes: str | None) -> Sequence[str]:
    """Those that there are."""
    return [note for note in notes if note]
