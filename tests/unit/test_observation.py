"""What is observed of the data: noise, masks in time, space and by value, and what is trained and measured on then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, layout, numbered
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.observation import Observer, observed
from hyco_engine.data.settings import Mask, Noise, Observe, Split
from hyco_engine.data.splits import Segment
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import GeneratedSamples, Trajectory
from hyco_engine.training.evaluation import rollout_errors
from hyco_engine.training.losses import RolloutObjective

LINE = layout("u", "", (4,))
PLANE = layout("u", "", (3, 4))
BY_TIME = Split(by="time", train="0:7", val="7:10")


def seen(mask, frames=6, own=LINE, seed=0, index=0):
    return observed(mask, own, frames, seed, index)


def managed(mask=None, noise=None, *, count=4, frames=10, cache=None, seed=0, split=None, horizon=3):
    source = ListSource(trajectories=[numbered(frames, i) for i in range(count)])
    keys = {"observe": Observe(mask=mask, noise=noise), "num_predict_steps": horizon}
    return DataManager(source, choice(split=split or Split(), **keys), cache, seed=seed)


# --- masks ---


@pytest.mark.parametrize(
    ("mask", "frames"),
    [
        (Mask(every=3), [0, 3]),
        (Mask(every=1), [0, 1, 2, 3, 4, 5]),
        (Mask(frames=(0, -1)), [0, 5]),
        (Mask(frames=(2, 4)), [2, 4]),
        (Mask(frames=(2, 4), first_frame=True), [0, 2, 4]),
    ],
)
def test_masks_in_time_hide_whole_frames(mask, frames):
    found = seen(mask)
    assert found.shape == (6, 4)
    assert found.all(dim=1).nonzero()[:, 0].tolist() == frames
    assert found.sum() == 4 * len(frames)


def test_a_region_keeps_the_cells_whose_centres_lie_inside_of_it():
    assert seen(Mask(region={"x": (0.0, 0.375)}))[3].tolist() == [True, True, False, False]
    found = seen(Mask(region={"x": (0.0, 0.5), "y": (0.5, 1.0)}), own=PLANE)
    assert found[0].tolist() == [[False, False, True, True], [False, False, True, True], [False] * 4]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 12), seed=st.integers(0, 5), index=st.integers(0, 3))
def test_points_are_so_many_cells_and_the_same_in_all_frames_and_simulations(count, seed, index):
    found = seen(Mask(points=count), own=PLANE, seed=seed, index=index)
    assert found[0].sum() == count
    assert torch.equal(found, found[:1].expand(6, -1, -1))
    assert torch.equal(found, seen(Mask(points=count), own=PLANE, seed=seed))


@pytest.mark.parametrize("first", [True, False])
def test_scattered_values_are_so_many_in_each_simulation(first):
    mask = Mask(scattered=17, first_frame=first)
    found = seen(mask, own=PLANE)
    assert found.sum() == 17 + (12 if first else 0)
    assert bool(found[0].all()) == first
    assert not torch.equal(found, seen(mask, own=PLANE, index=1))
    assert not torch.equal(found, seen(mask, own=PLANE, seed=1))
    assert torch.equal(found, seen(mask, own=PLANE))


def test_masks_from_files_for_all_frames_or_for_each(tmp_path):
    file = tmp_path / "mask.npy"
    np.save(file, np.array([1, 0, 2, 0]))
    assert seen(Mask(file=file))[4].tolist() == [True, False, True, False]
    each = np.random.default_rng(0).integers(0, 2, (6, 4)).astype(bool)
    np.save(file, each)
    assert seen(Mask(file=file)).tolist() == each.tolist()


def test_what_several_keys_say_must_all_hold():
    found = seen(Mask(every=2, region={"x": (0.0, 0.5)}, first_frame=True))
    assert found.sum(dim=1).tolist() == [4, 0, 2, 0, 2, 0]


def test_staggered_values_belong_to_the_cell_above_them_and_filler_stays_zero():
    boundary = Boundary.parse("zero-gradient", ("x", "y"))
    field = FieldInfo(name="v", components=("x", "y"), sampling="staggered", boundary=boundary)
    own = StateLayout(grid=PLANE.grid, dynamic=(field,))
    assert own.spatial == (4, 5)
    dynamic = torch.where(sample_mask(own), torch.ones(2, 2, 4, 5), 0.0)
    observer = Observer(observe=Observe(mask=Mask(region={"x": (0.0, 0.4)})), layout=own, seed=0)
    found = observer(Trajectory(dynamic=dynamic, static=torch.zeros(0, 4, 5)), 0).dynamic[0]
    nan, zero = torch.nan, 0.0
    assert str(found[0].tolist()) == str([[1.0] * 4 + [zero], *([[nan] * 4 + [zero]] * 3)])
    assert str(found[1].tolist()) == str([[1.0] * 5, [nan] * 5, [nan] * 5, [zero] * 5])


@pytest.mark.parametrize(
    ("mask", "message", "key"),
    [
        (Mask(frames=(7,)), "simulation 0 has 6 frames, but no frame 7", "frames"),
        (Mask(region={"z": (0.0, 1.0)}), "the data has no axis z, only x", "region.z"),
        (
            Mask(region={"x": (2.0, 3.0)}),
            "no cell lies between 2 and 3: the centres reach from 0.125 to 0.875",
            "region.x",
        ),
        (Mask(points=5), "the mask asks for 5 places, but there are only 4", "points"),
        (Mask(scattered=21, first_frame=True), "the mask asks for 21 places, but there are only 20", "scattered"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message, key):
    with pytest.raises(DataError) as found:
        seen(mask)
    (problem,) = found.value.problems
    assert (problem.message, problem.key) == (message, f"data.observe.mask.{key}")


def test_a_mask_file_that_does_not_fit_is_refused(tmp_path):
    file = tmp_path / "mask.npy"
    np.save(file, np.ones((2, 4)))
    with error_naming(DataError, file, "float64", (2, 4), (4,), (6, 4)):
        seen(Mask(file=file))
    file.write_bytes(b"no array")
    with error_naming(DataError, file):
        seen(Mask(file=file))


def test_contradictions_are_refused_in_the_spec():
    with error_naming(SpecError, "every", "frames"):
        Mask(every=2, frames=(0,))
    with error_naming(SpecError, 1, 0):
        Mask(region={"x": (1.0, 0.0)})
    with error_naming(SpecError, 'by = "time"'):
        Split(measure="continuation")


# --- noise ---


def noisy(noise, own=LINE, frames=400, index=0, seed=0, heldout=()):
    base = torch.linspace(0.0, 3.0, frames * 4, dtype=torch.float64).reshape(frames, 1, 4)
    trajectory = Trajectory(dynamic=base, static=torch.zeros(0, 4))
    observer = Observer(observe=Observe(noise=noise), layout=own, seed=seed)
    return observer(trajectory, index, heldout).dynamic - base, base


@pytest.mark.parametrize("relative", [True, False])
def test_noise_has_the_level_asked_for(relative):
    added, base = noisy(Noise(level=0.1, relative=relative))
    scale = float(base.std(correction=0)) if relative else 1.0
    assert float(added.mean()) == pytest.approx(0.0, abs=4 * 0.1 * scale / 40)
    assert float(added.std()) == pytest.approx(0.1 * scale, rel=0.06)  # 1600 draws: three standard errors


def test_noise_is_that_of_the_seed_and_the_simulation_and_of_no_other_frame():
    noise = Noise(level=0.1, relative=False)
    added, _ = noisy(noise)
    assert torch.equal(noisy(noise)[0], added)
    assert not torch.equal(noisy(noise, index=1)[0], added)
    assert not torch.equal(noisy(noise, seed=1)[0], added)
    torch.testing.assert_close(noisy(noise, frames=7)[0], added[:7], rtol=0, atol=1e-14)


def test_held_out_frames_can_stay_clean_and_the_others_are_as_noisy_as_ever():
    heldout = [Segment(0, 10, 20)]
    every, _ = noisy(Noise(level=0.1), heldout=heldout)
    some, _ = noisy(Noise(level=0.1, heldout=False), heldout=heldout)
    assert (some[10:20] == 0).all()
    assert torch.equal(some[:10], every[:10])
    assert torch.equal(some[20:], every[20:])


def test_noise_is_relative_to_each_field_and_static_fields_have_none():
    own = layout("uv", "c", (4,))
    generator = torch.Generator().manual_seed(0)
    dynamic = torch.randn(500, 2, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 100.0])[:, None]
    static = torch.ones(1, 4)
    observer = Observer(observe=Observe(noise=Noise(level=0.5)), layout=own, seed=0)
    found = observer(Trajectory(dynamic=dynamic, static=static), 0)
    added = (found.dynamic - dynamic).std(dim=(0, 2)) / dynamic.std(dim=(0, 2))
    assert added.tolist() == pytest.approx([0.5, 0.5], rel=0.06)
    assert found.static is static


# --- what trains ---


@pytest.mark.parametrize("cached", [True, False])
def test_windows_under_a_mask_start_from_complete_frames_and_keep_their_targets_in_time(cached, tmp_path):
    manager = managed(Mask(every=4), count=3, frames=10, horizon=5, cache=tmp_path if cached else None)
    windows = manager.train
    assert [windows.window(i) for i in range(len(windows))] == [(0, 0), (0, 4), (1, 0), (1, 4)]
    assert windows.skipped == 2 * 3
    assert windows.without_start == 2 * 3
    assert windows.observed_share == pytest.approx(1 / 5)
    states, targets = windows.batch(torch.arange(4))
    assert not states.isnan().any()
    assert (~targets[..., 0, 0].isnan()).tolist() == [[False, False, False, True, False]] * 4
    assert targets[0, 3, 0, 0] == 4.0
    assert manager.summary()["observed"] == {"train": pytest.approx(0.3), "val": pytest.approx(0.3), "test": 0.0}


def test_a_window_that_reaches_nothing_is_left_out():
    trajectory = numbered(6)
    trajectory.dynamic[2:5] = torch.nan
    windows = WindowDataset([trajectory], horizon=2)
    assert [windows.window(i)[1] for i in range(len(windows))] == [0]
    assert (windows.skipped, windows.without_start) == (3, 2)


def test_the_cache_holds_the_data_and_what_is_observed_of_them(tmp_path):
    noise = Noise(level=0.1)
    first = managed(Mask(every=2), noise, cache=tmp_path)
    first.prepare()
    assert first.source.loaded == [0, 1, 2, 3]
    again = managed(Mask(every=2), noise, cache=tmp_path)
    other = managed(Mask(every=2), noise, cache=tmp_path, seed=1)
    plain = managed(cache=tmp_path)
    for manager in (again, other, plain):
        manager.prepare()
        assert manager.source.loaded == []
    observed_frames = [m.trajectories[1].dynamic[::2] for m in (first, again, other, plain)]
    assert torch.equal(observed_frames[0], observed_frames[1])
    assert not torch.equal(observed_frames[0], observed_frames[2])
    assert torch.equal(observed_frames[3], numbered(10, 1).dynamic[::2])
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "tensors" / "data").glob("*.safetensors"))
    # what two seeds make of the data are two entries
    wanted = [f"observed_{i:06d}" for i in range(4) for _ in range(2)] + [f"sim_{i:06d}" for i in range(4)]
    assert names == wanted


def test_changes_are_per_frame_where_frames_are_hidden():
    # every value grows by 1 a frame
    assert managed(Mask(every=3), horizon=3).statistics.change_std.tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("mask", "horizon", "message"),
    [
        (
            Mask(region={"x": (0.0, 0.5)}, heldout=False),
            3,
            "the mask leaves nothing to train on: of 21 windows of 3 steps, 21 start from a state that is not observed "
            "completely, and 0 have no observed target; set observe.mask.first_frame = true, or hide less",
        ),
        (
            Mask(every=5, heldout=False),
            3,
            "the mask leaves nothing to train on: of 21 windows of 3 steps, 15 start from a state that is not observed "
            "completely, and 6 have no observed target; set num_predict_steps so large that a window contains "
            "the next observed frame",
        ),
    ],
)
def test_a_mask_that_hides_everything_is_an_error_before_training(mask, horizon, message):
    with pytest.raises(DataError) as found:
        _ = managed(mask, horizon=horizon).train
    assert [(p.message, p.key) for p in found.value.problems] == [(message, "data.observe.mask")]


UNSEEN = (
    "1 of 5 cells of simulation 0 are observed in no frame, so none is complete, and observe.mask.first_frame = true "
    "does not change that; in the data, fill the first frame of each simulation, such as with the mean of the observed "
    "cells, leave the later frames as they are, and set num_predict_steps to the number of frames that a rollout is to "
    'reach; or give the observed cells as sensors (kind = "points"), and a complete first frame in data.initial'
)
NO_WINDOW = (
    "the mask leaves nothing to train on: of 14 windows of 3 steps, 14 start from a state that is not observed "
    "completely, and 0 have no observed target; "
)
NO_CONTINUATION = (
    "val continues simulation 0 into its frames 7:10, but no training frame before them is observed completely; "
)
NO_ROLLOUT = (
    "val cannot roll out the frames 7:10 of simulation 0: no frame is observed completely and followed by an "
    "observation; "
)


@pytest.mark.parametrize("first_frame", [False, True])
@pytest.mark.parametrize(
    ("split", "told"),
    [
        (Split(train="0:2", val="2:3"), NO_WINDOW + UNSEEN),
        (BY_TIME, NO_CONTINUATION + UNSEEN),
        (
            Split(by="time", train="0:7", val="7:10", measure="rollout"),
            NO_ROLLOUT + UNSEEN + '; split.measure = "continuation" starts from the first frame',
        ),
    ],
)
def test_cells_that_no_frame_observes_are_counted_and_told_how_to_start_from(split, told, first_frame):
    land = [numbered(10, i) for i in range(3)]
    for own in land[:2]:
        own.dynamic[:, 0, 2] = torch.nan

    def train():
        keys = {"observe": Observe(mask=Mask(value="nan", first_frame=first_frame)), "num_predict_steps": 3}
        return DataManager(ListSource(trajectories=land), choice(split=split, **keys), None).train

    with pytest.raises(DataError) as caught:
        train()
    assert caught.value.problems[0].message == told
    # what the message advises is enough
    for own in land[:2]:
        own.dynamic[0, 0, 2] = 0.0
    if split.measure == "rollout":
        split = BY_TIME
    assert len(train()) == (2 if split.by == "simulation" else 2 + 4)


def test_gaps_that_move_are_no_cells_that_are_never_observed():
    clouds = numbered(10, 0)
    for frame in range(10):
        clouds.dynamic[frame, 0, frame % 4] = torch.nan

    def told(**keys):
        mask = Observe(mask=Mask(value="nan", **keys))
        with pytest.raises(DataError) as caught:
            _ = DataManager(ListSource(trajectories=[clouds]), choice(split=BY_TIME, observe=mask), None).train
        return str(caught.value)

    assert "; observe.mask.value hides values of simulation 0, and observe.mask.first_frame = true does not" in told()
    # a region hides more than the value does, so that the first frame may be enough
    assert told(region={"x": (0.0, 0.5)}).endswith("set observe.mask.first_frame = true, or train on the frames before")


def test_missing_values_are_refused_unless_the_spec_says_what_means_missing():
    holes = numbered(10, 0)
    holes.dynamic[3, 0, 2] = torch.nan
    minus = numbered(10, 1)
    minus.dynamic[4, 0, 1] = -999.0

    def manager(mask):
        source = ListSource(trajectories=[holes, minus, numbered(10, 2)])
        return DataManager(source, choice(observe=Observe(mask=mask)), None)

    with error_naming(DataError, "u", "nan", "x 2", "frame 3"):
        manager(None).prepare()
    with error_naming(DataError, "u", "nan", "x 2", "frame 3"):
        manager(Mask(value=-999.0)).prepare()
    found = manager(Mask(value="nan"))
    assert found.trajectories[0].dynamic.isnan().nonzero().tolist() == [[3, 0, 2]]
    assert len(found.train) == 7 + 7 - 1
    holes.dynamic[3, 0, 2] = 0.0
    assert manager(Mask(value=-999.0)).trajectories[1].dynamic.isnan().nonzero().tolist() == [[4, 0, 1]]


# --- what counts ---


def test_a_loss_is_the_mean_over_what_was_observed_whatever_the_mask():
    torch.manual_seed(0)
    own = layout("uv", "", (4,))
    targets = torch.randn(3, 5, 2, 4)
    targets[0, 1:, :, 2:] = torch.nan
    targets[1, :, 1] = torch.nan
    targets[2, ::2, 0] = torch.nan

    class Still(torch.nn.Module):
        def forward(self, state):
            return 0.5 * state

    states = torch.randn(3, 2, 4)
    predictions = torch.stack([states * 0.5**k for k in range(1, 6)], dim=1)
    terms = RolloutObjective(own)(Still(), (states, targets))
    for term, channel in zip(terms, range(2), strict=True):
        errors = (predictions - targets)[:, :, channel].square()
        known = errors[~errors.isnan()]
        assert float(term.mean()) == pytest.approx(float(known.mean()), rel=1e-6)


class Made(GeneratedSamples):
    """Complete samples, as a model makes them."""

    nbytes = 0

    def __len__(self):
        return 2

    def batch(self, indices):
        return torch.zeros(len(indices), 1, 4), torch.full((len(indices), 2, 1, 4), 3.0)


def test_generated_samples_count_in_the_ratio_that_the_balance_says():
    """Two of four cells are seen, so a generated sample, which is whole, must not count twice."""
    frames = torch.ones(6, 1, 4)
    frames[1:, :, 2:] = torch.nan
    frames[3] = 1.0
    static = torch.zeros(0, 4)
    real = WindowDataset([Trajectory(dynamic=frames, static=static)], horizon=2)
    assert [real.window(i)[1] for i in range(len(real))] == [0, 3]
    assert real.observed_share == 0.5
    data = AugmentedDataset(real, Made(), weight=0.5)
    indices = torch.arange(4)
    weights = RolloutObjective(LINE).weights(data.batch(indices), data.sample_weight(indices))["u"]
    generated = data.is_generated(indices)
    assert weights.tolist() == [0.5, 0.5, 0.25, 0.25]
    assert float(weights[generated].sum() / weights[~generated].sum()) == len(Made()) * 0.5 / len(real)


# --- what is measured ---


class Counting(torch.nn.Module):
    """Knows that every value grows by 1 a frame."""

    def __init__(self, step=1.0):
        super().__init__()
        self.step = step

    def forward(self, state):
        return state + self.step


@pytest.mark.parametrize(
    ("mask", "noise", "split", "measure"),
    [
        (None, None, BY_TIME, "rollout"),
        (None, Noise(level=0.1), BY_TIME, "continuation"),
        (None, Noise(level=0.1), Split(), "rollout"),
        (None, Noise(level=0.1, heldout=False), BY_TIME, "rollout"),
        (None, Noise(level=0.0), BY_TIME, "rollout"),
        (None, Noise(level=0.1), Split(by="time", train="0:7", val="7:10", measure="rollout"), "rollout"),
        (None, None, Split(by="time", train="0:7", val="7:10", measure="continuation"), "continuation"),
        (Mask(region={"x": (0.0, 0.5)}, first_frame=True), None, BY_TIME, "continuation"),
        (Mask(region={"x": (0.0, 0.5)}, first_frame=True), None, Split(), "rollout"),
        (Mask(every=2), None, Split(by="time", train="0:6", val="6:10"), "rollout"),
        (Mask(frames=(0, 1, 2, 9)), None, BY_TIME, "continuation"),
    ],
)
def test_the_rule_which_measure_is_used(mask, noise, split, measure):
    manager = managed(mask, noise, split=split)
    assert manager.measure["val"] == measure
    assert manager.summary()["measure"] == {"val": measure, "test": manager.measure["test"]}


def test_a_continuation_starts_at_the_first_training_frame_and_only_held_out_frames_count():
    manager = managed(split=Split(by="time", train="0:7", val="7:10", measure="continuation"), count=2)
    found = manager.heldout("val")
    assert len(found) == 2
    for index, trajectory in enumerate(found):
        assert torch.equal(trajectory.dynamic[0], numbered(10, index).dynamic[0])
        assert trajectory.dynamic[1:7].isnan().all()
        assert torch.equal(trajectory.dynamic[7:], numbered(10, index).dynamic[7:])
    errors = rollout_errors(
        lambda s, n: s[:, None] + torch.arange(1.0, n + 1).reshape(1, -1, 1, 1), found, manager.layout
    )
    assert errors["nrmse"] < 1e-6
    assert len(errors["nrmse_by_step"]) == 3


def test_continuations_begin_from_states_at_the_ends_of_the_last_windows():
    manager = managed(split=Split(by="time", train="0:7", val="7:10", measure="continuation"), count=2)
    assert manager.windows_before_heldout(3, 1) == {3: (0, 6), 7: (1, 6)}
    # the windows begin at frames 0 and 2, and the last one ends at frame 5
    windows = manager.windows_before_heldout(3, 2)
    assert windows == {1: (0, 5), 3: (1, 5)}
    states = torch.stack([torch.full((1, 5), value) for value in (-1.0, -2.0)])
    manager.begin_from(states, windows)
    for index, trajectory in enumerate(manager.heldout("val")):
        assert torch.equal(trajectory.dynamic[0], states[index])
        assert trajectory.dynamic[1].isnan().all()
        assert torch.equal(trajectory.dynamic[2:], numbered(10, index).dynamic[7:])
    with pytest.raises(DataError, match=r"shape \[3, 1, 5\], and the windows of this data need \[2, 1, 5\]"):
        manager.begin_from(torch.zeros(3, 1, 5), windows)
    manager.begin_from_observed()
    assert manager.heldout("val")[0].dynamic[1:7].isnan().all()
    rollouts = managed(split=Split(by="time", train="0:7", val="7:10", measure="rollout"))
    assert rollouts.windows_before_heldout(3, 1) == {}


def test_a_rollout_of_held_out_data_starts_at_its_first_complete_frame():
    manager = managed(Mask(every=4), horizon=5, split=Split(by="time", train="0:6", val="6:13"), frames=13)
    (first, *_) = manager.heldout("val")
    assert first.dynamic[:, 0, 0].isnan().tolist() == [False, True, True, True, False]
    assert first.dynamic[0, 0, 0] == 8.0
    assert manager.measure["val"] == "rollout"


def test_held_out_frames_can_be_complete_while_training_frames_are_masked():
    manager = managed(Mask(every=5, heldout=False), horizon=5)
    (found,) = manager.heldout("val")
    assert not found.dynamic.isnan().any()
    assert manager.train.batch(torch.arange(1))[1].isnan().any()


def test_nothing_to_hold_a_rollout_against_is_an_error():
    with error_naming(DataError, "val", "0:10", "simulation 3"):
        managed(Mask(region={"x": (0.0, 0.5)})).heldout("val")
    with error_naming(DataError, "val", "7:10", "simulation 0"):
        managed(Mask(frames=(0, 1, 2)), split=BY_TIME).heldout("val")
    with error_naming(DataError, "val", "simulation 0", key="data.split.measure"):
        managed(Mask(frames=(1, 9), region={"x": (0.0, 0.5)}), split=BY_TIME).heldout("val")


@settings(max_examples=20, deadline=None)
@given(
    every=st.integers(1, 4),
    first=st.integers(2, 8),
    noise=st.booleans(),
    measure=st.sampled_from(["auto", "rollout", "continuation"]),
)
def test_training_and_held_out_targets_never_share_a_value(every, first, noise, measure):
    """A target is numbered by its frame; a start may be a training frame, a target of validation never."""
    split = Split(by="time", train=f"0:{first + 5}", val=f"{first + 5}:{first + 14}", measure=measure)
    level = Noise(level=1e-6, relative=False) if noise else None
    manager = managed(Mask(every=every), level, count=1, frames=first + 14, split=split, horizon=4)
    trained = manager.train.batch(torch.arange(len(manager.train)))[1]
    trained = set(trained[~trained.isnan()].round(decimals=2).tolist())
    (held,) = manager.heldout("val")
    targets = held.dynamic[1:]
    counted = set(targets[~targets.isnan()].round(decimals=2).tolist())
    assert counted
    assert trained
    assert not trained & counted


def test_observed_frames_that_no_window_reaches_are_told(caplog):
    masked = Mask(region={"x": (0.0, 0.5)}, first_frame=True)
    windows = managed(masked, count=3).train
    assert len(windows) == 2
    assert windows.unreached == 2 * 6
    assert "12 observed training frames lie in no window of num_predict_steps = 3" in caplog.text
    assert managed(masked, count=3, horizon=9).train.unreached == 0


@pytest.mark.parametrize(
    ("mask", "planned"),
    [
        (Mask(every=4), 2 * 2),
        (Mask(region={"x": (0.0, 0.5)}, first_frame=True), 2),
        (Mask(points=5), 2 * 5),  # all cells there are
        (Mask(value="nan"), None),
    ],
)
def test_windows_under_a_mask_are_counted_before_anything_is_loaded(mask, planned):
    manager = managed(mask, count=3, horizon=5)
    assert manager.planned_windows == planned
    assert manager.source.loaded == []
    if planned is not None:
        assert len(manager.train) == planned
