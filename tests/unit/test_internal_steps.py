"""Internal steps: how many make a frame while parameters move, and what is told where they are too long."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from messages import error_naming
from phi.field import Field
from phi.physics import diffuse
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.strategies import TrustOptions
from hyco_engine.builtin.strategies.trust import Trust
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import DataError, RunError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Augmentation, BuildContext, CycleContext, Phase, Strategy, Trajectory
from hyco_engine.physics.disturbance import Disturbance
from hyco_engine.physics.model import FlowModel, FlowPhysics, TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.steps import MAX_INTERNAL_STEPS, InternalSteps
from hyco_engine.rollout import rollout
from hyco_engine.settings import options
from hyco_engine.testing.problems import LinearSurrogate, decay_layout
from hyco_engine.testing.strategies import Question
from hyco_engine.training.divergence import Diverged
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("measured")

CELLS, DT = 16, 0.04
LAYOUT = decay_layout(CELLS)


class Silent(TorchPhysics):
    """u_t = D u_xx by Euler's steps, stable for D dt/dx^2 <= 0.5, of which it says nothing."""

    parameters = (ParameterDeclaration(name="D", init=0.01, bounds=(0.0, math.inf)),)

    def fields(self, axes: tuple[str, ...]) -> Any:
        return LAYOUT.dynamic, ()

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        u = fields["u"]
        return {"u": u + dt * CELLS**2 * parameters["D"] * (u.roll(1, -1) + u.roll(-1, -1) - 2 * u)}


class Cautious(Silent):
    """The same, which always says that its steps are too long."""

    def stability(self, *given: Any) -> str:
        return "steps are too long"


class Stated(Silent):
    """The same, with the number of steps that it needs."""

    def internal_steps(self, layout: Any, size: Any, parameters: Mapping[str, Tensor], dt: float) -> int:
        return max(1, math.ceil(dt * CELLS**2 * float(parameters["D"]) / 0.45))


def physics(
    kind: type[TorchPhysics] = Stated, start: float = 0.01, inner: float | None = None, **more: Any
) -> TorchModel:
    context = BuildContext(
        seed=0,
        registry=Registry(),
        layout=LAYOUT,
        dt=DT,
        inner_dt=inner,
        dtype=torch.float64,
        compile="eager",
        parameters={"D": ParameterSetting(init=start, **more)},
    )
    return TorchModel(kind(), context)


def states(count: int = 2) -> Tensor:
    """Return smooth states."""
    x = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
    phase = torch.arange(count, dtype=torch.float64)[:, None, None]
    return torch.sin(2 * torch.pi * x + phase) + 0.5 * torch.cos(4 * torch.pi * x - phase)


def trajectories(true: float = 0.1, frames: int = 8) -> list[Trajectory]:
    model = physics(start=true, inner=DT / 64)
    with torch.no_grad():
        made = torch.cat([states()[:, None], rollout(model, states(), frames)], dim=1)
    return [Trajectory(dynamic=f, static=torch.zeros(0, CELLS, dtype=f.dtype)) for f in made]


def trainer(model: TorchModel, optimizer: str = "gauss-newton", **changes: Any) -> Trainer:
    settings = TrainingSettings(optimizer=optimizer, batch_size=8, **changes)
    return Trainer(model, player="physical", layout=LAYOUT, settings=settings)


def value(model: TorchModel) -> float:
    return float(model.learnables.values()["D"].detach())


# --- the number -------------------------------------------------------------------------------------------------------


def steps_for(start: float, fixed: bool = False) -> InternalSteps:
    return InternalSteps.of(Stated(), LAYOUT, {}, [{"D": torch.tensor(start)}], DT, DT / 2 if fixed else None)


