"""The built-in surrogates keep the public contracts."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Batch, BuildContext, Predictor
from hyco_engine.physics.settings import PhysicalChoice
from hyco_engine.testing.contexts import tiny_layout
from hyco_engine.testing.predictors import PredictorContract
from hyco_engine.testing.surrogates import SurrogateContract

REGISTRY = Registry.discover()


def built(kind: str, context: BuildContext, **options: Any) -> Any:
    record = REGISTRY.get("hyco_models", kind, role="synthetic")
    return REGISTRY.build("hyco_models", kind, record.options(**options), context)


class TestResNet(SurrogateContract):
    def make(self, context: BuildContext) -> nn.Module:
        model: nn.Module = built("resnet", context, width=6, blocks=2, kernel_size=3, dilations=(1, 2))
        return model


class TestResNetWithPositions(TestResNet):
    def make(self, context: BuildContext) -> nn.Module:
        model: nn.Module = built("resnet", context, width=4, blocks=1, positions=True, activation="relu")
        return model


class TestUNet(SurrogateContract):
    layouts = (
        tiny_layout(16),
        tiny_layout(17, boundary="zero-gradient", static=True),
        tiny_layout(12, 10, vector=True),
        tiny_layout(9, 8, 10, boundary=1.5),
    )

    def make(self, context: BuildContext) -> nn.Module:
        model: nn.Module = built("unet", context, levels=2, width=4)
        return model


class TestMlp(SurrogateContract):
    layouts = (tiny_layout(),)

    def make(self, context: BuildContext) -> nn.Module:
        model: nn.Module = built("mlp", context, width=6, blocks=2)
        return model


class TestCorrected(SurrogateContract):
    layouts = (tiny_layout(12, 10),)
    # the physics inside is captured by the engine, not by torch.export
    exports = False

    def context(self, layout: StateLayout, **more: Any) -> BuildContext:
        record = REGISTRY.get("hyco_models", "heat", role="physical")
        physical = PhysicalChoice(kind="heat", options=record.options(), compile="eager")
        return attrs.evolve(super().context(layout, **more), registry=REGISTRY, physical=physical)

    def make(self, context: BuildContext) -> nn.Module:
        model: nn.Module = built("corrected", context, width=4)
        return model


class TestCoordinateMLP(PredictorContract):
    def context(self, **more: Any) -> BuildContext:
        return super().context(**({"layout": tiny_layout(8, 6, vector=True)} | more))

    def make(self, context: BuildContext) -> Predictor:
        model: Predictor = built("coordinate-mlp", context, duration=2.0, width=5, depth=2)
        return model

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        position, time = torch.rand(count, 2, generator=generator), 2 * torch.rand(count, generator=generator)
        return {"position": position, "time": time}, {"u": torch.sin(math.pi * position)}


def test_every_built_in_surrogate_is_here() -> None:
    here = {"resnet", "unet", "mlp", "corrected", "coordinate-mlp"}
    ours = {k for k in REGISTRY.kinds("hyco_models", "synthetic") if _of_the_engine("hyco_models", k)}
    assert ours == here


def _of_the_engine(hook: str, kind: str) -> bool:
    return REGISTRY.origin(hook, kind).distribution == "hyco-engine"


class Unkept(SurrogateContract):
    """The contract for a model that the tests below give."""

    layouts = (tiny_layout(8),)
    model: type[nn.Module]

    def make(self, context: BuildContext) -> nn.Module:
        return self.model().to(context.dtype)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.9))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.weight * state


class Normed(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.weight * (state - state.mean())


class Remembering(Linear):
    calls = 0

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.weight * state + self.calls


class InPlace(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            state += 1.0
        return self.weight * state


class Detached(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.weight.detach() * state + 0.0 * state.sum().detach()


class Steep(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.weight * state.square().detach() * state


class Unregistered(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(1)


class Entropic(Linear):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator()
        generator.seed()
        self.weight = nn.Parameter(torch.randn((), generator=generator))


class Noisy(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.weight * state + torch.randn_like(state)


class Single(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return (self.weight * state).float()


class Flat(Linear):
    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return (self.weight * state)[:, 0]


BROKEN: list[tuple[type[nn.Module], str, str]] = [
    (Flat, "a_step_has_the_shape", r"a step is \[3, 8\], not \[B, C_dyn, \*S\] = \[3, 1, 8\]"),
    (Single, "a_step_has_the_shape", "for states of torch.float64, a step is torch.float32; use context.dtype"),
    (Normed, "a_samples_result", "a sample's result depends on the others in its batch: off by"),
    (Remembering, "a_step_changes_nothing", "the same state gives another step after other states"),
    (InPlace, "a_step_changes_nothing", "a step changes the state that it is given"),
    (Noisy, "a_step_changes_nothing", "a step in eval mode draws from torch's global generator; draw from"),
    (Detached, "gradients_are", "no gradient reaches the parameter weight"),
    (Steep, "gradients_are", "the gradient by the state is .* in which finite differences give"),
    (Unregistered, "weights_come_back", "the tensor mean is neither a parameter nor a buffer"),
    (Entropic, "weights_follow", "two models of one seed differ: draw weights from context.generator"),
]


@pytest.mark.parametrize(("model", "test", "message"), BROKEN, ids=[model.__name__ for model, _, _ in BROKEN])
def test_the_contract_notices(model: type[nn.Module], test: str, message: str) -> None:
    contract = type("Broken", (Unkept,), {"model": model})()
    (name,) = [name for name in dir(contract) if name.startswith(f"test_{test}")]
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)()
