"""Sensors: interpolation and its adjoint, windows, losses and errors at points, and the source of tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, grid, layout, scalar
from messages import error_naming
from tiny_specs import TINY

import hyco_engine as hyco
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.points import GRID, START, PointParts, PointWindows, Sensors, cut_points, points_of
from hyco_engine.data.settings import Mask, Noise, Observe, Split
from hyco_engine.errors import DataError, HycoError, RunError
from hyco_engine.interfaces import GeneratedSamples, Points, Predictor, TermSpec, Trajectory
from hyco_engine.tasks.points import HeldOutPoints
from hyco_engine.training.divergence import Diverged
from hyco_engine.training.evaluation import rollout_errors
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.point_losses import PointObjective, PointPredictorObjective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

F64 = torch.float64


def seen(frame, position, value, heldout=None, dt=0.5):
    frame = torch.tensor(frame, dtype=F64)
    value = torch.tensor(value, dtype=F64)
    return Points(
        frame=frame,
        time=frame * dt,
        position=torch.tensor(position, dtype=F64).reshape(len(frame), -1),
        value=value.reshape(len(frame), -1),
        heldout=torch.tensor(heldout or [False] * len(frame)),
    )


def cells(own, function):
    """`[1, 1, 1, *S]` of a function of the cells' centres."""
    axes = [torch.tensor(own.grid.centers(axis), dtype=F64) for axis in own.grid.axes]
    return function(*torch.meshgrid(*axes, indexing="ij"))[None, None, None]


# --- interpolation ---


@pytest.mark.parametrize("boundary", ["periodic", "zero-gradient", 0.0, "symmetric", "antisymmetric", "reflect"])
@pytest.mark.parametrize("resolution", [(5,), (4, 3), (3, 4, 2)])
def test_the_gradient_is_the_exact_adjoint(boundary, resolution):
    axes = "xyz"[: len(resolution)]
    own = StateLayout(grid=grid(*resolution), dynamic=(scalar("u", axes, boundary), scalar("v", axes, boundary)))
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(2, 4, 2, *resolution, dtype=F64, generator=generator, requires_grad=True)
    frame = 3 * torch.rand(2, 40, dtype=F64, generator=generator)
    position = torch.rand(2, 40, len(resolution), dtype=F64, generator=generator)
    sensors = Sensors(own)
    read = sensors(path, frame, position)
    assert read.shape == (2, 40, 2)
    back = torch.randn(read.shape, dtype=F64, generator=generator)
    (adjoint,) = torch.autograd.grad((read * back).sum(), path)
    other = torch.randn(path.shape, dtype=F64, generator=generator)
    left = (sensors(other, frame, position) * back).sum()
    right = (other * adjoint).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_linear_functions_of_space_and_time_are_read_exactly():
    own = StateLayout(grid=grid(6, 5), dynamic=(scalar("u", "xy", 0.0),))
    first = cells(own, lambda x, y: 1 + 2 * x - 3 * y)
    path = torch.cat([first + 0.25 * frame for frame in range(4)], dim=1)
    generator = torch.Generator().manual_seed(1)
    frame = 3 * torch.rand(1, 50, dtype=F64, generator=generator)
    # between the outermost samples: beyond them the boundary's value counts
    position = torch.tensor([1 / 12, 1 / 10]) + torch.rand(1, 50, 2, dtype=F64, generator=generator) * torch.tensor(
        [10 / 12, 8 / 10]
    )
    expected = 1 + 2 * position[..., 0] - 3 * position[..., 1] + 0.25 * frame
    torch.testing.assert_close(Sensors(own)(path, frame, position)[..., 0], expected, rtol=1e-12, atol=1e-12)


def test_samples_and_frames_are_read_as_they_are():
    own = layout("u", "", (4,))
    path = torch.arange(12.0, dtype=F64).reshape(1, 3, 1, 4)
    position = torch.tensor(own.grid.centers("x"), dtype=F64).reshape(1, 4, 1)
    for frame in range(3):
        read = Sensors(own)(path, torch.full((1, 4), float(frame), dtype=F64), position)
        assert read[0, :, 0].tolist() == pytest.approx([4 * frame + i for i in range(4)])


@pytest.mark.parametrize(
    ("boundary", "at_edge", "beyond"),
    [("periodic", 2.5, 2.5), (7.0, 4.0, 7.0), ("zero-gradient", 1.0, 1.0), ("antisymmetric", 0.0, -1.0)],
)
def test_beyond_the_last_sample_the_boundary_gives_the_next(boundary, at_edge, beyond):
    own = StateLayout(grid=grid(4), dynamic=(scalar("u", "x", boundary),))
    path = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64).reshape(1, 1, 1, 4)
    where = torch.tensor([0.0, -0.125 if boundary != "periodic" else 0.0, -9.0 if boundary == 7.0 else 0.0], dtype=F64)
    read = Sensors(own)(path, torch.zeros(1, 3, dtype=F64), where.reshape(1, 3, 1))[0, :, 0].tolist()
    assert read[:2] == pytest.approx([at_edge, beyond])
    assert read[2] == pytest.approx(7.0 if boundary == 7.0 else at_edge)


