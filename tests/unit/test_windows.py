"""Sliding windows: counts, contents, ragged and missing data, in memory and mapped."""

from __future__ import annotations

import pytest
import torch
from data_cases import numbered
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming

from hyco_engine.data import windows
from hyco_engine.data.windows import WindowDataset, count_windows
from hyco_engine.interfaces import Trajectory


def test_fifty_frames_and_horizon_three_give_47_windows():
    dataset = WindowDataset([numbered(50)], horizon=3)
    assert len(dataset) == 47
    state, targets = dataset[46]
    assert state.shape == (1, 5)
    assert targets.shape == (3, 1, 5)
    assert state[0, 0] == 46
    assert targets[:, 0, 0].tolist() == [47, 48, 49]


@pytest.mark.parametrize("joined", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 4),
    data=st.data(),
)
def test_every_window_holds_the_frames_it_says(joined, frames, horizon, stride, data):
    trajectories = [numbered(count, i, n_dynamic=2, n_static=1) for i, count in enumerate(frames)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "GATHER_BYTES", 2**28 if joined else 0)
        dataset = WindowDataset(trajectories, horizon=horizon, stride=stride)
    assert len(dataset) == sum(max(0, (count - horizon - 1) // stride + 1) for count in frames)
    assert len(dataset) == sum(count_windows(count, horizon, stride) for count in frames)
    assert dataset.skipped == 0
    if not len(dataset):
        return
    indices = torch.tensor(data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=9)))
    states, targets = dataset.batch(indices)
    assert torch.equal(dataset.inputs(indices), states)
    assert states.is_contiguous()
    assert targets.is_contiguous()
    for row, index in enumerate(indices.tolist()):
        simulation, frame = dataset.window(index)
        assert frame % stride == 0
        source = trajectories[simulation]
        assert torch.equal(states[row], torch.cat([source.dynamic[frame], source.static]))
        assert torch.equal(targets[row], source.dynamic[frame + 1 : frame + 1 + horizon])


def test_windows_come_in_order_and_each_once():
    dataset = WindowDataset([numbered(4, 0), numbered(3, 1)], horizon=1)
    assert [dataset.window(i) for i in range(len(dataset))] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize("joined", [True, False])
def test_missing_targets_pass_and_missing_states_are_skipped(joined, monkeypatch):
    monkeypatch.setattr(windows, "GATHER_BYTES", 2**28 if joined else 0)
    trajectory = numbered(6)
    trajectory.dynamic[2, 0, 3] = torch.nan
    dataset = WindowDataset([trajectory, numbered(3, 1)], horizon=1)
    assert [dataset.window(i) for i in range(len(dataset))] == [(0, 0), (0, 1), (0, 3), (0, 4), (1, 0), (1, 1)]
    assert dataset.skipped == 1
    states, targets = dataset.batch(torch.arange(len(dataset)))
    assert not states.isnan().any()
    assert targets[1, 0, 0].isnan().tolist() == [False, False, False, True, False]
    assert targets.isnan().sum() == 1


def test_a_simulation_whose_static_field_is_missing_gives_no_window():
    hidden = numbered(4, 1, n_static=1)
    hidden.static[0, 0] = torch.nan
    dataset = WindowDataset([numbered(4, 0, n_static=1), hidden], horizon=2)
    assert [dataset.window(i)[0] for i in range(len(dataset))] == [0, 0]
    assert dataset.skipped == 2


def test_batches_do_not_share_memory_with_the_data():
    trajectory = numbered(5)
    states, targets = WindowDataset([trajectory], horizon=1).batch(torch.tensor([0]))
    states.zero_()
    targets.zero_()
    assert torch.equal(trajectory.dynamic, numbered(5).dynamic)


def test_two_dimensions_and_sample_bytes():
    trajectory = Trajectory(dynamic=torch.rand(7, 2, 4, 3), static=torch.rand(1, 4, 3))
    dataset = WindowDataset([trajectory], horizon=3)
    states, targets = dataset.batch(torch.tensor([3, 0]))
    assert states.shape == (2, 3, 4, 3)
    assert targets.shape == (2, 3, 2, 4, 3)
    assert dataset.sample_bytes == states[0].nbytes + targets[0].nbytes


def test_no_trajectories_and_wrong_settings():
    assert len(WindowDataset([], horizon=1)) == 0
    assert WindowDataset([], horizon=1).sample_bytes == 0
    with error_naming(ValueError, "horizon", "stride", 0, 1):
        WindowDataset([], horizon=0)


def test_an_index_that_is_none_is_refused():
    dataset = WindowDataset([numbered(4)], horizon=1)
    with pytest.raises(IndexError):
        dataset.batch(torch.tensor([3]))
    with pytest.raises(IndexError):
        dataset[3]
