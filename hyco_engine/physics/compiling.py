"""The compilation of a captured graph with torch's inductor, and the decision whether it is worth its time."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from hyco_engine.physics.contiguous import rows_with_halos
from hyco_engine.physics.graphs import count_operations, rewrite, writes
from hyco_engine.physics.rewriting import aten

# Seconds on one core of 2024, forward and backward: for each operation of a graph and for each of its values; then for
# a compilation and for each operation in it. Only the proportions matter, and only roughly.
_CALL_S, VALUE_S = 1e-5, 3e-10
_COMPILER_S, _OPERATION_S = 10.0, 0.05
_SIDE_BY_SIDE = 16
"""The batch size from which it pays that samples lie side by side; measured: 8 are even, 32 take 0.65 of the time."""
_LOOKUPS = (aten.gather.default, aten.index.Tensor)
"""Operations whose places depend on values; their gradients are slower where samples lie side by side."""
_SAVED = 0.6
"""The least share of a graph's time that compilation saves; measured: 0.6 in two dimensions, 0.8 in one."""


def compiled(graph: GraphModule, state: Tensor, parameters: Sequence[Tensor]) -> Callable[..., Tensor]:
    """Compile the graph to machine code for inputs like these, of which some require gradients.

    The code has none of the frames and guards of `torch.compile`, which check at every call whether the code fits,
    because the caller knows that it does. On a CPU another code serves without gradients: it stores nothing for them,
    and reads rows with halos in place of shifts. In one space dimension, where a step takes less time than its call,
    the samples of a large batch lie side by side in memory instead: the innermost loop runs over them, and no neighbour
    lies beyond the end of its axis.
    """
    if state.device.type != "cpu":
        return _with_gradients(graph, state, parameters)
    sampled = any(node.target in _LOOKUPS for node in graph.graph.nodes)
    if state.ndim == 3 and state.shape[0] >= _SIDE_BY_SIDE and not sampled:
        arranged, bare = _side_by_side, graph
    else:
        arranged, bare = _as_given, graph if writes(graph) else rewrite(graph, rows_with_halos)
    first = arranged(state.detach()).requires_grad_(state.requires_grad)
    differentiable, plain = _with_gradients(graph, first, parameters), _without_gradients(bare, first, parameters)

    def run(state: Tensor, *parameters: Tensor) -> Tensor:
        code = differentiable if torch.is_grad_enabled() else plain
        return code(arranged(state), *parameters)

    return run


def _with_gradients(graph: GraphModule, state: Tensor, parameters: Sequence[Tensor]) -> Callable[..., Tensor]:
    inputs = [state, *parameters]
    with torch.enable_grad():
        run = _code(graph, inputs)
        # The gradient is compiled when it is first asked for. Some loss normalizers ask for it several times, so it is
        # compiled with retain_graph: otherwise the code would overwrite its inputs.
        torch.autograd.grad(run(*inputs).sum(), [x for x in inputs if x.requires_grad], retain_graph=True)
    return run


def _without_gradients(graph: GraphModule, state: Tensor, parameters: Sequence[Tensor]) -> Callable[..., Tensor]:
    with torch.no_grad():
        return _code(graph, [x.detach() for x in (state, *parameters)])


def _code(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    table = None
    if _samples_images(graph):
        # torch's own kernel samples images faster and more exactly than the code of inductor
        table = {op: made for op, made in select_decomp_table().items() if op is not aten.grid_sampler_2d.default}
    # torch finds compiled code again, in later processes too, if it is told that no shape is a symbol
    shapes = FakeTensorMode(shape_env=ShapeEnv())
    examples = [shapes.from_tensor(x, static_shapes=True) for x in inputs]
    with tracing(TracingContext(shapes)):
        run: Any = compile_fx(deepcopy(graph), examples, decompositions=table)
    return cast("Callable[..., Tensor]", run)


def _as_given(state: Tensor) -> Tensor:
    return state


def _side_by_side(state: Tensor) -> Tensor:
    """Return the batch with its first dimension innermost in memory; a batch that lies so already is not copied."""
    return state.movedim(0, -1).contiguous().movedim(-1, 0)


@functools.cache
def has_compiler() -> bool:
    """Return whether there is a C++ compiler for inductor."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def worth_compiling(graph: GraphModule, state: Tensor, samples: int) -> tuple[bool, str]:
    """Return whether `samples` steps of one sample, forward and backward, repay a compilation, and the reason.

    `state` is a batch of the size that will run. The answer depends only on the arguments and on the presence of a
    compiler.
    """
    operations = count_operations(graph)
    calls = samples / state.shape[0]
    run_s = calls * operations * (_CALL_S + VALUE_S * state.numel())
    compile_s = _COMPILER_S + _OPERATION_S * operations
    if _SAVED * run_s <= compile_s:
        return False, f"{samples:.3g} planned steps of a sample are too few to be worth compiling"
    if any(_is_complex(node) for node in graph.graph.nodes):
        return False, "inductor cannot compile its complex numbers"
    if _samples_images(graph):
        return False, "it spends most of its time on sampling images, where torch's own kernel is as fast"
    if state.device.type == "cpu" and not has_compiler():
        return False, "compiling would pay, but there is no C++ compiler: install g++ or clang++"
    return True, f"{samples:.3g} planned steps of a sample are worth it"


def _samples_images(graph: GraphModule) -> bool:
    return any(node.target is aten.grid_sampler_2d.default for node in graph.graph.nodes)


def _is_complex(node: Any) -> bool:
    meta = node.meta.get("tensor_meta")
    return bool(getattr(getattr(meta, "dtype", None), "is_complex", False))