@pytest.mark.parametrize(("boundary", "first"), [("periodic", 0.0), (0.0, 0.25), ("zero-gradient", 0.0)])
def test_staggered_components_are_read_where_their_faces_are(boundary, first):
    rule = Boundary.parse(boundary, ("x", "y"))
    field = FieldInfo(name="v", components=("x", "y"), sampling="staggered", boundary=rule)
    own = StateLayout(grid=grid(4, 4), dynamic=(field,))
    path = torch.zeros(1, 1, 2, *own.spatial, dtype=F64)
    count = field.samples(own.grid, 0)[0]
    path[0, 0, 0, :count, :4] = (first + 0.25 * torch.arange(count, dtype=F64))[:, None]
    position = torch.tensor([[[0.3, 0.4], [0.6, 0.7]]], dtype=F64)
    assert Sensors(own)(path, torch.zeros(1, 2, dtype=F64), position)[0, :, 0].tolist() == pytest.approx([0.3, 0.6])


# --- windows ---


def trajectory(points, frames=6, cells=4, start=1.0):
    dynamic = torch.full((frames, 1, cells), torch.nan)
    dynamic[0] = start
    return Trajectory(dynamic=dynamic, static=torch.zeros(0, cells), points=points)


def test_cutting_counts_frames_anew_and_keeps_the_time():
    points = seen([0.0, 1.0, 1.5, 2.0, 4.0], [0.0] * 5, [0, 1, 2, 3, 4])
    found = cut_points(points, 1, 3)
    assert found.frame.tolist() == [0.0, 0.5, 1.0]
    assert found.time.tolist() == [0.5, 0.75, 1.0]
    assert found.value[:, 0].tolist() == [1, 2, 3]
    assert cut_points(points, 0, 4, after=2).frame.tolist() == [2.0, 4.0]


def test_a_split_by_sensor_divides_the_points_and_others_do_not():
    points = seen([1.0, 2.0, 3.0], [0.0] * 3, [1, 2, 3], [True, False, True])
    assert points_of(points, "train", "sensor", 0, 5).value[:, 0].tolist() == [2]
    assert points_of(points, "val", "sensor", 0, 5).value[:, 0].tolist() == [1, 3]
    assert points_of(points, "train", "time", 0, 2).value[:, 0].tolist() == [1, 2]
    assert points_of(None, "train", "time", 0, 2) is None


def test_windows_of_points_start_from_complete_frames_and_are_padded():
    one = trajectory(seen([0.0, 0.5, 2.0, 3.0, 4.0], [0.1] * 5, [9, 1, 2, math.nan, 3]))
    two = trajectory(seen([2.0], [0.2], [5]))
    none = trajectory(seen([4.0], [0.2], [5]))
    windows = PointWindows([one, two, none], horizon=3)
    assert (len(windows), windows.skipped, windows.unreached) == (2, 3 + 3 + 1 * 3 - 2, 2)
    states, targets = windows.batch(torch.tensor([1, 0]))
    assert torch.equal(states, torch.ones(2, 1, 4))
    assert targets["frame"].tolist() == [[2.0, 0.0], [0.5, 2.0]]
    assert targets["time"].tolist() == [[1.0, 0.0], [0.25, 1.0]]
    assert targets["position"].shape == (2, 2, 1)
    assert targets["value"].isnan().tolist() == [[[False], [True]], [[False], [False]]]
    assert windows.observed_share == pytest.approx(3 / 4)
    assert windows.sample_bytes == sum(t[0].nbytes for t in (states, *targets.values()))


# --- losses and errors ---


class Growing(torch.nn.Module):
    """Adds 1 a frame."""

    def forward(self, state):
        return state + 1


class Line(Predictor):
    """u = 1 + t / 0.5, as Growing has it from 1 on."""

    terms = (TermSpec(name="u"),)

    def __init__(self):
        super().__init__()
        self.asked = None

    def forward(self, inputs):
        self.asked = {name: tuple(values.shape) for name, values in inputs.items()}
        return {"u": 1 + inputs["time"] / 0.5}


TWO = [
    trajectory(seen([0.5, 2.0], [0.1, 0.6], [1.5 + 1, 3.0 + 1])),
    trajectory(seen([1.0], [0.3], [2.0 + 3])),
]


@pytest.mark.parametrize("model", [Growing(), Line()])
def test_a_loss_at_points_is_the_mean_over_what_was_seen(model):
    windows = PointWindows(TWO, horizon=3)
    batch = windows.batch(torch.arange(2))
    kind = PointPredictorObjective if isinstance(model, Line) else PointObjective
    objective = kind(layout("u", "", (4,)))
    (term,) = objective(model, batch)
    assert term.per_sample.tolist() == pytest.approx([1.0, 9.0])
    assert term.sample_weight.tolist() == [1.0, 0.5]
    assert float(term.mean()) == pytest.approx((1 + 1 + 9) / 3)
    residuals = objective.residuals(model, batch)["u"]
    shares = objective.weights(batch)["u"]
    torch.testing.assert_close(residuals.square().sum(1), term.per_sample * shares.float())
    assert objective.steps(batch) == 2
    if isinstance(model, Line):
        assert model.asked == {"position": (4, 1), "time": (4,)}


@pytest.mark.parametrize("model", [Growing(), Line()])
def test_errors_at_points_are_pooled_by_lead_time(model):
    errors = HeldOutPoints(TWO, layout("u", "", (4,))).measure(model)
    # lead 1: errors 1 and 3 of values 2.5 and 5; lead 2: 1 of 4
    first = math.sqrt((1 + 9) / 2) / math.sqrt((2.5**2 + 25) / 2)
    assert errors["nrmse_by_step"] == pytest.approx([first, 1 / 4])
    assert errors["nrmse"] == pytest.approx(math.sqrt(first / 4))


