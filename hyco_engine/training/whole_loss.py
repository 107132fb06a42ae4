"""The loss of one model over a whole data set: its value, gradient and normal equations, accumulated in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.interfaces import Batch, ExtraTerm, LossTerm, Samples, Values
from hyco_engine.training.epoch_metrics import EpochMetrics
from hyco_engine.training.jacobian import ForwardJacobian
from hyco_engine.training.losses import Objective

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

    `weights` gives w_k by term. `extra` terms count as the square of sqrt(l) of each sample in the normal equations: the
    gradient is exact, the curvature a lower bound. Points are flat vectors `[P]` of all that the model learns.
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
        jacobian: ForwardJacobian | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.data = data if isinstance(data, AugmentedDataset) else AugmentedDataset(data)
        self.weights = weights
        self.device = device
        self._chunk = chunk
        self._extra = extra
        self._draws = draws
        self._jacobian = jacobian or ForwardJacobian()
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._call = _Call(model)
        self._held: list[Chunk] | None = None
        self._total_weights: dict[str, float] | None = None
        self._captured = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned, in the order of a point's entries."""
        return list(self._named.values())

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the model computes in."""
        return next(iter(self._named.values())).dtype

    @property
    def derivatives(self) -> ForwardJacobian:
        """How Jacobians are computed."""
        return self._jacobian

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
        parts = point.split(sizes)
        return {name: part.view(p.shape) for (name, p), part in zip(self._named.items(), parts, strict=True)}

    # --- value and gradient, where the model is -----------------------------------------------------------------

    def gradient(self) -> tuple[float, Metrics]:
        """The loss and its metrics here; its gradient is added to the parameters' `grad`."""
        return self._sum(backward=True)

    def value(self) -> tuple[float, Metrics]:
        """The loss and its metrics here."""
        with torch.no_grad():
            return self._sum(backward=False)

    def _sum(self, backward: bool) -> tuple[float, Metrics]:
        epoch, total, draws = EpochMetrics(), 0.0, self._draws()
        for chunk in self._chunks():
            terms = self._terms(self.model, chunk, draws)
            parts = [self._weight(term) * self._share(term, chunk) * term.mean() for term in terms]
            loss = sum(parts[1:], start=parts[0])
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            epoch.add(terms, {term.spec.name: self._weight(term) for term in terms}, chunk.generated)
        return total, epoch.metrics()

    def _terms(self, model: nn.Module, chunk: Chunk, draws: torch.Generator) -> list[LossTerm]:
        terms = self.objective(model, chunk.batch, chunk.sample_weight)
        return terms + [term.term(model, chunk.batch, draws) for term in self._extra]

    def _weight(self, term: LossTerm) -> float:
        return float(self.weights[term.spec.name])

    def _share(self, term: LossTerm, chunk: Chunk) -> Tensor | float:
        """The chunk's part of the mean over all samples."""
        total = self._totals().get(term.spec.name)
        if total is None:
            return len(chunk.indices) / len(self.data)
        if term.sample_weight is None:
            return len(chunk.indices) / total
        return term.sample_weight.sum() / total if total else 0.0

    # --- sums of squares, anywhere --------------------------------------------------------------------------------

    def values(self, points: Tensor) -> Tensor:
        """The loss at `points [S, P]`: float64 `[S]`; see `SquaredSum`."""
        here = self.point()
        try:
            found = []
            for point in points:
                self.move_to(point)
                found.append(self.value()[0])
        finally:
            self.move_to(here)
        return torch.tensor(found, dtype=torch.float64)

    def normal_equations(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F, J^T r and J^T J at `points [S, P]`; see `SquaredSum`."""
        sums = []
        for point in points:
            parts = [self._normal(residual, jacobian) for _, residual, jacobian in self.linearized(point)]
            sums.append([torch.stack(kind).sum(0) for kind in zip(*parts, strict=True)])
        return (
            torch.stack([f for f, _, _ in sums]),
            torch.stack([g for _, g, _ in sums]),
            torch.stack([h for _, _, h in sums]),
        )

    @staticmethod
    def _normal(residual: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r, j = residual.flatten().double(), jacobian.flatten(0, 1).double()
        return r.square().sum().cpu(), (j.T @ r).cpu(), (j.T @ j).cpu()

    def linearized(self, point: Tensor) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
        """For each chunk: its residuals `[B, N]` and their derivatives `[B, N, P]`, weighted: F is the sum of squares."""
        x = point.to(dtype=self.dtype, device=self.device)
        draws = self._draws()
        for chunk in self._chunks():
            state = draws.get_state()

            def residuals(theta: Tensor, chunk: Chunk = chunk, state: Tensor = state) -> Tensor:
                draws.set_state(state)
                return self._residuals(theta, chunk, draws).flatten()

            if not self._captured:
                # graphs cannot be captured within torch.func, but one that is there is used
                with torch.no_grad():
                    residuals(x)
            value, jacobian = self._jacobian(residuals, x, _elements(chunk.batch))
            count = len(chunk.indices)
            yield chunk, value.view(count, -1), jacobian.reshape(count, -1, len(x))
        self._captured = True

    def _residuals(self, theta: Tensor, chunk: Chunk, draws: torch.Generator) -> Tensor:
        """`[B, N]`."""

        def compute(model: nn.Module) -> Tensor:
            parts = []
            for name, values in self.objective.residuals(model, chunk.batch).items():
                factor = self.weights[name] / max(self._totals()[name], 1e-300)
                if chunk.sample_weight is None:
                    parts.append(values * math.sqrt(factor))
                else:
                    parts.append(values * (factor * chunk.sample_weight).sqrt()[:, None].to(values.dtype))
            for extra in self._extra:
                term = extra.term(model, chunk.batch, draws)
                factor = self.weights[term.spec.name] * float(self._share(term, chunk)) / len(term.per_sample)
                tiny = torch.finfo(term.per_sample.dtype).tiny
                parts.append((factor * term.per_sample).clamp(min=tiny).sqrt()[:, None])
            return torch.cat(parts, dim=1)

        result = torch.func.functional_call(
            self._call, {f"model.{name}": value for name, value in self.named(theta).items()}, (compute,)
        )
        assert isinstance(result, Tensor)
        return result

    # --- data -----------------------------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[Chunk]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Chunk] | None = []
        size = 0
        for indices in torch.arange(len(self.data)).split(self._chunk):
            weight = self.data.sample_weight(indices)
            chunk = Chunk(
                indices=indices,
                batch=to_device(self.data.batch(indices), self.device),
                sample_weight=None if weight is None else weight.to(self.device),
                generated=self.data.is_generated(indices).to(self.device),
            )
            if held is not None:
                size += _bytes(chunk.batch)
                held = held + [chunk] if size <= KEPT_BYTES else None
            yield chunk
        self._held = held

    def _totals(self) -> dict[str, float]:
        """By term of the objective: the weights of all samples, each times the observed share of its values."""
        if self._total_weights is None:
            totals: dict[str, float] = {}
            for chunk in self._chunks():
                for name, weight in self.objective.weights(chunk.batch, chunk.sample_weight).items():
                    totals[name] = totals.get(name, 0.0) + float(weight.sum())
            self._total_weights = totals
        return self._total_weights


class _Call(nn.Module):
    """Makes any function of the model one that `functional_call` can give other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.model)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    inputs, targets = batch
    return _move(inputs, device), _move(targets, device)


def _move(values: Values, device: torch.device) -> Values:
    if isinstance(values, Tensor):
        return values.to(device)
    return {name: value.to(device) for name, value in values.items()}


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for values in batch for t in ([values] if isinstance(values, Tensor) else values.values())]


def _bytes(batch: Batch) -> int:
    return sum(t.nbytes for t in _tensors(batch))


def _elements(batch: Batch) -> int:
    return sum(t.numel() for t in _tensors(batch))
