"""Physical models: an author writes one step, in PhiFlow or in torch, and declares fields and parameters.

    class Heat(FlowPhysics):
        parameters = (ParameterDeclaration(name="kappa", init=0.1, bounds=(0.0, inf), unit="m^2/s"),)

        def fields(self, axes):
            return (FieldInfo(name="u", boundary=Boundary.parse("periodic", axes)),), ()

        def step(self, fields, parameters, dt):
            return {"u": diffuse.explicit(fields["u"], parameters["kappa"], dt)}

`FlowModel(Heat(), context)` is the model: batched, captured, differentiable.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.data.clock import later
from hyco_engine.data.fields import TIME, FieldInfo, Grid, StateLayout, unknown_rule
from hyco_engine.data.scalars import number, own_or_found
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import PhysicalModel, PhysicsContext, StepExecution
from hyco_engine.physics.capture import StepRunner
from hyco_engine.physics.disturbance import too_long
from hyco_engine.physics.knots import at_times
from hyco_engine.physics.parameters import Learnables, ParameterDeclaration
from hyco_engine.physics.steps import InternalSteps

if TYPE_CHECKING:
    from phi.field import Field
    from torch.fx import GraphModule


TESTED = 4
"""The number of states from which the step of a physics is tested that makes no statement about its stability."""


class Physics(ABC):
    """The declarations of a physics, however its step is written."""

    parameters: Sequence[ParameterDeclaration] = ()
    uses_time: bool = False
    """Whether its step depends on time: then `fields` has the time of the state as the static field `t`."""
    needs_space: bool = True
    """Whether it is an equation of fields on a grid, and not of numbers that have no place."""
    takes_formulas: bool = False
    """Whether its values at sides may follow from its parameters, as boundaries that are formulas say."""
    rounding: float = 1.0
    """How many times as much as those of most steps its derivatives change by rounding."""
    starts_alike: bool = False
    """Whether parameters alone determine its start states."""

    @abstractmethod
    def fields(self, axes: tuple[str, ...]) -> tuple[Sequence[FieldInfo], Sequence[FieldInfo]]:
        """Return the (dynamic, static) fields on a grid with these axes; data without boundaries take theirs."""

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        """Return start states, float64 `[count, C_all, *S]`, each different; see `hyco_engine.physics.initial`."""
        raise DataError(f"{type(self).__name__} declares no initial states, so it cannot simulate data")

    def start_states(
        self, layout: StateLayout, count: int, generator: torch.Generator, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """Return start states as `initial_states` does, for a physics where they depend on `parameters`."""
        return self.initial_states(layout, count, generator)

    def internal_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> int:
        """Return how many internal steps a step of `dt` needs to be stable, with room for the parameters to grow.

        `size` holds the largest magnitude of each field in the train split, if known. It is called for the start
        values, and for values that training reaches, unless `physical.dt` is set.
        """
        return 1

    def least_steps(
        self, layout: StateLayout, size: Mapping[str, float], parameters: Mapping[str, Tensor], dt: float
    ) -> float:
        """Return the smallest number of internal steps that is stable, without room and not rounded."""
        return self.internal_steps(layout, size, parameters, dt)

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float
    ) -> str | None:
        """Return a warning with the numbers and the remedies if steps of `dt` from `state` are not stable, else None.

        `state` holds each field as `[B, components, *S]`; `parameters` are 0-d or `[*resolution]`. Without a method of
        its own, a physics is tested: the model halves the internal step and compares.
        """
        return None

    def equations(self) -> Sequence[Mapping[str, Any]]:
        """Return what is known of the equation of each component: `field`, `unicode`, `latex`, and lists of terms that
        are `exact` in time, and `other`.
        """
        return ()

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        """Return sentences on how the physics is solved, for the plan and the log of a run; `dt` is that of a frame."""
        return ()


class FlowPhysics(Physics):
    """A physics whose step is plain PhiFlow."""

    @abstractmethod
    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> Mapping[str, Field]:
        """Return the dynamic fields after `dt`.

        `fields` holds all fields, dynamic and static. In `parameters`, numbers are 0-d phi tensors and fields are
        centred Fields.
        """


class TorchPhysics(Physics):
    """A physics whose step is plain torch."""

    @abstractmethod
    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> Mapping[str, Tensor]:
        """Return the dynamic fields after `dt`, each `[B, components, *S]`. Parameters are 0-d or `[*resolution]`."""


def grid_of(context: PhysicsContext) -> Grid:
    """Return the grid of the states, for a physics that needs it from the start. Raises DataError if there is none."""
    grid = context.layout.grid if context.layout is not None else context.grid
    if grid is None:
        raise DataError(
            "this physics steps fields on a grid, and this data has none: leave out [physical], so that the surrogate "
            "trains alone",
            key="physical.kind",
        )
    return grid


class DeclaredModel(PhysicalModel):
    """A physical model without the call of its step, which subclasses add."""

    def __init__(self, physics: Physics, context: PhysicsContext) -> None:
        """Raise SpecError or DataError if the context and the declarations do not fit together."""
        super().__init__()
        self.physics = physics
        grid = context.layout.grid if context.layout is not None else context.grid
        if grid is not None and not grid.axes and physics.needs_space:
            raise DataError(
                f"{type(physics).__name__} needs fields on a grid, and this data has no space; physical.kind = "
                '"equation" takes rates of change of any numbers',
                key="physical.kind",
            )
        dynamic, static = physics.fields(grid.axes) if grid is not None else ((), ())
        self.layout = context.layout_for(dynamic, static)
        _refuse_formulas(physics, self.layout)
        uses_time = physics.uses_time or any(setting.along for setting in context.parameters.values())
        self.layout = _with_time(self.layout, context, needed=uses_time)
        if context.dt is None:
            raise DataError("a physical model needs the time between two frames, but this data has none")
        self.dt = context.dt
        groups = {name: len(self.layout.field(name).groups) for name in self.layout.indices}
        self.learnables = Learnables(
            physics.parameters,
            context.parameters,
            self.layout.grid,
            context.dtype,
            context.device,
            groups,
            context.times,
        )
        self._given = _given_fields(self.layout, self.learnables)
        self._ranges = _ranges(self.layout, context, self.learnables)
        sizes = _sizes(self.layout, context)
        self._steps = InternalSteps.of(physics, self.layout, sizes, self._everywhere(), context.dt, context.inner_dt)
        self.register_state_dict_post_hook(_save_steps)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_steps)  # type: ignore[no-untyped-call]
        self._runner = StepRunner(
            self._step,
            title=f"the physics {type(physics).__name__}",
            names=self.learnables.names,
            learned=self.learnables.learned,
            others=self._other_values,
            compile=context.compile,
            planned=context.planned_steps * self.substeps,
            eager=self._eager,
            tracing=self._tracing,
            variant=self._variant,
            rounding=physics.rounding,
        )

    @property
    def substeps(self) -> int:
        """The number of internal steps in a frame, which belongs to the state dict if it is not that of the start."""
        return self._steps.count

    @property
    def inner_dt(self) -> float:
        """The internal time step."""
        return self.dt / self.substeps

    @property
    def starts_alike(self) -> bool:
        return self.physics.starts_alike

    @property
    def equations(self) -> Sequence[Mapping[str, Any]]:
        return self.physics.equations()

    @property
    def steps(self) -> Mapping[str, float]:
        found = {"frame": self.dt, "count": self.substeps, "internal": self.inner_dt}
        load = self.step_load()
        return {**found, "longest": self.inner_dt / load} if 0 < load < math.inf else found

    @property
    def statements(self) -> Sequence[str]:
        return self.physics.statements(self.layout, self.substeps, self.dt)

    @property
    def execution(self) -> tuple[StepExecution, str]:
        return self._runner.execution

    def keep_execution(self, kind: StepExecution, reason: str) -> None:
        self._runner.keep(kind, reason)

    def forward(self, state: Tensor) -> Tensor:
        return self.bound()(state)

    def step_load(self, raw: Mapping[str, Tensor] | None = None) -> float:
        return self._steps.load(self._everywhere(raw))

    def settle_steps(self, raw: Mapping[str, Tensor] | None = None) -> bool:
        return self._steps.settle(self._everywhere(raw))

    def bound(self) -> Callable[[Tensor], Tensor]:
        values = self.learnables.values()
        steps = functools.cache(lambda dtype: self._runner.bound(_in_type(values, dtype)))
        return lambda state: self._frame(state, steps(state.dtype))

    def graph_for(self, state: Tensor) -> tuple[GraphModule, int] | None:
        """Return the graph of one internal step for such a batch and the batch size that it takes.
        It is None if the step runs as written. The graph takes the parameters' values in declared order.
        """
        return self._runner.graph_for(state, _in_type(self.learnables.values(), state.dtype))

    def _frame(self, state: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the dynamic fields one frame later, by internal steps."""
        if torch.is_autocast_enabled(state.device.type):
            # a surrogate that corrects a physics may round its own products alone
            with torch.autocast(state.device.type, enabled=False):
                return self._frame(state, step)
        static = state[:, self.layout.n_dynamic :]
        for index in range(self.substeps):
            if index:
                static = self.later(static, 1 / self.substeps)
                state = torch.cat([state, static], dim=1) if static.shape[1] else state
            state = step(state)
        return state

    def later(self, static: Tensor, frames: float) -> Tensor:
        """Return static channels `[..., C_static, *S]` so many frames later."""
        return later(static, self.layout.advances, frames, self.layout.n_axes)

    def initial_states(self, count: int, generator: torch.Generator) -> Tensor:
        parameter = next(iter(self.learnables.state_dict().values()), torch.empty(()))
        bare = self.layout.bare
        values = {name: value.detach().double() for name, value in self.learnables.values().items()}
        states = self.physics.start_states(bare, count, generator, values).to(parameter)
        if bare == self.layout:
            return states
        # whoever takes these states gives them numbers
        full = states.new_zeros(count, self.layout.n_all, *states.shape[2:])
        full[:, self.layout.places(bare.fields)] = states
        return full

    def prepare(self, state: Tensor) -> None:
        """Capture (and compile) the step for batches like this one, so that it costs no time later."""
        with torch.no_grad():
            self(state)

    def prepare_export(self, state: Tensor) -> None:
        self._runner.prepare_export(state, _in_type(self.learnables.values(), state.dtype))

    def stability(self, state: Tensor) -> str | None:
        """Return a warning if steps from the states `[B, C_all, *S]` with the present parameters are not stable.

        A physics that makes no statement of its own is tested: its step is halved and compared.
        """
        with torch.no_grad():
            if type(self.physics).stability is Physics.stability:
                return self._tested(state[:TESTED])
            fields, values = self._split(state), self.learnables.values()
            own = self._own(state, values)
            shared = {name: value for name, value in values.items() if name not in own}
            every = _corners(shared, {name: torch.stack([each.min(), each.max()]) for name, each in own.items()})
            told = (self.physics.stability(self.layout, fields, one, self.inner_dt) for one in every)
            return next((text for text in told if text is not None), None)

    def _tested(self, state: Tensor) -> str | None:
        values = _in_type(self.learnables.values(), state.dtype)
        static = state[:, self.layout.n_dynamic :]

        def advance(dynamic: Tensor, parts: int) -> Tensor:
            own = static.repeat(2, *(1 for _ in static.shape[1:]))
            with self._steps.divided(parts):
                for _ in range(self.substeps):
                    dynamic = self._eager(torch.cat([dynamic, own], dim=1), *values)
                    own = self.later(own, 1 / self.substeps)
            return dynamic

        found = too_long(advance, state[:, : self.layout.n_dynamic], self.substeps)
        if found is None:
            return None
        shorter = f"{self.inner_dt / found.parts:.3g}"
        return (
            f"{type(self.physics).__name__}: steps of dt = {self.inner_dt:g} are too long: in {found.frames} frame(s) "
            f"a small disturbance becomes {found.growth:.3g} times as large, and {found.shorter:.3g} times with steps "
            f"of {shorter}. Set physical.dt to at most {shorter}"
        )

    @abstractmethod
    def _step(self, state: Tensor, *values: Tensor) -> Tensor:
        """Make one internal step, `[B, C_all, *S] -> [B, C_dyn, *S]`; `values` are the parameters in declared order."""

    def _eager(self, state: Tensor, *values: Tensor) -> Tensor:
        """Make a step as `_step` does when it is not captured."""
        return self._step(state, *values)

    def _tracing(self) -> AbstractContextManager[Any]:
        """Return a context that is entered while the step is captured."""
        return nullcontext()

    def _everywhere(self, raw: Mapping[str, Tensor] | None = None) -> list[dict[str, Tensor]]:
        """Return sets of parameters between which those of all simulations lie, for `raw` or the present ones."""
        with torch.no_grad():
            values = self.learnables.values(raw)
        several = (*self.learnables.index, *self.learnables.in_time)
        shared = {name: value for name, value in values.items() if name not in several}
        own = {name: torch.stack([values[name].min(), values[name].max()]) for name in several}
        return _corners(shared, self._ranges | own)

    def _variant(self) -> int:
        """Return what the step depends on beside its arguments: the length of an internal step."""
        return self._steps.count

    def _other_values(self) -> list[Tensor]:
        raw = {name: value.detach() + 0.1 for name, value in self.learnables.raw.items()}
        return list(self.learnables.values(raw).values())

    def _own(self, state: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters that differ between states `[B, C_all, *S]`: each `[B]`, or `[B, *resolution]`.

        They are in the states, or they are those of `values` that the index in the states names. Functions of time have
        the value in the middle of the step.
        """
        found = {}
        for name, (channel, inside) in self._given.items():
            # a known value is no variable, and its gradient would cost as much as that of a whole field
            found[name] = state[(slice(None), channel, *inside)].detach()
        for name in self.learnables.index:
            found[name] = own_or_found(state.detach(), self.layout, name, values[name])
        for name in self.learnables.in_time:
            middle = number(state, self.layout, TIME) + self.inner_dt / 2
            times = cast("Tensor", self.learnables.times(name)).to(state)
            found[name] = at_times(middle, times, values[name].to(state.dtype))
        return found

    def _split(self, state: Tensor) -> dict[str, Tensor]:
        return {field.name: state[:, self.layout.channels(field.name)] for field in self.layout.fields}

    def _dynamic_names(self, result: Any) -> list[str]:
        names = [field.name for field in self.layout.dynamic]
        if not isinstance(result, Mapping) or not set(names) <= set(result):
            given = ", ".join(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
            raise PluginError(
                f"the step of {type(self.physics).__name__} must return a mapping with the fields {', '.join(names)}; "
                f"it returned {given}"
            )
        return names


class FlowModel(DeclaredModel):
    """The model of a `FlowPhysics`."""

    physics: FlowPhysics

    def __init__(self, physics: FlowPhysics, context: PhysicsContext) -> None:
        from hyco_engine.physics.layout import Converter

        super().__init__(physics, context)
        self._converter = Converter(self.layout)

    def _step(self, state: Tensor, *values: Tensor) -> Tensor:
        from hyco_engine.physics.phi_context import phi_context

        with phi_context(state):
            named = dict(zip(self.learnables.names, values, strict=True))
            own = self._own(state, named)
            fields = self._converter.fields(state)
            parameters = {name: self._converter.parameter(value) for name, value in named.items() if name not in own}
            for name, value in own.items():
                field = value.dim() > 1
                parameters[name] = (
                    fields[self.learnables.given[name]] if field else self._converter.parameter(value, one_each=True)
                )
            result = self.physics.step(fields, parameters, self.inner_dt)
            names = self._dynamic_names(result)
            try:
                new = self._converter.tensor({name: result[name] for name in names}, names, count=state.shape[0])
            except DataError as error:
                raise PluginError(f"the step of {type(self.physics).__name__}: {error}") from error
        if new.dtype != state.dtype:
            raise PluginError(
                f"the step of {type(self.physics).__name__} turned {state.dtype} into {new.dtype}: write constants as "
                "Python numbers, or create them within the step"
            )
        return new

    def _eager(self, state: Tensor, *values: Tensor) -> Tensor:
        from hyco_engine.physics.phi_context import run_in_context

        return run_in_context(self._step, state, *values)

    def _tracing(self) -> AbstractContextManager[Any]:
        from hyco_engine.physics.phi_context import phi_tracing

        return phi_tracing()


class TorchModel(DeclaredModel):
    """The model of a `TorchPhysics`."""

    physics: TorchPhysics

    def _step(self, state: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(self.learnables.names, values, strict=True))
        own = self._own(state, parameters)
        if not own:
            return self._advanced(state, parameters)

        # a step is written for parameters that all samples share, so it makes each sample alone
        def one(state: Tensor, own: dict[str, Tensor]) -> Tensor:
            return self._advanced(state[None], parameters | own)[0]

        advanced: Tensor = torch.vmap(one)(state, own)
        return advanced

    def _advanced(self, state: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        fields = self._split(state)
        result = self.physics.step(fields, parameters, self.inner_dt)
        names = self._dynamic_names(result)
        for name in names:
            if result[name].shape != fields[name].shape or result[name].dtype != state.dtype:
                raise PluginError(
                    f"the step of {type(self.physics).__name__} returned {name!r} as {tuple(result[name].shape)} of "
                    f"{result[name].dtype}; it must be {tuple(fields[name].shape)} of {state.dtype}"
                )
        return torch.cat([result[name] for name in names], dim=1)


def _in_type(values: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return parameters in declared order, in the type of the states that are stepped with them."""
    return [value.to(dtype) for value in values.values()]


_STEPS = "internal_steps"
"""The name of the number of internal steps in a state dict that has another one than the start values need."""


def _save_steps(model: DeclaredModel, state: dict[str, Any], prefix: str, _: Any) -> None:
    if (count := model._steps.changed) is not None:
        state[f"{prefix}{_STEPS}"] = torch.tensor(count)


def _load_steps(model: DeclaredModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    count = state.pop(f"{prefix}{_STEPS}", None)
    model._steps.restore(None if count is None else int(count))


def _refuse_formulas(physics: Physics, layout: StateLayout) -> None:
    """Raise SpecError for values at sides that follow from parameters, if the physics does not take them."""
    found = [own for field in layout.fields for own in field.boundary.formulas.items()]
    if found and not physics.takes_formulas:
        place, text = found[0]
        told = f'{unknown_rule(text)}. Formulas of parameters are for physical.kind = "equation"'
        raise SpecError(told, key=f"data.boundary.{place}")


def _with_time(layout: StateLayout, context: PhysicsContext, *, needed: bool) -> StateLayout:
    """Return the layout of states that hold their time, if `needed`. Raises DataError if those of the data lack it."""
    if not needed or layout.has_time:
        return layout
    if context.layout is not None or context.dt is None:
        raise DataError(
            "the physics depends on time, which the states of this data do not hold: set data.fields.time = true",
            key="data.fields.time",
        )
    return attrs.evolve(layout, static=(*layout.static, FieldInfo.time(layout.grid.axes, context.dt)))


def _sizes(layout: StateLayout, context: PhysicsContext) -> dict[str, float]:
    """Return the largest magnitude of each field in the train split, if known."""
    if context.statistics is None:
        return {}
    size = context.statistics.largest
    return {field.name: float(size[layout.channels(field.name)].max()) for field in layout.fields}


def _given_fields(layout: StateLayout, learnables: Learnables) -> dict[str, tuple[int, tuple[Any, ...]]]:
    """Return, for each parameter that the data give, its channel in a state and the cells that hold it.

    Raises SpecError where the data have no such static field, or where the physics cannot take a field there.
    """
    found: dict[str, tuple[int, tuple[Any, ...]]] = {}
    known = {field.name: field for field in layout.static}
    for name, source in learnables.given.items():
        key = f"physical.parameters.{name}.from"
        if source not in known:
            listed = ", ".join(known) or "nothing"
            raise SpecError(
                f"the data give no {source!r} for each simulation; they give {listed}{did_you_mean(source, known)}. "
                "data.scalars names the numbers of each simulation",
                key=key,
            )
        field = known[source]
        if field.channels > 1 or field.sampling == "staggered":
            raise SpecError(f"{source!r} is a vector field, and {name} is one number or a scalar field", key=key)
        if field.sampling == "uniform":
            found[name] = layout.channels(source).start, (0,) * layout.n_axes
            continue
        if not learnables.declarations[name].may_be_field:
            raise SpecError(f"{source!r} is a field, and {name} is one number in this physics", key=key)
        found[name] = layout.channels(source).start, tuple(slice(n) for n in layout.grid.resolution)
    return found


def _ranges(layout: StateLayout, context: PhysicsContext, learnables: Learnables) -> dict[str, Tensor]:
    """Return the smallest and the largest value, `[2]`, of each parameter that the data give, in the train split.

    Where that is not known, since the data are not read, the range is that of the declared start value alone.
    """
    found = {name: torch.tensor([learnables.declarations[name].init], dtype=torch.float64) for name in learnables.given}
    if context.statistics is not None:
        ends = torch.stack([context.statistics.lowest, context.statistics.highest]).double()
        own = {name: ends[:, layout.channels(source).start] for name, source in learnables.given.items()}
        found |= {name: values for name, values in own.items() if bool(values.isfinite().all())}
    return found


def _corners(shared: Mapping[str, Tensor], ranges: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the parameters with all combinations of the extreme values of those that differ, as 0-d tensors."""
    every = itertools.product(*(own.unbind() for own in ranges.values()))
    return [{**shared, **dict(zip(ranges, values, strict=True))} for values in every]