class Rolled(GeneratedSamples):
    nbytes = 0

    def __len__(self):
        return 3

    def batch(self, indices):
        targets = 1 + torch.arange(1.0, 4.0).reshape(1, 3, 1, 1).expand(len(indices), 3, 1, 4) + 2
        return torch.ones(len(indices), 1, 4), targets


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_parts_of_windows_hold_every_point_once_and_have_the_loss_of_the_windows(size):
    frames = [0.5, 1.0, 1.5, 2.0, 2.5]
    many = trajectory(seen(frames, [0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5]))
    windows = PointWindows([many, *TWO], horizon=3)
    parts = PointParts(windows, size, 0)
    assert len(parts) == len(windows) * math.ceil(5 / size)
    assert parts.horizon == 3
    states, targets = parts.batch(torch.arange(len(parts)))
    known = ~targets["value"][..., 0].isnan()
    rows = zip(targets["frame"][known].tolist(), targets["value"][known][:, 0].tolist(), strict=True)
    assert sorted(rows) == [(0.5, 1), (0.5, 2.5), (1.0, 2), (1.0, 5), (1.5, 3), (2.0, 4), (2.0, 4.0), (2.5, 5)]
    assert float(known.double().mean()) == pytest.approx(parts.observed_share)
    objective = PointPredictorObjective(layout("u", "", (4,)))
    whole, apart = (objective(Line(), s.batch(torch.arange(len(s))))[0].mean() for s in (windows, parts))
    assert float(apart) == pytest.approx(float(whole))
    assert torch.equal(states[0], windows.batch(torch.tensor([0]))[0][0])


def test_a_predictor_takes_as_many_steps_as_there_are_parts():
    windows = PointWindows(TWO, horizon=3)
    own = layout("u", "", (4,))

    class Learned(Line):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, inputs):
            return {"u": self.slope * inputs["time"]}

    def steps(model, **asked):
        # no budget is too small for a rollout that is not made
        settings = TrainingSettings(batch_size=1, memory_gb=1e-9, **asked)
        trainer = Trainer(
            model, player="synthetic", layout=own, objective=PointPredictorObjective(own), settings=settings
        )
        return trainer.train(windows, 2).metrics["step"]

    assert steps(Learned()) == 4
    assert steps(Learned(), points_per_sample=1) == 8


def test_generated_rollouts_are_never_dropped_beside_parts_of_samples():
    """A strategy that asks nothing beforehand may teach a predictor of points: none may vanish."""
    own = layout("u", "", (4,))

    class Learned(Line):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(1.0))

    data = AugmentedDataset(PointWindows(TWO, horizon=3), Rolled())
    settings = TrainingSettings(batch_size=1, points_per_sample=1)
    trainer = Trainer(Learned(), player="synthetic", objective=PointPredictorObjective(own), settings=settings)
    with error_naming(RunError, "the synthetic model", "points_per_sample = 1", "3 generated samples"):
        trainer.train(data, 1)
    assert trainer.epochs_done == 0


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_predictor_that_diverges_is_told_as_one_that_does(optimizer):
    class Lost(Line):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(math.nan))

        def forward(self, inputs):
            return {"u": self.slope * inputs["time"]}

    own = layout("u", "", (4,))
    settings, objective = TrainingSettings(optimizer=optimizer), PointPredictorObjective(own)
    trainer = Trainer(Lost(), player="synthetic", layout=own, objective=objective, settings=settings)
    with error_naming(Diverged, "synthetic", "epoch 1"):
        trainer.train(PointWindows(TWO, horizon=3), 1)


def test_generated_rollouts_train_beside_sensors_in_the_ratio_of_the_balance():
    real = PointWindows(TWO, horizon=3)
    data = AugmentedDataset(real, Rolled(), weight=0.5)
    indices = torch.tensor([2, 0, 4, 1, 3])
    objective = PointObjective(layout("u", "", (4,)))
    batch = data.batch(indices)
    assert set(batch[1]) == {"frame", "time", "position", "value", GRID}
    (term,) = objective(Growing(), batch, data.sample_weight(indices))
    assert term.per_sample.tolist() == pytest.approx([4.0, 1.0, 4.0, 9.0, 4.0])
    weights = objective.weights(batch, data.sample_weight(indices))["u"]
    assert weights.tolist() == pytest.approx([0.375, 1.0, 0.375, 0.5, 0.375])
    generated = data.is_generated(indices)
    assert float(weights[generated].sum() / weights[~generated].sum()) == pytest.approx(3 * 0.5 / 2)
    (alone,) = objective(Growing(), data.batch(torch.tensor([2, 3])))
    assert alone.per_sample.tolist() == pytest.approx([4.0, 4.0])


