"""What goes wrong in a training step, told with its place and the name of what it went wrong in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyco_engine.errors import RunError
from hyco_engine.interfaces import LossTerm


class Diverged(RunError):
    """A loss, a gradient or a rollout is not finite: `what` happened, and by `advice` what the user can do."""

    def __init__(self, what: str, *, advice: str = "") -> None:
        super().__init__(f"{what}. {advice}" if advice else what)
        self.what = what


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


def broken_gradient(model: nn.Module, trained: Sequence[Tensor]) -> str | None:
    """The first parameter whose gradient is not finite, if one of those that are `trained` has such a gradient."""
    # one answer from the device for all of them; a norm can also overflow
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    if norm.isfinite():
        return None
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name!r} is not finite"
    return None
