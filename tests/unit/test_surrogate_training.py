"""What the engine chooses for the training of a surrogate, and how it trains then: noise, patience, budgets."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from messages import error_naming
from tiny_specs import BURGERS, TINY
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.spec.loading import spec_from_dict
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_windows
from hyco_engine.training import planning
from hyco_engine.training.budget import Budget
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.planning import Size, most_in_epoch, operations, plan
from hyco_engine.training.problem import with_noise
from hyco_engine.training.settings import SurrogateTraining, TrainingSettings
from hyco_engine.training.trainer import Trainer

REGISTRY = Registry.discover(())


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("auto", Budget()),
        ("90 s", Budget(seconds=90.0)),
        ("1.5 min", Budget(seconds=90.0)),
        ("2h", Budget(seconds=7200.0)),
        ("300 epochs", Budget(epochs=300)),
        ("1 epoch", Budget(epochs=1)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "5", "5 days", "0 s", "0 epochs", "2.5 epochs", "-1 min", "min", "5 min 3 s"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        Budget.parse(text)
    assert str(caught.value) == (
        f'must be "auto", a time such as "5 min", or a number such as "300 epochs", not {text!r}'
    )


# --- reduced precision ------------------------------------------------------------------------------------------------


class Rounded(nn.Module):
    """A convolution, which remembers the types of its input, weight and output."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1, 1), 1.001))
        self.seen: set[tuple[torch.dtype, ...]] = set()

    def forward(self, state: Tensor) -> Tensor:
        found = nn.functional.conv1d(state, self.weight)
        self.seen.add((state.dtype, self.weight.dtype, found.dtype))
        return state * 0.5 + found.to(state.dtype)


@pytest.mark.parametrize(("precision", "inside"), [("full", torch.float32), ("bf16", torch.bfloat16)])
def test_products_alone_are_rounded(precision: Any, inside: torch.dtype) -> None:
    model = Rounded()
    layout = decay_layout()
    settings = TrainingSettings(precision=precision, optimizer="adam", lr=1e-3)
    trainer = Trainer(model, player="synthetic", layout=layout, settings=settings, objective=RolloutObjective(layout))
    trainer.train(decay_windows(), 1)
    assert model.seen == {(torch.float32, torch.float32, inside)}
    assert model.weight.grad is not None
    assert (model.weight.dtype, model.weight.grad.dtype) == (torch.float32, torch.float32)


# --- the choice -------------------------------------------------------------------------------------------------------


def chosen(budget: str = "30 epochs", wanted: SurrogateTraining | None = None, **size: Any) -> TrainingSettings:
    about: dict[str, Any] = {"samples": 40, "horizon": 3, "phases": 3, "validates": True}
    layout = decay_layout()
    own = Size(layout=layout, **(about | size))
    objective = RolloutObjective(layout)
    return plan(wanted or SurrogateTraining(), Budget.parse(budget), own, LinearSurrogate(), objective).settings


def test_a_budget_of_epochs_is_that_of_the_run() -> None:
    found = chosen("30 epochs")
    assert (found.epochs_per_cycle, found.curriculum, found.patience) == (10, ((1, 30),), 12)
    assert chosen("30 epochs", phases=1).epochs_per_cycle == 30
    # every phase trains
    assert chosen("1 epochs").epochs_per_cycle == 1


def test_a_time_becomes_a_number_of_epochs_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_timed", lambda step: 0.1)
    # 60 s hold 600 steps of 0.1 s; 40 samples make 10 batches of 4
    assert chosen("60 s").epochs_per_cycle == 20
    assert chosen("2 min").epochs_per_cycle == 40
    # at most as many steps as ever paid
    assert chosen("10 h", phases=1).epochs_per_cycle == planning.MOST_STEPS // 10


def test_the_default_is_counted_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_timed", None)
    monkeypatch.setattr(planning, "MOST_STEPS", math.inf)
    wide, narrow = (nn.Conv1d(1, 1, taps, padding="same") for taps in (10001, 1))
    layout = decay_layout()
    size = Size(layout=layout, samples=40, horizon=1, phases=1, validates=True)
    objective = RolloutObjective(layout)
    counts = []
    for model in (wide, narrow, narrow):
        counts.append(plan(SurrogateTraining(), Budget(), size, model, objective).settings.epochs_per_cycle)
    assert counts[0] < counts[1] == counts[2]
    # nothing but the overhead counts: 180 s / 3 ms, in 10 batches
    assert counts[1] == pytest.approx(6000, rel=0.01)


