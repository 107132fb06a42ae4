"""The cleaning of captured graphs, and rewrites that make them fast.

`clean` folds constants, merges equal operations and drops operations without effect; values stay bitwise equal. The
rewrites compute the same with operations that suit torch and its compiler better; their callers check the result.

Two passes of torch would do part of this, but not bitwise or not as fast. `torch.fx.passes`' CSEPass takes equal
arguments for the same ones, and so merges x * 0.0 with x * -0.0, and x + 1 with x + 1.0. `torch.fx.experimental`'s
const_fold leaves a module that looks its constants up in a list of parameters in every call, and keeps them in the
order in memory that they were computed in.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from hyco_engine.physics.component_order import components_first
from hyco_engine.physics.contiguous import scalars_joined_as_rows
from hyco_engine.physics.periodic import shift_instead_of_padding
from hyco_engine.physics.rewriting import is_operation, is_random, shape_of

Rewrite = Callable[[GraphModule], None]
Run = Callable[..., Any]
Bind = Callable[..., Run]
"""Returns, for parameters, the function of states that a graph is for them."""

REWRITES: tuple[Rewrite, ...] = (components_first,)
"""The rewrites for every graph."""

REWRITES_TO_COMPILE: tuple[Rewrite, ...] = (shift_instead_of_padding, scalars_joined_as_rows)
"""The rewrites for graphs that are compiled. Gradients add up in another order, and interpreted graphs gain little."""

_RESHAPES = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.reshape.default,
)


def writes(graph: GraphModule) -> bool:
    """Return whether the graph writes into tensors; order and identity matter then."""
    return any(is_operation(node) and node.target._schema.is_mutable for node in graph.graph.nodes)


def clean(graph: GraphModule) -> GraphModule:
    """Return the cleaned graph, and spoil the given one. A graph that writes into tensors is returned unchanged."""
    if writes(graph):
        return graph
    _drop_identities(graph)
    _fold_constants(graph)
    _merge_equal(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    return GraphModule(graph, graph.graph)  # takes over the constants that are used, and no other


def rewrite(graph: GraphModule, change: Rewrite) -> GraphModule:
    """Return a cleaned copy with the change made."""
    graph = deepcopy(graph)
    change(graph)
    return clean(graph)


def split_by_inputs(graph: GraphModule, varying: int) -> tuple[GraphModule, GraphModule]:
    """Split a graph into what depends on none of its first `varying` inputs, and the rest.

    The first part takes the other inputs and returns a tuple; the rest takes all inputs, and then that tuple's values.
    A graph that writes into tensors is all rest.
    """
    nodes = list(graph.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    everything = writes(graph)
    late: set[Node] = set(inputs[:varying])
    early: set[Node] = set()
    for node in nodes:
        if node.op == "call_function":
            varies = everything or is_random(node) or not late.isdisjoint(node.all_input_nodes)
            (late if varies else early).add(node)
    handed = [node for node in nodes if node in early and not early.issuperset(node.users)]
    first, rest = Graph(), Graph()
    own = {node: first.node_copy(node) for node in inputs[varying:]}
    for node in nodes:
        if node.op == "get_attr" or node in early:
            own[node] = first.node_copy(node, own.__getitem__)
    first.output(tuple(own[node] for node in handed))
    later = {node: rest.node_copy(node) for node in inputs}
    later |= {node: rest.placeholder(f"known_{k}") for k, node in enumerate(handed)}
    for node in nodes:
        if node.op != "placeholder" and node not in early:
            later[node] = rest.node_copy(node, later.__getitem__)
    for part in (first, rest):
        part.eliminate_dead_code()
    return GraphModule(graph, first), GraphModule(graph, rest)


def binding(run: Run) -> Bind:
    """Return what binds parameters to `run`, a function of states and then parameters."""
    return lambda *parameters: lambda *states: run(*states, *parameters)


def split_binding(graph: GraphModule, varying: int) -> Bind:
    """Return what binds parameters to `graph`, whose first `varying` inputs are states.

    What depends on the parameters alone is computed when they are bound, once for all states.
    """
    before, rest = split_by_inputs(graph, varying)

    def bind(*parameters: Tensor) -> Run:
        known = before(*parameters)
        return lambda *states: rest(*states, *parameters, *known)

    return bind


def count_operations(graph: GraphModule) -> int:
    """Count the operations that the graph runs."""
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def _drop_identities(graph: GraphModule) -> None:
    """Drop views that do not change their argument."""
    for node in list(graph.graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            same = True
        elif node.target == torch.ops.aten.permute.default:
            same = list(node.args[1]) == list(range(len(node.args[1])))
        else:
            same = node.target in _RESHAPES and shape_of(node) is not None and shape_of(node) == shape_of(node.args[0])
        if same:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _fold_constants(graph: GraphModule) -> None:
    """Replace operations that depend on no input by constants."""
    known: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and not is_random(node) and all(n in known for n in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for index, (node, value) in enumerate(known.items()):
        outside = any(user not in known for user in node.users)
        if node.op == "call_function" and isinstance(value, Tensor) and outside:
            name = f"_folded_{index}"
            graph.register_buffer(name, _ordered(value))
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta.update(node.meta)
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
    graph.graph.eliminate_dead_code()


def _ordered(value: Tensor) -> Tensor:
    """Return a permuted constant in contiguous order, since results of operations on it would inherit its order."""
    expanded = any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))
    return value if expanded else value.contiguous()


def _merge_equal(graph: GraphModule) -> None:
    """Merge equal operations. Arguments are compared as text, in which -0.0 differs from 0.0, and 1.0 from 1."""
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Any = _constant_key(getattr(graph, str(node.target)))
        elif node.op == "call_function" and not is_random(node):
            key = (node.target, repr((node.args, sorted(node.kwargs.items()))))
        else:
            continue
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.graph.erase_node(node)
        else:
            seen[key] = node


def _constant_key(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.numel() > 64:
        return id(value)
    return (value.dtype, value.device, tuple(value.shape), value.stride(), repr(value.tolist()))