@pytest.mark.parametrize(
    ("start", "now", "count"),
    [
        (0.1, 0.1, 3),  # the start's own number
        (0.1, 0.12, 3),  # it is still stable
        (0.1, 0.14, 4),  # 3.19 are needed
        (0.1, 0.3, 8),  # 6.83: a power of two
        (0.3, 0.1, 7),  # too many by less than a factor of four
        (0.3, 0.03, 1),
        (0.1, math.nan, 3),
        (0.1, math.inf, 3),
        (0.1, 1e3, 3),  # 22 756 are more than anybody can want
    ],
)
def test_a_number_stays_until_it_is_too_small_or_far_too_large(start: float, now: float, count: int) -> None:
    steps = steps_for(start)
    begun = steps.count
    assert steps.settle([{"D": torch.tensor(now)}]) == (count != begun)
    assert (steps.count, steps.changed) == (count, None if count == begun else count)
    assert not steps.settle([{"D": torch.tensor(now)}])


def test_the_load_is_the_needed_number_over_the_present_one() -> None:
    steps = steps_for(0.1)
    assert [steps.load([{"D": torch.tensor(d)}]) for d in (0.01, 0.1, 0.2)] == pytest.approx([1 / 3, 1.0, 5 / 3])
    assert steps.load([{"D": torch.tensor(1e3)}]) == math.inf
    assert steps.load([{"D": torch.tensor(math.nan)}]) == math.inf


def test_a_number_that_the_user_set_stays() -> None:
    steps = steps_for(0.1, fixed=True)
    assert steps.count == 2
    assert steps.load([{"D": torch.tensor(10.0)}]) == 0.0
    assert not steps.settle([{"D": torch.tensor(10.0)}])
    steps.restore(8)
    assert steps.count == 2


def test_a_start_that_needs_too_many_is_refused() -> None:
    with error_naming(DataError, MAX_INTERNAL_STEPS + 1, key="physical.dt"):
        steps_for(0.45 * MAX_INTERNAL_STEPS / DT / CELLS**2 * 1.0001)


def test_a_state_dict_holds_a_number_that_is_not_the_starts() -> None:
    model = physics()
    assert list(model.state_dict()) == ["learnables.raw.D"]
    model.learnables.set_("D", 0.3)
    assert model.settle_steps()
    assert model.substeps == 8
    saved = copy.deepcopy(model.state_dict())
    assert int(saved["internal_steps"]) == 8
    other = physics()
    other.load_state_dict(saved)
    assert (other.substeps, value(other)) == (8, value(model))
    assert torch.equal(other(states()), model(states()))
    # one without the number has that of the start
    other.load_state_dict(physics().state_dict())
    assert other.substeps == 1
    fixed = physics(inner=DT / 2)
    fixed.load_state_dict(saved)
    assert fixed.substeps == 2
    # a copy counts for itself
    copied = copy.deepcopy(model)
    copied.learnables.set_("D", 1.0)
    copied.settle_steps()
    assert (copied.substeps, model.substeps) == (32, 8)


def test_each_number_has_a_graph_of_its_own() -> None:
    model = physics(start=0.1)
    context = BuildContext(seed=0, registry=Registry(), layout=LAYOUT, dt=DT, dtype=torch.float64, compile="graph")
    captured = TorchModel(Stated(), context)
    for now in (0.05, 0.1, 0.3, 0.01, 0.3):
        for one in (model, captured):
            one.learnables.set_("D", now)
            one.settle_steps()
        steps = torch.tensor(model.substeps)
        captured.load_state_dict({"learnables.raw.D": model.learnables.raw["D"], "internal_steps": steps})
        torch.testing.assert_close(captured(states()), model(states()))


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.001, 0.01, 1.0])
@pytest.mark.parametrize(("optimizer", "epochs"), [("gauss-newton", 12), ("lbfgs", 30)])
def test_steps_follow_a_search_from_far_away(optimizer: str, epochs: int, start: float) -> None:
    model = physics(start=start)
    one = trainer(model, optimizer)
    one.train(WindowDataset(trajectories(), horizon=3), epochs)
    # Euler's own error
    assert value(model) == pytest.approx(0.1, rel=0.05)
    assert model.step_load() <= 1
    assert model.substeps in (3, 4, 8)


