"""How equations on a grid are solved: the forms of their rates, their steps, and how long these may be."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import TIME, Rule
from hyco_engine.equations.evaluation import (
    Differences,
    Evaluation,
    Spectral,
    boxes,
    difference_symbol,
    spectral_symbol,
)
from hyco_engine.equations.meaning import Meaning
from hyco_engine.equations.shocks import (
    COURANT,
    REACH,
    ROUGHER,
    ROUNDING,
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
from hyco_engine.equations.terms import (
    Derivative,
    Expansion,
    Node,
    Operator,
    Rate,
    Symbol,
    Term,
    diffusion_form,
    flux_form,
    skew_form,
)
from hyco_engine.errors import DataError
from hyco_engine.physics.explicit import rk4, ssprk3
from hyco_engine.physics.exponential import etdrk4
from hyco_engine.physics.mirrored import Mirrored, mirrors
from hyco_engine.physics.spectral import Spectrum

WAVES = (9, 9, 5)
"""The number of wave numbers along each axis at which steps are tested, in one, two and three dimensions."""
Values = Mapping[Symbol, Tensor]


class Scheme(ABC):
    """Solves an equation. `rates` are its terms by how they are solved in time."""

    rounding = 1.0
    """How many times as much as those of differences its derivatives change by rounding."""

    def __init__(self, meaning: Meaning, rates: Sequence[Rate], terms: Sequence[Sequence[Term]] | None = None) -> None:
        """`terms` are those of each component that are evaluated as they are; without them, all that are not exact."""
        self.meaning = meaning
        self.rates = rates
        self.terms = [rate.rest for rate in rates] if terms is None else terms

    @abstractmethod
    def step(self, state: Tensor, others: Values, time: Tensor | None, dt: float) -> Tensor:
        """Return states `[B, C_dyn, *S]` after `dt`.

        `others` are parameters and static fields, and `time` is that of the states, if the equation depends on it.
        """

    @abstractmethod
    def told(self, counted: str, *, asked: bool) -> str:
        """Return the sentence on how the equation is solved; `asked` is whether the spec asks for this scheme."""

    @abstractmethod
    def _shortest(self) -> list[float]:
        """Return the largest wave number along each axis."""

    @abstractmethod
    def _symbol(self, waves: Sequence[Tensor]) -> Callable[[Sequence[int]], Tensor]:
        """Return the function that gives the factors of derivatives of some orders for these waves."""

    @property
    def exact(self) -> list[str]:
        """The fields of which linear terms are exact."""
        pairs = zip(self.meaning.components, self.rates, strict=True)
        return list(dict.fromkeys(symbol.name for symbol, rate in pairs if rate.linear))

    def least_steps(self, ranges: Mapping[Symbol, tuple[float, float]], dt: float) -> float:
        """Return the number of steps in `dt` at which no wave grows more than the equation lets it grow.

        `ranges` are those of everything in the rates.
        """
        if not any(rate.rest for rate in self.rates):
            return 0.0
        if not all(math.isfinite(end) for ends in ranges.values() for end in ends):
            return math.inf
        grid = self.meaning.layout.grid
        states = probes(ranges)
        count = len(next(iter(states.values())))
        # twice: without slopes, and with those of long waves
        states = {symbol: torch.cat([values, values]) for symbol, values in states.items()}
        lengths = [upper - lower for lower, upper in zip(grid.lower, grid.upper, strict=True)]
        waves = waves_of(lengths, self._shortest(), WAVES[len(lengths) - 1])
        symbol_of = self._symbol(waves)

        def factors(operator: Operator) -> Tensor:
            return sum((symbol_of(orders).expand(len(waves[0])) for orders in operator), torch.zeros(()))

        def slope(operator: Operator) -> Tensor:
            long = [2 * math.pi / (WAVE_CELLS * dx) for dx in grid.spacing]
            most = sum(math.prod(k**n for k, n in zip(long, orders, strict=True)) for orders in operator)
            return torch.cat([torch.zeros(count), torch.full((count,), most)]).double()

        evaluation = Linearised(states, self.meaning.components, factors, slope, len(lengths))
        jacobian = jacobian_of(self.terms, evaluation, (2 * count, len(waves[0])))
        flat = jacobian[:count, sum(wave.abs() for wave in waves) == 0][:, 0]
        least = least_steps(linear_of(self.rates, evaluation, len(waves[0])), jacobian, flat, dt)
        return self._least(least, evaluation, dt)

    def _least(self, least: float, evaluation: Linearised, dt: float) -> float:
        """Return the number of steps that is least for this scheme, where the symbol of the rates asks for `least`."""
        return least


class Fourier(Scheme):
    """Fourier transforms, and linear terms that are exact in time."""

    def __init__(self, meaning: Meaning) -> None:
        expansion, n_axes = Expansion(meaning.varying), meaning.layout.n_axes
        pairs = zip(meaning.nodes, meaning.components, strict=True)
        rates = [Rate.of(node, own, expansion, n_axes) for node, own in pairs]
        super().__init__(
            meaning, [attrs.evolve(rate, rest=tuple(flux_form(term) for term in rate.rest)) for rate in rates]
        )

    def step(self, state: Tensor, others: Values, time: Tensor | None, dt: float) -> Tensor:
        grid, meaning = self.meaning.layout.grid, self.meaning
        spectrum = Spectrum(grid, state)
        u = spectrum.forward(state)
        known = Spectral(grid, spectrum, {}, others)
        none = torch.zeros_like(spectrum.square)
        linear = torch.stack([_exact(rate, known, known.factor_of, none) for rate in self.rates])
        if not any(self.terms):
            return spectrum.inverse(torch.exp(dt * linear) * u)

        def slope(u: Tensor, since: float) -> Tensor:
            kept = u * spectrum.resolved
            waves = {symbol: kept[:, index] for index, symbol in enumerate(meaning.components)}
            now = meaning.at(None if time is None else time + since)
            evaluation = Spectral(grid, spectrum, waves, {**others, **now})
            parts = [_transformed(terms, evaluation).expand(kept[:, 0].shape) for terms in self.terms]
            return torch.stack(parts, dim=1) * spectrum.resolved

        return spectrum.inverse(etdrk4(linear, slope, u, dt))

    def told(self, counted: str, *, asked: bool) -> str:
        why = "as asked for" if asked else "all sides are periodic"
        linear = f", exact in the linear terms of {', '.join(self.exact)}" if self.exact else ""
        return (
            f"the equation is solved by Fourier transforms ({why}) and Runge-Kutta of fourth order{linear}, with "
            f"{counted} by the symbol of its linearised rates"
        )

    def _shortest(self) -> list[float]:
        grid = self.meaning.layout.grid
        ends = zip(grid.lower, grid.upper, grid.resolution, strict=True)
        return [2 * math.pi / (upper - lower) * ((n - 1) // 3) for lower, upper, n in ends]

    def _symbol(self, waves: Sequence[Tensor]) -> Callable[[Sequence[int]], Tensor]:
        return partial(spectral_symbol, waves=waves)


class Central(Scheme):
    """Central differences of fourth order, and classical Runge-Kutta."""

    advance = staticmethod(rk4)

    def __init__(
        self,
        meaning: Meaning,
        rates: Sequence[Rate] | None = None,
        terms: Sequence[Sequence[Term]] | None = None,
    ) -> None:
        """Raise DataError where the differences reach further than the grid."""
        if rates is None:
            expansion = Expansion(meaning.varying)
            rates = [Rate(linear=(), rest=_skew(expansion.terms(node))) for node in meaning.nodes]
        super().__init__(meaning, rates, terms)
        grid = meaning.layout.grid
        for number, (axis, n) in enumerate(zip(grid.axes, grid.resolution, strict=True)):
            most = self._reach(number)
            if n <= most:
                raise DataError(
                    f"the differences of this equation reach {most} cells along {axis}, and the data have {n}",
                    key="data",
                )

    @property
    def boxes(self) -> frozenset[tuple[int, ...]]:
        """The boxes of cells, by their reach along each axis, on which the terms at a cell depend."""
        n_axes = self.meaning.layout.n_axes
        own = frozenset([(0,) * n_axes])
        return own.union(*(boxes(term.core, n_axes) for terms in self.terms for term in terms))

    def _reach(self, axis: int) -> int:
        return max(box[axis] for box in self.boxes)

    def step(self, state: Tensor, others: Values, time: Tensor | None, dt: float) -> Tensor:
        fields, numbers = self.meaning.split(others)
        change = self.change(state, fields)

        def rate(values: dict[str, Any]) -> dict[str, Any]:
            return {"all": change(values["all"], numbers | self.meaning.at(values.get(TIME))), TIME: 1.0}

        begun = {"all": state} if time is None else {"all": state, TIME: time}
        advanced: Tensor = self.advance(rate, begun, dt)["all"]
        return advanced

    def change(self, like: Tensor, fields: Values) -> Callable[[Tensor, Values], Tensor]:
        """Return the function of states `[B, C, *S]`, and of what is the same everywhere, that evaluates the equations.

        `fields` are those that vary in space, besides the dynamic ones.
        """

        def change(dynamic: Tensor, numbers: Values) -> Tensor:
            own = {symbol: dynamic[:, index] for index, symbol in enumerate(self.meaning.components)}
            evaluation = self.meaning.differences({**fields, **own}, numbers, like)
            totals = self._totals(evaluation)
            return torch.stack([evaluation.tensor(own).expand(dynamic[:, 0].shape) for own in totals], dim=1)

        return change

    def _totals(self, evaluation: Differences) -> list[Any]:
        """Return the sum of the terms of each component that are not exact."""
        return [reduce(add, map(evaluation.term, terms), 0.0) for terms in self.terms]

    def told(self, counted: str, *, asked: bool) -> str:
        why = "as asked for" if asked else "a side is not periodic"
        return (
            f"the equation is solved by central differences of fourth order ({why}) and classical Runge-Kutta, with "
            f"{counted} by the symbol of its linearised rates"
        )

    def _shortest(self) -> list[float]:
        return [math.pi / dx for dx in self.meaning.layout.grid.spacing]

    def _symbol(self, waves: Sequence[Tensor]) -> Callable[[Sequence[int]], Tensor]:
        return partial(difference_symbol, waves=waves, spacing=self.meaning.layout.grid.spacing)


class Mirroring(Central):
    """Central differences where sides mirror fields: linear terms that keep their symmetry are exact in time."""

    def __init__(self, meaning: Meaning) -> None:
        expansion = Expansion(meaning.varying)
        super().__init__(
            meaning, [_even(node, own, expansion) for node, own in zip(meaning.nodes, meaning.components, strict=True)]
        )

    @staticmethod
    def fits(meaning: Meaning) -> bool:
        """Return whether all components continue evenly or oddly beyond all sides, by the same rules."""
        every = {
            tuple(_sides(meaning, info.name, index if info.components else None))
            for info in meaning.layout.dynamic
            for index in range(info.channels)
        }
        return meaning.layout.n_axes > 0 and len(every) == 1 and all(map(mirrors, next(iter(every))))

    def step(self, state: Tensor, others: Values, time: Tensor | None, dt: float) -> Tensor:
        meaning = self.meaning
        waves = Mirrored(meaning.layout.grid, _sides(meaning, meaning.components[0].name, None), state)
        fields, numbers = meaning.split(others)
        # factors of linear terms are the same everywhere
        known = meaning.differences(fields, numbers, state)
        none = waves.symbol([0] * meaning.layout.n_axes) * 0.0
        factors = [_exact(rate, known, lambda own: reduce(add, map(waves.symbol, own)), none) for rate in self.rates]
        linear = torch.stack([own.expand(waves.shape_of) for own in factors])
        u = waves.forward(state)
        if not any(self.terms):
            return waves.inverse(torch.exp(dt * linear) * u)
        change = self.change(state, fields)

        def slope(u: Tensor, since: float) -> Tensor:
            now = meaning.at(None if time is None else time + since)
            return waves.forward(change(waves.inverse(u), numbers | now))

        return waves.inverse(etdrk4(linear, slope, u, dt))

    def told(self, counted: str, *, asked: bool) -> str:
        return (
            "the equation is solved by central differences of fourth order (a side is not periodic) and Runge-Kutta of "
            f"fourth order, exact in the linear terms of {', '.join(self.exact)} by cosine and sine transforms (they "
            f"are stiff), with {counted} by the symbol of its linearised rates"
        )


class Upwind(Central):
    """WENO reconstructions of what is transported, central differences of all else, and Runge-Kutta without extrema."""

    advance = staticmethod(ssprk3)
    rounding = ROUNDING

    def __init__(self, meaning: Meaning) -> None:
        """Raise DataError where the reconstructions reach further than the grid."""
        expansion = Expansion(meaning.varying)
        terms = [tuple(map(conserved, expansion.terms(node))) for node in meaning.nodes]
        rest, self.transports = divided(terms, meaning.layout.n_axes)
        rest = [tuple(attrs.evolve(term, core=diffusion_form(term.core)) for term in own) for own in rest]
        super().__init__(meaning, [Rate(linear=(), rest=own) for own in terms], rest)

    def _reach(self, axis: int) -> int:
        return max(REACH, super()._reach(axis))

    def _totals(self, evaluation: Differences) -> list[Any]:
        totals = super()._totals(evaluation)
        for transport in self.transports:
            moved = transported(transport, evaluation, self.meaning.components)
            totals = [total + own for total, own in zip(totals, moved, strict=True)]
        return totals

    def told(self, counted: str, *, asked: bool) -> str:
        return (
            "the equation is solved by WENO reconstructions of fluxes and advection from the upwind side, of fifth "
            "order where states are smooth (as asked for), central differences of fourth order, and Runge-Kutta of "
            f"third order that makes no extrema, with {counted} by its fastest speed and the symbol of its linearised "
            "rates"
        )

    def _least(self, least: float, evaluation: Linearised, dt: float) -> float:
        fastest = float(courant(self.transports, evaluation, self.meaning.layout.grid.spacing).max())
        return ROUGHER * least + dt * fastest / COURANT


def _sides(meaning: Meaning, field: str, component: int | None) -> list[tuple[Rule, Rule]]:
    """Return the rules of a component of a field on the two sides of each axis."""
    axes = meaning.layout.grid.axes
    return [meaning.layout.field(field).boundary.rules(axis, axes, component) for axis in axes]


def _skew(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Return terms in the forms that keep sums where differences take the place of derivatives."""
    split = [part for term in terms for part in skew_form(term)]
    return tuple(attrs.evolve(term, core=diffusion_form(term.core)) for term in split)


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
    return Rate(linear=tuple(linear), rest=_skew(rest))


def _exact(rate: Rate, evaluation: Evaluation, symbol_of: Callable[[Operator], Tensor], none: Tensor) -> Tensor:
    """Return the factor of the linear terms of a rate for each wave, which is `none` without such terms."""
    return sum((evaluation.factor(term, symbol_of(operator)) for term, operator in rate.linear), none)


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
