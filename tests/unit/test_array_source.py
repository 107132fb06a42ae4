"""The source `arrays`: formats, axes, nodes and cells, errors, files from elsewhere."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from data_cases import choice
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.builtin.sources.array_axes import Evidence, plan_axis
from hyco_engine.builtin.sources.arrays import ArraysSource
from hyco_engine.builtin.sources.options import ArraysOptions, Variable
from hyco_engine.data import array_files
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import BoundarySetting, Split
from hyco_engine.errors import DataError, HycoError, SpecError
from hyco_engine.physics.settings import ArrayFile, Profile

SHARED = Path(__file__).parents[3] / "shared" / "data"


def opened(path, **keys):
    """Open a file with the settings of most tests: one field u over (t, x), periodic, on the unit interval."""
    keys = {"axes": "tx", "dt": 0.1, "boundary": "periodic", "bounds": {"x": (0.0, 1.0)}, **keys}
    setting = keys.pop("boundary")
    return ArraysSource(
        ArraysOptions(path=path, boundary=None if setting is None else BoundarySetting.from_data(setting), **keys)
    )


def saved(folder, array, name="u.npy"):
    np.save(folder / name, array)
    return folder / name


def wave(frames=6, n=8, end=False):
    """Return a decaying sine on [0, 1], on `n` cells or, with `end`, on `n` nodes that include both ends."""
    x = np.linspace(0, 1, n) if end else (np.arange(n) + 0.5) / n
    return np.exp(-0.1 * np.arange(frames))[:, None] * np.sin(2 * np.pi * x)


def refused(make, error=DataError):
    with pytest.raises(HycoError) as caught:
        make()
    assert isinstance(caught.value, error)
    return str(caught.value)


# --- formats ---


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "mat73", "folder"])
def test_each_format_gives_the_same(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(3, 6, 4, 5))
    path = tmp_path / {"mat73": "a.mat", "folder": "a"}.get(kind, f"a.{kind}")
    if kind == "npy":
        np.save(path, values)
    elif kind == "npz":
        np.savez_compressed(path, u=values, other=np.zeros(2))
    elif kind == "mat":
        scipy.io.savemat(path, {"u": values, "name": "text", "cell": np.array([1, "a"], dtype=object)})
    elif kind == "mat73":
        with h5py.File(path, "w", userblock_size=512) as file:
            file["u"] = values.T
    else:
        path.mkdir()
        np.save(path / "u.npy", values)
        np.save(path / "v.npy", values)
    source = opened(
        path,
        variables={} if kind in ("npy", "mat73") else {"u": "u"},
        axes="styx",
        bounds={"x": (0.0, 1.0), "y": (0.0, 2.0)},
    )
    assert source.num_simulations == 3
    assert source.frames(0) == 6
    assert source.layout.grid.resolution == (5, 4)
    assert source.layout.grid.upper == (1.0, 2.0)
    for index in (2, 0, 1):
        trajectory = source.load(index)
        assert trajectory.static.shape == (0, 5, 4)
        assert np.array_equal(trajectory.dynamic[:, 0].numpy(), values[index].transpose(0, 2, 1))
    assert str(path) in source.origin("u", 0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f4", torch.float32), (">f8", torch.float64), ("f2", torch.float32), ("i4", torch.float64), ("?", torch.float64)],
)
def test_dtypes(tmp_path, dtype, expected):
    values = np.arange(20).reshape(4, 5).astype(dtype)
    dynamic = opened(saved(tmp_path, values)).load(0).dynamic
    assert dynamic.dtype == expected
    assert np.array_equal(dynamic[:, 0].numpy(), values.astype("f8"))


def test_fortran_order(tmp_path):
    values = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 5)))
    assert np.array_equal(opened(saved(tmp_path, values)).load(0).dynamic[:, 0].numpy(), values)


def test_matlab_adds_and_drops_axes_of_length_one(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"u": wave(6, 4).T[..., None], "c": np.arange(4.0), "t": np.arange(6.0)})
    variables = {"u": Variable(axes="xts"), "c": Variable(axes="x")}
    source = opened(path, variables=variables, axes="", dt=None, time="t")
    assert source.load(0).dynamic.shape == (6, 1, 4)
    assert source.load(0).static[0].tolist() == [0, 1, 2, 3]


def test_vectors_static_fields_and_units(tmp_path):
    path = tmp_path / "a.npz"
    velocity = np.random.default_rng(1).normal(size=(2, 5, 3, 4, 2))
    depth, wind = np.arange(12.0).reshape(4, 3), np.full((2, 5, 3, 4, 3), 2.0)
    np.savez(path, vel=velocity, depth=depth, wind=wind)
    source = opened(
        path,
        axes="styxc",
        bounds={"x": (0.0, 1.0), "y": (0.0, 1.0)},
        variables={
            "depth": Variable(axes="xy", unit="m", boundary=BoundarySetting("zero-gradient")),
            "wind": Variable(static=True, components=("a", "b", "c")),
            "v": Variable(variable="vel", unit="m/s"),
        },
    )
    assert [(f.name, f.components, f.unit) for f in source.layout.fields] == [
        ("v", ("x", "y"), "m/s"),
        ("depth", (), "m"),
        ("wind", ("a", "b", "c"), "1"),
    ]
    assert source.layout.static[0].boundary.sides["x"][0].kind == "zero-gradient"
    trajectory = source.load(1)
    assert np.array_equal(trajectory.dynamic.numpy(), velocity[1].transpose(0, 3, 2, 1))
    assert np.array_equal(trajectory.static[0].numpy(), depth)
    assert bool((trajectory.static[1:] == 2).all())


def test_staggered_fields(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 5, 4, 2))
    variables = {"v": Variable(variable="u", axes="txyc", sampling="staggered")}
    path = saved(tmp_path, values)
    bounds = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    opens = opened(path, axes="", variables=variables, bounds=bounds, boundary="zero-gradient")
    assert opens.layout.grid.resolution == (4, 3)
    assert opens.layout.spatial == (5, 4)
    assert np.array_equal(opens.load(0).dynamic.numpy(), values.transpose(0, 3, 1, 2))
    assert opened(path, axes="", variables=variables, bounds=bounds).layout.grid.resolution == (5, 4)
    closed = opened(path, axes="", variables=variables, bounds=bounds, boundary=0)
    assert closed.layout.grid.resolution == (5, 4)
    assert closed.layout.dynamic[0].samples(closed.layout.grid, 0) == (4, 4)


def test_truth(tmp_path):
    np.save(tmp_path / "D.npy", np.arange(8.0))
    truth = {"nu": 0.01, "D": ArrayFile(file=tmp_path / "D.npy"), "E": Profile(profile="sin-squared")}
    source = opened(saved(tmp_path, wave()), truth=truth)
    assert float(source.truth["nu"]) == 0.01
    assert source.truth["D"].tolist() == list(range(8))
    assert source.truth["E"].shape == (8,)
    np.save(tmp_path / "D.npy", np.arange(7.0))
    message = refused(lambda: opened(tmp_path / "u.npy", truth=truth))
    assert message == f"data.truth.D: {tmp_path / 'D.npy'} has the shape (7,), and the grid has (8,) cells"


# --- nodes and cells ---


def grid_of(source, axis="x"):
    grid = source.layout.grid
    i = grid.axes.index(axis)
    return grid.resolution[i], pytest.approx(grid.lower[i]), pytest.approx(grid.upper[i])


def with_positions(folder, values, x):
    np.savez(folder / "a.npz", u=values, x=x)
    return folder / "a.npz"


NODES, CELLS = np.linspace(0, 1, 9), (np.arange(9) + 0.5) / 9


@pytest.mark.parametrize(
    ("keys", "positions", "expected"),
    [
        # bounds alone: cells, unless said otherwise
        ({"boundary": 0}, None, (slice(0, 9), 0, 1)),
        ({"boundary": 0, "points": "nodes"}, None, (slice(1, 8), 1 / 16, 15 / 16)),
        ({"points": "nodes"}, None, (slice(0, 8), -1 / 16, 15 / 16)),
        ({"boundary": "reflect", "points": "nodes"}, None, (slice(0, 9), -1 / 16, 17 / 16)),
        # positions and bounds
        ({"boundary": 0}, NODES, (slice(1, 8), 1 / 16, 15 / 16)),
        ({"boundary": 0}, CELLS, (slice(0, 9), 0, 1)),
        ({}, NODES, (slice(0, 8), -1 / 16, 15 / 16)),
        ({}, CELLS, (slice(0, 9), 0, 1)),
        ({}, np.arange(9) / 9, (slice(0, 9), -1 / 18, 17 / 18)),
        ({}, (np.arange(9) + 1) / 9, (slice(0, 9), 1 / 18, 19 / 18)),
        ({"boundary": "zero-gradient"}, NODES, (slice(0, 9), -1 / 16, 17 / 16)),
        ({"boundary": "zero-gradient"}, CELLS, (slice(0, 9), 0, 1)),
        ({"boundary": 0}, (np.arange(9) + 1) / 10, (slice(0, 9), 1 / 20, 19 / 20)),
        ({"boundary": {"x": {"lower": 0, "upper": "zero-gradient"}}}, NODES, (slice(1, 9), 1 / 16, 17 / 16)),
        ({"boundary": {"x": {"lower": "symmetric", "upper": 0}}}, NODES, (slice(0, 8), -1 / 16, 15 / 16)),
        # positions alone: what the values look like
        ({"boundary": 0, "bounds": {}}, NODES, (slice(1, 8), 1 / 16, 15 / 16)),
        ({"boundary": 0, "bounds": {}, "points": "cells"}, NODES, (slice(0, 9), -1 / 16, 17 / 16)),
        ({"bounds": {}}, NODES, (slice(0, 8), -1 / 16, 15 / 16)),
        ({"bounds": {}, "points": "cells"}, NODES, (slice(0, 9), -1 / 16, 17 / 16)),
        ({"boundary": "zero-gradient", "bounds": {}}, NODES, (slice(0, 9), -1 / 16, 17 / 16)),
    ],
)
def test_what_samples_along_an_axis_become(tmp_path, keys, positions, expected):
    values = wave(n=9, end=True)
    coordinates = {} if positions is None else {"x": "x"}
    path = with_positions(tmp_path, values, NODES if positions is None else positions)
    source = opened(path, variables={"u": "u"}, coordinates=coordinates, **keys)
    keep, lower, upper = expected
    assert grid_of(source) == (keep.stop - keep.start, lower, upper)
    assert np.array_equal(source.load(0).dynamic[:, 0].numpy(), values[:, keep])
    # the centres are where the samples are
    if positions is not None:
        assert source.layout.grid.centers("x") == pytest.approx(positions[keep].tolist())


RULES = ("fixed", "open")


@given(
    n=st.integers(5, 40),
    sides=st.one_of(st.just(("periodic", "periodic")), st.tuples(st.sampled_from(RULES), st.sampled_from(RULES))),
    nodes=st.booleans(),
    lower=st.floats(-1e3, 1e3),
    length=st.floats(1e-3, 1e3),
    told=st.sampled_from(["bounds", "both", "positions"]),
)
def test_cells_lie_where_the_samples_are(n, sides, nodes, lower, length, told):
    upper = lower + length
    positions = np.linspace(lower, upper, n) if nodes else lower + (np.arange(n) + 0.5) * (length / n)
    plan = plan_axis(
        "x",
        n,
        positions=None if told == "bounds" else positions,
        bounds=None if told == "positions" else (lower, upper),
        sides=sides,
        points="auto" if told == "both" else "nodes" if nodes else "cells",
        evidence=Evidence(look=lambda side: pytest.fail("looked"), repeats=lambda: pytest.fail("looked")),
    )
    drops = [nodes and side == "fixed" for side in sides]
    assert plan.drops == tuple(drops)
    assert plan.repeats == (nodes and sides[0] == "periodic")
    assert plan.resolution == n - sum(drops) - plan.repeats == len(positions[plan.keep])
    step = (plan.upper - plan.lower) / plan.resolution
    centers = plan.lower + step * (np.arange(plan.resolution) + 0.5)
    np.testing.assert_allclose(centers, positions[plan.keep], rtol=0, atol=1e-9 * (abs(lower) + length))
    # a ghost cell lies on the end of the domain
    ghosts = (plan.lower - step / 2, plan.upper + step / 2)
    for drop, ghost, end in zip(drops, ghosts, (lower, upper), strict=True):
        assert not drop or ghost == pytest.approx(end, abs=1e-9 * (abs(lower) + length))


def test_values_that_vary_at_the_ends_are_cells(tmp_path):
    for values, boundary in ((wave(n=9), 0), (wave(n=9), "periodic")):
        path = with_positions(tmp_path, values, CELLS)
        source = opened(path, variables={"u": "u"}, coordinates={"x": "x"}, bounds={}, boundary=boundary)
        assert grid_of(source) == (9, 0, 1)


def test_two_axes_decide_each_for_itself(tmp_path):
    values = np.stack([np.outer(np.sin(2 * np.pi * NODES), np.sin(2 * np.pi * CELLS)) * a for a in (1, 0.5, 0.25)])
    path = tmp_path / "a.npz"
    np.savez(path, u=values, x=NODES, y=CELLS)
    walls = {"x": 0, "y": "periodic"}
    keys = {"axes": "txy", "variables": {"u": "u"}, "coordinates": {"x": "x", "y": "y"}, "boundary": walls}
    for bounds in ({}, {"x": (0.0, 1.0)}, {"x": (0.0, 1.0), "y": (0.0, 1.0)}):
        source = opened(path, bounds=bounds, **keys)
        assert grid_of(source, "x") == (7, 1 / 16, 15 / 16)
        assert grid_of(source, "y") == (9, 0, 1)
        assert np.array_equal(source.load(0).dynamic[:, 0].numpy(), values[:, 1:-1])


def test_corners_belong_to_no_side(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 6, 6))
    values[:, [0, -1], :] = 0
    values[:, :, [0, -1]] = 2.0
    sides = {"x": 0, "y": 2.0}
    path = saved(tmp_path, values)
    bounds = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    source = opened(path, axes="txy", bounds=bounds, boundary=sides, points="nodes")
    assert source.load(0).dynamic.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("field", [np.cos(2 * np.pi * CELLS), np.exp(-((20 * (CELLS - 0.5)) ** 4))])
def test_equal_ends_of_a_symmetric_field_prove_nothing_unless_positions_do(tmp_path, field):
    values = np.outer([1.0, 0.5], field)
    keys = {"variables": {"u": "u"}, "coordinates": {"x": "x"}}
    # half a step from 0, as centres of cells are
    assert grid_of(opened(with_positions(tmp_path, values, CELLS), bounds={}, **keys)) == (9, 0, 1)
    assert grid_of(opened(with_positions(tmp_path, values, CELLS - 1), bounds={}, **keys)) == (9, -1, 0)
    path = with_positions(tmp_path, values, CELLS + 0.0217)
    assert refused(lambda: opened(path, bounds={}, **keys)) == (
        "data.points: along x the last samples equal the first, but neither the values nor the positions show whether "
        "both are the same point of the period; give bounds.x = [lower, upper], or set points: "
        '"nodes" if the last sample repeats the first, else "cells"'
    )
    assert grid_of(opened(path, bounds={"x": (0.0217, 1.0217)}, **keys)) == (9, 0.0217, 1.0217)
    assert grid_of(opened(path, bounds={}, points="cells", **keys)) == (9, 0.0217, 1.0217)
    assert grid_of(opened(path, bounds={}, points="nodes", **keys))[0] == 8


@pytest.mark.parametrize(
    ("lower", "upper"), [(-8, 8), (0, 1), (0, 100), (-1, 1), (0, 2 * np.pi), (-np.pi, np.pi), (0.25, 1.5), (-16, 0)]
)
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_the_round_end_of_a_period_shows_whether_the_last_sample_repeats_the_first(tmp_path, lower, upper, precision):
    keys = {"variables": {"u": "u"}, "coordinates": {"x": "x"}, "bounds": {}}
    for end, cells in ((True, 32), (False, 33)):
        x = np.linspace(lower, upper, 33, endpoint=end)
        values = np.outer([1.0, 0.5], np.exp(-((20 * np.linspace(-1, 1, 33)) ** 2)))
        half = (upper - lower) / cells / 2
        found = grid_of(opened(with_positions(tmp_path, values, x.astype(precision)), **keys))
        assert found == (cells, lower - half, upper - half)


def test_static_fields_lose_their_end_samples_too(tmp_path):
    np.savez(tmp_path / "a.npz", u=wave(n=9, end=True), c=np.arange(9.0))
    variables = {"u": "u", "c": Variable(axes="x", boundary=BoundarySetting("zero-gradient"))}
    source = opened(tmp_path / "a.npz", variables=variables, boundary=0, points="nodes")
    assert source.load(0).static[0].tolist() == list(range(1, 8))


def test_what_was_decided_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hyco_engine")
    path = saved(tmp_path, wave(n=9, end=True))
    opened(path, boundary=0, points="nodes")
    assert caplog.messages == [
        f"{path}: 1 simulation(s) of 6 frames, dt 0.1\n"
        "  u: array 'u' (6, 9), axes 'tx'\n"
        "  x: 9 samples from 0 to 1 are nodes; both end samples hold the boundary's fixed value and become ghost cells "
        "-> 7 cells on [0.0625, 0.9375]"
    ]


def test_a_suspicion_of_nodes_is_told(tmp_path, caplog):
    path = saved(tmp_path, wave(n=9, end=True))
    opened(path, boundary=0).load(0)
    assert caplog.messages == [
        f"{path}: the samples at both ends of x keep the boundary's value, as nodes on the bounds do, but are taken "
        f"for "
        'cell centres half a cell inside; set points = "nodes" or "cells" to say which they are'
    ]
    caplog.clear()
    opened(path, boundary=0, points="cells").load(0)
    opened(saved(tmp_path, wave(n=9)), boundary=0).load(0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"boundary": 1.0},
            "data.boundary: FILE, array 'u': the field 'u' of simulation 0 has nodes on the lower end of x, where the "
            "boundary gives 1, but a sample is 0 in frame 0 (allowed difference: 0.0002): the grid does not match the "
            "boundary; correct boundary or bounds. If these are measured values at a wall whose value is known, write "
            "that value into the file, or allow more by data.tolerance; if the samples lie in the middle of cells, set "
            'points = "cells"',
        ),
        (
            {"boundary": 1.0, "bounds": {}},
            "data.boundary: at the lower end of x, FILE, array 'u': the field 'u' of simulation 0 keeps the value 0, "
            "and "
            "the boundary gives 1: the grid does not match the boundary; correct boundary, or set "
            'points = "cells" if the end samples are no boundary values',
        ),
        (
            {"bounds": {"x": (0.0, 2.0)}},
            "data.bounds.x: the positions along x run from 0 to 1, 0.125 apart, and match neither the cells nor the "
            "nodes of "
            "the bounds 0 to 2; correct the bounds, or leave them out",
        ),
        (
            {"points": "cells"},
            "data.bounds.x: the positions along x run from 0 to 1, 0.125 apart, and match neither the cells nor the "
            "nodes of "
            'the bounds 0 to 1 with points = "cells"; correct the bounds, or leave them out',
        ),
    ],
)
def test_a_grid_that_does_not_match_the_boundary(tmp_path, keys, message):
    path = with_positions(tmp_path, wave(n=9, end=True), NODES)
    found = refused(lambda: opened(path, variables={"u": "u"}, coordinates={"x": "x"}, **keys).load(0))
    assert found == message.replace("FILE", str(path))


def test_nodes_of_a_period_must_repeat(tmp_path):
    values = wave(n=9, end=True) + np.linspace(0, 1e-3, 9)
    path = saved(tmp_path, values)
    assert refused(lambda: opened(path, points="nodes").load(0)) == (
        f"data.boundary: {path}, array 'u': the field 'u' of simulation 0 has nodes on both ends of the period along "
        f"x, but "
        f"its last samples differ from the first by up to 0.001 (allowed: 0.0002): the grid does not match the "
        f"boundary; "
        f'correct bounds or boundary, set points = "cells", or allow more by data.tolerance'
    )
    assert opened(path, points="nodes", tolerance=1e-3).load(0).dynamic.shape == (6, 1, 8)


def test_rounding_at_the_ends_is_allowed(tmp_path):
    values = wave(n=9, end=True)
    values[:, [0, -1]] += 3e-6
    assert opened(saved(tmp_path, values), boundary=0, points="nodes").load(0).dynamic.shape == (6, 1, 7)


@pytest.mark.parametrize("level", [0.0, 101325.0, -1e9])
@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_ends_are_judged_by_the_spread_of_a_field(tmp_path, level, factor):
    """24 cells stay 24 cells, and 24 nodes become 22, wherever the field's zero lies and whatever its unit is."""
    for end, resolution in ((False, 24), (True, 22)):
        x = np.linspace(0, 1, 24) if end else (np.arange(24) + 0.5) / 24
        path = with_positions(tmp_path, factor * (level + wave(n=24, end=end)), x)
        source = opened(path, variables={"u": "u"}, coordinates={"x": "x"}, bounds={}, boundary=factor * level)
        assert source.layout.grid.resolution == (resolution,)
        assert len(source.load(0).dynamic[0, 0]) == resolution
        periodic = opened(path, variables={"u": "u"}, coordinates={"x": "x"}, bounds={})
        assert periodic.layout.grid.resolution == (23 if end else 24,)


