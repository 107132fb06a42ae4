"""Losses, the trainer and the cycle, on a problem that is solved exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import error_naming
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.builtin.strategies.two_arms import TwoArms
from hyco_engine.builtin.strategies.weight import Weight
from hyco_engine.data.fields import FieldInfo, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import PluginError, RunError
from hyco_engine.interfaces import (
    Arm,
    Augmentation,
    ExtraTerm,
    LossNormalizer,
    LossTerm,
    Phase,
    Predictor,
    Samples,
    Strategy,
    TermSpec,
    Tracker,
    Trajectory,
)
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.cycle import flatten
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.losses import PredictorObjective, RolloutObjective, WeightedSum
from hyco_engine.training.problem import to_device
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.teaching import BalanceWarning
from hyco_engine.training.trainer import Trainer


def settings(**changes: Any) -> TrainingSettings:
    return attrs.evolve(TrainingSettings(epochs_per_cycle=5, batch_size=4, lr=0.05), **changes)


def physical(seed: int = 0, **changes: Any) -> Trainer:
    return Trainer(Decay(), player="physical", layout=decay_layout(), settings=settings(**changes), seed=seed)


def synthetic(seed: int = 0, **changes: Any) -> Trainer:
    return Trainer(
        LinearSurrogate(), player="synthetic", layout=decay_layout(), settings=settings(**changes), seed=seed
    )


def hybrid(**more: Any) -> HybridTrainer:
    parts = {"physical": physical(), "synthetic": synthetic(), "strategy": Count(), "cache": Memory(), "alpha": 0.5}
    return HybridTrainer(**{**parts, **more})


class Recorder(Tracker):
    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def phase_started(self, record: Mapping[str, Any]) -> None:
        self.events.append(("start", record))

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.events.append(("metrics", record))

    def warned(self, message: str) -> None:
        self.events.append(("warning", {"message": message}))


# --- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "visits"), [(0, 1), (27, 1), (28, 2), (55, 3)])
def test_an_epoch_visits_all_samples_as_often_as_it_has_room(
    samples: int, visits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[int]] = []
    usual = AugmentedDataset.upcoming

    def upcoming(self: AugmentedDataset, batches: Sequence[Tensor]) -> None:
        orders.append(torch.cat(list(batches)).tolist())
        usual(self, batches)

    monkeypatch.setattr(AugmentedDataset, "upcoming", upcoming)
    data = decay_windows()
    assert len(data) == 14
    once, often = synthetic(), synthetic(epoch_samples=samples)
    for trainer in (once, often):
        trainer.train(data, 1)
    own, every = orders
    assert often.steps_done == -(-14 * visits // 4)
    assert len(every) == 14 * visits
    assert all(sorted(every[start : start + 14]) == list(range(14)) for start in range(0, len(every), 14))
    assert every[:14] == own


def test_rollout_carries_static_channels_along() -> None:
    class AddStatic(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return state[:, :1] + state[:, 1:]

    state = torch.tensor([[[1.0], [10.0]]])
    assert rollout(AddStatic(), state, 3).flatten().tolist() == [11.0, 21.0, 31.0]


def test_a_loss_is_the_mean_over_observed_values_only() -> None:
    states, targets = decay_windows().batch(torch.arange(4))
    hidden = targets.clone()
    hidden[0, :, :, 3:] = math.nan
    hidden[1] = math.nan
    model = LinearSurrogate()
    (term,) = RolloutObjective(decay_layout())(model, (states, hidden))
    errors = (rollout(model, states, 3) - targets).detach()[~hidden.isnan()]
    assert float(term.mean().detach()) == pytest.approx(float(errors.square().mean()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_in_which_nothing_was_observed_count_nothing(dtype: torch.dtype) -> None:
    class Real(Samples):
        def __len__(self) -> int:
            return 14

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            states, targets = decay_windows().batch(indices)
            targets = torch.where((indices < 5)[:, None, None, None], math.nan, targets)
            return states.to(dtype), targets.to(dtype)

    model = Decay().to(dtype)
    objective = RolloutObjective(decay_layout())

    def loss(chunk: int) -> float:
        settings = TrainingSettings(batch_size=chunk)
        whole = Trainer(model, player="physical", objective=objective, settings=settings).whole_loss(Real())
        value = whole.gradient()[0]
        residuals = [whole.residuals(model, part, torch.Generator()) for part in whole.chunks()]
        squares = sum(float(part.detach().double().square().sum()) for part in residuals)
        assert squares == pytest.approx(value, rel=1e-6 if dtype == torch.float32 else 1e-14)
        return value

    (term,) = objective(model, Real().batch(torch.arange(5)))
    assert float(term.mean().detach()) == 0.0
    assert loss(3) == pytest.approx(loss(14), rel=1e-6 if dtype == torch.float32 else 1e-14)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_gradients_of_hidden_values_are_zero_and_finite() -> None:
    states, targets = decay_windows().batch(torch.arange(4))
    targets[:, :, :, 0] = math.nan
    states.requires_grad_()
    (term,) = RolloutObjective(decay_layout())(LinearSurrogate(), (states, targets))
    (gradient,) = torch.autograd.grad(term.mean(), states)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, :, 0] == 0).all()
    assert (gradient[:, :, 1] != 0).all()


def test_sample_weights_count_samples() -> None:
    states, targets = decay_windows().batch(torch.arange(3))
    objective = RolloutObjective(decay_layout())
    weight = torch.tensor([1.0, 1.0, 2.0])
    (weighted,) = objective(LinearSurrogate(), (states, targets), weight)
    doubled = torch.tensor([0, 1, 2, 2])
    (repeated,) = objective(LinearSurrogate(), (states[doubled], targets[doubled]))
    assert float(weighted.mean().detach()) == pytest.approx(float(repeated.mean().detach()), rel=1e-6)


def test_a_model_that_predicts_the_wrong_shape_is_named() -> None:
    class Wrong(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return state[:, :, :4]

    batch = decay_windows().batch(torch.arange(2))
    with pytest.raises((PluginError, RuntimeError), match=r"Wrong predicts \[2, 3, 1, 4\]|Sizes of tensors"):
        RolloutObjective(decay_layout())(Wrong(), batch)


def test_each_kind_of_term_compares_as_it_says() -> None:
    specs = [
        TermSpec(name="class", kind="categorical"),
        TermSpec(name="flag", kind="bernoulli"),
        TermSpec(name="value", kind="gaussian"),
        TermSpec(name="far", kind="laplace"),
    ]

    class Heads(Predictor):
        terms = specs

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            zeros = torch.zeros(2, 5)
            return {"class": torch.zeros(2, 3), "flag": zeros, "value": zeros, "far": zeros}

    targets = {
        "class": torch.tensor([0, -1]),
        "flag": torch.ones(2, 5),
        "value": torch.full((2, 5), 2.0),
        "far": torch.full((2, 5), -3.0),
    }
    targets["value"][0] = math.nan
    terms = PredictorObjective(specs)(Heads(), ({}, targets))
    found = {term.spec.name: float(term.mean().detach()) for term in terms}
    assert found == pytest.approx({"class": math.log(3), "flag": math.log(2), "value": 4.0, "far": 3.0})


def test_weighted_sum_divides_by_scales_and_is_linear() -> None:
    batch = decay_windows().batch(torch.arange(4))
    objective = RolloutObjective(decay_layout(), [TermSpec(name="u", scale=4.0, priority=3.0)])
    (term,) = terms = objective(LinearSurrogate(), batch)
    loss = WeightedSum()(terms, None)  # type: ignore[arg-type]
    assert float(loss.total.detach()) == pytest.approx(0.75 * float(term.mean().detach()))
    assert loss.weights == {"u": 0.75}
    assert float(loss.shares["u"]) == pytest.approx(1.0)


# --- trainer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "lbfgs"])
def test_every_optimizer_finds_the_rate(optimizer: str) -> None:
    rates = {"adam": 0.05, "adamw": 0.05, "sgd": 0.5, "lbfgs": 1.0}
    trainer = physical(optimizer=optimizer, lr=rates[optimizer])
    result = trainer.train(decay_windows(), 60)
    assert result.moved
    assert float(trainer.model.learnables.values()["k"].detach()) == pytest.approx(1.0, rel=2e-2)
    assert result.metrics["param/k"] == pytest.approx(1.0, rel=2e-2)


def test_lbfgs_converges_to_rounding_and_does_not_depend_on_the_chunks() -> None:
    found = []
    for size in (3, 100):
        trainer = physical(optimizer="lbfgs", batch_size=size)
        trainer.train(decay_windows(), 12)
        found.append(float(trainer.model.learnables.values()["k"].detach()))
    assert found == pytest.approx([1.0, 1.0], rel=1e-5)


def test_lbfgs_evaluates_each_point_once() -> None:
    trainer = physical(optimizer="lbfgs", batch_size=100)
    seen: list[float] = []
    forward = trainer.model.forward

    def counted(state: Tensor) -> Tensor:
        seen.append(float(trainer.model.learnables.raw["k"].detach()))
        return forward(state)

    trainer.model.forward = counted  # type: ignore[method-assign]
    trainer.train(decay_windows(horizon=1), 8)
    assert len(seen) == len(set(seen))


def test_training_goes_on_where_it_stopped() -> None:
    once, twice = synthetic(), synthetic()
    once.train(decay_windows(), 6)
    twice.train(decay_windows(), 2)
    twice.train(decay_windows(), 4)
    assert torch.equal(once.model.weight, twice.model.weight)


def test_the_cosine_schedule_ends_at_zero() -> None:
    trainer = Trainer(
        LinearSurrogate(),
        player="synthetic",
        layout=decay_layout(),
        settings=settings(schedule="cosine", optimizer="sgd", lr=0.1),
        total_epochs=3,
    )
    trainer.train(decay_windows(), 3)
    before = trainer.model.weight.detach().clone()
    result = trainer.train(decay_windows(), 1)
    assert torch.equal(before, trainer.model.weight)
    assert not result.moved


def test_batch_size_one_works_and_gives_a_step_a_sample() -> None:
    trainer = physical(batch_size=1)
    data = decay_windows()
    trainer.train(data, 1)
    assert trainer.steps_done == len(data)


def test_losses_of_real_and_generated_samples_are_told_apart() -> None:
    real, fake = decay_windows(count=1), decay_windows(count=1)

    class Off(type(fake)):  # type: ignore[misc]
        nbytes = 0

        def batch(self, indices: Tensor) -> Any:
            states, targets = super().batch(indices)
            return states, targets + 1.0

        def upcoming(self, batches: Any) -> None:
            pass

    off = Off(decay_trajectories(1), horizon=3)
    trainer = synthetic(optimizer="sgd", lr=1e-12)
    metrics = trainer.train(AugmentedDataset(real, off, weight=0.5), 1).metrics
    (real_loss,) = RolloutObjective(decay_layout())(LinearSurrogate(), real.batch(torch.arange(len(real))))
    (fake_loss,) = RolloutObjective(decay_layout())(LinearSurrogate(), off.batch(torch.arange(len(off))))
    expected = [float(real_loss.mean().detach()), float(fake_loss.mean().detach())]
    assert [metrics["train/loss_real"], metrics["train/loss_generated"]] == pytest.approx(expected, rel=1e-5)
    assert metrics["train/loss"] == pytest.approx((expected[0] + 0.5 * expected[1]) / 1.5, rel=1e-5)


def test_a_diverging_loss_is_located_and_changes_nothing() -> None:
    windows = decay_windows()
    trainer = synthetic()
    with torch.no_grad():
        trainer.model.weight.fill_(1e30)
    with error_naming(RunError, "synthetic", "epoch 1", "batch 1", "'u'"):
        trainer.train(windows, 1)
    assert float(trainer.model.weight.detach()) == pytest.approx(1e30)


def test_a_normalizer_that_returns_a_float_is_named() -> None:
    class Floats(LossNormalizer):
        def add_term(self, spec: TermSpec) -> None:
            pass

        def __call__(self, terms: Any, context: Any) -> Any:
            return 1.0

    trainer = Trainer(LinearSurrogate(), player="synthetic", layout=decay_layout(), normalizer=Floats())
    with error_naming(PluginError, "Floats", 1.0, "float", "NormalizedLoss"):
        trainer.train(decay_windows(), 1)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    hybrid().train(decay_windows(), 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_layers_draw_depends_on_the_seed_alone() -> None:
    class Dropping(LinearSurrogate):
        def forward(self, state: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(state), 0.5, self.training)

    def weight(seed: int) -> Tensor:
        trainer = Trainer(Dropping(), player="synthetic", layout=decay_layout(), settings=settings(), seed=seed)
        trainer.train(decay_windows(), 2)
        return trainer.model.weight.detach()

    before = torch.random.get_rng_state()
    first = weight(0)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, weight(0))
    assert not torch.equal(first, weight(1))


def test_what_holds_for_all_phases_is_told_after_the_first() -> None:
    trainer = physical(optimizer="gauss-newton")
    trainer.linearizer._rollout, trainer.linearizer._jacobian.way = None, "differences"
    first, second = (trainer.train(decay_windows(), 50) for _ in range(2))
    assert trainer.epochs_done < 50
    assert (len(first.notes), second.notes) == (1, ())


# --- cycle ----------------------------------------------------------------------------------------------------------


def test_two_models_teach_each_other_and_find_the_truth() -> None:
    trainer = hybrid(heldout=HeldOutRollouts(decay_trajectories(1, 8), decay_layout()))
    history = trainer.train(decay_windows(), 8)
    assert history.cycles == 8
    assert float(trainer.trainers["physical"].model.learnables.values()["k"].detach()) == pytest.approx(1.0, rel=0.05)
    assert float(trainer.trainers["synthetic"].model.weight.detach()) == pytest.approx(math.exp(-0.1), rel=0.02)
    assert trainer.best["synthetic"].error < 0.1


def test_a_cycle_has_the_documents_four_phases_in_order() -> None:
    recorder = Recorder()
    hybrid(trackers=[recorder]).train(decay_windows(), 2)
    phases = [(e["cycle"], e["phase"]) for kind, e in recorder.events if kind == "start"]
    one = ["generate_physical", "train_synthetic", "generate_synthetic", "train_physical"]
    assert phases == [(cycle, name) for cycle in (0, 1) for name in one]


@given(alpha=st.floats(0, 2), simulations=st.integers(1, 4))
def test_counts_and_ratios_are_recorded_exactly(alpha: float, simulations: int) -> None:
    windows = decay_windows(count=simulations)
    trainer = hybrid(alpha=alpha, physical=physical(epochs_per_cycle=0), synthetic=synthetic(epochs_per_cycle=0))
    history = trainer.train(windows, 1)
    n = len(windows)
    assert [b.n_generated for b in history.balance] == [int(n * alpha)] * 2
    assert all(b.ok and b.weight == 1 and b.n_real == n for b in history.balance)
    assert all(b.actual_ratio == int(n * alpha) / n for b in history.balance)


def test_weight_strategy_generates_as_many_and_weighs_them() -> None:
    history = hybrid(strategy=Weight(), alpha=0.25).train(decay_windows(), 1)
    assert all((b.n_generated, b.weight, b.actual_ratio, b.ok) == (b.n_real, 0.25, 0.25, True) for b in history.balance)


class Twice(Strategy):
    """Scales by count and by weight."""

    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        made = Count().augment(phase, context)
        return None if made is None else attrs.evolve(made, weight=context.alpha)


def test_double_scaling_is_an_error_in_a_run_and_a_warning_in_a_library_call() -> None:
    windows = decay_windows(count=10, frames=20)
    with error_naming(RunError, "alpha", "twice"):
        hybrid(strategy=Twice(), alpha=0.1, strict=True).train(windows, 1)
    with pytest.warns(BalanceWarning, match="alpha was applied twice") as caught:
        hybrid(strategy=Twice(), alpha=0.1).train(windows, 1)
    assert {warning.filename for warning in caught} == {__file__}


def test_what_explains_a_wrong_balance_is_told_before_it_ends_training() -> None:
    class Forgetful(Strategy):
        """Declares as many generated samples as real ones, and asks for none."""

        def augment(self, phase: Phase, context: Any) -> Augmentation | None:
            return Augmentation(recipe=None, weight=1.0, expected_ratio=1.0)

    trainer = hybrid(strategy=Forgetful(), strict=True)
    with error_naming(RunError, "train_synthetic", "0 generated samples"):
        trainer.train(decay_windows(), 1)
    assert [note.partition(" (")[0] for note in trainer.history.warnings] == [
        "cycle 0: nothing is generated for the synthetic model"
    ]


class Greedy(Strategy):
    """Asks for one sample more than it declared."""

    def augment(self, phase: Phase, context: Any) -> Augmentation | None:
        return Count().augment(phase, attrs.evolve(context, alpha=context.alpha + 1 / len(context.real)))


def test_a_recipe_larger_than_declared_is_refused_before_anything_is_made() -> None:
    windows = decay_windows()
    with pytest.raises(PluginError) as caught:
        hybrid(strategy=Greedy(), alpha=0.5).train(windows, 1)
    assert str(caught.value) == (
        "the strategy Greedy asks for 8 generated samples for the synthetic model in cycle 0, and its max_generated "
        "declared at most 7 for 14 real ones at alpha = 0.5: how they are held was decided for that many; correct its "
        "max_generated"
    )


def test_nothing_generated_is_said_and_trains_as_real_data_alone() -> None:
    recorder = Recorder()
    alone = HybridTrainer(synthetic=synthetic())
    none = hybrid(alpha=0.0, trackers=[recorder])
    alone.train(decay_windows(), 2)
    none.train(decay_windows(), 2)
    assert torch.equal(alone.trainers["synthetic"].model.weight, none.trainers["synthetic"].model.weight)
    told = [e["message"] for kind, e in recorder.events if kind == "warning"]
    assert told[0] == (
        "cycle 0: nothing is generated for the synthetic model (int(14 * alpha) with alpha = 0), "
        "so it trains on real data alone"
    )


def test_a_strategy_that_wants_nothing_generated_is_not_said_to_round() -> None:
    class Idle(Strategy):
        def augment(self, phase: Any, context: Any) -> None:
            return None

    trainer = hybrid(strategy=Idle())
    trainer.train(decay_windows(), 1)
    assert trainer.history.warnings[0] == (
        "cycle 0: nothing is generated for the synthetic model (as its strategy decided), "
        "so it trains on real data alone"
    )


def test_generated_samples_are_freed_where_telling_of_them_fails() -> None:
    closed = []

    class Watched(Memory):
        def hold(self, *args: Any) -> Any:
            made = super().hold(*args)
            made.close = lambda: closed.append(made)
            return made

    class Breaking(Tracker):
        def phase_ended(self, record: Mapping[str, Any]) -> None:
            raise OSError(record["phase"])

    with pytest.raises(OSError, match="generate_physical"):
        hybrid(cache=Watched(), trackers=[Breaking()]).train(decay_windows(), 1)
    assert len(closed) == 1


def test_generated_samples_are_drawn_afresh_each_cycle_and_the_same_for_the_same_seed() -> None:
    def starts(seed: int) -> list[list[float]]:
        drawn: list[list[float]] = []

        class Watching(Memory):
            def hold(self, recipe: Any, folder: Any, progress: Any = lambda made: None) -> Any:
                drawn.append(recipe.generate(torch.arange(len(recipe)))[0].flatten().tolist())
                return super().hold(recipe, folder, progress)

        hybrid(cache=Watching(), seed=seed).train(decay_windows(), 2)
        return drawn

    first, again, other = starts(1), starts(1), starts(2)
    assert first == again
    assert first[0] != other[0]
    assert len({tuple(part) for part in first}) == 4


def test_a_physics_without_learnables_only_teaches() -> None:
    known = Decay(settings={"k": ParameterSetting(init=1.0, learn=False)})
    recorder = Recorder()
    trainer = hybrid(
        physical=Trainer(known, player="physical", layout=decay_layout(), settings=settings()), trackers=[recorder]
    )
    history = trainer.train(decay_windows(), 2)
    assert [b.phase for b in history.balance] == ["train_synthetic", "train_synthetic"]
    assert ("warning", {"message": "the physical model has nothing to learn, so it only generates for the other"}) in (
        recorder.events
    )


def test_an_optimizer_that_does_not_move_says_so() -> None:
    recorder = Recorder()
    frozen = physical(lr=1e-30, optimizer="sgd")
    hybrid(physical=frozen, trackers=[recorder]).train(decay_windows(), 1)
    told = [e["message"] for kind, e in recorder.events if kind == "warning"]
    assert told == [
        "cycle 0: 5 epochs of sgd did not move the physical model. Its gradient may vanish, "
        "or training.physical.lr may be too small"
    ]


def test_arms_need_data_to_choose_by() -> None:
    two = TwoArms([Arm(name="a", strategy=Count()), Arm(name="b", strategy=Weight())])
    with pytest.raises(RunError) as caught:
        hybrid(strategy=two)
    assert str(caught.value) == (
        "arms are chosen by their errors on held-out data: give validation data (data.split.val)"
    )


def test_one_model_alone_needs_neither_strategy_nor_cache() -> None:
    history = HybridTrainer(physical=physical()).train(decay_windows(), 2)
    assert [(b.phase, b.n_generated, b.alpha) for b in history.balance] == [("train_physical", 0, 0.0)] * 2


def test_two_models_without_a_strategy_are_refused() -> None:
    with error_naming(ValueError, "strategy", "cache"):
        HybridTrainer(physical=physical(), synthetic=synthetic())


def test_persistence_of_a_known_decay() -> None:
    heldout = HeldOutRollouts(decay_trajectories(2, 5, k=1.0), decay_layout())
    by_step = [math.exp(0.1 * t) - 1 for t in range(1, 5)]
    metrics = heldout.persistence()
    assert metrics["nrmse_by_step"] == pytest.approx(by_step, rel=1e-5)
    assert metrics["nrmse"] == pytest.approx(math.prod(by_step) ** 0.25, rel=1e-5)
    assert metrics["nrmse_by_field"] == {"u": metrics["nrmse"]}


def test_a_model_that_diverges_has_infinite_error() -> None:
    model = LinearSurrogate()
    with torch.no_grad():
        model.weight.fill_(1e30)
    heldout = HeldOutRollouts(decay_trajectories(1, 5), decay_layout())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert heldout.measure(model)["nrmse"] == math.inf


def test_metrics_are_flattened_by_field() -> None:
    nested = {"nrmse": 1.0, "nrmse_by_field": {"u": 2.0}, "nrmse_by_step": [3.0]}
    assert flatten(nested) == {"nrmse": 1.0, "nrmse/u": 2.0}


class TwoFields(nn.Module):
    """Predicts that nothing changes, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight * inputs


