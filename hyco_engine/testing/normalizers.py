"""The contract of loss normalizers as a test suite, for the built-in ones and for those of plugins.

    class TestMine(NormalizerContract):
        def make(self) -> LossNormalizer:
            return Mine()

pytest collects the tests of the subclass. Each test runs on three seeds. The attributes here declare properties of the
normalizer.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.windows import WindowDataset
from hyco_engine.errors import RunError
from hyco_engine.interfaces import LossNormalizer, LossTerm, NormalizedLoss, TermSpec, Trajectory
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.ranks.shards import Shards
from hyco_engine.testing.contexts import tiny_layout
from hyco_engine.testing.loss_terms import BATCH, NAMES, SPECS, Run, on_ranks
from hyco_engine.testing.measuring import declared
from hyco_engine.testing.ranks import together
from hyco_engine.training.normalized import checked
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


class _Mixing(nn.Module):
    """A stepper of two fields of different sizes, which it mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, 0.01], [3.0, 0.7]]))
        one = tiny_layout(8)
        self.layout = attrs.evolve(one, dynamic=(*one.dynamic, attrs.evolve(one.dynamic[0], name="v")))

    def forward(self, state: Tensor) -> Tensor:
        return torch.einsum("ij,bjx->bix", self.weight, state)

    @staticmethod
    def data() -> AugmentedDataset:
        """Return samples of noise."""
        draws = torch.randn(3, 6, 2, 8, generator=torch.Generator().manual_seed(5)) * torch.tensor([[1.0], [30.0]])
        none = torch.zeros(0, 8)
        return AugmentedDataset(WindowDataset([Trajectory(dynamic=one, static=none) for one in draws], horizon=2))


