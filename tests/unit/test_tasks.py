"""Tasks: what each kind of data gives, and that check and run build the same parts for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, layout, numbered
from tiny_specs import BURGERS
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.data.form import DataForm
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import Mask, Noise, Observe, Split
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.records import ModelRecord
from hyco_engine.interfaces import Points, Predictor, Samples, SampleSource, TermSpec, Trajectory, Values
from hyco_engine.spec.classes import LossSpec, TermSetting
from hyco_engine.spec.options import options
from hyco_engine.tasks import FieldTask, GridTask, PointTask, SampleTask, Task, task_for
from hyco_engine.tasks.points import HeldOutPoints
from hyco_engine.training.evaluation import HeldOutRollouts, HeldOutSamples
from hyco_engine.training.losses import PredictorObjective, RolloutObjective
from hyco_engine.training.point_losses import PointObjective
from hyco_engine.training.settings import TrainingSettings

CELLS = 5

PLAIN = TrainingSettings()


class Line(Predictor):
    """y = w x, and any field of position and time alike."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    @property
    def terms(self) -> Sequence[TermSpec]:
        return [TermSpec(name="u", unit="K")]

    def forward(self, inputs: Values) -> Mapping[str, Tensor]:
        assert not isinstance(inputs, Tensor)
        return {"u": self.weight * inputs["position"][:, 0]}


class Same(torch.nn.Module):
    """A stepper for which nothing changes."""

    def forward(self, state: Tensor) -> Tensor:
        return state[:, :1]


class Pairs(Samples):
    def __init__(self, count: int) -> None:
        self.x = torch.arange(float(count))

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        x = self.x[indices]
        return {"position": x[:, None]}, {"u": 2 * x}


@attrs.define(kw_only=True)
class PairSource(SampleSource):
    counts: dict[str, int]
    version: str = "1"

    def samples(self, split: str) -> Samples:
        return Pairs(self.counts[split])

    def fingerprint(self) -> str:
        return self.version


class PointSource(ListSource):
    def points(self, index: int) -> Points | None:
        return self.trajectories[index].points


def seen() -> Trajectory:
    """One simulation whose first frame is known, and what three sensors saw of it, one of which validates."""
    dynamic = torch.full((6, 1, CELLS), torch.nan)
    dynamic[0] = 1.0
    frame = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    points = Points(
        frame=frame,
        time=frame * 0.5,
        position=torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64),
        value=torch.ones(3, 1, dtype=torch.float64),
        heldout=torch.tensor([False, False, True]),
    )
    return Trajectory(dynamic=dynamic, static=torch.zeros(0, CELLS), points=points)


def grid_task(**keys: Any) -> Task:
    source = ListSource(trajectories=[numbered(8, i) for i in range(4)])
    return task_for(source, choice(split=Split(test="3:4"), **keys))


def point_task() -> Task:
    return task_for(PointSource(trajectories=[seen()]), choice(split=Split(by="sensor"), num_predict_steps=4))


def sample_task(**counts: int) -> Task:
    return task_for(PairSource(counts={"train": 6, "val": 2, "test": 0} | counts), choice())


def test_the_source_decides_which_task_it_is() -> None:
    assert [type(make()) for make in (grid_task, point_task, sample_task)] == [GridTask, PointTask, SampleTask]


# --- each kind of data ----------------------------------------------------------------------------------------------


def test_a_grid_is_trained_by_rollouts_and_measured_by_full_ones() -> None:
    task = grid_task()
    task.read()
    terms = task.terms("synthetic", Same(), LossSpec())
    assert [(term.name, term.n_elements) for term in terms] == [("u", CELLS)]
    objective = task.objective(Same(), terms)
    assert type(objective) is RolloutObjective
    heldout = task.heldout("val", objective)
    assert type(heldout) is HeldOutRollouts
    assert heldout.measure(Same()) == heldout.persistence()
    detailed = heldout.in_detail().measure(Same())
    assert heldout.measure(Same()).items() <= detailed.items()
    assert len(detailed) > len(heldout.measure(Same()))
    states = task.start_states(TrainingSettings(batch_size=1000))
    assert states is not None
    assert states.shape == (task.n_real, 1, CELLS)
    example = task.example()
    assert example is not None
    assert (example.split, len(example.trajectory.dynamic)) == ("test", 8)