@pytest.mark.parametrize(("samples", "size"), [(5, 4), (40, 4), (64, 8), (137, 16), (10_000, 16)])
def test_small_data_have_small_batches(samples: int, size: int) -> None:
    assert chosen(samples=samples).batch_size == size


@pytest.mark.parametrize(("weights", "rate"), [(1, 0.01), (10_000, 0.01), (40_000, 0.005), (10**7, 0.001)])
def test_large_networks_have_small_rates(weights: int, rate: float) -> None:
    model = LinearSurrogate()
    model.register_parameter("rest", nn.Parameter(torch.zeros(weights - 1)))
    size = Size(layout=decay_layout(), samples=40, horizon=1, phases=1, validates=True)
    found = plan(SurrogateTraining(), Budget(epochs=1), size, model, RolloutObjective(decay_layout()))
    assert found.settings.lr == rate


def test_hidden_and_noisy_frames_need_the_whole_rollout() -> None:
    assert chosen(hidden=True).curriculum == ()
    noisy = chosen(noisy=True)
    assert (noisy.curriculum, noisy.input_noise) == ((), 0.0)
    assert chosen(horizon=1).curriculum == ()


def test_without_held_out_data_all_epochs_are_trained() -> None:
    assert chosen(validates=False).patience == 0


def test_what_the_user_sets_is_kept() -> None:
    own = SurrogateTraining(lr=0.5, batch_size=7, curriculum=((2, 5),), input_noise=0.3, patience=2, weight_decay=0.1)
    found = chosen(wanted=own)
    kept = ("lr", "batch_size", "curriculum", "input_noise", "patience", "weight_decay")
    assert {name: getattr(found, name) for name in kept} == {name: getattr(own, name) for name in kept}


def test_with_a_number_of_epochs_nothing_else_is_chosen() -> None:
    assert SurrogateTraining(epochs_per_cycle=7).settled() == TrainingSettings(epochs_per_cycle=7)


def test_what_a_step_may_spend_on_a_sample_is_counted() -> None:
    open_ = SurrogateTraining()
    # 180 s less 5000 times 3 ms, at 2e10 operations a second, for 5000 steps of 16 samples
    assert operations(open_, Budget(), 1000) == pytest.approx(165 * 2e10 / (5000 * 16))
    assert operations(open_, Budget(), 10) == pytest.approx(165 * 2e10 / (5000 * 4))
    assert operations(SurrogateTraining(batch_size=100), Budget(), 1000) == pytest.approx(165 * 2e10 / (5000 * 100))
    assert operations(open_, Budget(seconds=25.0), 1000) == pytest.approx(10 * 2e10 / (5000 * 16))
    # 10 epochs of 63 batches
    assert operations(open_, Budget(epochs=10), 1000) == pytest.approx((180 - 1.89) * 2e10 / (630 * 16))
    assert operations(open_, Budget(seconds=1.0), 1000) == 0


# --- in a spec --------------------------------------------------------------------------------------------------------

OPEN: dict[str, Any] = {**TINY, "training": {"physical": TINY["training"]["physical"]}}
OPEN["run"] = {**TINY["run"], "budget": "12 epochs"}


def prepared(changes: dict[str, Any]) -> Assembler:
    assembler = Assembler(spec_from_dict(OPEN, REGISTRY, changes).spec, REGISTRY)
    assembler.prepare(assembler.task())
    return assembler


BF16 = {"training.synthetic.precision": "bf16", "run.device": "cpu"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.synthetic.optimizer": "lbfgs"}, "lbfgs needs exact losses: use adam, adamw or sgd with bf16"),
        ({"run.precision": "float64"}, "bf16 stands in for float32, and run.precision is float64: leave one out"),
    ],
)
def test_bf16_is_refused_where_it_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with error_naming(SpecError, message, key="training.synthetic.precision"):
        prepared(BF16 | changes)


def test_a_processor_without_bf16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = {}
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda fast=fast: {"amx_bf16": fast}, raising=False)
        notes[fast] = [note for note in prepared(BF16).notes if "bf16" in note]
    assert notes == {
        True: [],
        False: [
            'training.synthetic.precision = "bf16": no instructions of this processor for it are known (AMX or '
            "AVX512-BF16 on x86), so training may be slower than in full precision"
        ],
    }


def test_the_choice_is_written_into_the_spec() -> None:
    found = prepared({}).spec.training.synthetic
    assert found.open == frozenset()
    # 10 real samples and 5 generated ones
    assert (found.epochs_per_cycle, found.batch_size, found.schedule) == (6, 4, "cosine")