class NormalizerContract(ABC):
    """The tests of every normalizer: seven properties, and two about when its state changes."""

    seeds: ClassVar[Sequence[int]] = (0, 1, 2)
    unit_tolerance: ClassVar[float] = 1e-6
    """How far trained parameters may differ after a change of a term's unit, if `unit_invariant` is declared."""
    nonfinite: ClassVar[Literal["raise", "skip_step", "skip_term"]] = "raise"
    """The reaction to a term that is NaN or infinite."""
    accepts_negative: ClassVar[bool] = False
    """Whether a negative loss is accepted; if not, it is an error that names the term."""
    distributed: ClassVar[bool] = True
    """Whether several ranks get the weights of one, by `StepContext.reduce_sum`."""
    fixed_point_tolerance: ClassVar[float] = 0.05
    settling_steps: ClassVar[int] = 100
    """The number of steps after which the weights for constant losses have settled."""

    @abstractmethod
    def make(self) -> LossNormalizer:
        """Return a new normalizer."""

    def size(self, spec: TermSpec, loss: float, gradient: float) -> float:
        """Return the size of a term: for constant losses, weight * size / priority is the same for all terms.

        `loss` is L_k, `gradient` the norm of its gradient.
        """
        return loss

    # 1
    def test_the_gradient_is_the_weighted_sum_of_the_terms_gradients(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed)
            for _ in range(5):
                own = {term.spec.name: run.gradient_of(term).double() for term in run.terms()}
                loss = run.take()
                wanted = torch.stack([float(loss.weights[name]) * gradient for name, gradient in own.items()]).sum(0)
                _same(run.gradient(), wanted, 1e-6, "the gradient of the total and the weighted sum of the terms' own")

    # 2
    def test_a_terms_unit_leaves_training_unchanged(self) -> None:
        if not self.make().unit_invariant:
            return
        for seed in self.seeds:
            found = {}
            for unit in (1.0, 1e-3, 1e3, 1e6):
                run = Run(self.make(), seed, units={"wide": unit})
                for _ in range(12):
                    run.take()
                found[unit] = run.parameters()
            for unit, parameters in found.items():
                off = float((parameters - found[1.0]).abs().max())
                assert off <= self.unit_tolerance, (
                    f"seed {seed}: with a term in units of 1/{unit:g}, the trained parameters differ by {off:.2g}, "
                    f"more than {self.unit_tolerance:g}; declare unit_invariant = False if this is intended"
                )

    # 3
    @declared
    def test_constant_losses_lead_to_the_declared_balance(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed, fixed=True)
            run.take(run.terms(changes=dict.fromkeys(NAMES, 1.3)))
            loss = self._settled(run)
            _balanced(self._ratios(run, loss), self.fixed_point_tolerance)
            total = sum(float(share) for share in loss.shares.values())
            whole = not loss.shares or math.isclose(total, 1.0, rel_tol=1e-6)
            assert whole, f"the sum of the shares is {total:g}, not 1"

    # 4
    @declared
    def test_a_late_term_gets_the_weight_of_one_that_was_always_there(self) -> None:
        for seed in self.seeds:
            late = Run(self.make(), seed, fixed=True, specs=SPECS[:2])
            for _ in range(30):
                late.take(late.terms(NAMES[:2]))
            late.normalizer.add_term(SPECS[2])
            _balanced(self._ratios(late, self._settled(late)), self.fixed_point_tolerance)

    def test_a_term_nobody_announced_is_taken_in(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed, specs=SPECS[:2])
            for _ in range(3):
                run.take(run.terms(NAMES[:2]))
            assert math.isfinite(float(run.take().weights[NAMES[2]]))

    @declared
    def test_a_missing_term_keeps_its_weight(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed, fixed=True)
            before = run.take()
            for _ in range(5):
                run.take(run.terms(NAMES[1:]))
            after = run.take()
            for name in NAMES:
                _close(float(after.weights[name]), float(before.weights[name]), self.fixed_point_tolerance, name)

    def test_a_term_that_is_zero_is_not_blown_up(self) -> None:
        for seed in self.seeds:
            usual = Run(self.make(), seed, fixed=True)
            weight = float(usual.take().weights["wide"])
            for run in (usual, Run(self.make(), seed, fixed=True)):
                for _ in range(20):
                    loss = run.take(run.terms(changes={"wide": 0.0}))
                    assert all(math.isfinite(float(w)) for w in loss.weights.values())
                grown = float(run.take().weights["wide"]) / weight
                assert grown <= 100, f"after 20 batches with loss 0, a term's weight is {grown:.3g} times the usual one"

    @declared
    def test_what_is_not_finite_never_reaches_the_state(self) -> None:
        for seed, value in product(self.seeds, (math.nan, math.inf, -math.inf)):
            run = Run(self.make(), seed)
            for _ in range(3):
                run.take()
            before, parameters = _cloned(run.normalizer.state_dict()), run.parameters()
            terms = run.terms(changes={"wide": value})
            if self.nonfinite == "raise":
                told = _error(functools.partial(run.take, terms), RunError)
                assert "'wide'" in told, f"the error does not name the term 'wide': {told}"
            else:
                loss = run.normalizer(terms, run.context())
                assert loss.skipped == (self.nonfinite == "skip_step")
                assert math.isfinite(float(loss.total.detach()))
                assert float(loss.weights["wide"]) == 0
            assert torch.equal(run.parameters(), parameters)
            if self.nonfinite != "skip_term":
                _same_state(run.normalizer.state_dict(), before, f"after a term was {value}")
            loss = run.take()
            assert all(math.isfinite(float(w)) and float(w) > 0 for w in loss.weights.values())

    def test_a_batch_of_one_sample_has_finite_weights(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(5):
                    loss = run.take(run.terms(samples=slice(0, 1)))
            assert all(math.isfinite(float(w)) and float(w) > 0 for w in loss.weights.values())
            assert torch.isfinite(run.parameters()).all()

    @declared
    def test_a_negative_loss_is_accepted_or_refused_by_name(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed)
            for _ in range(3):
                run.take()
            before = _cloned(run.normalizer.state_dict())
            terms = run.terms(changes={"middle": -1.0})
            if self.accepts_negative:
                assert float(run.take(terms).weights["middle"]) > 0
                continue
            told = _error(functools.partial(run.take, terms), RunError)
            assert "'middle'" in told, f"the error does not name the term 'middle': {told}"
            _same_state(run.normalizer.state_dict(), before, "after a negative loss")

    # 5
    def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(self) -> None:
        for seed in self.seeds:
            whole, first = Run(self.make(), seed), Run(self.make(), seed)
            for _ in range(20):
                whole.take()
            for _ in range(10):
                first.take()
            second = Run(self.make(), seed)
            second.step = first.step
            second.model.load_state_dict(first.model.state_dict())
            second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
            second.normalization.load_state_dict(_cloned(first.normalization.state_dict()))
            for _ in range(10):
                second.take()
            assert torch.equal(whole.parameters(), second.parameters()), f"seed {seed}: 10 + 10 steps are not 20 steps"
            _same_state(second.normalization.state_dict(), whole.normalization.state_dict(), "after 10 + 10 steps")

    def test_state_is_keyed_by_name(self) -> None:
        for seed in self.seeds:
            forward, backward = Run(self.make(), seed), Run(self.make(), seed, specs=SPECS[::-1])
            for _ in range(3):
                forward.take()
                backward.take(backward.terms()[::-1])
            _same(backward.parameters(), forward.parameters(), 1e-5, "training with the terms in another order")

    # 6
    @declared
    def test_two_ranks_train_as_one(self) -> None:
        parts = (slice(0, 5), slice(5, BATCH))
        for seed in self.seeds if self.distributed else ():
            alone = Run(self.make(), seed)
            ranks = [Run(self.make(), seed), Run(self.make(), seed)]
            for step in range(6):
                # in every second step, the second rank lacks a term
                names = (NAMES, NAMES if step % 2 else NAMES[1:])
                whole = [self._joined(alone, name, names, parts) for name in NAMES]
                single = alone.take(whole)
                losses = on_ranks(ranks, names, parts)
                for loss in losses:
                    for name, weight in single.weights.items():
                        if name in loss.weights:
                            _close(float(loss.weights[name]), float(weight), 1e-5, name)
                for run in ranks:
                    _same(run.parameters(), alone.parameters(), 1e-5, f"two ranks and one, after {step + 1} steps")

    def test_ranks_that_divide_a_batch_train_as_one_process(self) -> None:
        def trained(runtime: Runtime) -> dict[str, Tensor]:
            model = _Mixing()
            trainer = Trainer(
                model,
                player="synthetic",
                layout=model.layout,
                settings=TrainingSettings(batch_size=5, lr=0.01),
                normalizer=self.make(),
                seed=self.seeds[0],
                shards=Shards(2, runtime),
            )
            result = trainer.train(model.data(), 3)
            metrics = {name: torch.tensor(value) for name, value in result.metrics.items()}
            return {"the weights": model.weight.detach().clone(), **metrics}

        together("the normalizer", trained)

    # 7
    def test_what_it_returns_can_be_trained_on_and_a_float_could_not(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed)
            terms = run.terms()
            loss = run.normalizer(terms, run.context())
            assert checked(loss, terms, "under test") is loss
            as_float: Any = float(loss.total.detach())
            for wrong in (as_float, attrs.evolve(loss, total=as_float)):
                told = _error(functools.partial(checked, wrong, terms, "'mine' of mine 1.0"), TypeError)
                assert "'mine' of mine 1.0" in told

    # state
    def test_state_is_committed_once_a_step(self) -> None:
        for seed in self.seeds:
            halves = (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))
            run, whole = Run(self.make(), seed), Run(self.make(), seed)
            for one in (run, whole):
                one.take()
            before = _cloned(run.normalizer.state_dict())
            run.normalizer(run.terms(samples=halves[0]), run.context(micro_step=0, n_micro=2))
            _same_state(run.normalizer.state_dict(), before, "after the first of two micro-batches")
            run.normalizer(run.terms(samples=halves[1]), run.context(micro_step=1, n_micro=2))
            whole.normalizer(whole.terms(), whole.context())
            found = run.normalizer.state_dict()
            for key, value in whole.normalizer.state_dict().items():
                _same(found[key], value, 1e-5, f"the state {key!r} of two micro-batches and of one batch")

    def test_state_is_frozen_outside_training(self) -> None:
        for seed in self.seeds:
            run = Run(self.make(), seed)
            for _ in range(3):
                loss = run.take()
            before = _cloned(run.normalizer.state_dict())
            frozen = run.normalizer(run.terms(changes={"wide": 7.0}), run.context(training=False))
            assert all(math.isfinite(float(frozen.weights[name])) for name in loss.weights)
            _same_state(run.normalizer.state_dict(), before, "after a call outside training")

    def _settled(self, run: Run) -> NormalizedLoss:
        for _ in range(self.settling_steps):
            run.take()
        return run.take()

    def _ratios(self, run: Run, loss: NormalizedLoss) -> dict[str, float]:
        ratios = {}
        for term in run.terms():
            size = self.size(term.spec, float(term.mean().detach()), float(run.gradient_of(term).norm()))
            ratios[term.spec.name] = float(loss.weights[term.spec.name]) * size / term.spec.priority
        return ratios

    @staticmethod
    def _joined(run: Run, name: str, names: Sequence[Sequence[str]], parts: Sequence[slice]) -> LossTerm:
        """Return the samples of a term on all ranks together."""
        there = [run.terms([name], part)[0] for given, part in zip(names, parts, strict=True) if name in given]
        return LossTerm(spec=there[0].spec, per_sample=torch.cat([term.per_sample for term in there]))


