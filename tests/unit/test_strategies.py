"""The decisions of the strategies: counts, trust, phases, starts, ghost points."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from data_cases import layout
from hypothesis import given
from hypothesis import strategies as st
from messages import error_naming
from tiny_specs import TINY
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.builtin.strategies import InteractionOptions, TrustOptions
from hyco_engine.builtin.strategies.interaction import Ghosts, Interaction, ghost_points
from hyco_engine.builtin.strategies.starts import mixed_starts, periodic_axes
from hyco_engine.builtin.strategies.trust import Trust, trust
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Augmentation, CycleContext, Phase, Player, TermSpec, Trajectory
from hyco_engine.runs.metrics import read_metrics

SQUARE = Grid(axes=("x", "y"), resolution=(8, 4), lower=(-1.0, 2.0), upper=(1.0, 5.0))
POSITIVE = st.floats(1e-6, 1e6)


def field(name: str, **sides: Any) -> FieldInfo:
    return FieldInfo(name=name, boundary=Boundary.parse(sides, ("x", "y")))


def states_of(own: StateLayout, frames: int = 12, seed: int = 0) -> WindowDataset:
    generator = torch.Generator().manual_seed(seed)
    dynamic = torch.rand(frames, own.n_dynamic, *own.spatial, generator=generator)
    static = torch.rand(own.n_all - own.n_dynamic, *own.spatial, generator=generator)
    return WindowDataset([Trajectory(dynamic=dynamic, static=static)], horizon=2)


class Decay(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, state: Tensor) -> Tensor:
        return self.rate * state[:, :1]


def context(
    real: WindowDataset,
    own: StateLayout,
    errors: Mapping[Player, float],
    alpha: float,
    losses: tuple[float, float] | None = None,
) -> CycleContext:
    """`losses` are the pupil's on real and on generated samples; by default they are as the held-out errors say."""
    models: dict[Player, nn.Module] = {"physical": Decay(0.5), "synthetic": Decay(0.25)}

    def recipe(teacher: Player, states: Any, count: int, lead: Tensor | None = None) -> RolloutRecipe:
        return RolloutRecipe(models[teacher], states, count, horizon=2, layout=own, lead=lead)

    def loss(player: Player, recipe: RolloutRecipe | None = None) -> float:
        expected = errors[player] ** 2, errors["physical"] ** 2 + errors["synthetic"] ** 2
        return (losses or expected)[recipe is not None]

    return CycleContext(
        cycle=1,
        alpha=alpha,
        real=real,
        errors=lambda: errors,
        loss=loss,
        rollout_recipe=recipe,
        models=models,
        terms={player: [TermSpec(name="u", priority=3.0, scale=2.0)] for player in models},
        layout=own,
        generator=lambda *purpose: torch.Generator().manual_seed(len(str(purpose))),
    )


# --- trust ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "pupil", "tau"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 3.0, 1.0),
        (2.0, 1.0, 0.25),
        (10.0, 1.0, 0.01),
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        (1.0, math.inf, 1.0),
        (math.inf, 1.0, 0.0),
        (math.nan, 1.0, 0.0),
        (math.inf, math.inf, 0.0),
    ],
)
def test_trust_is_the_squared_ratio_of_errors_and_never_above_one(teacher: float, pupil: float, tau: float) -> None:
    assert trust(teacher, pupil) == pytest.approx(tau)


@pytest.mark.parametrize(
    ("teacher", "pupil", "tau"),
    [(1.0, 2.0, 4.0), (1.0, 3.0, 9.0), (1.0, 4.0, 9.0), (2.0, 1.0, 0.25), (0.0, 1.0, 9.0), (1.0, math.inf, 9.0)],
)
def test_trust_may_go_up_to_where_an_epoch_is_full(teacher: float, pupil: float, tau: float) -> None:
    assert trust(teacher, pupil, 9.0) == tau