def test_a_wall_whose_value_is_a_little_off_is_a_wall(tmp_path):
    x, t = np.linspace(0, 1, 51), np.linspace(0, 1, 41)
    frames = np.stack([(1 - x) + np.sin(np.pi * x) * np.exp(-s) + 2e-5 * s * x for s in t])
    ends = {"x": {"lower": 1.0, "upper": 0.0}}
    path = with_positions(tmp_path, frames, x)
    source = opened(path, variables={"u": "u"}, coordinates={"x": "x"}, bounds={}, boundary=ends)
    assert source.layout.grid.resolution == (49,)
    assert len(source.load(0).dynamic[0, 0]) == 49


def test_fields_that_disagree_about_the_ends(tmp_path):
    np.savez(tmp_path / "a.npz", u=wave(n=9, end=True), v=wave(n=9, end=True))
    variables = {"u": "u", "v": Variable(boundary=BoundarySetting("zero-gradient"))}
    make = lambda points: opened(tmp_path / "a.npz", variables=variables, boundary=0, points=points)  # noqa: E731
    assert grid_of(make("cells")) == (9, 0, 1)
    assert refused(lambda: make("nodes")) == (
        "data.boundary: the samples along x are nodes, and at the lower end the boundary fixes some fields and not "
        "others, "
        "so the end samples can be neither kept nor left out; give the fields boundaries of one sort there, or "
        "interpolate the data onto cells"
    )


