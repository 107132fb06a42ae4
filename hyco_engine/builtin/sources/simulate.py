"""Data that a registered physical model with its true parameters makes."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.sources.draws import drawn
from hyco_engine.builtin.sources.extra import Extra
from hyco_engine.builtin.sources.options import SPACE, Draw, SimulateOptions
from hyco_engine.data.array_files import content_hash
from hyco_engine.data.clock import later
from hyco_engine.data.fields import TIME, Boundary, Grid
from hyco_engine.errors import DataError, PluginError, Problem, SpecError
from hyco_engine.interfaces import PhysicalModel, PhysicsContext, Trajectory, TrajectorySource
from hyco_engine.physics.settings import ArrayFile, ParameterSetting, PhysicalChoice, Profile

if TYPE_CHECKING:
    from hyco_engine.interfaces import SourceContext

log = logging.getLogger("hyco_engine")

NUM_FRAMES = 50
"""The number of frames where the spec gives none."""
STEADY_FRAMES = 2
"""That of states that do not change: a first guess, and the state."""
CHUNK_BYTES = 2**28
CHUNK_SIMULATIONS = 32


class SimulateSource(TrajectorySource):
    """Simulations from random initial states.

    Simulation i draws its initial state from a generator of its own, so it does not depend on the number of
    simulations. Several are simulated at a time, in float64 whatever the precision of the run, since the truth must be
    more exact than the models that learn it.
    """

    def __init__(self, options: SimulateOptions, context: SourceContext) -> None:
        self.options = options
        self.context = context
        self.num_simulations = options.num_simulations
        self.dt = options.dt
        self.num_frames = NUM_FRAMES if context.num_frames is None else context.num_frames
        self._draws = {name: value for name, value in options.truth.items() if isinstance(value, Draw)}
        self._drawn = drawn(self._draws, options.num_simulations, context.generator)
        self.choice, self._inner_key = _true_physics(options, context, self._drawn[0])
        self.model = _build(options, self.choice, context)
        if self.model.starts_alike and self.num_simulations > 1 and not self._draws:
            raise SpecError(
                f"physical.initial gives the start state, so all {self.num_simulations} simulations would be the same: "
                "let them differ in a parameter, such as truth.A = {uniform = [1.0, 2.0]}, or simulate one and split "
                'it in time (data.split.by = "time")',
                key="data.num_simulations",
            )
        self.guesses_start = self.model.steady
        if self.model.steady and context.num_frames is None:
            self.num_frames = STEADY_FRAMES
        self._begun = {name: value.clone() for name, value in self.model.state_dict().items()}
        for index in range(self.num_simulations) if self._draws else ():
            self._take(index)
        # whoever needs the time of the frames adds it, as to the data of any source
        self.layout = self.model.layout.without((TIME,) if self.model.layout.has_time else ())
        every = self.model.layout.places(self.layout.static)
        self._kept = [channel - self.layout.n_dynamic for channel in every]
        self._extra = None if options.extra is None else Extra(options.extra, self.layout, self.dt)
        self._ready: dict[int, Trajectory] = {}

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """The true values that all simulations share; those that are drawn are among `scalars`."""
        values = self.model.learnables.values()
        return {name: value.detach().cpu() for name, value in values.items() if name not in self._draws}

    def scalars(self, index: int) -> Mapping[str, float]:
        return self._drawn[index]

    def frames(self, index: int) -> int:
        return self.num_frames

    def origin(self, field: str, index: int) -> str:
        return f"the simulated data of {self.choice.kind!r}"

    def fingerprint(self) -> str:
        """Return a hash of all that the numbers depend on, the physics' own code included.

        The number of simulations is not part of it.
        """
        digest = hashlib.sha256()
        registry = self.context.registry
        described = {
            "kind": self.choice.kind,
            "version": registry.origin("hyco_models", self.choice.kind).version,
            "options": attrs.asdict(self.choice.options) if attrs.has(type(self.choice.options)) else None,
            "inner_dt": self.choice.dt,
            "layout": self.layout.to_data(),
            "frames": [self.dt, self.num_frames, self.options.skip_frames],
            "seed": self.context.seed,
            "extra": None if self.options.extra is None else attrs.asdict(cast("Any", self.options.extra)),
        }
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        if files := sorted(_files(described["options"])):
            digest.update(content_hash(files).encode())
        if self._draws:
            digest.update(json.dumps(self._drawn).encode())
        for name, value in sorted(self.truth.items()):
            digest.update(f"{name} {tuple(value.shape)}".encode() + value.double().numpy().tobytes())
        first = self.model.initial_states(1, self.context.generator("initial", 0))
        digest.update(first.detach().cpu().double().numpy().tobytes())
        # the code, since the version of a physics stays the same while somebody writes it
        physics = getattr(self.model, "physics", self.model)
        packages = {code.__module__.partition(".")[0] for code in (*type(self.model).__mro__, *type(physics).__mro__)}
        for package in sorted(packages - {"torch", "builtins", "abc", "typing"}):
            digest.update(_source(package))
        return digest.hexdigest()

    def load(self, index: int) -> Trajectory:
        if index not in self._ready:
            self._ready = dict(self._simulate(self.together(index)))
        return self._ready.pop(index)

    def together(self, index: int) -> range:
        size = self._chunk_size()
        # chunks are fixed, so that a rebuilt simulation is bitwise the same
        start = index - index % size
        return range(start, min(start + size, self.num_simulations))

    def _take(self, index: int) -> None:
        """Give the model the parameters that simulation `index` drew, whatever it had before."""
        self.model.load_state_dict(self._begun)
        for name, value in self._drawn[index].items():
            try:
                self.model.learnables.set_(name, value)
            except SpecError as error:
                problems = (attrs.evolve(problem, key=f"data.truth.{name}") for problem in error.problems)
                raise SpecError(problems) from None
        self.model.settle_steps()

    def _chunk_size(self) -> int:
        if self._draws:
            return 1  # each simulation has parameters of its own
        values = self.num_frames * self.layout.n_dynamic * int(torch.Size(self.layout.spatial).numel())
        return max(1, min(CHUNK_SIMULATIONS, CHUNK_BYTES // (8 * values)))

    @torch.no_grad()
    def _simulate(self, indices: range) -> Iterator[tuple[int, Trajectory]]:
        if self._draws:
            self._take(indices.start)
        generators = [self.context.generator("initial", index) for index in indices]
        state = torch.cat([self.model.initial_states(1, generator) for generator in generators])
        state = state.to(device=self.context.device, dtype=torch.float64)
        wanted = (len(indices), self.model.layout.n_all, *self.layout.spatial)
        if tuple(state.shape) != wanted:
            raise PluginError(
                f"{type(self.model).__name__}.initial_states returned the shape {list(state.shape[1:])} a state; "
                f"its layout wants {list(wanted[1:])}"
            )
        self._refuse_twins(state, indices)
        n_axes, advances = self.layout.n_axes, self.model.advances
        static = later(state[:, self.layout.n_dynamic :], advances, -self.options.skip_frames, n_axes)
        state = torch.cat([state[:, : self.layout.n_dynamic], static], dim=1)
        frames = []
        for frame in range(-self.options.skip_frames, self.num_frames):
            dynamic = state[:, : self.layout.n_dynamic]
            self._refuse_unstable(dynamic, indices, frame)
            if frame >= 0:
                frames.append(dynamic.cpu())
            if frame < self.num_frames - 1:
                state = torch.cat([self._step(state), static := later(static, advances, 1, n_axes)], dim=1)
        for i, index in enumerate(indices):
            dynamic = torch.stack([values[i] for values in frames])
            yield index, Trajectory(dynamic=dynamic, static=static[i, self._kept].cpu())

    def _step(self, state: Tensor) -> Tensor:
        if self._extra is not None:
            half = self._extra(state[:, : self.layout.n_dynamic])
            state = torch.cat([half, state[:, self.layout.n_dynamic :]], dim=1)
        new: Tensor = self.model(state)
        return new if self._extra is None else self._extra(new)

    def _refuse_twins(self, state: Tensor, indices: range) -> None:
        seen: dict[bytes, int] = {}
        for index, values in zip(indices, state.cpu(), strict=True):
            twin = seen.setdefault(hashlib.sha256(values.numpy().tobytes()).digest(), index)
            if twin != index:
                raise PluginError(
                    f"{type(self.model).__name__}.initial_states drew the same state for simulations {twin} and "
                    f"{index}: it must draw from the generator it is given"
                )

    def _refuse_unstable(self, dynamic: Tensor, indices: range, frame: int) -> None:
        finite = dynamic.isfinite().flatten(1).all(dim=1)
        if bool(finite.all()):
            return
        index = indices[int(finite.logical_not().nonzero()[0])]
        time, step = (frame + self.options.skip_frames) * self.dt, self.choice.dt or self.dt
        raise DataError(
            f"simulation {index} of {self.choice.kind!r} is no longer finite at frame {frame} (t = {time:g}): its "
            f"scheme is unstable with an internal step of {step:g}; take a smaller one, such as {self._inner_key} = "
            f"{step / 4:g}, or a coarser resolution",
            key="data",
        )


def _true_physics(
    options: SimulateOptions, context: SourceContext, first: Mapping[str, float]
) -> tuple[PhysicalChoice, str]:
    """Return the physics that makes the data, with its true parameters, and the key of its internal time step.

    Of parameters that are drawn, it has those of the `first` simulation.
    """
    if options.physics is not None:
        base, key = options.physics, "data.physics.dt"
        settings = {name: _shared(setting, learn=False) for name, setting in base.parameters.items()}
    elif context.physical is not None:
        # the value of a parameter that is not learned is known, so it is the true one
        base, key = context.physical, "physical.dt"
        settings = {name: _shared(setting) for name, setting in base.parameters.items()}
    else:
        raise SpecError(
            "the spec has no [physical] whose physics could make the data; name a physics here", key="data.physics"
        )
    for name, given in options.truth.items():
        value = first[name] if isinstance(given, Draw) else given
        field = isinstance(value, Profile | ArrayFile)
        settings[name] = ParameterSetting(init=value, field=field, learn=False)
    return attrs.evolve(cast("Any", base), parameters=settings), key


def _shared(setting: ParameterSetting, **more: Any) -> ParameterSetting:
    """Return the setting of one value for all simulations; those that differ are drawn by `truth`."""
    one = {"from_": None, "scope": "shared", "group": None, "prior": "none"}
    shared: ParameterSetting = attrs.evolve(cast("Any", setting), **one, **more)
    return shared


def _build(options: SimulateOptions, choice: PhysicalChoice, context: SourceContext) -> PhysicalModel:
    """Build the true model, in float64. Raise SpecError for parameters without a true value."""
    axes = tuple(axis for axis in SPACE if axis in options.resolution)
    if thin := [axis for axis in axes if options.resolution[axis] == 1 and len(axes) > 1]:
        log.info("the grid has one cell along %s, which is left out: nothing varies along it", " and ".join(thin))
        axes = tuple(axis for axis in axes if axis not in thin) or axes
    bounds = [options.bounds.get(axis, (0.0, 1.0)) for axis in axes]
    grid = Grid(
        axes=axes,
        resolution=tuple(options.resolution[axis] for axis in axes),
        lower=tuple(lower for lower, _ in bounds),
        upper=tuple(upper for _, upper in bounds),
    )
    boundary = None if options.boundary is None else options.boundary.value
    if isinstance(boundary, Mapping) and set(boundary) == set(options.resolution):
        boundary = {axis: boundary[axis] for axis in axes}
    if boundary is not None:
        try:
            Boundary.parse(boundary, axes)
        except ValueError as error:
            raise SpecError(str(error), key="data.boundary") from None
    context.registry.get("hyco_models", choice.kind, "physical")
    inner = context.derive(
        PhysicsContext,
        dtype=torch.float64,
        grid=grid,
        boundary=boundary,
        dt=options.dt,
        inner_dt=choice.dt,
        parameters=choice.parameters,
        compile=choice.compile,
    )
    try:
        model = cast(
            "PhysicalModel",
            context.registry.build("hyco_models", choice.kind, choice.options, inner, expected=PhysicalModel),
        )
    except SpecError as error:
        raise SpecError(_at_own_key(problem, options) for problem in error.problems) from None
    if missing := model.learnables.learned:
        declarations = model.learnables.declarations
        raise SpecError(
            Problem(
                message=f"the data is made by {choice.kind!r}, which needs the true value of {name!r}; give it, for "
                f"example truth = {{{name} = {declarations[name].init:g}}}",
                key=f"data.truth.{name}",
            )
            for name in missing
        )
    return model.to(context.device).eval()


def _at_own_key(problem: Problem, options: SimulateOptions) -> Problem:
    """Return a mistake in the physics' settings under the key where this source reads them."""
    parts = (problem.key or "").split(".")
    if parts[:2] == ["physical", "parameters"] and len(parts) > 2 and parts[2] in options.truth:
        # without `init`, since a truth is the start value itself
        return attrs.evolve(problem, key=".".join(["data", "truth", parts[2], *parts[4:]]))
    if parts[0] == "physical" and options.physics is not None:
        return attrs.evolve(problem, key=".".join(["data", "physics", *parts[1:]]))
    return problem


def _files(value: Any) -> Iterator[Path]:
    """Yield the paths among options that are plain containers."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        yield from (path for own in value.values() for path in _files(own))
    elif isinstance(value, tuple | list):
        yield from (path for own in value for path in _files(own))


def _source(package: str) -> bytes:
    """Return the text of all modules of an imported top-level package or module; empty if it cannot be read."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None:
        return b""
    path = Path(file)
    modules = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    try:
        return b"".join(module.read_bytes() for module in modules)
    except OSError:
        return b""
