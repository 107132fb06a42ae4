"""The number of processes changes nothing: sums over shards have the same bits, and all ranks find the same weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from messages import error_naming
from test_ensembles import LAYOUT as BANDS
from test_ensembles import around_zero, noisy_paths
from test_points import Line, layout, seen, trajectory
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.augment.shared import SharedRecipe
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.normalizers.batch_stat import BatchStat
from hyco_engine.builtin.normalizers.grad_norm import GradNorm
from hyco_engine.builtin.normalizers.manual import Manual
from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Batch, LossNormalizer, Player, Recipe
from hyco_engine.ranks.runtime import RanksDiffer, Runtime, Single
from hyco_engine.ranks.shards import Shards
from hyco_engine.tasks.points import HeldOutPoints
from hyco_engine.testing.problems import Decay, decay_layout, decay_trajectories, decay_windows
from hyco_engine.testing.ranks import Thread, on_ranks
from hyco_engine.training.evaluation import HeldOutRollouts, HeldOutSamples
from hyco_engine.training.losses import RolloutObjective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

POINTS = layout("u", "", (4,))


class Net(nn.Module):
    """A small stepper, with dropout if you like."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(1)
        first = nn.Conv1d(1, 6, 3, padding=1)
        self.layers = nn.Sequential(first, nn.Tanh(), nn.Dropout(dropout), nn.Conv1d(6, 1, 1))
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws)

    def forward(self, state: Tensor) -> Tensor:
        changed: Tensor = state[:, :1] + self.layers(state)
        return changed


def trained(
    runtime: Runtime,
    shards: int | Shards,
    player: Player = "synthetic",
    normalizer: LossNormalizer | None = None,
    windows: int = 3,
    dropout: float = 0.0,
    **changes: Any,
) -> tuple[dict[str, Tensor], Mapping[str, float], Mapping[str, int]]:
    """Return the weights, the metrics of the last epoch, and what was exchanged, after two phases."""
    settings = attrs.evolve(TrainingSettings(epochs_per_cycle=2, batch_size=7, lr=0.05), **changes)
    model = Net(dropout) if player == "synthetic" else Decay()
    trainer = Trainer(
        model,
        player=player,
        layout=decay_layout(),
        settings=settings,
        normalizer=normalizer or Manual(),
        shards=Shards(shards, runtime) if isinstance(shards, int) else shards,
    )
    data = AugmentedDataset(decay_windows(windows, frames=9))
    for _ in range(2):
        result = trainer.train(data, 2)
    exchanged = runtime.exchanged if isinstance(runtime, Thread) else {}
    return {name: value.clone() for name, value in model.state_dict().items()}, dict(result.metrics), exchanged


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


