"""Clean a captured graph: fold constants, merge equal operations, drop what does nothing. Values stay bitwise equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

_SAME_IF_SAME_SHAPE = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.reshape.default,
)


def clean(graph: GraphModule) -> GraphModule:
    """Clean in place. A graph that writes into tensors is left as it is: order and identity matter there."""
    if any(_writes(node) for node in graph.graph.nodes):
        return graph
    shapes = _shapes(graph)
    _drop_identities(graph, shapes)
    _fold_constants(graph)
    _merge_equal(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


def count_operations(graph: GraphModule) -> int:
    """Operations the graph runs."""
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _random(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _shapes(graph: GraphModule) -> dict[Node, tuple[int, ...]]:
    """Shape of each tensor-valued node, as recorded while tracing."""
    found = {}
    for node in graph.graph.nodes:
        meta = node.meta.get("tensor_meta") or node.meta.get("val")
        if hasattr(meta, "shape"):
            found[node] = tuple(meta.shape)
    return found


def _drop_identities(graph: GraphModule, shapes: dict[Node, tuple[int, ...]]) -> None:
    for node in list(graph.graph.nodes):
        if node.target in _SAME_IF_SAME_SHAPE and isinstance(node.args[0], Node):
            source = node.args[0]
            if node in shapes and shapes.get(source) == shapes[node]:
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)


def _fold_constants(graph: GraphModule) -> None:
    """Compute once what depends on no input."""
    known: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and not _random(node):
            if all(source in known for source in node.all_input_nodes):
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
    for index, (node, value) in enumerate(known.items()):
        outside = any(user not in known for user in node.users)
        if node.op == "call_function" and isinstance(value, Tensor) and outside:
            name = f"_folded_{index}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta.update(node.meta)
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
    graph.graph.eliminate_dead_code()


def _merge_equal(graph: GraphModule) -> None:
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Any = _constant_key(getattr(graph, str(node.target)))
        elif node.op == "call_function" and not _random(node):
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
