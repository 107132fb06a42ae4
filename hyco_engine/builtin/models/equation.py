"""Equations that a spec contains as text.

Equation        u_t = rates.u, or 0 = steady.u, for each field, on a grid or without space; words: docs/equations.md
Fields          those of `rates`: scalars, or vectors with a component for each axis; centred
Parameters      those of [physical.parameters], such as `nu`, each with a start value there: numbers or fields
Time            `t` in rates, and measured series among the constants: at each stage of a step its own
Boundary        any; periodic where the data names none
Solutions       those of the equations

scheme = "spectral" (default where all sides are periodic)
    Space: Fourier pseudo-spectral, products from the lower two thirds of the waves. c u u_x is evaluated as
    c (u u)_x / 2, and what is written as a divergence or a derivative of a flux is conserved. Time: exponential
    Runge-Kutta (ETDRK4), of fourth order: the terms of a field's rate that are linear in it, with coefficients that are
    the same everywhere, are exact, however stiff they are.
scheme = "finite-difference" (default else)
    Space: central differences of fourth order. c u u_x is split as c (u u_x + (u u)_x) / 3, which keeps the sums of u
    and u^2; d/dx (a du/dx) is conservative on five points. Beyond a side with a rule, fields continue as even or odd
    functions, and what is computed from fields follows from their continuation: order 2 at sides with a constant other
    than 0. Time: classical Runge-Kutta. With "auto", where all sides mirror the fields (zero-gradient, symmetric,
    antisymmetric, 0) and linear terms of even order would need four times as many internal steps, these are exact by
    cosine and sine transforms of the same differences, and time is ETDRK4.

scheme = "shock"
    Space: WENO reconstructions of fifth order from the upwind side for fluxes and advective products, and central
    differences of fourth order for all else. Time: strong-stability-preserving Runge-Kutta of third order.

Steady equations
    `steady.u` in place of `rates.u` is 0 for states that do not change. Newton's method with sparse factors of central
    differences of fourth order; derivatives by the implicit function theorem.

Without space
    Classical Runge-Kutta, with as many internal steps as are accurate: at states of the data and with the present
    parameters, twice as many change a frame by less than 1e-6 of the spread of a field.

On a grid, internal steps follow from the symbol of the rates, linearised about constant states up to the largest
values of the data, with slopes as of waves 16 cells long: no wave may grow more in a step than the equation lets it
grow. With scheme = "shock", the fastest wave crosses less than a cell, too.
Numerical diffusion: none, but at shocks and steep fronts with scheme = "shock".

References      S. M. Cox, P. C. Matthews, J. Comput. Phys. 176 (2002); C. Canuto et al., Spectral Methods (2007); B.
                Gustafsson, H.-O. Kreiss, J. Oliger, Time Dependent Problems and Difference Methods (1995); G.-S.
                Jiang, C.-W. Shu, J. Comput. Phys. 126 (1996)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.models.options_physical import EquationOptions, Series
from hyco_engine.builtin.models.series import read_series
from hyco_engine.data.fields import TIME, Boundary, FieldInfo, StateLayout
from hyco_engine.data.scalars import number as number_in
from hyco_engine.data.statistics import Statistics
from hyco_engine.data.units import base_units
from hyco_engine.equations.accuracy import MOST, ROUGH, TOLERANCE, Advance, accurate_steps, reached
from hyco_engine.equations.dimensions import Unit, Units
from hyco_engine.equations.evaluation import Differences, Spectral, difference_symbol, reach, spectral_symbol
from hyco_engine.equations.shocks import (
    COURANT,
    REACH,
    ROUGHER,
    ROUNDING,
    Transport,
    conserved,
    courant,
    divided,
    transported,
)
from hyco_engine.equations.stability import (
    WAVE_CELLS,
    Linearised,
    jacobian_of,
    least_steps,
    linear_of,
    probes,
    waves_of,
)
from hyco_engine.equations.syntax import Expression, Text, parse
from hyco_engine.equations.terms import (
    Derivative,
    Expansion,
    Node,
    Operator,
    Rate,
    Symbol,
    Term,
    Words,
    degree,
    diffusion_form,
    flux_form,
    is_number,
    lowered,
    means,
    skew_form,
    symbols,
)
from hyco_engine.equations.writing import Style
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.explicit import LEARNING_ROOM, rk4, ssprk3
from hyco_engine.physics.exponential import etdrk4
from hyco_engine.physics.initial import noise_field
from hyco_engine.physics.knots import at_times
from hyco_engine.physics.mirrored import Mirrored, mirrors
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.spectral import Spectrum
from hyco_engine.physics.steady import Stencil
from hyco_engine.physics.steady_model import SteadyModel, SteadyPhysics

KEY = "physical"
WAVES = (9, 9, 5)
"""The number of wave numbers along each axis at which steps are tested, in one, two and three dimensions."""
STIFF = 4.0
"""A linear part is exact at walls if it would need so many times as many internal steps: transforms take longer."""
MOST_DENSE = 2000
"""The most unknowns of steady states in which the mean of a field joins all of them."""
Parameters = Mapping[str, Tensor]


class Equation(TorchPhysics):
    """See the module's card."""

    needs_space = False
    takes_formulas = True

    def __init__(
        self,
        options: EquationOptions,
        layout: StateLayout,
        settings: Mapping[str, ParameterSetting],
        times: tuple[float, float] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        """Raise SpecError for names without a meaning, or where the scheme and the data do not fit.

        `times` are those between which the equation is solved, where it depends on time and they are known. With
        `exact`, linear terms are exact at sides that mirror fields, too.
        """
        self.options = options
        self.layout = layout
        self.times = times
        self.series = {name: read_series(own, name) for name, own in options.constants.items() if type(own) is Series}
        grid = layout.grid
        texts = {name: Text(text=text, key=f"{KEY}.{options.key}.{name}") for name, text in options.texts.items()}
        trees = {name: parse(source.text, source.key) for name, source in texts.items()}
        own = [info for info in layout.static if info.sampling in ("centered", "uniform") and not info.advance]
        words = Words(
            axes=grid.axes,
            dynamic={info.name: info.components for info in layout.dynamic},
            static={info.name: info.components for info in own if info.name not in settings},
            parameters=tuple(settings),
            constants={name: own for name, own in options.constants.items() if isinstance(own, float | int)},
            series=self.series,
        )
        taken = {*grid.axes, "pi", "t", "constants"}
        keys = {name: f"{options.key}.{name}" for name in options.texts} | dict.fromkeys(options.inputs, "inputs")
        for name, key in (keys | {name: f"parameters.{name}" for name in settings}).items():
            if name in taken:
                raise SpecError(f"{name!r} has another meaning in equations: choose another name", key=f"{KEY}.{key}")
        if clash := [name for name in settings if name in options.texts]:
            raise SpecError(
                f"a field of {options.key} has this name: choose another one", key=f"{KEY}.parameters.{clash[0]}"
            )
        lowered_rates = {name: lowered(trees[name], texts[name], words) for name in trees}
        self.varying = [name for name, setting in settings.items() if setting.field or _is_field(setting, layout)]
        self.walls = _walls(layout, words, self.varying)
        self.starts = _starts(options.initial, layout, words)
        self.units = _units(options, layout, words)
        if self.units is not None:
            self._check_units(self.units, trees, texts)
        self.start = times[0] if times is not None else 0.0
        self.starts_alike = len(self.starts) == layout.n_dynamic and not layout.bare.static
        for info in layout.dynamic:
            parts = lowered_rates[info.name]
            if len(parts) != info.channels:
                raise SpecError(
                    f"the rate has {len(parts)} component(s), and the field has {info.channels}",
                    key=texts[info.name].key,
                )
        self.components = tuple(
            Symbol("field", info.name, index) for info in layout.dynamic for index in range(info.channels)
        )
        self.nodes = nodes = [part for info in layout.dynamic for part in lowered_rates[info.name]]
        found = dict.fromkeys(symbol for node in nodes for symbol in symbols(node))
        every = [*nodes, *self.walls.values(), *self.starts.values()]
        known = dict.fromkeys(symbol for node in every for symbol in symbols(node))
        used = {symbol.name for symbol in known if symbol.kind == "parameter"}
        self.parameters = tuple(_declared(name, settings[name], self._unit(name)) for name in settings if name in used)
        self.in_rates = frozenset(found)
        self.statics = tuple(symbol for symbol in known if symbol.kind == "static")
        self.places = tuple(symbol for symbol in found if symbol.kind == "coordinate")
        self.timed = tuple(symbol for symbol in known if symbol.kind in ("time", "series"))
        self.uses_time = bool(self.timed or self.starts)
        self.spectral = self._is_spectral()
        expansion = Expansion(self.varying)
        if self.spectral:
            rates = [
                Rate.of(node, own, expansion, layout.n_axes) for node, own in zip(nodes, self.components, strict=True)
            ]
            self.rates = tuple(
                Rate(linear=rate.linear, rest=tuple(flux_form(term) for term in rate.rest)) for rate in rates
            )
        elif options.scheme == "shock":
            terms = [[conserved(term) for term in expansion.terms(node)] for node in nodes]
            self.rates = tuple(Rate(linear=(), rest=tuple(own)) for own in terms)
        elif exact and self.mirrors():
            self.rates = tuple(_even(node, own, expansion) for node, own in zip(nodes, self.components, strict=True))
        else:
            self.rates = tuple(Rate(linear=(), rest=_difference_terms(node, expansion)) for node in nodes)
        self.mirrored = not self.spectral and any(rate.linear for rate in self.rates)
        self.rest = [rate.rest for rate in self.rates]
        self.transports: list[Transport] = []
        if options.scheme == "shock":
            self.rest, self.transports = divided(self.rest, layout.n_axes)
            self.rounding = ROUNDING
            self.rest = [tuple(attrs.evolve(t, core=diffusion_form(t.core)) for t in own) for own in self.rest]
        if not self.spectral:
            self._check_cells()

    def fields(self, axes: tuple[str, ...]) -> tuple[Sequence[FieldInfo], Sequence[FieldInfo]]:
        names = dict.fromkeys(symbol.name for symbol in self.statics)
        return self.layout.dynamic, [self.layout.field(name) for name in names]

    def step(self, fields: Mapping[str, Tensor], parameters: Parameters, dt: float) -> dict[str, Tensor]:
        state = torch.cat([fields[info.name] for info in self.layout.dynamic], dim=1)
        others = {Symbol("parameter", name): value for name, value in parameters.items()}
        others |= {symbol: fields[symbol.name][:, symbol.component] for symbol in self.statics}
        mirrored = self._mirrored_step if self.mirrored else self._difference_step
        advance = self._spectral_step if self.spectral else mirrored
        time = fields[TIME][:, 0] if self.uses_time else None
        if time is not None and self.layout.n_axes:
            time = time[(slice(None), *(slice(1) for _ in self.layout.grid.axes))]
        if self.starts and time is not None:
            state = torch.where((time < self.start + dt / 2)[:, None], self._begun(state, others, time), state)
        new = advance(state, others, time if self.timed else None, dt)
        parts = torch.split(new, [info.channels for info in self.layout.dynamic], dim=1)
        return {info.name: part for info, part in zip(self.layout.dynamic, parts, strict=True)}

    # --- steps ---

    def _at(self, time: Tensor | None) -> dict[Symbol, Tensor]:
        """Return what depends on time alone, at times that broadcast over the grid."""
        if time is None:
            return {}
        found = {}
        for symbol in self.timed:
            found[symbol] = (
                time if symbol.kind == "time" else at_times(time, *(p.to(time) for p in self.series[symbol.name]))
            )
        return found

    def _begun(self, state: Tensor, others: Mapping[Symbol, Tensor], time: Tensor | None) -> Tensor:
        """Return states `[B, C_dyn, *S]` whose components are those of the start, where it is given."""
        fields, numbers = self._split(others)
        evaluation = self._evaluation(fields, numbers | self._at(time), state)
        found = [
            evaluation.whole(self.starts[symbol]).expand(state[:, index].shape)
            if symbol in self.starts
            else state[:, index]
            for index, symbol in enumerate(self.components)
        ]
        return torch.stack(found, dim=1)

    def _split(self, others: Mapping[Symbol, Tensor]) -> tuple[dict[Symbol, Tensor], dict[Symbol, Tensor]]:
        """Return what varies over the grid, and what does not."""
        fields = {symbol: value for symbol, value in others.items() if value.dim() >= self.layout.n_axes}
        return fields, {symbol: value for symbol, value in others.items() if symbol not in fields}

    def _spectral_step(self, state: Tensor, others: Mapping[Symbol, Tensor], time: Tensor | None, dt: float) -> Tensor:
        spectrum = Spectrum(self.layout.grid, state)
        u = spectrum.forward(state)
        known = Spectral(self.layout.grid, spectrum, {}, others)
        linear = torch.stack([_exact(rate, known) for rate in self.rates])
        if not any(rate.rest for rate in self.rates):
            return spectrum.inverse(torch.exp(dt * linear) * u)

        def slope(u: Tensor, since: float) -> Tensor:
            kept = u * spectrum.resolved
            waves = {symbol: kept[:, index] for index, symbol in enumerate(self.components)}
            now = self._at(None if time is None else time + since)
            evaluation = Spectral(self.layout.grid, spectrum, waves, {**others, **now})
            parts = [_transformed(rate.rest, evaluation).expand(kept[:, 0].shape) for rate in self.rates]
            return torch.stack(parts, dim=1) * spectrum.resolved

        return spectrum.inverse(etdrk4(linear, slope, u, dt))

    def _mirrored_step(self, state: Tensor, others: Mapping[Symbol, Tensor], time: Tensor | None, dt: float) -> Tensor:
        axes, first = self.layout.grid.axes, self.layout.dynamic[0].boundary
        waves = Mirrored(self.layout.grid, [first.rules(axis, axes, None) for axis in axes], state)
        fields, numbers = self._split(others)
        # factors of linear terms are the same everywhere
        known = self._evaluation(fields, numbers, state)
        linear = torch.stack([_exact_at_walls(rate, known, waves).expand(waves.shape_of) for rate in self.rates])
        u = waves.forward(state)
        if not any(self.rest):
            return waves.inverse(torch.exp(dt * linear) * u)
        change = self._change(state, fields)

        def slope(u: Tensor, since: float) -> Tensor:
            now = self._at(None if time is None else time + since)
            return waves.forward(change(waves.inverse(u), numbers | now))

        return waves.inverse(etdrk4(linear, slope, u, dt))

    def mirrors(self) -> bool:
        """Return whether all components continue evenly or oddly beyond all sides, by the same rules."""
        axes = self.layout.grid.axes
        every = {
            tuple(info.boundary.rules(axis, axes, index if info.components else None) for axis in axes)
            for info in self.layout.dynamic
            for index in range(info.channels)
        }
        return len(axes) > 0 and len(every) == 1 and all(map(mirrors, next(iter(every))))

    def _difference_step(
        self, state: Tensor, others: Mapping[Symbol, Tensor], time: Tensor | None, dt: float
    ) -> Tensor:
        fields, numbers = self._split(others)
        change = self._change(state, fields)

        def rate(values: dict[str, Any]) -> dict[str, Any]:
            return {"all": change(values["all"], numbers | self._at(values.get(TIME))), TIME: 1.0}

        begun = {"all": state} if time is None else {"all": state, TIME: time}
        advanced: Tensor = (ssprk3 if self.transports else rk4)(rate, begun, dt)["all"]
        return advanced

    def _change(
        self, like: Tensor, fields: Mapping[Symbol, Tensor]
    ) -> Callable[[Tensor, Mapping[Symbol, Tensor]], Tensor]:
        """Return the function of states `[B, C, *S]`, and of what is the same everywhere, that evaluates the equations.

        `fields` are those that vary in space, besides the dynamic ones.
        """

        def change(dynamic: Tensor, numbers: Mapping[Symbol, Tensor]) -> Tensor:
            own = {symbol: dynamic[:, index] for index, symbol in enumerate(self.components)}
            evaluation = self._evaluation({**fields, **own}, numbers, like)
            totals: list[Any] = [reduce(add, map(evaluation.term, terms), 0.0) for terms in self.rest]
            for transport in self.transports:
                moved = transported(transport, evaluation, self.components)
                totals = [total + own for total, own in zip(totals, moved, strict=True)]
            return torch.stack([evaluation.tensor(own).expand(dynamic[:, 0].shape) for own in totals], dim=1)

        return change

    def _evaluation(
        self, fields: Mapping[Symbol, Tensor], numbers: Mapping[Symbol, Tensor], like: Tensor
    ) -> Differences:
        """Return the evaluation of nodes by differences."""
        layout = self.layout
        first = layout.dynamic[0].boundary
        sides = {axis: "periodic" if first.is_periodic(axis) else "zero-gradient" for axis in layout.grid.axes}
        beyond = {symbol: Boundary.parse(sides, layout.grid.axes) for symbol in fields}
        beyond |= {symbol: layout.field(symbol.name).boundary for symbol in (*self.components, *self.statics)}
        components = {
            symbol: symbol.component if symbol.kind != "parameter" and layout.field(symbol.name).components else None
            for symbol in beyond
        }
        return Differences(layout.grid, fields, beyond, components, numbers, like, walls=self.walls)

    # --- stability ---

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        return max(1, math.ceil(LEARNING_ROOM * self.least_steps(layout, size, parameters, dt) - 1e-9))

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        """Return the number of steps at which no wave grows more than the equation lets it grow."""
        if not any(rate.rest for rate in self.rates):
            return 0.0
        grid, n_axes = layout.grid, layout.n_axes
        start = abs(self.options.offset) + 4 * self.options.amplitude
        reached = {symbol: size.get(symbol.name, start) for symbol in (*self.components, *self.statics)}
        ranges = {symbol: (-most, most) for symbol, most in reached.items()}
        for symbol in self.places:
            axis = grid.axes.index(symbol.name)
            ranges[symbol] = grid.lower[axis], grid.upper[axis]
        for symbol in self.in_rates.intersection(self.timed):
            known = self.times or (0.0, dt)
            ranges[symbol] = known if symbol.kind == "time" else _ends(self.series[symbol.name][1])
        for name, value in parameters.items():
            if (symbol := Symbol("parameter", name)) in self.in_rates:
                ranges[symbol] = float(value.min()), float(value.max())
        if not all(math.isfinite(end) for ends in ranges.values() for end in ends):
            return math.inf
        states = probes(ranges)
        count = len(next(iter(states.values())))
        # twice: without slopes, and with those of long waves
        states = {symbol: torch.cat([values, values]) for symbol, values in states.items()}
        lengths = [upper - lower for lower, upper in zip(grid.lower, grid.upper, strict=True)]
        spacing = grid.spacing
        shortest = [
            2 * math.pi / length * ((n - 1) // 3) if self.spectral else math.pi / dx
            for length, n, dx in zip(lengths, grid.resolution, spacing, strict=True)
        ]
        waves = waves_of(lengths, shortest, WAVES[n_axes - 1])
        symbol_of = (
            partial(spectral_symbol, waves=waves)
            if self.spectral
            else partial(difference_symbol, waves=waves, spacing=spacing)
        )

        def factors(operator: Operator) -> Tensor:
            return sum((symbol_of(orders).expand(len(waves[0])) for orders in operator), torch.zeros(()))

        def slope(operator: Operator) -> Tensor:
            long = [2 * math.pi / (WAVE_CELLS * dx) for dx in spacing]
            most = sum(math.prod(k**n for k, n in zip(long, orders, strict=True)) for orders in operator)
            return torch.cat([torch.zeros(count), torch.full((count,), most)]).double()

        evaluation = Linearised(states, self.components, factors, slope, n_axes)
        jacobian = jacobian_of(self.rest, evaluation, (2 * count, len(waves[0])))
        flat = jacobian[:count, sum(wave.abs() for wave in waves) == 0][:, 0]
        least = least_steps(linear_of(self.rates, evaluation, len(waves[0])), jacobian, flat, dt)
        if self.transports:
            least = ROUGHER * least + dt * float(courant(self.transports, evaluation, spacing).max()) / COURANT
        return least

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        size = {name: float(values.abs().max()) for name, values in state.items()}
        steps = self.least_steps(layout, size, parameters, dt)
        if steps <= 1:
            return None
        reached = ", ".join(f"{info.name} up to {size[info.name]:.3g}" for info in layout.dynamic)
        return (
            f"equation: steps of dt = {dt:g} are too long: the rates linearised with {reached} allow "
            f"{dt / steps:.3g}. Set physical.dt to at most that, or use a coarser grid"
        )

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        counted = _counted(internal_steps)
        if self.transports:
            return [
                "the equation is solved by WENO reconstructions of fluxes and advection from the upwind side, of fifth "
                "order where states are smooth (as asked for), central differences of fourth order, and Runge-Kutta of "
                f"third order that makes no extrema, with {counted} by its fastest speed and the symbol of its "
                "linearised rates",
                *self._given_told(),
            ]
        if self.mirrored:
            exact = [symbol.name for symbol, rate in zip(self.components, self.rates, strict=True) if rate.linear]
            stiff = ", ".join(dict.fromkeys(exact))
            return [
                "the equation is solved by central differences of fourth order (a side is not periodic) and "
                f"Runge-Kutta of fourth order, exact in the linear terms of {stiff} by cosine and sine transforms "
                f"(they are stiff), with {counted} by the symbol of its linearised rates",
                *self._given_told(),
            ]
        if not self.spectral:
            why = "as asked for" if self.options.scheme != "auto" else "a side is not periodic"
            return [
                f"the equation is solved by central differences of fourth order ({why}) and classical Runge-Kutta, "
                f"with {counted} by the symbol of its linearised rates",
                *self._given_told(),
            ]
        exact = [symbol.name for symbol, rate in zip(self.components, self.rates, strict=True) if rate.linear]
        linear = f", exact in the linear terms of {', '.join(dict.fromkeys(exact))}" if exact else ""
        why = "as asked for" if self.options.scheme != "auto" else "all sides are periodic"
        return [
            f"the equation is solved by Fourier transforms ({why}) and Runge-Kutta of fourth order{linear}, with "
            f"{counted} by the symbol of its linearised rates",
            *self._given_told(),
        ]

    def _given_told(self) -> list[str]:
        """Return sentences on units, on what parameters determine beside the rates, and what surrogates see of it."""
        plain = Style(axes=self.layout.grid.axes, components=self._parts, latex=False)
        found = list(dict.fromkeys(text for _, (text,) in self._given(plain)))
        told = [] if self.units is None else [f"the units fit: {', '.join(self.units.told())}"]
        if at_sides := found[len(self.starts) :]:
            told.append(f"formulas give values at sides, which surrogates do not see: {'; '.join(at_sides)}")
        if self.starts:
            told.append(
                f"rollouts of the physics from t = {self.start:.6g} begin in a state that a formula gives, and those "
                f"of surrogates in the observed one: {'; '.join(found[: len(self.starts)])}"
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
        steady = bool(self.options.steady)
        given = [
            {"field": plain.of(symbol), "unicode": texts[0], "latex": texts[1], "exact": [], "other": []}
            for symbol, texts in self._given(plain, latex)
        ]
        rates = [
            {
                "field": plain.of(symbol),
                "unicode": plain.steady(node) if steady else plain.rate(symbol, node),
                "latex": latex.steady(node) if steady else latex.rate(symbol, node),
                "exact": [plain.term(term) for term, _ in rate.linear],
                "other": [plain.term(term) for term in rate.rest],
            }
            for symbol, node, rate in zip(self.components, self.nodes, self.rates, strict=True)
        ]
        return [*rates, *given]

    def _given(self, *styles: Style) -> Iterator[tuple[Symbol, list[str]]]:
        """Yield each start and each value at a side that parameters determine, as all styles write it."""
        for symbol, node in self.starts.items():
            yield symbol, [style.start(symbol, node, self.start) for style in styles]
        grid = self.layout.grid
        for symbol in self.components:
            info = self.layout.field(symbol.name)
            part = symbol.component if info.components else None
            for axis, ends in zip(grid.axes, zip(grid.lower, grid.upper, strict=True), strict=True):
                for place, rule in zip(ends, info.boundary.rules(axis, grid.axes, part), strict=True):
                    for text in rule.formulas:
                        yield symbol, [style.side(symbol, axis, place, self.walls[text]) for style in styles]

    def start_states(
        self, layout: StateLayout, count: int, generator: torch.Generator, parameters: Parameters
    ) -> Tensor:
        others = {Symbol("parameter", one.name): torch.tensor(one.init).double() for one in self.parameters}
        # of values that differ between times or groups, the first one
        others |= {
            Symbol("parameter", name): value if name in self.varying else value.flatten()[0]
            for name, value in parameters.items()
        }
        like = torch.zeros(count, self.layout.n_dynamic, *layout.spatial, dtype=torch.float64)
        time = torch.full((count, *[1] * layout.n_axes), self.start, dtype=torch.float64)
        sides = self._evaluation({}, others | self._at(time), like)
        values = {text: float(torch.as_tensor(sides.of(node)).flatten()[0]) for text, node in self.walls.items()}
        dynamic, static = (
            tuple(attrs.evolve(info, boundary=info.boundary.settled(values)) for info in infos)
            for infos in (layout.dynamic, layout.static)
        )
        states = self.initial_states(attrs.evolve(layout, dynamic=dynamic, static=static), count, generator)
        if not self.starts:
            return states
        n = layout.n_dynamic
        others |= {symbol: states[:, layout.channels(symbol.name)][:, symbol.component] for symbol in self.statics}
        return torch.cat([self._begun(states[:, :n], others, time), states[:, n:]], dim=1)

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        grid = layout.grid
        scale = self.options.length_scale * min(b - a for a, b in zip(grid.lower, grid.upper, strict=True))
        drawn = [
            noise_field(info, grid, layout.spatial, count, generator, scale=scale, amplitude=self.options.amplitude)
            for info in layout.fields
        ]
        return torch.cat(drawn, dim=1) + self.options.offset

    # --- checks ---

    def _check_units(self, units: Units, trees: Mapping[str, Expression], texts: Mapping[str, Text]) -> None:
        """Raise SpecError where what is added or equated has different units."""
        for name, tree in trees.items():
            if self.options.steady:
                units.alone(tree, texts[name])
            else:
                units.rate(name, tree, texts[name])
        given = {f"{KEY}.initial.{name}": (name.partition(".")[0], text) for name, text in self.options.initial.items()}
        sides = [("data.boundary", info.name, text) for info in self.layout.dynamic for text in info.boundary.formulas]
        for key, field, text in [*sides, *((key, *own) for key, own in given.items())]:
            units.value(field, parse(text, key), Text(text=text, key=key))

    def _unit(self, name: str) -> str:
        """Return the unit of a parameter; 1 where nothing says more."""
        found = None if self.units is None else self.units.of_name(name)
        return "1" if found is None or found.unknown else found.text

    def _is_spectral(self) -> bool:
        """Choose the scheme. Raise SpecError if the data are not periodic, and should be."""
        infos = [*self.layout.dynamic, *(self.layout.field(symbol.name) for symbol in self.statics)]
        open_ = [
            (info.name, axis)
            for info in infos
            for axis in self.layout.grid.axes
            if info.sampling == "centered" and not info.boundary.is_periodic(axis)
        ]
        if self.options.scheme == "spectral" and open_:
            name, axis = open_[0]
            raise SpecError(
                f'"spectral" needs periodic sides, and {name!r} is not periodic along {axis}: set '
                'data.boundary = "periodic" if the data are periodic, or choose "finite-difference"',
                key=f"{KEY}.scheme",
            )
        return self.options.scheme in ("auto", "spectral") and not open_

    def _check_cells(self) -> None:
        grid = self.layout.grid
        for number, (axis, n) in enumerate(zip(grid.axes, grid.resolution, strict=True)):
            most = max((reach(term.core, number) for terms in self.rest for term in terms), default=0)
            most = max(most, *(REACH for _ in self.transports), 0)
            if n <= most:
                raise DataError(
                    f"the differences of this equation reach {most} cells along {axis}, and the data have {n}",
                    key="data",
                )


class SteadyEquation(Equation, SteadyPhysics):
    """Equations of states that do not change."""

    def __init__(self, options: EquationOptions, layout: StateLayout, settings: Mapping[str, ParameterSetting]) -> None:
        """Raise SpecError also for what needs time, and for equations without space."""
        if not layout.n_axes:
            raise SpecError("steady states are fields on a grid, and this data has no space", key=f"{KEY}.steady")
        super().__init__(options, layout, settings)
        at_sides = {symbol for node in self.walls.values() for symbol in symbols(node)}
        timed = {"data.boundary": bool(at_sides.intersection(self.timed)), f"{KEY}.steady": self.uses_time}
        timed |= {f"{KEY}.parameters.{name}.along": bool(setting.along) for name, setting in settings.items()}
        if keys := [key for key, found in timed.items() if found]:
            raise SpecError("a steady state does not depend on time: leave t, series and along out", key=keys[0])
        grid, terms = layout.grid, [term.core for rate in self.rates for term in rate.rest]
        self.linear = all(degree(core) <= 1 for core in terms)
        varying = (symbol for core in terms if degree(core) for symbol in symbols(core))
        self.alike = self.linear and not any(symbol.kind == "static" for symbol in varying)
        reaches = [max((reach(core, axis) for core in terms), default=0) for axis in range(layout.n_axes)]
        if any(degree(mean) for core in terms for mean in means(core)):
            if (unknowns := layout.n_dynamic * math.prod(grid.resolution)) > MOST_DENSE:
                raise SpecError(
                    f"the mean of a field joins all {unknowns} unknowns; with it, at most {MOST_DENSE} are possible",
                    key=f"{KEY}.steady",
                )
            reaches = list(grid.resolution)
        self.stencil = Stencil(
            components=layout.n_dynamic,
            resolution=grid.resolution,
            periodic=tuple(layout.dynamic[0].boundary.is_periodic(axis) for axis in grid.axes),
            reach=tuple(reaches),
        )

    def residual(self, dynamic: Tensor, fields: Mapping[str, Tensor], parameters: Parameters) -> Tensor:
        known = {Symbol("parameter", name): value for name, value in parameters.items()}
        varying = {symbol: fields[symbol.name][:, symbol.component] for symbol in self.statics}
        numbers: dict[Symbol, Tensor] = {}
        for symbol, value in known.items():
            uniform = value.dim() == 0 or tuple(value.shape[-self.layout.n_axes :]) == (1,) * self.layout.n_axes
            (numbers if uniform else varying)[symbol] = value
        return self._change(dynamic, varying)(dynamic, numbers)

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        return 1

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        return 0.0

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        return None

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        way = "is linear, and is solved directly" if self.linear else "is solved by Newton's method"
        return [
            f"the steady equation {way}, with sparse factors of central differences of fourth order; derivatives "
            "follow from the implicit function theorem",
            *self._given_told(),
        ]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        if not layout.static:
            raise DataError(
                "steady states that are simulated differ in their inputs alone: name a static field of the equation in "
                "physical.inputs",
                key=f"{KEY}.inputs",
            )
        states = super().initial_states(layout, count, generator)
        # the first guess
        states[:, : layout.n_dynamic] = 0.0
        return states

    def _is_spectral(self) -> bool:
        return False


class System(Equation):
    """Equations without space: a state is one number for each component, and steps are as short as accuracy asks."""

    def __init__(
        self,
        options: EquationOptions,
        layout: StateLayout,
        settings: Mapping[str, ParameterSetting],
        statistics: Statistics | None,
        times: tuple[float, float] | None = None,
    ) -> None:
        """Raise SpecError also for what needs space."""
        if options.scheme != "auto":
            raise SpecError(
                "the data have no space, and a system of equations without it no scheme", key=f"{KEY}.scheme"
            )
        for name, setting in settings.items():
            if setting.field:
                raise SpecError("there is no space over which it could vary", key=f"{KEY}.parameters.{name}.field")
        super().__init__(options, layout, settings, times)
        self._known = statistics is not None and len(statistics.states) > 1
        if statistics is not None and self._known:
            self._states = statistics.states
        else:
            around, most = options.offset, 2 * options.amplitude
            ends = probes(dict.fromkeys(self.components, (around - most, around + most)))
            dynamic = torch.stack(list(ends.values()), dim=1)
            static = dynamic.new_zeros(len(dynamic), layout.n_all - layout.n_dynamic)
            self._states = torch.cat([dynamic, static], dim=1)

    def internal_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> int:
        least = self.least_steps(layout, size, parameters, dt)
        if math.isfinite(least):
            return max(1, math.ceil(LEARNING_ROOM * least - 1e-9))
        values = ", ".join(f"{name} = {float(value):.3g}" for name, value in parameters.items())
        raise DataError(
            f"with {values}, frames of {dt:g} are not accurate even with {MOST} internal steps, from states of the "
            "data: check units, bounds and start values of the parameters, and the time between frames, or set "
            "physical.dt",
            key="physical.dt",
        )

    def least_steps(self, layout: StateLayout, size: Mapping[str, float], parameters: Parameters, dt: float) -> float:
        """Return the number of steps at which a frame is accurate."""
        states, n = self._states, layout.n_dynamic
        with torch.no_grad():
            if not self._known:
                # the data are yet to be made, and are what these states become
                found = reached(self._advance(states, parameters, dt), states[:, :n])
                states = torch.cat([found, found.new_zeros(len(found), layout.n_all - n)], dim=1)
            return accurate_steps(self._advance(states, parameters, dt), states[:, :n], states[:, :n].std(0))

    def _advance(self, states: Tensor, parameters: Parameters, dt: float) -> Advance:
        """Return the function that makes some steps of a frame; what does not change is that of `states [N, C_all]`."""
        others = {Symbol("parameter", name): value.to(states) for name, value in parameters.items()}
        for symbol in self.statics:
            others[symbol] = states[:, self.layout.channels(symbol.name)][:, symbol.component]
        begin = number_in(states, self.layout, TIME) if self.timed else None

        def advance(dynamic: Tensor, steps: int) -> Tensor:
            for index in range(steps):
                time = None if begin is None else begin + index * dt / steps
                dynamic = self._difference_step(dynamic, others, time, dt / steps)
            return dynamic

        return advance

    def stability(
        self, layout: StateLayout, state: Mapping[str, Tensor], parameters: Parameters, dt: float
    ) -> str | None:
        states = torch.cat([state[info.name] for info in layout.fields], dim=1).double()
        dynamic = states[:, : layout.n_dynamic]
        spread = (self._states if self._known else states)[:, : layout.n_dynamic].std(0, correction=0).to(states.device)
        with torch.no_grad():
            steps = accurate_steps(self._advance(states, parameters, dt), dynamic, spread, ROUGH)
        if steps <= 1:
            return None
        return (
            f"equation: steps of dt = {dt:g} are too long: half of the step changes a field by more than {ROUGH:g} of "
            f"its spread. Set physical.dt to at most {dt / steps:.3g}"
        )

    def statements(self, layout: StateLayout, internal_steps: int, dt: float) -> Sequence[str]:
        return [
            f"the system of equations is solved by classical Runge-Kutta with {_counted(internal_steps)}, so many that "
            f"twice as many change a frame by less than {TOLERANCE:g} of the spread of each field",
            *self._given_told(),
        ]

    def initial_states(self, layout: StateLayout, count: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(count, layout.n_all, generator=generator, dtype=torch.float64)
        return self.options.offset + self.options.amplitude * drawn

    def _is_spectral(self) -> bool:
        return False


def _ends(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _counted(steps: int) -> str:
    return f"{steps} internal step{'s' if steps > 1 else ''} a frame"


def _exact(rate: Rate, evaluation: Spectral) -> Tensor:
    """Return the factor of the linear terms of a rate for each wave."""
    total = torch.zeros_like(evaluation.spectrum.square)
    for term, operator in rate.linear:
        total = total + evaluation.factor(term, evaluation.factor_of(operator))
    return total


def _exact_at_walls(rate: Rate, evaluation: Differences, waves: Mirrored) -> Tensor:
    """Return the factor of the linear terms of a rate for each wave."""
    total = waves.symbol([0] * evaluation.n_axes) * 0.0
    for term, operator in rate.linear:
        total = total + evaluation.factor(term, reduce(add, map(waves.symbol, operator)))
    return total


def _even(node: Node, own: Symbol, expansion: Expansion) -> Rate:
    """Return the rate of a component with the linear terms that keep its symmetry, and the rest as differences."""
    linear: list[tuple[Term, Operator]] = []
    rest: list[Term] = []
    for term in expansion.terms(node):
        match term.core:
            case Derivative(operator=operator, argument=inner) if inner == own and not any(
                n % 2 for orders in operator for n in orders
            ):
                linear.append((term, operator))
            case _:
                rest.append(term)
    split = [part for term in rest for part in skew_form(term)]
    return Rate(linear=tuple(linear), rest=tuple(Term(t.number, t.coefficient, diffusion_form(t.core)) for t in split))


def _transformed(terms: Sequence[Term], evaluation: Spectral) -> Tensor:
    """Return the spectrum of a sum of terms; those with the same outer derivative take one transform."""
    groups: dict[Operator | None, list[Any]] = {}
    total: Tensor = torch.zeros_like(evaluation.spectrum.square)
    for term in terms:
        operator, core = None, term.core
        if type(core) is Derivative:
            operator, core = core.operator, core.argument
        if type(core) is Symbol and core in evaluation.waves:
            wave = evaluation.waves[core]
            total = total + evaluation.factor(term, wave if operator is None else evaluation.factor_of(operator) * wave)
        else:
            groups.setdefault(operator, []).append(evaluation.factor(term, evaluation.of(core)))
    for operator, values in groups.items():
        spectrum = evaluation.forward(reduce(add, values))
        total = total + (spectrum if operator is None else evaluation.factor_of(operator) * spectrum)
    return total


def _difference_terms(node: Node, expansion: Expansion) -> tuple[Term, ...]:
    """Return the terms in the forms that keep sums where differences take the place of derivatives."""
    split = [part for term in expansion.terms(node) for part in skew_form(term)]
    return tuple(Term(term.number, term.coefficient, diffusion_form(term.core)) for term in split)


def _walls(layout: StateLayout, words: Words, varying: Sequence[str]) -> dict[str, Node]:
    """Return the values at sides that formulas give, by their texts. Raises SpecError."""
    key = "data.boundary"
    numbers = [name for name in words.static if layout.field(name).sampling == "uniform"]
    told = "varies in space, and a side has one value"
    known = attrs.evolve(
        words,
        refused={name: told for name in (*words.axes, *words.dynamic, *words.static, *varying)}
        | {name: f"is a number of the data: physical.parameters.{name}.from makes it a parameter" for name in numbers},
    )
    found = {}
    for text in dict.fromkeys(text for info in layout.fields for text in info.boundary.formulas):
        source = Text(text=text, key=key)
        tree = parse(text, key)
        parts = lowered(tree, source, known)
        if len(parts) != 1 or not is_number(parts[0]):
            raise source.mistake(tree.place, "a side has one value: leave derivatives and means out")
        found[text] = parts[0]
    return found


def _starts(texts: Mapping[str, str], layout: StateLayout, words: Words) -> dict[Symbol, Node]:
    """Return the start states that the spec gives, of each component. Raises SpecError."""
    found: dict[Symbol, Node] = {}
    known = attrs.evolve(words, refused=dict.fromkeys(words.dynamic, "has no value yet where it starts"))
    for name, text in texts.items():
        source = Text(text=text, key=f"{KEY}.initial.{name}")
        parts = lowered(parse(text, source.key), source, known)
        field, _, component = name.partition(".")
        info = layout.field(field)
        if component and component not in info.components:
            listed = ", ".join(f"{field}.{one}" for one in info.components)
            told = f"the components of {field!r} are {listed}" if listed else f"{field!r} has no components"
            raise SpecError(told, key=source.key)
        own = [info.components.index(component)] if component else list(range(info.channels))
        if len(parts) != len(own):
            written = f'; give its components, such as initial."{field}.{info.components[0]}"' if len(own) > 1 else ""
            raise SpecError(f"has {len(parts)} component(s), and the field has {len(own)}{written}", key=source.key)
        found |= {Symbol("field", field, index): part for index, part in zip(own, parts, strict=True)}
    return found


def _units(options: EquationOptions, layout: StateLayout, words: Words) -> Units | None:
    """Return the units that the spec and the data give; None if there are none. Raises SpecError."""
    infos = {info.name: info for info in layout.fields}
    own = {name: info.unit for name, info in infos.items() if info.unit != "1" and name not in options.units}
    if not (own or options.units):
        return None
    constants = [f"constants.{name}" for name in options.constants]
    known = [*words.dynamic, *words.static, *words.parameters, *words.axes, "t", *constants]
    for name in options.units:
        if name not in known:
            listed = f"there are {', '.join(known)}"
            raise SpecError(f"nothing has the name {name!r}{did_you_mean(name, known)}; {listed}", key=f"{KEY}.units")
    try:
        pint = base_units()
    except ImportError:
        if not options.units:
            return None
        told = "units are checked by the package pint: install it (pip install 'hyco-engine[units]'), or leave them out"
        raise SpecError(told, key=f"{KEY}.units") from None
    found = {}
    for name, unit in {**own, **options.units}.items():
        try:
            found[name] = Unit.known(*pint.of(unit))
        except ValueError as error:
            # data may have units that only their author understands
            if name in options.units:
                raise SpecError(str(error), key=f"{KEY}.units.{name}") from None
    return Units(words, found) if found else None


def _declared(name: str, setting: ParameterSetting, unit: str) -> ParameterDeclaration:
    key = f"{KEY}.parameters.{name}"
    if setting.init is None and setting.from_ is None:
        raise SpecError("an equation cannot know where its parameters start: give init", key=key)
    start = setting.init if isinstance(setting.init, float | int) else 1.0
    try:
        return ParameterDeclaration(name=name, init=float(start), unit=unit, may_be_field=True, help="of the equation")
    except PluginError as error:
        raise SpecError(str(error), key=key) from None


def _is_field(setting: ParameterSetting, layout: StateLayout) -> bool:
    """Return whether the data give the parameter as a field."""
    given = {info.name: info for info in layout.static}
    return setting.from_ in given and given[setting.from_].sampling == "centered"


def _chosen(options: EquationOptions, layout: StateLayout, context: PhysicsContext) -> Equation:
    """Return the equation, with linear terms exact at walls where it saves most of the internal steps.

    That follows from the spec and the grid alone, so that it is the same whenever a model is built.
    """
    plain = Equation(options, layout, context.parameters, context.times)
    if options.scheme != "auto" or plain.spectral or not plain.mirrors() or context.dt is None:
        return plain
    exact = Equation(options, layout, context.parameters, context.times, exact=True)
    if not exact.mirrored:
        return plain
    start = {one.name: torch.tensor(one.init, dtype=torch.float64) for one in plain.parameters}
    dt = context.inner_dt or context.dt
    needed, left = (max(1.0, one.least_steps(layout, {}, start, dt)) for one in (plain, exact))
    # a step that the user set has its number, and only has to be stable
    return exact if needed > (STIFF if context.inner_dt is None else 1.0) * left else plain


def build(options: EquationOptions, context: PhysicsContext) -> TorchModel | SteadyModel:
    """Build the model; the registry calls this factory."""
    given = context.layout
    grid = given.grid if given is not None else context.grid
    if grid is None:
        raise DataError("an equation needs data on a grid, and this data has none", key="physical.kind")
    boundary = Boundary.parse("periodic", grid.axes)
    dynamic, static = (
        [
            FieldInfo(
                name=name,
                components=grid.axes if name in options.vectors and len(grid.axes) > 1 else (),
                boundary=boundary,
            )
            for name in names
        ]
        for names in (options.texts, options.inputs)
    )
    if given is not None:
        known = {info.name: info for info in given.dynamic}
        dynamic = [known.get(info.name, info) for info in dynamic]
        if odd := [info.name for info in dynamic if info.sampling != "centered"]:
            raise DataError(f"an equation needs centred fields, and {odd[0]!r} is staggered", key="data.fields")
    layout = context.layout_for(dynamic, static if given is None else ())
    texts = [text for info in layout.fields for text in info.boundary.formulas]
    timed = options.uses_time() or any(options.is_timed(text) for text in texts)
    if given is None and context.dt is not None and timed:
        layout = attrs.evolve(layout, static=(*layout.static, FieldInfo.time(grid.axes, context.dt)))
    times = context.times
    if options.steady:
        return SteadyModel(SteadyEquation(options, layout, context.parameters), context)
    if grid.axes:
        return TorchModel(_chosen(options, layout, context), context)
    return TorchModel(System(options, layout, context.parameters, context.statistics, times), context)
