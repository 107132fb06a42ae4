"""Training that leaves the finite numbers: where it was noticed, and how it goes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
from hyco_engine.errors import PluginError
from hyco_engine.interfaces import Samples
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_windows
from hyco_engine.training.divergence import Diverged, broken_gradient
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.rollback import MOST_ROLLBACKS
from hyco_engine.training.trainer import Trainer
from hyco_engine.training.unknowns import Unknowns


def with_gradients(*gradients: list[float] | None) -> nn.Module:
    model = nn.Module()
    for k, gradient in enumerate(gradients):
        model.register_parameter(f"w{k}", nn.Parameter(torch.zeros(2)))
        model.get_parameter(f"w{k}").grad = None if gradient is None else torch.tensor(gradient)
    return model


@pytest.mark.parametrize(
    ("gradients", "told"),
    [
        ([[1.0, 2.0], None], None),
        ([None, None], None),
        # finite, but their norm is not
        ([[3e38, 3e38], [1.0, 1.0]], None),
        ([[3e38, 3e38], [1.0, math.inf]], "the gradient of 'w1' is not finite"),
        ([[math.nan, 0.0], [math.nan, 0.0]], "the gradient of 'w0' is not finite"),
    ],
)
def test_broken_gradients_are_told_by_name(gradients: list[list[float] | None], told: str | None) -> None:
    model = with_gradients(*gradients)
    assert broken_gradient(model, list(model.parameters())) == told


def trainer(model: nn.Module | None = None, **changes: Any) -> Trainer:
    parts = {name: changes.pop(name) for name in ("normalizer", "model_name") if name in changes}
    settings = attrs.evolve(TrainingSettings(batch_size=4, lr=0.05), **changes)
    return Trainer(model or LinearSurrogate(), player="synthetic", layout=decay_layout(), settings=settings, **parts)


class Growing(nn.Module):
    """u(t + dt) = exp(w) u(t): SGD with too large a rate throws w so far that a rollout overflows."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, state: Tensor) -> Tensor:
        return torch.exp(self.weight) * state[:, :1]


class Broken(Samples):
    """The decay's windows; the targets of some samples are replaced."""

    def __init__(self, samples: Sequence[int], value: float) -> None:
        self.real = decay_windows()
        self.samples = torch.tensor(samples)
        self.value = value

    def __len__(self) -> int:
        return len(self.real)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        states, targets = self.real.batch(indices)
        chosen = torch.isin(indices, self.samples)[:, None, None, None]
        return states, torch.where(chosen, self.value, targets)


# --- what is told ---------------------------------------------------------------------------------------------------


def test_a_rollout_that_is_not_finite_is_told_with_field_and_lead_time() -> None:
    one = trainer(Growing(50.0))
    with pytest.raises(Diverged) as caught:
        one.train(decay_windows(), 1)
    assert str(caught.value) == (
        "the synthetic model diverged in epoch 1, batch 1: the loss of 'u' is not finite for 4 of 4 samples, since 'u' "
        "is not finite from lead time 2 of 3 on in 4 of 4 rollouts. No step was taken yet, so no learning rate "
        "helps. The first lead time is finite: shorten data.num_predict_steps to 1, or let the horizon grow "
        "(training.synthetic.curriculum)"
    )
    assert float(one.model.weight.detach()) == 50.0
    assert one.steps_done == 0


class Scaled(Samples):
    """The decay's windows in another unit."""

    def __init__(self, factor: float) -> None:
        self.real = decay_windows()
        self.factor = factor

    def __len__(self) -> int:
        return len(self.real)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        states, targets = self.real.batch(indices)
        return states * self.factor, targets * self.factor


@pytest.mark.parametrize(
    ("start", "factor", "advice"),
    [
        # the data: float32 has no squares of them
        (0.1, 1e25, r"The data reach \S+e\+25, and their squares are more than float32 can hold: leave run\.precision"),
        # the horizon: one step of exp(50) is finite, two are not
        (50.0, 1.0, r"learning rate helps\. The first lead time is finite: shorten data\.num_predict_steps to 1"),
        # the model: its first prediction is not finite, and no step led there
        (100.0, 1.0, r"learning rate helps\. The model's first prediction is not finite: start from other values"),
    ],
)
def test_the_advice_is_that_of_the_cause(start: float, factor: float, advice: str) -> None:
    with pytest.raises(Diverged, match=advice):
        trainer(Growing(start)).train(Scaled(factor), 1)