def test_a_normal_and_tangential_wall_on_nodes(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 5, 5, 2))
    values[:, [0, -1], :, 0] = 1.0
    values[:, [0, -1], :, 1] = 2.0
    path = saved(tmp_path, values)
    wall = {"normal": 1.0, "tangential": 2.0}
    keys = {"axes": "txyc", "points": "nodes", "bounds": {"x": (0.0, 1.0), "y": (0.0, 1.0)}}
    source = opened(path, boundary={"x": wall, "y": "reflect"}, **keys)
    assert source.load(0).dynamic.shape == (3, 2, 3, 5)
    slip = {"normal": 1.0, "tangential": "zero-gradient"}
    assert "fixes some fields and not others" in refused(
        lambda: opened(path, boundary={"x": slip, "y": "reflect"}, **keys)
    )


# --- dt ---


def test_times_give_the_step(tmp_path):
    np.savez(tmp_path / "a.npz", u=wave(), t=(3 + 0.01 * np.arange(6)).astype("f4"))
    assert opened(tmp_path / "a.npz", variables={"u": "u"}, dt=None, time="t").dt == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [0, 1, 2, 3, 4.5, 5],
            "data.time: the times 't' must be evenly spaced; entry 4 is 4.5 where a spacing of 1 gives 4; "
            'data.resample = "linear" or "cubic" interpolates, "missing" takes frames that are missing among even ones '
            'as not observed, and kind = "points" takes samples as sensors at any place and time',
        ),
        ([5, 4, 3, 2, 1, 0], "data.time: the times 't' must increase; it runs from 5 to 0"),
        ([0, 1, 2, 3, 4, np.nan], "data.time: the times 't' must hold at least two finite numbers"),
        ([0, 1, 2, 3], "data.time: FILE: 't' (4,) must hold one number for each of the 6 frames"),
    ],
)
def test_times_that_are_no_times(tmp_path, times, message):
    np.savez(tmp_path / "a.npz", u=wave(), t=np.array(times, dtype=float))
    found = refused(lambda: opened(tmp_path / "a.npz", variables={"u": "u"}, dt=None, time="t"))
    assert found == message.replace("FILE", str(tmp_path / "a.npz"))


