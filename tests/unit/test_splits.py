"""Splits by simulation and by time: defaults, explicit ranges, whole error messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyco_engine.data.settings import Split
from hyco_engine.data.splits import NAMES, Segment, check_lengths, resolve_split, split_of_labels
from hyco_engine.errors import DataError, SpecError


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
        check_lengths(resolve_split(Split(), frames), horizon, Split())
    assert str(caught.value) == message


def test_lengths_that_fit_pass():
    check_lengths(resolve_split(Split(), [2, 4, 2]), 3, Split())


# --- by a known number or group ---

KNOWN = [{"nu": nu, "rig": rig} for nu, rig in zip([0.01, 0.02, 0.05, 0.05, 0.1, 0.2], "ABABCC", strict=True)]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        # within the range of those that train
        ({"name": "nu"}, ([0, 1, 4, 5], [2, 3], [])),
        ({"name": "nu", "test": "0.02"}, ([0, 2, 3, 5], [4], [1])),
        # beyond it; a range has its lower end, and not its upper one
        ({"name": "nu", "val": "0.05:0.1", "test": "0.1:"}, ([0, 1], [2, 3], [4, 5])),
        ({"name": "nu", "train": ":0.05", "val": "0.1", "test": "0.05, 0.2"}, ([0, 1], [4], [2, 3, 5])),
        ({"name": "rig"}, ([0, 2, 4, 5], [1, 3], [])),
        ({"name": "rig", "val": "A", "test": "C"}, ([1, 3], [0, 2], [4, 5])),
        ({"name": "rig", "val": "A, B"}, ([4, 5], [0, 1, 2, 3], [])),
    ],
)
def test_by_value(keys, expected):
    found = resolve_split(Split(by="value", **keys), range(10, 16), KNOWN)
    assert {name: [s.simulation for s in parts] for name, parts in found.items()} == dict(
        zip(NAMES, expected, strict=True)
    )
    assert all(len(segment) == 10 + segment.simulation for parts in found.values() for segment in parts)


def test_a_tenth_of_the_values_is_spread_amid_the_others():
    found = resolve_split(Split(by="value", name="nu"), [5] * 40, [{"nu": 0.1 * i} for i in range(40)])
    assert [s.simulation for s in found["val"]] == [5, 15, 25, 35]


def test_a_number_that_was_rounded_is_named_by_its_decimals():
    known = [{"nu": float(np.float32(nu))} for nu in (0.1, 0.2, 0.3)]
    found = resolve_split(Split(by="value", name="nu", val="0.2"), [5] * 3, known)
    assert [s.simulation for s in found["val"]] == [1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"name": "rigs"},
            "data.split.name: no number or group 'rigs' is known of each simulation; did you mean 'rig'? (known: nu, "
            "rig)",
        ),
        (
            {"name": "nu", "val": "0.03"},
            "data.split.val: no simulation has nu = '0.03'; its values are 0.01, 0.02, 0.05, 0.1, 0.2",
        ),
        (
            {"name": "rig", "test": "A, D"},
            "data.split.test: no simulation has rig = 'D'; its values are A, B, C",
        ),
        (
            {"name": "nu", "val": "0.02:0.1", "test": "0.05"},
            "data.split.test: val '0.02:0.1' and test '0.05' share simulation 2, whose nu is 0.05; held-out data must "
            "not train",
        ),
        (
            {"name": "nu", "train": ":0.1", "test": "0.1:"},
            "data.split.val: there are not enough values of nu left to validate on; shorten train or test, or set val",
        ),
        (
            {"name": "nu", "val": ":"},
            "data.split.train: the train split is empty: val and test take all values of nu; shorten one of them",
        ),
    ],
)
def test_mistakes_in_splits_by_value(keys, message):
    with pytest.raises(DataError) as caught:
        resolve_split(Split(by="value", **keys), [5] * 6, KNOWN)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"by": "value"}, 'name: by = "value" needs the name of a number or of a group of the simulations'),
        ({"name": "nu"}, 'name: only a split by = "value" has a name'),
        ({"by": "value", "name": "nu", "measure": "continuation"}, "measure: only a split by"),
    ],
)
def test_a_name_belongs_to_a_split_by_value(keys, message):
    with pytest.raises(SpecError, match=f"^{message}"):
        Split(**keys)


def test_the_label_split_is_the_split_of_the_authors():
    words = [{"split": word} for word in ("train", "test", "val", "", "train")]
    found = resolve_split(split_of_labels(words), [5] * 5, words)
    assert {name: [s.simulation for s in parts] for name, parts in found.items()} == {
        "train": [0, 4],
        "val": [2],
        "test": [1],
    }
    assert split_of_labels(words[:2]) is None, "nothing validates"
    assert split_of_labels([{}, *words]) is None, "of one simulation it is not known"
    assert split_of_labels([*words, {"split": "first"}]) is None, "it means something else"


# --- short series ---


@pytest.mark.parametrize(
    ("frames", "horizon", "expected"),
    [
        (5, 1, ("0:3", "3:5")),
        (4, 1, ("0:2", "2:4")),
        (3, 1, ("0:2", "2:3")),
        (5, 3, ("0:4", "4:5")),
        (30, 3, ("0:27", "27:30")),
    ],
)
@pytest.mark.parametrize("spare", [False, True])
def test_a_short_series_leaves_a_window_to_train_on(frames, horizon, expected, spare):
    split = Split(by="time")
    found = resolve_split(split, [frames], horizon=horizon, spare=spare)
    assert tuple(str(found[name][0]) for name in ("train", "val")) == expected
    check_lengths(found, horizon, split)


def test_a_series_without_a_frame_to_spare_validates_nothing_where_none_is_needed():
    split = Split(by="time")
    found = resolve_split(split, [2, 9], horizon=1, spare=True)
    assert found == {
        "train": (Segment(0, 0, 2), Segment(1, 0, 7)),
        "val": (Segment(1, 7, 9),),
        "test": (),
    }
    with pytest.raises(DataError, match="a window of 1 predicted steps needs 2 frames, but the train split has only 1"):
        check_lengths(resolve_split(split, [2], horizon=1), 1, split)


def test_one_held_out_frame_is_enough_for_a_continuation_alone():
    keys = {"by": "time", "train": "0:4", "val": "4:5"}
    for measure in ("auto", "continuation"):
        split = Split(measure=measure, **keys)
        check_lengths(resolve_split(split, [5]), 1, split)
    split = Split(measure="rollout", **keys)
    with pytest.raises(DataError) as caught:
        check_lengths(resolve_split(split, [5]), 1, split)
    assert str(caught.value) == (
        "data.split.val: val has 1 frame of simulation 0, but a rollout needs at least 2: a start and a step; "
        'measure = "continuation" starts from the training frames'
    )