def test_a_state_that_nobody_observed_is_looked_at_too() -> None:
    class Spoiling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, state: Tensor) -> Tensor:
            there = torch.arange(state.shape[-1]) < 4
            return torch.where(there, self.weight, 1e38 * self.weight) * state[:, :1].detach()

    states, targets = decay_windows().batch(torch.arange(4))
    hidden = torch.where(torch.arange(8) < 4, targets, math.nan)
    (term,) = RolloutObjective(decay_layout())(Spoiling(), (states, hidden))
    assert not torch.isfinite(term.per_sample).all()
    (term,) = RolloutObjective(decay_layout())(LinearSurrogate(), (states, hidden))
    assert torch.isfinite(term.per_sample).all()


def test_a_gradient_that_is_not_finite_is_told_with_its_parameter_before_the_step() -> None:
    class Root(LinearSurrogate):
        def forward(self, state: Tensor) -> Tensor:
            return super().forward(state) + (self.weight - 1.0).abs().sqrt()

    one = trainer(Root(), clip_grad_norm=1.0)
    told = r"diverged in epoch 1, batch 1: the gradient of 'weight' is not finite\. No step was taken yet"
    with pytest.raises(Diverged, match=told):
        one.train(decay_windows(), 1)
    assert float(one.model.weight.detach()) == 1.0