# --- mistakes in the spec ---


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (
            {"variables": {}},
            SpecError,
            "data.variables: the names of the arrays of the fields are missing: give for example variables = "
            '{u = "u"} (FILE has '
            "u (6, 8), c (8,), w (5, 8))",
        ),
        (
            {"variables": {"u": "uu"}},
            DataError,
            "data.variables.u: FILE has no array 'uu'; did you mean 'u'? (it has u (6, 8), c (8,), w (5, 8))",
        ),
        (
            {"axes": ""},
            SpecError,
            "data.axes: the meaning of the axes of 'u' (6, 8) is missing: give for example axes = \"tx\", one letter "
            "each: "
            "s simulation, t time, c component, x, y, z",
        ),
        (
            {"axes": "stx"},
            DataError,
            "data.axes: FILE: 'u' (6, 8) has 2 axes, and axes = 'stx' names 3",
        ),
        (
            {"axes": "xy", "bounds": {}},
            SpecError,
            "data.axes: no dynamic field has the time axis t (axes = 'xy'); at least one must",
        ),
        (
            {"boundary": None},
            SpecError,
            "data.boundary: the boundary of the field 'u' is missing: give a number where its value is fixed, "
            '"periodic", "zero-gradient", "symmetric", ..., or a table by axis and side',
        ),
        (
            {"boundary": {"y": 0}},
            SpecError,
            "data.boundary: the boundary names y; the axes are x",
        ),
        (
            {"boundary": [0.0, 1.0]},
            SpecError,
            "data.boundary: the boundary of 'u' has 2 numbers, and the field 1 component(s)",
        ),
        (
            {"bounds": {}},
            DataError,
            "data.bounds.x: the positions of the samples along x are missing: give bounds.x = [lower, upper], or "
            "name the "
            "array "
            "of their positions in coordinates.x",
        ),
        (
            {"bounds": {"x": (0.0, 1.0), "y": (0.0, 1.0)}},
            SpecError,
            "data.bounds.y: the fields have no axis y, only x",
        ),
        (
            {"variables": {"u": "u", "w": "w"}},
            DataError,
            "data.variables: the fields have different numbers of frames: u has 6, w has 5",
        ),
        (
            {"variables": {"u": "u", "c": Variable(axes="y")}},
            SpecError,
            "data.variables.u: the field 'u' has the axes 'tx' and lacks y, which another field has; all fields must "
            "share one grid",
        ),
        (
            {"variables": {"u": Variable(components=("a",))}},
            SpecError,
            "data.variables.u.components: the spec names 1 components, and the array has no axis c for them",
        ),
        (
            {"variables": {"u": Variable(sampling="staggered")}},
            SpecError,
            "data.variables.u.sampling: a staggered field must have one component for each axis, in the order x, "
            "along its "
            "axis c",
        ),
    ],
)
def test_spec_errors(tmp_path, keys, error, message):
    path = tmp_path / "a.npz"
    np.savez(path, u=wave(), c=np.zeros(8), w=wave(5))
    found = refused(lambda: opened(path, **{"variables": {"u": "u"}, **keys}), error)
    assert found == message.replace("FILE", str(path))


