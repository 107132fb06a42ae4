"""What a normalizer returned, checked before it is differentiated: plugins are told apart by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyco_engine.errors import PluginError
from hyco_engine.interfaces import LossTerm, NormalizedLoss


class WrongResult(PluginError, TypeError):
    """A normalizer returned what cannot be trained on."""


def checked(result: object, terms: Sequence[LossTerm], normalizer: str) -> NormalizedLoss:
    """`result` of a call with `terms`, if it keeps the contract. Raises WrongResult.

    `normalizer` is what messages call it, best with its distribution: "'mine' of plugin 'x' (hyco-engine-x 1.0)".
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
        told = ", ".join(f"{name!r}: {value}" for name, value in bad.items())
        raise WrongResult(
            f"the normalizer {normalizer} returned weights that are not finite ({told}): a weight must stay finite "
            "when a loss is 0 or very large"
        )
    return result


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{value!r} ({type(value).__name__})" if isinstance(value, float | int) else type(value).__name__
