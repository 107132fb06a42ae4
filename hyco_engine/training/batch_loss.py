"""The loss of one batch: the terms of a model, then what the normalizer makes of them; failures are told by name."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.errors import RunError
from hyco_engine.hooks.blaming import blaming
from hyco_engine.interfaces import Batch, ExtraTerm, LossTerm, NormalizedLoss, Player, StepContext
from hyco_engine.training.divergence import Diverged, broken_losses
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.losses import Objective
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.prior import Prior
from hyco_engine.training.whole_loss import to_device


@attrs.frozen(kw_only=True, eq=False)
class BatchLoss:
    """Computes losses of batches of `data`; `name` is what messages call the model."""

    model: nn.Module
    name: str
    player: Player
    objective: Objective
    normalization: Normalization
    data: AugmentedDataset
    extra: Sequence[ExtraTerm]
    prior: Prior
    device: torch.device

    def __call__(
        self, indices: Tensor, generator: torch.Generator, context: StepContext, epoch: EpochMetrics, where: str
    ) -> NormalizedLoss:
        """The normalized loss of the samples at `indices`, counted in `epoch`; `where`: "epoch 3, batch 5".

        Raises Diverged where it is not finite, and PluginError where the model or the normalizer fails.
        """
        batch = to_device(self.data.batch(indices), self.device)
        weight = self.data.sample_weight(indices)
        terms = self._terms(batch, None if weight is None else weight.to(self.device), generator, where)
        try:
            loss = self.normalization(terms, context)
        except RunError as error:
            if (broken := broken_losses(terms)) is not None:
                raise self._diverged(where, broken, batch) from error
            raise RunError(f"the {self.player} model, {where}: {error}") from error
        if loss.skipped:
            epoch.skip(terms)
            return loss
        if not torch.isfinite(loss.total):
            broken = broken_losses(terms) or f"the total of its losses is {float(loss.total.detach())}"
            raise self._diverged(where, broken, batch)
        generated = self.data.is_generated(indices).to(self.device)
        epoch.add(terms, generated, loss)
        return attrs.evolve(loss, total=loss.total + self.prior.value()) if self.prior else loss

    def _terms(self, batch: Batch, weight: Tensor | None, generator: torch.Generator, where: str) -> list[LossTerm]:
        with blaming(f"the {self.player} model {self.name}", where):
            terms = self.objective(self.model, batch, weight)
        for one in self.extra:
            with blaming(f"the loss term {type(one).__name__} of the {self.player} model", where):
                terms.append(one.term(self.model, batch, generator))
        return terms

    def _diverged(self, where: str, what: str, batch: Batch) -> Diverged:
        left = self.objective.left_finite(self.model, batch)
        return Diverged(f"the {self.player} model diverged in {where}: {what}{f', since {left}' if left else ''}")