def test_a_static_field_that_changes(tmp_path):
    np.savez(tmp_path / "a.npz", u=wave(), c=wave())
    source = opened(tmp_path / "a.npz", variables={"u": "u", "c": Variable(static=True)})
    assert refused(lambda: source.load(0)) == (
        f"data.variables.c.static: {tmp_path / 'a.npz'}, array 'c': the field 'c' of simulation 0 is declared "
        f"static, but "
        "frame 1 differs from frame 0"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"axes": "tq"}, "axes are s (simulation), t (time), c (component), x, y and z, not 'q'"),
        ({"axes": "txx"}, "each axis appears once, not as in 'txx'"),
        ({"time": "t", "dt": 0.1}, "time: dt and time both give the time between two frames; keep one of them"),
        ({"dt": None}, "dt: the time between two frames is missing; give dt, or name the array of times in time"),
        ({"coordinates": {"r": "r"}}, "axes are x, y and z, not 'r'"),
    ],
)
def test_options(keys, message):
    with pytest.raises((ValueError, SpecError)) as caught:
        ArraysOptions(**{"path": Path("a.npy"), "dt": 0.1, **keys})
    assert str(caught.value) == message


# --- files nobody here made ---


def test_a_missing_file_says_what_is_there(tmp_path):
    saved(tmp_path, wave(), "waves.npy")
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert refused(lambda: opened(tmp_path / "wave.npy")) == (
        f"data.path: there is no file {tmp_path / 'wave.npy'}; did you mean 'waves.npy'?; {tmp_path} holds "
        f"waves.npy, runs"
    )
    assert refused(lambda: opened(tmp_path / "none" / "a.npy")) == (
        f"data.path: there is no file {tmp_path / 'none' / 'a.npy'}; {tmp_path} holds waves.npy, runs"
    )
    assert refused(lambda: opened(tmp_path / "runs")) == (
        f"data.path: the folder {tmp_path / 'runs'} holds no .npy file; {tmp_path / 'runs'} holds neither arrays nor "
        f"folders"
    )
    assert refused(lambda: opened(tmp_path / "notes.txt")) == (
        f"data.path: cannot read {tmp_path / 'notes.txt'}: the engine reads arrays from .npy, .npz, .mat, .h5, "
        f".hdf5, .csv, .tsv files and from folders of .npy"
    )


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_arrays_are_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    bomb = np.array([Bomb()], dtype=object)
    if name == "a.npy":
        np.save(name, bomb, allow_pickle=True)
        assert refused(lambda: opened(tmp_path / name)) == (
            f"data.path: cannot read {tmp_path / name}: it holds object, pickled Python objects, which the "
            "engine never reads; save them as numbers, np.asarray(u, dtype=float)"
        )
    else:
        np.savez(name, u=wave(), bomb=bomb)
        assert list(opened(tmp_path / name).reader.arrays) == ["u"]
    assert sorted(os.listdir()) == [name]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "b.mat"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.9])
