"""Training that leaves the finite numbers: told with its place, and taken back where the spec asks for that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hyco_engine.errors import RunError
from hyco_engine.interfaces import LossTerm

MOST_ROLLBACKS = 5
"""How often one model's training may go back; the last time with a thirty-second of the learning rate."""


class Diverged(RunError):
    """A loss, a gradient or a rollout is not finite."""


def broken_losses(terms: Sequence[LossTerm]) -> str | None:
    """Which terms are not finite, and for how many samples; None: all are finite."""
    told = []
    for term in terms:
        bad = ~torch.isfinite(term.per_sample.detach())
        if term.sample_weight is not None:
            bad = bad & (term.sample_weight > 0)
        if bad.any():
            told.append(f"the loss of {term.spec.name!r} is not finite for {int(bad.sum())} of {len(bad)} samples")
    return "; ".join(told) or None


def broken_gradient(model: nn.Module) -> str | None:
    """The first parameter whose gradient is not finite; None: all are finite."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name!r} is not finite"
    return None
