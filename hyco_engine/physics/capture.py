"""Run a step as a captured torch graph: written once in PhiFlow or torch, run without Python's and PhiFlow's overhead.

A step is `step(state [B, C_all, *S], *parameters) -> [B, C_dyn, *S]`. All that is learned is an argument: what a step
closes over would be baked into the graph as a constant, silently. So the step is examined first, and every graph is
checked against the step before it is used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.errors import PluginError, RunError
from hyco_engine.physics.graphs import clean, count_operations, writes

Step = Callable[..., Tensor]
Compile = Literal["auto", "eager", "graph", "inductor"]

MAX_GRAPHS = 8
_TOLERANCE = {
    ("graph", torch.float32): 1e-6,
    ("graph", torch.float64): 1e-12,
    # fused kernels contract multiply-adds, so the last digits differ
    ("inductor", torch.float32): 1e-5,
    ("inductor", torch.float64): 1e-11,
}


class CaptureError(Exception):
    """A step cannot be captured, or its graph is not equal to it; the message says why."""


class StepRunner:
    """Runs one step in the way asked for: one graph per input shape, the newest `MAX_GRAPHS` of them.

    `names` are those of the parameters, `learned` those among them that need gradients. `others()` gives parameter
    values that differ from the present ones, for the check of a new graph. `eager` is the step as it is run where no
    graph is (None: `step`). `tracing` is entered while a graph is captured.
    """

    def __init__(
        self,
        step: Step,
        *,
        title: str,
        names: Sequence[str],
        learned: Sequence[str],
        others: Callable[[], Sequence[Tensor]],
        compile: Compile = "auto",
        eager: Step | None = None,
        tracing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.title = title
        self._step = step
        self._eager = eager or step
        self._names = tuple(names)
        self._learned = tuple(learned)
        self._others = others
        self._asked = compile
        self._tracing = tracing
        self._graphs: OrderedDict[Any, tuple[GraphModule, Step]] = OrderedDict()
        self._examined = False
        self._kind = _planned_kind(compile)
        self._reason = "asked for" if compile != "auto" else "not run yet"

    @property
    def execution(self) -> tuple[str, str]:
        """(how the step runs; why)."""
        return self._kind, self._reason

    def __call__(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """One step. Raises PluginError where the step breaks its contract, RunError where an asked-for graph fails."""
        if any(_transformed(tensor) for tensor in (state, *parameters)):
            return self._under_transform(state, parameters)
        if not self._examined:
            with torch.inference_mode(False):
                examine(
                    self._step,
                    _plain(state),
                    [_plain(p) for p in parameters],
                    self._names,
                    self._learned,
                    title=self.title,
                )
            self._examined = True
        if self._kind == "eager":
            return self._eager(state, *parameters)
        size = state.shape[0]
        padded = _pad(state, bucket(size))
        run = self._graph(padded, parameters)
        if run is None:
            return self._eager(state, *parameters)
        return run[1](padded, *parameters)[:size]

    def _under_transform(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Within jvp, vmap or grad of torch.func nothing can be captured: a graph that is there, or eagerly."""
        size = state.shape[0]
        held = self._graphs.get(_key(state, bucket(size), parameters))
        if held is None:
            return self._step(state, *parameters)
        graph: Step = held[0]
        return graph(_pad(state, bucket(size)), *parameters)[:size]

    def _graph(self, state: Tensor, parameters: Sequence[Tensor]) -> tuple[GraphModule, Step] | None:
        key = _key(state, state.shape[0], parameters)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        try:
            with torch.inference_mode(False):
                made = self._capture(_plain(state), [_plain(parameter) for parameter in parameters])
        except CaptureError as error:
            if self._asked != "auto":
                raise RunError(
                    f'{self.title} cannot run as compile = "{self._asked}": {error}. Use compile = "auto" or "eager"',
                    key="physical.compile",
                ) from error
            self._kind, self._reason = "eager", f"it cannot be captured: {error}"
            return None
        self._graphs[key] = made
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return made

    def _capture(self, state: Tensor, parameters: Sequence[Tensor]) -> tuple[GraphModule, Step]:
        with self._tracing():
            graph = capture(self._step, state, parameters)
        others = [value.detach().to(state.dtype) for value in self._others()]
        verify(self._eager, graph, state, others, self._names, _TOLERANCE["graph", state.dtype])
        self._reason = f"captured as {count_operations(graph)} operations, equal to the step as written"
        if self._kind != "inductor":
            return graph, graph
        try:
            compiled = torch.compile(graph, backend="inductor", fullgraph=True, dynamic=False)
            verify(self._eager, compiled, state, others, self._names, _TOLERANCE["inductor", state.dtype])
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(f"inductor failed: {_first_line(error)}") from error
        self._reason += ", and compiled"
        return graph, compiled


def _planned_kind(compile: Compile) -> str:
    # the place where "auto" is to choose inductor for long runs, by planned work and the compiler at hand
    return "graph" if compile == "auto" else compile


def bucket(size: int) -> int:
    """The batch size that a graph is captured for: `size` rounded up to three significant bits.

    It depends on nothing but `size`, so that a resumed run takes the very same graphs.
    """
    unit = 1 << max(0, size.bit_length() - 3)
    return -(-size // unit) * unit


def capture(step: Step, state: Tensor, parameters: Sequence[Tensor]) -> GraphModule:
    """The step as a cleaned graph for inputs like these. Raises CaptureError."""
    try:
        with torch.no_grad():
            graph = make_fx(step)(state, *parameters)
            if writes(graph):
                graph = make_fx(torch.func.functionalize(step), {torch.ops.aten.copy.default: _copy})(
                    state, *parameters
                )
            return clean(graph)
    except Exception as error:
        raise CaptureError(_first_line(error)) from error


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
    step: Step, graph: Step, state: Tensor, parameters: Sequence[Tensor], names: Sequence[str], tolerance: float
) -> None:
    """Compare values and gradients of graph and step on another input. Raises CaptureError beyond the tolerance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(state.shape, generator=generator, dtype=state.dtype).to(state.device)
    state = state.nan_to_num(0.0, 0.0, 0.0)
    state = state + 0.03 * state.abs().mean() * noise
    weight: Tensor | None = None
    results = []
    for function in (step, graph):
        inputs = [tensor.detach().clone().requires_grad_() for tensor in (state, *parameters)]
        with torch.enable_grad():
            output = function(*inputs)
            if weight is None:
                weight = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
            grads = torch.autograd.grad((output * weight).sum(), inputs, allow_unused=True)
        results.append([output.detach(), *grads])
    for what, one, two in zip(("the result", "the gradient by the state", *names), *results, strict=True):
        label = f"the gradient by {what}" if what in names else what
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


def _copy(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    # what functionalize makes of `copy_`, and has no gradient
    return source.to(into.dtype).expand(into.shape).clone()


def _key(state: Tensor, size: int, parameters: Sequence[Tensor]) -> Any:
    shapes = tuple(tuple(parameter.shape) for parameter in parameters)
    return size, tuple(state.shape[1:]), state.dtype, state.device, shapes


def _pad(state: Tensor, size: int) -> Tensor:
    missing = size - state.shape[0]
    return torch.cat([state, state[-1:].expand(missing, *state.shape[1:])]) if missing else state


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


def _plain(tensor: Tensor) -> Tensor:
    """A copy that can take part in a gradient even where the tensor was made in inference mode."""
    return tensor.detach().clone()


def _transformed(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
