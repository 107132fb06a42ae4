"""A rewrite of captured graphs that replaces periodic padding by `torch.roll`, because compilers fuse shifts.

PhiFlow pads a periodic field and takes a slice for each neighbour: `cat([x[-b:], x, x[:a]])[s : s + n]`. That slice
equals `roll(x, b - s)`. Pointwise operations commute with padding, so slices of what was computed from padded tensors
are shifts of what is computed from the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hyco_engine.physics.rewriting import arguments, aten, dim_of_joint, emit, is_pointwise, positive, shape_of, sizes


@attrs.frozen
class Padded:
    """A node that continues `core` periodically; `pads` gives for each dimension the entries before and behind it."""

    core: Node
    pads: Mapping[int, tuple[int, int]]


def shift_instead_of_padding(graph: GraphModule) -> None:
    """Replace all slices that are shifts. A padded tensor remains if another node needs it."""
    known: dict[Node, Padded] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or shape_of(node) is None:
            continue
        found = _follow(graph, node, known)
        if found is None:
            continue
        if found.pads:
            known[node] = found
        else:
            node.replace_all_uses_with(found.core)
    graph.graph.eliminate_dead_code()


def _follow(graph: GraphModule, node: Node, known: Mapping[Node, Padded]) -> Padded | None:
    """Return `node` as a padded node if it is computed from padded nodes, else None."""
    inputs = node.all_input_nodes
    if node.target == aten.cat.default:
        return _follow_cat(graph, node, known)
    if not any(source in known for source in inputs):
        return None
    if is_pointwise(node):
        return _follow_pointwise(graph, node, known)
    if node.target == aten.stack.default:
        parts = [known.get(part) for part in arguments(node)[0]]
        if (pads := _common(parts)) is None:
            return None
        dim = dim_of_joint(node)
        core = emit(graph, node, node.target, [part.core for part in parts if part], dim)
        return Padded(core, {d + (d >= dim): pad for d, pad in pads.items()})
    source = known.get(arguments(node)[0]) if isinstance(arguments(node)[0], Node) else None
    if source is None or len(inputs) != 1 or node.kwargs:
        return None
    core, pads, rank = source.core, source.pads, len(sizes(source.core))
    rest = arguments(node)[1:]
    if node.target == aten.slice.Tensor:
        return _follow_slice(graph, node, source)
    if node.target == aten.select.int:
        dim = positive(rest[0], rank)
        if dim in pads:
            return None
        return Padded(
            emit(graph, node, node.target, core, dim, rest[1]), {d - (d > dim): pad for d, pad in pads.items()}
        )
    if node.target == aten.unsqueeze.default:
        dim = positive(rest[0], rank + 1)
        return Padded(emit(graph, node, node.target, core, dim), {d + (d >= dim): pad for d, pad in pads.items()})
    if node.target == aten.permute.default:
        order = [positive(d, rank) for d in rest[0]]
        return Padded(emit(graph, node, node.target, core, order), {order.index(d): pad for d, pad in pads.items()})
    return None


def _follow_cat(graph: GraphModule, node: Node, known: Mapping[Node, Padded]) -> Padded | None:
    parts = [known.get(part, Padded(part, {})) for part in arguments(node)[0]]
    dim = dim_of_joint(node)
    pads = _common(parts)
    if pads is None or dim in pads or any(shape_of(part.core) is None for part in parts):
        return None
    cores = [part.core for part in parts]
    for place in range(min(2, len(cores))):
        whole = cores[place]
        n = sizes(whole)[dim]
        before = _window(cores[0], whole, dim) if place else (n, n)
        behind = _window(cores[-1], whole, dim) if len(cores) == place + 2 else (0, 0)
        if not 1 < len(cores) <= place + 2 or before is None or behind is None:
            continue
        if before[1] == n and behind[0] == 0:
            return Padded(whole, {**pads, dim: (n - before[0], behind[1])})
    if pads:
        return Padded(emit(graph, node, node.target, cores, dim), pads)
    return None


def _follow_slice(graph: GraphModule, node: Node, source: Padded) -> Padded | None:
    dim, start, end = _slice_of(node, sizes(arguments(node)[0]))
    if start is None:
        return None
    core, pads = source.core, dict(source.pads)
    if dim not in pads:
        return Padded(emit(graph, node, node.target, core, dim, start, end), pads)
    n, (before, _) = sizes(core)[dim], pads.pop(dim)
    if end - start < n:
        return None
    if start <= before and before + n <= end:
        shift = 0
        rest = (before - start, end - before - n)
    else:
        shift = before - start
        rest = (0, end - start - n)
    if shift % n:
        core = emit(graph, node, aten.roll.default, core, [shift], [dim])
    return Padded(core, pads if rest == (0, 0) else {**pads, dim: rest})


def _follow_pointwise(graph: GraphModule, node: Node, known: Mapping[Node, Padded]) -> Padded | None:
    rank = len(sizes(node))
    wanted: dict[int, tuple[int, int]] = {}
    for source in node.all_input_nodes:
        if source in known:
            own = known[source]
            wanted |= {d + rank - len(sizes(own.core)): pad for d, pad in own.pads.items()}
    for source in node.all_input_nodes:
        shape = shape_of(source)
        if shape is None:
            return None
        pads = known[source].pads if source in known else {}
        for dim, pad in wanted.items():
            own_dim = dim - rank + len(shape)
            alike = pads.get(own_dim) == pad
            if own_dim >= 0 and shape[own_dim] != 1 and not alike:
                return None
    args, kwargs = map_arg(
        (arguments(node), node.kwargs), lambda source: known[source].core if source in known else source
    )
    return Padded(emit(graph, node, node.target, *args, **kwargs), wanted)


def _common(parts: Sequence[Padded | None]) -> Mapping[int, tuple[int, int]] | None:
    """Return the padding of all parts if they have the same one."""
    first = parts[0].pads if parts and parts[0] is not None else None
    return first if all(part is not None and part.pads == first for part in parts) else None


def _window(node: Node, whole: Node, dim: int) -> tuple[int, int] | None:
    """Return (start, end) if the node is a slice of `whole` along `dim`."""
    if node.target != aten.slice.Tensor or arguments(node)[0] is not whole:
        return None
    along, start, end = _slice_of(node, sizes(whole))
    return (start, end) if along == dim and start is not None else None


def _slice_of(node: Node, shape: tuple[int, ...]) -> tuple[int, int | None, int]:
    """Return (dimension, start, end) of a slice; start is None if the step is not 1."""
    given = arguments(node)[1:]
    # (dim, start, end, step), of which the last ones may be missing
    dim, start, end, step = given + (0, None, None, 1)[len(given) :]
    dim = positive(dim, len(shape))
    low, high, _ = slice(start, end).indices(shape[dim])
    return dim, low if step == 1 else None, max(low, high)
