"""The built-in surrogates: shapes, boundaries, seeds, symmetries, and that they learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from messages import error_naming
from torch import Tensor, nn

from hyco_engine.builtin.models import hyco_models
from hyco_engine.builtin.models.increment import Convolution
from hyco_engine.builtin.models.options_synthetic import ResNetOptions, UNetOptions
from hyco_engine.builtin.models.padding import FeaturePadding, StatePadding, extend, for_convolutions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, Rule, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import BuildContext, Trajectory
from hyco_engine.training.jacobian import push_forward

SMALL: dict[str, Any] = {
    "resnet": ResNetOptions(width=6, blocks=2, kernel_size=3, dilations=(1, 2)),
    "unet": UNetOptions(levels=2, width=4),
}
KINDS = sorted(SMALL)


def a_layout(*resolution: int, boundary: Any = "periodic", **more: Any) -> StateLayout:
    """Return a layout of a velocity and a static scalar."""
    axes = ("x", "y", "z")[: len(resolution)]
    grid = Grid(axes=axes, resolution=resolution, lower=(0.0,) * len(axes), upper=(1.0,) * len(axes))
    rule = Boundary.parse(boundary, axes)
    velocity = FieldInfo(name="u", components=axes, boundary=rule, **more)
    return StateLayout(
        grid=grid, dynamic=(velocity,), static=(FieldInfo(name="nu", boundary=Boundary.parse("zero-gradient", axes)),)
    )


def some_statistics(layout: StateLayout) -> Statistics:
    n, c = layout.n_all, layout.n_dynamic
    return Statistics(
        mean=torch.linspace(-1, 2, n, dtype=torch.float64),
        std=torch.linspace(0.5, 3, n, dtype=torch.float64),
        change_std=torch.linspace(0.1, 0.4, c, dtype=torch.float64),
    )


def build(
    kind: str, layout: StateLayout | None, options: Any = None, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    record = next(record for record in hyco_models() if record.kind == kind)
    context = BuildContext(
        seed=seed,
        registry=None,  # type: ignore[arg-type]
        dtype=dtype,
        layout=layout,
        statistics=None if layout is None else some_statistics(layout),
    )
    net: nn.Module = record.factory(options or SMALL[kind], context)
    return net


def states(layout: StateLayout, batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, layout.n_all, *layout.spatial, generator=generator, dtype=dtype)


def loud(net: nn.Module) -> nn.Module:
    """The net with a last layer whose changes are as large as the state's, so that tests of it see them."""
    with torch.no_grad():
        net.body.exit.weight.mul_(100.0)  # type: ignore[union-attr, operator]
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_is_near_persistence(kind: str) -> None:
    layout = a_layout(16, 16)
    x = states(layout)
    change = (build(kind, layout)(x) - x[:, :2]) / some_statistics(layout).change_std.view(-1, 1, 1)
    assert 0 < change.abs().max() < 0.2