def test_a_shorter_horizon_sees_less_and_computes_no_more():
    """As if what lies beyond it had not been observed; the balance with generated rollouts stays."""
    steps = []

    class Counting(Growing):
        def forward(self, state):
            steps.append(1)
            return super().forward(state)

    both = [trajectory(seen([0.5, 2.0, 4.0, 4.0], [0.1, 0.6, 0.2, 0.3], [2.5, 4.0, 9.0, math.nan])), TWO[1]]
    batch = PointWindows(both, horizon=4).batch(torch.arange(2))
    hidden = {**batch[1], "value": batch[1]["value"].clone()}
    hidden["value"][batch[1]["frame"] > 2] = math.nan
    plain = PointObjective(layout("u", "", (4,)))
    short = plain.at_horizon(2)
    (term,), (expected,) = short(Counting(), batch), plain(Growing(), (batch[0], hidden))
    assert len(steps) == short.steps(batch) == 2
    assert torch.equal(term.per_sample, expected.per_sample)
    assert torch.equal(term.sample_weight, expected.sample_weight)
    assert torch.equal(short.residuals(Growing(), batch)["u"], plain.residuals(Growing(), (batch[0], hidden))["u"])
    data = AugmentedDataset(PointWindows(both, horizon=4), Rolled(), weight=0.5)
    indices = torch.arange(5)
    mixed, weight = data.batch(indices), data.sample_weight(indices)
    assert short.weights(mixed, weight)["u"][2:].tolist() == pytest.approx([float(weight[-1]) * 2 / 3] * 3)
    (term,) = short(Growing(), mixed, weight)
    assert term.per_sample.tolist() == pytest.approx([1.0, 9.0, 4.0, 4.0, 4.0])


def test_a_start_that_is_learned_counts_as_so_many_values_more():
    batch = PointWindows(TWO, horizon=3).batch(torch.arange(2))
    every, form = torch.ones(1, 4, dtype=torch.bool), layout("u", "", (4,))
    moved, targets = InitialStates(torch.full((2, 4), 0.5), torch.ones(1), every, form)(batch, torch.arange(2))
    assert torch.equal(moved, batch[0] + 0.5)
    assert torch.equal(targets[START], batch[0][:, None])
    objective = PointObjective(form)
    (term,) = objective(Growing(), (moved, targets))
    # what was 1 too small is 0.5 too small now, and each of four cells 0.5 too large
    assert term.per_sample.tolist() == pytest.approx([(2 * 0.25 + 4 * 0.25) / 6, (2.5**2 + 4 * 0.25) / 5])
    assert term.sample_weight.tolist() == pytest.approx([1.0, 5 / 6])
    squares = objective.residuals(Growing(), (moved, targets))["u"].square().sum(1)
    torch.testing.assert_close(squares, term.per_sample * term.sample_weight)
    assert objective.steps((moved, targets)) == 2


# --- the manager ---


class PointSource(ListSource):
    def points(self, index):
        return self.trajectories[index].points


def point_manager(points, **keys):
    source = PointSource(trajectories=[trajectory(points)], layout=layout("u", "", (4,)))
    keys = {"num_predict_steps": 5, "split": Split(by="sensor")} | keys
    return DataManager(source, choice(**keys), None)


FOUR = ([1.0, 2.0, 3.0, 5.0], [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], [False, True, False, True])


def test_sensors_that_validate_do_not_train():
    manager = point_manager(seen(*FOUR))
    assert manager.train.batch(torch.tensor([0]))[1]["value"].flatten().tolist() == [1, 3]
    (held,) = manager.heldout("val")
    assert held.points.value.flatten().tolist() == [2, 4]
    assert held.dynamic[0].flatten().tolist() == [1.0] * 4
    assert manager.planned_windows is None
    summary = manager.summary()
    assert summary["points"] == {"train": 2, "val": 2, "test": 0}
    assert summary["measure"]["val"] == "rollout"


def test_a_split_by_time_continues_from_the_first_frame():
    split = Split(by="time", train="0:3", val="3:6")
    manager = point_manager(seen(*FOUR[:3]), num_predict_steps=2, split=split)
    assert manager.train.batch(torch.tensor([0]))[1]["value"].flatten().tolist() == [1, 2]
    assert manager.measure["val"] == "continuation"
    (held,) = manager.heldout("val")
    assert held.points.value.flatten().tolist() == [3, 4]
    assert held.points.frame.tolist() == [3.0, 5.0]
    assert len(held.dynamic) == 6


def test_what_lies_between_training_and_held_out_frames_is_in_neither():
    points = seen([1.0, 2.5, 4.0], [0.1] * 3, [1, 2, 3])
    manager = point_manager(points, num_predict_steps=2, split=Split(by="time", train="0:3", val="3:6"))
    assert manager.train.batch(torch.tensor([0]))[1]["value"].flatten().tolist() == [1]
    assert manager.heldout("val")[0].points.value.flatten().tolist() == [3]


def test_noise_and_missing_values_of_sensors():
    values = torch.linspace(0, 5, 2000, dtype=F64)
    points = seen([1.0] * 2000, [0.1] * 2000, values.tolist(), [index % 2 == 1 for index in range(2000)])
    clean = values.std(correction=0)
    noisy = point_manager(points, observe=Observe(noise=Noise(level=0.1, heldout=False))).trajectories[0].points.value
    added = noisy.double().flatten() - values
    assert float(added[::2].std() / clean) == pytest.approx(0.1, rel=0.08)
    assert float(added[1::2].abs().max()) < 1e-6
    masked = point_manager(seen(*FOUR), observe=Observe(mask=Mask(value=3.0))).trajectories[0].points.value
    assert masked.isnan().flatten().tolist() == [False, False, True, False]
    with error_naming(DataError, "mask"):
        point_manager(seen(*FOUR), observe=Observe(mask=Mask(every=2))).prepare()


