"""Errors of a training step, with its place and the name of the part that diverged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyco_engine.errors import RunError
from hyco_engine.interfaces import LossTerm


class Diverged(RunError):
    """Raised for a loss, gradient or rollout that is not finite: `what` happened, with `advice` to the user."""

    def __init__(self, what: str, *, advice: str = "") -> None:
        super().__init__(f"{what}. {advice}" if advice else what)
        self.what = what
        self.advice = advice


class Outgrown(Exception):
    """Raised where a search tries parameters, the `point [P]`, for which the internal steps are too long."""

    def __init__(self, point: Tensor) -> None:
        super().__init__("the internal steps are too long for parameters that were tried")
        self.point = point


def broken_losses(terms: Sequence[LossTerm]) -> str | None:
    """Return the terms that are not finite, with their numbers of samples; None if all are finite."""
    broken = []
    for term in terms:
        bad = ~torch.isfinite(term.per_sample.detach())
        if term.sample_weight is not None:
            bad = bad & (term.sample_weight > 0)
        if bad.any():
            broken.append(f"the loss of {term.spec.name!r} is not finite for {int(bad.sum())} of {len(bad)} samples")
    return "; ".join(broken) or None


def broken_gradient(model: nn.Module, trained: Sequence[Tensor]) -> str | None:
    """Name the first parameter with a gradient that is not finite; None if the gradients of `trained` are finite."""
    # one norm needs one answer from the device; it can also overflow
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    if norm.isfinite():
        return None
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name!r} is not finite"
    return None