@pytest.mark.parametrize(
    ("player", "e_teacher", "room", "count"),
    [
        ("synthetic", 0.1, 40, 5),  # no better than its pupil: alpha alone
        ("synthetic", 0.05, 40, 20),  # half of its error: four times as many
        ("synthetic", 0.001, 40, 30),  # until ten real samples and the generated ones fill the epoch
        ("synthetic", 0.001, 12, 5),  # of which alpha may be more
        ("physical", 0.001, 40, 5),
    ],
)
def test_a_far_better_teacher_fills_an_epoch_of_the_surrogate(
    player: Player, e_teacher: float, room: int, count: int
) -> None:
    own, phase = layout(resolution=(8,)), Phase(player=player)
    asked = context(states_of(own), own, {phase.teacher: e_teacher, player: 0.1}, alpha=0.5)
    assert len(asked.real) == 10
    strategy = Trust(TrustOptions(), room)
    made = strategy.augment(phase, asked)
    assert made is not None
    assert made.recipe is not None
    assert len(made.recipe) == count <= strategy.max_generated(10, 0.5)
    assert made.expected_ratio == pytest.approx(0.5 * made.record["tau"])
    # generated squared error against the pupil's own
    assert count * e_teacher**2 <= 0.5 * 10 * 0.1**2 * (1 + 1e-9)


def test_an_epoch_has_room_where_alpha_alone_rounds_to_no_sample() -> None:
    own, phase = layout(resolution=(8,)), Phase(player="synthetic")
    asked = context(states_of(own), own, {"physical": 0.001, "synthetic": 0.1}, alpha=0.05)
    assert Trust(TrustOptions()).augment(phase, asked) is None
    made = Trust(TrustOptions(), 40).augment(phase, asked)
    assert made is not None
    assert (made.recipe is None or len(made.recipe)) == 30
    assert Trust(TrustOptions(), 40).max_generated(10, 0.0) == 0


