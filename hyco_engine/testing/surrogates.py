"""The contract of surrogates that step states, as a test suite.

    class TestMine(SurrogateContract):
        def make(self, context: SurrogateContext) -> nn.Module:
            return build(MyOptions(width=4), context)

pytest collects the tests of the subclass. The attributes here declare what the model does not do for all data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.errors import HycoError
from hyco_engine.interfaces import SurrogateContext
from hyco_engine.randomness import own_random_numbers
from hyco_engine.testing.contexts import LAYOUTS, tiny_context
from hyco_engine.testing.measuring import (
    check_slopes,
    check_state,
    declared,
    difference,
    equal,
    global_generators,
    stirred,
)

BATCH = 3


class SurrogateContract(ABC):
    """The tests of every stepper, `forward(state [B, C_all, *S]) -> [B, C_dyn, *S]`."""

    layouts: ClassVar[Sequence[StateLayout] | None] = None
    """The layouts that it serves; None means those of `hyco_engine.testing.contexts.LAYOUTS` that it accepts."""
    exports: ClassVar[bool] = True
    """Whether `torch.export` accepts it, which `hyco-engine export` needs."""
    gradient_tolerance: ClassVar[float] = 1e-5
    """The relative tolerance of gradients against finite differences in float64."""

    @abstractmethod
    def make(self, context: SurrogateContext) -> nn.Module:
        """Return a new model; keep it small. It refuses data that it does not serve with DataError or SpecError."""

    def context(self, layout: StateLayout, **more: Any) -> SurrogateContext:
        """Return the context for `make`. Override it if the model needs more than layout, dt and statistics."""
        return tiny_context(layout, **more)

    def states(self, layout: StateLayout, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """Return states that the model can step, `[count, C_all, *S]`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, layout.n_all, *layout.spatial, generator=generator, dtype=torch.float64).to(dtype)

    # --- tests --------------------------------------------------------------------------------------------------------

    def test_a_step_has_the_shape_and_kind_of_the_dynamic_fields(self) -> None:
        for layout in self._served():
            for dtype in (torch.float32, torch.float64):
                model = self._built(layout, dtype=dtype)
                after = model(self.states(layout, BATCH, dtype))
                wanted = [BATCH, layout.n_dynamic, *layout.spatial]
                assert isinstance(after, Tensor), f"forward returns a {type(after).__name__}, not a tensor"
                assert list(after.shape) == wanted, f"a step is {list(after.shape)}, not [B, C_dyn, *S] = {wanted}"
                assert after.dtype == dtype, f"for states of {dtype}, a step is {after.dtype}; use context.dtype"
                assert bool(after.isfinite().all()), "a step from ordinary states is not finite"
                for name, value in model.state_dict().items():
                    fits = value.dtype == dtype or not value.is_floating_point()
                    assert fits, f"{name} is {value.dtype} in a run in {dtype}; use context.dtype"

    def test_it_runs_where_the_run_does(self) -> None:
        for layout in self._served():
            for name in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
                device = torch.device(name)
                model = self._built(layout, dtype=torch.float32, device=device).to(device)
                after = model(self.states(layout, BATCH, torch.float32).to(device))
                assert after.device.type == name, f"a step of states on {name} is on {after.device}"

    def test_a_samples_result_does_not_depend_on_its_batch(self) -> None:
        for layout in self._served():
            for mode in (False, True):
                model, x = stirred(self._built(layout)).train(mode), self.states(layout, BATCH)
                if mode and _draws(model, x):
                    continue  # with dropout, the numbers depend on the batch
                alone, how = model(x[:1]), " in training mode" if mode else ""
                for others in (x[1:], 1e3 * x[1:]):
                    found = difference(model(torch.cat([x[:1], others]))[:1], alone, 1e-9)
                    assert not found, f"a sample's result depends on the others in its batch{how}: {found}"
                mirrored = difference(model(x.flip(0)).flip(0), model(x), 1e-9)
                assert not mirrored, f"a sample's result depends on its place in the batch{how}: {mirrored}"

    def test_a_step_changes_nothing_and_remembers_nothing(self) -> None:
        for layout in self._served():
            model, x = stirred(self._built(layout)).eval(), self.states(layout, BATCH)
            before, weights = x.clone(), {name: value.clone() for name, value in model.state_dict().items()}
            with global_generators("a step in eval mode"), torch.no_grad():
                first = model(x).clone()
                model(self.states(layout, 2, seed=1))
                again = model(x)
            assert equal(x, before), "a step changes the state that it is given"
            assert equal(again, first), "the same state gives another step after other states"
            assert equal(dict(model.state_dict()), weights), "a step in eval mode changes the model's state"

    def test_weights_follow_from_the_seed_alone(self) -> None:
        for layout in self._served():
            first, again = (dict(self._built(layout).state_dict()) for _ in range(2))
            assert equal(first, again), "two models of one seed differ: draw weights from context.generator"

    def test_gradients_are_those_of_finite_differences(self) -> None:
        for layout in self._served():
            model, x = stirred(self._built(layout)), self.states(layout, BATCH)
            weight = self.states(layout, BATCH, seed=7)[:, : layout.n_dynamic]
            model.eval()
            x.requires_grad_()
            learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            points: dict[str, Tensor] = {f"the parameter {name}": p for name, p in learned}
            points["the state"] = x
            found = torch.autograd.grad((model(x) * weight).sum(), list(points.values()), allow_unused=True)
            gradients = dict(zip(points, found, strict=True))
            check_slopes(lambda: (model(x) * weight).sum(), points, gradients, self.gradient_tolerance)  # noqa: B023

    def test_weights_come_back_from_a_file(self) -> None:
        for layout in self._served():
            model, x = stirred(self._built(layout)).eval(), self.states(layout, BATCH)
            check_state(model)
            try:
                saved = save({name: value.contiguous() for name, value in model.state_dict().items()})
            except RuntimeError as error:
                raise AssertionError(f"the weights cannot be saved: {str(error).splitlines()[0]}") from error
            # a finished run is loaded with its statistics among the weights
            other = self._built(layout, seed=9, statistics=None)
            other.load_state_dict(load(saved))
            other.eval()
            assert equal(other(x), model(x)), "with the same weights loaded, another model does not make the same step"

    def test_loaded_weights_leave_the_datas_statistics_alone(self) -> None:
        for layout in self._served():
            context = self.context(layout, dtype=torch.float64).derive(SurrogateContext)
            assert context.statistics is not None
            before = context.statistics.to_data()
            model = self.make(context)
            model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
            kept = context.statistics.to_data() == before
            assert kept, "loading weights changes context.statistics: register a clone() of its tensors as buffers"

    @declared
    def test_it_can_be_exported(self) -> None:
        for layout in list(self._served())[:1] if self.exports else ():
            model, x = self._built(layout, dtype=torch.float32).eval(), self.states(layout, BATCH, torch.float32)
            shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
            program = torch.export.export(model, (x,), dynamic_shapes=shapes)
            found = difference(program.module()(x[:1]), model(x[:1]), 1e-5)
            assert not found, f"the exported model makes another step: {found}"

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _built(self, layout: StateLayout, **more: Any) -> nn.Module:
        """Build the model as the engine does, which keeps torch's own draws out of the global generator."""
        context = self.context(layout, **({"dtype": torch.float64} | more)).derive(SurrogateContext)
        with global_generators("building the model"), own_random_numbers(context.device, context.seed, "weights"):
            model = self.make(context)
        assert isinstance(model, nn.Module), f"the factory returns a {type(model).__name__}, not an nn.Module"
        return model

    def _served(self) -> Iterator[StateLayout]:
        if self.layouts is not None:
            yield from self.layouts
            return
        refused = []
        for layout in LAYOUTS:
            try:
                self._built(layout)
            except HycoError as error:
                refused.append(f"{_described(layout)}: {error}")
            else:
                yield layout
        assert len(refused) < len(LAYOUTS), f"it refuses every small problem: {'; '.join(refused)}"


def _described(layout: StateLayout) -> str:
    cells = " x ".join(map(str, layout.grid.resolution))
    return f"{', '.join(field.name for field in layout.fields)} on {cells} cells"


def _draws(model: nn.Module, x: Tensor) -> bool:
    """Return whether a forward pass draws from torch's global generator."""
    before = torch.get_rng_state()
    with torch.no_grad():
        model(x)
    drawn = not torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(before)
    return drawn
