"""Derivatives of a long output with respect to a few parameters: forward mode, with one tangent for each parameter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyco_engine.physics.forward_mode import load_rules

logger = logging.getLogger(__name__)

Function = Callable[[Tensor], Tensor]
TANGENT_ELEMENTS = 2**25
"""The number of tangent values that are computed at a time."""


class ForwardJacobian:
    """Computes f(x) and df/dx for `x [P]`, in the first way that works, which is then kept.

    The ways are "together", all tangents in one pass (vmap of jvp); "one by one", a jvp for each parameter; and
    "differences", central differences for functions that forward mode cannot differentiate (iterative solvers, some
    interpolations). `reason` says why no faster way worked.
    """

    def __init__(self) -> None:
        self.way = "together"
        self.reason = ""

    def __call__(self, function: Function, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return `(f [N], J [N, P])`; `size` is about the largest number of values in an intermediate tangent."""
        x = x.detach()
        ways = {"together": _together, "one by one": _one_by_one, "differences": _differences}
        with torch.no_grad():
            names = list(ways)
            for name in names[names.index(self.way) :]:
                try:
                    result = ways[name](function, x, size)
                except Exception as error:
                    if name == "differences":
                        raise
                    # a step may raise any error under torch.func; the last way raises a real fault again
                    self.reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
                    logger.info("forward derivatives %s failed (%s)", name, self.reason)
                    continue
                self.way = name
                return result
        raise AssertionError("unreachable")


def push_forward(
    function: Callable[..., Tensor], inputs: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """Return (f, its derivative along `tangents`); an input and its tangent are tensors or equal trees of them."""
    load_rules()
    pair: Any = torch.func.jvp(function, inputs, tangents)
    return pair[0], pair[1]


def push_each(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return (f, its derivatives `[K, ...]`) along K `tangents [K, ...]` of the inputs, whose calls cost as one."""

    def push(*along: Tensor) -> tuple[Tensor, Tensor]:
        return push_forward(function, inputs, along)

    load_rules()
    values, derivatives = torch.func.vmap(push)(*tangents)
    return values[0], derivatives


def push_forward_all(function: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the function that computes the derivatives of all outputs along every element of the input."""
    load_rules()
    derivatives: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.jacfwd(function)
    return derivatives


def _together(function: Function, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    count = max(1, TANGENT_ELEMENTS // max(1, size))
    parts, value = [], None
    for basis in torch.split(torch.eye(len(x), dtype=x.dtype, device=x.device), count):
        if len(basis) == 1:
            value, tangent = push_forward(function, (x,), (basis[0],))
            parts.append(tangent[None])
            continue

        def push(tangent: Tensor) -> tuple[Tensor, Tensor]:
            value, derivative = push_forward(function, (x,), (tangent,))
            return derivative, value

        tangents, values = torch.func.vmap(push)(basis)
        value = values[0]
        parts.append(tangents)
    assert value is not None
    return value, torch.cat(parts).T


def _one_by_one(function: Function, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    basis = torch.eye(len(x), dtype=x.dtype, device=x.device)
    pairs = [push_forward(function, (x,), (tangent,)) for tangent in basis]
    return pairs[0][0], torch.stack([tangent for _, tangent in pairs], dim=1)


def _differences(function: Function, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return central differences with the step eps^(1/3), which balances rounding and curvature."""
    step = torch.finfo(x.dtype).eps ** (1 / 3)
    columns = []
    for k in range(len(x)):
        h = step * max(1.0, abs(float(x[k])))
        shift = torch.zeros_like(x)
        shift[k] = h
        columns.append((function(x + shift) - function(x - shift)) / (2 * h))
    return function(x), torch.stack(columns, dim=1)
