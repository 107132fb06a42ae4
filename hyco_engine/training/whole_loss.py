"""The loss of one model over a whole data set: its value, gradient and normal equations, accumulated in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.interfaces import Batch, ExtraTerm, LossTerm, NormalizedLoss, Samples, Values
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.losses import Objective
from hyco_engine.training.prior import Prior

Metrics = dict[str, float]
KEPT_BYTES = 2**28
"""A data set up to this size stays gathered between evaluations."""


@attrs.frozen(kw_only=True, eq=False)
class Chunk:
    """Some samples, on the model's device."""

    indices: Tensor
    batch: Batch
    sample_weight: Tensor | None
    generated: Tensor


class WholeLoss:
    """sum_k w_k L_k with L_k the mean over all samples and w_k frozen; also a sum of squares, of weighted residuals.

    Values, gradients and normal equations have the model's `prior` in them; `residuals` are of the data alone.
    `weights` gives w_k by term. `extra` terms count as the square of sqrt(l) of each sample in the normal equations:
    the gradient is exact, the curvature a lower bound. Points are flat vectors `[P]` of all that the model learns.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        data: AugmentedDataset | Samples,
        *,
        weights: Mapping[str, float],
        chunk: int,
        device: torch.device,
        extra: Sequence[ExtraTerm] = (),
        draws: Callable[[], torch.Generator] = torch.Generator,
        initial: InitialStates | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.data = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        self.weights = weights
        self.device = device
        self._chunk = chunk
        self.extra = extra
        self.draws = draws
        self.prior = Prior(model)
        self.initial = initial
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._held: list[Chunk] | None = None
        self._last: tuple[Tensor, tuple[float, Metrics]] | None = None
        self._total_weights: dict[str, float] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned, in the order of a point's entries."""
        return list(self._named.values())

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model computes in."""
        return next(iter(self._named.values())).dtype

    def point(self) -> Tensor:
        """Where the model is: `[P]`, a copy, float64, on the CPU."""
        return nn.utils.parameters_to_vector(self.parameters).detach().double().cpu()

    def move_to(self, point: Tensor) -> None:
        """Give the model the parameters of a point."""
        first = self.parameters[0]
        nn.utils.vector_to_parameters(point.to(dtype=first.dtype, device=first.device), self.parameters)

    def named(self, point: Tensor) -> dict[str, Tensor]:
        """A point as tensors by parameter name; differentiable."""
        sizes = [p.numel() for p in self._named.values()]
        parts = torch.split(point, sizes)
        return {name: part.view(p.shape) for (name, p), part in zip(self._named.items(), parts, strict=True)}

    # --- value and gradient, where the model is -----------------------------------------------------------------

    def gradient(self) -> tuple[float, Callable[[], Metrics]]:
        """The loss here, and what computes its metrics; its gradient is added to the parameters' `grad`."""
        return self._sum(backward=True)

    def value(self) -> tuple[float, Metrics]:
        """The loss and its metrics here; where it was asked for last, it is not computed again."""
        point = self.point()
        if self._last is None or self.extra or self.initial is not None or not torch.equal(self._last[0], point):
            with torch.no_grad():
                loss, metrics = self._sum(backward=False)
                self._last = (point, (loss, metrics()))
        return self._last[1]

    def _sum(self, backward: bool) -> tuple[float, Callable[[], Metrics]]:
        seen: list[tuple[list[LossTerm], Tensor]] = []
        total, draws = 0.0, self.draws()
        for chunk in self.chunks():
            terms = self._terms(self.model, chunk, draws)
            parts = [self._weight(term) * self._share(term, chunk) * term.mean() for term in terms]
            loss = sum(parts[1:], start=parts[0])
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            seen.append(([attrs.evolve(term, per_sample=term.per_sample.detach()) for term in terms], chunk.generated))

        if self.prior:
            penalty = self.prior.value()
            if backward:
                penalty.backward()  # type: ignore[no-untyped-call]
            total += float(penalty.detach())

        def metrics() -> Metrics:
            # a line search looks at the loss of many points, and at the metrics of one
            epoch = EpochMetrics()
            for terms, generated in seen:
                weights = {term.spec.name: self._weight(term) for term in terms}
                epoch.add(terms, generated, NormalizedLoss(total=torch.zeros(()), weights=weights))
            parts = {name: abs(self.weights[name] * loss) for name, loss in epoch.losses().items()}
            whole = sum(parts.values())
            shares = {f"share/{name}": part / whole for name, part in parts.items() if whole > 0 and len(parts) > 1}
            return epoch.metrics() | shares

        return total, metrics

    def _terms(self, model: nn.Module, chunk: Chunk, draws: torch.Generator) -> list[LossTerm]:
        terms = self.objective(model, chunk.batch, chunk.sample_weight)
        return terms + [term.term(model, chunk.batch, draws) for term in self.extra]

    def _weight(self, term: LossTerm) -> float:
        return float(self.weights[term.spec.name])

    def _share(self, term: LossTerm, chunk: Chunk) -> Tensor | float:
        """The chunk's part of the mean over all samples."""
        total = self._totals().get(term.spec.name)
        if total is None:
            return len(chunk.indices) / len(self.data)
        if term.sample_weight is None:
            return len(chunk.indices) / total
        # in float32 the shares would not add up to 1 as exactly as a loss in float64 does
        return term.sample_weight.sum(dtype=torch.float64) / total if total else 0.0

    # --- for sums of squares --------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[Chunk]:
        """All samples."""
        # within a transform of torch.func, where they may first be asked for, no data can be read
        self._totals()
        yield from self._started()

    def _started(self) -> Iterator[Chunk]:
        """All samples, from where they are learned to start; only what was read is kept."""
        for chunk in self._read():
            own = chunk.batch if self.initial is None else self.initial(chunk.batch, chunk.indices)
            yield attrs.evolve(chunk, batch=own)

    def _read(self) -> Iterator[Chunk]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Chunk] | None = []
        size = 0
        every = torch.split(torch.arange(len(self.data)), self._chunk)
        self.data.upcoming(every)
        for indices in every:
            weight = self.data.sample_weight(indices)
            chunk = Chunk(
                indices=indices,
                batch=to_device(self.data.batch(indices), self.device),
                sample_weight=None if weight is None else weight.to(self.device),
                generated=self.data.is_generated(indices).to(self.device),
            )
            if held is not None:
                size += _bytes(chunk.batch)
                held = [*held, chunk] if size <= KEPT_BYTES else None
            yield chunk
        self._held = held

    @property
    def n_chunks(self) -> int:
        """How many chunks all samples come in."""
        return -(-len(self.data) // self._chunk)

    def terms(self) -> Iterator[list[LossTerm]]:
        """The terms of each chunk, where the model is."""
        draws = self.draws()
        yield from (self._terms(self.model, chunk, draws) for chunk in self.chunks())

    def residuals(self, model: nn.Module, chunk: Chunk, draws: torch.Generator) -> Tensor:
        """Of one chunk, `[B, N]`; the loss is their sum of squares over all chunks."""
        parts = []
        for name, values in self.objective.residuals(model, chunk.batch).items():
            factor = self.weights[name] / max(self._totals()[name], 1e-300)
            if chunk.sample_weight is None:
                parts.append(values * math.sqrt(factor))
            else:
                parts.append(values * (factor * chunk.sample_weight).sqrt()[:, None].to(values.dtype))
        for extra in self.extra:
            term = extra.term(model, chunk.batch, draws)
            factor = self.weights[term.spec.name] * float(self._share(term, chunk)) / len(term.per_sample)
            tiny = torch.finfo(term.per_sample.dtype).tiny
            parts.append((factor * term.per_sample).clamp(min=tiny).sqrt()[:, None])
        return torch.cat(parts, dim=1)

    def _totals(self) -> dict[str, float]:
        """By term of the objective: the weights of all samples, each times the observed share of its values."""
        if self._total_weights is None:
            totals: dict[str, float] = {}
            for chunk in self._started():
                for name, weight in self.objective.weights(chunk.batch, chunk.sample_weight).items():
                    totals[name] = totals.get(name, 0.0) + float(weight.sum())
            self._total_weights = totals
        return self._total_weights


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    inputs, targets = batch
    return _move(inputs, device), _move(targets, device)


def _move(values: Values, device: torch.device) -> Values:
    if isinstance(values, Tensor):
        return _move_tensor(values, device)
    return {name: _move_tensor(value, device) for name, value in values.items()}


def _move_tensor(values: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and values.device.type == "cpu":
        # from pinned memory the copy runs while the next batch is gathered; torch keeps the memory until it is done
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for values in batch for t in ([values] if isinstance(values, Tensor) else values.values())]


def _bytes(batch: Batch) -> int:
    return sum(t.nbytes for t in _tensors(batch))