def test_in_a_split_by_time_the_noise_knows_no_sensors_that_are_held_out():
    """Which sensors validate in a split by sensor says nothing where the split is by time."""
    points = seen([1.0, 1.0, 4.0, 4.0], [0.1] * 4, [1, 2, 3, 4], [True, False, True, False])
    observe = Observe(noise=Noise(level=0.1, relative=False, heldout=False))
    split = Split(by="time", train="0:3", val="3:6")
    manager = point_manager(points, num_predict_steps=2, split=split, observe=observe)
    added = manager.trajectories[0].points.value.double() - points.value
    assert (added != 0).flatten().tolist() == [True, True, False, False]


def test_statistics_know_what_sensors_saw():
    found = point_manager(seen(*FOUR)).statistics
    # four cells of 1 in the first frame, and the training values 1 and 3
    values = torch.tensor([1.0, 1, 1, 1, 1, 3])
    assert float(found.mean) == pytest.approx(float(values.mean()))
    assert float(found.std) == pytest.approx(float(values.std(correction=0)))
    assert float(found.change_std) == float(found.std)


def test_nothing_seen_within_the_horizon_is_an_error():
    with error_naming(DataError, "num_predict_steps = 2"):
        _ = point_manager(seen([4.0, 5.0], [0.1, 0.1], [1, 1], [False, True]), num_predict_steps=2).train
    with error_naming(DataError, "val", "0:6", "simulation 0"):
        point_manager(seen([4.0], [0.1], [1])).heldout("val")


# --- the source ---


def heat_table(times=4, sensors=5, dt=0.1, seed=0):
    """u = exp(-kappa pi^2 t) sin(pi x) with kappa = 0.5, at random places that change with time."""
    x = np.random.default_rng(seed).uniform(0, 1, (times, sensors))
    t = dt * np.arange(times)[:, None] + 0 * x
    return t, x, np.exp(-0.5 * np.pi**2 * t) * np.sin(np.pi * x)


def heat_spec(tmp_path, **data):
    np.save(tmp_path / "u0.npy", np.sin(np.pi * np.arange(1, 16) / 16))
    keys = {
        "kind": "points",
        "path": str(tmp_path / "seen.csv"),
        "resolution": {"x": 15},
        "bounds": {"x": [1 / 32, 31 / 32]},
        "boundary": 0.0,
        "dt": 0.05,
        "initial": {"u": {"file": str(tmp_path / "u0.npy")}},
        "split": {"by": "sensor"},
        "num_predict_steps": 6,
        "truth": {"kappa": 0.5},
    }
    return {
        "run": {"name": "heat", "cycles": 1, "precision": "float64"},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": {name: value for name, value in (keys | data).items() if value is not None},
        "physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.9}}},
    }


def write_csv(path, table, header="t,x,u"):
    rows = np.stack([column.reshape(-1) for column in table], axis=1)
    np.savetxt(path, rows, delimiter=",", header=header, comments="")


def test_a_physics_is_found_from_a_table_of_moving_sensors(tmp_path):
    write_csv(tmp_path / "seen.csv", heat_table(sensors=20))
    result = hyco.run(heat_spec(tmp_path))
    # linear interpolation on 15 cells reads curvature a little too low
    assert result.summary["parameters"]["kappa"]["final"] == pytest.approx(0.5, rel=0.02)
    assert result.summary["metrics"]["physical"]["val"]["nrmse"] < 0.02
    assert result.summary["metrics"]["persistence"]["val"]["nrmse"] > 0.5
    assert result.summary["data"]["points"] == {"train": 4 * 16, "val": 4 * 4, "test": 0}


def test_an_array_of_times_sensors_and_columns_gives_the_same(tmp_path):
    t, x, u = heat_table()
    np.save(tmp_path / "seen.npy", np.stack([x, u], axis=-1))
    (tmp_path / "train.csv").write_text("index\n3\n0\n")
    spec = heat_spec(
        tmp_path,
        path=str(tmp_path / "seen.npy"),
        columns=["x", "u"],
        interval=0.1,
        train_sensors=str(tmp_path / "train.csv"),
    )
    source = hyco.Engine(spec)
    from hyco_engine.assembly import Assembler

    found = Assembler(source.spec, source.registry).source()
    points = found.points(0)
    assert found.num_frames == 7
    assert points.time.tolist() == pytest.approx(t.reshape(-1).tolist())
    assert points.frame.tolist() == pytest.approx((t.reshape(-1) / 0.05).tolist())
    assert points.position[:, 0].tolist() == pytest.approx(x.reshape(-1).tolist())
    assert points.value[:, 0].tolist() == pytest.approx(u.reshape(-1).tolist())
    assert points.heldout.tolist() == [False, True, True, False, True] * 4


def test_both_models_learn_from_sensors_and_from_each_other(tmp_path):
    write_csv(tmp_path / "seen.csv", heat_table(sensors=20))
    spec = heat_spec(tmp_path)
    spec["synthetic"] = {"kind": "resnet", "width": 4, "blocks": 1}
    spec["augmentation"] = {"kind": "count", "alpha": 2.0}
    spec["training"] = {"synthetic": {"epochs_per_cycle": 2}, "physical": {"epochs_per_cycle": 2}}
    summary = hyco.run(spec).summary
    assert [entry["n_generated"] for entry in summary["balance"]] == [2, 2]
    assert set(summary["metrics"]) == {"physical", "synthetic", "persistence"}
    assert not [note for note in summary["warnings"] if "could not" in note]


