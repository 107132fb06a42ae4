"""The problem that one phase minimises: the loss of a model over a data set, batch by batch or over all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.recut import Every, Recut
from hyco_engine.errors import RunError
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import (
    Batch,
    ExtraTerm,
    LossTerm,
    NormalizedLoss,
    Player,
    Samples,
    StepContext,
    Values,
)
from hyco_engine.physics.within import instability, internal_steps
from hyco_engine.randomness import derive_generator, own_random_numbers
from hyco_engine.ranks.shards import Shards
from hyco_engine.training.bootstrap import Bootstrap
from hyco_engine.training.divergence import Diverged, LeftFinite, Outgrown, broken_losses, out_of_range
from hyco_engine.training.divided import DividedLoss, DividedSum, joined, joined_terms, unchanged_buffers
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.losses import Objective, WeightedSum, rows_of
from hyco_engine.training.memory import MemoryPlan, Passes, Room, plan_rollouts
from hyco_engine.training.normalized import Normalization
from hyco_engine.training.prior import Prior
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.unknowns import Unknowns

Metrics = dict[str, float]
MOST_GROWTH = 8.0
"""A search may try parameters that need so many times as many internal steps; beyond, its step was too long."""
ENOUGH_VALUES = 2**16
LEAST_ROLLOUTS = 16
"""A first guess comes from rollouts with so many values in all, but from at least so many rollouts."""
KEPT_BYTES = 2**28
"""A data set up to this size stays gathered between passes over it."""


@attrs.frozen(kw_only=True, eq=False)
class Chunk:
    """A number of samples on the model's device."""

    indices: Tensor
    batch: Batch
    sample_weight: Tensor | None
    generated: Tensor

    def rows(self, rows: Tensor) -> Chunk:
        """Return some of the samples, copied: sums may depend on a sample's place in memory."""
        where = rows.to(self.generated.device)
        return Chunk(
            indices=self.indices[rows],
            batch=rows_of(self.batch, where),
            sample_weight=None if self.sample_weight is None else self.sample_weight[where],
            generated=self.generated[where],
        )


class _Chunks:
    """All samples of a data set, chunk after chunk, shard after shard. Small data sets stay gathered between passes."""

    def __init__(self, data: AugmentedDataset, size: int, device: torch.device, shards: Shards) -> None:
        self.data = data
        self.size = size
        self.device = device
        self.shards = shards
        every = torch.arange(len(data))
        self._indices = [torch.split(every[start:stop], size) for start, stop in shards.cut(len(data))]
        self._held: dict[int, list[Chunk]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._indices))

    def __iter__(self) -> Iterator[Chunk]:
        for shard in range(self.shards.count):
            yield from self.of(shard)

    def of(self, shard: int) -> Iterator[Chunk]:
        """Yield the chunks of one shard."""
        if shard in self._held:
            yield from self._held[shard]
            return
        held: list[Chunk] | None = []
        size = self._bytes
        self.data.upcoming(self._indices[shard])
        for indices in self._indices[shard]:
            chunk = self.gather(indices)
            if held is not None:
                size += sum(t.nbytes for t in _tensors(chunk.batch))
                held = [*held, chunk] if size <= KEPT_BYTES else None
            yield chunk
        if held is not None and shard not in self._held:
            self._held[shard], self._bytes = held, size

    def gather(self, indices: Tensor) -> Chunk:
        """Return the samples at `indices` (int64 `[B]`)."""
        weight = self.data.sample_weight(indices)
        return Chunk(
            indices=indices,
            batch=to_device(self.data.batch(indices), self.device),
            sample_weight=None if weight is None else _move_tensor(weight, self.device),
            generated=_move_tensor(self.data.is_generated(indices), self.device),
        )