WAYS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam with dropout": {"dropout": 0.3},
    "adam with noise": {"input_noise": 0.1, "clip_grad_norm": 0.5},
    "sgd": {"optimizer": "sgd"},
    "lbfgs": {"player": "physical", "optimizer": "lbfgs"},
    "lbfgs with learned starts": {"player": "physical", "optimizer": "lbfgs", "initial_states": "learned"},
    "gauss-newton": {"player": "physical", "optimizer": "gauss-newton"},
    "gauss-newton from several starts": {"player": "physical", "optimizer": "gauss-newton", "starts": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_number_of_ranks_finds_the_same_bits(way: str) -> None:
    alone, metrics, _ = trained(Single(), 4, **WAYS[way])
    for size in (2, 4):
        for found, told, _ in on_ranks(size, lambda runtime: trained(runtime, 4, **WAYS[way])):
            assert same(found, alone)
            assert told == metrics


@pytest.mark.parametrize("way", [name for name in WAYS if "dropout" not in name])
def test_shards_change_no_more_than_rounding(way: str) -> None:
    whole, told, _ = trained(Single(), 1, **WAYS[way])
    divided, metrics, _ = trained(Single(), 4, **WAYS[way])
    assert metrics["train/loss"] == pytest.approx(told["train/loss"], rel=1e-4, abs=1e-9)
    for name, value in whole.items():
        assert torch.allclose(divided[name], value, rtol=1e-5, atol=1e-6)


def fast(runtime: Runtime) -> Shards:
    return Shards(runtime.size, runtime, exact=False)


@pytest.mark.parametrize("way", [name for name in WAYS if "dropout" not in name])
def test_fast_sums_of_any_number_of_ranks_are_equal_to_rounding(way: str) -> None:
    whole, told, _ = trained(Single(), 1, **WAYS[way])
    for found, metrics, _ in on_ranks(3, lambda runtime: trained(runtime, fast(runtime), **WAYS[way])):
        assert metrics["train/loss"] == pytest.approx(told["train/loss"], rel=1e-4, abs=1e-9)
        for name, value in whole.items():
            assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalizer", [BatchStat, Uncertainty, GradNorm])
def test_a_normalizer_sees_the_losses_of_all_ranks(normalizer: type[LossNormalizer]) -> None:
    alone, metrics, _ = trained(Single(), 2, normalizer=normalizer())
    for found, told, _ in on_ranks(2, lambda runtime: trained(runtime, 2, normalizer=normalizer())):
        assert same(found, alone)
        assert told == metrics


class Counted(Recipe):
    """Samples that are functions of their index; it counts the batches that this rank generated."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count = count
        self.batches: list[list[int]] = []
        self.fails_at = fails_at

    def __len__(self) -> int:
        return self.count

    @property
    def sample_bytes(self) -> int:
        return 8

    @property
    def batch_size(self) -> int:
        return 3

    def generate(self, indices: Tensor) -> Batch:
        self.batches.append(indices.tolist())
        if self.fails_at in indices.tolist():
            raise RunError(f"sample {self.fails_at} cannot be generated")
        return indices.double()[:, None].sin(), {"a": indices.float(), "b": indices[:, None].double().exp()}


def test_ranks_generate_batches_in_turn() -> None:
    def held(runtime: Runtime) -> tuple[Tensor, list[list[int]]]:
        recipe = Counted(14)
        samples = Memory().hold(SharedRecipe(recipe, runtime), None)
        inputs, targets = samples.batch(torch.arange(14))
        return torch.cat([inputs, targets["a"][:, None].double(), targets["b"]], dim=1), recipe.batches

    alone, _ = held(Single())
    two = on_ranks(2, held)
    assert all(torch.equal(found, alone) for found, _ in two)
    assert [batches for _, batches in two] == [
        [[0, 1, 2], [6, 7, 8], [12, 13]],
        [[3, 4, 5], [9, 10, 11], [12, 13]],
    ]
    # a single batch is not worth an exchange
    three = on_ranks(2, lambda runtime: SharedRecipe(Counted(3), runtime).generate(torch.arange(3)))
    assert all(torch.equal(found[0], three[0][0]) for found in three)


def test_a_sample_that_cannot_be_generated_fails_alike_on_all_ranks() -> None:
    def held(runtime: Runtime) -> str:
        with pytest.raises(RunError) as caught:
            Memory().hold(SharedRecipe(Counted(14, fails_at=4), runtime), None)
        return str(caught.value)

    assert on_ranks(2, held) == ["sample 4 cannot be generated"] * 2


def test_a_shard_that_fails_fails_on_every_rank() -> None:
    done: list[tuple[int, int]] = []

    def work(runtime: Runtime) -> str:
        def of(shard: int) -> int:
            done.append((runtime.rank, shard))
            if shard == 3:
                raise ValueError("no root in shard 3")
            return shard

        with pytest.raises(ValueError, match="no root in shard 3") as caught:
            Shards(4, runtime).each(of)
        return type(caught.value).__name__

    assert on_ranks(2, work) == ["ValueError", "ValueError"]
    # its own shards, then all
    assert [sum(rank == own for own, _ in done) for rank in (0, 1)] == [2 + 4, 2 + 4]


def test_a_rank_that_fails_alone_ends_all_with_its_error() -> None:
    def work(runtime: Runtime) -> str:
        def of(shard: int) -> int:
            if runtime.rank == 1:
                raise ValueError("no licence here")
            return shard

        try:
            Shards(2, runtime).each(of)
        except RanksDiffer as error:
            runtime.tell(error, 1, "evaluate")
            return f"{type(error).__name__}: {error}"
        return "nothing"

    told = "no licence here (other ranks had no error there)"
    assert on_ranks(2, work) == [f"RankFailed: rank 1 failed in evaluate: {told}", f"RanksDiffer: {told}"]


def test_an_error_that_passes_costs_a_second_try_alone() -> None:
    def work(runtime: Runtime) -> list[int]:
        tries = iter(range(10))

        def of(shard: int) -> int:
            if runtime.rank == 1 and next(tries) == 0:
                raise OSError("try again")
            return shard

        return Shards(4, runtime).each(of)

    assert on_ranks(2, work) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("starts", [1, 3, 9])
def test_rollouts_on_held_out_data_are_divided(starts: int) -> None:
    net = Net(0.0)
    held = decay_trajectories(starts, frames=5)

    def measured(runtime: Runtime) -> tuple[dict[str, Any], int]:
        rolled = 0

        def count(module: nn.Module, given: Any) -> None:
            nonlocal rolled
            rolled += len(given[0])

        own = copy.deepcopy(net)
        own.register_forward_pre_hook(count)
        data = HeldOutRollouts(held, decay_layout()).divided(Shards(4, runtime))
        found = data.in_detail().measure(own)
        assert {name: found[name] for name in ("nrmse", "vrmse")} == {
            name: data.measure(own)[name] for name in ("nrmse", "vrmse")
        }
        return found, rolled // 8

    alone, rolled = measured(Single())
    assert rolled == starts
    whole = HeldOutRollouts(held, decay_layout()).in_detail().measure(net)
    assert alone["vrmse"] == pytest.approx(whole["vrmse"], rel=1e-6)
    for size in (2, 4):
        found = on_ranks(size, measured)
        assert all(metrics == alone for metrics, _ in found)
        counts = [count for _, count in found]
        assert sum(counts) == starts
        assert max(counts) <= -(-starts // size)


def test_ranks_with_other_samples_are_found_before_they_train() -> None:
    def train(runtime: Runtime) -> None:
        settings = TrainingSettings(batch_size=7)
        trainer = Trainer(
            Decay(),
            player="physical",
            layout=decay_layout(),
            settings=settings,
            model_name="'decay'",
            shards=Shards(2, runtime),
        )
        trainer.train(AugmentedDataset(decay_windows(2 + runtime.rank, frames=9)), 1)

    with error_naming(RunError, "the samples of the physical model 'decay' of rank 1 and of rank 0 differ"):
        on_ranks(2, train)


def test_a_model_that_keeps_a_buffer_is_refused() -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__(0.0)
            self.norm = nn.BatchNorm1d(1)

        def forward(self, state: Tensor) -> Tensor:
            return self.norm(super().forward(state))

    trainer = Trainer(Normed(), player="synthetic", layout=decay_layout(), model_name="'normed'", shards=Shards(2))
    with error_naming(SpecError, "norm.running_mean", "'normed'", key="run.shards"):
        trainer.train(AugmentedDataset(decay_windows(2, frames=9)), 1)


def test_a_step_exchanges_the_losses_and_one_gradient() -> None:
    exchanged = on_ranks(2, lambda runtime: trained(runtime, 4)[2])[0]
    weights, windows, steps = 31, 18, 3 * 4
    # 8 bytes for a sample's loss and weight each; 4 for each number of a gradient, and one number for each tensor
    losses, gradients = 4 * windows * 16 // 2, steps * (weights + 4) * 4
    # both phases compare the samples first, and a rank with fewer samples fills up to the other's number
    assert exchanged["meetings"] == steps * 2 + 2
    assert losses + gradients + 2 * 32 <= exchanged["bytes"] <= losses + gradients + 2 * 32 + steps * 16


def test_ranks_do_items_in_turn() -> None:
    """Results may differ in length; a rank without an item does the first ones again, and its result goes nowhere."""

    def work(runtime: Runtime) -> tuple[list[Tensor], list[int]]:
        done: list[int] = []

        def of(item: int) -> Tensor:
            done.append(item)
            return torch.full((item, 2), float(item))

        return list(runtime.in_turn([3, 1, 4, 2], of)), done

    alone, _ = work(Single())
    assert [len(rows) for rows in alone] == [3, 1, 4, 2]
    results = on_ranks(3, work)
    assert all(torch.equal(a, b) for found, _ in results for a, b in zip(found, alone, strict=True))
    assert [done for _, done in results] == [[3, 2], [1, 2], [4, 2]]


def test_an_item_that_fails_in_turn_fails_alike_on_all_ranks() -> None:
    def work(runtime: Runtime) -> tuple[list[float], str]:
        def of(item: int) -> dict[str, Tensor]:
            if item == 4:
                raise ValueError("item 4 fails")
            return {"a": torch.tensor([float(item)]), "b": torch.zeros(1, 2)}

        every = runtime.in_turn([3, 1, 2, 4, 5], of)
        found = [float(next(every)["a"]) for _ in range(3)]
        with pytest.raises(ValueError, match="item 4 fails") as caught:
            next(every)
        return found, str(caught.value)

    assert on_ranks(2, work) == [([3.0, 1.0, 2.0], "item 4 fails")] * 2


def test_bands_and_predictors_are_measured_in_turn() -> None:
    """Every number of ranks finds the bands and errors of one process, each from its own simulations and samples."""
    ensemble, paths = around_zero(0.5), noisy_paths(5, 0.3, seed=1)
    points = [trajectory(seen([0.5, 2.0], [0.1, place], [2.5, 4.0])) for place in (0.2, 0.4, 0.6)]
    unseen = [trajectory(None), *points]
    samples = decay_windows(2, frames=9)

    def measured(runtime: Runtime) -> tuple[list[Any], list[int]]:
        calls = [0, 0, 0]

        def counts(which: int, model: nn.Module) -> nn.Module:
            def count(*given: Any) -> None:
                calls[which] += 1

            model.register_forward_hook(count)
            return model

        shards, found = Shards(4, runtime), list[Any]()
        members = copy.deepcopy(ensemble)
        counts(0, members.members[0])
        heldout = HeldOutRollouts(paths, BANDS).divided(shards)
        bands = heldout.bands(members)
        assert bands is not None
        found += [bands.factors.tolist(), heldout.coverage(members, bands)]
        asked = counts(1, Line())
        found.append(HeldOutPoints(unseen, POINTS).divided(shards).measure(asked))
        stepper = counts(2, Net(0.0))
        objective = RolloutObjective(decay_layout())
        found.append(HeldOutSamples(samples, objective, batch_size=4).divided(shards).measure(stepper))
        return found, calls

    alone, calls = measured(Single())
    # 3 steps of 5 paths, twice; 3 simulations with sensors; 3 batches of 12 samples, of 3 steps each
    assert calls == [30, 3, 3 * samples.horizon]
    for size in (2, 4):
        results = on_ranks(size, measured)
        assert all(found == alone for found, _ in results)
        each = [2 * 3 * -(-5 // size), -(-3 // size), samples.horizon * -(-3 // size)]
        assert [own for _, own in results] == [each] * size
