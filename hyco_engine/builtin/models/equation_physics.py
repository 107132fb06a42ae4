"""The physics of equations on a grid, and what all equations have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.models.options_physical import EquationOptions
from hyco_engine.data.fields import TIME, FieldInfo, Rule, StateLayout
from hyco_engine.equations.meaning import Meaning
from hyco_engine.equations.schemes import Scheme
from hyco_engine.equations.stability import probes
from hyco_engine.equations.terms import Symbol, degree, symbols
from hyco_engine.equations.writing import Style
from hyco_engine.physics.explicit import LEARNING_ROOM
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.model import TorchPhysics

Parameters = Mapping[str, Tensor]


class Equation(TorchPhysics):
    """Rates of change of fields, solved by a scheme."""

    needs_space = False
    takes_formulas = True

    def __init__(
        self,
        options: EquationOptions,
        meaning: Meaning,
        scheme: Scheme,
        times: tuple[float, float] | None = None,
        *,
        assumes: bool = False,
    ) -> None:
        """`times` are those between which the equation is solved, where it depends on time and they are known.

        `assumes` is whether the number of internal steps is chosen without data.
        """
        self.assumes = assumes
        self.options = options
        self.meaning = meaning
        self.layout = meaning.layout
        self.scheme = scheme
        self.rounding = scheme.rounding
        self.parameters = meaning.parameters
        self.times = times
        self.start = times[0] if times is not None else 0.0
        self.starts_alike = len(meaning.starts) == self.layout.n_dynamic and not self.layout.bare.static
        self.uses_time = bool(meaning.timed or meaning.starts)

    def fields(self, axes: tuple[str, ...]) -> tuple[Sequence[FieldInfo], Sequence[FieldInfo]]:
        names = dict.fromkeys(symbol.name for symbol in self.meaning.statics)
        return self.layout.dynamic, [self.layout.field(name) for name in names]

    def step(self, fields: Mapping[str, Tensor], parameters: Parameters, dt: float) -> dict[str, Tensor]:
        meaning = self.meaning
        state = torch.cat([fields[info.name] for info in self.layout.dynamic], dim=1)
        others = {Symbol("parameter", name): value for name, value in parameters.items()}
        others |= {symbol: fields[symbol.name][:, symbol.component] for symbol in meaning.statics}
        time = fields[TIME][:, 0] if self.uses_time else None
        if time is not None and self.layout.n_axes:
            time = time[(slice(None), *(slice(1) for _ in self.layout.grid.axes))]
        if meaning.starts and time is not None:
            state = torch.where((time < self.start + dt / 2)[:, None], meaning.begun(state, others, time), state)
        new = self.scheme.step(state, others, time if meaning.timed else None, dt)
        parts = torch.split(new, [info.channels for info in self.layout.dynamic], dim=1)
        return {info.name: part for info, part in zip(self.layout.dynamic, parts, strict=True)}

    # --- stability ---

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        return max(1, math.ceil(LEARNING_ROOM * self.least_steps(layout, size, parameters, dt) - 1e-9))

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        """Return the number of steps at which no wave grows more than the equation lets it grow."""
        meaning = self.meaning
        ranges = {symbol: (-most, most) for symbol, most in self._largest(size, parameters, dt).items()}
        return self.scheme.least_steps(ranges | self._ranges(meaning.in_rates, parameters, dt), dt)

    def _largest(self, size: Mapping[str, float], parameters: Parameters, dt: float) -> dict[Symbol, float]:
        """Return the largest magnitude of each component, in the data and at sides."""
        meaning, axes = self.meaning, self.layout.grid.axes
        at_sides = self._at_sides(parameters, dt)
        found = {}
        for symbol in (*meaning.components, *meaning.statics):
            info = self.layout.field(symbol.name)
            part = symbol.component if info.components else None
            rules = [rule for axis in axes for rule in info.boundary.rules(axis, axes, part)]
            fixed = [at_sides[rule.text] if rule.text else _size(rule) for rule in rules if rule.fixes]
            found[symbol] = max(size.get(symbol.name, self._start), *fixed, 0.0)
        return found

    @property
    def _start(self) -> float:
        """The largest magnitude of fields of which no data are known."""
        return abs(self.options.offset) + 4 * self.options.amplitude

    def _at_sides(self, parameters: Parameters, dt: float) -> dict[str, float]:
        """Return the largest magnitude of the values that formulas at sides give."""
        meaning = self.meaning
        if not meaning.walls:
            return {}
        named = {symbol for node in meaning.walls.values() for symbol in symbols(node) if symbol.kind != "coordinate"}
        tried = probes(self._ranges(sorted(named, key=str), parameters, dt))
        broad = [1] * self.layout.n_axes
        numbers = {symbol: values.reshape(-1, *broad) for symbol, values in tried.items()}
        found = meaning.at_sides(numbers, torch.zeros(1, *broad, dtype=torch.float64))
        return {text: float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) for text, values in found.items()}

    def _ranges(self, named: Iterable[Symbol], parameters: Parameters, dt: float) -> dict[Symbol, tuple[float, float]]:
        """Return the ranges of those that are no fields."""
        grid = self.layout.grid
        found = {}
        for symbol in named:
            match symbol.kind:
                case "coordinate":
                    axis = grid.axes.index(symbol.name)
                    found[symbol] = grid.lower[axis], grid.upper[axis]
                case "time":
                    found[symbol] = self.times or (0.0, dt)
                case "series":
                    found[symbol] = _ends(self.meaning.series[symbol.name][1])
                case "parameter":
                    found[symbol] = _ends(parameters[symbol.name])
        return found

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        size = {name: float(values.abs().max()) for name, values in state.items()}
        steps = self.least_steps(layout, size, parameters, dt)
        if steps <= 1:
            return None
        for symbol, most in self._largest(size, parameters, dt).items():
            size[symbol.name] = max(size[symbol.name], most)
        reached = ", ".join(f"{info.name} up to {size[info.name]:.3g}" for info in layout.dynamic)
        return (
            f"equation: steps of dt = {dt:g} are too long: the rates linearised with {reached} allow "
            f"{dt / steps:.3g}. Set physical.dt to at most that, or use a coarser grid"
        )

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        told = [self.scheme.told(counted(internal_steps), asked=self.options.scheme != "auto")]
        if (
            self.assumes
            and internal_steps > 1
            and any(degree(term.core) > 1 for own in self.scheme.terms for term in own)
        ):
            told.append("a run chooses its number of internal steps by the values of its data, which are not read yet")
        return [*told, *self.given_told()]

    def given_told(self) -> list[str]:
        """Return sentences on units, on what parameters determine beside the rates, and what surrogates see of it."""
        meaning = self.meaning
        plain = Style(axes=self.layout.grid.axes, components=self._parts, latex=False)
        found = list(dict.fromkeys(text for _, (text,) in self._given(plain)))
        told = [] if meaning.units is None else [f"the units fit: {', '.join(meaning.units.told())}"]
        starts = len(meaning.starts)
        if at_sides := found[starts:]:
            told.append(f"formulas give values at sides, which surrogates do not see: {'; '.join(at_sides)}")
        if starts:
            told.append(
                f"rollouts of the physics from t = {self.start:.6g} begin in a state that a formula gives, and those "
                f"of surrogates in the observed one: {'; '.join(found[:starts])}"
            )
        return told

    @property
    def _parts(self) -> dict[str, tuple[str, ...]]:
        return {info.name: info.components for info in self.layout.fields}

    def equations(self) -> list[dict[str, Any]]:
        """Return the equation of each component in Unicode and LaTeX, and its terms by how they are solved in time.

        What parameters determine at the start and at sides follows, without terms.
        """
        plain, latex = (
            Style(axes=self.layout.grid.axes, components=self._parts, latex=latex) for latex in (False, True)
        )
        meaning = self.meaning
        given = [
            {"field": plain.of(symbol), "unicode": texts[0], "latex": texts[1], "exact": [], "other": []}
            for symbol, texts in self._given(plain, latex)
        ]
        rates = [
            {
                "field": plain.of(symbol),
                "unicode": plain.steady(node) if meaning.steady else plain.rate(symbol, node),
                "latex": latex.steady(node) if meaning.steady else latex.rate(symbol, node),
                "exact": [plain.term(term) for term, _ in rate.linear],
                "other": [plain.term(term) for term in rate.rest],
            }
            for symbol, node, rate in zip(meaning.components, meaning.nodes, self.scheme.rates, strict=True)
        ]
        return [*rates, *given]

    def _given(self, *styles: Style) -> Iterator[tuple[Symbol, list[str]]]:
        """Yield each start and each value at a side that parameters determine, as all styles write it."""
        for symbol, node in self.meaning.starts.items():
            yield symbol, [style.start(symbol, node, self.start) for style in styles]
        grid = self.layout.grid
        for symbol in self.meaning.components:
            info = self.layout.field(symbol.name)
            part = symbol.component if info.components else None
            for axis, ends in zip(grid.axes, zip(grid.lower, grid.upper, strict=True), strict=True):
                for place, rule in zip(ends, info.boundary.rules(axis, grid.axes, part), strict=True):
                    if rule.text:
                        node = self.meaning.walls[rule.text]
                        yield symbol, [style.side(symbol, axis, place, node) for style in styles]

    def start_states(
        self, layout: StateLayout, count: int, generator: torch.Generator, parameters: Parameters
    ) -> Tensor:
        meaning = self.meaning
        others = {Symbol("parameter", one.name): torch.tensor(one.init).double() for one in self.parameters}
        # of values that differ between times or groups, the first one
        others |= {
            Symbol("parameter", name): value if name in meaning.varying else value.flatten()[0]
            for name, value in parameters.items()
        }
        like = torch.zeros(count, self.layout.n_dynamic, *layout.spatial, dtype=torch.float64)
        time = torch.full((count, *[1] * layout.n_axes), self.start, dtype=torch.float64)
        # what varies along a side, or between simulations, is one of its values here
        found = meaning.at_sides(others | meaning.at(time), like)
        values = {text: float(values.median()) for text, values in found.items()}
        dynamic, static = (
            tuple(attrs.evolve(info, boundary=info.boundary.settled(values)) for info in infos)
            for infos in (layout.dynamic, layout.static)
        )
        states = self.initial_states(attrs.evolve(layout, dynamic=dynamic, static=static), count, generator)
        if not meaning.starts:
            return states
        n = layout.n_dynamic
        others |= {symbol: states[:, layout.channels(symbol.name)][:, symbol.component] for symbol in meaning.statics}
        return torch.cat([meaning.begun(states[:, :n], others, time), states[:, n:]], dim=1)

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid = layout.grid
        scale = self.options.length_scale * grid.shortest
        drawn = [
            noise_field(info, grid, layout.spatial, count, generator, scale=scale, amplitude=self.options.amplitude)
            for info in layout.fields
        ]
        return torch.cat(drawn, dim=1) + self.options.offset


def _ends(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _size(rule: Rule) -> float:
    """Return the magnitude of the number at the side of a component."""
    return abs(float(rule.value))  # type: ignore[arg-type]


def counted(steps: int) -> str:
    """Return a number of internal steps in words."""
    return f"{steps} internal step{'s' if steps > 1 else ''} a frame"
