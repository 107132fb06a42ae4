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

from hyco_engine.errors import RunError
from hyco_engine.physics.equality import CaptureError, Step, examine, verify
from hyco_engine.physics.graphs import clean, count_operations, writes

Compile = Literal["auto", "eager", "graph", "inductor"]

MAX_GRAPHS = 8
_TOLERANCE = {
    ("graph", torch.float32): 1e-6,
    ("graph", torch.float64): 1e-12,
    # fused kernels contract multiply-adds, so the last digits differ
    ("inductor", torch.float32): 1e-5,
    ("inductor", torch.float64): 1e-11,
}


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
        if self._kind == "inductor":
            padded, parameters = _alike(padded, parameters)
        return run[1](padded, *parameters)[:size]

    def _under_transform(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Within jvp, vmap or grad of torch.func nothing can be captured: a graph that is there, or eagerly."""
        size = state.shape[0]
        graph: Step | None = self.held(state, parameters)
        if graph is None:
            return self._step(state, *parameters)
        return graph(_pad(state, bucket(size)), *parameters)[:size]

    def held(self, state: Tensor, parameters: Sequence[Tensor]) -> GraphModule | None:
        """The graph that was captured for such inputs, if there is one; it takes batches of `bucket(len(state))`."""
        found = self._graphs.get(_key(state, bucket(state.shape[0]), parameters))
        return None if found is None else found[0]

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
        self._verify(graph, state, others, "graph")
        self._reason = f"captured as {count_operations(graph)} operations, equal to the step as written"
        if self._kind != "inductor":
            return graph, graph
        try:
            compiled = torch.compile(graph, backend="inductor", fullgraph=True, dynamic=False)
            self._verify(compiled, state, others, "inductor")
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(f"inductor failed: {_first_line(error)}") from error
        self._reason += ", and compiled"
        return graph, compiled

    def _verify(self, run: Step, state: Tensor, others: Sequence[Tensor], kind: str) -> None:
        names = [name if name in self._learned else None for name in self._names]
        verify(self._eager, run, state, others, names, _TOLERANCE[kind, state.dtype])


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


def _alike(state: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """The inputs so that all steps of a rollout look the same to the compiler, which else compiles for each case."""
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (state, *parameters)):
        return state, parameters
    state = state if state.requires_grad else state.detach().requires_grad_()
    alike = [x.clone() if x.requires_grad and x.is_leaf else x for x in (state, *parameters)]
    return alike[0], alike[1:]


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
