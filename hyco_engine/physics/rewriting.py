"""The common parts of the rewrites of captured graphs: shapes, kinds of operations, new nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata

aten = torch.ops.aten

_LIKE = (aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten._to_copy.default)
"""Operations that use only the shape of their argument, or its values entry by entry."""


def is_operation(node: Node) -> bool:
    """Return whether the node calls an operation of torch."""
    return isinstance(node.target, torch._ops.OpOverload)


def is_random(node: Node) -> bool:
    """Return whether the node draws random numbers."""
    return is_operation(node) and torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]


def is_pointwise(node: Node) -> bool:
    """Return whether each entry of the result depends only on the entries at its own place, up to broadcasting."""
    if not is_operation(node) or is_random(node):
        return False
    return node.target in _LIKE or torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]


def shape_of(node: Any) -> tuple[int, ...] | None:
    """Return the shape of a node's tensor, or None if it is unknown or the node has no tensor."""
    meta: Any = node.meta.get("tensor_meta") if isinstance(node, Node) else None
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def sizes(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor. Raises ValueError if it is unknown."""
    shape = shape_of(node)
    if shape is None:
        raise ValueError(f"the shape of {node} is unknown")
    return shape


def arguments(node: Node) -> tuple[Any, ...]:
    """Return the positional arguments."""
    return node.args


def dim_of_joint(node: Node) -> int:
    """Return the dimension of the result along which a `cat` or `stack` joins."""
    return positive(node.args[1] if len(node.args) > 1 else 0, len(sizes(node)))  # type: ignore[arg-type]


def positive(dim: int, rank: int) -> int:
    """Return a dimension counted from the front."""
    return dim + rank if dim < 0 else dim


def emit(graph: GraphModule, before: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    """Insert a node before `before` and return it with its shape."""
    with graph.graph.inserting_before(before):
        node = graph.graph.call_function(target, args, kwargs)
    given, named = map_arg((args, kwargs), _stand_in)
    if isinstance(named.get("device"), torch.device):
        named["device"] = torch.device("meta")
    node.meta["tensor_meta"] = _extract_tensor_metadata(target(*given, **named))
    return node


def _stand_in(node: Node) -> torch.Tensor:
    return torch.empty(sizes(node), dtype=node.meta["tensor_meta"].dtype, device="meta")