def test_points_are_read_from_rollouts_or_asked_of_predictors() -> None:
    task = point_task()
    assert task.n_real == 1
    task.read()
    objective = task.objective(Same(), task.terms("physical", Same(), LossSpec()))
    assert type(objective) is PointObjective
    heldout = task.heldout("val", objective)
    assert type(heldout) is HeldOutPoints
    assert heldout.measure(Same())["nrmse"] == pytest.approx(1e-12)
    assert heldout.measure(Line())["nrmse"] == pytest.approx(0.7)
    assert task.heldout("test", objective) is None
    with pytest.raises(SpecError, match="are no simulations") as caught:
        task.simulations()
    assert caught.value.problems[0].key == "data.kind"


def test_samples_are_for_predictors() -> None:
    task = sample_task()
    (term,) = task.terms("synthetic", Line(), LossSpec(terms={"u": TermSetting(scale=3.0)}))
    assert (term.name, term.unit, term.scale) == ("u", "K", 9.0)
    objective = task.objective(Line(), [term])
    assert type(objective) is PredictorObjective
    heldout = task.heldout("val", objective)
    assert type(heldout) is HeldOutSamples
    assert heldout.in_detail() is heldout
    assert heldout.persistence() is None
    assert (task.validates, task.heldout("test", objective)) == (True, None)
    assert not sample_task(val=0).validates
    assert (task.n_real, task.sample_bytes(PLAIN)) == (6, 8)
    assert (task.form.layout, task.start_states(PLAIN), task.example(), task.summary()) == (
        None,
        None,
        None,
        None,
    )
    with pytest.raises(DataError, match="this data has no fields") as caught:
        task.terms("physical", Same(), LossSpec())
    assert caught.value.problems[0].key == "physical.kind"
    with pytest.raises(SpecError, match='scale = "data" needs fields'):
        task.terms("synthetic", Line(), LossSpec(terms={"u": TermSetting(scale="data")}))
    with pytest.raises(SpecError, match="are no simulations"):
        task.simulations()


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"observe": Observe(noise=Noise(level=0.1))}, "data.observe"),
        ({"observe": Observe(mask=Mask(every=2))}, "data.observe"),
        ({"split": Split(by="time")}, "data.split.by"),
    ],
)
def test_samples_are_refused_what_only_simulations_have(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        task_for(PairSource(counts={"train": 6, "val": 2, "test": 0}), choice(**keys))
    assert caught.value.problems[0].key == key


def test_samples_need_something_to_train_on() -> None:
    with pytest.raises(DataError, match="no sample to train on"):
        sample_task(train=0)


# --- before and after reading ---------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_a_task_is_read_and_sizes_stay() -> None:
    source = ListSource(trajectories=[numbered(8, i) for i in range(3)])
    task = task_for(source, choice())
    told = (task.n_real, task.sample_bytes(PLAIN), task.sizes, task.memory(PLAIN, 3))
    assert task.form.statistics is not None
    assert task.form.statistics.std.tolist() == [1.0]
    task.terms("synthetic", Same(), LossSpec(terms={"u": TermSetting(scale="data")}))
    assert source.loaded == []
    assert not task.is_read
    task.read()
    assert task.is_read
    assert source.loaded == [0, 1, 2]
    assert told == (
        task.n_real,
        task.sample_bytes(PLAIN),
        task.sizes,
        task.memory(PLAIN, 3),
    )
    assert task.n_real == len(task.train)
    assert task.sample_bytes(PLAIN) == sum(part.nbytes for part in task.train.batch(torch.tensor([0])))  # type: ignore[union-attr]
    assert float(task.form.statistics.std[0]) != 1.0


@pytest.mark.parametrize("make", [grid_task, point_task])
def test_a_sample_is_as_large_as_the_recipe_makes_it(make: Any) -> None:
    task = make()
    task.read()
    assert isinstance(task, FieldTask)
    steps = task.manager.choice.num_predict_steps
    recipe = RolloutRecipe(
        Same(), lambda indices: torch.ones(len(indices), 1, CELLS), 2, horizon=steps, layout=task.layout
    )
    assert task.sample_bytes(PLAIN) == recipe.sample_bytes


def test_a_digest_changes_with_what_is_held_out() -> None:
    task = grid_task()
    task.read()
    before = task.digest()
    assert before == task.digest()
    task.simulations().heldout("val")[0].dynamic[-1, 0, 2] += 1e-3
    assert task.digest() != before
    counts = {"train": 6, "val": 2, "test": 0}
    digests = {task_for(PairSource(counts=counts, version=version), choice()).digest() for version in "112"}
    assert len(digests) == 2


def test_a_model_of_other_states_does_not_fit() -> None:
    task = grid_task()
    form = task.form
    task.check_fit(form, "synthetic")
    task.check_fit(DataForm(), "synthetic")
    with pytest.raises(DataError, match=r"steps by 0\.25; the frames of this data are 0\.5 apart"):
        task.check_fit(attrs.evolve(form, dt=0.25), "synthetic")
    other = attrs.evolve(form, layout=layout("v"))
    with pytest.raises(DataError, match=r"the fields v .* this data has the fields u"):
        task.check_fit(other, "synthetic")
    with pytest.raises(DataError, match="this data has no fields"):
        sample_task().check_fit(form, "synthetic")


def test_the_form_of_the_data_is_kept_exactly_in_texts() -> None:
    task = grid_task()
    task.read()
    again = DataForm.from_metadata(task.form.to_metadata() | {"kind": "unet"})
    assert (again.text, again.dt, again.to_metadata()) == (task.form.text, 0.5, task.form.to_metadata())
    assert DataForm().to_metadata() == {}
    assert DataForm.from_metadata({"kind": "unet"}).layout is None
    assert Statistics.unknown(layout("uv", "c")).std.tolist() == [1.0, 1.0, 1.0]


# --- one prepare() for check and run --------------------------------------------------------------------------------


@options
class NoOptions:
    pass


def registry() -> hyco.Registry:
    found = hyco.Registry.discover()
    record = ModelRecord(
        kind="line",
        role="synthetic",
        summary="a line",
        options=NoOptions,
        factory=lambda options, context: Line(),
    )
    found.register(record, distribution="test", version="1")
    return found


def tiny(**tables: Any) -> dict[str, Any]:
    spec = copy.deepcopy(BURGERS)
    spec["physical"]["compile"] = "eager"
    spec["run"]["cycles"] = 1
    return {**spec, **tables}


def sensors() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    t = np.repeat([0.1, 0.2, 0.3], 4)
    x = rng.uniform(0, 1, 12)
    np.savetxt("seen.csv", np.stack([t, x, np.sin(np.pi * x)], 1), delimiter=",", header="t,x,u", comments="")
    return {"kind": "points", "path": "seen.csv", "heldout": 0.25}


def on_a_grid() -> dict[str, Any]:
    np.save("u0.npy", np.sin(np.pi * (np.arange(8) + 0.5) / 8))
    more = {"resolution": {"x": 8}, "boundary": 0.0, "dt": 0.05, "num_predict_steps": 6, "split": {"by": "sensor"}}
    return tiny(
        data=sensors() | more | {"initial": {"u": {"file": "u0.npy"}}},
        physical={"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.3}}},
        augmentation={"kind": "count", "alpha": 2.0},
    )


def of_samples() -> dict[str, Any]:
    return {"run": {"cycles": 1}, "data": sensors(), "synthetic": {"kind": "line"}}


SPECS = {
    "count": tiny,
    "weight": lambda: tiny(augmentation={"kind": "weight", "alpha": 0.5}),
    "trust": lambda: tiny(augmentation={"kind": "interaction", "alpha": 0.5}),
    "physics alone": lambda: {name: table for name, table in tiny().items() if name != "synthetic"},
    "masked": lambda: tiny(data={**tiny()["data"], "observe": {"mask": {"every": 2, "heldout": False}}}),
    "points": on_a_grid,
    "samples": of_samples,
}


@pytest.mark.parametrize("name", SPECS)
def test_a_run_records_what_check_announces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = SPECS[name]()
    with monkeypatch.context() as patch:
        if name not in ("points", "samples"):
            patch.setattr(DataManager, "prepare", lambda *args: pytest.fail("a plan must not simulate"))
        plan = hyco.Engine(spec, registry=registry()).plan()
    engine = hyco.Engine(spec, registry=registry())
    result = engine.run(tmp_path / "run")
    summary = result.summary
    told = [{key: phase[key] for key in ("cycle", "phase", "n_real", "n_generated")} for phase in plan["phases"]]
    assert [{key: entry[key] for key in told[0]} for entry in summary["balance"]] == told
    cache = summary["cache"]
    assert plan["cache"] == (None if cache is None else {k: v for k, v in cache.items() if k != "peak_bytes"})
    assert plan["n_real"] == told[0]["n_real"]
    assert {p.removeprefix("train_") for p in (phase["phase"] for phase in plan["phases"])} == set(summary["trained"])
    trained: dict[str, int] = {}
    for phase in plan["phases"]:
        player = phase["phase"].removeprefix("train_")
        trained[player] = trained.get(player, 0) + phase["epochs"]
    assert {player: counts["epochs"] for player, counts in summary["trained"].items()} == trained
    assert [note for note in plan["notes"] if note not in summary["warnings"]] == []


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"training": {"physical": {"points_per_sample": 3}}}, "training.physical.points_per_sample"),
        ({"training": {"physical": {"starts": 3, "optimizer": "adam"}}}, "training.physical.starts"),
        ({"loss": {"terms": {"v": {"scale": 2.0}}}}, "loss.terms.v"),
        ({"data": {**BURGERS["data"], "truth": {"nu": {"profile": "sin-squared", "offset": 0.1}}}}, "data.truth.nu"),
        ({"data": {**BURGERS["data"], "truth": {"nu": 0.02, "advection": 1.3}}}, "data.truth.advection"),
    ],
)
def test_check_refuses_what_a_run_refuses(
    tables: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = []
    for ask in (hyco.Engine.plan, hyco.Engine.run):
        with pytest.raises(SpecError) as caught:
            ask(hyco.Engine(tiny(**tables)))
        (problem,) = caught.value.problems
        assert problem.key == key
        texts.append(problem.message)
    assert texts[0] == texts[1]


def test_parts_are_built_alike_before_and_after_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for reads in (False, True):
        engine = hyco.Engine(tiny())
        assembler = Assembler(engine.spec, engine.registry)
        task = assembler.task()
        if reads:
            task.read()
        parts = assembler.prepare(task)
        trainers = {
            player: (t.solver.name, getattr(t.solver, "total_epochs", None), t.settings)
            for player, t in parts.trainers.items()
        }
        # the scale of a field is its spread, which only data that is read has
        terms = {
            player: [attrs.evolve(spec, scale=None) for spec in trainer.objective.specs]
            for player, trainer in parts.trainers.items()
        }
        weights = {name: value for name, value in parts.models["synthetic"].named_parameters()}
        found.append((trainers, terms, parts.cache, assembler.notes, weights))
    assert found[0][:4] == found[1][:4]
    assert all(torch.equal(value, found[1][4][name]) for name, value in found[0][4].items())