def test_the_work_of_a_physics_with_a_correction_is_counted() -> None:
    corrected = copy.deepcopy(OPEN) | {"synthetic": {"kind": "corrected", "width": 2, "depth": 1}}
    del corrected["run"]["budget"]
    corrected["physical"]["compile"] = "graph"
    told = hyco.Engine(corrected).plan()["training"]
    assert told["training.synthetic.epochs_per_cycle"] > 1


@pytest.mark.parametrize("optimizer", ["lbfgs", "gauss-newton"])
def test_full_batches_have_no_plan(optimizer: str) -> None:
    found = prepared({"training.synthetic.optimizer": optimizer}).spec.training.synthetic
    assert found.settled() == attrs.evolve(TrainingSettings(), schedule="cosine", optimizer=optimizer)


def test_noise_needs_stochastic_gradient_descent() -> None:
    told = "input noise changes from step to step, and lbfgs needs an objective that stays"
    with error_naming(SpecError, told, key="training.synthetic.input_noise"):
        prepared({"training.synthetic.optimizer": "lbfgs", "training.synthetic.input_noise": 0.1})


def test_check_tells_the_choice() -> None:
    # a physics of which there is nothing to tell
    told = hyco.Engine(copy.deepcopy(OPEN) | {"physical": BURGERS["physical"]}).plan()
    assert told["training"] == {
        "training.synthetic.epochs_per_cycle": 6,
        "training.synthetic.batch_size": 4,
        "training.synthetic.lr": 0.01,
        "training.synthetic.curriculum": ((1, 12),),
        "training.synthetic.input_noise": 0.1,
        "training.synthetic.patience": 5,
        "training.synthetic.epoch_samples": 15,
    }
    assert told["notes"] == [
        "the surrogate trains 2 x 6 epochs of 4 batches of 4 (run.budget = 12 epochs), learning rate 0.01 falling to "
        "0, rollouts of 1 step(s), noise of 0.1 of a frame's change, ending after 5 epochs without a lower error on "
        "held-out data"
    ]


@pytest.mark.parametrize(("kind", "samples"), [("count", 15), ("trust", 1000), ("interaction", 10)])
def test_an_epoch_has_room_for_a_teacher_that_fills_it(kind: str, samples: int) -> None:
    given = {**copy.deepcopy(OPEN), "run": {"name": "tiny", "cycles": 2}}
    plan = hyco.Engine({**given, "augmentation": {"kind": kind, "alpha": 0.5}}).plan()
    chosen = plan["training"]
    assert chosen["training.synthetic.epoch_samples"] == samples
    # the number of steps does not depend on it
    epochs = sum(entry["epochs"] for entry in plan["phases"] if entry["phase"] == "train_synthetic")
    steps = epochs * math.ceil(samples / chosen["training.synthetic.batch_size"])
    assert steps == pytest.approx(5000, rel=0.02)


def test_candidates_share_an_epoch() -> None:
    augmentation = {"kind": "two-arms", "arms": [{"kind": "trust"}, {"kind": "count"}]}
    given = {**copy.deepcopy(OPEN), "augmentation": augmentation}
    assert hyco.Engine(given).plan()["training"]["training.synthetic.epoch_samples"] == 1000


def test_epochs_that_are_set_get_no_longer() -> None:
    given = {**copy.deepcopy(OPEN), "augmentation": {"kind": "trust", "alpha": 0.5}}
    given["training"] = {**given.get("training", {}), "synthetic": {"epochs_per_cycle": 3}}
    plan = hyco.Engine(given).plan()
    assert plan["training"]["training.synthetic.epoch_samples"] == 0
    assert plan["n_generated"] == 5


@pytest.mark.parametrize(("cells", "samples"), [((48,), 1000), ((64, 64), 256), ((256, 256), 16), ((128,) * 3, 0)])
def test_large_states_take_long_to_generate(cells: tuple[int, ...], samples: int) -> None:
    axes = tuple("xyz"[: len(cells)])
    grid = Grid(axes=axes, resolution=cells, lower=(0.0,) * len(cells), upper=(1.0,) * len(cells))
    u = FieldInfo(name="u", boundary=Boundary.parse("periodic", axes))
    assert most_in_epoch(StateLayout(grid=grid, dynamic=(u,))) == samples


