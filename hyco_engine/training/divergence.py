"""Errors of a training step, with its place and the name of the part that diverged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.errors import RunError
from hyco_engine.interfaces import Batch, LossTerm, Player


@attrs.frozen(kw_only=True)
class LeftFinite:
    """Where rollouts of `steps` lead times stop being finite: first at `lead`; `text` says it in words."""

    lead: int
    steps: int
    text: str

    def advice(self, player: Player) -> str | None:
        """Return what helps if the model's own steps are finite and only many of them are not; else None."""
        if self.lead == 1:
            return None
        finite = self.lead - 1
        many = f"The first {finite} of {self.steps} lead times are" if finite > 1 else "The first lead time is"
        return (
            f"{many} finite: shorten data.num_predict_steps to {finite}, or let the horizon grow "
            f"(training.{player}.curriculum)"
        )


class Diverged(RunError):
    """Raised for a loss, gradient or rollout that is not finite: `what` happened, with `advice` to the user.

    `left` says where rollouts stopped being finite, if they did.
    """

    def __init__(self, what: str, *, advice: str = "", left: LeftFinite | None = None) -> None:
        super().__init__(f"{what}. {advice}" if advice else what)
        self.what = what
        self.advice = advice
        self.left = left


class Outgrown(Exception):
    """Raised where a search tries parameters, the `point [P]`, for which the internal steps are too long."""

    def __init__(self, point: Tensor) -> None:
        super().__init__("the internal steps are too long for parameters that were tried")
        self.point = point


def out_of_range(batch: Batch) -> str | None:
    """Return what helps if the data are too large or too small for squares in their precision; else None."""
    parts = [part for side in batch for part in (side.values() if isinstance(side, Mapping) else [side])]
    tensors = [part for part in parts if part.is_floating_point()]
    largest = max((float(part[part.isfinite()].abs().max()) for part in tensors if part.isfinite().any()), default=0.0)
    if not largest:
        return None
    dtype = max((part.dtype for part in tensors), key=lambda dtype: torch.finfo(dtype).bits)
    name, square = str(dtype).removeprefix("torch."), largest * largest
    if square <= torch.finfo(dtype).max and square >= torch.finfo(dtype).tiny:
        return None
    told = f"more than {name} can hold" if square > 1 else f"what {name} rounds to 0"
    remedy = "convert the unit of the data (data.scale)"
    if dtype == torch.float32:
        remedy = f'leave run.precision out, set it to "float64", or {remedy}'
    return f"The data reach {largest:.2g}, and their squares are {told}: {remedy}"


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
