"""The contract of physical models, as a test suite.

    class TestMine(PhysicsContract):
        grid = tiny_grid(8, 6)

        def make(self, context: PhysicsContext) -> PhysicalModel:
            return build(MyOptions(), context)

pytest collects the tests of the subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import Grid
from hyco_engine.errors import DataError
from hyco_engine.interfaces import PhysicalModel, PhysicsContext
from hyco_engine.physics.parameters import Learnables
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.testing.contexts import tiny_context, tiny_grid
from hyco_engine.testing.measuring import check_slopes, difference, equal, global_generators, stirred

BATCH = 3


class PhysicsContract(ABC):
    """The tests of every physical model."""

    grid: ClassVar[Grid] = tiny_grid(8, 6)
    """The grid on which the model is built."""
    dt: ClassVar[float] = 0.01
    boundary: ClassVar[Any] = None
    """The boundary condition; None means the model's own."""
    fields: ClassVar[bool] = False
    """Whether parameters that may be fields are fields."""
    gradient_tolerance: ClassVar[float] = 1e-5
    """The relative tolerance of gradients against finite differences in float64."""
    capture_tolerance: ClassVar[Mapping[torch.dtype, float]] = {torch.float32: 1e-6, torch.float64: 1e-12}
    """The relative tolerance of the captured step and its gradients against the step as written."""

    @abstractmethod
    def make(self, context: PhysicsContext) -> PhysicalModel:
        """Return a new model on the context's grid, or on its layout if it has one."""

    def states(self, model: PhysicalModel, count: int, seed: int = 0) -> Tensor:
        """Return states to step, `[count, C_all, *S]`; override it to replace the model's own initial states."""
        return model.initial_states(count, torch.Generator().manual_seed(seed))

    def unstable(self) -> str | None:
        """Return the model's warning of steps with the contract's dt, or None."""
        model = self._built()
        return model.stability(self.states(model, BATCH))

    # --- tests --------------------------------------------------------------------------------------------------------

    def test_a_step_has_the_shape_and_kind_of_the_dynamic_fields(self) -> None:
        for dtype in (torch.float32, torch.float64):
            model = self._built(dtype=dtype)
            layout, after = model.layout, model(self.states(model, BATCH).to(dtype))
            wanted = [BATCH, layout.n_dynamic, *layout.spatial]
            assert layout.grid == self.grid, f"the model's grid is {layout.grid}, not the one of the context"
            assert model.dt == self.dt, f"the model's dt is {model.dt}, not the {self.dt} of the context"
            assert list(after.shape) == wanted, f"a step is {list(after.shape)}; it must be [B, C_dyn, *S] = {wanted}"
            assert after.dtype == dtype, f"for states of {dtype}, a step is {after.dtype}; use context.dtype"
            assert bool(after.isfinite().all()), "a step from one of its own initial states is not finite"

    def test_it_runs_where_the_run_does(self) -> None:
        for name in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            model = self._built(dtype=torch.float32, device=torch.device(name)).to(name)
            after = model(self.states(model, BATCH).to(device=name, dtype=torch.float32))
            assert after.device.type == name, f"a step of states on {name} is on {after.device}"

    def test_it_serves_data_of_its_fields(self) -> None:
        model = self._built()
        read = self._built(layout=model.layout, grid=None, boundary=None)
        state = self.states(model, BATCH)
        assert read.layout == model.layout, "for data of its own fields, the model has another layout"
        found = difference(read(state), model(state), 1e-9)
        assert not found, f"for data of its own fields, the model makes another step: {found}"

    def test_a_samples_result_does_not_depend_on_its_batch(self) -> None:
        model = stirred(self._built())
        x = self.states(model, BATCH)
        found = difference(torch.cat([model(one[None]) for one in x]), model(x), 1e-9)
        assert not found, f"a sample's result depends on the others in its batch: {found}"

    def test_a_step_changes_nothing_and_remembers_nothing(self) -> None:
        model = stirred(self._built())
        x, other = self.states(model, BATCH), self.states(model, BATCH, seed=1)
        before, values = x.clone(), _values(model)
        with global_generators("a step"), torch.no_grad():
            first = model(x).clone()
            model(other)
            again = model(x)
            bound = model.bound()(x)
        assert equal(x, before), "a step changes the state that it is given"
        assert equal(again, first), "the same state gives another step after other states"
        assert equal(_values(model), values), "a step changes the parameters"
        found = difference(bound, first, 1e-9)
        assert not found, f"bound() makes another step than forward(): {found}"

    def test_initial_states_follow_from_the_generator_alone(self) -> None:
        model = self._built()
        try:
            model.initial_states(1, torch.Generator())
        except DataError:
            return  # it simulates no data
        with global_generators("initial_states"):
            drawn, again, other = (model.initial_states(4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        wanted = [4, model.layout.n_all, *model.layout.spatial]
        assert list(drawn.shape) == wanted, f"4 initial states are {list(drawn.shape)}; they must be {wanted}"
        assert bool(drawn.isfinite().all()), "initial states are not finite"
        assert equal(drawn, again), "two generators in one state give different initial states"
        dynamic = torch.cat([drawn, other[:1]])[:, : model.layout.n_dynamic].flatten(1)
        distinct = len({tuple(row) for row in dynamic.tolist()})
        assert distinct == 5, f"of 5 initial states, only {distinct} differ; each simulation needs one of its own"

    def test_gradients_are_those_of_finite_differences(self) -> None:
        model = stirred(self._built())
        x = self.states(model, BATCH, seed=5).requires_grad_()
        points: dict[str, Tensor] = {f"the parameter {name}": raw for name, raw in model.learnables.raw.items()}
        points["the state"] = x
        # the sum of squares, because the physics may conserve the sum of the values
        found = torch.autograd.grad(model(x).square().sum(), list(points.values()), allow_unused=True)
        gradients = dict(zip(points, found, strict=True))
        check_slopes(lambda: model(x).square().sum(), points, gradients, self.gradient_tolerance)
        for name, gradient in gradients.items():
            matters = gradient is not None and bool((gradient != 0).any())
            assert matters, f"the step does not depend on {name}"

    def test_the_captured_step_is_the_step_as_written(self) -> None:
        for dtype, tolerance in self.capture_tolerance.items():
            graph, eager = (stirred(self._built(compile=how, dtype=dtype)) for how in ("graph", "eager"))
            state = self.states(graph, BATCH, seed=5).to(dtype)
            ours, theirs = _slopes(graph, state), _slopes(eager, state)
            found = difference(ours, theirs, tolerance)
            assert not found, f"in {dtype}, the captured step differs from the step as written: {found}"

    def test_learned_parameters_keep_their_bounds(self) -> None:
        model = self._built()
        assert isinstance(model.learnables, Learnables), "learnables must be hyco_engine.physics.Learnables"
        assert len(model.learnables.raw), "there is no parameter to learn"
        for sign in (50.0, -50.0):
            with torch.no_grad():
                for raw in model.learnables.raw.values():
                    raw.fill_(sign)
            for name, value in model.learnables.values().items():
                declared = model.learnables.declaration(name)
                lower, upper = (self.fields and declared.field_bounds) or declared.bounds
                inside = bool(((value >= lower) & (value <= upper)).all())
                assert inside, f"{name} reaches {value.tolist()}, outside of its bounds ({lower:g}, {upper:g})"

    def test_a_moved_parameter_moves_the_result(self) -> None:
        model, state = self._built(), None
        for name, raw in model.learnables.raw.items():
            if model.learnables.declaration(name).gauge == "constant" and not model.learnables.is_field(name):
                continue  # a number that is determined only up to a constant
            state = self.states(model, BATCH) if state is None else state
            before, start = model(state).detach(), raw.detach().clone()
            with torch.no_grad():
                raw += 0.5 * torch.rand(raw.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            moved = model(state).detach()
            with torch.no_grad():
                raw.copy_(start)
            assert not equal(moved, before), f"a change of {name} does not change the step: it is read only once"
            back = difference(model(state).detach(), before, 1e-9)
            assert not back, f"with {name} back at its old value, the step differs from before: {back}"

    def test_parameters_come_back_from_a_state_dict(self) -> None:
        model = stirred(self._built())
        state, other = self.states(model, BATCH), self._built()
        other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
        assert equal(_values(other), _values(model)), "with its state loaded, another model has other parameters"
        assert equal(other(state), model(state)), "with its state loaded, another model makes another step"

    def test_warnings_of_stability_are_text(self) -> None:
        told = self.unstable()
        assert told is None, f"the contract's step of dt = {self.dt:g} is not stable: {told}; set dt to a stable step"

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _built(self, **more: Any) -> PhysicalModel:
        given: dict[str, Any] = {"grid": self.grid, "dt": self.dt, "boundary": self.boundary}
        given |= {"dtype": torch.float64, "compile": "eager"}
        context = tiny_context().derive(PhysicsContext, **(given | more))
        with global_generators("building the model"):
            model = self.make(context)
            if self.fields:
                names = [name for name, d in model.learnables.declarations.items() if d.may_be_field]
                settings = {name: ParameterSetting(field=True) for name in names}
                model = self.make(attrs.evolve(context, parameters=settings))
        wanted = isinstance(model, PhysicalModel)
        assert wanted, f"the factory returns a {type(model).__name__}, not a hyco_engine.interfaces.PhysicalModel"
        return model


def _values(model: PhysicalModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.learnables.values().items()}


def _slopes(model: Any, state: Tensor) -> dict[str, Tensor]:
    """Return the step, and the gradients of the sum of its squares with respect to state and parameters."""
    state = state.clone().requires_grad_()
    after = model(state)
    raw = dict(model.learnables.raw.items())
    found = torch.autograd.grad(after.square().sum(), [state, *raw.values()])
    names = ["the step", "the gradient by the state", *(f"the gradient by {name}" for name in raw)]
    return dict(zip(names, [after.detach(), *found], strict=True))
