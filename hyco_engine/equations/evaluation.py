"""The evaluation of terms on a grid: by Fourier transforms if it is periodic, or by differences with any boundary."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import torch
from torch import Tensor

from hyco_engine.data.fields import Boundary, Grid, Rule
from hyco_engine.equations.terms import (
    COMPARED,
    FUNCTIONS,
    Apply,
    Choice,
    Derivative,
    Diffusion,
    Mean,
    Node,
    Operator,
    Power,
    Product,
    Sum,
    Symbol,
    Term,
    Value,
    children,
)
from hyco_engine.physics import stencils
from hyco_engine.physics.spectral import Spectrum
from hyco_engine.physics.stencils import WIDTH

_OTHER_NAMES = {"min": "minimum", "max": "maximum"}
OF_TENSORS: Mapping[str, Callable[..., Tensor]] = {
    name: getattr(torch, _OTHER_NAMES.get(name, name)) for name in FUNCTIONS
}


def boxes(node: Node, n_axes: int) -> frozenset[tuple[int, ...]]:
    """Return by how many cells along each axis differences reach to both sides: a box for each sum of derivatives.

    The values at a cell depend on the cells in these boxes about it, and on nothing else but means.
    """

    def wider(box: Sequence[int], orders: Sequence[int]) -> tuple[int, ...]:
        return tuple(own + WIDTH * ((n + 1) // 2) for own, n in zip(box, orders, strict=True))

    inner = frozenset([(0,) * n_axes]).union(*(boxes(child, n_axes) for child in children(node)))
    match node:
        case Derivative(operator=operator):
            return frozenset(wider(box, orders) for box in inner for orders in operator)
        case Diffusion(axis=own):
            return frozenset(wider(box, [axis == own for axis in range(n_axes)]) for box in inner)
        case Mean():
            return frozenset([(0,) * n_axes])
    return inner


class Evaluation(ABC):
    """Computes nodes; what a symbol and a derivative are depends on the grid."""

    def __init__(self, n_axes: int, like: Tensor) -> None:
        """Numbers become tensors of the type and on the device of `like`."""
        self.n_axes = n_axes
        self.like = like
        self._known: dict[Node, Any] = {}

    @abstractmethod
    def symbol(self, node: Symbol) -> Any: ...

    @abstractmethod
    def derivative(self, operator: Operator, argument: Node) -> Any: ...

    @abstractmethod
    def mean(self, argument: Node) -> Any: ...

    def diffusion(self, node: Diffusion) -> Any:
        unit = tuple(int(axis == node.axis) for axis in range(self.n_axes))
        return self.derivative((unit,), Product((node.coefficient, Derivative((unit,), node.argument))))

    def of(self, node: Node) -> Any:
        """Return the values of a node, which broadcast over the grid; those of a number are one."""
        if node not in self._known:
            self._known[node] = self._computed(node)
        return self._known[node]

    def _computed(self, node: Node) -> Any:
        match node:
            case Value(value=value):
                return value
            case Symbol():
                return self.symbol(node)
            case Sum(parts=parts):
                return reduce(add, map(self.of, parts))
            case Product(factors=factors):
                return reduce(mul, map(self.of, factors))
            case Power(base=base, exponent=exponent):
                return self.power(self.of(base), exponent)
            case Apply(function=function, arguments=arguments):
                return self.apply(function, [self.of(argument) for argument in arguments])
            case Derivative(operator=operator, argument=argument):
                return self.derivative(operator, argument)
            case Diffusion():
                return self.diffusion(node)
            case Mean(argument=argument):
                return self.mean(argument)
            case Choice(sign=sign, left=left, right=right, chosen=chosen, other=other):
                compared = COMPARED[sign](self.tensor(self.of(left)), self.of(right))
                return self.choice(compared, self.of(chosen), self.of(other))
        raise TypeError(f"no node: {node!r}")

    def term(self, term: Term) -> Any:
        """Return the values of a term."""
        return self.factor(term, self.of(term.core))

    def factor(self, term: Term, value: Any) -> Any:
        """Return `value` times the coefficient of a term."""
        for factor in term.coefficient:
            value = self.of(factor) * value
        return value if term.number == 1.0 else term.number * value

    def tensor(self, value: Any) -> Any:
        """Return a number as a tensor of the state's type."""
        return self.like.new_tensor(value) if type(value) is float else value

    def power(self, base: Any, exponent: float) -> Any:
        if type(base) is float:
            return base**exponent
        if exponent in (2.0, 3.0):
            # as products, whose derivatives are cheap
            return base * base if exponent == 2.0 else base * base * base
        return base ** (int(exponent) if exponent == int(exponent) else exponent)

    def apply(self, function: str, arguments: Sequence[Any]) -> Any:
        return OF_TENSORS[function](*map(self.tensor, arguments))

    def choice(self, condition: Any, chosen: Any, other: Any) -> Any:
        return torch.where(condition, self.tensor(chosen), self.tensor(other))