def test_truncated_files(tmp_path, name, keep):
    path = tmp_path / name
    values = np.random.default_rng(0).normal(size=(40, 50))
    if name == "a.npy":
        np.save(path, values)
    elif name == "a.npz":
        np.savez(path, u=values)
    elif name == "a.mat":
        scipy.io.savemat(path, {"u": values}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            file["u"] = values
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert refused(lambda: opened(path).load(0)).startswith((f"data.path: cannot read {path}", "data.variables: "))


def test_sizes_are_not_believed(tmp_path):
    """A header that claims terabytes costs nothing."""
    huge = (10**6, 10**7)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": huge})
    assert refused(lambda: opened(tmp_path / "a.npy")) == (
        f"data.path: cannot read {tmp_path / 'a.npy'}: the file ends after 128 of 80000000000128 bytes"
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "u.npy")
    assert refused(lambda: opened(tmp_path / "a.npz")) == (
        f"data.path: cannot read {tmp_path / 'a.npz'}: the entry 'u.npy' declares 80000000000000 bytes and holds 128"
    )
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("u", shape=huge, dtype="f8", chunks=(10, 10))
    assert opened(tmp_path / "a.mat", axes="tx", bounds={"x": (0.0, 1.0)}).frames(0) == 10**7


def test_an_array_larger_than_memory_is_told(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", u=wave())
    monkeypatch.setattr(array_files, "free_memory", lambda: 100)
    assert refused(lambda: opened(tmp_path / "a.npz").load(0)) == (
        f"data.path: {tmp_path / 'a.npz'}: 'u' (6, 8) takes 3.84e-07 GB, and 1e-07 GB of memory are free; save it as "
        f".npy, "
        "which the engine reads piece by piece"
    )
    assert opened(saved(tmp_path, wave())).load(0).dynamic.shape == (6, 1, 8)


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["u"] = wave()
    layout = h5py.VirtualLayout(shape=(6, 8), dtype="f8")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "u", shape=(6, 8))
    wave().tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["external"] = h5py.ExternalLink(tmp_path / "secret.h5", "u")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (6, 8), "f8", external=[(str(tmp_path / "raw"), 0, 384)])
        file["own"] = wave().T
    source = opened(tmp_path / "a.mat")
    assert list(source.reader.arrays) == ["own"]
    for name in ("external", "virtual", "raw"):
        assert f"has no array '{name}'" in refused(lambda: opened(tmp_path / "a.mat", variables={"u": name}))  # noqa: B023


