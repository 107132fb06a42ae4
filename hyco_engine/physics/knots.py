"""Functions of time that are linear between knots."""

from __future__ import annotations

import torch
from torch import Tensor


def at_times(t: Tensor, times: Tensor, values: Tensor) -> Tensor:
    """Return `[...]`, at the times `t`, of the function with `values [K]` at increasing `times [K]`.

    Before the first and after the last of them, it stays as it is there. The weights are products of differences, so
    that the function has derivatives by values and times however it is traced.
    """
    if len(times) == 1:
        return values[0].expand(t.shape)
    passed = ((t[..., None] - times[:-1]) / times.diff()).clamp(0.0, 1.0)
    weights = torch.cat([1 - passed[..., :1], passed[..., :-1] - passed[..., 1:], passed[..., -1:]], dim=-1)
    found: Tensor = (weights * values).sum(-1)
    return found
