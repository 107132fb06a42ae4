"""What was taught is kept where held-out data allow it: the uncertainty of a change, undoing, waiting, polishing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, TermSpec
from hyco_engine.testing.problems import Decay, LinearSurrogate, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.cycle import REST
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts, HeldOutSamples
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.proposal import LEAST, Change, change, total
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

TRUTH = math.exp(-0.1)
"""The factor of one step of the data; a surrogate with another weight is wrong."""


def heldout(count: int = 3, frames: int = 8) -> HeldOutRollouts:
    return HeldOutRollouts(decay_trajectories(count, frames), decay_layout())


def factor(weight: float) -> LinearSurrogate:
    model = LinearSurrogate()
    nn.init.constant_(model.weight, weight)
    return model


# --- units and their uncertainty ------------------------------------------------------------------------------------


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_units_add_up_to_the_score() -> None:
    model = factor(0.8)
    rollouts, samples = heldout(), HeldOutSamples(decay_windows(), RolloutObjective(decay_layout()))
    assert rollouts.by_unit(model).shape == (2, 3, 7, 1)
    assert samples.by_unit(model).shape == (2, len(decay_windows()), 1, 1)
    cases: Sequence[HeldOut] = (rollouts, samples)
    for case in cases:
        assert total(case, case.by_unit(model)) == pytest.approx(case.score(case.measure(model)), rel=1e-12)


def test_a_unit_that_counts_twice_is_a_unit_that_is_there_twice() -> None:
    one, two = decay_trajectories(2, 8)
    layout, models = decay_layout(), (Decay(decay_layout()), factor(0.8))
    twice, counted = HeldOutRollouts((one, two, two), layout), HeldOutRollouts((one, two), layout)
    weights = torch.tensor([[1.0, 2.0]]).double(), torch.ones(1, 7).double()
    # relative to the spread of all data, which is another one: only ratios are the same
    first, second = (float(counted.scores(counted.by_unit(model), *weights)) for model in models)
    expected = [twice.score(twice.measure(model)) for model in models]
    assert first / second == pytest.approx(expected[0] / expected[1], rel=1e-9)


def test_a_lead_time_that_does_not_count_is_left_out() -> None:
    short, long = heldout(frames=5), heldout(frames=8)
    model = factor(0.8)
    leads = (torch.arange(7) < 4).double()[None]
    score = long.scores(long.by_unit(model), torch.ones(1, 3).double(), leads)
    assert float(score) == pytest.approx(short.score(short.measure(model)), rel=1e-12)


def units(logs: Tensor) -> Tensor:
    """Sums whose relative error, per unit and lead time, is exp(logs)."""
    squares = (2 * logs).exp()[..., None]
    return torch.stack([squares, torch.ones_like(squares)]).double()


def test_the_uncertainty_of_one_rollout_is_that_of_its_blocks_of_lead_times() -> None:
    steps = 4096
    noise = 4 * torch.randn(1, steps, generator=drawn(1)).double()
    before = torch.zeros(1, steps).double()
    found = change(heldout(), units(before), units(before + 0.1 + noise), drawn())
    assert found.value == pytest.approx(0.1 + float(noise.mean()), abs=1e-9)
    # independent lead times: the standard error of a mean
    assert found.uncertainty == pytest.approx(4 / 64, rel=0.25)
    # 64 lead times that err alike tell as much as one
    alike = noise[:, :64].repeat_interleave(64, dim=1)
    found = change(heldout(), units(before), units(before + alike), drawn())
    assert found.uncertainty == pytest.approx(float(noise[:, :64].std()) / 8, rel=0.25)


def test_the_uncertainty_of_many_simulations_is_that_of_their_mean() -> None:
    before = torch.zeros(400, 5).double()
    ratio = 0.8 * torch.randn(400, 1, generator=drawn(2)).double()
    found = change(heldout(), units(before), units(before + ratio), drawn())
    # log(after / before) = log(mean(exp(2 x))) / 2, by the delta method
    squares = (2 * ratio).exp()
    assert found.value == pytest.approx(float(squares.mean().log()) / 2, abs=1e-9)
    assert found.uncertainty == pytest.approx(float(squares.std() / squares.mean()) / 2 / 20, rel=0.15)


def test_a_change_that_is_the_same_everywhere_is_certain() -> None:
    before = torch.randn(3, 7, generator=drawn(3)).double()
    found = change(heldout(), units(before), units(before + math.log(1.5)), drawn())
    assert found.value == pytest.approx(math.log(1.5))
    assert found.uncertainty == LEAST
    same = change(heldout(), units(before), units(before), drawn())
    assert (same.value, same.rose, same.fell) == (0.0, False, False)


def test_what_diverges_is_worse_than_anything() -> None:
    good, bad = units(torch.zeros(1, 4)), units(torch.full((1, 4), math.inf))
    assert change(heldout(), good, bad, drawn()) == Change(math.inf, 0.0)
    assert change(heldout(), bad, good, drawn()) == Change(-math.inf, 0.0)
    assert change(heldout(), bad, bad, drawn()) == Change(0.0, 0.0)


# --- phases ---------------------------------------------------------------------------------------------------------


class Proposing(Count):
    """Teaches as `count` does, as a proposal, and polishes the physics at the end."""

    proposes = True

    def last_phases(self) -> Sequence[Phase]:
        return (Phase(player="physical", epochs=5),)


class Alone(Count):
    """Teaches nothing."""

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        return None


class Teacher(LinearSurrogate):
    """A surrogate with the weights of a list, one after each phase of the physics, which learns nothing."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight.requires_grad_(False).fill_(weight)