def test_without_a_grid_the_rows_are_samples_for_predictors(tmp_path):
    t, x, u = heat_table(times=2)
    u[0, 0] = np.nan
    path = tmp_path / "seen.npz"
    np.savez(path, table=np.stack([x, t, u], axis=-1), other=np.zeros(3))
    from hyco_engine.builtin.sources.options import PointsOptions
    from hyco_engine.builtin.sources.points import PointSampleSource
    from hyco_engine.interfaces import BuildContext

    options = PointsOptions(path=path, array="table", columns=("x", "t", "u"), heldout=0.4)
    source = PointSampleSource(options, BuildContext(seed=0, registry=hyco.Registry()))
    train, val = source.samples("train"), source.samples("val")
    assert (len(train), len(val), len(source.samples("test"))) == (6, 4, 0)
    inputs, targets = train.batch(torch.arange(6))
    assert inputs["position"].shape == (6, 1)
    assert inputs["time"].shape == targets["u"].shape == (6,)
    known = ~targets["u"].isnan()
    expected = torch.exp(-0.5 * torch.pi**2 * inputs["time"]) * torch.sin(torch.pi * inputs["position"][:, 0])
    torch.testing.assert_close(targets["u"][known], expected[known])


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("t,x,u\n0.1,0.5,1\n0.2,oops,1\n", {}, "seen.csv: line 3, column 'x': 'oops' is no number"),
        ("t,x,u\n0.1,0.5,1\n0.2,0.5\n", {}, "seen.csv: line 3 has 2 entries, and the first line of the table has 3"),
        ("t,x,u\n", {}, "holds no rows"),
        ("0.1,0.5,1\n", {}, "does not name its 3 columns: name them in columns"),
        ("0.1,0.5,1\n", {"columns": ["t", "x"]}, "has 3 columns, and the spec names 2: t, x"),
        ("t,x,u\n0.1,,1\n", {}, "line 2 has nan in the column 'x'; each row needs a time"),
        ("t,x,u\n-0.1,0.5,1\n", {}, "an observation is at t = -0.1, before the first frame, which is at 0; data.start"),
        ("t,x,u\n0.1,5,1\n", {}, "no sensor lies inside the domain, x in [0.03125, 0.96875]"),
        ("t,u\n0.1,5\n", {}, "hold no position (x, y or z)"),
        ("t,x\n0.1,0.5\n", {}, "hold no field"),
        ("x,u\n0.5,1\n", {}, "the times are missing: name a column t"),
        ("t,x,y,u\n0.1,0.5,0.5,1\n", {}, "the positions have the columns x, y, the grid the axes x"),
        ("t,x,u\n0.1,0.5,1\n", {"initial": None}, "rollouts need the first frame of 'u'"),
        ("t,x,u\n0.1,0.5,1\n", {"initial": {"u": 0.0, "w": 0.0}}, "the data has no field 'w' (its columns hold u)"),
        ("t,x,u\n0.1,0.5,1\n", {"dt": None}, "the time between two frames of the rollouts is missing"),
        ("t,x,u\n0.1,0.5,1\n", {"boundary": None}, "rollouts need the boundary of the fields"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_before_training(tmp_path, text, data, message):
    (tmp_path / "seen.csv").write_text(text)
    with pytest.raises(HycoError) as found:
        hyco.run(heat_spec(tmp_path, **data))
    (problem,) = found.value.problems
    assert message in problem.message
    assert problem.key.startswith("data")
    assert not (tmp_path / "runs" / "heat-1").exists()


def test_sensors_outside_of_the_domain_are_left_out_and_told(tmp_path, caplog):
    (tmp_path / "seen.csv").write_text("t,x,u\n0.1,0.5,1\n0.1,1.5,0\n0.2,0.99,0\n")
    engine = hyco.Engine(heat_spec(tmp_path, num_predict_steps=4, split={"by": "time", "train": "0:5", "val": "5:7"}))
    from hyco_engine.assembly import Assembler

    assembler = Assembler(engine.spec, engine.registry)
    assert len(assembler.source().points(0).time) == 2
    assert "1 of 3 observations lie outside the domain and are left out" in caplog.text


# --- vector fields ---


def test_columns_of_components_make_a_vector_field(tmp_path):
    """A flow that is rotated: read back where it was seen, with a component that was not."""
    cells = (np.arange(8) + 0.5) / 8
    x, y = np.meshgrid(cells, cells, indexing="ij")
    np.save(tmp_path / "first.npy", np.stack([y, -x]))
    np.save(tmp_path / "ux.npy", y)
    rows = "t,x,y,u.y,c,u.x\n0.1,0.3,0.4,-0.3,1,0.4\n0.2,0.6,0.7,,2,0.7\n0.2,0.2,0.2,-0.2,2,0.2\n"
    (tmp_path / "seen.csv").write_text(rows)
    keys = {
        "resolution": {"x": 8, "y": 8},
        "bounds": {},
        "boundary": "zero-gradient",
        "dt": 0.1,
        "num_predict_steps": 2,
        "heldout": 0.0,
        "split": {"by": "time", "train": "0:2", "val": "2:3"},
    }

    def points_of_spec(initial):
        from hyco_engine.assembly import Assembler

        engine = hyco.Engine(heat_spec(tmp_path, **keys, initial=initial) | {"synthetic": {"kind": "resnet"}})
        return Assembler(engine.spec, engine.registry).source()

    whole = points_of_spec({"u": {"file": str(tmp_path / "first.npy")}, "c": 3.0})
    assert [(field.name, field.components) for field in whole.layout.dynamic] == [("u", ("x", "y")), ("c", ())]
    value = whole.points(0).value
    torch.testing.assert_close(
        value, torch.tensor([[0.4, -0.3, 1], [0.7, math.nan, 2], [0.2, -0.2, 2]], dtype=F64), equal_nan=True
    )
    first = whole.load(0).dynamic[:1]
    torch.testing.assert_close(first[0], torch.from_numpy(np.stack([y, -x, 3 + 0 * x])))
    read = Sensors(whole.layout)(first[None], torch.zeros(1, 3, dtype=F64), whole.points(0).position[None])[0]
    known = ~value.isnan()
    known[:, 2] = False
    torch.testing.assert_close(read[known], value[known])
    parts = points_of_spec({"u.x": {"file": str(tmp_path / "ux.npy")}, "u": -0.5, "c": 3.0})
    torch.testing.assert_close(parts.load(0).dynamic[0, :2], torch.from_numpy(np.stack([y, 0 * y - 0.5])))


def test_a_viscosity_is_found_from_sensors_of_a_moving_fluid(tmp_path):
    """Burgers in two dimensions; the sensors move, see at uneven times, and one of them the first component alone."""
    truth = {
        "run": {"precision": "float64"},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": {
            "kind": "simulate",
            "truth": {"nu": 0.02},
            "num_simulations": 3,
            "num_frames": 5,
            "resolution": {"x": 8, "y": 8},
            "dt": 0.02,
        },
        "physical": {"kind": "burgers"},
    }
    from hyco_engine.assembly import Assembler

    engine = hyco.Engine(truth)
    source = Assembler(engine.spec, engine.registry).source()
    path = source.load(0).dynamic.double()
    np.save(tmp_path / "first.npy", path[0].numpy())
    rng = np.random.default_rng(0)
    frame = torch.from_numpy(np.sort(rng.uniform(0.2, 4, (1, 60))))
    position = torch.from_numpy(rng.uniform(0, 1, (1, 60, 2)))
    read = Sensors(source.layout)(path[None], frame, position)[0].numpy()
    read[::7, 1] = np.nan
    table = np.column_stack([0.02 * frame[0].numpy(), position[0].numpy(), read])
    np.savetxt(tmp_path / "seen.csv", table, delimiter=",", header="t,x,y,u.x,u.y", comments="")
    spec = truth | {
        "data": {
            "kind": "points",
            "path": str(tmp_path / "seen.csv"),
            "resolution": {"x": 8, "y": 8},
            "boundary": "periodic",
            "dt": 0.02,
            "initial": {"u": {"file": str(tmp_path / "first.npy")}},
            "split": {"by": "sensor"},
            "num_predict_steps": 4,
            "truth": {"nu": 0.02},
        },
        "physical": {"kind": "burgers", "compile": "graph", "parameters": {"nu": {"init": 0.03}}},
        "training": {"physical": {"epochs_per_cycle": 5, "curriculum": [[2, 2]]}},
    }
    summary = hyco.run(spec).summary
    assert summary["parameters"]["nu"]["final"] == pytest.approx(0.02, rel=1e-3)
    assert summary["metrics"]["physical"]["val"]["nrmse"] < 1e-3
    assert list(summary["metrics"]["physical"]["val"]["nrmse_by_field"]) == ["u"]


