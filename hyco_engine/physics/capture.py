"""The capture of a step as a torch graph, which runs without the overhead of Python and PhiFlow.

A step is `step(state [B, C_all, *S], *parameters) -> [B, C_dyn, *S]`. Everything that is learned is an argument,
because a tensor that the step closes over would silently become a constant of the graph. The step is therefore examined
first, and every graph is checked against the step before it is used.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.errors import RunError
from hyco_engine.interfaces import StepExecution
from hyco_engine.physics.any_batch import for_any_batch
from hyco_engine.physics.compiling import compiled, worth_compiling
from hyco_engine.physics.equality import CaptureError, Reference, Step, examine
from hyco_engine.physics.graphs import (
    REWRITES,
    REWRITES_TO_COMPILE,
    Bind,
    Rewrite,
    binding,
    clean,
    count_operations,
    rewrite,
    split_binding,
    writes,
)

logger = logging.getLogger(__name__)

Compile = Literal["auto", "eager", "graph", "inductor"]

MAX_GRAPHS = 16
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
_FUSED = 10
"""The factor by which fused kernels may differ more, because they contract multiply-adds."""


class StepRunner:
    """Runs one step as the spec asks, with one graph per input shape; the `MAX_GRAPHS` last used graphs are kept.

    "auto" captures the first batch and decides then, once, whether to compile: `planned` is how many steps of one
    sample the run will make, forward and backward. Compiled graphs serve all batches: smaller ones are padded, larger
    ones are split. `names` are the parameters, and those in `learned` need gradients. `others()` returns parameter
    values that differ from the present ones, for the check of a new graph. `eager` is the step as it runs without a
    graph (default: `step`). `tracing` is a context that is entered while a graph is captured. `variant()` returns what
    the step depends on beside its arguments: each variant has graphs of its own. Of a step with `rounding`, a graph may
    differ so many times as much.
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
        variant: Callable[[], int] = lambda: 1,
        rounding: float = 1.0,
    ) -> None:
        self.title = title
        self._step = step
        self._eager = eager or step
        self._names = tuple(names)
        self._learned = tuple(learned)
        self._others = others
        self._asked = compile
        self._tracing = tracing
        self._variant = variant
        self._rounding = rounding
        self._planned = planned
        self._graphs: OrderedDict[Any, tuple[GraphModule, Bind]] = OrderedDict()
        self._exported: GraphModule | None = None
        self._examined = False
        # the batch and the parameters of the first call: graphs are made for them and checked with them
        self._sample: tuple[Tensor, list[Tensor], list[Tensor]] | None = None
        self._kind: StepExecution = "graph" if compile == "auto" else compile
        self._undecided = compile == "auto"
        self._kept: StepExecution | None = None
        self._why = ""
        self._reason = "not run yet" if compile == "auto" else "asked for"

    @property
    def execution(self) -> tuple[StepExecution, str]:
        """The way in which the step runs, and the reason for it."""
        return self._kind, self._reason

    def keep(self, kind: StepExecution, reason: str) -> None:
        """Keep what "auto" chose when the run began, whatever it would choose now. Call it before the first step."""
        if self._asked == "auto":
            self._kept = self._kind = kind
            self._reason = reason

    def __call__(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Run one step. Raises PluginError if the step breaks its contract, RunError if a requested graph fails."""
        return self.bound(parameters)(state)

    def bound(self, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the step with these parameters, for a rollout.

        What depends on the parameters alone, such as the coefficients of an exponential integrator, is then computed
        once for all steps, and so is its gradient.
        """
        return partial(self._run, parameters=parameters, known={})

    def _run(self, state: Tensor, parameters: Sequence[Tensor], known: dict[Any, Callable[[Tensor], Tensor]]) -> Tensor:
        """Run one step; `known` keeps the graphs that are bound to the parameters."""
        if self._exported is not None and torch.compiler.is_exporting():
            result: Tensor = self._exported(state, *parameters)
            return result
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
        own = self._key(state, size, parameters)
        found, padded = self._graphs.get(own), state
        if found is not None:
            self._graphs.move_to_end(own)
        else:
            if self._kind == "inductor":
                there = self._compiled(state, parameters)
                if there and size > there[-1] and self._asked == "auto":
                    return torch.cat([self._run(part, parameters, known) for part in torch.split(state, there[-1])])
            padded = pad(state, self._fitting(state, parameters))
            found = self._graph(padded, parameters)
        if found is None:
            return self._eager(state, *parameters)
        _, bind = found
        # what is computed without gradients serves no step with them
        key = bind, torch.is_grad_enabled()
        if key not in known:
            known[key] = bind(*parameters)
        result = known[key](padded)
        return result if len(result) == size else result[:size]

    def prepare_export(self, state: Tensor, parameters: Sequence[Tensor]) -> None:
        """Make `torch.export` use a step for batches of any size. Raises CaptureError if there is no such graph."""

        def graph(batch: Tensor) -> GraphModule:
            with self._tracing():
                return capture(self._step, batch, [_plain(parameter) for parameter in parameters])

        self._exported = for_any_batch(graph, _plain(state[:1]))

    def _fitting(self, state: Tensor, parameters: Sequence[Tensor]) -> int:
        """Return the batch size to run: the smallest compiled size that is large enough, which costs the least."""
        size = state.shape[0]
        if self._kind != "inductor":
            return bucket(size)
        return next((there for there in self._compiled(state, parameters) if there >= size), bucket(size))

    def _compiled(self, state: Tensor, parameters: Sequence[Tensor]) -> list[int]:
        """Return the compiled batch sizes in ascending order."""
        return sorted(key[0] for key in self._graphs if key == self._key(state, key[0], parameters))

    def _under_transform(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Run a step within jvp, vmap or grad of torch.func, where capture fails: by an existing graph, or eagerly."""
        size = self._fitting(state, parameters)
        key = self._key(state, size, parameters)
        if key not in self._graphs:
            # a step must not look at values there, as it must not while a graph is captured
            with self._tracing():
                return self._step(state, *parameters)
        self._graphs.move_to_end(key)
        result: Tensor = self._graphs[key][0](pad(state, size), *parameters)
        return result[: state.shape[0]]

    def _key(self, state: Tensor, size: int, parameters: Sequence[Tensor]) -> Any:
        shapes = tuple(tuple(parameter.shape) for parameter in parameters)
        return size, tuple(state.shape[1:]), state.dtype, state.device, shapes, self._variant()

    def graph_for(self, state: Tensor, parameters: Sequence[Tensor]) -> tuple[GraphModule, int] | None:
        """Return the graph that runs such a batch, and the batch size that it takes; None if the step runs eagerly.

        Callers use it to differentiate the graph or to compile it in another way.
        """
        if not self._examined:
            self(state, parameters)
        if self._kind == "eager":
            return None
        size = self._fitting(state, parameters)
        found = self._graph(pad(state, size), parameters)
        return None if found is None else (found[0], size)

    def _graph(self, state: Tensor, parameters: Sequence[Tensor]) -> tuple[GraphModule, Bind] | None:
        key = self._key(state, state.shape[0], parameters)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        try:
            with torch.inference_mode(False):
                made = self._capture(*self._first(state, parameters))
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

    def _first(self, state: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return a batch like `state`, parameter values and other values, all taken from the first call.

        Whether a graph passes its check then depends on its size alone, and a resumed run uses the very same graphs.
        """
        if self._sample is None:
            others = [value.detach().to(state.dtype) for value in self._others()]
            self._sample = _plain(state), [_plain(parameter) for parameter in parameters], others
        first, values, others = self._sample
        if first.shape[1:] != state.shape[1:] or (first.dtype, first.device) != (state.dtype, state.device):
            return _plain(state), [_plain(parameter) for parameter in parameters], others
        rows = torch.arange(len(state), device=first.device) % len(first)
        return first[rows], [_plain(value) for value in values], others

    def _capture(
        self, state: Tensor, parameters: Sequence[Tensor], others: Sequence[Tensor]
    ) -> tuple[GraphModule, Bind]:
        with self._tracing():
            graph = capture(self._step, state, parameters)
        tolerance = self._rounding * _TOLERANCE[state.dtype]
        names = [name if name in self._learned else None for name in self._names]
        reference = Reference(self._eager, state, others, names)
        reference.check(graph, tolerance)
        graph = _rewritten(graph, REWRITES, partial(reference.check, tolerance=tolerance))
        self._reason = f"captured as {count_operations(graph)} operations, equal to the step as written"
        if self._undecided:
            worth, why = worth_compiling(graph, state, self._planned)
            chosen: StepExecution = "inductor" if worth else "graph"
            self._kind, self._undecided = self._kept or chosen, False
            self._why = f"; {why}" if self._planned else ""
            if self._kind != chosen:
                self._why = f"; as when the run began, though {why}"
        if self._kind != "inductor":
            self._reason += self._why
            return graph, split_binding(graph, 1)
        try:
            inputs = [x.requires_grad_(n is not None) for x, n in zip(parameters, names, strict=True)]
            check = partial(reference.check, tolerance=_FUSED * tolerance)
            fast = _rewritten(graph, REWRITES_TO_COMPILE, check)
            run = compiled(fast, state.requires_grad_(), inputs)
            check(run)
        except Exception as error:
            why = str(error) if isinstance(error, CaptureError) else f"inductor failed: {_first_line(error)}"
            if self._asked == "inductor":
                raise CaptureError(why) from error
            self._kind = "graph"
            self._why = f"; not compiled: {why}"
            self._reason += self._why
            return graph, split_binding(graph, 1)
        self._reason += f", and compiled{self._why}"
        return fast, binding(run)


def _rewritten(graph: GraphModule, changes: Sequence[Rewrite], check: Callable[[GraphModule], None]) -> GraphModule:
    """Return the graph after all rewrites that pass the check."""
    for change in () if writes(graph) else changes:
        try:
            new = rewrite(graph, change)
            check(new)
            graph = new
        except Exception as error:
            logger.debug("the rewrite %s does not hold for this graph: %s", change.__name__, error)
    return graph


def bucket(size: int) -> int:
    """Return the batch size that a graph is captured for: `size` rounded up to three significant bits.

    It depends on nothing but `size`, so that a resumed run uses the very same graphs.
    """
    unit = 1 << max(0, size.bit_length() - 3)
    return -(-size // unit) * unit


def trace(function: Callable[..., Any], *inputs: Any) -> GraphModule:
    """Return the simplified graph of what `function` does with inputs like these."""
    # torch describes each node by a fake tensor, and without a context makes a mode for each of them: half of the time
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        graph = make_fx(function)(*inputs)
        if writes(graph):
            graph = make_fx(torch.func.functionalize(function), {torch.ops.aten.copy.default: _copy})(*inputs)
    return clean(graph)


def capture(step: Step, state: Tensor, parameters: Sequence[Tensor]) -> GraphModule:
    """Capture the step as a simplified graph for inputs like these. Raises CaptureError."""
    try:
        with torch.no_grad():
            return trace(step, state, *parameters)
    except Exception as error:
        raise CaptureError(_advice(_first_line(error))) from error


def _advice(message: str) -> str:
    """Explain which part of a step no graph can hold, and what to write instead; `message` is torch's."""
    if "Sparse" in message or "sparse" in message:
        return (
            "the step solves equations with a sparse matrix, in a number of iterations that depends on values: step "
            f"explicitly, or solve directly, as hyco_engine.physics.poisson does on regular grids ({message})"
        )
    if "_local_scalar_dense" in message or "data-dependent" in message or "aten.nonzero" in message:
        return (
            "the step depends on values, by if, while, float() or .item(), or in an iterative solver: write where(...) "
            f"instead of if, and loops of fixed length ({message.split(' - ')[0].split('.  ')[0]})"
        )
    return message


def _copy(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    # stands in for the operation that functionalize makes of `copy_`, because that one has no gradient
    return source.to(into.dtype).expand(into.shape).clone()


def pad(state: Tensor, size: int) -> Tensor:
    """Return the batch `[B, ...]` with its last sample repeated, so that it has `size` samples."""
    missing = size - state.shape[0]
    return torch.cat([state, state[-1:].expand(missing, *state.shape[1:])]) if missing else state


def _plain(tensor: Tensor) -> Tensor:
    """Return a copy that can take part in a gradient even if the tensor was made in inference mode."""
    return tensor.detach().clone()


def _transformed(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
