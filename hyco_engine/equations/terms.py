"""Equations as sums of terms of scalars: words are resolved, vectors become components, and the linear part is found.

A node stands for a scalar function of position. An operator is a sum of partial derivatives with constant coefficients
of 1, each given by its order along each axis: the Laplacian in the plane is `((2, 0), (0, 2))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any, Literal, TypeAlias

import attrs

from hyco_engine.data.fields import TIME
from hyco_engine.equations.syntax import Call, Expression, Name, Negative, Number, Operation, Text, constant
from hyco_engine.hooks.checking import did_you_mean

MAX_TERMS = 100
"""The number of terms up to which products of sums are multiplied out."""
MAX_ORDER = 8
"""The highest order of a derivative, and of derivatives within one another."""
MAX_NODES = 10_000
"""The size of an equation with all vectors as components. Each product of vectors may multiply it."""

FUNCTIONS: Mapping[str, int] = {
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"), 1),
    **dict.fromkeys(("exp", "log", "sqrt", "abs", "sign"), 1),
    **dict.fromkeys(("min", "max"), 2),
}
"""The number of arguments of each function of numbers."""
OF_NUMBERS: Mapping[str, Callable[..., float]] = {
    **{name: getattr(math, name) for name in FUNCTIONS if hasattr(math, name)},
    **{"abs": abs, "min": min, "max": max, "sign": lambda value: float((value > 0) - (value < 0))},
}
SPATIAL = ("lap", "grad", "div", "dot", "advect", "mean")
"""The functions that mean something only where there is space."""
DIFFERENTIAL = (*SPATIAL, "where")
SPACE = ("x", "y", "z")
COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
PI = math.pi

Operator: TypeAlias = tuple[tuple[int, ...], ...]


@attrs.frozen(cache_hash=True)
class Value:
    value: float


@attrs.frozen(cache_hash=True)
class Symbol:
    """A quantity by its name; `component` counts the components of a field, and 0 is a scalar's only one."""

    kind: Literal["field", "static", "parameter", "coordinate", "time", "series"]
    name: str
    component: int = 0


@attrs.frozen(cache_hash=True)
class Sum:
    parts: tuple[Node, ...]


@attrs.frozen(cache_hash=True)
class Product:
    factors: tuple[Node, ...]


@attrs.frozen(cache_hash=True)
class Power:
    base: Node
    exponent: float


@attrs.frozen(cache_hash=True)
class Apply:
    function: str
    arguments: tuple[Node, ...]


@attrs.frozen(cache_hash=True)
class Derivative:
    operator: Operator
    argument: Node


@attrs.frozen(cache_hash=True)
class Diffusion:
    """`d/dx (a du/dx)` along the axis of this number."""

    axis: int
    coefficient: Node
    argument: Node


@attrs.frozen(cache_hash=True)
class Mean:
    argument: Node


@attrs.frozen(cache_hash=True)
class Choice:
    """`chosen` where `left sign right` holds, else `other`."""

    sign: str
    left: Node
    right: Node
    chosen: Node
    other: Node


Node: TypeAlias = Value | Symbol | Sum | Product | Power | Apply | Derivative | Diffusion | Mean | Choice
Vector: TypeAlias = tuple[Node, ...]
"""A scalar has one component, and a vector several."""

ONE = Value(1.0)


@attrs.frozen(kw_only=True)
class Words:
    """What the names in equations mean: the axes, the components of each field (none for a scalar), and numbers."""

    axes: tuple[str, ...]
    dynamic: Mapping[str, tuple[str, ...]]
    static: Mapping[str, tuple[str, ...]] = attrs.Factory(dict)
    parameters: tuple[str, ...] = ()
    constants: Mapping[str, float] = attrs.Factory(dict)
    series: Collection[str] = ()
    """Constants that are functions of time."""
    refused: Mapping[str, str] = attrs.Factory(dict)
    """Why names of these have no meaning where the text stands."""

    def known(self) -> list[str]:
        """Return all names that have a meaning, for a message."""
        fields = {**self.dynamic, **self.static}
        parts = [f"{name}.{part}" for name, components in fields.items() for part in components]
        constants = [f"constants.{name}" for name in (*self.constants, *self.series)]
        every = [*fields, *parts, *self.parameters, *constants, *self.axes, "t", "pi"]
        return [name for name in every if name.partition(".")[0] not in self.refused]


@attrs.frozen
class Term:
    """`number * coefficient * core`, where the coefficient is the same everywhere and the core is not."""

    number: float
    coefficient: tuple[Node, ...]
    core: Node