@pytest.mark.parametrize(
    ("header", "data", "message", "key"),
    [
        (
            "t,x,y,u.x,v",
            {},
            "the vector 'u' has the components x, and the positions have the axes x, y: give a column for each, with "
            "empty entries for a component that was not observed",
            "data.columns",
        ),
        (
            "t,x,y,u,u.x",
            {},
            "'u' is a column, and so is 'u.x': a field must be either one number or one for each component",
            "data.columns",
        ),
        ("t,x,y,u.,v", {}, "the column 'u.' names no component: write field.x", "data.columns"),
        (
            "t,x,y,u.x,u.y",
            {"initial": {"u.x": 0.0}},
            "rollouts need the first frame of 'u.y': give a number, a profile, or a file of the grid's shape (4, 3)",
            'data.initial."u.y"',
        ),
        (
            "t,x,y,u.x,u.y",
            {"initial": {"u": 0.0, "u.z": 0.0}},
            "the data has no field 'u.z'; did you mean 'u.y'? (its columns hold u.x, u.y)",
            'data.initial."u.z"',
        ),
        (
            "t,x,y,u.x,u.y",
            {"initial": {"u": {"file": "u0.npy"}}},
            "u0.npy has the shape (4, 3), and the grid has (4, 3) cells for each of the components x, y",
            "data.initial.u",
        ),
    ],
)
def test_what_is_wrong_with_a_vector_is_told(tmp_path, header, data, message, key):
    (tmp_path / "seen.csv").write_text(header + "\n0.1,0.5,0.5,1,1\n")
    keys = {"resolution": {"x": 4, "y": 3}, "bounds": {}, "initial": {"u": 0.0, "v": 0.0}, **data}
    spec = heat_spec(tmp_path, **keys)
    np.save(tmp_path / "u0.npy", np.zeros((4, 3)))
    for given in spec["data"]["initial"].values():
        if isinstance(given, dict):
            given["file"] = str(tmp_path / given["file"])
    with pytest.raises(HycoError) as found:
        hyco.run(spec)
    (problem,) = found.value.problems
    assert (problem.message.replace(f"{tmp_path}/", ""), problem.key) == (message, key)


