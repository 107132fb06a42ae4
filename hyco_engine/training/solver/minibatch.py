"""Stochastic gradient descent: one step is one batch, with Adam, AdamW or SGD."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import NormalizedLoss, Player
from hyco_engine.randomness import own_random_numbers
from hyco_engine.training.divergence import Diverged, LeftFinite, broken_gradient
from hyco_engine.training.epoch_metrics import EpochMetrics, SkippedBatches
from hyco_engine.training.problem import Problem
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.base import Progress, Solver, State
from hyco_engine.training.starved import StarvedTerms

LONG = 1.0
"""A first step that is as long as the weights are large, or longer, is to blame for what follows."""
LEAST = 1e-2
"""The size of a weight from which on steps are relative to it."""


@attrs.define(kw_only=True, eq=False)
class Epoch:
    """An epoch under way: the number of batches done, their metrics, and the random numbers of the next ones.

    `layers` are the states of torch's own generators before the next batch; None before the first batch.
    """

    draws: torch.Generator
    batches: int = 0
    metrics: EpochMetrics = attrs.Factory(EpochMetrics)
    layers: Mapping[str, Tensor] | None = None
    loss: NormalizedLoss | None = None
    """The last batch's loss. If its graph were freed between two batches, the allocator would return all memory to the
    operating system, and fetch it again."""
    order: Sequence[Tensor] | None = None
    """The indices of each batch, which follow from the seed."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "draws": self.draws.get_state(),
            "batches": self.batches,
            "metrics": self.metrics.state_dict(),
            "layers": self.layers,
        }

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Epoch:
        draws = torch.Generator()
        draws.set_state(saved["draws"])
        return cls(**{**saved, "draws": draws, "metrics": EpochMetrics.load(saved["metrics"])})


