"""A rewrite of captured graphs that stacks vector components along the second dimension instead of the last.

PhiFlow stacks the components of a vector last, so that neighbours in memory are components and not cells, which is slow
for torch's kernels and for compiled vector code. Pointwise operations do not depend on the order, so the permutation
moves behind them; where it meets its inverse, both vanish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hyco_engine.physics.rewriting import arguments, aten, dim_of_joint, emit, is_pointwise, positive, shape_of, sizes


@attrs.frozen
class Permuted:
    """The node `permute(core, order)`."""

    core: Node
    order: tuple[int, ...]


def components_first(graph: GraphModule) -> None:
    """Move permutations behind all operations that allow it, and stack components second instead of last."""
    known: dict[Node, Permuted] = {}
    for node in list(graph.graph.nodes):
        found = None
        if node.op == "call_function" and shape_of(node) is not None:
            found = _follow(graph, node, known)
        if found is None:
            _restore_order(graph, node, known)
        elif found.order == tuple(range(len(found.order))):
            node.replace_all_uses_with(found.core)
        else:
            known[node] = found
    graph.graph.eliminate_dead_code()


def _restore_order(graph: GraphModule, node: Node, known: Mapping[Node, Permuted]) -> None:
    """Restore the permutations of the arguments of a node that needs them as they were."""
    for source in node.all_input_nodes:
        if source in known:
            node.replace_input_with(
                source, emit(graph, node, aten.permute.default, known[source].core, known[source].order)
            )
            if node.target == aten.view.default:
                # its memory may be laid out differently now
                node.target = aten.reshape.default


def _follow(graph: GraphModule, node: Node, known: Mapping[Node, Permuted]) -> Permuted | None:
    """Return `node` as a permutation of another node if it is computed from permuted nodes, else None."""
    rank = len(sizes(node))
    if node.target == aten.permute.default:
        source = arguments(node)[0]
        own = [positive(d, rank) for d in arguments(node)[1]]
        under = known.get(source, Permuted(source, tuple(range(rank))))
        return Permuted(under.core, tuple(under.order[d] for d in own))
    if node.target == aten.stack.default:
        return _follow_stack(graph, node, known)
    if not any(source in known for source in node.all_input_nodes):
        return None
    if is_pointwise(node):
        return _follow_pointwise(graph, node, known)
    if node.target == aten.cat.default:
        order = _common(known, arguments(node)[0])
        if order is None:
            return None
        dim = dim_of_joint(node)
        return Permuted(emit(graph, node, node.target, _cores(known, arguments(node)[0]), order[dim]), order)
    source = known.get(arguments(node)[0])
    if source is None or len(node.all_input_nodes) != 1 or node.kwargs:
        return None
    return _follow_one(graph, node, source)


def _follow_one(graph: GraphModule, node: Node, source: Permuted) -> Permuted | None:
    """Follow an operation on one tensor that names dimensions."""
    core, order, rest = source.core, source.order, arguments(node)[1:]
    rank = len(order)
    if node.target == aten.slice.Tensor:
        dim = order[positive(rest[0] if rest else 0, rank)]
        return Permuted(emit(graph, node, node.target, core, dim, *rest[1:]), order)
    if node.target == aten.select.int:
        dim = order[positive(rest[0], rank)]
        return Permuted(emit(graph, node, node.target, core, dim, rest[1]), _without(order, [dim]))
    if node.target == aten.unsqueeze.default:
        place = positive(rest[0], rank + 1)
        return Permuted(emit(graph, node, node.target, core, rank), (*order[:place], rank, *order[place:]))
    if node.target == aten.flip.default:
        dims = [order[positive(d, rank)] for d in rest[0]]
        return Permuted(emit(graph, node, node.target, core, dims), order)
    if node.target == aten.roll.default and len(rest) == 2:
        dims = [order[positive(d, rank)] for d in rest[1]]
        return Permuted(emit(graph, node, node.target, core, rest[0], dims), order)
    if node.target == aten.sum.dim_IntList and rest[0]:
        dims = [order[positive(d, rank)] for d in rest[0]]
        keep = len(rest) > 1 and bool(rest[1])
        new = emit(graph, node, node.target, core, dims, keep)
        return Permuted(new, order if keep else _without(order, dims))
    return None


def _follow_stack(graph: GraphModule, node: Node, known: Mapping[Node, Permuted]) -> Permuted | None:
    rank = len(sizes(node))
    dim = dim_of_joint(node)
    order = _common(known, arguments(node)[0])
    if order is not None:
        core = emit(graph, node, node.target, _cores(known, arguments(node)[0]), min(1, rank - 1))
        moved = tuple(d + (d >= 1) for d in order)
        return Permuted(core, (*moved[:dim], min(1, rank - 1), *moved[dim:]))
    if dim != rank - 1 or rank < 3 or any(part in known for part in node.all_input_nodes):
        return None
    return Permuted(emit(graph, node, node.target, arguments(node)[0], 1), (0, *range(2, rank), 1))


def _follow_pointwise(graph: GraphModule, node: Node, known: Mapping[Node, Permuted]) -> Permuted | None:
    shape = sizes(node)
    rank = len(shape)
    inputs = node.all_input_nodes
    if any(shape_of(source) is None for source in inputs):
        return None
    # small inputs are broadcast and may be permuted; a large input that is not permuted had better stay as it is
    orders = {known[source].order if source in known else None for source in inputs if sizes(source) == shape}
    if len(orders) != 1 or None in orders:
        return None
    order = orders.pop()
    assert order is not None

    def turned(source: Node) -> Node:
        if source in known and known[source].order == order:
            return known[source].core
        own = sizes(source)
        if source in known:
            source = emit(graph, node, aten.permute.default, known[source].core, known[source].order)
        if not own or (set(own) == {1} and len(own) <= rank):
            return source
        if len(own) < rank:
            source = emit(graph, node, aten.reshape.default, source, [1] * (rank - len(own)) + list(own))
        return emit(graph, node, aten.permute.default, source, [order.index(d) for d in range(rank)])

    args, kwargs = map_arg((arguments(node), node.kwargs), turned)
    return Permuted(emit(graph, node, node.target, *args, **kwargs), order)


def _common(known: Mapping[Node, Permuted], parts: Any) -> tuple[int, ...] | None:
    """Return the order of all parts if they have the same one."""
    orders = {known[part].order if part in known else None for part in parts}
    return orders.pop() if len(orders) == 1 else None


def _cores(known: Mapping[Node, Permuted], parts: Any) -> list[Node]:
    return [known[part].core for part in parts]


def _without(order: Sequence[int], gone: Sequence[int]) -> tuple[int, ...]:
    """Return the order of the dimensions that remain after some dimensions of the core are removed."""
    return tuple(d - sum(other < d for other in gone) for d in order if d not in gone)
