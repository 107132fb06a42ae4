"""The contract of predictors, models with named outputs, as a test suite.

    class TestMine(PredictorContract):
        def make(self, context: SurrogateContext) -> Predictor:
            return build(MyOptions(width=4), context)

        def batch(self, count: int, generator: torch.Generator) -> Batch:
            return {"x": torch.rand(count, 3, generator=generator)}, {"label": torch.zeros(count, dtype=torch.int64)}

pytest collects the tests of the subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from hyco_engine.interfaces import Batch, Predictor, SurrogateContext, TermSpec, Values
from hyco_engine.randomness import own_random_numbers
from hyco_engine.testing.contexts import tiny_context
from hyco_engine.testing.measuring import check_slopes, check_state, difference, equal, global_generators, stirred
from hyco_engine.training.losses import PredictorObjective

BATCH = 4


class PredictorContract(ABC):
    """The tests of every predictor, `forward(inputs) -> {name: Tensor}`."""

    gradient_tolerance: ClassVar[float] = 1e-5
    """The relative tolerance of gradients against finite differences in float64."""

    @abstractmethod
    def make(self, context: SurrogateContext) -> Predictor:
        """Return a new model; keep it small."""

    @abstractmethod
    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """Return `count` samples (inputs, targets by name) like those of training; floating numbers are float32."""

    def context(self, **more: Any) -> SurrogateContext:
        """Return the context for `make`. Override it for a model that needs a layout or statistics."""
        return tiny_context(**more)

    def test_outputs_are_those_that_its_terms_declare(self) -> None:
        model, (inputs, targets) = self._built(), self._batch()
        assert all(isinstance(term, TermSpec) for term in model.terms), "terms must be TermSpecs"
        names = [term.name for term in model.terms]
        assert names, "it declares no loss term, so it cannot be trained"
        assert len(set(names)) == len(names), f"two of its terms have the same name: {', '.join(names)}"
        outputs = model(inputs)
        assert set(outputs) == set(names), f"the outputs are {sorted(outputs)}, but the terms are {sorted(names)}"
        assert isinstance(targets, dict), "batch() must return (inputs, targets by name)"
        assert set(names) <= set(targets), f"the terms {sorted(names)} need targets, but there are {sorted(targets)}"
        loss = PredictorObjective(model.terms)(model, (inputs, targets))
        for term in loss:
            size = list(term.per_sample.shape)
            assert size == [BATCH], f"the loss of {term.spec.name!r} is {size} for {BATCH} samples, not [{BATCH}]"
            assert bool(term.per_sample.isfinite().all()), f"the loss of {term.spec.name!r} is not finite"
            assert term.per_sample.requires_grad, f"no gradient reaches the model from the loss of {term.spec.name!r}"

    def test_a_samples_result_does_not_depend_on_its_batch(self) -> None:
        model, (inputs, _) = stirred(self._built()).eval(), self._batch()
        whole = model(inputs)
        for k in range(BATCH):
            found = difference(dict(model(_only(inputs, k))), dict(_only(whole, k)), 1e-5)
            assert not found, f"a sample's result depends on the others in its batch: {found}"

    def test_a_prediction_changes_nothing_and_remembers_nothing(self) -> None:
        model, (inputs, _), (others, _) = stirred(self._built()).eval(), self._batch(), self._batch(1)
        with global_generators("a prediction in eval mode"), torch.no_grad():
            first = {name: value.clone() for name, value in model(inputs).items()}
            model(others)
            assert equal(dict(model(inputs)), first), "the same inputs give another result after other inputs"

    def test_weights_follow_from_the_seed_alone(self) -> None:
        first, again = (dict(self._built().state_dict()) for _ in range(2))
        assert equal(first, again), "two models of one seed differ: draw weights from context.generator"

    def test_gradients_are_those_of_finite_differences(self) -> None:
        model = stirred(self._built(dtype=torch.float64)).eval()
        inputs = _double(self._batch()[0])
        points = {f"the parameter {name}": p for name, p in model.named_parameters() if p.requires_grad}

        def loss() -> Tensor:
            return torch.stack([value.double().square().mean() for value in model(inputs).values()]).sum()

        found = torch.autograd.grad(loss(), list(points.values()), allow_unused=True)
        check_slopes(loss, points, dict(zip(points, found, strict=True)), self.gradient_tolerance)

    def test_weights_come_back_from_a_file(self) -> None:
        model, (inputs, _) = stirred(self._built()).eval(), self._batch()
        check_state(model)
        saved = save({name: value.contiguous() for name, value in model.state_dict().items()})
        other = self._built(seed=9).eval()
        other.load_state_dict(load(saved))
        same = equal(dict(other(inputs)), dict(model(inputs)))
        assert same, "with the same weights loaded, another model does not predict the same"

    def _built(self, **more: Any) -> Predictor:
        context = self.context(**more).derive(SurrogateContext)
        with global_generators("building the model"), own_random_numbers(context.device, context.seed, "weights"):
            model = self.make(context)
        assert isinstance(model, Predictor), f"the factory returns a {type(model).__name__}, not a Predictor"
        return model

    def _batch(self, seed: int = 0) -> Batch:
        return self.batch(BATCH, torch.Generator().manual_seed(seed))


def _only(values: Any, index: int) -> Any:
    """Return a batch of one sample."""
    if isinstance(values, Tensor):
        return values[index : index + 1]
    return {name: value[index : index + 1] for name, value in values.items()}


def _double(values: Values) -> Values:
    if isinstance(values, Tensor):
        return values.double() if values.is_floating_point() else values
    return {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
