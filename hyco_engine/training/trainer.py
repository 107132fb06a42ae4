"""One trainer for both models. It holds model, optimizer and settings, never data, and lives on over the cycles."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import (
    ExtraTerm,
    LossNormalizer,
    LossTerm,
    NormalizedLoss,
    PhysicalModel,
    Player,
    Samples,
    StepContext,
)
from hyco_engine.randomness import derive_generator, own_random_numbers
from hyco_engine.spec.classes import TrainingSettings
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.full_batch import FullBatch
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import Objective, RolloutObjective, WeightedSum, objective_for
from hyco_engine.training.memory import MemoryPlan, plan_memory
from hyco_engine.training.multi_start import MultiStart, draw_starts, search_gauss_newton, search_lbfgs
from hyco_engine.training.normalized import checked
from hyco_engine.training.optimizers import choose_optimizer, learning_rate, make_optimizer
from hyco_engine.training.starved import StarvedTerms
from hyco_engine.training.whole_loss import WholeLoss, to_device

logger = logging.getLogger(__name__)

Observe = Callable[[Mapping[str, Any]], None]


@attrs.frozen(kw_only=True)
class TrainingResult:
    """Of one call of `train`: the last epoch's metrics, whether any parameter changed, and what the user should know.

    `converged`: it ended early, or has nothing left to gain, after it had moved in this or an earlier call.
    """

    metrics: Mapping[str, float]
    moved: bool
    converged: bool = False
    notes: tuple[str, ...] = ()


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
        normalizer_name: str | None = None,
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
        # what messages call it
        self.normalizer_name = normalizer_name or type(self.normalizer).__name__
        self._starved = StarvedTerms()
        self._warnings: list[str] = []
        self.seed = seed
        self.total_epochs = total_epochs
        self.epochs_done = 0
        self.steps_done = 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.linearizer = Linearizer(model)
        self.optimizer_name = self._optimizer_name()
        self._optimizer = None
        if self._parameters:
            self._optimizer = make_optimizer(self.optimizer_name, self._parameters, self.settings, self.linearizer)
        self.multi_start: MultiStart | None = None
        self._memory: MemoryPlan | None = None
        self._has_moved = False
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

    def _optimizer_name(self) -> str:
        """What `settings.optimizer` means here. Raises SpecError where it cannot be."""
        asked, squared = self.settings.optimizer, self.objective.squared
        if asked == "gauss-newton" and not squared:
            kinds = ", ".join(f"{spec.name} ({spec.kind})" for spec in self.objective.specs)
            raise SpecError(
                f"gauss-newton needs squared errors; the loss terms are {kinds}: use lbfgs or adam",
                key=f"training.{self.player}.optimizer",
            )
        count = sum(parameter.numel() for parameter in self._parameters)
        name = choose_optimizer(asked, count, squared) if asked != "auto" or self.player == "physical" else "adam"
        if self.settings.starts > 1 and (name not in ("gauss-newton", "lbfgs") or self.player != "physical"):
            raise SpecError(
                f"several starts are for a physics under gauss-newton or lbfgs; this is the {self.player} model under "
                f"{name}: leave starts out, or choose another optimizer",
                key=f"training.{self.player}.starts",
            )
        return name

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
        first = self.epochs_done == 0
        record: dict[str, Any] = {}
        self.model.train()
        whole, converged = None, False
        if num_epochs and self._memory is None:
            self._memory = self._plan_memory(dataset)
        if isinstance(self._optimizer, FullBatch) and num_epochs:
            self._optimizer.begin(real_only=dataset.n_generated == 0)
            whole = self.whole_loss(dataset, terms)
            if self.settings.starts > 1 and self.multi_start is None:
                self.multi_start = self._search_starts(whole, num_epochs)
        for _ in range(num_epochs):
            if not isinstance(self._optimizer, FullBatch):
                with own_random_numbers(self.device, self.seed, "train", self.player, "layers", self.epochs_done):
                    metrics = self._minibatch_epoch(self._optimizer, dataset, terms)
            elif whole is not None:
                metrics, converged = self._full_batch_epoch(self._optimizer, whole)
            self.epochs_done += 1
            record = {"epoch": self.epochs_done, "step": self.steps_done, **metrics, **self._parameter_values()}
            if converged:
                record["converged"] = True
            observe(record)
            if converged:
                break
        moved = any(not torch.equal(old, new) for old, new in zip(before, self._parameters, strict=True))
        self._has_moved |= moved
        notes = self._notes(before, num_epochs, first)
        return TrainingResult(metrics=record, moved=moved, converged=converged and self._has_moved, notes=notes)

    def _minibatch_epoch(
        self, optimizer: torch.optim.Optimizer, data: AugmentedDataset, terms: Sequence[ExtraTerm]
    ) -> dict[str, float]:
        epoch = EpochMetrics()
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
            if loss.skipped:
                continue
            loss.total.backward()  # type: ignore[no-untyped-call]
            if self.settings.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_grad_norm)
            self._refuse_nonfinite_gradients(k)
            optimizer.step()
            if self._normalizer_optimizer is not None:
                self._normalizer_optimizer.step()
            self.normalizer.post_step(self._step_context())
            self.steps_done += 1
        if (starved := self._starved.epoch(epoch.losses(), self.player)) is not None:
            self._warnings.append(starved)
        return epoch.metrics()

    def whole_loss(self, data: Samples, terms: Sequence[ExtraTerm] = ()) -> WholeLoss:
        """The loss over all samples of `data`; the normalizer's weights are frozen as they are now."""
        dataset = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        weights = WeightedSum.weights(self.objective.specs)
        if terms or not isinstance(self.normalizer, WeightedSum):
            chosen = torch.linspace(0, len(dataset) - 1, min(len(dataset), self.settings.batch_size)).long()
            loss = self._loss(dataset, chosen, terms, self._generator("terms"), EpochMetrics(), where=None)
            weights = {name: float(weight) for name, weight in loss.weights.items()}
        return WholeLoss(
            self.model,
            self.objective,
            dataset,
            weights=weights,
            chunk=self.settings.batch_size,
            device=self.device,
            extra=terms,
            draws=lambda: self._generator("terms"),
        )

    def _search_starts(self, whole: WholeLoss, iterations: int) -> MultiStart | None:
        """Search from several starts; the model is left at the lowest minimum found."""
        if not isinstance(self.model, PhysicalModel):
            return None
        points = draw_starts(self.model, self.settings.starts, self._generator("starts"))
        if self.optimizer_name == "lbfgs":
            return search_lbfgs(self.model, whole, points, iterations)
        return search_gauss_newton(self.model, whole, self.linearizer, points, iterations)

    def _plan_memory(self, data: AugmentedDataset) -> MemoryPlan | None:
        """Choose checkpoints for the gradients of long rollouts, and say so before they are run."""
        objective = self.objective
        if not isinstance(objective, RolloutObjective) or self.optimizer_name == "gauss-newton":
            return None
        batch = to_device(data.batch(torch.arange(min(len(data), self.settings.batch_size))), self.device)
        states, steps = batch[0], objective.steps(batch)
        if not isinstance(states, Tensor) or steps is None:
            return None
        internal = int(getattr(self.model, "substeps", 1))
        plan = plan_memory(self.model, states, steps, self.settings.memory_gb * 2**30, internal)
        objective.checkpoint_every = plan.every
        if plan.message:
            logger.warning("the %s model: %s", self.player, plan.message)
        return plan

    def _full_batch_epoch(self, optimizer: FullBatch, whole: WholeLoss) -> tuple[dict[str, float], bool]:
        """One iteration over all samples, accumulated in chunks, so that its size does not bound the batch."""
        done = optimizer.iterate(whole)
        if not math.isfinite(done.loss):
            raise RunError(
                f"the {self.player} model's loss is {done.loss} over all samples in epoch {self.epochs_done + 1}: "
                "start closer, narrow the parameters' bounds, or shorten data.num_predict_steps"
            )
        self.normalizer.post_step(self._step_context())
        self.steps_done += 1
        return done.metrics, done.converged

    def _notes(self, before: Sequence[Tensor], epochs: int, first: bool) -> tuple[str, ...]:
        """What a phase's numbers do not say; `first`: it was the first, and what holds for all is told once."""
        notes, self._warnings = self._warnings, []
        optimizer = self._optimizer
        if first and self.multi_start is not None and self.multi_start.message:
            notes.append(self.multi_start.message)
        if first and self._memory is not None and self._memory.message:
            notes.append(f"the {self.player} model: {self._memory.message}")
        if first and self.optimizer_name == "gauss-newton" and self.linearizer.way == "differences":
            notes.append(
                f"the {self.player} model's derivatives are finite differences, since forward mode fails: "
                f"{self.linearizer.reason}"
            )
        if isinstance(optimizer, FullBatch) and optimizer.nonfinite:
            notes.append(
                f"{self.optimizer_name} took back {optimizer.nonfinite} steps of the {self.player} model to where its "
                "loss is not finite"
            )
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        still = [
            name.removeprefix("learnables.raw.")
            for name, old, new in zip(names, before, self._parameters, strict=True)
            if torch.equal(old, new)
        ]
        if isinstance(self.model, PhysicalModel) and first and 0 < len(still) < len(names):
            notes.append(
                f"{', '.join(still)} did not move in {epochs} epochs of {self.optimizer_name}: it was right from the "
                "start, or the loss does not depend on it"
            )
        return tuple(notes)

    def _loss(
        self,
        data: AugmentedDataset,
        indices: Tensor,
        extra: Sequence[ExtraTerm],
        generator: torch.Generator,
        epoch: EpochMetrics,
        *,
        where: str | None,
    ) -> NormalizedLoss:
        """The normalized loss of one batch; `where` None: it need not be finite."""
        device = self.device
        batch = to_device(data.batch(indices), device)
        weight = data.sample_weight(indices)
        terms = self.objective(self.model, batch, None if weight is None else weight.to(device))
        terms += [term.term(self.model, batch, generator) for term in extra]
        try:
            loss = checked(self.normalizer(terms, self._step_context()), terms, self.normalizer_name)
        except RunError as error:
            raise RunError(f"the {self.player} model, {where or 'all samples'}: {error}") from error
        if loss.skipped:
            return loss
        if where is not None and not torch.isfinite(loss.total):
            self._refuse_nonfinite(terms, where)
        epoch.add(terms, data.is_generated(indices).to(device), loss.weights, loss.shares)
        return loss

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