@attrs.define(kw_only=True, eq=False)
class Problem:
    """The loss of a model over `data`, with the further loss `terms` of a strategy.

    The normalizer turns the terms of a batch into its loss. The whole loss is sum_k w_k L_k, where L_k is the mean of
    a term over all samples and the `weights` w_k stay frozen; it is also a sum of squares, of weighted residuals. The
    model's smoothness prior belongs to both; `residuals` are those of the data alone.

    In a sum of squares, one of `terms` counts as the square of sqrt(l) of each sample: its gradient is exact, and its
    curvature a lower bound. `initial` holds the start states that are learned beside the model. `bootstrap` says how
    often each member of an ensemble has each sample. Messages call the model
    `model_name`. A whole loss of rollouts computes as many at a time as `passes` of their kind have room for. The
    phase has `epochs` epochs, after `begun` earlier ones.

    The samples are divided among `shards`, and sums over them are those of all ranks. Where a strategy adds terms or a
    normalizer needs the model's gradients, every rank computes all samples.
    """

    unknowns: Unknowns
    objective: Objective
    data: AugmentedDataset
    normalization: Normalization
    player: Player
    model_name: str
    seed: int
    settings: TrainingSettings
    device: torch.device
    terms: Sequence[ExtraTerm] = ()
    initial: InitialStates | None = None
    passes: Passes = "batches"
    epochs: int = 0
    begun: int = 0
    shards: Shards = attrs.Factory(Shards)
    weights: Mapping[str, float] = attrs.Factory(dict)
    prior: Prior = attrs.field(init=False)
    bootstrap: Bootstrap | None = attrs.field(init=False)
    _chunks: _Chunks = attrs.field(init=False)
    _last: tuple[Tensor, tuple[int, ...], tuple[float, Metrics]] | None = attrs.field(init=False, default=None)
    _totals: dict[str, float] | None = attrs.field(init=False, default=None)
    _shorter: tuple[int | None, Problem] | None = attrs.field(init=False, default=None)
    _keeps_buffers: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.prior = Prior(self.model)
        self.bootstrap = Bootstrap.of(self.model, len(self.data.real), self.seed)
        if self._undivided():
            self.shards = Shards()
        self._chunks = _Chunks(self.data, self._together(), self.device, self.shards)

    def _undivided(self) -> bool:
        """Return True if every rank has to compute all samples, since their loss is no sum over single ones."""
        # a shard without samples would not know what its terms look like
        few = len(self.data) < self.shards.count
        return few or bool(self.terms) or "shared_parameters" in self.normalization.normalizer.requires

    def _together(self) -> int:
        fit = None
        if self.passes != "batches" and len(self.data):
            fit = self.together(self.passes, self.data.batch(torch.tensor([0])), len(self.data))
        return self.settings.batch_size if fit is None else fit

    def together(self, passes: Passes, batch: Batch, count: int) -> int | None:
        """Return how many of `count` rollouts, from starts like those of a batch, a pass has room for.

        None stands for batches of their own size.
        """
        room = Room.of(self.unknowns, self.settings, passes)
        states, steps = batch[0], self.objective.steps(batch)
        if room is None or steps is None or not isinstance(states, Tensor):
            return None
        if self.initial is not None and room.tangents is not None:
            room = attrs.evolve(room, tangents=room.tangents + self.initial.numbers(steps))
        return room.together(count, states[0], steps, internal_steps(self.model))

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.unknowns.model

    @property
    def who(self) -> str:
        """The model's name in messages, with its distribution."""
        return f"the {self.player} model {self.model_name}"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that an optimizer changes: those of the model, then the learned start states."""
        return [*self.unknowns.parameters, *([] if self.initial is None else self.initial.parameters())]

    def point(self) -> Tensor:
        """Return all that an optimizer changes as one float64 point on the CPU: the parameters, then the starts."""
        own = self.unknowns.point()
        return own if self.initial is None else torch.cat([own, self.initial.scaled.detach().double().cpu().flatten()])

    def move_to(self, point: Tensor) -> None:
        """Give the model and the learned start states the numbers of a point that `point` might have returned."""
        if self.initial is None:
            self.unknowns.move_to(point)
            return
        starts = self.initial.scaled
        own, moved = torch.split(point, [len(point) - starts.numel(), starts.numel()])
        self.unknowns.move_to(own)
        starts.data.copy_(moved.view_as(starts))

    @property
    def steps(self) -> int | None:
        """The number of steps in the rollouts of the loss; None if the loss does not consist of rollouts."""
        return self.objective.steps(self._started(self._chunks.gather(torch.tensor([0]))).batch)

    def at_horizon(self, horizon: int | None) -> Problem:
        """Return the same problem with rollouts of `horizon` steps; None stands for the targets' full length."""
        if horizon == self.objective.horizon:
            return self
        if self._shorter is None or self._shorter[0] != horizon:
            problem = attrs.evolve(self, objective=self.objective.at_horizon(horizon))
            problem._chunks = self._chunks
            self._shorter = (horizon, problem)
        return self._shorter[1]

    def from_frames(self, windows: Samples, horizon: int) -> Problem | None:
        """Return the problem of rollouts of `horizon` steps from the frames of windows such as the real samples.

        They begin a third of the horizon apart; where there are more than tell much, some of them are left out. None
        if there are no such rollouts of at least two steps.
        """
        cut = _recut(windows, horizon, stride=max(1, horizon // 3))
        if cut is None:
            return None
        fewer = len(cut) // max(LEAST_ROLLOUTS, -(-ENOUGH_VALUES // cut.batch(torch.tensor([0]))[1].numel()))
        data = AugmentedDataset(cut if fewer < 2 else Every(cut, fewer))
        objective = self.objective.with_rollouts(from_start=False, checkpoint_every=None)
        return attrs.evolve(self, data=data, objective=objective, initial=None)

    def from_starts(self, horizon: int) -> Problem | None:
        """Return the problem of windows of `horizon` steps that share no frame, whose start states are learned, too.

        None if there are no such windows of at least two steps.
        """
        initial = self.initial
        cut = None if initial is None else _recut(self.data.real, horizon, stride=horizon + 1)
        if initial is None or cut is None:
            return None
        data = AugmentedDataset(cut)
        return attrs.evolve(self, data=data, initial=initial.of_others(data))

    def plan_memory(self, budget_gb: float) -> MemoryPlan | None:
        """Return how rollouts fit into memory; None if there are none. The log states the cost."""
        indices = torch.arange(min(len(self.data), self._chunks.size))
        batch = to_device(self.data.batch(indices), self.device)
        return plan_rollouts(self.model, self.objective, batch, budget_gb * 2**30, self.player)

    def generator(self, purpose: str, epoch: int) -> torch.Generator:
        """Return the generator of one purpose in one epoch of this model."""
        return derive_generator(self.seed, "train", self.player, purpose, epoch)

    def context(self, epoch: int, step: int, **more: Any) -> StepContext:
        """Return the normalizer's context in a step; `more` are further fields of it."""
        return StepContext(
            step=step,
            player=self.player,
            shared_parameters=lambda: self.unknowns.parameters,
            generator=self.generator("normalizer", epoch),
            **more,
        )

    # --- one batch ------------------------------------------------------------------------------------------------

    def batch_gradient(
        self,
        indices: Tensor,
        draws: torch.Generator,
        context: StepContext,
        epoch: EpochMetrics,
        where: str,
        noise: float = 0.0,
    ) -> NormalizedLoss:
        """Return the normalized loss of the samples at `indices`, and count it in `epoch`; add its gradient to `grad`.

        Start states get noise of `noise` times a typical change from frame to frame. Messages name the place `where`,
        such as "epoch 3, batch 5". Raises Diverged if the loss is not finite, and
        PluginError if the model or the normalizer fails.
        """
        chunk = self._chunks.gather(indices)
        if noise:
            chunk = attrs.evolve(chunk, batch=with_noise(chunk.batch, noise, draws))
        divided = None
        with self._precision():
            if self.shards.whole:
                terms = self._terms(chunk, draws, where)
            else:
                divided = self._divided(chunk, draws, where, context.step)
                terms = divided.terms
        try:
            loss = self.normalization(terms, context)
        except RunError as error:
            if (broken := broken_losses(terms)) is not None:
                raise self._diverged(where, broken, chunk.batch) from error
            raise RunError(f"the {self.player} model, {where}: {error}") from error
        if loss.skipped:
            epoch.skip(terms)
            return loss
        if not torch.isfinite(loss.total):
            broken = broken_losses(terms) or f"the total of its losses is {float(loss.total.detach())}"
            raise self._diverged(where, broken, chunk.batch)
        epoch.add(terms, chunk.generated, loss)
        if self.prior:
            loss = attrs.evolve(loss, total=loss.total + self.prior.value())
        loss.total.backward()  # type: ignore[no-untyped-call]
        if divided is not None:
            divided.pull()
        return loss

    def _precision(self) -> AbstractContextManager[object]:
        """Return a context in which torch computes products and convolutions as precisely as the settings ask.

        In reduced precision their inputs are rounded, and sums stay in float32, as do states, losses and weights.
        """
        return nullcontext() if self.settings.precision == "full" else torch.autocast(self.device.type, torch.bfloat16)

    def _divided(self, chunk: Chunk, draws: torch.Generator, where: str, step: int) -> DividedLoss:
        """Return the loss terms of a batch, whose samples the ranks compute shard by shard."""

        def terms(shard: int, rows: Tensor) -> list[LossTerm]:
            # dropout draws the same for a shard, whoever computes it
            with own_random_numbers(self.device, self.seed, "train", self.player, "shard", step, shard):
                return self._terms(chunk.rows(rows), draws, where)

        # what a model changes it changes from its first batch on
        with nullcontext() if self._keeps_buffers else unchanged_buffers(self.model, self.who):
            divided = DividedLoss(self.shards, len(chunk.indices), terms, self.parameters)
        self._keeps_buffers = True
        return divided

    def _diverged(self, where: str, what: str, batch: Batch) -> Diverged:
        left = self.objective.left_finite(self.model, batch)
        told = f"the {self.player} model diverged in {where}: {what}{f', since {left.text}' if left else ''}"
        return Diverged(told, advice=self._cause(batch), left=left)

    def _terms(self, chunk: Chunk, draws: torch.Generator, where: str = "") -> list[LossTerm]:
        """Return the loss terms of some samples. With `where`, an error names the plugin's part that failed."""
        with attributed(self.who, where) if where else nullcontext():
            terms = self.objective(self.model, chunk.batch, self._sample_weight(chunk))
        for one in self.terms:
            about = f"the loss term {type(one).__name__} of the {self.player} model"
            with attributed(about, where) if where else nullcontext():
                terms.append(one.term(self.model, chunk.batch, draws))
        return terms

    def _sample_weight(self, chunk: Chunk) -> Tensor | None:
        """Return the weights `[B]` of samples, or `[N, B]` where each member of an ensemble has its own."""
        if self.bootstrap is None:
            return chunk.sample_weight
        return self.bootstrap.weights(chunk.indices, chunk.generated, chunk.sample_weight)

    # --- all samples ----------------------------------------------------------------------------------------------

    def freeze(self, epoch: int, step: int, *, commit: bool) -> Mapping[str, float]:
        """Find the weights of the terms, which stay the same from here on.

        With `commit`, the weights follow from all samples, which count as one step of the normalizer. Without it they
        are those of the normalizer's last step, and the normalizer does not change.
        """
        self.weights = WeightedSum.weights(self.objective.specs)
        normalizer = self.normalization.normalizer
        if self.terms or not isinstance(normalizer, WeightedSum):
            draws = self.draws()
            # only gradients of the single terms need a graph
            with torch.set_grad_enabled(commit and "shared_parameters" in normalizer.requires):
                self.weights = self.normalization.frozen_weights(
                    (self._terms(chunk, draws) for chunk in self.chunks()),
                    len(self._chunks),
                    lambda **more: self.context(epoch, step, **more),
                    commit=commit,
                )
        return self.weights

    def chunks(self, shard: int | None = None) -> Iterator[Chunk]:
        """Yield all samples, or those of one shard, with the start states that were learned for them."""
        # a transform of torch.func may be the first to need the totals, but no data can be read within it
        self._observed()
        yield from map(self._started, self._chunks if shard is None else self._chunks.of(shard))

    def cause(self) -> str:
        """Return what helps against a cause of divergence that no training removes; empty if none is seen."""
        return self._cause(self._chunks.gather(torch.arange(min(len(self.data), self.settings.batch_size))).batch)

    def _cause(self, batch: Batch) -> str:
        return out_of_range(batch) or instability(self.model, batch[0]) or ""

    def left_finite(self) -> LeftFinite | None:
        """Return where the first rollouts that do not stay finite stop being so; None if all stay finite."""
        found = (self.objective.left_finite(self.model, chunk.batch) for chunk in self.chunks())
        return next((left for left in found if left), None)

    def _started(self, chunk: Chunk) -> Chunk:
        """Return the chunk with the learned start states of its samples."""
        return chunk if self.initial is None else attrs.evolve(chunk, batch=self.initial(chunk.batch, chunk.indices))

    def gradient(self) -> tuple[float, Callable[[], Metrics]]:
        """Return the loss here and a function for its metrics; add its gradient to the parameters' `grad`."""
        return self._sum(backward=True)

    def value(self) -> tuple[float, Metrics]:
        """Return the loss and its metrics here; a second call at one point does not compute them again."""
        point, steps = self.unknowns.point(), self.unknowns.internal_steps
        known = self._last is not None and self._last[1] == steps and torch.equal(self._last[0], point)
        if self._last is None or not known or self.terms or self.initial is not None:
            with torch.no_grad():
                loss, metrics = self._sum(backward=False)
                self._last = (point, steps, (loss, metrics()))
        return self._last[2]

    def computable(self, point: Tensor) -> bool:
        """Return whether the loss at a point `[P]` means something; false if no affordable internal steps are stable.

        Raises Outgrown if shorter internal steps are.
        """
        load = self.unknowns.step_load(point)
        if 1 < load <= MOST_GROWTH:
            raise Outgrown(point)
        return load <= 1

    def residuals(self, model: nn.Module, chunk: Chunk, draws: torch.Generator) -> Tensor:
        """Return the residuals `[B, N]` of one chunk; the loss is their sum of squares over all chunks."""
        parts = []
        for name, values in self.objective.residuals(model, chunk.batch).items():
            factor = self.weights[name] / max(self._observed()[name], 1e-300)
            if chunk.sample_weight is None:
                parts.append(values * math.sqrt(factor))
            else:
                parts.append(values * (factor * chunk.sample_weight).sqrt()[:, None].to(values.dtype))
        for extra in self.terms:
            term = extra.term(model, chunk.batch, draws)
            factor = self.weights[term.spec.name] * float(self._share(term, chunk)) / len(term.per_sample)
            tiny = torch.finfo(term.per_sample.dtype).tiny
            parts.append((factor * term.per_sample).clamp(min=tiny).sqrt()[:, None])
        return torch.cat(parts, dim=1)

    def draws(self) -> torch.Generator:
        """Return the random numbers of all passes: a loss that changed from pass to pass would have no curvature."""
        return self.generator("terms", self.begun)

    def _sum(self, backward: bool) -> tuple[float, Callable[[], Metrics]]:
        seen: list[tuple[list[LossTerm], Tensor]] = []
        if not self.computable(self.unknowns.point()):
            return math.inf, dict
        draws = self.draws()
        whole = DividedSum(self.shards, self.parameters if backward else ())

        def of(shard: int) -> tuple[float, list[tuple[list[LossTerm], Tensor]]]:
            total, seen = 0.0, []
            for chunk in self.chunks(shard):
                terms = self._terms(chunk, draws)
                parts = [self._weight(term) * self._share(term, chunk) * term.mean() for term in terms]
                loss = sum(parts[1:], start=parts[0])
                if backward:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
                detached = [attrs.evolve(term, per_sample=term.per_sample.detach()) for term in terms]
                seen.append((detached, chunk.generated))
            return total, seen

        # a gradient is taken over right behind its shard
        for total, own in map(of, self.shards.own) if backward else self.shards.each(of):
            whole.add(total)
            seen += own
        total = whole.total()
        whole.differentiate()
        if not self.shards.whole:
            seen = self._joined(seen)
        if self.prior:
            penalty = self.prior.value()
            if backward:
                penalty.backward()  # type: ignore[no-untyped-call]
            total += float(penalty.detach())

        def metrics() -> Metrics:
            # a line search needs the loss at many points, but the metrics at one
            epoch = EpochMetrics()
            for terms, generated in seen:
                weights = {term.spec.name: self._weight(term) for term in terms}
                epoch.add(terms, generated, NormalizedLoss(total=torch.zeros(()), weights=weights))
            parts = {name: abs(self.weights[name] * loss) for name, loss in epoch.losses().items()}
            whole = sum(parts.values())
            shares = {f"share/{name}": part / whole for name, part in parts.items() if whole > 0 and len(parts) > 1}
            return epoch.metrics() | shares

        return total, metrics

    def _joined(self, seen: list[tuple[list[LossTerm], Tensor]]) -> list[tuple[list[LossTerm], Tensor]]:
        """Return the terms of all samples, of which this rank has `seen` those of its own shards."""
        own = [joined([terms[k] for terms, _ in seen]) for k in range(len(seen[0][0]))]
        terms = joined_terms(self.shards, own, len(self.data))
        return [(terms, self.data.is_generated(torch.arange(len(self.data))).to(self.device))]

    def _weight(self, term: LossTerm) -> float:
        return float(self.weights[term.spec.name])

    def _share(self, term: LossTerm, chunk: Chunk) -> Tensor | float:
        """Return the chunk's part of the mean over all samples."""
        total = self._observed().get(term.spec.name)
        if total is None:
            return len(chunk.indices) / len(self.data)
        if term.sample_weight is None:
            return len(chunk.indices) / total
        # in float32 the shares would add up to 1 less exactly than a float64 loss needs
        return term.sample_weight.sum(dtype=torch.float64) / total if total else 0.0

    def _observed(self) -> dict[str, float]:
        """Return for each term of the objective the sum of all sample weights, each times its observed share."""
        if self._totals is None:

            def of(shard: int) -> dict[str, float]:
                totals: dict[str, float] = {}
                for chunk in map(self._started, self._chunks.of(shard)):
                    for name, weight in self.objective.weights(chunk.batch, self._sample_weight(chunk)).items():
                        totals[name] = totals.get(name, 0.0) + float(weight.sum())
                return totals

            found = self.shards.each(of)
            sums = self.shards.sum([torch.tensor(list(own.values()), dtype=torch.float64) for own in found])
            self._totals = dict(zip(found[0], sums.tolist(), strict=True))
        return self._totals


def with_noise(batch: Batch, noise: float, draws: torch.Generator) -> Batch:
    """Add normal noise to the dynamic channels of start states, in units of their change from one frame to the next.

    The change is the root mean square over the batch of each channel, counted as even over the frames of a target.
    Batches that are no rollouts stay as they are.
    """
    states, targets = batch
    if not isinstance(states, Tensor) or not isinstance(targets, Tensor):
        return batch
    dynamic = targets.shape[2]
    lead = torch.arange(1, targets.shape[1] + 1, device=targets.device).reshape(-1, *[1] * (targets.dim() - 2))
    squares = ((targets - states[:, None, :dynamic]) / lead).square()
    sizes = squares.transpose(0, 2).flatten(1).nanmean(1).sqrt().nan_to_num()
    drawn = torch.randn(states[:, :dynamic].shape, generator=draws, dtype=states.dtype).to(states.device)
    shift = noise * sizes.reshape(-1, *[1] * (states.dim() - 2)) * drawn
    return torch.cat([states[:, :dynamic] + shift, states[:, dynamic:]], dim=1), targets


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on another device."""
    inputs, targets = batch
    return _move(inputs, device), _move(targets, device)


def _move(values: Values, device: torch.device) -> Values:
    if isinstance(values, Tensor):
        return _move_tensor(values, device)
    return {name: _move_tensor(value, device) for name, value in values.items()}


def _move_tensor(values: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and values.device.type == "cpu":
        # the copy from pinned memory runs while the next batch is gathered; torch keeps the memory until its end
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for values in batch for t in ([values] if isinstance(values, Tensor) else values.values())]


def _recut(windows: Samples, horizon: int, *, stride: int) -> Recut | None:
    """Return windows of `horizon` steps, `stride` frames apart, that are cut out of longer ones; None for sensors."""
    if horizon < 2 or not isinstance(windows.batch(torch.tensor([0]))[1], Tensor):
        return None
    cut = Recut(windows, horizon, stride=stride)
    return cut if len(cut) else None
