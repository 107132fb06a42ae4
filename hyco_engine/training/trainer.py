"""One trainer for both models. It holds model, optimizer and settings, never data, and lives on over the cycles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import PluginError, RunError
from hyco_engine.interfaces import (
    Batch,
    ExtraTerm,
    LossNormalizer,
    LossTerm,
    NormalizedLoss,
    PhysicalModel,
    Player,
    Samples,
    StepContext,
    Values,
)
from hyco_engine.randomness import derive_generator
from hyco_engine.spec.classes import TrainingSettings
from hyco_engine.training.losses import Objective, WeightedSum, objective_for
from hyco_engine.training.optimizers import FullBatch, learning_rate, make_optimizer

Observe = Callable[[Mapping[str, Any]], None]


@attrs.frozen(kw_only=True)
class TrainingResult:
    """Of one call of `train`: the last epoch's metrics, and whether any parameter changed."""

    metrics: Mapping[str, float]
    moved: bool


class Trainer:
    """Trains one model: `train(data, num_epochs)`, as often as wanted; optimizer and counters persist.

    `model` is a stepper or a predictor; `layout` the data's, for steppers. `normalizer` None: the plain weighted sum.
    `total_epochs` is what a cosine schedule falls to zero over. Every epoch visits all samples once, in an order that
    depends only on the seed, the player and the number of epochs before.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        player: Player,
        layout: StateLayout | None = None,
        settings: TrainingSettings | None = None,
        objective: Objective | None = None,
        normalizer: LossNormalizer | None = None,
        seed: int = 0,
        total_epochs: int | None = None,
    ) -> None:
        self.model = model
        self.player: Player = player
        self.layout = layout
        self.settings = settings or TrainingSettings()
        self.objective = objective or objective_for(model, layout)
        self.normalizer = normalizer or WeightedSum()
        self.normalizer.setup(self.objective.specs)
        self.seed = seed
        self.total_epochs = total_epochs
        self.epochs_done = 0
        self.steps_done = 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._parameters, self.settings) if self._parameters else None
        groups = self.normalizer.param_groups()
        self._normalizer_optimizer = torch.optim.Adam(groups, lr=1e-2) if groups else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((t.device for t in [*self.model.parameters(), *self.model.buffers()]), torch.device("cpu"))

    @property
    def trainable(self) -> bool:
        """Whether the model has anything to learn."""
        return bool(self._parameters)

    def train(
        self, data: Samples, num_epochs: int, *, terms: Sequence[ExtraTerm] = (), observe: Observe = lambda record: None
    ) -> TrainingResult:
        """Train on `data` for `num_epochs`.

        `terms` are further loss terms of every batch. `observe` gets one record an epoch: `epoch`, `step`,
        `train/loss`, and apart for real and generated samples `train/loss_real`, `train/loss_generated`.
        Raises RunError where a loss is not finite: parameters are then as before that step.
        """
        if self._optimizer is None:
            raise RunError(f"the {self.player} model has nothing to learn: no parameter requires a gradient")
        if len(data) == 0:
            raise RunError(f"the {self.player} model has no data to train on")
        dataset = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        before = [p.detach().clone() for p in self._parameters]
        record: dict[str, Any] = {}
        self.model.train()
        if isinstance(self._optimizer, FullBatch):
            self._optimizer.begin(real_only=dataset.n_generated == 0)
        for _ in range(num_epochs):
            if isinstance(self._optimizer, FullBatch):
                metrics = self._full_batch_epoch(self._optimizer, dataset, terms)
            else:
                metrics = self._minibatch_epoch(self._optimizer, dataset, terms)
            self.epochs_done += 1
            record = {"epoch": self.epochs_done, "step": self.steps_done, **metrics, **self._parameter_values()}
            observe(record)
        moved = any(not torch.equal(old, new) for old, new in zip(before, self._parameters, strict=True))
        return TrainingResult(metrics=record, moved=moved)

    def _minibatch_epoch(
        self, optimizer: torch.optim.Optimizer, data: AugmentedDataset, terms: Sequence[ExtraTerm]
    ) -> dict[str, float]:
        epoch = _Epoch()
        order = torch.randperm(len(data), generator=self._generator("shuffle"))
        batches = torch.split(order, self.settings.batch_size)
        data.upcoming(batches)
        draws = self._generator("terms")
        for k, indices in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate(k / len(batches))
            optimizer.zero_grad(set_to_none=True)
            if self._normalizer_optimizer is not None:
                self._normalizer_optimizer.zero_grad(set_to_none=True)
            loss = self._loss(data, indices, terms, draws, epoch, where=f"epoch {self.epochs_done + 1}, batch {k + 1}")
            loss.total.backward()  # type: ignore[no-untyped-call]
            if self.settings.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_grad_norm)
            self._refuse_nonfinite_gradients(k)
            optimizer.step()
            if self._normalizer_optimizer is not None:
                self._normalizer_optimizer.step()
            self.normalizer.post_step(self._step_context())
            self.steps_done += 1
        return epoch.metrics()

    def _full_batch_epoch(
        self, optimizer: FullBatch, data: AugmentedDataset, terms: Sequence[ExtraTerm]
    ) -> dict[str, float]:
        """One iteration over all samples, accumulated in chunks, so that its size does not bound the batch."""
        chunks = torch.split(torch.arange(len(data)), self.settings.batch_size)
        totals: dict[str, float] = {}
        for indices in chunks:
            for name, weight in self._term_weights(data, indices).items():
                totals[name] = totals.get(name, 0.0) + float(weight.sum())

        def closure() -> tuple[float, dict[str, float]]:
            epoch = _Epoch()
            draws = self._generator("terms")
            total = 0.0
            for k, indices in enumerate(chunks):
                where = f"epoch {self.epochs_done + 1}, chunk {k + 1}"
                loss = self._loss(data, indices, terms, draws, epoch, where=where, totals=totals)
                loss.total.backward()  # type: ignore[no-untyped-call]
                total += float(loss.total.detach())
            return total, epoch.metrics()

        loss, metrics = optimizer.iterate(closure)
        if not math.isfinite(loss):
            raise RunError(
                f"the {self.player} model's loss is {loss} over all samples in epoch {self.epochs_done + 1}: "
                "start closer, narrow the parameters' bounds, or shorten data.num_predict_steps"
            )
        self.steps_done += 1
        return metrics

    def _loss(
        self,
        data: AugmentedDataset,
        indices: Tensor,
        extra: Sequence[ExtraTerm],
        generator: torch.Generator,
        epoch: _Epoch,
        *,
        where: str,
        totals: Mapping[str, float] | None = None,
    ) -> NormalizedLoss:
        """The normalized loss of one batch; with `totals`, its share of the loss over all samples."""
        device = self.device
        batch = _to(data.batch(indices), device)
        weight = data.sample_weight(indices)
        terms = self.objective(self.model, batch, None if weight is None else weight.to(device))
        terms += [term.term(self.model, batch, generator) for term in extra]
        if totals is None:
            self._refuse_nonfinite(terms, where)
        else:  # a line search may try points where the loss is not finite, and comes back from them
            terms = [_share_of(term, totals) for term in terms]
        loss = self.normalizer(terms, self._step_context())
        if not isinstance(loss, NormalizedLoss):
            raise PluginError(
                f"the normalizer {type(self.normalizer).__name__} returned {type(loss).__name__}: "
                "expected a NormalizedLoss whose total is a tensor with gradients"
            )
        epoch.add(terms, loss, data.is_generated(indices).to(device))
        return loss

    def _term_weights(self, data: AugmentedDataset, indices: Tensor) -> dict[str, Tensor]:
        return self.objective.weights(data.batch(indices), data.sample_weight(indices))

    def _step_context(self) -> StepContext:
        return StepContext(
            step=self.steps_done,
            player=self.player,
            shared_parameters=lambda: self._parameters,
            generator=self._generator("normalizer"),
        )

    def _generator(self, purpose: str) -> torch.Generator:
        return derive_generator(self.seed, "train", self.player, purpose, self.epochs_done)

    def _learning_rate(self, within_epoch: float) -> float:
        if self.total_epochs is None:
            return self.settings.lr
        return learning_rate(self.settings, (self.epochs_done + within_epoch) / max(self.total_epochs, 1))

    def _parameter_values(self) -> dict[str, float]:
        """Values of the physics' parameters; a field's mean."""
        if not isinstance(self.model, PhysicalModel):
            return {}
        with torch.no_grad():
            return {f"param/{name}": float(value.mean()) for name, value in self.model.learnables.values().items()}

    def _refuse_nonfinite(self, terms: Sequence[LossTerm], where: str) -> None:
        for term in terms:
            if not torch.isfinite(term.per_sample).all():
                bad = int((~torch.isfinite(term.per_sample)).sum())
                raise RunError(
                    f"the {self.player} model diverged in {where}: the loss of {term.spec.name!r} is not finite for "
                    f"{bad} of {len(term.per_sample)} samples. Lower training.{self.player}.lr "
                    f"(now {self.settings.lr:g}), set clip_grad_norm, or shorten data.num_predict_steps"
                )

    def _refuse_nonfinite_gradients(self, batch: int) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise RunError(
                    f"the {self.player} model diverged in epoch {self.epochs_done + 1}, batch {batch + 1}: "
                    f"the gradient of {name!r} is not finite. Lower training.{self.player}.lr "
                    f"(now {self.settings.lr:g}) or shorten data.num_predict_steps"
                )