UNET: dict[str, Any] = {**OPEN, "synthetic": {"kind": "unet"}, "run": {"name": "tiny", "cycles": 2}}


def network(**changes: Any) -> tuple[Any, Any]:
    plan = hyco.Engine(copy.deepcopy(UNET), overrides={key.replace("__", "."): v for key, v in changes.items()}).plan()
    found = plan["training"]
    return found.get("synthetic.levels"), found.get("synthetic.width")


def test_the_size_of_the_network_follows_the_grid_and_the_budget() -> None:
    assert network() == (2, 32)
    assert network(data__resolution__x=6) == (1, 32)
    assert network(data__resolution__x=256) == (2, 32)
    assert network(data__resolution__x=512) == (2, 16)
    assert network(data__resolution__x=1024) == (3, 16)
    assert network(data__resolution__x=10_000) == (5, 16)
    assert network(run__budget="2 h", data__resolution__x=512) == (2, 32)
    assert network(run__budget="16 s") == (2, 16)
    assert network(run__budget="12 epochs") == (2, 32)
    # without a budget nothing says what is too large
    assert network(training__synthetic__epochs_per_cycle=1) == (2, 16)


def test_a_size_that_the_user_sets_is_kept() -> None:
    assert network(synthetic__levels=1) == (None, 32)
    assert network(synthetic__levels=1, synthetic__width=5) == (None, None)


