"""One trainer for both models. It holds model, optimizer and settings, never data, and lives on over the cycles."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.points import PointParts
from hyco_engine.errors import RunError
from hyco_engine.hooks.blaming import blaming
from hyco_engine.interfaces import ExtraTerm, LossNormalizer, Player, Samples, StepContext
from hyco_engine.randomness import derive_generator, own_random_numbers
from hyco_engine.training.batch_loss import BatchLoss
from hyco_engine.training.curriculum import curriculum_for
from hyco_engine.training.divergence import MOST_ROLLBACKS, Diverged, broken_gradient, since_left
from hyco_engine.training.full_batch import FullBatch
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import Objective, WeightedSum, objective_for
from hyco_engine.training.memory import MemoryPlan, plan_rollouts
from hyco_engine.training.multi_start import MultiStart, search_starts
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.optimizers import learning_rate, make_optimizer, optimizer_name
from hyco_engine.training.phase_notes import SkippedBatches, parameter_means, phase_notes
from hyco_engine.training.position import EpochPosition, PhasePosition, TrainingResult
from hyco_engine.training.prior import Prior
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.starved import StarvedTerms
from hyco_engine.training.whole_loss import WholeLoss, to_device

Observe = Callable[[Mapping[str, Any]], None]


class Trainer:
    """Trains one model: `train(data, num_epochs)`, as often as wanted; optimizer and counters persist.

    `model` is a stepper or a predictor; `layout` the data's, for steppers. `normalizer` None: the plain weighted sum.
    `model_name` and `normalizer_name` are what messages call them. `total_epochs` is what a cosine schedule falls to
    zero over. Every epoch visits all samples once, in an order that depends only on the seed, the player and the number
    of epochs before.
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
        model_name: str | None = None,
        normalizer_name: str | None = None,
        seed: int = 0,
        total_epochs: int | None = None,
    ) -> None:
        self.model = model
        self.player: Player = player
        self.layout = layout
        self.settings = settings or TrainingSettings()
        self.objective = objective or objective_for(model, layout)
        self.normalization = Normalization(normalizer or WeightedSum(), self.objective.specs, normalizer_name)
        self.model_name = model_name or type(model).__name__
        self.seed = seed
        self.total_epochs = total_epochs
        self.epochs_done = 0
        self.steps_done = 0
        self.rollbacks = 0
        self.curriculum = curriculum_for(player, self.objective, self.settings.curriculum)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.linearizer = Linearizer(model)
        self._prior = Prior(model)
        self.optimizer_name = optimizer_name(model, player, self.settings, self.objective)
        self._optimizer = None
        if self._parameters:
            self._optimizer = make_optimizer(self.optimizer_name, self._parameters, self.settings, self.linearizer)
        self.initial: InitialStates | None = None
        """Where windows are learned to start, from the first phase on."""
        self.multi_start: MultiStart | None = None
        self._memory: MemoryPlan | None = None
        self._has_moved = False
        self._starved = StarvedTerms()
        self._skipped = SkippedBatches()
        self._warnings: list[str] = []
        self._phase: PhasePosition | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((t.device for t in [*self.model.parameters(), *self.model.buffers()]), torch.device("cpu"))

    @property
    def who(self) -> str:
        """What messages call the model, with its distribution."""
        return f"the {self.player} model {self.model_name}"

    @property
    def trainable(self) -> bool:
        """Whether the model has anything to learn."""
        return bool(self._parameters)

    # --- a phase --------------------------------------------------------------------------------------------------

    def train(
        self,
        data: Samples,
        num_epochs: int,
        *,
        terms: Sequence[ExtraTerm] = (),
        observe: Observe = lambda record: None,
        pause: Callable[[], None] = lambda: None,
    ) -> TrainingResult:
        """Train on `data` for `num_epochs`.

        `terms` are further loss terms of every batch. `observe` gets one record an epoch: `epoch`, `step`,
        `train/loss`, and apart for real and generated samples `train/loss_real`, `train/loss_generated`. `pause` is
        called after every step, may raise, and may take the trainer's state (`training.state`). A trainer that was
        given such a state goes on from there, with the same `data` and `terms`. Raises Diverged where a loss is not
        finite: parameters are then as before that step.
        """
        if self._optimizer is None:
            raise RunError(f"the {self.player} model has nothing to learn: no parameter requires a gradient")
        if len(data) == 0:
            raise RunError(f"the {self.player} model has no data to train on")
        dataset = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        if (size := self.settings.points_per_sample) is not None:
            # the same parts in every phase, and when one is gone on with
            dataset = AugmentedDataset(PointParts(dataset.real, size, derive_generator(self.seed, "points")))
        begun = self._phase is not None
        phase = self._phase = self._phase or PhasePosition(before=self.learned(), first=self.epochs_done == 0)
        self.model.train()
        whole = None
        try:
            if num_epochs and self._memory is None and self.optimizer_name != "gauss-newton":
                self._memory = self._plan_memory(dataset)
            full = self.objective.steps(dataset.batch(torch.tensor([0]))) if self.settings.curriculum else None
            if self.settings.initial_states == "learned":
                if self.initial is None:
                    self.learn_initial(InitialStates.of(dataset, self.layout, self.device))
                assert self.initial is not None
                self.initial.enter(self.objective, dataset)
            self.curriculum.enter(self.objective)
            if isinstance(self._optimizer, FullBatch) and num_epochs:
                with blaming(self.who, f"epoch {self.epochs_done + 1}"):
                    whole = self._begin_whole(self._optimizer, dataset, terms, phase, num_epochs, begun)
            while phase.epochs < num_epochs and not phase.converged:
                if not isinstance(self._optimizer, FullBatch):
                    metrics, converged = self._minibatch_epoch(self._optimizer, dataset, terms, phase, pause), False
                elif whole is not None:
                    with blaming(self.who, f"epoch {self.epochs_done + 1}"):
                        metrics, converged = self._full_batch_epoch(self._optimizer, whole)
                phase.converged = self.curriculum.epoch(converged)
                self.epochs_done += 1
                phase.epochs += 1
                phase.record = {"epoch": self.epochs_done, "step": self.steps_done, **metrics}
                if self.settings.curriculum:
                    phase.record["train/horizon"] = self.curriculum.entered or full
                if self.curriculum.enter(self.objective):
                    phase.lowest = None
                    if isinstance(self._optimizer, FullBatch):
                        self._optimizer.changed()
                        with blaming(self.who, f"epoch {self.epochs_done}"):
                            if phase.epochs < num_epochs:
                                whole = self.whole_loss(dataset, terms, commit=True)
                                phase.weights = whole.weights
                phase.record |= parameter_means(self.model) | self._prior.metrics()
                if phase.converged:
                    phase.record["converged"] = True
                observe(phase.record)
                pause()
        finally:
            self._phase = None
            self.curriculum.leave(self.objective)
            if self.initial is not None:
                self.initial.leave(self.objective)
        moved = any(not torch.equal(phase.before[name], now) for name, now in self.learned().items())
        self._has_moved |= moved
        notes = phase_notes(self, phase, num_epochs)
        self._warnings, self._skipped = [], SkippedBatches()
        converged = phase.converged and self._has_moved
        return TrainingResult(metrics=phase.record, moved=moved, converged=converged, notes=notes)

    def learn_initial(self, initial: InitialStates | None) -> None:
        """Have `initial` be learned beside the parameters, None: nothing; an optimizer of all begins."""
        self.initial = initial
        both = self._parameters if initial is None else [*self._parameters, *initial.parameters()]
        self._optimizer = make_optimizer(self.optimizer_name, both, self.settings, self.linearizer)

    def learned(self) -> dict[str, Tensor]:
        """Copies of all that is learned, by name."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    # --- batch by batch -------------------------------------------------------------------------------------------

    def _minibatch_epoch(
        self,
        optimizer: torch.optim.Optimizer,
        data: AugmentedDataset,
        terms: Sequence[ExtraTerm],
        phase: PhasePosition,
        pause: Callable[[], None],
    ) -> dict[str, float]:
        """One epoch; where it diverges and the spec says so, again from a good state with half the learning rate."""
        at = phase.epoch
        if at is None:
            good = self._snapshot(optimizer) if self.settings.on_divergence == "rollback" else None
            at = EpochPosition(first_step=self.steps_done, draws=self._generator("terms"), good=good)
        while True:
            phase.epoch = at
            try:
                with own_random_numbers(self.device, self.seed, "train", self.player, "layers", self.epochs_done):
                    self._batches(optimizer, data, terms, at, pause)
                break
            except Diverged as error:
                # where no step led there, a smaller one would not help
                unmoved = phase.good is None and self.steps_done == at.first_step
                if at.good is None or self.rollbacks == MOST_ROLLBACKS or unmoved:
                    raise Diverged(f"{error}. {self._advice()}") from error
                # an epoch's start may be lost already, if the last steps before led there
                self._restore(optimizer, at.good if phase.good is None else phase.good)
                self.steps_done = at.first_step
                self.rollbacks += 1
                self._warnings.append(
                    f"{error}. It went back to the phase's best state so far, and goes on with {0.5**self.rollbacks:g} "
                    f"of the learning rate (rollback {self.rollbacks} of at most {MOST_ROLLBACKS})"
                )
                at = EpochPosition(first_step=self.steps_done, draws=self._generator("terms"), good=at.good)
        epoch, phase.epoch = at.metrics, None
        loss = epoch.metrics().get("train/loss")
        if at.good is not None and loss is not None and (phase.lowest is None or loss <= phase.lowest):
            phase.good, phase.lowest = at.good, loss
        self._skipped.epoch(epoch)
        if (starved := self._starved.epoch(epoch.losses(), self.player)) is not None:
            self._warnings.append(starved)
        return epoch.metrics()

    def _batches(
        self,
        optimizer: torch.optim.Optimizer,
        data: AugmentedDataset,
        terms: Sequence[ExtraTerm],
        at: EpochPosition,
        pause: Callable[[], None],
    ) -> None:
        order = torch.randperm(len(data), generator=self._generator("shuffle"))
        batches = torch.split(order, self.settings.batch_size)
        data.upcoming(batches)
        at.restore_layers(self.device)
        loss_of = BatchLoss(
            model=self.model,
            name=self.model_name,
            player=self.player,
            objective=self.objective,
            normalization=self.normalization,
            data=data,
            extra=terms,
            prior=self._prior,
            device=self.device,
        )
        for k in range(at.batches, len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate(k / len(batches))
            optimizer.zero_grad(set_to_none=True)
            self.normalization.zero_grad()
            where = f"epoch {self.epochs_done + 1}, batch {k + 1}"
            loss = loss_of(batches[k], at.draws, self._step_context(), at.metrics, where)
            at.batches = k + 1
            if loss.skipped:
                continue
            loss.total.backward()  # type: ignore[no-untyped-call]
            if (broken := broken_gradient(self.model, self._parameters)) is not None:
                raise Diverged(f"the {self.player} model diverged in {where}: {broken}")
            if self.settings.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_grad_norm)
            optimizer.step()
            self.normalization.step(self._step_context())
            self.steps_done += 1
            if at.batches < len(batches):
                pause()

    def _advice(self) -> str:
        table, rate = f"training.{self.player}", self.settings.lr * 0.5**self.rollbacks
        return f"Lower {table}.lr (now {rate:g}), set clip_grad_norm, or shorten data.num_predict_steps"

    def _snapshot(self, optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
        parts = (self.model.state_dict(), optimizer.state_dict(), self.normalization.state_dict())
        return copy.deepcopy(parts)

    def _restore(self, optimizer: torch.optim.Optimizer, state: tuple[Any, ...]) -> None:
        model, own, normalization = copy.deepcopy(state)
        self.model.load_state_dict(model)
        optimizer.load_state_dict(own)
        self.normalization.load_state_dict(normalization)

    def _step_context(self, **more: Any) -> StepContext:
        return StepContext(
            step=self.steps_done,
            player=self.player,
            shared_parameters=lambda: self._parameters,
            generator=self._generator("normalizer"),
            **more,
        )

    def _generator(self, purpose: str) -> torch.Generator:
        return derive_generator(self.seed, "train", self.player, purpose, self.epochs_done)

    def _learning_rate(self, within_epoch: float) -> float:
        rate = self.settings.lr
        if self.total_epochs is not None:
            rate = learning_rate(self.settings, (self.epochs_done + within_epoch) / max(self.total_epochs, 1))
        return rate * 0.5**self.rollbacks

    # --- all samples at once --------------------------------------------------------------------------------------

    def whole_loss(
        self, data: Samples, terms: Sequence[ExtraTerm] = (), *, commit: bool = False, chunk: int | None = None
    ) -> WholeLoss:
        """The loss over all samples of `data`, with the normalizer's weights frozen; `chunk` samples at a time.

        `commit`: the weights are those that follow from these samples, which count as one step; else those of the last
        step, and the normalizer stays as it is.
        """
        whole = self._whole(data, terms, WeightedSum.weights(self.objective.specs), chunk)
        normalizer = self.normalization.normalizer
        if terms or not isinstance(normalizer, WeightedSum):
            # only gradients of the single terms need a graph
            with torch.set_grad_enabled(commit and "shared_parameters" in normalizer.requires):
                whole.weights = self.normalization.frozen_weights(
                    whole.terms(), whole.n_chunks, self._step_context, commit=commit
                )
        return whole

    def _begin_whole(
        self,
        optimizer: FullBatch,
        data: AugmentedDataset,
        terms: Sequence[ExtraTerm],
        phase: PhasePosition,
        epochs: int,
        begun: bool,
    ) -> WholeLoss:
        """The loss of a phase; where the phase has `begun` before, with the weights it has had since then."""
        if begun and phase.weights is not None:
            return self._whole(data, terms, phase.weights)
        optimizer.begin(real_only=data.n_generated == 0 and not terms)
        whole = self.whole_loss(data, terms, commit=True)
        phase.weights = whole.weights
        if self.settings.starts > 1 and self.multi_start is None:
            self.multi_start = search_starts(
                self.model,
                whole,
                self.linearizer,
                method=self.optimizer_name,
                starts=self.settings.starts,
                iterations=epochs,
                generator=self._generator("starts"),
            )
        return whole

    def _whole(
        self, data: Samples, terms: Sequence[ExtraTerm], weights: Mapping[str, float], chunk: int | None = None
    ) -> WholeLoss:
        # an objective that changed from iteration to iteration would have no curvature to learn
        begun = self.epochs_done - (0 if self._phase is None else self._phase.epochs)
        return WholeLoss(
            self.model,
            self.objective,
            data,
            weights=weights,
            chunk=chunk or self.settings.batch_size,
            device=self.device,
            extra=terms,
            draws=lambda: derive_generator(self.seed, "train", self.player, "terms", begun),
            initial=self.initial,
        )

    def _full_batch_epoch(self, optimizer: FullBatch, whole: WholeLoss) -> tuple[dict[str, float], bool]:
        """One iteration over all samples, accumulated in chunks, so that its size does not bound the batch."""
        done = optimizer.iterate(whole)
        if not math.isfinite(done.loss):
            raise Diverged(
                f"the {self.player} model's loss is {done.loss} over all samples in epoch {self.epochs_done + 1}"
                f"{since_left(whole)}: start closer, narrow the parameters' bounds, or shorten data.num_predict_steps"
            )
        self.normalization.step(self._step_context())
        self.steps_done += 1
        return done.metrics, done.converged

    def _plan_memory(self, data: AugmentedDataset) -> MemoryPlan | None:
        """Choose checkpoints for the gradients of long rollouts."""
        batch = to_device(data.batch(torch.arange(min(len(data), self.settings.batch_size))), self.device)
        return plan_rollouts(self.model, self.objective, batch, self.settings.memory_gb * 2**30, self.player)
