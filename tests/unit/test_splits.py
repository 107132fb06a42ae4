"""Splits by simulation and by time: defaults, explicit ranges, whole error messages."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.data.settings import Split
from hyco_engine.data.splits import NAMES, Segment, check_lengths, resolve_split
from hyco_engine.errors import DataError


def simulations(split, frames):
    return {name: [s.simulation for s in parts] for name, parts in resolve_split(split, frames).items()}


def ranges(split, frames):
    return {name: [str(s) for s in parts] for name, parts in resolve_split(split, [frames]).items()}


@pytest.mark.parametrize(
    ("split", "count", "expected"),
    [
        (Split(), 2, ([0], [1], [])),
        (Split(), 25, (list(range(23)), [23, 24], [])),
        (Split(test="3:"), 5, ([0, 1], [2], [3, 4])),
        (Split(test=":1"), 4, ([1, 2], [3], [0])),
        (Split(train="0:2"), 5, ([0, 1], [4], [])),
        (Split(val="1:2"), 4, ([0, 2, 3], [1], [])),
        (Split(train=":3", val="3:4", test="-1:"), 5, ([0, 1, 2], [3], [4])),
    ],
)
def test_by_simulation(split, count, expected):
    assert simulations(split, [10] * count) == dict(zip(NAMES, expected, strict=True))


@pytest.mark.parametrize(
    ("keys", "frames", "expected"),
    [
        ({}, 100, (["0:90"], ["90:100"], [])),
        ({}, 5, (["0:3"], ["3:5"], [])),
        ({"test": "90:"}, 100, (["0:80"], ["80:90"], ["90:100"])),
        ({"train": ":50", "val": "50:60", "test": "60:"}, 100, (["0:50"], ["50:60"], ["60:100"])),
        ({"val": "40:50"}, 100, (["0:40", "50:100"], ["40:50"], [])),
    ],
)
def test_by_time(keys, frames, expected):
    assert ranges(Split(by="time", **keys), frames) == dict(zip(NAMES, expected, strict=True))


def test_by_time_cuts_every_simulation_from_its_own_end():
    found = resolve_split(Split(by="time", val="-4:"), [10, 20])
    assert found["train"] == (Segment(0, 0, 6), Segment(1, 0, 16))
    assert found["val"] == (Segment(0, 6, 10), Segment(1, 16, 20))


def test_by_simulation_keeps_each_length():
    assert resolve_split(Split(), [7, 9])["val"] == (Segment(1, 0, 9),)


@given(
    by=st.sampled_from(["simulation", "time"]),
    edges=st.lists(st.integers(0, 40), min_size=4, max_size=4, unique=True).map(sorted),
    chosen=st.sets(st.sampled_from(NAMES)),
    total=st.integers(1, 40),
)
def test_splits_never_overlap_and_never_leave_the_data(by, edges, chosen, total):
    spans = dict(zip(NAMES, itertools.pairwise(edges), strict=True))
    split = Split(by=by, **{name: f"{a}:{b}" for name, (a, b) in spans.items() if name in chosen})
    frames = [total] if by == "time" else [10] * total
    try:
        found = resolve_split(split, frames)
    except DataError:
        return
    unit = [
        i
        for parts in found.values()
        for s in parts
        for i in (range(s.start, s.stop) if by == "time" else [s.simulation])
    ]
    assert len(unit) == len(set(unit))
    assert all(0 <= i < total for i in unit)
    assert found["train"]
    assert found["val"]
    for name in chosen:
        assert sum(1 if by == "simulation" else len(s) for s in found[name]) == spans[name][1] - spans[name][0]


@pytest.mark.parametrize(
    ("split", "frames", "message"),
    [
        (
            Split(),
            [50],
            "data.split: the data has 1 simulation, so no simulation is left to validate on; split it in time: "
            'split = {by = "time"} trains on the first frames and validates on the last',
        ),
        (
            Split(train="0:30", val="30:40"),
            [9] * 33,
            "data.split.val: the range '30:40' reaches beyond the data, which has 33 simulations",
        ),
        (
            Split(train="5:"),
            [9] * 5,
            "data.split.train: the range '5:' is empty: the data has 5 simulations",
        ),
        (
            Split(train=":-1", val="-3:"),
            [9] * 5,
            "data.split.val: train 0:4 and val 2:5 share the simulations 2:4; held-out data must not train",
        ),
        (
            Split(by="time", train=":50", test="50:"),
            [100],
            "data.split.val: train and test leave no frame of 100 to validate on; shorten one of them, or set val",
        ),
        (
            Split(val="0:2"),
            [9, 9],
            "data.split.train: the train split is empty: val 0:2 take all 2 simulations; shorten one of them",
        ),
        (
            Split(by="time", train="0:30", val="30:50"),
            [50, 40],
            "data.split.val: the range '30:50' reaches beyond the data, which has 40 frames",
        ),
    ],
)
def test_errors(split, frames, message):
    with pytest.raises(DataError) as caught:
        resolve_split(split, frames)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("frames", "horizon", "message"),
    [
        (
            [3, 9],
            3,
            "data.num_predict_steps: a window of 3 predicted steps needs 4 frames, but the train split has only 3 "
            "frames "
            "in a "
            "row; set num_predict_steps to at most 2",
        ),
        (
            [9, 1],
            3,
            "data.num_frames: val has 1 frame of simulation 1, but a rollout needs at least 2: a start and a step",
        ),
    ],
)
def test_lengths(frames, horizon, message):
    with pytest.raises(DataError) as caught:
        check_lengths(resolve_split(Split(), frames), horizon, "simulation")
    assert str(caught.value) == message


def test_lengths_that_fit_pass():
    check_lengths(resolve_split(Split(), [2, 4, 2]), 3, "simulation")