def lowered(node: Expression, source: Text, words: Words) -> Vector:
    """Return the components of an expression. Raises SpecError with the place of a mistake."""
    return _Lowering(source, words).of(node)


class _Lowering:
    def __init__(self, source: Text, words: Words) -> None:
        self.source = source
        self.words = words
        n = len(words.axes)
        self.along = {f"d{axis}": i for i, axis in enumerate(words.axes)}
        self.units: list[tuple[int, ...]] = [tuple(int(i == j) for j in range(n)) for i in range(n)]
        self._measures: dict[Node, tuple[int, int]] = {}
        self._numbers: dict[Node, float | None] = {}

    def of(self, node: Expression) -> Vector:
        found = self._of(node)
        numbers = [self._number(own) for part in found for own in (part, *children(part))]
        if not all(value is None or math.isfinite(value) for value in numbers):
            told = "is no finite number: it divides by zero, is too large, or has no value, as the root of -1 has none"
            raise self.source.mistake(node.place, told)
        sizes, orders = zip(*map(self._measure, found), strict=True)
        if max(orders) > MAX_ORDER:
            told = (
                f"takes derivatives within one another of order {max(orders)} in all; at most {MAX_ORDER} are possible"
            )
            raise self.source.mistake(node.place, told)
        if sum(sizes) > MAX_NODES:
            raise self.source.mistake(node.place, f"has more than {MAX_NODES} terms and factors, written as components")
        return found

    def _number(self, node: Node) -> float | None:
        """Return the value of a node that is one, NaN if it has none; None for what has symbols in it."""
        if node not in self._numbers:
            inner = [self._number(child) for child in children(node)]
            known = [value for value in inner if value is not None]
            of_numbers = type(node) is Value or (bool(inner) and len(known) == len(inner))
            self._numbers[node] = _number(node, known) if of_numbers else None
        return self._numbers[node]

    def _measure(self, node: Node) -> tuple[int, int]:
        """Return how many nodes there are, and the order of the derivatives within one another."""
        if node not in self._measures:
            sizes, orders = zip((1, 0), *map(self._measure, children(node)), strict=True)
            own = sum(node.operator[0]) if type(node) is Derivative else 0
            self._measures[node] = sum(sizes), own + max(orders)
        return self._measures[node]

    def _of(self, node: Expression) -> Vector:
        match node:
            case Number(value=value):
                return (Value(value),)
            case Name():
                return self._name(node)
            case Negative(argument=inner):
                return tuple(times(Value(-1.0), part) for part in self.of(inner))
            case Operation(sign=sign) if sign in COMPARED:
                raise self.source.mistake(node.place, f"{sign} compares only in where(condition, a, b)")
            case Operation(sign="**", right=right):
                return (self._power(node, self._scalar(node.left, "a power"), constant(right)),)
            case Operation(sign="/", right=right):
                below = self._power(right, self._scalar(right, "a divisor"), -1.0)
                return tuple(times(part, below) for part in self.of(node.left))
            case Operation(sign="*"):
                return self._product(node)
            case Operation():
                return self._sum(node)
        return self._call(node)

    def _power(self, place: Expression, base: Node, exponent: float) -> Node:
        if type(base) is not Value:
            return power(base, exponent)
        try:
            value = base.value**exponent
        except ArithmeticError:
            value = math.inf
        if type(value) is not float:
            raise self.source.mistake(
                place.place, f"is a power of a negative number, {base.value:g}, that has no value"
            )
        return Value(value)

    def _name(self, node: Name) -> Vector:
        words, (name, _, part) = self.words, node.name.partition(".")
        fields = {**words.static, **words.dynamic}
        if name in words.refused:
            raise self.source.mistake(node.place, f"{node.name!r} {words.refused[name]}")
        if name == "constants" and part in words.constants:
            return (Value(words.constants[part]),)
        if name == "constants" and part in words.series:
            return (Symbol("series", part),)
        if name in fields:
            kind: Literal["field", "static"] = "field" if name in words.dynamic else "static"
            components = fields[name]
            if part in components:
                return (Symbol(kind, name, components.index(part)),)
            if not part:
                return tuple(Symbol(kind, name, index) for index in range(max(1, len(components))))
        if not part and name in words.parameters:
            return (Symbol("parameter", name),)
        if not part and name in words.axes:
            return (Symbol("coordinate", name),)
        if node.name == "pi":
            return (Value(PI),)
        if node.name == TIME:
            return (Symbol("time", TIME),)
        known = words.known()
        told = f"unknown name {node.name!r}{did_you_mean(node.name, known)}; there are {', '.join(known)}"
        if name == "constants":
            told += f". A constant has its value in the spec: physical.{node.name}"
        elif not part:
            told += f". A parameter has a start value in the spec: physical.parameters.{name}.init"
        raise self.source.mistake(node.place, told)

    def _sum(self, node: Operation) -> Vector:
        left, right = self.of(node.left), self.of(node.right)
        if len(left) != len(right):
            word = "adds" if node.sign == "+" else "subtracts"
            raise self.source.mistake(node.place, f"{word} {_sort(left)} and {_sort(right)}")
        factor = Value(1.0 if node.sign == "+" else -1.0)
        return tuple(plus(a, times(factor, b)) for a, b in zip(left, right, strict=True))

    def _product(self, node: Operation) -> Vector:
        left, right = self.of(node.left), self.of(node.right)
        if len(left) > 1 and len(right) > 1:
            raise self.source.mistake(node.place, "multiplies two vectors; write dot(a, b), or products of components")
        return tuple(times(a, b) for a in left for b in right)

    def _scalar(self, node: Expression, what: str) -> Node:
        found = self.of(node)
        if len(found) > 1:
            raise self.source.mistake(node.place, f"{what} must be a number at each place, and this is {_sort(found)}")
        return found[0]

    def _vector(self, node: Expression, function: str) -> Vector:
        found = self.of(node)
        if len(found) != len(self.words.axes):
            axes = ", ".join(self.words.axes)
            raise self.source.mistake(
                node.place, f"{function} takes one component for each axis ({axes}), and this is {_sort(found)}"
            )
        return found

    def _call(self, node: Call) -> Vector:
        name, arguments = node.function, node.arguments
        if name in self.along:
            return self._along(node)
        counts = {**FUNCTIONS, "lap": 1, "grad": 1, "div": 1, "dot": 2, "advect": 2, "mean": 1, "where": 3}
        spatial = name in SPATIAL or (name[:1] == "d" and name[1:] in SPACE)
        if spatial and not self.words.axes:
            raise self.source.mistake(node.place, f"{name} needs axes of space, and the data have none")
        if name not in counts:
            known = [*self.along, *DIFFERENTIAL, *FUNCTIONS]
            raise self.source.mistake(
                node.place, f"unknown function {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
        if len(arguments) != counts[name]:
            wanted = f"{counts[name]} argument{'s' if counts[name] > 1 else ''}"
            raise self.source.mistake(node.place, f"{name} takes {wanted}, not {len(arguments)}")
        match name:
            case "lap":
                laplacian: Operator = tuple(sorted(tuple(2 * one for one in unit) for unit in self.units))
                return tuple(derivative(laplacian, part) for part in self.of(arguments[0]))
            case "grad":
                return tuple(derivative((unit,), self._scalar(arguments[0], "grad's argument")) for unit in self.units)
            case "div":
                parts = self._vector(arguments[0], name)
                return (plus(*(derivative((unit,), part) for unit, part in zip(self.units, parts, strict=True))),)
            case "dot":
                left, right = self._vector(arguments[0], name), self._vector(arguments[1], name)
                return (plus(*(times(a, b) for a, b in zip(left, right, strict=True))),)
            case "advect":
                speed = self._vector(arguments[0], name)
                return tuple(
                    plus(*(times(v, derivative((unit,), part)) for v, unit in zip(speed, self.units, strict=True)))
                    for part in self.of(arguments[1])
                )
            case "mean":
                return tuple(Mean(part) for part in self.of(arguments[0]))
            case "where":
                return self._where(node)
        return (Apply(name, tuple(self._scalar(argument, f"{name}'s argument") for argument in arguments)),)

    def _along(self, node: Call) -> Vector:
        """Return `dx(f)` or `dx(f, order)`."""
        name, arguments = node.function, node.arguments
        if len(arguments) not in (1, 2):
            raise self.source.mistake(node.place, f"{name} takes a function and, if not 1, the order of the derivative")
        order = 1.0 if len(arguments) == 1 else constant(arguments[1])
        if order not in range(1, MAX_ORDER + 1):
            raise self.source.mistake(arguments[1].place, f"expected a whole number from 1 to {MAX_ORDER} as order")
        orders = tuple(int(order) * one for one in self.units[self.along[name]])
        return tuple(derivative((orders,), part) for part in self.of(arguments[0]))

    def _where(self, node: Call) -> Vector:
        condition, chosen, other = node.arguments
        match condition:
            case Operation(sign=sign, left=left, right=right) if sign in COMPARED:
                low, high = (self._scalar(side, "a compared value") for side in (left, right))
            case _:
                raise self.source.mistake(condition.place, "where begins with a comparison, such as where(u > 0, u, 0)")
        first, second = self.of(chosen), self.of(other)
        if len(first) != len(second):
            raise self.source.mistake(node.place, f"where chooses between {_sort(first)} and {_sort(second)}")
        return tuple(Choice(sign, low, high, a, b) for a, b in zip(first, second, strict=True))


def _number(node: Node, inner: Sequence[float]) -> float | None:
    """Return the value of a node by those of its children, NaN if it has none; None for derivatives and means."""
    try:
        match node:
            case Value(value=value):
                return value
            case Sum():
                return sum(inner)
            case Product():
                return math.prod(inner)
            case Power(exponent=exponent):
                value = inner[0] ** exponent
                return value if type(value) is float else math.nan
            case Apply(function=function):
                return OF_NUMBERS[function](*inner)
            case Choice(sign=sign):
                left, right, chosen, other = inner
                return chosen if COMPARED[sign](left, right) else other
    except (ValueError, ArithmeticError):
        return math.nan
    return None


def _sort(found: Vector) -> str:
    return "a number" if len(found) == 1 else f"a vector of {len(found)} components"


def plus(*parts: Node) -> Node:
    """Return the sum without sums in it and with one number at most."""
    flat: list[Node] = []
    number = 0.0
    for part in parts:
        for one in part.parts if type(part) is Sum else (part,):
            if type(one) is Value:
                number += one.value
            else:
                flat.append(one)
    if number or not flat:
        flat.append(Value(number))
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def times(*factors: Node) -> Node:
    """Return the product without products in it, with one number at most, which comes first."""
    flat: list[Node] = []
    number = 1.0
    for factor in factors:
        for one in factor.factors if type(factor) is Product else (factor,):
            if type(one) is Value:
                number *= one.value
            else:
                flat.append(one)
    if number == 0.0:
        return Value(0.0)
    if number != 1.0 or not flat:
        flat.insert(0, Value(number))
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def power(base: Node, exponent: float) -> Node:
    """Return the power; the first one is simpler."""
    return base if exponent == 1.0 else Power(base, exponent)


def derivative(operator: Operator, argument: Node) -> Node:
    """Return a derivative; one of a derivative is a single one."""
    if type(argument) is Derivative:
        return Derivative(composed(operator, argument.operator), argument.argument)
    return Derivative(operator, argument)


def composed(first: Operator, second: Operator) -> Operator:
    """Return the operator that applies one after the other."""
    return tuple(sorted(tuple(i + j for i, j in zip(a, b, strict=True)) for a in first for b in second))


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes of which a node consists."""
    match node:
        case Sum(parts=parts):
            return parts
        case Product(factors=factors):
            return factors
        case Power(base=inner) | Derivative(argument=inner) | Mean(argument=inner):
            return (inner,)
        case Apply(arguments=arguments):
            return arguments
        case Diffusion(coefficient=coefficient, argument=inner):
            return coefficient, inner
        case Choice(left=left, right=right, chosen=chosen, other=other):
            return left, right, chosen, other
    return ()


def degree(node: Node) -> float:
    """Return the degree of a node as a polynomial of the dynamic fields; infinite if it is none."""
    inner = [degree(child) for child in children(node)]
    match node:
        case Symbol(kind=kind):
            return 1.0 if kind == "field" else 0.0
        case Product() | Diffusion():
            return sum(inner)
        case Power(exponent=exponent):
            return 0.0 if not inner[0] else inner[0] * exponent if exponent in (1.0, 2.0, 3.0) else math.inf
        case Apply():
            return math.inf if any(inner) else 0.0
        case Choice():
            return math.inf if any(inner[:2]) else max(inner)
    return max(inner, default=0.0)


def symbols(node: Node) -> Iterator[Symbol]:
    """Yield all symbols in a node, again wherever they stand."""
    if type(node) is Symbol:
        yield node
    for child in children(node):
        yield from symbols(child)


def acting(node: Node, varying: Collection[str]) -> Iterator[Symbol]:
    """Yield the symbols in a node but for those in derivatives of what is the same everywhere.

    `varying` are the parameters that are fields.
    """
    if type(node) in (Derivative, Diffusion) and not any(
        symbol.kind in ("field", "static", "coordinate") or symbol.name in varying for symbol in symbols(node)
    ):
        return
    if type(node) is Symbol:
        yield node
    for child in children(node):
        yield from acting(child, varying)


def sees(node: Node) -> Iterator[tuple[str, int]]:
    """Yield the names of fields with the numbers of the axes along which they have a derivative in a node."""
    axes: list[int] = []
    match node:
        case Derivative(operator=operator):
            axes = [axis for orders in operator for axis, order in enumerate(orders) if order]
        case Diffusion(axis=axis):
            axes = [axis]
    if axes:
        fields = {symbol.name for symbol in symbols(node) if symbol.kind in ("field", "static")}
        yield from ((name, axis) for name in fields for axis in axes)
    for child in children(node):
        yield from sees(child)


def is_algebraic(node: Node) -> bool:
    """Return whether the value of a node at a place follows from those of its symbols at this place."""
    return type(node) not in (Derivative, Diffusion, Mean) and all(map(is_algebraic, children(node)))


def means(node: Node) -> Iterator[Mean]:
    """Yield all means over the domain in a node."""
    if type(node) is Mean:
        yield node
    for child in children(node):
        yield from means(child)


class Expansion:
    """Multiplies out: the terms of nodes. Parameters in `varying` are fields, and all others the same everywhere."""

    def __init__(self, varying: Collection[str] = ()) -> None:
        self.varying = frozenset(varying)

    def is_uniform(self, node: Node) -> bool:
        """Return whether a node is the same everywhere."""
        if type(node) in (Mean, Derivative):
            return False  # a mean depends on the state, and terms() knows that a derivative of what is uniform is zero
        if type(node) is Symbol:
            return node.kind == "parameter" and node.name not in self.varying
        return all(self.is_uniform(child) for child in children(node))

    def terms(self, node: Node) -> list[Term]:
        """Return the terms whose sum is the node."""
        if self.is_uniform(node):
            return [Term(node.value, (), ONE)] if type(node) is Value else [Term(1.0, (node,), ONE)]
        match node:
            case Sum(parts=parts):
                return [term for part in parts for term in self.terms(part)]
            case Product(factors=factors):
                return self._product(factors)
            case Derivative(operator=operator, argument=inner):
                return self._derivative(operator, inner)
        return [Term(1.0, (), node)]

    def _product(self, factors: Sequence[Node]) -> list[Term]:
        found = [Term(1.0, (), ONE)]
        for factor in factors:
            own = self.terms(factor)
            if len(own) * len(found) > MAX_TERMS:
                own = [Term(1.0, (), factor)]
            found = [
                Term(a.number * b.number, (*a.coefficient, *b.coefficient), times(a.core, b.core))
                for a in found
                for b in own
            ]
        return found

    def _derivative(self, operator: Operator, argument: Node) -> list[Term]:
        inner = self.terms(argument)
        if len(inner) > MAX_TERMS:
            return [Term(1.0, (), Derivative(operator, argument))]
        # what is the same everywhere has none
        return [attrs.evolve(term, core=derivative(operator, term.core)) for term in inner if term.core != ONE]


@attrs.frozen(kw_only=True)
class Rate:
    """The rate of change of one component: the part that is linear in it with uniform coefficients, and the rest."""

    linear: tuple[tuple[Term, Operator], ...]
    rest: tuple[Term, ...]

    @classmethod
    def of(cls, node: Node, own: Symbol, expansion: Expansion, axes: int) -> Rate:
        """Return the rate of the component `own`."""
        linear: list[tuple[Term, Operator]] = []
        rest: list[Term] = []
        for term in expansion.terms(node):
            match term.core:
                case Derivative(operator=operator, argument=inner) if inner == own:
                    linear.append((term, operator))
                case core if core == own:
                    linear.append((term, ((0,) * axes,)))
                case _:
                    rest.append(term)
        return cls(linear=tuple(linear), rest=tuple(rest))


def flux_form(term: Term) -> Term:
    """Return `c u du/dx` as `c/2 d(u u)/dx`: one transform less, and conservative."""
    match term.core:
        case Product(
            factors=(Symbol() as field, Derivative(operator=operator, argument=inner))
            | (Derivative(operator=operator, argument=inner), Symbol() as field)
        ) if field == inner and is_first(operator):
            return Term(term.number / 2, term.coefficient, Derivative(operator, Product((field, field))))
    return term


def skew_form(term: Term) -> list[Term]:
    """Return `u du/dx` as `(u du/dx + d(u u)/dx) / 3`, with which differences keep the sums of u and of u^2."""
    form = flux_form(term)
    if form is term:
        return [term]
    return [attrs.evolve(term, number=term.number / 3), attrs.evolve(form, number=term.number / 3)]


def diffusion_form(node: Node) -> Node:
    """Return `d/dx (a du/dx)` as one node wherever it stands; two first differences would miss the shortest waves."""
    match node:
        case Derivative(operator=operator, argument=Sum(parts=parts)) if is_first(operator):
            return plus(*(diffusion_form(Derivative(operator, part)) for part in parts))
        case Derivative(operator=operator, argument=Product(factors=factors)) if is_first(operator):
            fluxes = [one for one in factors if type(one) is Derivative and one.operator == operator]
            if len(fluxes) == 1:
                rest = (diffusion_form(one) for one in factors if one is not fluxes[0])
                return Diffusion(operator[0].index(1), times(*rest), diffusion_form(fluxes[0].argument))
    return with_children(node, diffusion_form)


def with_children(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return the node with each of its children changed."""
    match node:
        case Sum(parts=parts):
            return Sum(tuple(map(change, parts)))
        case Product(factors=factors):
            return Product(tuple(map(change, factors)))
        case Power(base=inner):
            return attrs.evolve(node, base=change(inner))
        case Derivative(argument=inner) | Mean(argument=inner):
            return attrs.evolve(node, argument=change(inner))
        case Apply(arguments=arguments):
            return attrs.evolve(node, arguments=tuple(map(change, arguments)))
        case Diffusion(coefficient=coefficient, argument=inner):
            return attrs.evolve(node, coefficient=change(coefficient), argument=change(inner))
        case Choice(left=left, right=right, chosen=chosen, other=other):
            return Choice(node.sign, change(left), change(right), change(chosen), change(other))
    return node


def is_first(operator: Operator) -> bool:
    """Return whether an operator is one derivative of first order."""
    return len(operator) == 1 and sum(operator[0]) == 1


def slope(node: Node, by: Symbol) -> Node:
    """Return the derivative of an algebraic node by the value of a symbol."""
    match node:
        case Symbol():
            return Value(1.0 if node == by else 0.0)
        case Sum(parts=parts):
            return plus(*(slope(part, by) for part in parts))
        case Product(factors=factors):
            return plus(
                *(times(*factors[:i], slope(factor, by), *factors[i + 1 :]) for i, factor in enumerate(factors))
            )
        case Power(base=base, exponent=exponent):
            return times(Value(exponent), power(base, exponent - 1) if exponent != 1.0 else ONE, slope(base, by))
        case Apply(function=function, arguments=arguments):
            inner = [slope(one, by) for one in arguments]
            if all(own == Value(0.0) for own in inner):
                return Value(0.0)
            if len(arguments) == 2:
                first, second = arguments
                return Choice("<" if function == "min" else ">", first, second, *inner)
            return times(_SLOPES[function](arguments[0]), inner[0])
        case Choice():
            chosen, other = slope(node.chosen, by), slope(node.other, by)
            return chosen if chosen == other else attrs.evolve(node, chosen=chosen, other=other)
    return Value(0.0)


def _of(function: str, node: Node) -> Node:
    return Apply(function, (node,))


def _minus(node: Node) -> Node:
    return times(Value(-1.0), node)


_SLOPES: Mapping[str, Callable[[Node], Node]] = {
    "sin": lambda u: _of("cos", u),
    "cos": lambda u: _minus(_of("sin", u)),
    "tan": lambda u: power(_of("cos", u), -2.0),
    "asin": lambda u: power(plus(ONE, _minus(power(u, 2.0))), -0.5),
    "acos": lambda u: _minus(power(plus(ONE, _minus(power(u, 2.0))), -0.5)),
    "atan": lambda u: power(plus(ONE, power(u, 2.0)), -1.0),
    "sinh": lambda u: _of("cosh", u),
    "cosh": lambda u: _of("sinh", u),
    "tanh": lambda u: power(_of("cosh", u), -2.0),
    "exp": lambda u: _of("exp", u),
    "log": lambda u: power(u, -1.0),
    "sqrt": lambda u: times(Value(0.5), power(u, -0.5)),
    "abs": lambda u: _of("sign", u),
    "sign": lambda u: Value(0.0),
}