def test_losses_are_told_in_declared_units_whatever_the_normalizer_makes_of_them() -> None:
    from hyco_engine.interfaces import NormalizedLoss

    class Tenfold(WeightedSum):
        def __call__(self, terms: Any, context: Any) -> NormalizedLoss:
            plain = super().__call__(terms, context)
            return attrs.evolve(plain, total=10 * plain.total, weights={n: 10 * w for n, w in plain.weights.items()})

    grid = decay_layout().grid
    boundary = decay_layout().dynamic[0].boundary
    layout = StateLayout(grid=grid, dynamic=tuple(FieldInfo(name=name, boundary=boundary) for name in "uv"))
    specs = [TermSpec(name="u", scale=4.0), TermSpec(name="v", priority=3.0)]
    states = torch.randn(6, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    data = WindowDataset([Trajectory(dynamic=s, static=torch.zeros(0, 8)) for s in states], horizon=1)
    found = []
    for normalizer in (WeightedSum(), Tenfold()):
        trainer = Trainer(
            TwoFields(),
            player="synthetic",
            layout=layout,
            objective=RolloutObjective(layout, specs),
            normalizer=normalizer,
            settings=settings(optimizer="sgd", lr=1e-30, batch_size=100),
        )
        found.append(dict(trainer.train(data, 1).metrics))
    plain, tenfold = found
    names = ("train/loss", "train/loss/u", "train/loss/v", "train/loss_real/u")
    assert [plain[name] for name in names] == [tenfold[name] for name in names]
    assert plain["train/loss"] == pytest.approx(plain["train/loss/u"] + plain["train/loss/v"])
    u, v = (states[:, 1:, k] - states[:, :-1, k] for k in (0, 1))
    assert plain["train/loss/u"] == pytest.approx(float(u.square().mean()) / 4, rel=1e-5)
    assert plain["train/loss/v"] == pytest.approx(3 * float(v.square().mean()), rel=1e-5)
    assert [plain["weight/u"], tenfold["weight/u"], plain["weight/v"]] == pytest.approx([0.25, 2.5, 3.0])
    assert plain["share/u"] + plain["share/v"] == pytest.approx(1.0)


def test_a_term_that_stands_still_is_told() -> None:
    class Stuck(Predictor):
        terms = (TermSpec(name="moves"), TermSpec(name="stands"))

        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            return {"moves": self.value.expand(len(inputs), 1), "stands": 1e-6 * self.value.expand(len(inputs), 1)}

    class Ones(Samples):
        def __len__(self) -> int:
            return 8

        def batch(self, indices: Tensor) -> Any:
            ones = torch.ones(len(indices), 1)
            return ones, {"moves": ones, "stands": ones}

    trainer = Trainer(Stuck(), player="synthetic", settings=settings(lr=0.05))
    (note,) = trainer.train(Ones(), 6).notes
    assert note.startswith("after 5 epochs the synthetic model's loss has changed in 'stands' by")
    assert trainer.train(Ones(), 6).notes == ()


def test_a_trainer_takes_fields_as_it_takes_tensors() -> None:
    from hyco_engine.physics.fields_view import FieldSamples, FieldView

    windows = decay_windows()
    view = FieldView(windows, decay_layout())
    held = FieldSamples([view[index] for index in range(len(view))], decay_layout())
    assert len(view) == len(held) == len(windows)
    found = []
    for data in (windows, view, held):
        trainer = physical(optimizer="adam")
        trainer.train(data, 3)
        found.append(float(trainer.model.learnables.values()["k"].detach()))
    assert found[0] == found[1] == found[2] != 0.5


def test_what_a_normalizer_refuses_is_located() -> None:
    from hyco_engine.builtin.normalizers.running_mean import RunningMean

    class ExtraAt(ExtraTerm):
        def __init__(self, value: float) -> None:
            self.value = value

        def term(self, model: nn.Module, batch: Any, generator: torch.Generator) -> LossTerm:
            return LossTerm(spec=TermSpec(name="extra"), per_sample=torch.full((len(batch[0]),), self.value))

    windows = decay_windows()
    trainer = Trainer(
        LinearSurrogate(), player="synthetic", layout=decay_layout(), normalizer=RunningMean(), settings=settings()
    )
    negative = ExtraAt(-1.0)
    with error_naming(RunError, "synthetic", "epoch 1", "batch 1", "'extra'", "negative"):
        trainer.train(windows, 1, terms=[negative])


def test_batches_go_to_a_gpu_by_way_of_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # the calls alone, where there is no GPU
    calls: list[object] = []

    def pinned(values: Tensor) -> Tensor:
        calls.append("pinned")
        return values

    def to(values: Tensor, device: torch.device, **keys: bool) -> Tensor:
        calls.append((device.type, keys))
        return values

    batch = torch.zeros(2), {"y": torch.ones(2)}
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    monkeypatch.setattr(Tensor, "to", to)
    to_device(batch, torch.device("cuda"))
    assert calls == ["pinned", ("cuda", {"non_blocking": True})] * 2
    calls.clear()
    to_device(batch, torch.device("cpu"))
    assert calls == [("cpu", {})] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_arrives_on_a_gpu_is_what_was_sent() -> None:
    batches = [(torch.full((64, 1000), float(k)), {"y": torch.full((64, 1000), -float(k))}) for k in range(20)]
    moved = [to_device(batch, torch.device("cuda")) for batch in batches]
    for (x, y), (there, targets) in zip(batches, moved, strict=True):
        assert isinstance(there, Tensor)
        assert not isinstance(targets, Tensor)
        assert torch.equal(there.cpu(), x)
        assert torch.equal(targets["y"].cpu(), y["y"])
