"""Compiling a captured graph with torch's inductor, and whether that pays."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from hyco_engine.physics.graphs import count_operations
from hyco_engine.physics.rewriting import aten

# Seconds, forward and backward, on one core of 2024: what one operation of a graph costs, and each of its values; what
# compiling costs, and of that each operation. Only their proportions matter, and those not much.
_CALL_S, _VALUE_S = 1e-5, 3e-10
_COMPILER_S, _OPERATION_S = 10.0, 0.05
_SAVED = 0.6
"""The share of a graph's time that compiling saves, at least; measured are 0.6 in two dimensions and 0.8 in one."""


def compiled(graph: GraphModule, state: Tensor, parameters: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The graph as machine code, for inputs like these, of which some require gradients.

    One code serves with and without gradients. Without the frames and guards of `torch.compile`, which look at every
    call anew whether the code fits: the caller knows.
    """
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    # torch's own kernel samples images faster than what inductor makes of it, and more exactly
    table = {op: made for op, made in select_decomp_table().items() if op is not aten.grid_sampler_2d.default}
    inputs = [state, *parameters]
    with torch.enable_grad():
        run: Any = compile_fx(deepcopy(graph), inputs, decompositions=table)
        # the gradient is compiled when first asked for: so that it may be asked for several times, as some loss
        # normalizers do, or else it would write over what it needs
        torch.autograd.grad(run(*inputs).sum(), [x for x in inputs if x.requires_grad], retain_graph=True)
    return cast("Callable[..., Tensor]", run)


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler for inductor."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def worth_compiling(graph: GraphModule, state: Tensor, samples: int) -> tuple[bool, str]:
    """Whether `samples` steps of one sample, forward and backward in batches like `state`, save the time to compile.

    Depends on nothing but these and whether a compiler is at hand. Also returns the reason.
    """
    operations = count_operations(graph)
    calls = samples / state.shape[0]
    run_s = calls * operations * (_CALL_S + _VALUE_S * state.numel())
    compile_s = _COMPILER_S + _OPERATION_S * operations
    if _SAVED * run_s <= compile_s:
        return False, f"{samples:.3g} planned steps of a sample are too few to be worth compiling"
    if any(_is_complex(node) for node in graph.graph.nodes):
        return False, "inductor makes nothing of its complex numbers"
    if any(node.target is aten.grid_sampler_2d.default for node in graph.graph.nodes):
        return False, "most of its time goes into sampling images, which torch's own kernel does as fast"
    if state.device.type == "cpu" and not has_compiler():
        return False, "compiling would pay, but there is no C++ compiler: install g++ or clang++"
    return True, f"{samples:.3g} planned steps of a sample are worth it"


def _is_complex(node: Any) -> bool:
    meta = node.meta.get("tensor_meta")
    return bool(getattr(getattr(meta, "dtype", None), "is_complex", False))
