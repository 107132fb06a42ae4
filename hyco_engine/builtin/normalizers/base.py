"""The base of all built-in normalizers: it sums over the batch, handles losses that are not finite, commits state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.normalizers.options import NonFinite
from hyco_engine.builtin.normalizers.sizes import Sizes, global_sizes, weighted
from hyco_engine.errors import RunError
from hyco_engine.interfaces import LossNormalizer, LossTerm, NormalizedLoss, StepContext, TermSpec


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """The losses from which a new state is computed."""

    sizes: Mapping[str, Sizes]
    """Sums over all ranks and this optimizer step's micro-batches so far; finite, and not negative where `ratio`."""
    terms: Mapping[str, LossTerm]
    """The terms of this rank and micro-batch."""
    context: StepContext


class Balancer(LossNormalizer):
    """total = sum_k w_k L_k (+ R), with L_k = sum_b w_b l_kb / sum_b w_b over the batch of all ranks.

    A subclass defines how the state follows from the losses (`advanced`) and which weight follows from the state
    (`weight`). The state is one record of floats for each term, by name. The last micro-batch of an optimizer step
    commits it, from the sums over all micro-batches, and only in training. The ranks' totals add up to the total of a
    single rank, so gradients must be summed over ranks. A term whose samples all have weight 0 counts as missing from
    the batch.
    """

    ratio: ClassVar[bool] = True
    """True if weights divide by the size of a loss, so that no loss may be negative."""
    record: ClassVar[type[Any] | None] = None
    """An attrs class of floats, the state of one term; None for a normalizer without state."""

    def __init__(self, *, nonfinite: NonFinite = "raise") -> None:
        self.nonfinite = nonfinite
        self.specs: dict[str, TermSpec] = {}
        self._state: dict[str, Any] = {}
        self._sizes: dict[str, Sizes] = {}
        self._skipping = False

    def add_term(self, spec: TermSpec) -> None:
        """Add a term that appears later; its statistics start with its own first batch. Every rank must call it."""
        self.specs[spec.name] = spec

    @abstractmethod
    def advanced(self, state: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """Return the state after the committed `state` for the terms in `step.sizes`; do not modify `state`."""

    @abstractmethod
    def weight(self, spec: TermSpec, state: Any | None) -> float:
        """Return d total / d L_k, in 1/unit, from the term's state, which is None before its first batch."""

    def regularizer(
        self, state: Mapping[str, Any], sizes: Mapping[str, Sizes], own: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Return R for one batch, 0-d, with the gradient by which the normalizer's parameters learn; None without R.

        `own[name]` is this rank's part of the term's weight, so that the parts of all ranks add up.
        """
        return None

    def logged(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers to log, by name."""
        return {}

    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        given = self._by_name(terms)
        if context.micro_step == 0:
            self._skipping = False
        found = global_sizes(sorted(self.specs), given, context.reduce_sum)
        sizes = {name: size for name, size in found.items() if size.weight > 0 or not size.finite}
        if context.training:
            broken = [name for name, size in sizes.items() if not size.finite]
            if broken and self.nonfinite == "raise":
                raise _nonfinite(broken, given)
            self._skipping |= bool(broken) and self.nonfinite == "skip_step"
            sizes = {name: size for name, size in sizes.items() if size.finite}
        if self._skipping or not sizes:
            return NormalizedLoss(total=_nothing(given), weights=dict.fromkeys(given, 0.0), skipped=True)
        state = self._stepped(sizes, given, context)
        weights = {name: self.weight(self.specs[name], state.get(name)) for name in sizes}
        sums = {name: weighted(given[name]) for name in sizes if name in given}
        parts = [weights[name] * (loss.sum() / sizes[name].weight) for name, (_, loss) in sums.items()]
        total = sum(parts[1:], start=parts[0]) if parts else _nothing(given)
        extra = None
        if self.learnable:
            own = {name: weight.detach().sum() / sizes[name].weight for name, (weight, _) in sums.items()}
            extra = self.regularizer(state, sizes, own)
        if extra is not None:
            total = total + (extra if context.training else extra.detach()).to(total.dtype)
        return NormalizedLoss(
            total=total,
            weights={**dict.fromkeys(given, 0.0), **weights},
            shares=_shares({name: weights[name] * size.mean for name, size in sizes.items()}),
            regularizer=None if extra is None else extra.detach(),
            log=self.logged(state),
        )

    def manual_weight(self, spec: TermSpec) -> float:
        """Return priority / scale, the weight of a term whose size is not known."""
        return spec.priority / (spec.scale or 1.0)

    def _by_name(self, terms: Sequence[LossTerm]) -> dict[str, LossTerm]:
        given: dict[str, LossTerm] = {}
        for term in terms:
            name = term.spec.name
            if name in given:
                raise ValueError(f"two loss terms have the name {name!r}: give each a name of its own")
            if name not in self.specs:
                self.add_term(term.spec)
            given[name] = term
        return given

    def _stepped(
        self, sizes: Mapping[str, Sizes], terms: Mapping[str, LossTerm], context: StepContext
    ) -> Mapping[str, Any]:
        """Return the state that gives this batch's weights; commit it if the batch is the optimizer step's last."""
        if not context.training:
            return self._state
        if self.ratio:
            for name, size in sizes.items():
                if size.loss < 0:
                    raise _negative(name, size.mean, type(self).__name__)
        before = {} if context.micro_step == 0 else self._sizes
        self._sizes = {**before, **{name: before.get(name, Sizes()) + size for name, size in sizes.items()}}
        step = Step(sizes=self._sizes, terms=terms, context=context)
        state = {**self._state, **self.advanced(self._state, step)}
        if context.micro_step == context.n_micro - 1:
            self._state = state
        return state

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{self._label}/{name}": torch.tensor(attrs.astuple(state), dtype=torch.float64)
            for name, state in sorted(self._state.items())
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, also for terms yet to appear.

        Raise ValueError on another normalizer's state.
        """
        loaded = {}
        for key, value in state.items():
            label, _, name = key.partition("/")
            if self.record is None or label != self._label or value.shape != (len(attrs.fields(self.record)),):
                what = f"{key!r} of shape {list(value.shape)}"
                raise ValueError(f"{type(self).__name__} cannot load the state {what}, which another normalizer saved")
            loaded[name] = self.record(*value.tolist())
        self._state = loaded

    @property
    def _label(self) -> str:
        return "" if self.record is None else self.record.__name__.lower()


def _nothing(given: Mapping[str, LossTerm]) -> Tensor:
    """Return a zero that can be differentiated and has no gradient for any model."""
    like = next((term.per_sample for term in given.values()), torch.zeros(()))
    return torch.zeros((), dtype=like.dtype, device=like.device, requires_grad=True)


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(map(abs, parts.values()))
    return {name: abs(part) / total if total else 1.0 / len(parts) for name, part in parts.items()}


def _nonfinite(names: Sequence[str], given: Mapping[str, LossTerm]) -> RunError:
    found = []
    for name in names:
        if name in given:
            losses = weighted(given[name])[1]
            found.append(f"{name!r} is not finite for {int((~torch.isfinite(losses)).sum())} of {len(losses)} samples")
        else:
            found.append(f"{name!r} is not finite on another rank")
    return RunError(
        f"the loss of {'; that of '.join(found)}. Nothing was learned from this batch. Lower the learning rate, set "
        'clip_grad_norm, or give the normalizer nonfinite = "skip_step" or "skip_term"'
    )


def _negative(name: str, loss: float, normalizer: str) -> RunError:
    return RunError(
        f"the loss of {name!r} is negative ({loss:g}): {normalizer} divides by the size of a loss, which must not be "
        'negative. Use the normalizer "manual" with a declared scale, or a loss that is bounded below by 0'
    )
