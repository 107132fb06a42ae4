"""Fields <-> tensors: exact both ways, for every grid and boundary that the layouts can say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming
from phi.field import CenteredGrid, Field, StaggeredGrid
from phi.geom import Box
from phiml.math import batch, channel, expand, extrapolation, precision, spatial, vec, wrap

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, Rule, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import DataError
from hyco_engine.interfaces import Trajectory
from hyco_engine.physics.boundaries import boundary_to_extrapolation
from hyco_engine.physics.fields_view import FieldSamples, FieldView
from hyco_engine.physics.layout import Converter, to_fields, to_tensor

NAMED = ("zero-gradient", "symmetric", "antisymmetric", "reflect", "antireflect")


def grids() -> st.SearchStrategy[Grid]:
    side = st.tuples(st.integers(2, 4), st.floats(-2, 2), st.floats(0.1, 3))
    return st.lists(side, min_size=1, max_size=3).map(
        lambda sides: Grid(
            axes=tuple("xyz"[: len(sides)]),
            resolution=tuple(n for n, _, _ in sides),
            lower=tuple(low for _, low, _ in sides),
            upper=tuple(low + size for _, low, size in sides),
        )
    )


@st.composite
def field_infos(draw: st.DrawFn, axes: tuple[str, ...], name: str) -> FieldInfo:
    kind = draw(st.sampled_from(["scalar", "vector", "other", "staggered"]))
    components = {"scalar": (), "other": ("a", "b")}.get(kind, axes)
    values = st.integers(-30, 30).map(lambda tenths: tenths / 10)
    simple = st.one_of(
        values.map(lambda value: Rule(kind="constant", value=value)),
        st.sampled_from(NAMED).map(lambda rule: Rule(kind=rule)),  # type: ignore[arg-type]
    )
    rules = [simple]
    if components:
        each = st.tuples(*[values for _ in components])
        rules.append(each.map(lambda value: Rule(kind="constant", value=value)))
    if components == axes and len(axes) > 1:
        pairs = st.tuples(simple, simple).filter(lambda pair: pair[0] != pair[1])
        rules.append(pairs.map(lambda p: Rule(kind="normal-tangential", normal=p[0], tangential=p[1])))
    periodic = st.just((Rule(kind="periodic"), Rule(kind="periodic")))
    sides = {axis: draw(st.one_of(periodic, st.tuples(st.one_of(rules), st.one_of(rules)))) for axis in axes}
    return FieldInfo(
        name=name,
        components=components,
        sampling="staggered" if kind == "staggered" else "centered",
        boundary=Boundary(sides=sides),
    )


@st.composite
def layouts(draw: st.DrawFn) -> StateLayout:
    grid = draw(grids())
    names = draw(st.sampled_from([("u",), ("u", "v"), ("u", "v", "w")]))
    infos = [draw(field_infos(grid.axes, name)) for name in names]
    cut = draw(st.integers(1, len(infos)))
    return StateLayout(grid=grid, dynamic=tuple(infos[:cut]), static=tuple(infos[cut:]))


def random_state(layout: StateLayout, count: int, dtype: torch.dtype) -> torch.Tensor:
    state = torch.randn(count, layout.n_all, *layout.spatial, dtype=dtype)
    return torch.where(sample_mask(layout), state, torch.zeros((), dtype=dtype))


@settings(max_examples=80, deadline=None)
@given(layout=layouts(), count=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_tensor_to_fields_and_back_is_exact(layout: StateLayout, count: int, dtype: torch.dtype) -> None:
    state = random_state(layout, count, dtype)
    fields = to_fields(state, layout)
    back = to_tensor(fields, layout)
    assert back.dtype == dtype
    assert torch.equal(back, state)
    for info in layout.fields:
        assert metadata(fields[info.name]) == described(info, layout.grid)


def metadata(field: Field) -> object:
    """All of a Field but its values."""
    axes = field.resolution.names
    size = field.bounds.lower.vector[axes].numpy("vector"), field.bounds.upper.vector[axes].numpy("vector")
    names = field.values.shape.get_item_names("vector") if "vector" in field.values.shape else ()
    return axes, field.resolution.sizes, *map(tuple, size), names, field.is_staggered, field.boundary


def described(info: FieldInfo, grid: Grid) -> object:
    """What `metadata` must find; PhiFlow compares boundaries, and to it one value equals a vector of equal ones."""
    staggered = info.sampling == "staggered"
    names = () if staggered else info.components
    boundary = boundary_to_extrapolation(info.boundary, grid.axes, info.components)
    return grid.axes, grid.resolution, grid.lower, grid.upper, names, staggered, boundary


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_fields_to_tensor_and_back_is_exact(layout: StateLayout, dtype: torch.dtype) -> None:
    fields = to_fields(random_state(layout, 2, dtype), layout)
    back = to_fields(to_tensor(fields, layout), layout)
    for name, field in fields.items():
        assert same(field, back[name]), name


def same(one: Field, two: Field) -> bool:
    """Equal to the last bit in values and metadata."""
    values = (one.values == two.values).all and one.values.dtype == two.values.dtype
    bounds = (one.bounds.lower == two.bounds.lower).all and (one.bounds.upper == two.bounds.upper).all
    metadata = one.resolution == two.resolution and one.extrapolation == two.extrapolation
    return bool(values and bounds and metadata and one.is_staggered == two.is_staggered)


SIDES = {"x": "periodic", "y": {"lower": 0, "upper": "zero-gradient"}}


@pytest.mark.parametrize("boundary", [0, 1.5, *NAMED, "periodic", SIDES])
def test_samples_agree_with_phiflow(boundary: object) -> None:
    ext = boundary_to_extrapolation(Boundary.parse(boundary, ("x", "y")), ("x", "y"))
    grid = StaggeredGrid(0, ext, x=4, y=3, bounds=Box(x=1, y=2))
    axes = ("x", "y")
    info = FieldInfo(name="v", components=axes, sampling="staggered", boundary=Boundary.parse(boundary, axes))
    own = Grid(axes=axes, resolution=(4, 3), lower=(0.0, 0.0), upper=(1.0, 2.0))
    for index, axis in enumerate("xy"):
        sizes = grid.values[{"~vector": axis}].shape
        assert info.samples(own, index) == (sizes.get_size("x"), sizes.get_size("y"))


def test_fields_of_others_come_in_unchanged() -> None:
    values = wrap(torch.rand(4, 5), spatial(y=4), spatial(x=5))
    scalar = CenteredGrid(values, extrapolation.ZERO_GRADIENT, Box(x=2, y=1), spatial(x=5, y=4))
    vector = CenteredGrid(vec(x=1.0, y=2.0), {"x": 0, "y": "periodic"}, x=5, y=4, bounds=Box(x=2, y=1))
    axes = ("x", "y")
    sides = Boundary.parse({"x": 0, "y": "periodic"}, axes)
    layout = StateLayout(
        grid=Grid(axes=axes, resolution=(5, 4), lower=(0.0, 0.0), upper=(2.0, 1.0)),
        dynamic=(FieldInfo(name="s", boundary=Boundary.parse("zero-gradient", axes)),),
        static=(FieldInfo(name="v", components=axes, boundary=sides),),
    )
    state = to_tensor({"s": scalar, "v": vector}, layout)
    assert state.shape == (1, 3, 5, 4)
    assert torch.equal(state[0, 1:, 0, 0], torch.tensor([1.0, 2.0]))
    assert torch.equal(state[0, 0], torch.as_tensor(scalar.values.numpy("x,y")))


def test_axis_order_of_values_does_not_matter() -> None:
    values = wrap(torch.arange(6.0).reshape(2, 3), spatial(y=2), spatial(x=3))
    field = CenteredGrid(values, 0, Box(x=1, y=1))
    axes = ("x", "y")
    grid = Grid(axes=axes, resolution=(3, 2), lower=(0.0, 0.0), upper=(1.0, 1.0))
    layout = StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse(0, axes)),))
    assert torch.equal(to_tensor({"u": field}, layout)[0, 0], values.native(axes))


def test_filler_is_zero_whatever_the_state_holds() -> None:
    axes = ("x", "y")
    grid = Grid(axes=axes, resolution=(3, 3), lower=(0.0, 0.0), upper=(1.0, 1.0))
    closed = FieldInfo(name="v", components=axes, sampling="staggered", boundary=Boundary.parse(0, axes))
    layout = StateLayout(grid=grid, dynamic=(closed, FieldInfo(name="p", boundary=Boundary.parse(0, axes))))
    state = torch.full((1, 3, 3, 3), math.nan).masked_fill(sample_mask(layout), 1.0)
    back = to_tensor(to_fields(state, layout), layout)
    assert torch.equal(back[0], sample_mask(layout).float())


def test_is_differentiable() -> None:
    axes = ("x", "y")
    grid = Grid(axes=axes, resolution=(3, 2), lower=(0.0, 0.0), upper=(1.0, 1.0))
    staggered = FieldInfo(name="v", components=axes, sampling="staggered", boundary=Boundary.parse(0, axes))
    layout = StateLayout(grid=grid, dynamic=(staggered, FieldInfo(name="s", boundary=Boundary.parse(0, axes))))
    state = random_state(layout, 2, torch.float64).requires_grad_()

    def squares(tensor: torch.Tensor) -> torch.Tensor:
        fields = to_fields(tensor, layout)
        return to_tensor({"v": fields["v"], "s": fields["s"] * fields["s"]}, layout)

    with precision(64):
        assert torch.autograd.gradcheck(squares, (state,))


def test_rollouts_are_lists_of_fields() -> None:
    layout = layout_1d()
    rollout = torch.randn(2, 5, 1, 8)
    steps = Converter(layout).rollout_fields(rollout)
    assert len(steps) == 5
    assert torch.equal(Converter(layout).rollout_tensor(steps), rollout)


def test_some_fields_by_name() -> None:
    layout = layout_1d(static=True)
    state = torch.randn(2, 2, 8)
    fields = to_fields(state, layout, names=["force", "u"])
    assert torch.equal(to_tensor(fields, layout), state.flip(1))
    assert list(to_fields(state[:, :1], layout)) == ["u"]


def layout_1d(static: bool = False) -> StateLayout:
    grid = Grid(axes=("x",), resolution=(8,), lower=(0.0,), upper=(1.0,))
    boundary = Boundary.parse("periodic", ("x",))
    force = (FieldInfo(name="force", boundary=boundary),) if static else ()
    return StateLayout(grid=grid, dynamic=(FieldInfo(name="u", boundary=boundary),), static=force)


@pytest.mark.parametrize(
    ("boundary", "components", "named"),
    [
        ({"normal": 0, "tangential": "zero-gradient"}, (), ["component"]),
        ({"normal": "periodic", "tangential": 0}, ("x", "y"), ["'periodic'", "normal or tangential part"]),
        ([1.0, 2.0, 3.0], ("x", "y"), [3, 2]),
    ],
)
def test_boundaries_that_do_not_fit_the_field(
    boundary: object, components: tuple[str, ...], named: list[object]
) -> None:
    with error_naming(DataError, *named):
        boundary_to_extrapolation(Boundary.parse(boundary, ("x", "y")), ("x", "y"), components)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((2, 1, 9), [(2, 1, 9), "[B, C, 8]"]),
        ((2, 3, 8), ["3 channels"]),
    ],
)
def test_states_that_do_not_fit(shape: tuple[int, ...], named: list[object]) -> None:
    with error_naming(DataError, *named):
        to_fields(torch.zeros(shape), layout_1d(static=True))


def test_fields_that_do_not_fit() -> None:
    layout = layout_1d(static=True)
    fields = to_fields(torch.zeros(1, 2, 8), layout)
    with error_naming(DataError, "'force'"):
        to_tensor({"u": fields["u"]}, layout, names=["u", "force"])
    with error_naming(DataError, "'p'"):
        to_tensor({**fields, "p": fields["u"]}, layout)
    with error_naming(DataError, "'u'", (4,), (8,)):
        to_tensor({"u": CenteredGrid(0, 0, x=4)}, layout, names=["u"])
    with error_naming(DataError, "'u'"):
        to_tensor({"u": expand(fields["u"], batch(runs=2))}, layout, names=["u"])
    with error_naming(DataError, "'u'", "dimension"):
        to_tensor({"u": expand(fields["u"], channel(vector="x"))}, layout, names=["u"])


def windows() -> WindowDataset:
    dynamic = torch.randn(6, 1, 8)
    return WindowDataset([Trajectory(dynamic=dynamic, static=torch.randn(1, 8))], horizon=2)


def test_a_view_gives_fields_and_is_still_a_data_set_of_tensors() -> None:
    layout, samples = layout_1d(static=True), windows()
    view = FieldView(samples, layout)
    assert len(view) == len(samples) == 4
    first, later = view[1]
    state, rollout = samples[1]
    assert set(first) == {"u", "force"}
    assert {name: len(steps) for name, steps in later.items()} == {"u": 2}
    assert first["u"].shape == spatial(x=8)
    assert torch.equal(to_tensor(first, layout)[0], state)
    assert torch.equal(to_tensor({"u": later["u"][1]}, layout)[0], rollout[1])
    indices = torch.tensor([2, 0])
    assert all(torch.equal(a, b) for a, b in zip(view.batch(indices), samples.batch(indices), strict=True))
    assert torch.equal(view.inputs(indices), samples.inputs(indices))
    with pytest.raises(IndexError):
        view[4]


def test_samples_held_as_fields_are_a_data_set() -> None:
    layout, samples = layout_1d(static=True), windows()
    view = FieldView(samples, layout)
    held = FieldSamples([view[index] for index in range(len(view))], layout)
    indices = torch.tensor([3, 1, 1])
    for one, two in zip(held.batch(indices), samples.batch(indices), strict=True):
        assert torch.equal(one, two)
    assert FieldSamples(held.samples, layout, torch.float64).batch(indices)[0].dtype == torch.float64


def test_held_samples_must_be_of_one_length() -> None:
    layout = layout_1d()
    first = to_fields(torch.zeros(1, 1, 8), layout)
    with error_naming(DataError, [1, 2]):
        FieldSamples([(first, {"u": [first["u"]]}), (first, {"u": [first["u"]] * 2})], layout)
    with error_naming(DataError, "sample 0", "u"):
        FieldSamples([(first, {})], layout)
