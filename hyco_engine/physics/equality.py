"""Checks that a step keeps its contract and that a captured graph is equal to it, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyco_engine.errors import PluginError

Step = Callable[..., Tensor]


class CaptureError(Exception):
    """A step cannot be captured, or its graph is not equal to it; the message says why."""


def examine(
    step: Step, state: Tensor, parameters: Sequence[Tensor], names: Sequence[str], learned: Sequence[str], *, title: str
) -> None:
    """Raise PluginError where a learned parameter does not reach the result, or where something undeclared does."""
    if not learned:
        return
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (state, *parameters)]
        leaves = _leaves(step(*inputs))
    for name, tensor in zip(names, inputs[1:], strict=True):
        if name in learned and not any(leaf is tensor for leaf in leaves):
            raise PluginError(
                f"{title} does not use its parameter {name!r}, which is to be learned: take it from the `parameters` "
                f"that `step` is given, not from elsewhere, or set physical.parameters.{name}.learn = false"
            )
    for leaf in leaves:
        if not any(leaf is tensor for tensor in inputs):
            raise PluginError(
                f"{title} uses a tensor of shape {tuple(leaf.shape)} that requires gradients and that nobody declared: "
                "declare it as a parameter and take it from the `parameters` that `step` is given"
            )


def verify(
    step: Step,
    graph: Step,
    state: Tensor,
    parameters: Sequence[Tensor],
    names: Sequence[str | None],
    tolerance: float,
) -> None:
    """Compare values and gradients of graph and step on another input. Raises CaptureError beyond the tolerance.

    `names` of the parameters; None: a known one, without gradient.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(state.shape, generator=generator, dtype=state.dtype).to(state.device)
    state = state.nan_to_num(0.0, 0.0, 0.0)
    state = state + 0.03 * state.abs().mean() * noise
    learned = [True, *(name is not None for name in names)]
    labels = ["the result", "the gradient by the state", *(f"the gradient by {name}" for name in names if name)]
    results = []
    for function in (step, graph):
        inputs = [
            x.detach().clone().requires_grad_(wanted) for x, wanted in zip((state, *parameters), learned, strict=True)
        ]
        with torch.enable_grad():
            # cloned, since a compiler takes tensors that are results for another case than those that are not
            output = function(*(x.clone() if x.requires_grad else x for x in inputs))
            weight = torch.randn(output.shape, generator=generator.manual_seed(1), dtype=output.dtype)
            loss = (output * weight.to(output.device)).sum()
            grads = torch.autograd.grad(loss, [x for x in inputs if x.requires_grad], allow_unused=True)
        results.append([output.detach(), *grads])
    for label, one, two in zip(labels, *results, strict=True):
        if (one is None) != (two is None):
            raise CaptureError(f"{label} is lost in the captured step")
        if one is not None and two is not None:
            size = float(one.abs().max())
            # a step that overflows may do so in both
            error = float((one - two).masked_fill(one.isnan() & two.isnan(), 0.0).abs().max())
            if not error <= tolerance * max(size, torch.finfo(one.dtype).tiny):
                raise CaptureError(
                    f"{label} differs from that of the step as written by {error:g} at a size of {size:g}"
                )


def _leaves(output: Tensor) -> list[Tensor]:
    """The tensors that a result's gradient reaches."""
    found, seen, stack = [], set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack += [parent for parent, _ in node.next_functions]
    return found
