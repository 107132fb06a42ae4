"""Checks that a step keeps its contract and that a captured graph equals it, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from hyco_engine.errors import PluginError

Step = Callable[..., Tensor]


class CaptureError(Exception):
    """The step cannot be captured, or its graph does not equal it; the message says why."""


def examine(
    step: Step, state: Tensor, parameters: Sequence[Tensor], names: Sequence[str], learned: Sequence[str], *, title: str
) -> None:
    """Raise PluginError if the result does not depend on a learned parameter, or depends on an undeclared tensor."""
    if not learned:
        return
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (state, *parameters)]
        leaves = _leaves(step(*inputs))
    for name, tensor in zip(names, inputs[1:], strict=True):
        if name in learned and not any(leaf is tensor for leaf in leaves):
            raise PluginError(
                f"{title} does not use its parameter {name!r}, which is to be learned: take it from the `parameters` "
                f"that `step` gets, not from elsewhere, or set physical.parameters.{name}.learn = false"
            )
    for leaf in leaves:
        if not any(leaf is tensor for tensor in inputs):
            raise PluginError(
                f"{title} uses a tensor of shape {tuple(leaf.shape)} that requires gradients and is not declared: "
                "declare it as a parameter and take it from the `parameters` that `step` gets"
            )


class Reference:
    """The values and gradients of a step at an input and parameter values other than those of the capture.

    `names` are the names of the parameters; a parameter whose name is None is known and has no gradient.
    """

    def __init__(self, step: Step, state: Tensor, parameters: Sequence[Tensor], names: Sequence[str | None]) -> None:
        noise = torch.randn(state.shape, generator=_seeded(0), dtype=state.dtype).to(state.device)
        state = state.nan_to_num(0.0, 0.0, 0.0)
        self._inputs = (state + 0.03 * state.abs().mean() * noise, *parameters)
        self._wanted = [True, *(name is not None for name in names)]
        self._labels = ["the gradient by the state", *(f"the gradient by {name}" for name in names if name)]
        self._step = step
        self._sizes: list[float] | None = None
        self._output, self._gradients = self._run(step, seed=1)

    def check(self, run: Step, tolerance: float) -> None:
        """Raise CaptureError if `run` differs from the step by more than `tolerance` of the largest value.

        The gradient with respect to a parameter is a sum over all entries of the result that the parameter affects, and
        a graph may add them in another order. Rounding moves a sum of n terms of size t by about eps n t, whatever
        cancels; with the random weights of the loss, the sum itself has the size sqrt(n) t. It is therefore known only
        to eps sqrt(n).
        """
        output, gradients = self._run(run, seed=1)
        _compare("the result", self._output, output, tolerance)
        with torch.no_grad():
            _compare("the result without gradients", self._output, run(*(x.detach() for x in self._inputs)), tolerance)
        for index, (label, one, two) in enumerate(zip(self._labels, self._gradients, gradients, strict=True)):
            _compare(label, one, two, tolerance, partial(self._rounding, index, tolerance) if index else _none)

    def _rounding(self, index: int, tolerance: float) -> float:
        """Return the tolerated error of the gradient with respect to a parameter, whose sum may be in another order."""
        if self._sizes is None:
            # one sum may be small by chance, so the size is the largest of several random sums of the step itself
            draws = [self._gradients, *(self._run(self._step, seed)[1] for seed in (2, 3, 4))]
            self._sizes = [max(_size(gradient) for gradient in of_one) for of_one in zip(*draws, strict=True)]
        own, size = self._gradients[index], self._sizes[index]
        if own is None or not math.isfinite(size):
            return 0.0
        terms = self._output.numel() / max(1, own.numel())
        return (tolerance + torch.finfo(self._output.dtype).eps * math.sqrt(terms)) * size

    def _run(self, function: Step, seed: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        inputs = [
            x.detach().clone().requires_grad_(wanted) for x, wanted in zip(self._inputs, self._wanted, strict=True)
        ]
        with torch.enable_grad():
            output = function(*inputs)
            weight = torch.randn(output.shape, generator=_seeded(seed), dtype=output.dtype).to(output.device)
            wanted = [x for x in inputs if x.requires_grad]
            return output.detach(), torch.autograd.grad((output * weight).sum(), wanted, allow_unused=True)


def _none() -> float:
    return 0.0


def _size(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())


def _compare(
    label: str, one: Tensor | None, two: Tensor | None, tolerance: float, slack: Callable[[], float] = _none
) -> None:
    """Compare two tensors within `tolerance` or `slack()`, which is called only if it matters."""
    if (one is None) != (two is None):
        raise CaptureError(f"{label} is missing in the captured step")
    if one is not None and two is not None:
        size = float(one.abs().max())
        # if the step overflows, both may do so
        error = float((one - two).masked_fill(one.isnan() & two.isnan(), 0.0).abs().max())
        if not error <= tolerance * max(size, torch.finfo(one.dtype).tiny) and not error <= slack():
            raise CaptureError(f"{label} differs from that of the step as written by {error:g} at a size of {size:g}")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _leaves(output: Tensor) -> list[Tensor]:
    """Return the tensors that the gradient of a result reaches."""
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
