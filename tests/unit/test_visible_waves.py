"""Waves of fields, those that noise does not hide or later frames show, and start states that have no others."""

from __future__ import annotations

import math
from statistics import median

import attrs
import pytest
import torch
from test_smoothing import NOISE, layout_of, made
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.waves import Waves, waves_of
from hyco_engine.data.windows import WindowDataset
from hyco_engine.interfaces import Trajectory
from hyco_engine.testing.problems import Decay
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer
from hyco_engine.training.visible_waves import visible_waves

CPU = torch.device("cpu")
STAGGERED = FieldInfo(
    name="v", components=("x", "y"), sampling="staggered", boundary=Boundary.parse("zero", ("x", "y"))
)
BOX = StateLayout(
    grid=Grid(axes=("x", "y"), resolution=(6, 9), lower=(0.0, 0.0), upper=(1.0, 1.0)),
    dynamic=(STAGGERED, FieldInfo(name="c", boundary=Boundary.parse("zero-gradient", ("x", "y")))),
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def travelling(turns: int, size: float = 1.0, cells: int = 48, count: int = 2) -> Tensor:
    """Simulations `[n, 11, cells]` of a wave that turns so many times over the ring."""
    x = 2 * math.pi * torch.arange(cells, dtype=torch.float64) / cells
    return torch.stack([torch.stack([size * (turns * x - 0.3 * t + n).sin() for t in range(11)]) for n in range(count)])


@pytest.mark.parametrize("closed", [False, True])
def test_waves_are_orthonormal_and_go_from_smooth_to_rough(closed: bool) -> None:
    waves = Waves.along((12, 7), (closed, False))
    values = drawn(3, 12, 7)
    found = waves.coefficients(values)
    torch.testing.assert_close(found.square().sum(), values.square().sum())
    torch.testing.assert_close(waves.values(found), values)
    # what has no third difference has no roughness: parabolas along an axis with ends, a constant on a ring
    torch.testing.assert_close(
        (waves.rough < 1e-9).sum(), torch.tensor((1 if closed else 3) * 3), msg="the number of smooth waves"
    )
    smooth = torch.ones(12, 1, dtype=torch.float64) * torch.linspace(-1, 1, 7, dtype=torch.float64).square()
    power = waves.power(waves.coefficients(smooth))
    assert float(power[waves.rough > 1e-9].sum()) < 1e-20 * float(power.sum())


def test_an_axis_of_few_or_very_many_cells_has_no_waves() -> None:
    waves = Waves.along((3, 5), (False, False))
    assert list(waves.vectors) == [-1]
    assert waves.rough.shape == (1, 5)
    values = drawn(4, 3, 5)
    torch.testing.assert_close(
        waves.power(waves.coefficients(values)), waves.coefficients(values).square().mean((0, 1))[None]
    )


@pytest.mark.parametrize(("size", "wanted"), [(1.0, 7), (0.002, 3)])
def test_a_wave_is_visible_above_noise_and_not_below(size: float, wanted: int) -> None:
    """With the constant, three waves turn at most once, and seven at most three times."""
    form = layout_of("periodic", 48)
    counts = []
    for seed in range(10):
        fields = travelling(1, count=8) + travelling(3, size, count=8)
        mask = visible_waves(made(fields + NOISE * drawn(*fields.shape, seed=seed), noise=0.0), form)[0]
        order = waves_of(form)[0].rough.argsort()
        assert bool(mask[order[:wanted]].all())
        counts.append(int(mask.sum()))
    assert median(counts) == wanted


def test_noise_alone_shows_little_but_its_mean() -> None:
    form = layout_of("periodic", 48)
    counts = []
    for seed in range(20):
        counts.append(int(visible_waves(made(drawn(4, 11, 48, seed=seed), noise=0.0), form).sum()))
    assert median(counts) == 1


def test_all_waves_are_visible_where_there_is_no_noise_or_nothing_tells_it() -> None:
    form = layout_of("periodic", 48)
    assert bool(visible_waves(made(travelling(2), noise=0.0), form).all())
    # two frames of a field that is rough in space look like noise
    assert bool(visible_waves(made(drawn(4, 2, 48)), form).all())
    hidden = travelling(2)
    hidden[0, 3, 5] = math.nan
    assert bool(visible_waves(made(hidden), form).all())


def learned_in(form: StateLayout, share: float = 0.4, count: int = 3) -> InitialStates:
    """Starts of `count` samples with numbers drawn at random, of which a share of the waves is learned."""
    mask = torch.zeros(form.n_dynamic, *form.spatial, dtype=torch.bool)
    draws = torch.Generator().manual_seed(7)
    for channel, waves in enumerate(waves_of(form)):
        mask[channel][tuple(slice(n) for n in waves.lengths)] = torch.rand(waves.lengths, generator=draws) < share
    size = 2.0 ** torch.arange(form.n_dynamic, dtype=torch.float64)
    return InitialStates(drawn(count, int(mask.sum())), size, mask, form)


@pytest.mark.parametrize("form", [layout_of("periodic", 16), layout_of("zero-gradient", 5, 8), BOX])
def test_numbers_and_states_are_transposes_of_each_other(form: StateLayout) -> None:
    initial = learned_in(form)
    x, y = drawn(2, initial.count), drawn(2, form.n_dynamic, *form.spatial, seed=1)
    torch.testing.assert_close((initial.states(x) * y).sum(), (x * initial.numbers_of(y)).sum())
    torch.testing.assert_close(initial.states(x), torch.einsum("bd,d...->b...", x, initial.basis))
    # places without a sample stay empty
    for channel, waves in enumerate(waves_of(form)):
        outside = torch.ones(form.spatial, dtype=torch.bool)
        outside[tuple(slice(n) for n in waves.lengths)] = False
        assert not initial.states(x)[:, channel, outside].any()


@pytest.mark.parametrize("form", [layout_of("periodic", 16), BOX])
def test_a_start_has_its_learned_waves_and_no_others(form: StateLayout) -> None:
    initial = learned_in(form)
    observed = initial.states(drawn(3, initial.count, seed=2))
    rough = drawn(3, form.n_dynamic, *form.spatial, seed=3)
    for channel, waves in enumerate(waves_of(form)):
        outside = torch.ones(form.spatial, dtype=torch.bool)
        outside[tuple(slice(n) for n in waves.lengths)] = False
        rough[:, channel, outside] = 0.0
    # what is not learned of a state is what its numbers' transposes do not see
    seen = torch.einsum("bd,d...->b...", initial.numbers_of(rough), initial.basis)
    sizes = initial.size.view(-1, *[1] * len(form.spatial)) ** 2
    static = torch.ones(3, 0, *form.spatial, dtype=torch.float64)
    states = torch.cat([observed + rough - seen / sizes, static], dim=1)
    targets = torch.zeros(3, 2, form.n_dynamic, *form.spatial, dtype=torch.float64)
    moved, longer = initial((states, targets), torch.tensor([0, 1, 9]))
    assert isinstance(moved, Tensor)
    assert isinstance(longer, Tensor)
    numbers = initial.scaled.detach()[:2]
    torch.testing.assert_close(moved[:2], observed[:2] + initial.states(numbers))
    # a generated sample keeps its start, which counts as not observed
    assert torch.equal(moved[2], states[2])
    assert torch.equal(longer[:2, 0], states[:2])
    assert longer[2, 0].isnan().all()


def test_learned_starts_come_back_from_their_state() -> None:
    form = layout_of("periodic", 48)
    data = AugmentedDataset(made(travelling(2)))
    initial = InitialStates.of(data, form, CPU)
    assert 0 < initial.count < 48
    initial.scaled.data += drawn(2, initial.count)
    again = InitialStates.load(initial.state_dict(), form)
    batch = data.batch(torch.arange(2))
    for one, other in zip(initial(batch, torch.arange(2)), again(batch, torch.arange(2)), strict=True):
        assert isinstance(one, Tensor)
        assert isinstance(other, Tensor)
        assert torch.equal(one, other)
    few = initial.some(torch.tensor([1]))
    assert torch.equal(few.states(few.scaled.detach())[0], initial.states(initial.scaled.detach())[1])


def weak_waves(size: float, first: int = 4, last: int = 14, cells: int = 48) -> Tensor:
    """Simulations `[2, 21, cells]` that decay at the rate 1, of a large wave and many weak ones of `size` noises."""
    own = waves_of(layout_of("periodic", cells))[0]
    coefficients = torch.zeros(2, cells, dtype=torch.float64)
    order = own.rough.argsort()
    coefficients[:, order[1]] = 5.0
    signs = drawn(2, last - first, seed=5).sign()
    coefficients[:, order[first:last]] = size * NOISE * signs
    times = 0.02 * torch.arange(21, dtype=torch.float64)
    return torch.exp(-times)[:, None] * own.values(coefficients)[:, None]


def decaying(clean: Tensor, seed: int, epochs: int = 40) -> tuple[Trainer, AugmentedDataset, int]:
    """A trainer that has found the rate of noisy simulations, its data, and how many waves it began with."""
    form = layout_of("periodic", clean.shape[-1])
    data = AugmentedDataset(made(clean + NOISE * drawn(*clean.shape, seed=seed), noise=0.0))
    settings = TrainingSettings(optimizer="gauss-newton", batch_size=8, initial_states="learned")
    physics = Decay(form, dt=0.02, dtype=torch.float64)
    trainer = Trainer(physics, player="physical", layout=form, settings=settings)
    trainer.train(data, epochs)
    return trainer, data, int(visible_waves(data.real, form).sum())


@pytest.mark.parametrize(("size", "shown"), [(1.0, True), (0.0, False)])
def test_later_frames_show_waves_that_noise_hides_in_the_start(size: float, shown: bool) -> None:
    """Ten waves as large as the noise of one frame are hidden in the start, and not in the mean of 21 frames."""
    order = waves_of(layout_of("periodic", 48))[0].rough.argsort()
    begun, found, more = [], [], []
    for seed in range(3):
        trainer, _, before = decaying(weak_waves(size), seed)
        initial = trainer.state.initial
        assert initial is not None
        begun.append(before)
        found.append(int(initial.learned[0][order[:14]].sum()))
        more.append(initial.count - before)
    assert median(begun) < 14
    if shown:
        assert median(found) == 14
    else:
        assert median(more) == 0


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_waves_that_hold_nothing_but_noise_are_dropped_and_weak_ones_stay(size: float) -> None:
    """The search begins with all waves but one; ten are as large as the noise of one frame, or are not there."""
    order = waves_of(layout_of("periodic", 48))[0].rough.argsort()
    kept, noise = [], []
    for seed in range(3):
        trainer, data, _ = decaying(weak_waves(size), seed, epochs=1)
        initial = trainer.state.initial
        assert initial is not None
        wanted = torch.ones_like(initial.learned)
        wanted[0][order[-1]] = False
        initial.learn(wanted, data)
        trainer.train(data, 40)
        kept.append(
            int(initial.learned[0][order[:3]].sum()) if size == 0 else int(initial.learned[0][order[:14]].sum())
        )
        noise.append(int(initial.learned[0][order[14:]].sum()))
        # what was dropped is in no start any more
        starts, _ = initial(data.batch(torch.arange(2)), torch.arange(2))
        assert isinstance(starts, Tensor)
        hidden = initial.coefficients(starts[:, :1].detach())[:, ~initial.learned]
        torch.testing.assert_close(hidden, torch.zeros_like(hidden), rtol=0, atol=1e-13)
    assert median(kept) == (3 if size == 0 else 14)
    assert median(noise) == 0


def test_starts_stay_where_they_are_when_more_waves_are_learned() -> None:
    form = layout_of("periodic", 48)
    data = AugmentedDataset(made(travelling(2)))
    initial = InitialStates.of(data, form, CPU)
    initial.scaled.data += drawn(2, initial.count)
    batch, both, few = data.batch(torch.arange(2)), torch.arange(2), initial.count
    before, _ = initial(batch, both)
    wanted = initial.learned | (torch.rand(1, 48, generator=torch.Generator().manual_seed(3)) < 0.5)
    initial.learn(wanted, data)
    after, _ = initial(batch, both)
    assert initial.count == int(wanted.sum()) > few
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


def test_the_best_starts_come_back_although_more_waves_were_learned_since() -> None:
    trainer, data, _ = decaying(weak_waves(0.0), 0)
    weights, starts = trainer.found()
    initial = trainer.state.initial
    assert initial is not None
    batch = data.batch(torch.arange(2))
    before, _ = initial(batch, torch.arange(2))
    initial.learn(torch.ones_like(initial.learned), data)
    initial.scaled.data += 1.0
    trainer.take(weights, starts)
    assert trainer.state.initial is not None
    after, _ = trainer.state.initial(batch, torch.arange(2))
    assert isinstance(before, Tensor)
    assert isinstance(after, Tensor)
    assert torch.equal(before, after)


def test_a_field_without_noise_and_an_axis_without_waves_hide_nothing_or_all_of_a_wave() -> None:
    """Two fields, of which one has no noise, on three cells in y: waves run along x alone."""
    one = layout_of("periodic", 24, 3)
    form = attrs.evolve(one, dynamic=(one.dynamic[0], attrs.evolve(one.dynamic[0], name="v")))
    waves = waves_of(form)[0]
    assert list(waves.vectors) == [-2]
    coefficients = torch.zeros(24, 3, dtype=torch.float64)
    coefficients[waves.rough[:, 0].argsort()[:7]] = torch.tensor([5.0, 5.0, 5.0, *[0.8 * NOISE] * 4]).double()[:, None]
    decay = torch.exp(-0.02 * torch.arange(21, dtype=torch.float64)).view(1, 21, 1, 1, 1)
    clean = (decay * waves.values(coefficients)).expand(2, 21, 2, 24, 3)
    noise = NOISE * drawn(*clean.shape, seed=2)
    noise[:, :, 1] = 0.0
    empty = torch.zeros(0, 24, 3, dtype=torch.float64)
    data = WindowDataset([Trajectory(dynamic=fields, static=empty) for fields in clean + noise], horizon=20)
    settings = TrainingSettings(optimizer="gauss-newton", batch_size=8, initial_states="learned")
    trainer = Trainer(Decay(form, dt=0.02, dtype=torch.float64), player="physical", layout=form, settings=settings)
    before = visible_waves(data, form)
    trainer.train(data, 30)
    initial = trainer.state.initial
    assert initial is not None
    assert bool(before[1].all())
    assert bool(initial.learned[1].all())
    found = initial.learned[0]
    assert torch.equal(found, found[:, :1].expand(-1, 3))
    assert bool(found[waves.rough[:, 0].argsort()[:7]].all())
    assert int(found.sum()) > int(before[0].sum())