def test_a_model_that_raises_is_named_with_its_distribution_and_the_batch() -> None:
    class Failing(LinearSurrogate):
        calls = 0

        def forward(self, state: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 6:
                raise KeyError("table")
            return super().forward(state)

    one = trainer(Failing(), model_name="'mine' of plugin 'x' (hyco-x 1.0)")
    told = (
        r"the synthetic model 'mine' of plugin 'x' \(hyco-x 1.0\) failed in epoch 1, batch 3: "
        r"KeyError: 'table'"
    )
    with pytest.raises(PluginError, match=told):
        one.train(decay_windows(), 1)


@pytest.mark.parametrize(
    ("optimizer", "where", "count"), [("adam", "epoch 1, batch 1", 4), ("lbfgs", "epoch 1", len(decay_windows()))]
)
def test_a_model_of_another_shape_is_named_with_its_distribution(optimizer: Any, where: str, count: int) -> None:
    class Wide(LinearSurrogate):
        def forward(self, state: Tensor) -> Tensor:
            return super().forward(state).repeat(1, 2, 1)

    one = trainer(Wide(), optimizer=optimizer, model_name="'mine' of plugin 'x' (hyco-x 1.0)")
    with pytest.raises(PluginError) as caught:
        one.train(decay_windows(), 1)
    assert str(caught.value) == (
        f"the synthetic model 'mine' of plugin 'x' (hyco-x 1.0), {where}: Wide predicts [{count}, 3, 2, 8] for states "
        f"[{count}, 1, 8]; expected [{count}, 3, 1, 8] as [B, T, C_dyn, *S]"
    )


# --- what is left out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip_step", "skip_term"])
def test_what_was_left_out_is_counted_and_spoils_no_mean(policy: Any) -> None:
    data = Broken([3], math.inf)
    one = trainer(normalizer=RunningMean(nonfinite=policy), batch_size=1)
    result = one.train(data, 2)
    assert result.moved
    assert one.steps_done == 2 * (len(data) - 1)
    assert math.isfinite(result.metrics["train/loss"])
    assert (result.metrics["train/skipped"], result.metrics["nonfinite/u"]) == (1, 1)
    assert result.notes == (
        f"of {2 * len(data)} batches of the synthetic model 2 were left out; losses were not finite: 'u' in 2. Lower "
        "training.synthetic.lr, set clip_grad_norm, or shorten data.num_predict_steps",
    )
    assert one.train(decay_windows(), 1).notes == ()


def test_an_epoch_of_which_nothing_is_left_is_told_and_is_no_move() -> None:
    data = Broken(range(14), math.inf)
    one = trainer(normalizer=RunningMean(nonfinite="skip_step"), epochs_per_cycle=2)
    hybrid = HybridTrainer(synthetic=one)
    hybrid.train(data, 1)
    left_out, unmoved = hybrid.history.warnings
    assert "of 8 batches of the synthetic model 8 were left out" in left_out
    assert "nothing at all was learned in 2 epoch(s)" in left_out
    assert "did not move the synthetic model" in unmoved


# --- going back -----------------------------------------------------------------------------------------------------


def thrown(**changes: Any) -> Trainer:
    """Its loss grows like the sixth power of its weight: SGD with a large step soon overflows."""
    return trainer(**{"optimizer": "sgd", "lr": 3.0, "batch_size": 2, **changes})


def test_training_that_diverges_goes_back_with_a_smaller_step() -> None:
    with pytest.raises(Diverged, match=r"diverged in epoch 1, batch \d"):
        thrown().train(decay_windows(), 30)
    one = thrown(on_divergence="rollback")
    result = one.train(decay_windows(), 30)
    assert 0 < one.rollbacks <= MOST_ROLLBACKS
    assert float(one.model.weight.detach()) == pytest.approx(math.exp(-0.1), abs=0.01)
    assert len(result.notes) == one.rollbacks
    first = result.notes[0]
    assert first.startswith("the synthetic model diverged in epoch 1, batch ")
    assert first.endswith(
        ". It went back to the phase's best state so far, and goes on with 0.5 of the learning rate (rollback 1 of at "
        "most 5)"
    )
    # what was taken back is not counted
    assert one.steps_done == 30 * 7
    assert result.metrics["epoch"] == 30


def test_after_a_rollback_training_is_that_of_the_smaller_step() -> None:
    back = thrown(on_divergence="rollback", lr=0.2, normalizer=Uncertainty())
    back.train(decay_windows(), 1)
    straight = thrown(lr=0.2 * 0.5**back.rollbacks, normalizer=Uncertainty())
    straight.train(decay_windows(), 1)
    assert back.rollbacks
    assert torch.equal(back.model.weight, straight.model.weight)
    theirs = straight.normalization.state_dict()
    for name, value in back.normalization.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_going_back_is_bounded() -> None:
    one = thrown(lr=1e6, on_divergence="rollback")
    with pytest.raises(Diverged, match=r"weights are large: lower training\.synthetic\.lr \(now 31250\)"):
        one.train(decay_windows(), 3)
    assert one.rollbacks == MOST_ROLLBACKS


def test_where_no_step_led_there_no_smaller_one_is_tried() -> None:
    one = trainer(Growing(50.0), on_divergence="rollback")
    with pytest.raises(Diverged):
        one.train(decay_windows(), 3)
    assert one.rollbacks == 0


def test_a_state_that_the_last_steps_of_an_epoch_spoilt_is_not_gone_back_to() -> None:
    one = trainer(on_divergence="rollback", batch_size=14)
    lost: list[int] = []

    def observe(record: Any) -> None:
        if record["epoch"] == 3 and not lost:
            lost.append(3)
            with torch.no_grad():
                one.model.weight.fill_(math.inf)

    result = one.train(decay_windows(), 20, observe=observe)
    assert one.rollbacks == 1
    assert result.notes[0].startswith("the synthetic model diverged in epoch 4, batch 1")
    assert float(one.model.weight.detach()) == pytest.approx(math.exp(-0.1), abs=0.05)


# --- start values of a physics --------------------------------------------------------------------------------------


class Exploding(Decay):
    """u(t + dt) = u(t) exp(k dt - 2 dt): it decays at the rate 1 with k = 1, and a large k overflows."""

    def forward(self, state: Tensor) -> Tensor:
        return state[:, :1] * torch.exp((self.learnables.values()["k"] - 2) * self.dt)


def exploding(optimizer: Any, start: float, kind: type[Decay] = Exploding) -> Trainer:
    settings = TrainingSettings(optimizer=optimizer, batch_size=4)
    model = kind(settings={"k": ParameterSetting(init=start)}, dtype=torch.float64)
    return Trainer(model, player="physical", layout=decay_layout(), settings=settings)


@pytest.mark.parametrize("optimizer", ["gauss-newton", "lbfgs"])
def test_start_values_without_a_finite_loss_are_made_smaller(optimizer: Any) -> None:
    one = exploding(optimizer, 1e4)
    result = one.train(decay_windows(dtype=torch.float64), 60)
    assert float(one.model.learnables.values()["k"].detach()) == pytest.approx(1.0, rel=1e-5)
    assert result.notes[0] == (
        "the loss of the physical model is not finite at the start values of its parameters, so training began at "
        "these divided by 16384"
    )


def test_start_values_that_no_factor_helps_stay_and_are_told() -> None:
    class Lost(Exploding):
        def forward(self, state: Tensor) -> Tensor:
            return super().forward(state) * math.nan

    one = exploding("gauss-newton", 3.0, Lost)
    with pytest.raises(Diverged, match=r"since 'u' is not finite from lead time 1 of 3 on in 14 of 14 rollouts"):
        one.train(decay_windows(dtype=torch.float64), 5)
    assert float(one.model.learnables.values()["k"].detach()) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize(
    ("bounds", "start", "wanted"),
    [
        ((0.0, math.inf), 8.0, 2.0),
        ((4.0, math.inf), 8.0, 5.0),
        ((-10.0, 10.0), -8.0, -2.0),
        ((-10.0, -4.0), -8.0, -5.0),
    ],
)
def test_smaller_start_values_are_within_their_bounds(bounds: Any, start: float, wanted: float) -> None:
    setting = ParameterSetting(init=start, bounds=bounds)
    unknowns = Unknowns(Decay(settings={"k": setting}, dtype=torch.float64))
    unknowns.move_to(unknowns.slower(0.25))
    assert unknowns.means()["k"] == pytest.approx(wanted, rel=1e-9)
