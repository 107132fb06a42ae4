"""Statistics against their definition on random data, with filler, missing values and constants."""

from __future__ import annotations

import json

import pytest
import torch
from data_cases import grid, layout, scalar

from hyco_engine.data import statistics
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.interfaces import Trajectory


def random_trajectories(lengths, n_dynamic, n_static, *shape, offset=0.0):
    generator = torch.Generator().manual_seed(1)
    return [
        Trajectory(
            dynamic=offset + torch.randn(n, n_dynamic, *shape, generator=generator, dtype=torch.float64),
            static=torch.randn(n_static, *shape, generator=generator, dtype=torch.float64),
        )
        for n in lengths
    ]


@pytest.mark.parametrize("chunk", [1, 13, 2**22])
def test_scalars_match_their_definition_however_they_are_streamed(chunk, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", chunk)
    data = random_trajectories([4, 7, 1], 2, 1, 5, offset=1e6)
    found = Statistics.of(data, layout("uv", "c"))
    values = torch.cat([t.dynamic for t in data])
    static = torch.stack([t.static for t in data])
    changes = torch.cat([t.dynamic.diff(dim=0) for t in data])
    torch.testing.assert_close(found.mean[:2], values.mean(dim=(0, 2)), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.std[:2], values.std(dim=(0, 2), correction=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.mean[2:], static.mean(dim=(0, 2)), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.std[2:], static.std(dim=(0, 2), correction=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.change_std, changes.square().mean(dim=(0, 2)).sqrt(), rtol=1e-9, atol=0)
    largest = torch.cat([values.abs().amax(dim=(0, 2)), static.abs().amax(dim=(0, 2))])
    assert torch.equal(found.largest, largest)


def test_a_vector_shares_its_spread_and_keeps_its_means():
    u = FieldInfo(name="u", components=("x", "y"), boundary=Boundary.parse("periodic", ("x", "y")))
    data = random_trajectories([6], 2, 0, 4, 3)
    data[0].dynamic[:, 1] = 5 + 3 * data[0].dynamic[:, 1]
    found = Statistics.of(data, StateLayout(grid=grid(4, 3), dynamic=(u,)))
    variance = data[0].dynamic.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(found.mean, data[0].dynamic.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found.std, variance.mean().sqrt().expand(2))
    assert found.change_std[0] == found.change_std[1]


def test_filler_is_not_counted():
    v = FieldInfo(
        name="v", components=("x", "y"), sampling="staggered", boundary=Boundary.parse("zero-gradient", ("x", "y"))
    )
    own = StateLayout(grid=grid(2, 2), dynamic=(v,))
    assert own.spatial == (3, 3)
    dynamic = torch.zeros(2, 2, 3, 3)
    dynamic[:, 0, :, :2] = 4.0
    dynamic[:, 1, :2, :] = torch.tensor([1.0, 3.0])[:, None, None]
    found = Statistics.of([Trajectory(dynamic=dynamic, static=torch.zeros(0, 3, 3))], own)
    assert found.mean.tolist() == [4.0, 2.0]
    assert found.std.tolist() == pytest.approx([0.5**0.5] * 2)
    assert found.change_std.tolist() == pytest.approx([2**0.5] * 2)


def test_missing_values_are_left_out():
    nan = torch.nan
    dynamic = torch.tensor([[1.0, nan], [3.0, 5.0], [nan, 6.0]])[:, None]
    found = Statistics.of([Trajectory(dynamic=dynamic, static=torch.zeros(0, 2))], layout("u", "", (2,)))
    assert found.mean.item() == pytest.approx(15 / 4)
    assert found.std.item() == pytest.approx(torch.tensor([1.0, 3, 5, 6]).std(correction=0).item())
    assert found.change_std.item() == pytest.approx((5 / 2) ** 0.5)  # changes of 2 and 1


@pytest.mark.parametrize("value", [0.0, 0.1, -1e8])
def test_what_is_constant_has_its_own_size_as_spread_and_one_if_it_is_zero(value):
    noise = torch.tensor([0.0, 1.0, -1.0])[:, None, None] * torch.finfo(torch.float32).eps * abs(value)
    dynamic = (torch.full((3, 1, 5), value) + noise).float()
    found = Statistics.of([Trajectory(dynamic=dynamic, static=torch.zeros(1, 5))], layout("u", "c"))
    assert found.std.tolist() == pytest.approx([abs(value) or 1.0, 1.0])
    assert found.change_std.tolist() == [found.std[0].item()]


def test_what_differs_in_space_alone_changes_by_its_spread():
    frames = torch.tensor([2e-9, 4e-9, 6e-9], dtype=torch.float64).expand(4, 1, 3)
    found = Statistics.of([Trajectory(dynamic=frames, static=torch.zeros(0, 3))], layout("u", resolution=(3,)))
    assert found.change_std.item() == found.std.item() == pytest.approx(2e-9 * (2 / 3) ** 0.5)


def test_a_small_spread_that_is_real_is_kept():
    data = random_trajectories([5], 1, 0, 5)
    data[0].dynamic.mul_(1e-20)
    assert 0.5e-20 < Statistics.of(data, layout("u")).std.item() < 2e-20


def test_json_round_trip_is_exact():
    found = Statistics.of(random_trajectories([4], 1, 1, 5), layout("u", "c"))
    again = Statistics.from_data(json.loads(json.dumps(found.to_data())))
    for name in ("mean", "std", "change_std"):
        assert torch.equal(getattr(found, name), getattr(again, name))


def test_layout_round_trip_is_exact():
    walls = {"x": {"lower": 0.1, "upper": {"normal": 0, "tangential": "zero-gradient"}}, "y": "reflect"}
    v = FieldInfo(name="v", components=("x", "y"), boundary=Boundary.parse(walls, ("x", "y")), unit="m/s")
    own = StateLayout(grid=grid(3, 2), dynamic=(v,), static=(scalar("c", "xy", [2.0]),))
    assert StateLayout.from_data(json.loads(json.dumps(own.to_data()))) == own


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        {"grid": {}, "dynamic": [], "static": []},
        {**layout().to_data(), "dynamic": "u"},
        {**layout().to_data(), "dynamic": [{**layout().to_data()["dynamic"][0], "sampling": "odd"}]},
        {**layout().to_data(), "grid": {**layout().to_data()["grid"], "resolution": [2.5]}},
        {**layout().to_data(), "grid": {**layout().to_data()["grid"], "lower": ["0"]}},
    ],
)
def test_a_damaged_layout_raises_value_error(broken):
    with pytest.raises(ValueError, match=r"."):
        StateLayout.from_data(broken)