def test_steps_follow_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = physics(start=0.03)
    one = trainer(model, "adam", lr=0.1)
    loads = []
    for progress in one.steps(WindowDataset(trajectories(), horizon=3), 20):
        assert progress is not None
        loads.append(model.step_load())
    assert max(loads) <= 1
    assert model.substeps > 1
    assert value(model) == pytest.approx(0.1, rel=0.1)


def test_several_starts_share_one_number() -> None:
    model = physics(start=0.01, bounds=(1e-3, 1.0))
    one = trainer(model, starts=4)
    one.train(WindowDataset(trajectories(), horizon=3), 12)
    assert one.minima is not None
    assert one.minima.lost == 0
    assert value(model) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs", "adam"])
def test_a_run_goes_on_with_its_steps(optimizer: str) -> None:
    data = WindowDataset(trajectories(), horizon=3)

    def after(epochs: int, saved: Any = None) -> tuple[Trainer, list[Any]]:
        one = trainer(physics(start=0.02), optimizer, lr=0.3)
        if saved is not None:
            one.load_state_dict(saved)
        kept = []
        for _ in one.steps(data, epochs):
            kept.append(copy.deepcopy(one.state_dict()))
        return one, kept

    whole, kept = after(6)
    assert isinstance(whole.model, TorchModel)
    assert whole.model.substeps > 1
    for saved in kept[:-1]:
        again, _ = after(6, saved)
        assert isinstance(again.model, TorchModel)
        assert (again.model.substeps, value(again.model)) == (whole.model.substeps, value(whole.model))


def test_steps_that_the_user_set_stay_in_training() -> None:
    model = physics(inner=DT)
    trainer(model).train(WindowDataset(trajectories(), horizon=3), 4)
    assert model.substeps == 1


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_silent_physics_is_tested_with_half_the_step() -> None:
    assert physics(Silent, 0.04).stability(states()) is None  # 0.41
    told = physics(Silent, 0.15).stability(states())  # 1.54, or 0.77 with half the step, and 0.38 with a quarter
    assert told is not None
    assert told.startswith("Silent: steps of dt = 0.04 are too long: in 16 frame(s) a small disturbance becomes ")
    assert told.endswith(" times with steps of 0.01. Set physical.dt to at most 0.01")
    assert physics(Silent, 0.15, DT / 4).stability(states()) is None


def test_growth_that_belongs_to_the_equation_is_no_matter_of_the_step() -> None:
    class Growing(Silent):
        def step(self, fields: Any, parameters: Any, dt: float) -> dict[str, Tensor]:
            return {"u": fields["u"] * math.exp(10 * dt)}

    assert physics(Growing).stability(states()) is None