@pytest.mark.parametrize("player", ["physical", "synthetic"])
def test_parts_that_would_say_nothing_are_refused(player, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HycoError) as caught:
        hyco.run(TINY | {"training": {player: {"points_per_sample": 8}}})
    (problem,) = caught.value.problems
    assert problem.key == f"training.{player}.points_per_sample"
    assert problem.message == (
        "only a surrogate that is a function of position and time can learn observations in parts: leave it out"
    )


# --- series without places ---

DOSES, KE, VOLUME = np.array([30.0, 40.0, 50.0]), 0.1, 20.0


def bolus(observed: bool) -> str:
    """Return a table of doses that decay, each subject at times of its own and with its own number of rows.

    The first row has the dose and, if it is `observed`, the concentration.
    """
    rows = ["ID,TIME,AMT,note,DV"]
    for k, dose in enumerate(DOSES):
        start = f"{dose / VOLUME}" if observed else "."
        rows.append(f"P{k},0,{dose},ok,{start}")
        for time in (2 + k) * np.arange(1, 6 + k):
            value = dose / VOLUME * math.exp(-KE * time)
            rows.append(f"P{k},{time},.,ok,{value:.12g}")
    return "\n".join(rows) + "\n"


def bolus_spec(tmp_path, text, **data):
    (tmp_path / "doses.csv").write_text(text)
    keys = {
        "kind": "points",
        "path": str(tmp_path / "doses.csv"),
        "columns": ["s", "t", "AMT", "", "DV"],
        "dt": 1.0,
        "num_predict_steps": 18,
        "split": {"train": "0:2", "val": "2:3"},
    }
    return {
        "run": {"name": "doses", "cycles": 1, "precision": "float64"},
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": keys | data,
        "physical": {
            "kind": "equation",
            "compile": "eager",
            "rates": {"DV": "-ke*DV"},
            "parameters": {"ke": {"init": 0.15, "bounds": [0.0, 5.0]}},
        },
    }


def points_source(spec):
    from hyco_engine.assembly import Assembler

    engine = hyco.Engine(spec)
    return Assembler(engine.spec, engine.registry).source()


def test_series_at_times_of_their_own_find_a_physics_and_its_starts(tmp_path):
    spec = bolus_spec(tmp_path, bolus(observed=False))
    spec["physical"]["initial"] = {"DV": "dose/V"}
    spec["physical"]["parameters"] |= {"dose": {"from": "AMT"}, "V": {"init": 15.0, "bounds": [1.0, 100.0]}}
    spec["training"] = {"physical": {"epochs_per_cycle": 8}}
    summary = hyco.run(spec).summary
    found = {name: summary["parameters"][name]["final"] for name in ("ke", "V")}
    # readings fall on frames
    assert found == pytest.approx({"ke": KE, "V": VOLUME}, rel=1e-6)
    assert summary["metrics"]["physical"]["val"]["vrmse"] < 1e-6
    assert summary["metrics"]["persistence"]["val"]["vrmse"] > 0.5
    assert summary["data"]["points"]["train"] == 5 + 6


def test_each_series_begins_at_its_first_row(tmp_path):
    spec = bolus_spec(tmp_path, bolus(observed=True).replace("P1,0,", "P1,-1,"))
    spec["physical"]["parameters"]["ke"] = {"from": "AMT"}
    source = points_source(spec)
    assert source.layout.grid.axes == ()
    assert [source.start(k) for k in range(3)] == [0.0, -1.0, 0.0]
    assert [source.load(k).dynamic[0, 0].item() for k in range(3)] == pytest.approx(DOSES / VOLUME)
    assert [len(source.points(k).time) for k in range(3)] == [6, 7, 8]
    assert [source.scalars(k)["AMT"] for k in range(3)] == DOSES.tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {},
            "data.initial.DV: FILE: simulation 0 has no value of 'DV' at its first frame, t = 0: give one number for "
            'all simulations, or in physical.initial a formula of parameters, such as "dose/V"',
        ),
        ({"boundary": 0.0}, "data.boundary: the fields have no axes of space, and no boundary: leave it out"),
        (
            {"dt": None},
            "data.columns: the columns ['s', 't', 'AMT', 'DV'] hold no position (x, y or z); series without places "
            "need data.dt, the time between two frames",
        ),
    ],
)
def test_what_series_at_times_of_their_own_lack_is_told(tmp_path, data, message):
    spec = bolus_spec(tmp_path, bolus(observed=False))
    spec["data"] = {name: value for name, value in (spec["data"] | data).items() if value is not None}
    with pytest.raises(HycoError) as found:
        points_source(spec)
    assert str(found.value).replace(spec["data"]["path"], "FILE") == message


def test_without_places_the_spread_is_that_of_whole_series():
    own = [seen([1.0], [], [1.0]), seen([2.0], [], [3.0])]
    layout = StateLayout(
        grid=Grid(axes=(), resolution=(), lower=(), upper=()),
        dynamic=(FieldInfo(name="u", boundary=Boundary(sides={})),),
    )
    dynamic = torch.tensor([[0.0], [math.nan], [math.nan]])
    paths = [Trajectory(dynamic=dynamic, static=torch.zeros(0), points=points) for points in own]
    metrics = rollout_errors(lambda state, steps: 2 * torch.ones(len(state), steps, 1), paths, layout)
    assert metrics["vrmse_by_step"] == [1.0, 1.0]
