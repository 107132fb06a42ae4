"""A graph of a step for batches of any size, for exported programs; PhiFlow alone needs to know the size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hyco_engine.physics.equality import CaptureError

# Two batch sizes: whatever differs between their graphs follows from the size.
_FEW, _MORE = 5, 7


def for_any_batch(capture: Callable[[Tensor], GraphModule], state: Tensor) -> GraphModule:
    """Return the graph of `capture(batch)` in which every number that depends on the batch size is computed from it.

    `state [1, C, *S]` is a state from which batches are made. Raises CaptureError if the graphs of two batch sizes
    differ in more than such numbers.
    """
    few, more = (capture(state.expand(size, *state.shape[1:]).clone()) for size in (_FEW, _MORE))
    graph = few.graph
    nodes, others = list(graph.nodes), list(more.graph.nodes)
    if [_operation(node) for node in nodes] != [_operation(node) for node in others]:
        raise CaptureError("its graph differs between batch sizes")
    same = dict(zip(others, nodes, strict=True))
    first = next(node for node in nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        size = graph.call_function(torch.ops.aten.sym_size.int, (nodes[0], 0))

    def number(a: int, b: int, before: Node) -> Any:
        """Return a node that is `a` for the small batch and `b` for the large one, as a linear function of the size."""
        times, rest = divmod(b - a, _MORE - _FEW)
        if rest:
            raise CaptureError(f"{before.name} depends on the batch size in an unknown way")
        with graph.inserting_before(before):
            product = graph.call_function(operator.mul, (size, times))
            return graph.call_function(operator.add, (product, a - times * _FEW))

    def matched(a: Any, b: Any, node: Node) -> Any:
        if isinstance(a, Node):
            if same.get(b) is not a:
                raise CaptureError(f"{node.name} is computed from another value for another batch size")
            return a
        if isinstance(a, Sequence) and not isinstance(a, str):
            return [matched(x, y, node) for x, y in zip(a, b, strict=True)]
        if type(a) is int and a != b:
            return number(a, b, node)
        if a != b:
            raise CaptureError(f"{node.name} is computed with {a} or {b}, depending on the batch size")
        return a

    for node, other in zip(nodes, others, strict=True):
        if node.op == "call_function":
            node.args = tuple(matched(a, b, node) for a, b in zip(node.args, other.args, strict=True))
            node.kwargs = {name: matched(a, other.kwargs[name], node) for name, a in node.kwargs.items()}
    for node, other in zip(nodes, others, strict=True):
        if node.op == "get_attr":
            _constant(few, node, getattr(more, str(other.target)), number)
    graph.lint()
    few.recompile()
    return few


def _operation(node: Node) -> tuple[str, Any]:
    """Return what the node does, without the names of constants and results, which mean nothing."""
    return node.op, node.target if node.op == "call_function" else None


def _constant(graph: GraphModule, node: Node, other: Tensor, number: Callable[[int, int, Node], Any]) -> None:
    """Replace a constant that has a row per sample by one expanded row; the rows are equal or count the samples."""
    name = str(node.target)
    value: Tensor = getattr(graph, name)
    axes = [axis for axis, (a, b) in enumerate(zip(value.shape, other.shape, strict=True)) if a != b]
    row = value
    for axis in axes:
        row = row.narrow(axis, 0, 1)
    alike = all(torch.equal(row.expand(whole.shape), whole) for whole in (value, other))
    if alike and not axes:
        return
    counts = axes == [0] and value.dtype == torch.int64
    if not alike and not (counts and all(torch.equal(row + _count(rows), rows) for rows in (value, other))):
        raise CaptureError(f"the constant {name} differs from sample to sample of a batch, or with the batch size")
    following, aten = node.next, torch.ops.aten
    sizes = [
        number(a, b, following) if axis in axes else a
        for axis, (a, b) in enumerate(zip(value.shape, other.shape, strict=True))
    ]
    with graph.graph.inserting_before(following):
        whole = rows = graph.graph.call_function(aten.expand.default, (node, sizes))
        if not alike:
            # gathers have such constants, which say for each value to which sample it belongs
            counted = graph.graph.call_function(aten.arange.default, (sizes[0],), {"device": value.device})
            column = graph.graph.call_function(aten.view.default, (counted, [-1, *[1] * (value.dim() - 1)]))
            whole = graph.graph.call_function(aten.add.Tensor, (rows, column))
    node.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not rows)
    graph.register_buffer(f"{name}_row", row.clone())
    node.target = f"{name}_row"


def _count(rows: Tensor) -> Tensor:
    """Return 0, 1, ... along the first axis of `rows`."""
    return torch.arange(len(rows), device=rows.device).reshape(-1, *[1] * (rows.dim() - 1))