class Explodes(Decay):
    """Has no finite next state where any value is above `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__(0.5)
        self.limit = limit

    def forward(self, state: Tensor) -> Tensor:
        return torch.where(state.abs() > self.limit, torch.nan, super().forward(state))


@pytest.mark.parametrize("limit", [torch.inf, 1.05])
def test_a_trusted_teacher_goes_beyond_the_data_unless_it_diverges_there(limit: float) -> None:
    own, phase = layout(resolution=(8,)), Phase(player="synthetic")
    asked = context(states_of(own), own, {"physical": 0.001, "synthetic": 0.1}, alpha=0.5)
    most = float(asked.real.inputs(torch.arange(10)).abs().max())
    teacher = Explodes(limit * most)

    def recipe(player: Player, states: Any, count: int, lead: Tensor | None = None) -> RolloutRecipe:
        # without a spin-up, samples begin at the states themselves
        return RolloutRecipe(teacher, states, count, horizon=2, layout=own)

    def loss(player: Player, recipe: RolloutRecipe | None = None) -> float:
        if recipe is not None:
            recipe.generate(torch.arange(len(recipe)))
        return 0.01

    asked = attrs.evolve(asked, models={**asked.models, "physical": teacher}, rollout_recipe=recipe, loss=loss)
    made = Trust(TrustOptions(), 40).augment(phase, asked)
    assert made is not None
    assert isinstance(made.recipe, RolloutRecipe)
    states, _ = made.recipe.generate(torch.arange(30))
    assert isinstance(states, Tensor)
    assert bool((states[:, 0].abs() > most).any()) == (limit == torch.inf)
    # where it is trusted no more than alpha says, it stays among the data
    usual = Trust(TrustOptions()).augment(phase, asked)
    assert usual is not None
    assert isinstance(usual.recipe, RolloutRecipe)
    states, _ = usual.recipe.generate(torch.arange(5))
    assert isinstance(states, Tensor)
    assert not bool((states[:, 0].abs() > most).any())


@given(st.sampled_from(["physical", "synthetic"]), POSITIVE, POSITIVE, st.floats(0.0, 2.0), st.integers(1, 100))
def test_the_count_is_rounded_down_and_what_is_imported_stays_below_alpha(
    player: Player, e_teacher: float, e_pupil: float, alpha: float, n_real: int
) -> None:
    own = layout(resolution=(4,))
    phase = Phase(player=player)
    asked = context(states_of(own, frames=n_real + 2), own, {phase.teacher: e_teacher, player: e_pupil}, alpha)
    assert len(asked.real) == n_real
    made = Trust(TrustOptions(starts="real")).augment(phase, asked)
    assert made is None or made.weight == 1.0
    count = 0 if made is None or made.recipe is None else len(made.recipe)
    # generated squared error against the pupil's own, by their numbers
    own_error = alpha * n_real * e_pupil**2
    assert count * e_teacher**2 <= own_error * (1 + 1e-9)
    # and it is no less than it may be: one sample more would be too much, of a better teacher one more than alpha
    assert (count + 1) * max(e_teacher, e_pupil) ** 2 >= own_error * (1 - 1e-9)


@given(
    st.sampled_from(["physical", "synthetic"]),
    st.tuples(POSITIVE, POSITIVE),
    st.tuples(POSITIVE, POSITIVE),
    st.floats(0.01, 2.0),
)
def test_what_is_imported_is_measured_on_the_generated_samples(
    player: Player, errors: tuple[float, float], losses: tuple[float, float], alpha: float
) -> None:
    own, phase, n_real = layout(resolution=(4,)), Phase(player=player), 50
    e_teacher, e_pupil = errors
    asked = context(states_of(own, n_real + 2), own, {phase.teacher: e_teacher, player: e_pupil}, alpha, losses)
    made = Trust(TrustOptions(starts="real")).augment(phase, asked)
    assert made is None or made.expected_ratio == pytest.approx(alpha * made.record["tau"])
    count = 0 if made is None or made.recipe is None else len(made.recipe)
    # the part of the models' difference that is the teacher's, by their errors on held-out data
    imported = losses[1] * e_teacher**2 / (e_teacher**2 + e_pupil**2)
    law = player == "synthetic" and e_teacher <= e_pupil
    # the law of the better physics holds on any samples
    allowed = alpha * n_real * min(imported if law else losses[0], imported, imported * (e_pupil / e_teacher) ** 2)
    assert count * imported <= allowed * (1 + 1e-9)
    assert (count + 1) * imported >= allowed * (1 - 1e-9)


def test_a_network_is_taught_as_its_real_samples_are_noisy_and_a_physics_is_not() -> None:
    own, free, noisy = layout(resolution=(4,)), {"physical": 0.1, "synthetic": 0.1}, {"physical": 0.2, "synthetic": 0.2}
    for player, tau in {"physical": 1.0, "synthetic": 4.0}.items():
        asked = context(states_of(own, 42), own, {}, 0.25)
        asked = attrs.evolve(
            asked, errors=lambda: free, noisy_errors=lambda: noisy, loss=lambda player, recipe=None: 1.0
        )
        made = Trust(TrustOptions(starts="real"), epoch_samples=400).augment(Phase(player=player), asked)
        assert made is not None
        assert made.record == {"e_teacher": 0.1, "e_pupil": 0.1, "tau": pytest.approx(tau), "accepted": True}


def test_samples_that_carry_fifty_times_the_pupils_loss_are_one_in_fifty() -> None:
    own, phase = layout(resolution=(4,)), Phase(player="physical")
    errors: dict[Player, float] = {"synthetic": 2.0, "physical": 1.0}

    def asked(n_real: int) -> Augmentation:
        made = Trust(TrustOptions()).augment(phase, context(states_of(own, n_real + 2), own, errors, 0.5, (2.0, 125.0)))
        assert made is not None
        return made

    # four fifths of 125 are the teacher's error, 50 times the pupil's loss: held-out errors alone would allow a quarter
    many, few = asked(200), asked(99)
    assert (many.recipe is None or len(many.recipe), many.record["tau"]) == (2, pytest.approx(1 / 50))
    assert (few.recipe, few.record["accepted"]) == (None, False)


@pytest.mark.parametrize(
    ("losses", "count"), [((1.0, math.nan), 0), ((1.0, math.inf), 0), ((math.nan, 1.0), 0), ((math.inf, 1.0), 5)]
)
def test_a_loss_that_is_no_number_imports_nothing(losses: tuple[float, float], count: int) -> None:
    own, phase = layout(resolution=(4,)), Phase(player="physical")
    asked = context(states_of(own), own, {"synthetic": 1.0, "physical": 1.0}, 0.5, losses)
    made = Trust(TrustOptions()).augment(phase, asked)
    assert made is not None
    assert (0 if made.recipe is None else len(made.recipe)) == count


@pytest.mark.parametrize(
    ("player", "starts", "e_teacher", "count"),
    [
        ("physical", "mixed", 0.1, 5),
        ("physical", "mixed", 0.2, 1),
        ("physical", "mixed", 0.4, 0),
        ("synthetic", "mixed", 0.1, 5),
        ("synthetic", "real", 0.2, 1),
        # a network would copy the errors of a physics that is worse than itself
        ("synthetic", "mixed", 0.11, 0),
    ],
)
def test_a_teacher_generates_as_many_samples_as_it_is_trusted(
    player: Player, starts: Any, e_teacher: float, count: int
) -> None:
    own = layout(resolution=(8,))
    phase = Phase(player=player)
    asked = context(states_of(own), own, {phase.teacher: e_teacher, player: 0.1}, alpha=0.5)
    made = Trust(TrustOptions(starts=starts)).augment(phase, asked)
    tau = min(1.0, (0.1 / e_teacher) ** 2)
    assert (0 if made.recipe is None else len(made.recipe)) == count
    assert dict(made.record) == {"e_teacher": e_teacher, "e_pupil": 0.1, "tau": tau, "accepted": count > 0}
    # that no sample is left may also be rounding
    assert made.expected_ratio == (0.0 if e_teacher == 0.11 else 0.5 * tau)


def test_both_models_first_learn_from_real_data_alone() -> None:
    strategy = Trust(TrustOptions(warmup=7))
    assert list(strategy.phases(0)) == [
        Phase(player="physical", epochs=7, taught=False),
        Phase(player="synthetic", taught=False),
        Phase(player="physical"),
    ]
    assert list(strategy.phases(1)) == [Phase(player="synthetic"), Phase(player="physical")]


def test_a_surrogate_whose_epochs_a_teacher_may_fill_learns_a_quarter_of_a_phase_alone() -> None:
    alone = Trust(TrustOptions(), 1000).phases(0)[1]
    assert alone == Phase(player="synthetic", taught=False, part=0.25)
    assert [alone.length(epochs) for epochs in (0, 1, 4, 35)] == [0, 1, 1, 9]
    assert Phase(player="physical", epochs=7).length(35) == 7


# --- starts ---------------------------------------------------------------------------------------------------------


def test_only_axes_along_which_all_fields_are_periodic_are_shifted() -> None:
    own = StateLayout(grid=SQUARE, dynamic=(field("u", x="periodic", y=0.0),))
    assert periodic_axes(own) == [0]
    mixed = StateLayout(grid=SQUARE, dynamic=(field("u", x="periodic", y=0.0), field("v", x=0.0, y="periodic")))
    assert periodic_axes(mixed) == []


def test_mixed_states_are_new_pure_and_within_the_range_of_the_data() -> None:
    u, k = (field(name, x="periodic", y=0.0) for name in "uk")
    own = StateLayout(grid=SQUARE, dynamic=(u,), static=(k,))
    real = states_of(own)
    states = mixed_starts(real, own, 40, torch.Generator().manual_seed(3))
    every = states(torch.arange(40))
    assert every.shape == (40, 2, 8, 4)
    assert torch.equal(states(torch.tensor([17, 3])), every[[17, 3]])
    assert torch.equal(every[:, 1], real.trajectories[0].static.expand(40, 8, 4))
    known = real.inputs(torch.arange(len(real)))[:, :1]
    assert known.min() <= every[:, :1].min() < every[:, :1].max() <= known.max()
    assert float((every[:, None, :1] - known).abs().flatten(2).amax(2).min()) > 1e-3


def test_a_state_is_shifted_along_its_periodic_axis_alone() -> None:
    own = StateLayout(grid=SQUARE, dynamic=(field("u", x="periodic", y=0.0),))
    ramp = torch.arange(4.0).expand(6, 1, 8, 4)
    real = WindowDataset([Trajectory(dynamic=ramp, static=torch.zeros(0, 8, 4))], horizon=1)
    # what is the same all along x stays the same all along x
    states = mixed_starts(real, own, 20, torch.Generator().manual_seed(0))(torch.arange(20))
    assert torch.equal(states, states[:, :, :1].expand_as(states))


def test_mixing_keeps_the_size_of_deviations() -> None:
    own = layout(resolution=(512,))
    values = torch.randn(60, 1, 512, generator=torch.Generator().manual_seed(0))
    real = WindowDataset([Trajectory(dynamic=values, static=torch.zeros(0, 512))], horizon=1)
    states = mixed_starts(real, own, 200, torch.Generator().manual_seed(1))(torch.arange(200))
    assert float(states.std()) == pytest.approx(1.0, abs=0.03)


def test_wider_states_deviate_more_and_less_from_the_same_mean() -> None:
    own = layout(resolution=(512,))
    values = torch.randn(60, 1, 512, generator=torch.Generator().manual_seed(0))
    real = WindowDataset([Trajectory(dynamic=values, static=torch.zeros(0, 512))], horizon=1)
    usual, wider = (
        mixed_starts(real, own, 200, torch.Generator().manual_seed(1), size)(torch.arange(200)) for size in (1.0, 2.0)
    )
    ratios = wider.flatten(1).std(1) / usual.flatten(1).std(1)
    assert 0.5 <= float(ratios.min()) < 0.6
    assert 1.8 < float(ratios.max()) <= 2.0
    assert float(ratios.log2().mean()) == pytest.approx(0.0, abs=0.1)
    torch.testing.assert_close(wider.mean((1, 2)), usual.mean((1, 2)), rtol=0, atol=0.1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_has_one_sign_keeps_it_in_wider_states(sign: float) -> None:
    own = layout(resolution=(64,))
    values = sign * torch.rand(60, 1, 64, generator=torch.Generator().manual_seed(0))
    real = WindowDataset([Trajectory(dynamic=values, static=torch.zeros(0, 64))], horizon=1)
    states = mixed_starts(real, own, 200, torch.Generator().manual_seed(1), 2.0)(torch.arange(200))
    assert bool((sign * states >= 0).all())
    assert float((sign * states).max()) > 1.1


def test_samples_start_where_the_teacher_is_after_the_lead() -> None:
    own = layout(resolution=(8,))
    start = torch.rand(5, 1, 8, generator=torch.Generator().manual_seed(0))
    lead = torch.tensor([1, 0, 4, 2, 3])
    recipe = RolloutRecipe(Decay(0.5), lambda i: start[i], 5, horizon=2, layout=own, lead=lead)
    inputs, targets = recipe.generate(torch.tensor([2, 1]))
    torch.testing.assert_close(inputs, torch.stack([start[2] / 16, start[1]]))
    torch.testing.assert_close(targets[:, 1], torch.stack([start[2] / 64, start[1] / 4]))


# --- interaction ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_ghost_points_lie_in_the_domain_and_in_the_horizon(seed: int, steps: int) -> None:
    made = ghost_points(SQUARE, 3, 50, steps, torch.Generator().manual_seed(seed))
    lower, upper = torch.tensor(SQUARE.lower), torch.tensor(SQUARE.upper)
    assert bool(((made["position"] >= lower) & (made["position"] <= upper)).all())
    assert bool(((made["frame"] >= 0) & (made["frame"] <= steps)).all())
    assert made["position"].shape == (3, 50, 2)


def test_the_interaction_is_alpha_times_the_misfit_of_both_models() -> None:
    own = layout(resolution=(8,))
    flat = torch.ones(12, 1, 8)
    real = WindowDataset([Trajectory(dynamic=flat, static=torch.zeros(0, 8))], horizon=2)
    asked = context(real, own, {}, alpha=0.1)
    ghosts = Ghosts(teacher=Decay(0.5), layout=own, steps=2, points=4000, dt=0.5)
    batch = real.batch(torch.arange(3))
    pupil = Decay(0.25)
    generator = torch.Generator().manual_seed(0)
    difference = ghosts.differences(pupil, batch, generator, again=False)
    assert ghosts.differences(pupil, batch, generator, again=True) is difference
    # between frames linear: 1, 0.5, 0.25 against 1, 0.25, 0.0625
    expected = ((0.25**2) / 3 + (0.25**2 + 0.25 * 0.1875 + 0.1875**2) / 3) / 2
    assert float(difference.square().mean().detach()) == pytest.approx(expected, rel=0.02)
    difference.sum().backward()
    assert pupil.rate.grad is not None
    assert ghosts.teacher.rate.grad is None  # type: ignore[union-attr]
    assert asked.alpha == 0.1


# --- runs -----------------------------------------------------------------------------------------------------------


def spec(**tables: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "run": {"cycles": 2, "device": "cpu"},
        "data": {
            "kind": "simulate",
            "truth": {"nu": 0.02},
            "physics": {"kind": "burgers", "dt": 0.01},
            "num_simulations": 3,
            "num_frames": 8,
            "resolution": {"x": 32},
            "dt": 0.01,
            "split": {"train": "0:2", "val": "2:3"},
        },
        "physical": {"kind": "burgers", "dt": 0.01, "compile": "eager", "parameters": {"nu": {"init": 0.04}}},
        "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
        "training": {
            "physical": {"optimizer": "adam", "epochs_per_cycle": 2},
            "synthetic": {"epochs_per_cycle": 2, "schedule": "constant"},
        },
    }
    return base | tables


def without(player: str, **tables: Any) -> dict[str, Any]:
    found = spec(**tables)
    del found[player]
    return found


def weights(model: nn.Module | None) -> list[Tensor]:
    assert model is not None
    return [p.detach() for p in model.parameters()]


def same(first: nn.Module | None, second: nn.Module | None) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_without_trust_both_models_are_bitwise_those_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyco_engine.builtin.strategies.trust.trust", lambda e_teacher, e_pupil, most=1.0: 0.0)
    both = hyco.run(spec(augmentation={"kind": "trust", "alpha": 0.5, "warmup": 2}))
    alone = hyco.run(without("physical"))
    # the warm-up is one more phase of the physics
    physics = hyco.run(without("synthetic", run={"cycles": 3, "device": "cpu"}))
    assert same(both.synthetic, alone.synthetic)
    assert same(both.physical, physics.physical)
    table = both.summary["cooperation"]
    assert [(e["cycle"], e["direction"]) for e in table] == [
        (0, "synthetic->physical"),
        (1, "physical->synthetic"),
        (1, "synthetic->physical"),
    ]
    assert all(e["tau"] == 0 and e["n_generated"] == 0 and e["accepted"] is False for e in table)
    assert both.summary["warnings"] == []


def test_trust_teaches_and_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = hyco.run(spec(augmentation={"kind": "trust", "alpha": 0.5, "warmup": 20}))
    by_direction = {(e["cycle"], e["direction"]): e for e in result.summary["cooperation"]}
    taught = by_direction[1, "physical->synthetic"]
    assert taught["tau"] == trust(taught["e_teacher"], taught["e_pupil"]) == 1
    assert taught["e_after"] < taught["e_pupil"]
    # ten real windows
    assert taught["n_generated"] == 5
    assert taught["accepted"] is True


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "gauss-newton"])
def test_an_interaction_changes_both_models_with_any_optimizer(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # held-out data may undo what an interaction changed
    monkeypatch.setattr(Interaction, "proposes", False)
    training = spec()["training"] | {"physical": {"optimizer": optimizer, "epochs_per_cycle": 2}}
    both = hyco.run(spec(augmentation={"kind": "interaction", "alpha": 0.5, "points": 16}, training=training))
    alone = hyco.run(without("physical", training=training))
    assert not same(both.synthetic, alone.synthetic)
    physics = hyco.run(without("synthetic", training=training))
    assert not same(both.physical, physics.physical)
    assert all(entry["n_generated"] == 0 for entry in both.summary["balance"])


def test_a_teacher_is_rolled_out_once_for_a_batch_that_holds_all_samples() -> None:
    class Counting(Decay):
        calls = 0

        def forward(self, state: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(state)

    own = layout(resolution=(8,))
    real = states_of(own)
    teacher = Counting(0.5)
    ghosts = Ghosts(teacher=teacher, layout=own, steps=2, points=5, dt=0.5)

    def differences(asked: Ghosts, first: int) -> Tensor:
        batch = real.batch(torch.arange(first, first + 4))
        return asked.differences(Decay(0.25), batch, torch.Generator().manual_seed(0), again=False)

    for _ in range(3):
        differences(ghosts, 0)
    assert teacher.calls == 2
    other = differences(ghosts, 4)
    assert teacher.calls == 4
    assert torch.equal(other, differences(Ghosts(teacher=Decay(0.5), layout=own, steps=2, points=5, dt=0.5), 4))


def test_after_the_cycles_that_cooperate_the_physics_is_polished_on_real_data_alone_and_goes_on_teaching() -> None:
    def phases(cycle: int, **options: Any) -> list[tuple[str, bool]]:
        return [(p.player, p.taught) for p in Interaction(InteractionOptions(**options)).phases(cycle)]

    both, first = [("synthetic", True), ("physical", True)], [("synthetic", True), ("physical", False)]
    assert [phases(cycle, cooperate=2) for cycle in range(4)] == [both, both, first, first]
    assert phases(0, teach="synthetic") == [("physical", False), ("synthetic", True)]
    other = [phases(cycle, teach="physical", cooperate=1) for cycle in range(2)]
    assert other == [[("synthetic", False), ("physical", True)], [("synthetic", False), ("physical", False)]]
    with error_naming(ValueError, "cooperate"):
        Interaction(InteractionOptions(teach="synthetic", cooperate=2))
    always = Interaction(InteractionOptions())
    assert all(phase.taught for cycle in (0, 1, 100) for phase in always.phases(cycle))


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_that_polishes_is_at_first_the_run_that_cooperates(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # held-out data may undo what an interaction changed
    monkeypatch.setattr(Interaction, "proposes", False)
    training = spec()["training"] | {"physical": {"optimizer": optimizer, "epochs_per_cycle": 2}}
    asked = {"kind": "interaction", "alpha": 0.5, "points": 16}
    polished = hyco.run(spec(augmentation=asked | {"cooperate": 1}, training=training))
    cooperating = hyco.run(spec(augmentation=asked, training=training))
    assert [(e["cycle"], e["direction"]) for e in polished.summary["cooperation"]] == [
        (0, "physical->synthetic"),
        (0, "synthetic->physical"),
        (1, "physical->synthetic"),
    ]

    def trained(result: hyco.RunResult, cycle: int, phase: str) -> list[dict[str, Any]]:
        lines = read_metrics(result.folder)
        return [line for line in lines if (line["cycle"], line["phase"]) == (cycle, phase) and "train/loss" in line]

    for cycle, phase in ((0, "train_synthetic"), (0, "train_physical"), (1, "train_synthetic")):
        one, other = (trained(result, cycle, phase) for result in (polished, cooperating))
        assert [line["train/loss"] for line in one] == [line["train/loss"] for line in other]
    assert same(polished.synthetic, cooperating.synthetic)
    assert not same(polished.physical, cooperating.physical)
    alone, taught = (trained(result, 1, "train_physical") for result in (polished, cooperating))
    assert not any("interaction/u" in key for line in alone for key in line)
    assert any("interaction/u" in key for line in taught for key in line)


def test_a_physics_that_only_teaches_is_bitwise_the_one_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"kind": "interaction", "alpha": 0.5, "points": 16, "teach": "synthetic"}
    both = hyco.run(spec(augmentation=asked))
    assert same(both.physical, hyco.run(without("synthetic")).physical)
    assert not same(both.synthetic, hyco.run(without("physical")).synthetic)
    assert {e["direction"] for e in both.summary["cooperation"]} == {"physical->synthetic"}


def test_the_plan_says_which_phases_are_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = hyco.Engine(spec(augmentation={"kind": "trust", "alpha": 0.5, "warmup": 7}))
    phases = [(p["phase"], p["epochs"], p["n_generated"]) for p in engine.plan()["phases"]]
    cycle = [("train_synthetic", 2, 5), ("train_physical", 2, 5)]
    # the last one polishes
    warmup = ("train_physical", 7, 0)
    assert phases == [warmup, ("train_synthetic", 2, 0), cycle[1], *cycle, warmup]


def test_a_teacher_that_is_worse_than_its_pupil_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = spec()["physical"] | {"parameters": {"nu": {"init": 0.0201}}}
    result = hyco.run(spec(augmentation={"kind": "count", "alpha": 0.5}, physical=known))
    (told,) = [note for note in result.summary["warnings"] if "held-out" in note]
    assert re.fullmatch(
        r"cycle 1: the physical model learns from 5 samples of the synthetic model, whose error on held-out data is "
        r"0\.\d+ against its own [\d.e-]+: they are likely to make it worse. "
        r'augmentation.kind = "trust" generates as many as held-out data justify',
        told,
    )
    measured = hyco.run(spec(augmentation={"kind": "trust", "alpha": 0.5, "warmup": 0}, physical=known))
    assert not any("held-out" in note for note in measured.summary["warnings"])


NO_ROLLOUTS = (
    "this strategy generates rollouts, and the synthetic model CoordinateMLP steps no states: set augmentation.kind = "
    '"interaction", which compares both models at points and generates no samples, or augmentation.alpha = 0, with '
    "which "
    "each model learns from real data alone"
)
NOTHING_HELD_OUT = (
    "this strategy compares the models' errors on held-out data, and no data is held out: set data.split.val, "
    'or set augmentation.kind = "count", which needs no held-out data'
)


@pytest.mark.parametrize(
    "augmentation",
    [
        {"alpha": 1.0},
        {"kind": "count", "alpha": 1.0},
        {"kind": "weight", "alpha": 1.0},
        {"kind": "two-arms", "arms": [{"kind": "interaction"}, {"kind": "trust", "alpha": 1.0}]},
    ],
)
def test_a_surrogate_that_steps_no_states_is_told_before_anything_trains(augmentation: dict[str, Any]) -> None:
    spec = TINY | {"synthetic": {"kind": "coordinate-mlp", "duration": 0.2}, "augmentation": augmentation}
    with pytest.raises(SpecError) as caught:
        hyco.Engine(spec).plan()
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == ("augmentation.kind", NO_ROLLOUTS)


@pytest.mark.parametrize("augmentation", [{"alpha": 0.0}, {"kind": "interaction", "alpha": 1.0}])
def test_where_nothing_is_generated_any_surrogate_will_do(augmentation: dict[str, Any]) -> None:
    spec = TINY | {"synthetic": {"kind": "coordinate-mlp", "duration": 0.2}, "augmentation": augmentation}
    assert hyco.Engine(spec).plan()["n_generated"] == 0


def test_trust_says_that_it_needs_held_out_data() -> None:
    Trust(TrustOptions()).check({}, heldout=True)
    with pytest.raises(SpecError) as caught:
        Trust(TrustOptions()).check({}, heldout=False)
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == ("augmentation.kind", NOTHING_HELD_OUT)