def test_the_size_of_the_network_is_told_written_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {**UNET, "run": {**UNET["run"], "budget": "2 epochs"}}
    told = "the surrogate has levels = 2 and width = 32, by the size of the data and run.budget"
    assert told in hyco.Engine(copy.deepcopy(spec)).plan()["notes"]
    count = StopAt(-1)
    result = hyco.Engine(copy.deepcopy(spec)).run("whole", stop=count)
    assert sum(p.numel() for p in result.synthetic.parameters()) == 157_505  # type: ignore[union-attr]
    resolved = tomllib.loads((tmp_path / "whole" / "spec.toml").read_text())
    assert resolved["synthetic"] | {"levels": 2, "width": 32} == resolved["synthetic"]
    assert told in (tmp_path / "whole" / "log.txt").read_text()
    with pytest.raises(Interrupted):
        hyco.Engine(copy.deepcopy(spec)).run("parts", stop=StopAt(count.asked // 2))
    # a resumed run keeps its network, whatever a newer engine would choose
    monkeypatch.setattr("hyco_engine.builtin.models.unet.WIDE", 64)
    hyco.Engine(copy.deepcopy(spec)).run("parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    with error_naming(SpecError, "was 32 when the run began, and is 8 now", key="synthetic.width"):
        hyco.Engine(copy.deepcopy(spec), overrides={"synthetic.width": 8}).run("parts", resume=True)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}


class StopAt:
    def __init__(self, moment: int) -> None:
        self.moment, self.asked = moment, 0

    def __call__(self) -> str | None:
        self.asked += 1
        return "SIGTERM" if self.asked == self.moment else None


def test_the_resolved_spec_repeats_the_run_and_a_resumed_run_keeps_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    step_times = iter([0.5, 0.01])
    # 25 s hold 50 steps of 0.5 s; another machine would take more
    monkeypatch.setattr(planning, "_timed", lambda step: next(step_times))
    spec = {**OPEN, "run": {**OPEN["run"], "budget": "25 s"}}
    count = StopAt(-1)
    hyco.Engine(copy.deepcopy(spec)).run("whole", stop=count)
    resolved = tomllib.loads((tmp_path / "whole" / "spec.toml").read_text())
    assert resolved["training"]["synthetic"]["epochs_per_cycle"] == 6
    told = [line for line in (tmp_path / "whole" / "log.txt").read_text().splitlines() if "surrogate trains" in line]
    assert "2 x 6 epochs of 4 batches of 4 (at most 25 s here)" in told[0]

    hyco.Engine(tmp_path / "whole" / "spec.toml").run("again")
    assert weights(tmp_path / "again") == weights(tmp_path / "whole")

    monkeypatch.setattr(planning, "_timed", lambda step: 0.5)
    with pytest.raises(Interrupted):
        hyco.Engine(copy.deepcopy(spec)).run("parts", stop=StopAt(count.asked // 2))
    monkeypatch.setattr(planning, "_timed", lambda step: 0.01)
    hyco.Engine(copy.deepcopy(spec)).run("parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    metrics = [json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("whole", "parts")]
    assert metrics[0] == metrics[1]


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_has_the_size_of_a_frames_change() -> None:
    # channel 0 changes by 2 a frame, channel 1 by 0.01, channel 2 is static
    states = torch.zeros(64, 3, 500)
    lead = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    targets = (lead * torch.tensor([2.0, 0.01]).reshape(1, 1, 2, 1)).expand(64, 2, 2, 500)
    noisy, same = with_noise((states, targets), 0.1, torch.Generator().manual_seed(0))
    assert isinstance(noisy, Tensor)
    assert same is targets
    assert noisy.std((0, 2)).tolist() == pytest.approx([0.2, 0.001, 0.0], rel=0.02)
    assert not states.any()


def test_frames_that_were_not_observed_do_not_count_for_the_size() -> None:
    states, targets = torch.zeros(8, 1, 1000), torch.ones(8, 2, 1, 1000)
    targets[:, 0] = math.nan
    noisy, _ = with_noise((states, targets), 1.0, torch.Generator().manual_seed(0))
    assert isinstance(noisy, Tensor)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05)
    nothing, _ = with_noise((states, torch.full_like(targets, math.nan)), 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(nothing, states)  # type: ignore[arg-type]


def test_training_with_noise_repeats() -> None:
    found = []
    for noise in (0.0, 0.5, 0.5):
        settings = TrainingSettings(batch_size=4, lr=0.05, input_noise=noise)
        trainer = Trainer(LinearSurrogate(), player="synthetic", layout=decay_layout(), settings=settings)
        trainer.train(decay_windows(), 3)
        found.append(float(trainer.model.weight.detach()))
    assert found[1] == found[2] != found[0]


# --- patience ---------------------------------------------------------------------------------------------------------


class Course:
    """Held-out errors that are given beforehand, one for each measurement."""

    def __init__(self, errors: list[float]) -> None:
        self.errors = errors
        self.seen: list[float] = []

    def __call__(self, model: nn.Module) -> float:
        assert isinstance(model, LinearSurrogate)
        self.seen.append(float(model.weight.detach()))
        return self.errors[len(self.seen) - 1]


def patient(course: Course, patience: int = 3) -> Trainer:
    settings = TrainingSettings(batch_size=4, lr=0.01, patience=patience)
    model = LinearSurrogate()
    return Trainer(model, player="synthetic", layout=decay_layout(), settings=settings, seed=0, error=course)


def test_a_phase_ends_once_the_error_no_longer_falls_with_the_best_weights() -> None:
    course = Course([3.0, 2.0, 2.5, 2.0, math.inf, 1.0])
    trainer = patient(course)
    result = trainer.train(decay_windows(), 20)
    assert (result.epochs, result.converged) == (5, True)
    assert float(trainer.model.weight.detach()) == course.seen[1]


def test_a_phase_whose_error_falls_to_the_end_trains_all_epochs() -> None:
    course = Course([3.0, 2.0, 1.0, 0.5])
    trainer = patient(course)
    result = trainer.train(decay_windows(), 4)
    assert (result.epochs, result.converged) == (4, False)
    assert float(trainer.model.weight.detach()) == course.seen[3]


def test_later_phases_begin_with_the_best_weights_and_half_of_the_patience() -> None:
    course = Course([1.0, *[2.0] * 4, *[3.0] * 2, 0.5, 1.0])
    trainer = patient(course, patience=4)
    assert trainer.train(decay_windows(), 20).epochs == 5
    assert trainer.train(decay_windows(), 20).epochs == 2
    assert float(trainer.model.weight.detach()) == course.seen[0]
    assert trainer.train(decay_windows(), 2).epochs == 2
    assert float(trainer.model.weight.detach()) == course.seen[7]


def test_patience_goes_on_from_its_state() -> None:
    errors = [3.0, 2.0, 2.5, 2.0, 2.1, 9.0]
    whole = patient(Course(errors))
    whole.train(decay_windows(), 20)
    course = Course(errors)
    first = patient(course)
    steps = first.steps(decay_windows(), 20)
    for _ in range(11):
        next(steps)
    second = patient(Course(errors[len(course.seen) :]))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.train(decay_windows(), 20)
    assert torch.equal(second.model.weight, whole.model.weight)
    assert second.epochs_done == whole.epochs_done == 5


def test_without_held_out_data_there_is_no_patience() -> None:
    settings = TrainingSettings(batch_size=4, patience=1)
    trainer = Trainer(Decay(), player="physical", layout=decay_layout(), settings=settings)
    assert trainer.train(decay_windows(), 6).epochs == 6