# --- fingerprint ---


def test_the_fingerprint_follows_content_and_not_place_or_time(tmp_path):
    path = saved(tmp_path, wave())
    first = opened(path).fingerprint()
    os.utime(path, (1, 1))
    assert opened(path).fingerprint() == first
    (tmp_path / "other").mkdir()
    path.rename(tmp_path / "other" / "u.npy")
    assert opened(tmp_path / "other" / "u.npy").fingerprint() == first
    changed = wave()
    changed[3, 3] += 1e-9
    assert opened(saved(tmp_path, changed)).fingerprint() != first
    assert opened(saved(tmp_path, wave(8, 8)), axes="xt").fingerprint() != opened(path).fingerprint()


def test_large_files_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "WHOLE_HASH_BYTES", 100)
    path = saved(tmp_path, wave())
    first = opened(path).fingerprint()
    os.utime(path, (1, 1))
    assert opened(path).fingerprint() != first


# --- real files ---


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
def test_burgers_shock(tmp_path):
    options = {
        "variables": {"u": "usol"},
        "axes": "xt",
        "dt": None,
        "time": "t",
        "coordinates": {"x": "x"},
        "boundary": 0,
    }
    path = SHARED / "raissi_pinns" / "burgers_shock.mat"
    for bounds in ({}, {"x": (-1.0, 1.0)}):
        source = opened(path, bounds=bounds, truth={"nu": 0.01 / np.pi}, **options)
        assert source.frames(0) == 100
        assert source.dt == pytest.approx(0.01)
        assert grid_of(source) == (254, -1 + 1 / 255, 1 - 1 / 255)
        usol = scipy.io.loadmat(path)["usol"]
        assert np.array_equal(source.load(0).dynamic[:, 0].numpy(), usol.T[:, 1:-1])
    manager = DataManager(source, choice(split=Split(by="time", train="0:70", val="70:80", test="80:100")), tmp_path)
    assert manager.planned_windows == len(manager.train) == 67
    assert [len(t.dynamic) for t in manager.heldout("test")] == [20]
    assert float(manager.truth["nu"]) == 0.01 / np.pi
    message = refused(lambda: opened(path, bounds={}, **{**options, "boundary": 1.0}))
    assert "the grid does not match the boundary" in message


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
def test_gray_scott():
    source = opened(
        SHARED / "hyco_grayscott",
        variables={"u": "U_timeseries", "v": "V_timeseries"},
        axes="tyx",
        dt=None,
        time="time_points",
        bounds={"x": (0.0, 1.0), "y": (0.0, 1.0)},
    )
    assert source.frames(0) == 51
    v = np.load(SHARED / "hyco_grayscott" / "V_timeseries.npy")
    assert np.array_equal(source.load(0).dynamic[:, 1].numpy(), v.transpose(0, 2, 1))
    assert source.load(0).dynamic.dtype == torch.float32