class Spectral(Evaluation):
    """On a periodic grid: derivatives by Fourier transforms."""

    def __init__(
        self, grid: Grid, spectrum: Spectrum, waves: Mapping[Symbol, Tensor], others: Mapping[Symbol, Tensor]
    ) -> None:
        """`waves` are the spectra of the dynamic fields, `others` the values of what else has a symbol."""
        super().__init__(len(grid.axes), spectrum.square)
        self.grid = grid
        self.spectrum = spectrum
        self.waves = waves
        self.others = others

    def symbol(self, node: Symbol) -> Any:
        if node in self.waves:
            return self.spectrum.inverse(self.waves[node])
        if node.kind == "coordinate":
            return coordinate(self.grid, node.name, self.like)
        return self.others[node]

    def derivative(self, operator: Operator, argument: Node) -> Tensor:
        return self.spectrum.inverse(self.factor_of(operator) * self.transformed(argument))

    def factor_of(self, operator: Operator) -> Tensor:
        """Return the symbol of an operator."""
        return reduce(add, map(self.spectrum.symbol, operator))

    def transformed(self, node: Node) -> Tensor:
        """Return the spectrum of a node."""
        if type(node) is Symbol and node in self.waves:
            return self.waves[node]
        return self.forward(self.of(node))

    def forward(self, value: Any) -> Tensor:
        """Return the spectrum of values that may not vary along each axis."""
        return self.spectrum.forward(spread(self.tensor(value), self.grid.resolution))

    def mean(self, argument: Node) -> Any:
        value = spread(self.tensor(self.of(argument)), self.grid.resolution)
        return value.mean(self.spectrum.axes, keepdim=True)


