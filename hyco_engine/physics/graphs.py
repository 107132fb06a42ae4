"""Clean a captured graph: fold constants, merge equal operations, drop what does nothing. Values stay bitwise equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

_RESHAPES = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.reshape.default,
)


def writes(graph: GraphModule) -> bool:
    """Whether the graph writes into tensors; order and identity matter then."""
    return any(_is_operation(node) and node.target._schema.is_mutable for node in graph.graph.nodes)


def clean(graph: GraphModule) -> GraphModule:
    """Clean in place. A graph that writes into tensors is left as it is."""
    if writes(graph):
        return graph
    _drop_identities(graph)
    _fold_constants(graph)
    _merge_equal(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return graph


def count_operations(graph: GraphModule) -> int:
    """Operations the graph runs."""
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def _is_operation(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)


def _random(node: Node) -> bool:
    return _is_operation(node) and torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]


def _shape(node: Any) -> tuple[int, ...] | None:
    meta: Any = node.meta.get("tensor_meta") if isinstance(node, Node) else None
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _drop_identities(graph: GraphModule) -> None:
    """Views that show what they are views of."""
    for node in list(graph.graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            same = True
        elif node.target == torch.ops.aten.permute.default:
            same = list(node.args[1]) == list(range(len(node.args[1])))
        else:
            same = node.target in _RESHAPES and _shape(node) is not None and _shape(node) == _shape(node.args[0])
        if same:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _fold_constants(graph: GraphModule) -> None:
    """Compute once what depends on no input."""
    known: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and not _random(node) and all(n in known for n in node.all_input_nodes):
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
