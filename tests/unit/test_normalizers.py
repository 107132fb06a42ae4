"""Numbers and outcomes of the built-in normalizers, beyond the contract that all share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from messages import error_naming
from torch import Tensor

from hyco_engine.builtin.normalizers import hyco_normalizers
from hyco_engine.builtin.normalizers.base import Balancer
from hyco_engine.builtin.normalizers.batch_stat import BatchStat
from hyco_engine.builtin.normalizers.grad_norm import GradNorm
from hyco_engine.builtin.normalizers.manual import Manual
from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.builtin.normalizers.sizes import Sizes, global_sizes
from hyco_engine.builtin.normalizers.sqrt_dim import SqrtDim
from hyco_engine.builtin.normalizers.uncertainty import RANGE, Uncertainty
from hyco_engine.errors import PluginError, RunError
from hyco_engine.interfaces import LossTerm, NormalizedLoss, StepContext, TermSpec
from hyco_engine.training.losses import WeightedSum
from hyco_engine.training.normalized import checked
from hyco_engine.training.starved import StarvedTerms

MAKERS = [Manual, RunningMean, SqrtDim, BatchStat, Uncertainty, GradNorm]


def term(name: str, *losses: float, weight: Sequence[float] | None = None, **spec: Any) -> LossTerm:
    return LossTerm(
        spec=TermSpec(name=name, **spec),
        per_sample=torch.tensor(losses, requires_grad=True),
        sample_weight=None if weight is None else torch.tensor(weight),
    )


def at(step: int, **more: Any) -> StepContext:
    return StepContext(step=step, **more)


def feed(normalizer: Balancer, name: str, losses: Sequence[float], **spec: Any) -> NormalizedLoss:
    """Take one step for each loss; return the last result."""
    for step, loss in enumerate(losses):
        result = normalizer([term(name, loss, **spec)], at(step))
    return result


def weights(result: NormalizedLoss) -> dict[str, float]:
    return {name: float(weight) for name, weight in result.weights.items()}


# --- sums over the batch ----------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_weighted_samples() -> None:
    found = global_sizes(["a"], {"a": term("a", 1.0, 2.0, math.nan, weight=[1.0, 3.0, 0.0])}, lambda tensor: tensor)
    size = found["a"]
    assert size == Sizes(weight=4.0, loss=7.0, square=13.0, samples=2.0)
    assert size.mean == 1.75
    assert size.rms == pytest.approx(math.sqrt(13 / 4))
    assert size.std == pytest.approx(math.sqrt(3 / 16))


def test_all_terms_are_summed_at_once_in_sorted_order() -> None:
    seen: list[Tensor] = []

    def reduce_sum(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    normalizer = RunningMean()
    normalizer.setup([TermSpec(name="b"), TermSpec(name="a"), TermSpec(name="c")])
    normalizer([term("b", 2.0, 4.0), term("a", 1.0)], at(0, reduce_sum=reduce_sum))
    assert [tensor.tolist() for tensor in seen] == [[1.0, 1.0, 1.0, 1.0, 2.0, 6.0, 20.0, 2.0, 0.0, 0.0, 0.0, 0.0]]


def test_a_batch_in_which_nothing_of_a_term_was_observed_lacks_it() -> None:
    result = RunningMean()([term("a", 1.0), term("b", 5.0, weight=[0.0])], at(0))
    assert weights(result) == {"a": 1.0, "b": 0.0}
    assert float(result.total.detach()) == 1.0


def test_a_batch_without_anything_is_skipped_and_moves_nothing() -> None:
    normalizer = RunningMean()
    result = normalizer([term("a", 1.0, weight=[0.0])], at(0))
    assert result.skipped
    result.total.backward()  # type: ignore[no-untyped-call]
    assert normalizer.state_dict() == {}


@pytest.mark.parametrize("make", MAKERS)
def test_a_term_given_twice_is_refused(make: type[Balancer]) -> None:
    with error_naming(ValueError, "'a'", "two loss terms"):
        make()([term("a", 1.0), term("a", 2.0)], at(0))


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_manual_is_the_engines_weighted_sum() -> None:
    terms = [term("a", 1.0, 3.0, scale=4.0, priority=2.0), term("b", 5.0, weight=[2.0])]
    mine, core = Manual()(terms, at(0)), WeightedSum()(terms, at(0))
    assert weights(mine) == weights(core) == {"a": 0.5, "b": 1.0}
    assert float(mine.total.detach()) == float(core.total.detach()) == 6.0
    assert {k: float(v) for k, v in mine.shares.items()} == pytest.approx({k: float(v) for k, v in core.shares.items()})


def test_running_mean_is_arithmetic_for_ten_steps_and_exponential_then() -> None:
    losses = [float(k) for k in range(1, 11)]
    mean = sum(losses) / 10
    assert weights(feed(RunningMean(), "a", losses))["a"] == pytest.approx(1 / mean)
    later = 0.95 * mean + 0.05 * 100.0
    assert weights(feed(RunningMean(), "a", [*losses, 100.0], priority=3.0))["a"] == pytest.approx(3 / later)


def test_running_mean_never_falls_below_a_thousandth_of_its_peak() -> None:
    assert weights(feed(RunningMean(decay=0.0), "a", [*[8.0] * 10, 1e-9]))["a"] == pytest.approx(1 / 8e-3)


def test_a_term_that_was_always_zero_has_its_manual_weight() -> None:
    for make in (RunningMean, BatchStat):
        assert weights(feed(make(), "a", [0.0, 0.0], scale=4.0, priority=2.0))["a"] == 0.5


def test_sqrt_dim_keeps_the_sum_of_priorities() -> None:
    specs = {"a": {"n_elements": 1, "priority": 3.0}, "b": {"n_elements": 100, "priority": 1.0}}
    terms = [term(name, 2.0, **spec) for name, spec in specs.items()]
    found = weights(SqrtDim()(terms, at(0)))
    # g = sqrt(n) / ((3 * 1 + 1 * 10) / 4)
    assert found == pytest.approx({"a": 3 * (4 / 13) / 2, "b": 10 * (4 / 13) / 2})
    assert sum(found.values()) * 2 == pytest.approx(4.0)
    plain = weights(SqrtDim(renormalise=False)(terms, at(0)))
    assert plain == pytest.approx({"a": 1.5, "b": 5.0})
    assert weights(SqrtDim(power=0.0)(terms, at(0))) == weights(RunningMean()(terms, at(0)))


def test_batch_stat_balances_terms_and_never_tasks_against_their_mean() -> None:
    terms = [term("a", 1.0, 7.0), term("b", 100.0, 300.0)]
    assert weights(BatchStat()(terms, at(0))) == pytest.approx({"a": 1 / 5, "b": 1 / math.sqrt(50000)})
    assert weights(BatchStat(statistic="std")(terms, at(0))) == pytest.approx({"a": 1 / 3, "b": 1 / 100})
    assert weights(BatchStat(statistic="mean")(terms, at(0))) == pytest.approx({"a": 1 / 4, "b": 1 / 200})


def test_batch_stat_floors_the_spread_of_equal_losses() -> None:
    assert weights(BatchStat(statistic="std")([term("a", 2.0, 2.0)], at(0)))["a"] == pytest.approx(1 / 2e-3)


def test_batch_stat_of_one_sample_warns_once_and_uses_the_rms() -> None:
    normalizer = BatchStat(statistic="std")
    with pytest.warns(UserWarning, match=r"'a'.* std .* rms "):
        result = normalizer([term("a", 4.0)], at(0))
    assert weights(result)["a"] == 0.25
    assert weights(normalizer([term("a", 5.0)], at(1)))["a"] == 0.2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("gaussian", 0.5), ("huber", 0.5), ("residual", 0.5), ("categorical", 0.5), ("bernoulli", 0.5), ("laplace", 1.0)],
)
def test_uncertainty_starts_at_its_fixed_point(kind: Any, expected: float) -> None:
    normalizer = Uncertainty()
    result = normalizer([term("a", 3.0, 5.0, kind=kind, scale=7.0, priority=3.0)], at(0))
    assert weights(result)["a"] == pytest.approx(3.0 * expected / 4.0)
    c = 0.5 if kind in ("gaussian", "huber", "residual") else 1.0
    assert result.log["log_variance/a"] == pytest.approx(math.log(c * (4 / 7) / expected))
    result.total.backward()  # type: ignore[no-untyped-call]
    (offset,) = normalizer.param_groups()[0]["params"]
    assert float(offset.grad) == 0.0


def test_uncertainty_has_kendalls_total_and_gradients() -> None:
    normalizer = Uncertainty()
    normalizer([term("a", 4.0, scale=2.0)], at(0))
    (offset,) = normalizer.param_groups()[0]["params"]
    with torch.no_grad():
        offset.fill_(0.3)
    given = term("a", 6.0, scale=2.0)
    result = normalizer([given], at(1))
    s = math.log(2.0) + 0.3
    assert float(result.total.detach()) == pytest.approx(0.5 * math.exp(-s) * 3.0 + 0.5 * s)
    assert float(result.regularizer) == pytest.approx(0.5 * s)
    result.total.backward()  # type: ignore[no-untyped-call]
    assert float(offset.grad) == pytest.approx(-0.5 * math.exp(-s) * 3.0 + 0.5)
    assert float(given.per_sample.grad) == pytest.approx(0.5 * math.exp(-s) / 2.0)


def test_uncertainty_gives_a_larger_loss_a_lower_weight() -> None:
    found = weights(Uncertainty()([term("a", 1.0), term("b", 10.0)], at(0)))
    assert found["b"] < found["a"]


def test_uncertainty_is_projected_and_ignores_losses_below_its_range() -> None:
    normalizer = Uncertainty()
    normalizer([term("a", 4.0)], at(0))
    (offset,) = normalizer.param_groups()[0]["params"]
    with torch.no_grad():
        offset.fill_(-99.0)
    normalizer.post_step(at(0))
    assert float(offset.detach()) == -RANGE
    normalizer([term("a", 4e-7)], at(1)).total.backward()  # type: ignore[no-untyped-call]
    assert offset.grad is None


def test_grad_norm_equalises_gradients_and_keeps_their_mean() -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    losses = {"a": 3.0 * x[:1].square(), "b": 40.0 * x[1:].square()}
    terms = [LossTerm(spec=TermSpec(name=name), per_sample=loss) for name, loss in losses.items()]
    result = GradNorm()(terms, at(0, shared_parameters=lambda: [x]))
    # relative to the first losses both gradients are 2
    assert weights(result) == pytest.approx({"a": 1 / 3, "b": 1 / 40})
    result.total.backward()  # type: ignore[no-untyped-call]
    assert x.grad.tolist() == pytest.approx([2.0, 2.0])


def test_grad_norm_measures_every_n_steps() -> None:
    x = torch.ones(1, requires_grad=True)
    asked: list[int] = []

    def shared(step: int) -> list[Tensor]:
        asked.append(step)
        return [x]

    normalizer = GradNorm(every=3)
    for step in range(7):
        terms = [LossTerm(spec=TermSpec(name="a"), per_sample=x.square())]
        normalizer(terms, at(step, shared_parameters=lambda step=step: shared(step)))
    assert asked == [0, 3, 6]


def test_grad_norm_says_that_it_needs_shared_parameters() -> None:
    assert GradNorm.requires == ("shared_parameters",)
    with error_naming(ValueError, "grad-norm", "shared parameters"):
        GradNorm()([term("a", 1.0)], at(0))


def test_grad_norm_outlives_a_gradient_that_is_not_finite() -> None:
    x = torch.zeros(1, requires_grad=True)
    normalizer = GradNorm()
    root = LossTerm(spec=TermSpec(name="a"), per_sample=(x + 1.0) + 0.0 * x.sqrt())
    result = normalizer([root], at(0, shared_parameters=lambda: [x]))
    assert weights(result) == {"a": 1.0}


# --- what is not finite, and negative ---------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_told_with_numbers() -> None:
    with error_naming(RunError, "'b'", "2 of 3 samples"):
        RunningMean()([term("a", 1.0), term("b", 1.0, math.nan, math.inf)], at(0))


def test_a_rank_without_the_term_hears_of_it_too() -> None:
    normalizer = RunningMean()
    normalizer.setup([TermSpec(name="a"), TermSpec(name="b")])
    other = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, math.nan, math.nan, 1.0], dtype=torch.float64)
    with error_naming(RunError, "'b'", "another rank"):
        normalizer([term("a", 1.0)], at(0, reduce_sum=lambda tensor: tensor + other))


def test_a_skipped_micro_batch_skips_its_step() -> None:
    normalizer = RunningMean(nonfinite="skip_step")
    losses = (1.0, math.nan, 1.0)
    results = [normalizer([term("a", loss)], at(0, micro_step=k, n_micro=3)) for k, loss in enumerate(losses)]
    assert [result.skipped for result in results] == [False, True, True]
    assert normalizer.state_dict() == {}
    assert not normalizer([term("a", 1.0)], at(1)).skipped


def test_a_skipped_term_leaves_the_others_alone() -> None:
    result = RunningMean(nonfinite="skip_term")([term("a", 2.0), term("b", math.inf)], at(0))
    assert weights(result) == {"a": 0.5, "b": 0.0}
    assert float(result.total.detach()) == 1.0


def test_a_negative_loss_is_told_with_what_to_do() -> None:
    with error_naming(RunError, "'a'", -2, "RunningMean"):
        RunningMean()([term("a", -2.0)], at(0))


@pytest.mark.parametrize("make", [RunningMean, SqrtDim, BatchStat, Uncertainty, Manual])
def test_outside_training_the_weights_stay_those_of_the_last_step(make: type[Balancer]) -> None:
    normalizer = make()
    before = weights(normalizer([term("a", 2.0), term("b", 5.0)], at(0)))
    for loss in (1.0, 100.0):
        assert weights(normalizer([term("a", loss), term("b", 3 * loss)], at(1, training=False))) == before


def test_outside_training_a_line_search_may_try_anything() -> None:
    for make in (RunningMean, Manual):
        assert math.isnan(float(make()([term("a", math.nan)], at(0, training=False)).total.detach()))


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_foreign_state_is_refused(make: type[Balancer]) -> None:
    with error_naming(ValueError, make.__name__, "'other/a'", [2]):
        make().load_state_dict({"other/a": torch.zeros(2)})


def test_state_of_a_term_that_has_not_appeared_yet_is_kept_for_it() -> None:
    first = RunningMean()
    feed(first, "late", [2.0, 4.0])
    second = RunningMean()
    second.setup([TermSpec(name="a")])
    second.load_state_dict(first.state_dict())
    assert weights(second([term("late", 6.0)], at(2)))["late"] == pytest.approx(1 / 4)


def test_loading_keeps_the_parameters_that_an_optimizer_holds() -> None:
    normalizer = Uncertainty()
    normalizer.setup([TermSpec(name="a")])
    (before,) = normalizer.param_groups()[0]["params"]
    normalizer.load_state_dict({"variance/a": torch.tensor([2.0]), "offset/a": torch.tensor(0.5)})
    (after,) = normalizer.param_groups()[0]["params"]
    assert after is before
    assert float(after.detach()) == 0.5


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_built_in_kinds_and_what_they_build() -> None:
    built = {record.kind: record.factory(record.options(), None) for record in hyco_normalizers()}
    assert {kind: type(part) for kind, part in built.items()} == {
        "manual": Manual,
        "running-mean": RunningMean,
        "sqrt-dim": SqrtDim,
        "batch-stat": BatchStat,
        "uncertainty": Uncertainty,
        "grad-norm": GradNorm,
    }
    assert [kind for kind, part in built.items() if not part.unit_invariant] == ["manual"]
    assert [kind for kind, part in built.items() if part.learnable] == ["uncertainty"]


# --- results of others ------------------------------------------------------------------------------------------------


def result(**changes: Any) -> NormalizedLoss:
    fields: Mapping[str, Any] = {"total": torch.ones((), requires_grad=True), "weights": {"a": 1.0}, **changes}
    return NormalizedLoss(**fields)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (1.5, ["1.5", "float", "NormalizedLoss"]),
        (result(total=2.5), ["total", "2.5", "float"]),
        (result(total=torch.ones(3)), ["total", "[3]"]),
        (result(total=torch.ones(())), ["total", "gradients"]),
        (result(weights={"b": 1.0}), ["weights", "'a'", "'b'"]),
        (result(weights={"a": math.nan}), ["weights", "'a'", "nan"]),
    ],
)
def test_what_cannot_be_trained_on_is_named(value: Any, named: list[str]) -> None:
    with error_naming(PluginError, "'mine' of mine 1.0", *named) as caught:
        checked(value, [term("a", 1.0)], "'mine' of mine 1.0")
    assert isinstance(caught.value, TypeError)


# --- the starved term -------------------------------------------------------------------------------------------------


def watch(*epochs: Mapping[str, float]) -> list[str | None]:
    starved = StarvedTerms()
    return [starved.epoch(losses, "synthetic") for losses in epochs]


def course(still: float, moving: float, epochs: int = 6) -> list[dict[str, float]]:
    """Losses that change linearly, by these factors after five epochs."""
    return [{"countdown": 15.66 * (1 + still * k / 4), "pointer": 0.31 * (1 + moving * k / 4)} for k in range(epochs)]


def test_a_starved_term_is_told_once_with_names_and_numbers() -> None:
    told = watch(*course(-0.004, -0.41))
    assert told[:4] == [None] * 4
    assert told[5] is None
    assert told[4] == (
        "after 5 epochs the synthetic model's loss has changed in 'countdown' by -0.4 % (15.66 -> 15.6) and in "
        "'pointer' by -41 % (0.31 -> 0.1829): 'countdown' is not being learned. Declare its size "
        "(loss.terms.countdown.scale) and let the model predict in units of it, before weighting terms against each "
        "other; see docs/losses.md"
    )


@pytest.mark.parametrize(("still", "moving"), [(-0.02, -0.41), (-0.004, -0.15), (0.0, 0.0)])
def test_slow_but_moving_terms_are_not_starved(still: float, moving: float) -> None:
    assert watch(*course(still, moving)) == [None] * 6


def test_a_term_that_was_zero_has_nothing_left_to_learn() -> None:
    assert watch(*({"a": 0.0, "b": 1.0 / (k + 1)} for k in range(6))) == [None] * 6


def test_a_late_term_is_judged_after_its_own_five_epochs() -> None:
    late = [{"b": 0.8**k} | ({"c": 3.0} if k >= 2 else {}) for k in range(9)]
    told = watch(*late)
    assert [k for k, text in enumerate(told) if text] == [6]
    assert "'c' by +0 % (3 -> 3)" in str(told[6])