def hybrid(teacher: nn.Module, strategy: Any, optimizer: str = "lbfgs", **more: Any) -> HybridTrainer:
    options = TrainingSettings(epochs_per_cycle=6, batch_size=8, optimizer=cast("Any", optimizer), lr=0.05)
    trainers = {
        player: Trainer(model, player=cast("Any", player), layout=decay_layout(), settings=options)
        for player, model in {"physical": Decay(decay_layout()), "synthetic": teacher}.items()
    }
    found = {"strategy": strategy, "cache": Memory(), "alpha": 0.5, "heldout": heldout(), **more}
    return HybridTrainer(physical=trainers["physical"], synthetic=trainers["synthetic"], **found)


def k(trained: HybridTrainer) -> float:
    return float(cast("Decay", trained.trainers["physical"].model).learnables.values()["k"].detach())


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def states(trained: HybridTrainer) -> dict[str, Any]:
    found = trained.trainers["physical"].state_dict()
    return {name: value for name, value in found.items() if name != "undone"}


def knowing(trained: HybridTrainer, strategy: type[Count] = Proposing) -> HybridTrainer:
    """Let the physics learn the truth before it is taught."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "augment", lambda *args: None)
        trained.train(decay_windows(), 1)
    return trained


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "gauss-newton"])
def test_a_phase_that_a_wrong_teacher_taught_is_undone_to_the_last_bit(optimizer: str) -> None:
    taught, alone = (hybrid(Teacher(0.5), strategy, optimizer) for strategy in (Proposing(), Alone()))
    with pytest.MonkeyPatch.context() as patch:
        # too small a rate to find the truth in one cycle with adam, whose phases then go on improving
        patch.setattr(Proposing, "augment", lambda *args: None)
        taught.train(decay_windows(), 8 if optimizer == "adam" else 1)
    alone.train(decay_windows(), 8 if optimizer == "adam" else 1)
    history = taught.train(decay_windows(), 1)
    alone.train(decay_windows(), 1)
    assert [(entry["n_generated"], entry["accepted"]) for entry in history.cooperation] == [(7, False)]
    # weights, optimizer and normalizer; the phase was repeated on real data alone
    assert equal(states(taught), states(alone))
    assert taught.trainers["physical"].at["epoch"] == history.trained["physical"]["epochs"]
    assert taught.trainers["physical"].at["epoch"] > alone.trainers["physical"].at["epoch"]


def test_what_was_undone_is_told_and_its_teacher_waits() -> None:
    trained = knowing(hybrid(Teacher(0.5), Proposing()))
    before = k(trained)
    assert before == pytest.approx(1.0, rel=1e-3)
    history = trained.train(decay_windows(), 2)
    assert k(trained) == pytest.approx(before, rel=1e-4)
    first, second = history.cooperation
    assert (first["cycle"], first["direction"], first["n_generated"]) == (1, "synthetic->physical", 7)
    assert first["accepted"] is second["accepted"] is False
    # it waits: nothing is generated
    assert (second["cycle"], second["n_generated"]) == (2, 0)
    assert "e_after" not in second
    assert first["e_after"] > 0.1
    told, waits = [note for note in history.warnings if "held-out" in note]
    assert re.fullmatch(
        r"cycle 1: what the synthetic model taught the physical model raised its error on held-out data from "
        r"[\d.e-]+ to [\d.e-]+: it is undone, and the phase repeated on real data alone",
        told,
    )
    assert waits == (
        "cycle 1: the synthetic model teaches the physical model again once its own error on held-out data has fallen"
    )
    # the taught phase, and the same one on real data alone
    assert [(b.cycle, b.n_generated) for b in history.balance if b.phase == "train_physical"] == [
        (0, 0),
        (1, 7),
        (1, 0),
        (2, 0),
    ]
    # a better teacher is asked again
    nn.init.constant_(trained.trainers["synthetic"].model.weight, TRUTH)
    trained.train(decay_windows(), 1)
    assert (history.cooperation[-1]["n_generated"], history.cooperation[-1]["accepted"]) == (7, True)


def test_a_strategy_that_does_not_propose_is_never_undone() -> None:
    trained = hybrid(Teacher(0.5), Count())
    history = trained.train(decay_windows(), 2)
    assert k(trained) > 1.2
    assert history.cooperation == []
    assert len(history.balance) == 2
    assert not any("undone" in note for note in history.warnings)


def test_without_held_out_data_nothing_is_undone() -> None:
    trained = hybrid(Teacher(0.5), Proposing(), heldout=None)
    trained.train(decay_windows(), 2)
    assert k(trained) > 1.2


def test_a_teacher_that_diverges_teaches_nothing() -> None:
    trained = hybrid(Teacher(1e30), Proposing())
    history = trained.train(decay_windows(), 1)
    assert [(entry["n_generated"], entry["accepted"]) for entry in history.cooperation] == [(0, False)]
    assert k(trained) == pytest.approx(1.0, rel=1e-3)


# --- the end --------------------------------------------------------------------------------------------------------


def ended(trained: HybridTrainer) -> int:
    events = list(trained.polish(decay_windows(), trained.tell))
    trained.settle()
    return len([event for event in events if event.kind == "metrics"])


def test_a_physics_that_was_taught_is_polished_on_real_data() -> None:
    # a teacher that is a little wrong improves a physics that knows nothing yet
    trained = hybrid(Teacher(TRUTH * 0.98), Proposing())
    history = trained.train(decay_windows(), 1)
    assert [entry["accepted"] for entry in history.cooperation] == [True]
    off = abs(k(trained) - 1.0)
    assert off > 0.01
    assert ended(trained) > 0
    assert abs(k(trained) - 1.0) < 0.01 * off


def test_a_physics_is_not_led_away_from_a_teacher_that_is_better() -> None:
    # what is held out decays faster than what the physics learns from, and the teacher knows it
    faster = HeldOutRollouts(decay_trajectories(3, 8, k=1.5), decay_layout())
    trained = hybrid(Teacher(math.exp(-0.15)), Proposing(), heldout=faster)
    history = trained.train(decay_windows(), 1)
    assert [entry["accepted"] for entry in history.cooperation] == [True]
    found = k(trained)
    assert 1.05 < found < 1.5
    assert ended(trained) == 0
    assert k(trained) == found


def test_a_physics_that_was_taught_nothing_is_not_trained_on() -> None:
    trained = hybrid(Teacher(0.5), Alone())
    trained.train(decay_windows(), 1)
    before = states(trained)
    assert ended(trained) == 0
    assert equal(states(trained), before)


def test_what_did_best_on_held_out_data_is_reported() -> None:
    trained = knowing(hybrid(Teacher(0.5), Count()), Count)
    best = k(trained)
    trained.train(decay_windows(), 1)
    assert k(trained) > 1.2
    ended(trained)
    assert k(trained) == best


def test_training_rests_between_an_undone_phase_and_its_repetition() -> None:
    trained = knowing(hybrid(Teacher(0.5), Proposing()))
    rests = []
    for event in trained.events(decay_windows(), 1, trained.tell):
        if event.kind == REST and event.record:
            rests.append(trained.best["physical"].trial is not None)
    assert rests == [True, False]


def test_terms_of_several_fields_are_added_up_as_in_the_loss() -> None:
    specs = [TermSpec(name="u", priority=3.0, scale=2.0)]
    samples = HeldOutSamples(decay_windows(), RolloutObjective(decay_layout(), specs))
    model = factor(0.8)
    (loss,) = samples.measure(model)["loss_by_field"].values()
    assert samples.measure(model)["loss"] == pytest.approx(1.5 * loss)
    assert total(samples, samples.by_unit(model)) == pytest.approx(1.5 * loss)