@pytest.mark.parametrize(("kind", "step"), [("resnet", 1), ("resnet", 3), ("unet", 4)])
def test_shifts_along_periodic_axes_commute(kind: str, step: int) -> None:
    layout = a_layout(16, 12)
    # the static field is open, so it may not vary here
    x = states(layout)
    x[:, 2:] = 0.7
    net = loud(build(kind, layout))
    moved = net(x.roll((step, -step), dims=(2, 3)))
    torch.testing.assert_close(moved, net(x).roll((step, -step), dims=(2, 3)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(moved, net(x))


@pytest.mark.parametrize("kind", KINDS)
def test_open_sides_do_not_see_each_other(kind: str) -> None:
    layout = a_layout(64, boundary="symmetric")
    net, x = loud(build(kind, layout)), states(layout)
    other = x.clone()
    other[..., -1] += 1.0
    same = net(x) == net(other)
    assert same[..., :20].all()
    assert not same[..., -1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    layout = a_layout(16)
    net = build(kind, layout)
    net(states(layout)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_from_the_seed_alone(kind: str) -> None:
    layout = a_layout(16)
    before = torch.random.get_rng_state()
    first = build(kind, layout).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3, generator=torch.Generator().manual_seed(5))
    again, other = build(kind, layout).state_dict(), build(kind, layout, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body.exit.weight"], other["body.exit.weight"])
    single = build(kind, layout, dtype=torch.float32).state_dict()
    assert all(torch.equal(first[name].float(), single[name]) for name in first)


def test_loading_weights_leaves_the_given_statistics_alone() -> None:
    layout = a_layout(16)
    statistics = some_statistics(layout)
    context = BuildContext(seed=0, registry=None, dtype=torch.float64, layout=layout, statistics=statistics)  # type: ignore[arg-type]
    record = next(record for record in hyco_models() if record.kind == "resnet")
    net = record.factory(SMALL["resnet"], context)
    net.load_state_dict({name: torch.zeros_like(value) for name, value in net.state_dict().items()})
    assert torch.equal(statistics.mean, some_statistics(layout).mean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", ["zero-gradient", 0.3, {"x": "periodic", "y": "zero-gradient"}])
def test_filler_of_staggered_fields_never_matters(kind: str, boundary: Any) -> None:
    layout = a_layout(12, 9, boundary=boundary, sampling="staggered")
    assert layout.has_filler
    net, x = loud(build(kind, layout)), states(layout)
    poisoned = x.clone()
    for component in range(2):
        own = torch.zeros(layout.spatial, dtype=torch.bool)
        own[tuple(map(slice, layout.dynamic[0].samples(layout.grid, component)))] = True
        poisoned[:, component, ~own] = math.nan
        assert (net(poisoned)[:, component, ~own] == 0).all()
    assert torch.equal(net(poisoned).isnan(), torch.zeros_like(x[:, :2], dtype=torch.bool))
    assert torch.equal(net(poisoned), net(poisoned.nan_to_num(7.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_data_without_a_grid(kind: str) -> None:
    with error_naming(DataError, repr(kind)):
        build(kind, None)


def test_unet_refuses_grids_too_small_and_says_what_fits() -> None:
    with error_naming(SpecError, "3 levels", 16, "axis y", 9, "levels = 2", key="synthetic.levels"):
        build("unet", a_layout(64, 9), UNetOptions(levels=3))
    with error_naming(SpecError, 'kind = "resnet"'):
        build("unet", a_layout(3), UNetOptions(levels=1))
    build("unet", a_layout(64, 9), UNetOptions(levels=2))


def test_options_are_bounded() -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        ResNetOptions(width=0)
    with pytest.raises(ValueError, match="at least one number"):
        ResNetOptions(dilations=())


@pytest.mark.parametrize("width", [1, 3, 7, 19])
@pytest.mark.parametrize(
    ("rule", "numpy_mode"),
    [("periodic", "wrap"), ("zero-gradient", "edge"), ("symmetric", "symmetric"), ("reflect", "reflect")],
)
def test_extension_is_that_of_numpy(rule: str, numpy_mode: Any, width: int) -> None:
    x = states(a_layout(6, 5))
    sides = (Rule.parse(rule), Rule.parse(rule))
    found = extend(x, 2, width, width + 1, sides)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (width, width + 1), (0, 0)], mode=numpy_mode)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_extension_by_odd_and_constant_rules() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    odd, reflected = Rule.parse("antisymmetric"), Rule.parse("antireflect")
    assert extend(x, 2, 2, 1, (odd, reflected)).flatten().tolist() == [-2, -1, 1, 2, 3, -2]
    assert extend(x, 2, 1, 2, (Rule.parse(5.0), Rule.parse("zero-gradient"))).flatten().tolist() == [5, 1, 2, 3, 3, 3]


def test_states_are_padded_component_by_component() -> None:
    layout = a_layout(
        4, 3, boundary={"x": {"lower": [1.0, 2.0], "upper": {"normal": 0.5, "tangential": "zero-gradient"}}, "y": -3}
    )
    x = states(layout, batch=1)
    padded = StatePadding(layout, 1)(x)[0]
    assert (padded[0, 0, 1:-1] == 1.0).all()
    assert (padded[1, 0, 1:-1] == 2.0).all()
    assert (padded[0, -1, 1:-1] == 0.5).all()
    assert torch.equal(padded[1, -1, 1:-1], x[0, 1, -1])
    assert (padded[:2, :, 0] == -3.0).all()
    assert torch.equal(padded[2, 0, 1:-1], x[0, 2, 0])


def test_boundary_values_reach_the_network_in_scaled_units() -> None:
    layout = a_layout(8, boundary=4.0)
    net = build("resnet", layout)
    seen: list[Tensor] = []
    net.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    net(states(layout))
    statistics = some_statistics(layout)
    expected = (4.0 - statistics.mean[0]) / statistics.std[0]
    assert seen[0].shape == (3, 2, 10)
    torch.testing.assert_close(seen[0][:, 0, [0, -1]], expected.expand(3, 2))


def test_staggered_faces_are_followed_by_their_boundary() -> None:
    layout = a_layout(4, 4, boundary={"x": 9.0, "y": "zero-gradient"}, sampling="staggered")
    assert layout.spatial == (4, 5)
    x = states(layout, batch=1)
    padded = StatePadding(layout, 1)(x)[0]
    # the x component has three inner faces along x; the wall's face is next
    assert (padded[0, 4:, 1:-1] == 9.0).all()
    assert torch.equal(padded[0, 1:4, 1:5], x[0, 0, :3, :4])
    assert torch.equal(padded[0, 1:4, 5], x[0, 0, :3, 3])


@pytest.mark.parametrize(
    ("boundary", "edge"),
    [("periodic", [3.0, 1.0]), ("symmetric", [1.0, 3.0]), (7.0, [0.0, 0.0]), ("antisymmetric", [0.0, 0.0])],
)
def test_features_follow_the_first_dynamic_field(boundary: Any, edge: list[float]) -> None:
    padding = FeaturePadding(a_layout(3, boundary=boundary))
    padded = padding(torch.tensor([[[1.0, 2.0, 3.0]]]), [(1, 1)])
    assert padded[0, 0, [0, -1]].tolist() == edge


RULES: list[Any] = ["periodic", "zero-gradient", "symmetric", "reflect", "antisymmetric", 0.0]


@pytest.mark.parametrize("boundary", RULES)
@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_padding_keeps_the_layout_that_convolutions_want(boundary: Any, size: tuple[int, ...]) -> None:
    padding = FeaturePadding(a_layout(*size, boundary=boundary))
    wanted = {4: torch.channels_last, 5: torch.channels_last_3d}
    features = for_convolutions(torch.randn(2, 3, *size))
    padded = padding(features, [(2, 1)] * len(size))
    for x in (features, padded):
        assert x.is_contiguous(memory_format=wanted[x.dim()])
        assert not x.is_contiguous()
    plain = padding(torch.empty(2, 3, *size).copy_(features.reshape(2, 3, *size)), [(2, 1)] * len(size))
    assert torch.equal(plain, padded.reshape(plain.shape))


def test_one_channel_too_is_laid_out_for_convolutions() -> None:
    """Torch takes such a tensor for either layout; what convolutions make of it follows its strides."""
    assert for_convolutions(torch.randn(2, 1, 7)).stride() == (7, 1, 7, 1)
    assert torch.conv2d(for_convolutions(torch.randn(2, 1, 7)), torch.randn(3, 1, 1, 3)).stride()[1] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16,), (8, 9)])
def test_batches_of_none_and_one_are_as_those_of_many(kind: str, size: tuple[int, ...]) -> None:
    layout = a_layout(*size)
    net, x = loud(build(kind, layout)), states(layout, batch=3)
    whole = net(x)
    assert torch.allclose(torch.cat([net(one[None]) for one in x]), whole, rtol=1e-12, atol=1e-12)
    assert net(x[:0]).shape == (0, *whole.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16,), (8, 9)])
def test_surrogates_can_be_mapped_and_differentiated_forward(kind: str, size: tuple[int, ...]) -> None:
    layout = a_layout(*size)
    net, x = loud(build(kind, layout)), states(layout, batch=3)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    tangents = {name: torch.stack([torch.ones_like(p), -2 * torch.ones_like(p)]) for name, p in parameters.items()}

    def along(tangent: dict[str, Tensor]) -> Tensor:
        def twice(values: dict[str, Tensor]) -> Tensor:
            once = torch.func.functional_call(net, values, x)
            result: Tensor = torch.func.functional_call(net, values, torch.cat([once, x[:, layout.n_dynamic :]], 1))
            return result

        return push_forward(twice, (parameters,), (tangent,))[1]

    together = torch.func.vmap(along)(tangents)
    alone = along({name: t[1] for name, t in tangents.items()})
    assert torch.allclose(together[1], alone, rtol=1e-9, atol=1e-9)
    assert torch.allclose(together[0], -0.5 * alone, rtol=1e-9, atol=1e-9)


def test_a_convolution_is_torchs_own() -> None:
    layer = Convolution(2, 3, 3, 1, dilation=2)
    layer.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(4, 2, 9)
    assert torch.allclose(layer(x), torch.conv1d(x, layer.weight, layer.bias, dilation=2), atol=1e-6)
    assert torch.equal(layer(x.unsqueeze(2)).squeeze(2), layer(x))


def advected(n: int, count: int, seed: int) -> tuple[StateLayout, list[Trajectory]]:
    """`count` exact solutions of u_t + c u_x = nu u_xx on n periodic cells: smooth random fields."""
    base = a_layout(n)
    layout = attrs.evolve(base, static=())
    c, nu, dt, frames = 0.5, 1e-3, 0.05, 20
    k = 2 * math.pi * torch.arange(n // 2 + 1, dtype=torch.float64)
    factor = torch.exp((-1j * c * k - nu * k**2) * dt * torch.arange(frames)[:, None])
    generator = torch.Generator().manual_seed(seed)
    trajectories = []
    for _ in range(count):
        start = torch.view_as_complex(torch.randn(n // 2 + 1, 2, generator=generator, dtype=torch.float64))
        u = torch.fft.irfft(start * torch.exp(-((k / 25) ** 2)) * factor, n=n) * n
        trajectories.append(Trajectory(dynamic=u[:, None] + 1.0, static=torch.zeros(0, n)))
    return layout, trajectories


@pytest.mark.parametrize(("kind", "at_most"), [("resnet", 0.2), ("unet", 0.4)])
def test_learns_to_beat_persistence_on_unseen_data(kind: str, at_most: float) -> None:
    layout, trajectories = advected(64, 8, seed=0)
    train, unseen = trajectories[:6], torch.stack([t.dynamic for t in trajectories[6:]]).float()
    statistics = Statistics.of(train, layout)
    context = BuildContext(seed=0, registry=None, layout=layout, statistics=statistics)  # type: ignore[arg-type]
    record = next(record for record in hyco_models() if record.kind == kind)
    net = record.factory(record.options(), context)
    assert 20_000 < sum(p.numel() for p in net.parameters()) < 60_000
    inputs = torch.cat([t.dynamic[:-1] for t in train]).float()
    targets = torch.cat([t.dynamic[1:] for t in train]).float()
    _fit(net, lambda i: (inputs[i], targets[i]), len(inputs), statistics.change_std.float())
    with torch.no_grad():
        state, error, floor = unseen[:, 0], torch.tensor(0.0), torch.tensor(0.0)
        for frame in range(1, unseen.shape[1]):
            state = net(state)
            error += (state - unseen[:, frame]).square().mean()
            floor += (unseen[:, 0] - unseen[:, frame]).square().mean()
    assert (error / floor).sqrt() < at_most


def _fit(net: nn.Module, batch: Callable[[Tensor], tuple[Tensor, Tensor]], size: int, scale: Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        x, y = batch(torch.randint(size, (16,), generator=generator))
        optimizer.zero_grad()
        ((net(x) - y) / scale.view(-1, 1)).square().mean().backward()
        optimizer.step()
