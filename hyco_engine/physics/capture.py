"""Run a step as a captured torch graph: written once in PhiFlow or torch, run without Python's and PhiFlow's overhead.

A step is `step(state [B, C_all, *S], *parameters) -> [B, C_dyn, *S]`. All that is learned is an argument: what a step
closes over would be baked into the graph as a constant, silently. So the step is examined first, and every graph is
checked against the step before it is used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.errors import RunError
from hyco_engine.physics.compiling import compiled, worth_compiling
from hyco_engine.physics.equality import CaptureError, Reference, Step, examine
from hyco_engine.physics.graphs import REWRITES, clean, count_operations, rewrite, writes

Compile = Literal["auto", "eager", "graph", "inductor"]

MAX_GRAPHS = 16
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
_FUSED = 10
"""Fused kernels contract multiply-adds, so some more of the last digits differ."""


class StepRunner:
    """Runs one step in the way asked for: one graph per input shape, the `MAX_GRAPHS` used last.

    "auto" captures the first batch and decides by it, once: `planned` is how many steps of one sample the user is going
    to make, forward and backward. What it then compiles serves all batches: smaller ones are padded, larger ones split.
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
        planned: int = 0,
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
        self._planned = planned
        self._graphs: OrderedDict[Any, tuple[GraphModule, Step]] = OrderedDict()
        self._examined = False
        self._kind = "graph" if compile == "auto" else compile
        self._undecided = compile == "auto"
        self._why = ""
        self._reason = "not run yet" if compile == "auto" else "asked for"

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
        if self._kind == "inductor" and self._asked == "auto":
            most = max(key[0] for key in self._graphs)
            if state.shape[0] > most:
                return torch.cat([self(part, parameters) for part in state.split(most)])
        size = state.shape[0]
        padded = _pad(state, self._fitting(state, parameters))
        run = self._graph(padded, parameters)
        if run is None:
            return self._eager(state, *parameters)
        return run[1](padded, *parameters)[:size]

    def _fitting(self, state: Tensor, parameters: Sequence[Tensor]) -> int:
        """The size of batch to run: of what is compiled the smallest that is large enough, since more is dear."""
        size = state.shape[0]
        if self._kind == "inductor":
            there = [key[0] for key in self._graphs if key[0] >= size and key == _key(state, key[0], parameters)]
            if there:
                return int(min(there))
        return bucket(size)

    def _under_transform(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Within jvp, vmap or grad of torch.func nothing can be captured: a graph that is there, or eagerly."""
        graph = self.graph_for(state, parameters)
        if graph is None:
            return self._step(state, *parameters)
        size = self._fitting(state, parameters)
        return graph(_pad(state, size), *parameters)[: state.shape[0]]  # type: ignore[no-any-return]

    def graph_for(self, state: Tensor, parameters: Sequence[Tensor]) -> GraphModule | None:
        """The graph that such a batch is run with, if there is one; it takes batches of `bucket(len(state))`."""
        key = _key(state, self._fitting(state, parameters), parameters)
        if key not in self._graphs:
            return None
        self._graphs.move_to_end(key)
        return self._graphs[key][0]

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
        tolerance = _TOLERANCE[state.dtype]
        others = [value.detach().to(state.dtype) for value in self._others()]
        names = [name if name in self._learned else None for name in self._names]
        reference = Reference(self._eager, state, others, names)
        reference.check(graph, tolerance)
        graph = _rewritten(graph, reference, tolerance)
        self._reason = f"captured as {count_operations(graph)} operations, equal to the step as written"
        if self._undecided:
            worth, why = worth_compiling(graph, state, self._planned)
            self._kind, self._undecided = "inductor" if worth else "graph", False
            self._why = f"; {why}" if self._planned else ""
        if self._kind != "inductor":
            self._reason += self._why
            return graph, graph
        try:
            inputs = [x.requires_grad_(n is not None) for x, n in zip(parameters, names, strict=True)]
            run = compiled(graph, state.requires_grad_(), inputs)
            reference.check(run, _FUSED * tolerance, reordered=True)
        except Exception as error:
            why = str(error) if isinstance(error, CaptureError) else f"inductor failed: {_first_line(error)}"
            if self._asked == "inductor":
                raise CaptureError(why) from error
            self._kind = "graph"
            self._why = f"; not compiled: {why}"
            self._reason += self._why
            return graph, graph
        self._reason += f", and compiled{self._why}"
        return graph, run


def _rewritten(graph: GraphModule, reference: Reference, tolerance: float) -> GraphModule:
    """The graph after all rewrites that hold."""
    if writes(graph):
        return graph
    for change in REWRITES:
        with suppress(Exception):
            new = rewrite(graph, change)
            reference.check(new, tolerance, reordered=True)
            graph = new
    return graph


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


def _copy(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    # what functionalize makes of `copy_`, and has no gradient
    return source.to(into.dtype).expand(into.shape).clone()


def _key(state: Tensor, size: int, parameters: Sequence[Tensor]) -> Any:
    shapes = tuple(tuple(parameter.shape) for parameter in parameters)
    return size, tuple(state.shape[1:]), state.dtype, state.device, shapes


def _pad(state: Tensor, size: int) -> Tensor:
    missing = size - state.shape[0]
    return torch.cat([state, state[-1:].expand(missing, *state.shape[1:])]) if missing else state


def _plain(tensor: Tensor) -> Tensor:
    """A copy that can take part in a gradient even where the tensor was made in inference mode."""
    return tensor.detach().clone()


def _transformed(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
