"""The trainer of one model. It holds model, solver and settings, but no data, and persists over the cycles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import RunError
from hyco_engine.interfaces import ExtraTerm, LossNormalizer, Player, Samples
from hyco_engine.ranks.shards import Shards
from hyco_engine.training.fit import fit
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.losses import Objective, objective_for
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.problem import Problem
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.base import Progress
from hyco_engine.training.solver.choosing import solver_for
from hyco_engine.training.solver.minima import Minima
from hyco_engine.training.state import TrainingState
from hyco_engine.training.unknowns import Unknowns

Observe = Callable[[Mapping[str, Any]], None]


@attrs.frozen(kw_only=True)
class TrainingResult:
    """The result of a phase: its `epochs`, the last one's `metrics`, and `notes` to the user.

    `moved` is true if any parameter changed. `converged` is true if the phase ended early, or has nothing left to gain,
    and the model moved in this or an earlier phase.
    """

    metrics: Mapping[str, float]
    moved: bool
    epochs: int = 0
    converged: bool = False
    notes: tuple[str, ...] = ()


class Trainer:
    """Trains one model by any number of calls `train(data, num_epochs)`; the state persists from phase to phase.

    `model` is a stepper or a predictor; a stepper needs the data's `layout`. Without a `normalizer` the loss is the
    plain weighted sum; without `error`, which measures a model on held-out data, there is no patience. Messages use
    `model_name` and `normalizer_name`. A cosine schedule falls to zero over `total_epochs`. Every epoch visits all
    samples once, or as often as `settings.epoch_samples` holds all of them, in an order that depends only on the seed,
    the player and the number of epochs before. The samples are divided among `shards`.
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
        error: Callable[[nn.Module], float] | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.model = model
        self.player: Player = player
        self.layout = layout
        self.settings = settings or TrainingSettings()
        self.objective = objective or objective_for(model, layout)
        self.normalization = Normalization(normalizer, self.objective.specs, normalizer_name)
        # strategies may add loss terms, which a state from before does not know
        self._fresh = copy.deepcopy(self.normalization)
        self.model_name = model_name or type(model).__name__
        self.seed = seed
        self.shards = shards or Shards()
        self.unknowns = Unknowns(model)
        self.linearizer = Linearizer(model)
        measured = None if error is None else partial(error, model)
        self.solver = solver_for(
            self.unknowns, player, self.settings, self.objective, self.linearizer, total_epochs, measured, layout
        )
        self.state = TrainingState()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next((t.device for t in [*self.model.parameters(), *self.model.buffers()]), torch.device("cpu"))

    @property
    def who(self) -> str:
        """The model's name in messages, with its distribution."""
        return f"the {self.player} model {self.model_name}"

    @property
    def trainable(self) -> bool:
        """True if the model has anything to learn."""
        return bool(self.unknowns)

    @property
    def epochs_done(self) -> int:
        """The number of epochs in all phases so far."""
        return 0 if self.state.solver is None else self.state.solver.epochs

    @property
    def steps_done(self) -> int:
        """The number of optimizer steps in all phases so far."""
        return 0 if self.state.solver is None else self.state.solver.steps

    @property
    def at(self) -> dict[str, int]:
        """The `epoch` and `step` of records; they count phases that were undone too."""
        return self.state.at

    @property
    def optimizer_name(self) -> str:
        """The optimizer that the settings stand for."""
        return self.solver.name

    @property
    def rollbacks(self) -> int:
        """The number of returns to a good state."""
        return 0 if self.state.solver is None else self.state.solver.rollbacks

    @property
    def minima(self) -> Minima | None:
        """The minima that searches from several starts found; None if there was no such search."""
        return None if self.state.solver is None else self.state.solver.minima

    @cached_property
    def measuring(self) -> Linearizer:
        """The linearizer for what is measured after training, such as error bars.

        It is the optimizer's if that is an iterative one, which has compiled its derivatives. For a few evaluations,
        compiling would take longer than it saves.
        """
        compiled = self.optimizer_name == "gauss-newton" or self.minima is not None
        return self.linearizer if compiled else Linearizer(self.model, compiles=False)

    # --- a phase --------------------------------------------------------------------------------------------------

    def train(
        self,
        data: Samples,
        num_epochs: int,
        *,
        terms: Sequence[ExtraTerm] = (),
        observe: Observe = lambda record: None,
    ) -> TrainingResult:
        """Train on `data` for `num_epochs`, with further loss `terms` in every batch.

        `observe` receives one record for each epoch: `epoch`, `step`, `train/loss`, and for real and generated samples
        `train/loss_real`, `train/loss_generated`. A trainer in the state of a phase under way continues that phase, for
        which `data` and `terms` must be the same. Raises Diverged if a loss is not finite: the parameters are then
        those before that step.
        """
        try:
            for progress in self.steps(data, num_epochs, terms):
                if progress.metrics is not None:
                    observe(self.phase_record)
            return self.finish(num_epochs)
        except BaseException:
            self.state.phase = None
            raise

    def steps(self, data: Samples, num_epochs: int, terms: Sequence[ExtraTerm] = ()) -> Iterator[Progress]:
        """Train a phase step by step; at every yield, training can continue from `state_dict`."""
        if not self.trainable:
            raise RunError(f"the {self.player} model has nothing to learn: no parameter requires a gradient")
        if len(data) == 0:
            raise RunError(f"the {self.player} model has no data to train on")
        self.model.train()
        if num_epochs:
            yield from fit(self.solver, self._begin(data, num_epochs, terms), self.state)

    @property
    def phase_record(self) -> Mapping[str, Any]:
        """The metrics of the last epoch of the phase under way."""
        return {} if self.state.phase is None else self.state.phase.record

    @property
    def phase_epochs(self) -> int:
        """The number of epochs done in the phase under way."""
        return 0 if self.state.phase is None else self.state.phase.epochs

    def finish(self, num_epochs: int) -> TrainingResult:
        """End the phase under way and return its result."""
        phase, solver = self.state.phase, self.state.solver
        if phase is None or solver is None:
            return TrainingResult(metrics={}, moved=False)
        still = self.unknowns.unmoved(phase.before)
        moved = len(still) < len(self.unknowns.named)
        notes = self.solver.report(solver, first=phase.first)
        if phase.first and self.state.memory is not None and self.state.memory.message:
            notes.append(f"the {self.player} model: {self.state.memory.message}")
        if phase.first and still and moved and self.unknowns.physics is not None:
            notes.append(
                f"{', '.join(still)} did not move in {num_epochs} epochs of {self.solver.name}: it was right from the "
                "start, or the loss does not depend on it"
            )
        self.state.moved |= moved
        self.state.phase = None
        return TrainingResult(
            metrics=phase.record,
            moved=moved,
            epochs=phase.epochs,
            converged=phase.converged and self.state.moved,
            notes=tuple(notes),
        )

    def _begin(self, data: Samples, epochs: int, terms: Sequence[ExtraTerm]) -> Problem:
        """Return the problem of a phase that begins or continues."""
        dataset, state = self._samples(data), self.state
        if self.shards.runtime.size > 1:
            # with other samples the ranks would not meet again
            told = repr((epochs, [type(one).__name__ for one in terms])).encode()
            self.shards.runtime.agree(f"the samples of {self.who}", told + dataset.fingerprint())
        learned = self.settings.initial_states == "learned"
        if learned or self.solver.name != "gauss-newton":
            state.plan_memory(self._problem(dataset, terms), self.settings.memory_gb)
        if learned:
            assert self.layout is not None  # every model with rollouts has one
            state.learn_starts(dataset, self.layout, self.device)
        return self._problem(dataset, terms, epochs=epochs)

    def _samples(self, data: Samples) -> AugmentedDataset:
        dataset = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        size = self.settings.points_per_sample
        if size is None:
            return dataset
        if dataset.n_generated:
            raise RunError(
                f"the {self.player} model learns what sensors observed in parts (points_per_sample = {size}), but "
                f"{dataset.n_generated} generated samples are rollouts on a grid: use a strategy that never teaches it"
            )
        # the parts are the same in every phase, and after a resume
        return dataset.in_parts(size, self.seed)

    def _problem(self, data: AugmentedDataset, terms: Sequence[ExtraTerm], **more: Any) -> Problem:
        state = self.state
        every = None if state.memory is None else state.memory.every
        done = 0 if state.phase is None else state.phase.epochs
        return Problem(
            unknowns=self.unknowns,
            objective=self.objective.with_rollouts(from_start=state.initial is not None, checkpoint_every=every),
            data=data,
            normalization=self.normalization,
            player=self.player,
            model_name=self.model_name,
            seed=self.seed,
            device=self.device,
            settings=self.settings,
            terms=terms,
            initial=state.initial,
            begun=self.epochs_done - done,
            shards=self.shards,
            **{"passes": self.solver.passes, **more},
        )

    def at_phase_start(self) -> AbstractContextManager[None]:
        """Give the model, within the context, its weights from the start of the phase under way."""
        phase = self.state.phase
        return nullcontext() if phase is None else self.unknowns.with_weights(phase.start)

    def whole_loss(
        self, data: Samples, terms: Sequence[ExtraTerm] = (), *, commit: bool = False, **more: Any
    ) -> Problem:
        """Return the loss over all samples of `data`, with frozen weights; `more` are further fields of the problem.

        With `commit`, the weights follow from these samples, which count as one step of the normalizer. Without it they
        are those of the normalizer's last step, and the normalizer does not change.
        """
        dataset = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        problem = self._problem(dataset, terms, **more)
        problem.freeze(self.epochs_done, self.steps_done, commit=commit)
        return problem

    # --- state ----------------------------------------------------------------------------------------------------

    def found(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return copies of the state dicts of the model and of the learned start states."""
        starts = self.state.initial
        return copy.deepcopy(self.model.state_dict()), None if starts is None else copy.deepcopy(starts.state_dict())

    def take(self, weights: Mapping[str, Tensor], starts: Mapping[str, Tensor] | None) -> None:
        """Take over what `found` returned. It ends training, since the solver's state belongs to other weights."""
        self.model.load_state_dict(weights)
        if self.state.initial is not None and starts is not None:
            self.state.initial.take(starts)

    def undo(self, saved: Mapping[str, Any]) -> None:
        """Return to an earlier state of this trainer; records count on."""
        before = self.at
        self.restart(saved)
        undone, now = self.state.undone, self.at
        self.state.undone = undone[0] + before["epoch"] - now["epoch"], undone[1] + before["step"] - now["step"]

    def restart(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, whatever loss terms the normalizer has come to know since."""
        self.normalization = copy.deepcopy(self._fresh)
        self.load_state_dict(saved)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training, without settings and data: tensors and plain values, not copied."""
        return {
            "model": dict(self.model.state_dict()),
            "normalization": self.normalization.state_dict(),
            **self.state.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises RunError if the state belongs to other parts, and PluginError if the normalizer rejects its own state.
        """
        saved = copy.deepcopy(dict(saved))
        try:
            self.model.load_state_dict(saved["model"])
            self.state = TrainingState.load(saved, self.solver, self.unknowns, self.layout, self.device)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"the state does not fit the {self.player} model {self.model_name}: {error}") from error
        self.normalization.load_state_dict(saved["normalization"])