def test_the_growth_of_a_disturbance_does_not_depend_on_units() -> None:
    states = torch.rand(2, 2, CELLS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    growth = []
    for unit in (1.0, 2.0**20):
        units = torch.tensor([1.0, unit], dtype=torch.float64)[:, None]
        disturbance = Disturbance(units * states, torch.Generator().manual_seed(1))
        one, other = disturbance.both.chunk(2)
        factors = torch.tensor([3.0, 1.0], dtype=torch.float64)[:, None]
        growth.append(disturbance.growth(torch.cat([one, one + factors * (other - one)])))
    assert growth[0] == pytest.approx(growth[1], rel=1e-12)
    assert 2 < growth[0] < 2.4, "the root mean square of 3 and 1"


def test_a_search_of_an_unstable_physics_is_told_the_cure() -> None:
    data = WindowDataset(trajectories(frames=100), horizon=100)
    with pytest.raises(Diverged) as caught:
        trainer(physics(Silent, 2.0)).train(data, 1)
    told = str(caught.value)
    assert "loss is inf over all samples in epoch 1" in told or "loss is nan over all samples in epoch 1" in told
    assert ". Silent: steps of dt = 0.04 are too long: " in told
    # 20.5 is to be at most 0.5
    assert told.endswith("Set physical.dt to at most 0.000625")


class Taught(Strategy):
    """The physics teaches by long rollouts; with `weighs`, the strategy has weighed it."""

    def __init__(self, weighs: bool) -> None:
        self.weighs = weighs

    def phases(self, cycle: int) -> tuple[Phase, ...]:
        return (Phase(player="synthetic"),)

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation:
        lead = torch.full((2,), 700)
        recipe = context.rollout_recipe("physical", lambda indices: context.real.inputs(indices), 2, lead)
        record = {"tau": 1.0, "accepted": True} if self.weighs else {}
        return Augmentation(recipe=recipe, expected_ratio=2 / len(context.real), record=record)


def hybrid(strategy: Strategy, teacher: TorchModel, alpha: float = 1.0) -> HybridTrainer:
    pupil = Trainer(LinearSurrogate(torch.float64), player="synthetic", layout=LAYOUT)
    return HybridTrainer(
        physical=trainer(teacher),
        synthetic=pupil,
        strategy=strategy,
        cache=Memory(),
        alpha=alpha,
        heldout=HeldOutRollouts(trajectories(), LAYOUT),
    )


def test_a_teacher_that_diverges_teaches_nothing_where_it_was_weighed() -> None:
    both = hybrid(Taught(weighs=True), physics(Silent, 0.15))
    history = both.train(WindowDataset(trajectories(), horizon=3), 1)
    (entry,) = history.cooperation
    assert (entry["tau"], entry["accepted"], entry["n_generated"]) == (0.0, False, 0)
    (told,) = [text for text in history.warnings if "generated non-finite values" in text]
    assert "Silent: steps of dt = 0.04 are too long" in told
    assert told.endswith("Set physical.dt to at most 0.01. So it teaches nothing in this phase")
    assert "train it longer" not in told


def test_a_teacher_that_diverges_is_an_error_where_nothing_weighed_it() -> None:
    both = hybrid(Taught(weighs=False), physics(Silent, 0.15))
    with pytest.raises(RunError, match=r"its rollout diverges\. Silent: .* Set physical\.dt to at most 0\.01"):
        both.train(WindowDataset(trajectories(), horizon=3), 1)


@pytest.mark.parametrize("kind", [Silent, Cautious])
@pytest.mark.parametrize(("inner", "tau", "samples"), [(DT, 0.0, 0), (DT / 4, 1.0, 12)])
def test_an_unstable_physics_has_no_trust(kind: type[Silent], inner: float, tau: float, samples: int) -> None:
    """Its error on held-out frames may be small, since few of them pass before it diverges.

    Where no disturbance grows, it does not matter what the physics says of its steps.
    """
    phase = Phase(player="synthetic")
    question = Question(phase, cycle=1, alpha=1.0, errors={"physical": 0.01, "synthetic": 0.1})
    models = {"physical": physics(kind, 0.15, inner), "synthetic": LinearSurrogate(torch.float64)}
    real = WindowDataset(trajectories(), horizon=3)
    context = attrs.evolve(
        question.context, models=models, real=real, layout=LAYOUT, loss=lambda player, recipe=None: 1.0
    )
    augmentation = Trust(TrustOptions()).augment(phase, context)
    assert augmentation is not None
    assert augmentation.record == {"e_teacher": 0.01, "e_pupil": 0.1, "tau": tau, "accepted": tau > 0}
    assert (0 if augmentation.recipe is None else len(augmentation.recipe)) == samples


# --- whole runs -------------------------------------------------------------------------------------------------------


@options
class NoOptions:
    """Nothing to choose."""


class TwoSpecies(FlowPhysics):
    """a + 2 b -> nothing, and both diffuse: Euler's steps, of whose stability it says nothing."""

    parameters = (
        ParameterDeclaration(name="D", init=0.01, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="k", init=0.1, bounds=(0.0, math.inf)),
    )

    def fields(self, axes: tuple[str, ...]) -> Any:
        return [FieldInfo(name=name, boundary=Boundary.parse("periodic", axes)) for name in ("a", "b")], ()

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> dict[str, Field]:
        a, b = fields["a"], fields["b"]
        rate = parameters["k"] * a * b * b
        new = {"a": self._spread(a, parameters, dt) - dt * rate, "b": self._spread(b, parameters, dt) - 2 * dt * rate}
        return {name: fields[name].with_values(value.values) for name, value in new.items()}

    def _spread(self, field: Field, parameters: Mapping[str, Any], dt: float) -> Field:
        return diffuse.explicit(field, parameters["D"], dt)


class StatedSpecies(TwoSpecies):
    """The same, with the number of steps that it needs."""

    def internal_steps(self, layout: Any, size: Any, parameters: Mapping[str, Tensor], dt: float) -> int:
        return max(1, math.ceil(dt * float(parameters["D"]) / layout.grid.spacing[0] ** 2 / 0.45))


def run_of(physics: type[TwoSpecies], folder: Path) -> Any:
    """Run on data that were made with D = 0.15, for which a frame needs four steps, and the start one."""
    a = 1.5 + states(1)[0].numpy()[0]
    b, frames, part = a[::-1].copy(), [], DT / 64
    for _ in range(24):
        frames.append((a, b))
        for _ in range(64):
            rate = 0.2 * a * b**2
            spread = [0.15 * CELLS**2 * (np.roll(u, 1) + np.roll(u, -1) - 2 * u) for u in (a, b)]
            a, b = a + part * (spread[0] - rate), b + part * (spread[1] - 2 * rate)
    np.savez(folder / "two.npz", a=np.array([f[0] for f in frames]), b=np.array([f[1] for f in frames]))
    registry = hyco.Registry.discover()
    record = hyco.ModelRecord(
        kind="two-species",
        role="physical",
        summary="two species",
        options=NoOptions,
        factory=lambda options, context: FlowModel(physics(), context),
    )
    registry.register(record, hook="hyco_models", distribution="test", version="1")
    spec = {
        "run": {"cycles": 2, "device": "cpu"},
        "paths": {"cache": str(folder / "cache"), "runs": str(folder / "runs")},
        "data": {
            "kind": "arrays",
            "path": str(folder / "two.npz"),
            "variables": {"a": "a", "b": "b"},
            "axes": "tx",
            "dt": DT,
            "bounds": {"x": [0.0, 1.0]},
            "boundary": "periodic",
            "split": {"by": "time", "train": "0:16", "val": "16:20", "test": "20:24"},
        },
        "physical": {"kind": "two-species", "compile": "graph"},
        "synthetic": {"kind": "resnet", "width": 4},
        "augmentation": {"alpha": 1.0},
        "training": {"synthetic": {"epochs_per_cycle": 1}, "physical": {"epochs_per_cycle": 8}},
    }
    return hyco.run(spec, registry=registry)


def test_a_run_of_ones_own_physics_follows_the_steps_that_it_states(tmp_path: Path) -> None:
    summary = run_of(StatedSpecies, tmp_path).summary
    assert summary["status"] == "completed"
    assert summary["parameters"]["D"]["final"] == pytest.approx(0.15, rel=0.05)
    assert not any("too long" in text for text in summary["warnings"])
    assert math.isfinite(summary["metrics"]["physical"]["test"]["nrmse"])


def test_a_run_of_ones_own_physics_that_states_nothing_is_told_the_cure(tmp_path: Path) -> None:
    summary = run_of(TwoSpecies, tmp_path).summary
    assert summary["status"] == "completed"
    told = [text for text in summary["warnings"] if "TwoSpecies: steps of dt = 0.04 are too long" in text]
    assert told
    assert all("Set physical.dt to at most 0.0" in text for text in told)
    assert not any("train it longer" in text or "num_predict_steps" in text for text in summary["warnings"])
    taught = [entry for entry in summary["cooperation"] if entry["direction"] == "physical->synthetic"]
    assert taught
    assert all((entry["tau"], entry["n_generated"]) == (0.0, 0) for entry in taught)