def _same(found: Tensor, wanted: Any, tolerance: float, what: str) -> None:
    """Check that two tensors are equal relative to the largest entry."""
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    off = float((found.double() - wanted.double()).abs().max()) if wanted.numel() else 0.0
    assert off <= tolerance * max(scale, 1e-30), f"{what} differ by {off:.3g} where the largest is {scale:.3g}"


def _close(found: float, wanted: float, tolerance: float, name: str) -> None:
    close = math.isclose(found, wanted, rel_tol=tolerance)
    assert close, f"the weight of {name!r} is {found:.8g}, expected {wanted:.8g}"


def _balanced(ratios: Mapping[str, float], tolerance: float) -> None:
    middle = sorted(ratios.values())[len(ratios) // 2]
    told = ", ".join(f"{name!r}: {value:.4g}" for name, value in ratios.items())
    assert all(abs(value / middle - 1) <= tolerance for value in ratios.values()), (
        f"for constant losses, weight * size / priority should be the same for all terms, but is {told}"
    )


def _cloned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def _same_state(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], when: str) -> None:
    assert found.keys() == wanted.keys(), f"the state holds {sorted(found)} {when}, expected {sorted(wanted)}"
    for key, value in wanted.items():
        now, then = found[key], value
        assert torch.equal(now, then), f"the state {key!r} is {now.tolist()} {when}, expected {then.tolist()}"


def _error(call: Callable[[], object], kind: type[Exception]) -> str:
    """Return the text of the error that `call` raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__} was raised")
