"""Rewrites of captured graphs: each on small graphs, equal to the graph before, and doing what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.physics.capture import capture
from hyco_engine.physics.component_order import components_first
from hyco_engine.physics.contiguous import rows_with_halos, scalars_joined_as_rows
from hyco_engine.physics.equality import CaptureError, Reference
from hyco_engine.physics.graphs import Rewrite, clean, rewrite, split_by_inputs
from hyco_engine.physics.periodic import shift_instead_of_padding

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)


def operations(graph: GraphModule) -> Counter[str]:
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(str(node.target).removeprefix("aten.").partition(".")[0] for node in nodes)


def rewritten(function: Callable[..., Tensor], change: Rewrite, *inputs: Tensor) -> Counter[str]:
    """The operations after the change, which must give the very same values and gradients."""
    graph = clean(make_fx(function)(*inputs))
    new = rewrite(graph, change)
    results = []
    for run in (function, new):
        given = [x.clone().requires_grad_() for x in inputs]
        out = run(*given)
        weight = torch.arange(out.numel(), dtype=out.dtype).view(out.shape) % 7 - 3
        results.append((out, *torch.autograd.grad((out * weight).sum(), given)))
    assert torch.equal(results[0][0], results[1][0])
    for one, two in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-12)
    # the graph it was made from is as it was
    assert torch.equal(graph(*inputs), results[0][0])
    return operations(new)


def pad(x: Tensor, dim: int, before: int, behind: int) -> Tensor:
    """Periodically, as PhiML does it."""
    n = x.shape[dim]
    parts = [x.narrow(dim, n - before, before)] if before else []
    return torch.cat([*parts, x, *([x.narrow(dim, 0, behind)] if behind else [])], dim)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- cleaning -----------------------------------------------------------------------------------------------------


def test_equal_operations_are_done_once_and_unused_constants_go() -> None:
    table, unused = random(3), random(3, seed=1)

    def function(x: Tensor) -> Tensor:
        (x * unused).sum()
        return (x * table + 1.0) * (x * table + 1.0)

    graph = clean(make_fx(function)(random(3)))
    assert operations(graph) == {"mul": 2, "add": 1}
    assert len(list(graph.buffers())) == 1
    assert torch.equal(graph(random(3, seed=2)), function(random(3, seed=2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.stack([x * 0.0, x * -0.0]),
        lambda x: torch.cat([(x.long() + 1) / 3, (x.long() + 1.0) / 3]),
        lambda x: torch.stack([x * torch.full_like(x, 1), x + torch.full_like(x, True)]),
    ],
)
def test_arguments_that_only_compare_as_equal_are_not_merged(function: Callable[[Tensor], Tensor]) -> None:
    x = random(4) * 10
    got, wanted = clean(make_fx(function)(x))(x), function(x)
    assert got.dtype == wanted.dtype
    # torch.equal takes -0.0 for 0.0
    assert got.numpy().tobytes() == wanted.numpy().tobytes()


# --- periodic padding ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_windows_of_padded_tensors_are_shifts(shape: list[int], data: Any) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    n = shape[dim]
    before, behind = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    start = data.draw(st.integers(0, before + behind))
    length = data.draw(st.integers(n, n + before + behind - start))
    square = data.draw(st.booleans())

    def function(x: Tensor) -> Tensor:
        padded = pad(x * 2, dim, before, behind)
        padded = padded * padded if square else padded
        return padded.narrow(dim, start, length) + 0.0

    found = rewritten(function, shift_instead_of_padding, random(*shape))
    if length == n and before + behind:
        assert not {"cat", "slice"} & set(found)
        assert found["roll"] == ((before - start) % n != 0)


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(2, 5), min_size=3, max_size=4), data=st.data())
def test_stencils_become_rolls(shape: list[int], data: Any) -> None:
    """Two padded axes, a product before the slices, another order of dimensions and single components."""
    order = data.draw(st.permutations(range(len(shape))))
    place = data.draw(st.integers(0, shape[0] - 1))

    def neighbours(x: Tensor, dim: int) -> Tensor:
        padded = pad(x, dim, 1, 1)
        n = x.shape[dim]
        flux = padded * padded * x.mean()
        return flux.narrow(dim, 2, n) - flux.narrow(dim, 0, n)

    def function(x: Tensor) -> Tensor:
        both = pad(pad(x, 1, 1, 1), 2, 1, 1).permute(order)
        inner = both.permute([order.index(d) for d in range(len(order))])[place].unsqueeze(0)
        corners = inner.narrow(1, 0, x.shape[1]).narrow(2, 2, x.shape[2])
        return neighbours(x, 1) + neighbours(x, 2) * corners

    found = rewritten(function, shift_instead_of_padding, random(*shape))
    assert found["cat"] == found["slice"] == 0
    assert found["roll"] == 6


def test_stacked_components_are_shifted_together() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        both = torch.stack([pad(x, 1, 1, 0), pad(y, 1, 1, 0)], 1)
        joined = torch.cat([both, both], 0)
        return joined[..., :4]

    found = rewritten(function, shift_instead_of_padding, random(2, 4), random(2, 4, seed=1))
    assert found == {"stack": 1, "cat": 1, "roll": 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x, x], 1)[:, :4],
        lambda x: torch.cat([x[:, :1], x, x[:, -1:]], 1)[:, :4],
        lambda x: torch.cat([x[:, -1:] * 2, x], 1)[:, :4],
        lambda x: torch.cat([x[:, -2:-1], x], 1)[:, :4],
        lambda x: torch.cat([x[:, ::4], x], 1)[:, :4],
        lambda x: pad(x, 1, 1, 1)[:, ::2],
        lambda x: pad(x, 1, 1, 1)[:, :3],
        lambda x: pad(x, 1, 1, 1)[:, 2],
        lambda x: pad(x, 1, 1, 1).cumsum(1)[:, :4],
        lambda x: (pad(x, 1, 1, 1) * torch.arange(6.0, dtype=torch.float64))[:, :4],
        lambda x: (pad(x, 1, 1, 1) * pad(x, 1, 2, 0))[:, :4],
    ],
    ids=[
        "twice", "reflected", "scaled", "wrong place", "strided", "coarsened", "short", "one cell", "sums",
        "positions", "unlike paddings",
    ],
)  # fmt: skip
def test_what_only_looks_periodic_is_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    assert rewritten(function, shift_instead_of_padding, random(3, 4))["roll"] == 0


def test_padded_tensors_that_are_wanted_stay() -> None:
    found = rewritten(
        lambda x: pad(x, 1, 1, 1).cumsum(1) + pad(x, 1, 1, 1)[:, :1], shift_instead_of_padding, random(3, 4)
    )
    assert found["cat"] == 1


# --- rows ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(shape=shapes, shifts=st.lists(st.integers(-7, 7), min_size=1, max_size=4))
def test_innermost_shifts_of_a_tensor_share_one_row_with_halos(shape: list[int], shifts: list[int]) -> None:
    n, last = shape[-1], len(shape) - 1

    def function(x: Tensor) -> Tensor:
        square = x * x
        total = x.roll(1, 0) + square.roll(1, 0)
        for place, shift in enumerate(shifts):
            total = total + x.roll(shift, last) * (2 + place) + square.roll(shift, -1)
        return total

    found = rewritten(function, rows_with_halos, random(*shape))
    moving = any(shift % n for shift in shifts)
    assert found["cat"] == 2 * moving
    # what is left shifts other axes, or does not move
    still = len({shift for shift in shifts if shift % n == 0})
    assert found["roll"] == 2 + 2 * still


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.roll([1, 1], [0, 1]),
        lambda x: x.roll(1),
        lambda x: x.roll(1, 0),
    ],
)
def test_other_shifts_stay(function: Callable[[Tensor], Tensor]) -> None:
    assert rewritten(function, rows_with_halos, random(3, 4)).keys() & {"cat", "roll"} == {"roll"}


def test_scalar_fields_are_joined_as_rows() -> None:
    def function(x: Tensor) -> Tensor:
        u, v = x[:, 0] * 2, x[:, 1] * 3
        return torch.cat([u[:, None], v[:, None]], 1) + torch.stack([v, u], 1)

    found = rewritten(function, scalars_joined_as_rows, random(3, 2, 4, 5))
    assert found["cat"] == found["reshape"] == 2
    assert found["stack"] == found["unsqueeze"] == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x, x[:, :1]], 1),
        lambda x: torch.stack([x[:, 0], x[:, 1]], -1),
        lambda x: torch.stack([x[:, 0, 0], x[:, 1, 0]], 1),
    ],
)
def test_what_is_joined_otherwise_stays(function: Callable[[Tensor], Tensor]) -> None:
    assert "reshape" not in rewritten(function, scalars_joined_as_rows, random(3, 2, 4, 5))


# --- components first ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=2, max_size=3), count=st.integers(1, 3), data=st.data())
def test_components_are_stacked_second(shape: list[int], count: int, data: Any) -> None:
    rank = len(shape) + 1
    order = data.draw(st.permutations(range(rank)))

    def function(x: Tensor, k: Tensor) -> Tensor:
        last = torch.stack([x * i for i in range(count)], -1)
        weights = torch.arange(1.0, count + 1, dtype=torch.float64)
        turned = (last * weights / k + last.sin()).permute(order)
        return torch.where(turned > 0, turned, 0.0 * turned)

    found = rewritten(function, components_first, random(*shape), torch.tensor(1.5, dtype=torch.float64))
    assert found["stack"] == 1
    assert found["permute"] <= 2


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[..., 1],
        lambda v: v[:, 1:3],
        lambda v: v.flip(-1, 1),
        lambda v: v.roll((1, 2), (1, 2)),
        lambda v: v.unsqueeze(-1),
        lambda v: v.unsqueeze(0) * 2,
        lambda v: v.sum(-1),
        lambda v: v.sum((1, 3), keepdim=True) + v,
        lambda v: torch.cat([v, v * 2], -1),
        lambda v: torch.stack([v, v * 2], -1),
        lambda v: torch.stack([v, v * 2], 0),
        lambda v: v.reshape(-1, v.shape[-1]),
        lambda v: v.cumsum(-1).permute(0, 3, 1, 2),
        lambda v: v + v.permute(0, 2, 1, 3),
        lambda v: v * torch.ones(4, 4, 2, dtype=torch.float64).cumsum(0),
        lambda v: v * torch.ones(3, 4, 4, 2, dtype=torch.float64).cumsum(0),
    ],
)
def test_every_way_to_use_components(change: Callable[[Tensor], Tensor]) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return change(torch.stack([x * y, x + y], -1)) * 3.0

    rewritten(function, components_first, random(3, 4, 4), random(3, 4, 4, seed=1))


def test_permutations_that_undo_each_other_vanish() -> None:
    def function(x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        vector = torch.stack([last[..., 0] * 2, last[..., 1]], -1) + last
        return torch.stack([vector[..., 0], vector[..., 1]], 1)

    assert rewritten(function, components_first, random(3, 2, 4, 5))["permute"] == 0


# --- what is checked ----------------------------------------------------------------------------------------------


def burgers(x: Tensor, k: Tensor) -> Tensor:
    return x + k * (x.roll(1, -1) - 2 * x + x.roll(-1, -1)) - 0.1 * x * (x.roll(-1, -1) - x.roll(1, -1))


def wrong(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, k: burgers(x, k) + change(x, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda x, k: 1e-4 * x, "the result differs"),
        (lambda x, k: 1e-3 * (k - k.detach()) * x, "the gradient by k differs"),
        (lambda x, k: (k - k.detach()) * x.mean(), "the gradient by k differs"),
        (lambda x, k: 1e-4 * (x - x.detach()), "the gradient by the state differs"),
        (lambda x, k: -0.1 * k.detach() * x + 0.1 * k * x, "the gradient by k differs"),
    ],
)
def test_wrong_graphs_are_refused_whatever_the_order_of_sums(
    change: Callable[[Tensor, Tensor], Tensor], what: str, dtype: torch.dtype
) -> None:
    state, k = random(32, 2, 64, 64).to(dtype), torch.tensor(0.3, dtype=dtype)
    reference = Reference(burgers, state, [k], ["k"])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    reference.check(burgers, tolerance)
    with pytest.raises(CaptureError, match=what):
        reference.check(wrong(change), tolerance)


def product(x: Tensor, k: Tensor) -> Tensor:
    return x * k


def product_with(gradient: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The product whose gradient by k is `gradient` of the terms that it is the sum of."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, k: Tensor) -> Tensor:
            ctx.save_for_backward(x, k)
            return x * k

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, k = ctx.saved_tensors
            return grad * k, gradient(grad * x)

    return lambda x, k: Product.apply(x, k)  # type: ignore[no-any-return,no-untyped-call]


def test_gradients_that_are_not_finite_give_no_slack() -> None:
    """What a graph does must not say how far it may be off."""
    state = random(4, 1, 8)
    infinite = product_with(lambda terms: torch.full_like(terms.sum(), torch.inf))
    with error_naming(CaptureError, "gradient", "k"):
        Reference(product, state, [torch.tensor(0.3)], ["k"]).check(infinite, 1e-6)

    def undefined(x: Tensor, k: Tensor) -> Tensor:
        return x * (1 + torch.sqrt(k - k))

    Reference(undefined, state, [torch.tensor(0.3)], ["k"]).check(undefined, 1e-6)


def test_sums_in_another_order_are_allowed_for() -> None:
    """A gradient that is a sum of 2 million terms, in float32 one after the other."""
    state, k = random(8, 1, 2**18).float(), torch.tensor(0.3)

    def one_after_the_other(terms: Tensor) -> Tensor:
        return torch.from_numpy(np.cumsum(terms.flatten().numpy(), dtype=np.float32))[-1]

    sequential = product_with(one_after_the_other)
    reference = Reference(product, state, [k], ["k"])
    reference.check(sequential, 1e-7)


def test_rewrites_that_do_not_hold_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyco_engine.physics import capture as module

    def spoil(graph: GraphModule) -> None:
        for node in graph.graph.nodes:
            if node.target == torch.ops.aten.roll.default:
                node.args = (node.args[0], [1], node.args[2])

    def fail(graph: GraphModule) -> None:
        raise ValueError("an operation nobody thought of")

    state, k = random(4, 1, 8), torch.tensor(0.3, dtype=torch.float64)
    graph = capture(burgers, state, [k])
    reference = Reference(burgers, state, [k], ["k"])
    kept = module._rewritten(graph, (spoil, fail), lambda new: reference.check(new, 1e-12))
    assert kept is graph
    assert torch.equal(kept(state, k), burgers(state, k))


@pytest.mark.parametrize(
    ("function", "before", "rest"),
    [
        (lambda x, a, b: x.roll(1, 0) * (a.exp() + b).sin(), ["add", "exp", "sin"], ["mul", "roll"]),
        (lambda x, a, b: (a.exp() * x + a.exp() * 2).cos(), ["exp", "mul"], ["add", "cos", "mul"]),
        (lambda x, a, b: a.exp() * b, ["exp", "mul"], []),
        (lambda x, a, b: x.exp() + 1, [], ["add", "exp"]),
        (lambda x, a, b: x + (a * torch.tensor([1.0, 2.0, 3.0], dtype=a.dtype)), ["mul"], ["add"]),
    ],
    ids=["coefficients", "shared", "none varies", "all vary", "a constant"],
)
def test_what_depends_on_parameters_alone_is_computed_once(
    function: Callable[..., Tensor], before: list[str], rest: list[str]
) -> None:
    given = [random(4, 3, seed=0), random(3, seed=1), random(3, seed=2)]
    first, then = split_by_inputs(clean(make_fx(function)(*given)), 1)
    assert sorted(operations(first)) == before
    assert sorted(operations(then)) == rest
    known = first(*given[1:])
    for seed in (3, 4):
        state = random(4, 3, seed=seed)
        assert torch.equal(then(state, *given[1:], *known), function(state, *given[1:]))


def test_random_numbers_are_drawn_in_every_step() -> None:
    graph = clean(make_fx(lambda x, a: x + torch.rand_like(a))(random(3), random(3, seed=1)))
    first, then = split_by_inputs(graph, 1)
    assert not operations(first)
    assert operations(then)["rand_like"] == 1