@attrs.define(kw_only=True, eq=False)
class MinibatchState(State):
    """The optimizer's moments and the epoch under way.

    `rate` scales the learning rate, and `notes` are messages about the present phase.
    """

    optimizer: torch.optim.Optimizer
    epochs: int = 0
    steps: int = 0
    rate: float = 1.0
    epoch: Epoch | None = None
    starved: StarvedTerms = attrs.Factory(StarvedTerms)
    skipped: SkippedBatches = attrs.Factory(SkippedBatches)
    notes: list[str] = attrs.Factory(list)
    first_step: float | None = None
    """The length of the first step, relative to the weights."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "epochs": self.epochs,
            "steps": self.steps,
            "rate": self.rate,
            "epoch": None if self.epoch is None else self.epoch.state_dict(),
            "starved": self.starved.state_dict(),
            "skipped": attrs.asdict(self.skipped),
            "notes": list(self.notes),
            "first_step": self.first_step,
        }


@attrs.frozen(kw_only=True)
class Minibatch(Solver[MinibatchState]):
    """Steps batch by batch. Every epoch visits all samples, in an order that follows from seed, player and epoch.

    It visits each once, or as often as `epoch_samples` holds all of them.
    A cosine schedule falls to zero over `total_epochs`, those of the whole run; None keeps the rate constant.
    """

    name: str
    player: Player
    settings: TrainingSettings
    total_epochs: int | None = None

    def init(self, problem: Problem, before: MinibatchState | None = None) -> MinibatchState:
        if before is None:
            return MinibatchState(optimizer=self.optimizer(problem.parameters))
        before.epoch, before.skipped, before.notes = None, SkippedBatches(), []
        return before

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> MinibatchState:
        optimizer = self.optimizer(parameters)
        optimizer.load_state_dict(saved["optimizer"])
        return MinibatchState(
            **{
                **saved,
                "optimizer": optimizer,
                "epoch": None if saved["epoch"] is None else Epoch.load(saved["epoch"]),
                "starved": StarvedTerms.load(saved["starved"]),
                "skipped": SkippedBatches(**saved["skipped"]),
            }
        )

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer of these parameters."""
        # unless told otherwise torch runs one small operation after the other on the CPU, and groups of them on GPUs;
        # fused operations read numbers in memory order, which a checkpoint's state may not share
        known = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
        fused = True if known and all(p.is_contiguous() for p in parameters) else None
        rate, decay = self.settings.lr, self.settings.weight_decay
        if self.name == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(parameters, lr=rate, weight_decay=decay, fused=fused)

    def step(self, problem: Problem, state: MinibatchState) -> Progress:
        epoch = state.epoch = state.epoch or Epoch(draws=problem.generator("terms", state.epochs))
        if epoch.order is None:
            count, generator = len(problem.data), problem.generator("shuffle", state.epochs)
            visits = max(1, self.settings.epoch_samples // count)
            shuffled = torch.cat([torch.randperm(count, generator=generator) for _ in range(visits)])
            epoch.order = torch.split(shuffled, self.settings.batch_size)
            problem.data.upcoming(epoch.order)
        with own_random_numbers(problem.device, problem.seed, "train", self.player, "layers", state.epochs):
            _set_layers(epoch.layers, problem.device)
            self._batch(problem, state, epoch, epoch.order)
            epoch.layers = _layers(problem.device)
        if epoch.batches < len(epoch.order):
            return Progress()
        state.epochs += 1
        state.epoch = None
        state.skipped.epoch(epoch.metrics)
        if (starved := state.starved.epoch(epoch.metrics.losses(), self.player)) is not None:
            state.notes.append(starved)
        return Progress(metrics=epoch.metrics.metrics())

    def _batch(self, problem: Problem, state: MinibatchState, epoch: Epoch, order: Sequence[Tensor]) -> None:
        k, model, parameters = epoch.batches, problem.model, problem.parameters
        for group in state.optimizer.param_groups:
            group["lr"] = self.learning_rate(state, k / len(order))
        state.optimizer.zero_grad(set_to_none=True)
        problem.normalization.zero_grad()
        where = f"epoch {state.epochs + 1}, batch {k + 1}"
        try:
            context = problem.context(state.epochs, state.steps)
            loss = problem.batch_gradient(
                order[k], epoch.draws, context, epoch.metrics, where, noise=self.settings.input_noise
            )
            epoch.batches = k + 1
            epoch.loss = loss
            if loss.skipped:
                return
            if (broken := broken_gradient(model, parameters)) is not None:
                told = f"the {self.player} model diverged in {where}: {broken}"
                raise Diverged(told, advice=problem.cause())
        except Diverged as error:
            raise Diverged(
                error.what, advice=error.advice or self._advice(state, error.left), left=error.left
            ) from error
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_grad_norm)
        if state.first_step is None:
            state.first_step = _relative_step(state.optimizer, parameters)
        else:
            state.optimizer.step()
        problem.normalization.step(problem.context(state.epochs, state.steps))
        state.steps += 1

    def learning_rate(self, state: MinibatchState, within_epoch: float = 0.0) -> float:
        """Return the learning rate at a fraction of the present epoch."""
        rate = self.settings.lr
        if self.total_epochs is not None and self.settings.schedule != "constant":
            fraction = min((state.epochs + within_epoch) / max(self.total_epochs, 1), 1.0)
            rate = rate * 0.5 * (1.0 + math.cos(math.pi * fraction))
        return rate * state.rate

    def _advice(self, state: MinibatchState, left: LeftFinite | None) -> str:
        """Return what helps, by whether a step was taken, how long the first was, and where the rollout left."""
        horizon = None if left is None else left.advice(self.player)
        lower = f"training.{self.player}.lr (now {self.settings.lr * state.rate:g}), or set clip_grad_norm"
        if not state.steps:
            first = "The model's first prediction is not finite: start from other values"
            other = "Look at the data and at the loss terms" if left is None else first
            return f"No step was taken yet, so no learning rate helps. {horizon or other}"
        if state.first_step is not None and state.first_step >= LONG:
            return f"The first step was {state.first_step:.2g} times as long as the weights are large: lower {lower}"
        return horizon or f"Lower {lower}"

    def report(self, state: MinibatchState, *, first: bool) -> list[str]:
        skipped = state.skipped.note(self.player)
        return [*state.notes, *([] if skipped is None else [skipped])]

    def snapshot(self, problem: Problem, state: MinibatchState) -> tuple[Any, ...]:
        """Return a copy of everything that steps change."""
        parts = (problem.model.state_dict(), state.optimizer.state_dict(), problem.normalization.state_dict())
        return copy.deepcopy(parts)

    def restore(self, problem: Problem, state: MinibatchState, snapshot: tuple[Any, ...]) -> None:
        """Restore a snapshot; the epoch under way begins anew."""
        model, optimizer, normalization = copy.deepcopy(snapshot)
        problem.model.load_state_dict(model)
        state.optimizer.load_state_dict(optimizer)
        problem.normalization.load_state_dict(normalization)
        state.epoch = None


def _relative_step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> float:
    """Take a step and return its length relative to the weights, all of which may be 0."""
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    moved = (p.detach().double() - b.double() for p, b in zip(parameters, before, strict=True))
    length = math.hypot(*(float(part.norm()) for part in moved))
    least = LEAST * math.sqrt(sum(b.numel() for b in before))
    return length / max(math.hypot(*(float(b.double().norm()) for b in before)), least)


def _layers(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's own generators, from which layers such as dropout draw."""
    layers = {"cpu": torch.default_generator.get_state()}
    if device.type == "cuda":
        layers["cuda"] = torch.cuda.get_rng_state(device)
    return layers


def _set_layers(layers: Mapping[str, Tensor] | None, device: torch.device) -> None:
    if layers is None:
        return
    torch.default_generator.set_state(layers["cpu"])
    if device.type == "cuda" and "cuda" in layers:
        torch.cuda.set_rng_state(layers["cuda"], device)
