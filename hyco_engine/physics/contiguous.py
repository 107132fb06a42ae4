"""Rewrites of graphs that are compiled for a CPU, so that the innermost loop reads and writes neighbours in memory.

inductor turns such loops into vector instructions. A shift along the innermost axis has to look beyond the end of a
row, and inductor then reads one number after the other. It also takes scalar fields `[B, 1, *S]` for images whose
channels lie innermost, and writes what is joined from them with gaps, to copy it once more.
"""

from __future__ import annotations

from collections import defaultdict

from torch.fx import GraphModule, Node

from hyco_engine.physics.rewriting import arguments, aten, dim_of_joint, emit, positive, sizes


def rows_with_halos(graph: GraphModule) -> None:
    """Replace shifts along the innermost axis by windows of rows that go on periodically beyond both ends.

    This is the way back from `shift_instead_of_padding` for one axis: all shifts of a tensor share one padded copy.
    Shifts along the other axes stay, since they read whole rows. It is for code without gradients, since the gradients
    of windows are sums over overlapping rows.
    """
    shifts: dict[Node, dict[Node, int]] = defaultdict(dict)
    for node in graph.graph.nodes:
        if node.target == aten.roll.default and (shift := _innermost_shift(node)) is not None:
            shifts[arguments(node)[0]][node] = shift
    for source, found in shifts.items():
        last, n, halo = len(sizes(source)) - 1, sizes(source)[-1], max(map(abs, found.values()))
        first = next(iter(found))
        ends = [emit(graph, first, aten.slice.Tensor, source, last, *ends) for ends in ((n - halo, n), (0, halo))]
        padded = emit(graph, first, aten.cat.default, [ends[0], source, ends[1]], last)
        for node, shift in found.items():
            start = halo - shift
            node.replace_all_uses_with(emit(graph, node, aten.slice.Tensor, padded, last, start, start + n))
    graph.graph.eliminate_dead_code()


def scalars_joined_as_rows(graph: GraphModule) -> None:
    """Join scalar fields `[B, *S]` along their first axis, and make channels of the result."""
    for node in list(graph.graph.nodes):
        if node.target not in (aten.cat.default, aten.stack.default) or len(sizes(node)) < 4 or dim_of_joint(node) != 1:
            continue
        parts = list(arguments(node)[0])
        if node.target == aten.cat.default:
            if not all(_is_channel(part) for part in parts):
                continue
            parts = [arguments(part)[0] for part in parts]
        joined = emit(graph, node, aten.cat.default, parts, 1)
        node.replace_all_uses_with(emit(graph, node, aten.reshape.default, joined, list(sizes(node))))
    graph.graph.eliminate_dead_code()


def _innermost_shift(node: Node) -> int | None:
    """Return the shift, between -n/2 and n/2, if the node shifts along the innermost axis alone, else None."""
    given = arguments(node)
    rank, n = len(sizes(node)), sizes(node)[-1]
    if len(given) < 3 or len(given[1]) != 1 or [positive(dim, rank) for dim in given[2]] != [rank - 1]:
        return None
    return int((given[1][0] + n // 2) % n - n // 2) or None


def _is_channel(node: Node) -> bool:
    return node.target == aten.unsqueeze.default and positive(arguments(node)[1], len(sizes(node))) == 1
