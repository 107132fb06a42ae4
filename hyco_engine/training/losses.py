"""Objectives, which turn a batch into named loss terms. Each term is a mean over the observed values.

An objective never changes. A shorter horizon, checkpoints or learned start states make another one, with
`attrs.evolve`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.ensemble import members_of
from hyco_engine.errors import PluginError
from hyco_engine.interfaces import (
    Batch,
    LossNormalizer,
    LossTerm,
    NormalizedLoss,
    Predictor,
    StepContext,
    TermSpec,
    Values,
)
from hyco_engine.rollout import rollout
from hyco_engine.training.divergence import LeftFinite

_SQUARED = ("gaussian", "residual", "other")


def _as_tuple(specs: Sequence[TermSpec]) -> tuple[TermSpec, ...]:
    return tuple(specs)


class Objective(ABC):
    """The loss of a model: turns its predictions for a batch into loss terms."""

    specs: Sequence[TermSpec]

    rolls_out: bool = False
    """True if the model is rolled out from a state, so that the loss has a horizon."""

    takes_parts: bool = False
    """True if a sample of sensors may be learned in parts, `points_per_sample` observations at a time."""

    horizon: int | None = None
    """Steps of the rollouts that count; None takes as many as the targets have."""

    def at_horizon(self, horizon: int | None) -> Objective:
        """Return the same loss of rollouts of `horizon` steps. Only objectives that roll out have a horizon."""
        raise TypeError(f"{type(self).__name__} rolls nothing out, so it has no horizon")

    def with_rollouts(self, *, from_start: bool, checkpoint_every: int | None) -> Objective:
        """Return the same loss with these settings of its rollouts; an objective without rollouts returns itself."""
        return self

    def __call__(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None = None) -> list[LossTerm]:
        """Return one term for each spec; without `sample_weight [B]`, every sample counts as 1.

        The members of an ensemble have terms of their own, of which these are the means; `sample_weight` may then be
        `[N, B]`, with weights for each member.
        """
        members = members_of(model)
        if len(members) == 1:
            return self._terms(model, batch, sample_weight)
        weights = [sample_weight] * len(members) if sample_weight is None or sample_weight.dim() == 1 else sample_weight
        return _pooled([self._member_terms(own, batch, weight) for own, weight in zip(members, weights, strict=True)])

    def _member_terms(self, model: nn.Module, batch: Batch, weight: Tensor | None) -> list[LossTerm]:
        """Return the terms of a member, which computes no sample that counts nothing: a third of them, on average."""
        if weight is None or bool((weight > 0).all()):
            return self._terms(model, batch, weight)
        # one sample at least, since a model may not take none
        seen = weight.nonzero()[:, 0] if bool((weight > 0).any()) else torch.zeros(1, dtype=torch.int64)
        seen = seen.to(weight.device)

        def spread_out(values: Tensor) -> Tensor:
            return values.new_zeros(len(weight)).index_put((seen,), values)

        return [
            LossTerm(
                spec=term.spec,
                per_sample=spread_out(term.per_sample),
                sample_weight=None if term.sample_weight is None else spread_out(term.sample_weight),
            )
            for term in self._terms(model, rows_of(batch, seen), weight[seen])
        ]

    @abstractmethod
    def _terms(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None) -> list[LossTerm]:
        """Return the terms of one model."""

    @abstractmethod
    def weights(self, batch: Batch, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return, by term, the weight `[B]` of each sample: its own weight times the observed share of its values.

        A weight of its own for each member of an ensemble, `[N, B]`, counts by its mean.
        """

    def residuals(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return residuals `[B, N]` by term: a row's sum of squares is `per_sample` times the sample's observed share.

        Only objectives whose terms are all `squared` have residuals.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no residuals")

    def steps(self, batch: Batch) -> int | None:
        """Return the number of rollout steps in the loss of this batch; None if it needs more than rollouts."""
        return None

    def left_finite(self, model: nn.Module, batch: Batch) -> LeftFinite | None:
        """Return where the rollouts of the batch stop being finite; None if they are finite or there are none."""
        return None

    @property
    def squared(self) -> bool:
        """True if all terms are squared errors, so that there are residuals."""
        return all(spec.kind in _SQUARED for spec in self.specs)


@attrs.frozen(eq=False)
class RolloutObjective(Objective):
    """Squared errors of a stepper's rollout over the horizon of the targets, one term for each dynamic field.

    A term is the mean over all observed values of the batch: a sample counts by its weight times the observed share of
    its values. NaN in a target means that it was not observed.
    """

    rolls_out = True

    layout: StateLayout
    specs: Sequence[TermSpec] = attrs.field(converter=_as_tuple)
    horizon: int | None = attrs.field(default=None, kw_only=True)
    """Steps of the rollouts that count; None takes as many as the targets have."""
    from_start: bool = attrs.field(default=False, kw_only=True)
    """True if the first target belongs to the start state itself, at lead time 0."""
    checkpoint_every: int | None = attrs.field(default=None, kw_only=True)
    """Number of steps between the states kept for the gradient, which computes the rest again; None keeps all."""
    _channels: Mapping[str, slice] = attrs.field(init=False)
    _samples: Tensor | None = attrs.field(init=False)

    @specs.default
    def _one_term_a_field(self) -> Sequence[TermSpec]:
        return [TermSpec(name=field.name) for field in self.layout.dynamic]

    @_channels.default
    def _channels_by_field(self) -> Mapping[str, slice]:
        return {field.name: self.layout.channels(field.name) for field in self.layout.dynamic}

    @_samples.default
    def _entries_that_are_samples(self) -> Tensor | None:
        return sample_mask(self.layout)[: self.layout.n_dynamic] if self.layout.has_filler else None

    def at_horizon(self, horizon: int | None) -> Objective:
        return attrs.evolve(self, horizon=horizon)

    def with_rollouts(self, *, from_start: bool, checkpoint_every: int | None) -> Objective:
        return attrs.evolve(self, from_start=from_start, checkpoint_every=checkpoint_every)

    def _terms(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None) -> list[LossTerm]:
        differences, observed = self._differences(model, batch)
        squares = differences.square()
        terms = []
        for spec in self.specs:
            channels = self._channels[spec.name]
            counts = observed[:, :, channels].flatten(1).sum(1)
            per_sample = squares[:, :, channels].flatten(1).sum(1) / counts.clamp(min=1)
            weight = weighted(counts.to(squares.dtype) / observed[0, :, channels].numel(), sample_weight)
            terms.append(LossTerm(spec=spec, per_sample=per_sample, sample_weight=weight))
        return terms

    def weights(self, batch: Batch, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        targets = batch[1]
        if not isinstance(targets, Tensor):
            raise TypeError("a stepper is trained on states and rollouts; this data has tensors by name")
        observed = self._observed(self._counted(targets))
        shares = {name: observed[:, :, part].flatten(1).double().mean(1) for name, part in self._channels.items()}
        return {name: weighted(share, sample_weight) for name, share in shares.items()}

    def steps(self, batch: Batch) -> int | None:
        targets = batch[1]
        return self._counted(targets).shape[1] - self.from_start if isinstance(targets, Tensor) else None

    def _counted(self, targets: Tensor) -> Tensor:
        return targets if self.horizon is None else targets[:, : self.horizon + self.from_start]

    def residuals(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        differences, _ = self._differences(model, batch)
        parts = {name: differences[:, :, channels].flatten(1) for name, channels in self._channels.items()}
        return {name: part * part.shape[1] ** -0.5 for name, part in parts.items()}

    def left_finite(self, model: nn.Module, batch: Batch) -> LeftFinite | None:
        states, steps = batch[0], self.steps(batch)
        if not isinstance(states, Tensor) or steps is None:
            return None
        with torch.no_grad():
            finite = rollout(model, states, steps).isfinite()
        finite = finite if self._samples is None else finite | ~self._samples.to(finite.device)
        for step in range(steps):
            for name, channels in self._channels.items():
                bad = int((~finite[:, step, channels].flatten(1).all(1)).sum())
                if bad:
                    text = (
                        f"{name!r} is not finite from lead time {step + 1} of {steps} on in {bad} of {len(finite)} "
                        "rollouts"
                    )
                    return LeftFinite(lead=step + 1, steps=steps, text=text)
        return None

    def _differences(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return prediction - target, which is 0 if not observed, and a mask that is true for observed values."""
        states, targets = batch
        if not isinstance(states, Tensor) or not isinstance(targets, Tensor):
            raise TypeError("a stepper is trained on states and rollouts; this data has tensors by name")
        targets = self._counted(targets)
        steps = targets.shape[1] - self.from_start
        predictions = rollout(model, states, steps, checkpoint_every=self.checkpoint_every)
        if self.from_start:
            predictions = torch.cat([states[:, None, : predictions.shape[2]], predictions], dim=1)
        if predictions.shape != targets.shape:
            raise PluginError(
                f"{type(model).__name__} predicts {_shape(predictions)} for states {_shape(states)}; "
                f"expected {_shape(targets)} as [B, T, C_dyn, *S]"
            )
        observed = self._observed(targets)
        # 0 if finite, else NaN: a state that is not finite must show even if nobody observed it
        unseen = 0.0 * predictions
        if self._samples is not None:
            unseen = torch.where(self._samples.to(unseen.device), unseen, 0.0)
        return torch.where(observed, predictions - targets, unseen), observed

    def _observed(self, targets: Tensor) -> Tensor:
        observed = ~targets.isnan()
        return observed if self._samples is None else observed & self._samples.to(observed.device)


@attrs.frozen(eq=False)
class PredictorObjective(Objective):
    """Compares each named output of a predictor with its target, as the term's kind says.

    gaussian, residual: squared error; laplace: absolute error; huber; categorical: cross-entropy of logits
    `[B, K, ...]` with classes `[B, ...]`; bernoulli: binary cross-entropy of logits. A sample's value is the mean over
    its observed elements; NaN (classes: a negative number) in a target means that it was not observed.
    """

    specs: Sequence[TermSpec] = attrs.field(converter=_as_tuple)

    def _terms(self, model: nn.Module, batch: Batch, sample_weight: Tensor | None) -> list[LossTerm]:
        inputs, targets = batch
        if not isinstance(targets, Mapping):
            raise TypeError("a predictor is trained on targets by name; this data has plain tensors")
        outputs = model(inputs)
        terms = []
        for spec in self.specs:
            target = targets[spec.name]
            observed = _is_observed(spec, target)
            known = torch.where(observed, target, 0)
            values = torch.where(observed, _elementwise(spec, outputs[spec.name], known), 0.0)
            values = values.reshape(len(values), -1)
            counts = observed.reshape(len(values), -1).sum(1)
            weight = weighted(counts.to(values.dtype) / values.shape[1], sample_weight)
            terms.append(LossTerm(spec=spec, per_sample=values.sum(1) / counts.clamp(min=1), sample_weight=weight))
        return terms

    def weights(self, batch: Batch, sample_weight: Tensor | None = None) -> dict[str, Tensor]:
        targets = batch[1]
        if not isinstance(targets, Mapping):
            raise TypeError("a predictor is trained on targets by name; this data has plain tensors")
        observed = {spec.name: _is_observed(spec, targets[spec.name]) for spec in self.specs}
        return {
            name: weighted(seen.reshape(len(seen), -1).double().mean(1), sample_weight)
            for name, seen in observed.items()
        }

    def residuals(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        inputs, targets = batch
        if not isinstance(targets, Mapping):
            raise TypeError("a predictor is trained on targets by name; this data has plain tensors")
        outputs = model(inputs)
        return {spec.name: _difference(spec, outputs[spec.name], targets[spec.name]) for spec in self.specs}


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """Return some samples of a batch, int64 `[b]`."""

    def own(values: Values) -> Values:
        return values[rows] if isinstance(values, Tensor) else {name: value[rows] for name, value in values.items()}

    return own(batch[0]), own(batch[1])


def _pooled(members: Sequence[Sequence[LossTerm]]) -> list[LossTerm]:
    """Return for each term the weighted mean over the members; its gradient by one member's weights is that of its own.

    A sample has the mean of its weights.
    """
    pooled = []
    for own in zip(*members, strict=True):
        weights = torch.stack(
            [torch.ones_like(t.per_sample) if t.sample_weight is None else t.sample_weight for t in own]
        )
        values = torch.stack([term.per_sample for term in own])
        per_sample = (weights * values).sum(0) / weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
        pooled.append(LossTerm(spec=own[0].spec, per_sample=per_sample, sample_weight=weights.mean(0)))
    return pooled


def weighted(share: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the weights `[B]` of samples of which a share is observed; members of an ensemble count by their mean."""
    if sample_weight is None:
        return share
    return share * (sample_weight if sample_weight.dim() == 1 else sample_weight.mean(0))


def _is_observed(spec: TermSpec, target: Tensor) -> Tensor:
    return target >= 0 if spec.kind == "categorical" else ~target.isnan()


def _elementwise(spec: TermSpec, output: Tensor, target: Tensor) -> Tensor:
    match spec.kind:
        case "gaussian" | "residual" | "other":
            return (output - target).square()
        case "laplace":
            return (output - target).abs()
        case "huber":
            return functional.huber_loss(output, target, reduction="none")
        case "categorical":
            return functional.cross_entropy(output, target.long(), reduction="none")
        case "bernoulli":
            return functional.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")


def loss_of_size(kind: str, size: float) -> float:
    """Return the loss of an error of `size` in the target's unit; for classes, which have no unit, return `size`."""
    match kind:
        case "gaussian" | "residual" | "other":
            return size**2
        case "huber":
            return size**2 / 2 if size < 1 else size - 0.5
        case _:
            return size


def _difference(spec: TermSpec, output: Tensor, target: Tensor) -> Tensor:
    """Return residuals `[B, N]`, divided by sqrt(N)."""
    observed = _is_observed(spec, target)
    difference = torch.where(observed, output - torch.where(observed, target, 0), 0.0)
    difference = difference.reshape(len(difference), -1)
    return difference / math.sqrt(difference.shape[1])


class WeightedSum(LossNormalizer):
    """The total sum_k w_k L_k with w_k = priority_k / scale_k; a scale that is not declared counts as 1."""

    def add_term(self, spec: TermSpec) -> None:
        """Do nothing: weights follow from each term's own declaration."""

    @staticmethod
    def weights(specs: Iterable[TermSpec]) -> dict[str, float]:
        """Return w_k by term."""
        return {spec.name: spec.priority / (spec.scale or 1.0) for spec in specs}

    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        weights = self.weights(term.spec for term in terms)
        parts = [weights[term.spec.name] * term.mean() for term in terms]
        sizes = torch.stack([part.detach().abs() for part in parts])
        shares = sizes / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)
        names = [term.spec.name for term in terms]
        total = sum(parts[1:], start=parts[0])
        return NormalizedLoss(total=total, weights=weights, shares=dict(zip(names, shares, strict=True)))


def objective_for(model: nn.Module, layout: StateLayout | None, specs: Sequence[TermSpec] | None = None) -> Objective:
    """Return the objective for the kind of model, predictor or stepper."""
    if isinstance(model, Predictor):
        return PredictorObjective(specs or model.terms)
    if layout is None:
        raise TypeError(f"{type(model).__name__} is a stepper: it needs data on a grid")
    return RolloutObjective(layout, specs) if specs else RolloutObjective(layout)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