class Differences(Evaluation):
    """Central differences of fourth order. Fields are continued beyond the grid as their boundaries say.

    What is computed from fields is computed beyond the grid, too, from their continuations: `margin` says by how many
    cells along each axis.
    """

    def __init__(
        self,
        grid: Grid,
        fields: Mapping[Symbol, Tensor],
        boundaries: Mapping[Symbol, Boundary],
        components: Mapping[Symbol, int | None],
        numbers: Mapping[Symbol, Tensor],
        like: Tensor,
        margin: tuple[int, ...] = (),
        walls: Mapping[str, Node] | None = None,
    ) -> None:
        """`fields` vary over the grid, and are continued by `boundaries`; `numbers` do not.

        `walls` are the values at sides that formulas give, by their texts.
        """
        super().__init__(len(grid.axes), like)
        self.grid = grid
        self.fields = fields
        self.boundaries = boundaries
        self.components = components
        self.numbers = numbers
        self.margin = margin or (0,) * len(grid.axes)
        self.walls = walls or {}
        self._wider: dict[tuple[int, ...], Differences] = {self.margin: self}

    def symbol(self, node: Symbol) -> Any:
        if node.kind == "coordinate":
            return coordinate(self.grid, node.name, self.like, self.margin[self.grid.axes.index(node.name)])
        if node in self.numbers:
            return self.numbers[node]
        values = self.fields[node]
        axes = self.grid.axes
        for number, (axis, width) in enumerate(zip(axes, self.margin, strict=True)):
            if width:
                rules = self.boundaries[node].rules(axis, axes, self.components[node])
                # so far, the values reach beyond the sides of the axes before
                along = self._with((*self.margin[:number], *(0 for _ in axes[number:])))
                known = {rule.text: along.tensor(along.of(self.walls[rule.text])) for rule in rules if rule.text}
                values = continued(values, number - len(axes), width, *rules, known)
        return values

    def derivative(self, operator: Operator, argument: Node) -> Any:
        return reduce(add, (self._partial(orders, argument) for orders in operator))

    def diffusion(self, node: Diffusion) -> Any:
        wide = self.widened(tuple(WIDTH if axis == node.axis else 0 for axis in range(self.n_axes)))
        dim, dx = node.axis - self.n_axes, self.grid.spacing[node.axis]
        a, u = (wide.whole(part) for part in (node.coefficient, node.argument))
        return stencils.diffusion(_neighbours(u, dim), _neighbours(a, dim), dx)

    def mean(self, argument: Node) -> Any:
        inner = self._narrow()
        return inner.whole(argument).mean(tuple(range(-self.n_axes, 0)), keepdim=True)

    def whole(self, node: Node) -> Tensor:
        """Return the values with their margin along each axis, also where they do not vary."""
        return self.spread_out(self.of(node))

    def spread_out(self, value: Any) -> Tensor:
        """Return values that a node has here, with their margin along each axis."""
        sizes = [n + 2 * width for n, width in zip(self.grid.resolution, self.margin, strict=True)]
        return spread(self.tensor(value), sizes)

    def _partial(self, orders: Sequence[int], argument: Node) -> Tensor:
        passes = [(axis, part) for axis, n in enumerate(orders) for part in ((2,) * (n // 2) + (1,) * (n % 2))]
        reach = tuple(WIDTH * sum(axis == own for own, _ in passes) for axis in range(self.n_axes))
        values = self.widened(reach).whole(argument)
        for axis, order in passes:
            dim, dx = axis - self.n_axes, self.grid.spacing[axis]
            five = _neighbours(values, dim)
            values = stencils.first_derivative(five, dx) if order == 1 else stencils.second_derivative(five, dx)
        return values

    def widened(self, reach: Sequence[int]) -> Differences:
        """Return the evaluation that reaches so many cells further along each axis."""
        return self._with(tuple(a + b for a, b in zip(self.margin, reach, strict=True)))

    def _narrow(self) -> Differences:
        return self._with((0,) * self.n_axes)

    def _with(self, margin: tuple[int, ...]) -> Differences:
        if margin not in self._wider:
            made = Differences(
                self.grid, self.fields, self.boundaries, self.components, self.numbers, self.like, margin, self.walls
            )
            made._wider = self._wider
            self._wider[margin] = made
        return self._wider[margin]


def spread(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return values with these sizes along the axes, also where they do not vary."""
    return value.expand((*value.shape[: max(0, value.dim() - len(sizes))], *sizes))


def coordinate(grid: Grid, axis: str, like: Tensor, margin: int = 0) -> Tensor:
    """Return the coordinates of the cells' centres, which vary along their axis only."""
    number = grid.axes.index(axis)
    n, dx = grid.resolution[number], grid.spacing[number]
    index = torch.arange(-margin, n + margin, dtype=torch.float64, device=like.device)
    shape = [-1 if other == number else 1 for other in range(len(grid.axes))]
    return (grid.lower[number] + (index + 0.5) * dx).reshape(shape).to(like.dtype)


def continued(
    values: Tensor, dim: int, width: int, lower: Rule, upper: Rule, walls: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Extend values by `width` cells beyond both sides, as an even or odd function of the side that its rule names.

    `walls` has the values of formulas, which broadcast over the grid; where there is none, the slope goes on.
    """
    n = values.shape[dim]
    if lower.kind == "periodic":
        return torch.cat([values.narrow(dim, n - width, width), values, values.narrow(dim, 0, width)], dim)
    before = _beyond(values, dim, width, lower, walls or {})
    behind = _beyond(values.flip(dim), dim, width, upper, walls or {}).flip(dim)
    return torch.cat([before, values, behind], dim)


def _beyond(values: Tensor, dim: int, width: int, rule: Rule, walls: Mapping[str, Tensor]) -> Tensor:
    """Return the `width` values before the first one."""
    if rule.fixes:
        # the first ghost cell has the value, and those beyond it mirror the inner ones about it
        first = values.narrow(dim, 0, 1)
        if rule.kind == "constant":
            wall = torch.full_like(first, float(rule.value))  # type: ignore[arg-type]
        elif rule.text in walls:
            wall = walls[rule.text].expand_as(first)
        else:
            wall = 2 * first - values.narrow(dim, min(1, values.shape[dim] - 1), 1)
        inner = values.narrow(dim, 0, width - 1).flip(dim)
        return torch.cat([2 * wall - inner, wall], dim) if width > 1 else wall
    start = 1 if rule.kind in ("reflect", "antireflect") else 0
    mirrored = values.narrow(dim, start, width).flip(dim)
    return -mirrored if rule.kind in ("antisymmetric", "antireflect") else mirrored


def _neighbours(extended: Tensor, dim: int) -> list[Tensor]:
    n = extended.shape[dim] - 2 * WIDTH
    return [extended.narrow(dim, start, n) for start in range(2 * WIDTH + 1)]


def difference_symbol(orders: Sequence[int], waves: Sequence[Tensor], spacing: Sequence[float]) -> Tensor:
    """Return the factor by which the differences multiply the wave `exp(ikx)`."""
    total = torch.ones((), dtype=torch.complex128)
    for n, k, dx in zip(orders, waves, spacing, strict=True):
        theta = k * dx
        first = 1j * (8 * torch.sin(theta) - torch.sin(2 * theta)) / (6 * dx)
        second = (16 * torch.cos(theta) - torch.cos(2 * theta) - 15) / (6 * dx**2)
        total = total * first ** (n % 2) * second ** (n // 2)
    return total


def spectral_symbol(orders: Sequence[int], waves: Sequence[Tensor]) -> Tensor:
    """Return the factor by which derivatives multiply the wave `exp(ikx)`."""
    return math.prod(
        ((1j * k) ** n for n, k in zip(orders, waves, strict=True)), start=torch.ones((), dtype=torch.complex128)
    )
