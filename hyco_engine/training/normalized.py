"""The use of a normalizer in training one model. Errors name its mistakes before the loss is differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor

from hyco_engine.errors import HycoError, PluginError, RunError
from hyco_engine.hooks.checking import describe
from hyco_engine.interfaces import LossNormalizer, LossTerm, NormalizedLoss, StepContext, TermSpec
from hyco_engine.training.losses import WeightedSum


class WrongResult(PluginError, TypeError):
    """Raised if a normalizer returns a result on which no model can train."""


class Normalization:
    """Calls a normalizer, checks what it returns, and steps its own parameters with an optimizer of their own.

    `name` is its name in messages, best with its distribution: "'mine' of plugin 'x' (hyco-engine-x 1.0)". Whatever it
    raises becomes a PluginError, except the engine's own errors.
    """

    def __init__(self, normalizer: LossNormalizer | None, specs: Sequence[TermSpec], name: str | None = None) -> None:
        normalizer = normalizer or WeightedSum()
        self.normalizer = normalizer
        self.name = name or type(normalizer).__name__
        self._optimizer: torch.optim.Adam | None = None
        with self._attributed("setup"):
            normalizer.setup(specs)
        self._follow_new_parameters()

    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        """Return the total of one batch's terms."""
        with self._attributed("__call__"):
            result = self.normalizer(terms, context)
        # a new term may bring parameters
        self._follow_new_parameters()
        return checked(result, terms, self.name)

    def zero_grad(self) -> None:
        """Reset the gradients of the normalizer's parameters."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)

    def step(self, context: StepContext) -> None:
        """Step the normalizer's own optimizer, after the model's optimizer step."""
        if self._optimizer is not None:
            self._optimizer.step()
        with self._attributed("post_step"):
            self.normalizer.post_step(context)

    def frozen_weights(
        self, chunks: Iterable[list[LossTerm]], n_chunks: int, context: Callable[..., StepContext], *, commit: bool
    ) -> dict[str, float]:
        """Return d total / d L_k over all samples, which come in chunks; the weights stay the same from here on.

        With `commit`, this is one step of the normalizer, of which each chunk is a micro-batch; else its state does
        not change. `context(**more)` makes the context of a call.
        """
        seen: dict[str, list[LossTerm]] = {}
        for k, terms in enumerate(chunks):
            if commit and self(terms, context(micro_step=k, n_micro=n_chunks)).skipped and k == n_chunks - 1:
                raise RunError("the weights of the loss terms cannot be found: their losses are not finite")
            for term in terms:
                seen.setdefault(term.spec.name, []).append(attrs.evolve(term, per_sample=term.per_sample.detach()))
        with torch.no_grad():
            weights = self([_joined(parts) for parts in seen.values()], context(training=False)).weights
        return {name: float(weights[name]) for name in seen}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state, with that of the normalizer's optimizer, as tensors by name."""
        with self._attributed("state_dict"):
            state = {f"state/{name}": value for name, value in self.normalizer.state_dict().items()}
        if self._optimizer is not None:
            for name, parameter in self._named_parameters():
                entries = self._optimizer.state.get(parameter, {})
                state |= {f"optimizer/{name}/{entry}": value.clone() for entry, value in entries.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises PluginError if the normalizer does not take its state back."""
        own = {key.removeprefix("state/"): value for key, value in state.items() if key.startswith("state/")}
        with self._attributed("load_state_dict"):
            self.normalizer.load_state_dict({name: value.clone() for name, value in own.items()})
            found = self.normalizer.state_dict()
        wrong = [n for n in sorted({*own, *found}) if n not in own or n not in found or not _equal(own[n], found[n])]
        if wrong:
            raise WrongResult(
                f"the normalizer {self.name} does not give back the state that it was given: "
                f"{', '.join(map(repr, wrong))}. Training cannot be continued with it; its load_state_dict must take "
                "all that its state_dict gives"
            )
        self._follow_new_parameters()
        if self._optimizer is None:
            return
        for name, parameter in self._named_parameters():
            head = f"optimizer/{name}/"
            entries = {key.removeprefix(head): value.clone() for key, value in state.items() if key.startswith(head)}
            if entries:
                self._optimizer.state[parameter] = entries
            else:
                self._optimizer.state.pop(parameter, None)

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters by the name of their group, if any, since a later run may add terms in another order."""
        if self._optimizer is not None:
            for k, group in enumerate(self._optimizer.param_groups):
                yield from ((f"{group.get('name', k)}/{i}", p) for i, p in enumerate(group["params"]))

    def _follow_new_parameters(self) -> None:
        with self._attributed("param_groups"):
            groups = self.normalizer.param_groups()
        known = {id(parameter) for _, parameter in self._named_parameters()}
        for group in groups:
            fresh = [parameter for parameter in group["params"] if id(parameter) not in known]
            if not fresh:
                continue
            if self._optimizer is None:
                self._optimizer = torch.optim.Adam([{**group, "params": fresh}], lr=1e-2)
            else:
                self._optimizer.add_param_group({**group, "params": fresh})

    @contextmanager
    def _attributed(self, method: str) -> Iterator[None]:
        try:
            yield
        except (HycoError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise PluginError(f"the normalizer {self.name} failed in {method}: {describe(error)}") from error


def _joined(parts: Sequence[LossTerm]) -> LossTerm:
    """Return one term over all chunks."""
    weighted = any(part.sample_weight is not None for part in parts)
    ones = [torch.ones_like(p.per_sample) if p.sample_weight is None else p.sample_weight for p in parts]
    return LossTerm(
        spec=parts[0].spec,
        per_sample=torch.cat([part.per_sample for part in parts]),
        sample_weight=torch.cat(ones) if weighted else None,
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    # NaN in a state equals itself
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num().to(one))


def checked(result: object, terms: Sequence[LossTerm], normalizer: str) -> NormalizedLoss:
    """Return `result` of a call with `terms`. Raises WrongResult if it breaks the contract.

    `normalizer` is the normalizer's name in messages.
    """
    if not isinstance(result, NormalizedLoss):
        raise WrongResult(
            f"the normalizer {normalizer} returned {_described(result)}: expected a NormalizedLoss whose total is a "
            "0-d tensor with gradients"
        )
    total = result.total
    if not isinstance(total, Tensor) or total.ndim != 0:
        raise WrongResult(
            f"the normalizer {normalizer} returned the total {_described(total)}: expected a 0-d tensor, made of the "
            "terms without .item() or float()"
        )
    if result.skipped:
        return result
    if torch.is_grad_enabled() and not total.requires_grad and any(term.per_sample.requires_grad for term in terms):
        raise WrongResult(
            f"the normalizer {normalizer} returned a total without gradients: something between the terms and the "
            "total was detached, or went through .item(), float() or torch.no_grad()"
        )
    names = [term.spec.name for term in terms]
    if forgotten := [name for name in names if name not in result.weights]:
        raise WrongResult(
            f"the normalizer {normalizer} forgot the loss terms {', '.join(map(repr, forgotten))}: its weights name "
            f"{', '.join(map(repr, result.weights)) or 'none'}, and each term of the batch needs one"
        )
    values = {name: float(result.weights[name]) for name in names}
    if bad := {name: value for name, value in values.items() if not math.isfinite(value)}:
        listed = ", ".join(f"{name!r}: {value}" for name, value in bad.items())
        raise WrongResult(
            f"the normalizer {normalizer} returned weights that are not finite ({listed}): a weight must stay finite "
            "when a loss is 0 or very large"
        )
    return result


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{value!r} ({type(value).__name__})" if isinstance(value, float | int) else type(value).__name__
