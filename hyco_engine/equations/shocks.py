"""Transport with shocks: fluxes and advective products by WENO reconstructions from the upwind side.

Fluxes `d/dx f(u)` are split as `f = (f + a u) / 2 + (f - a u) / 2` with `a` the largest speed of all fields along the
axis in this state, so that each part moves to one side (Lax-Friedrichs), and are reconstructed at the faces of the
cells: sums are conserved, and shocks move at the speed that conservation demands. Products `v dc/dx` take the
derivative from the side that v comes from. Source: G.-S. Jiang, C.-W. Shu, J. Comput. Phys. 126 (1996); G.-S. Jiang,
D. Peng, SIAM J. Sci. Comput. 21 (2000) for products; weights of R. Borges et al., J. Comput. Phys. 227 (2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.equations.evaluation import Differences
from hyco_engine.equations.stability import Linearised
from hyco_engine.equations.terms import (
    Derivative,
    Node,
    Power,
    Product,
    Symbol,
    Term,
    Value,
    is_algebraic,
    is_first,
    slope,
    times,
)

REACH = 3
"""By how many cells the reconstructions reach beyond the grid."""
COURANT = 1.0
"""The limit of the sum over axes of speed times dt / dx."""
ROUGHER = 1.64
"""How much shorter a step of the third-order Runge-Kutta method must be than one of the classical method, at most."""
ROUNDING = 10.0
"""How much more rounding changes derivatives than those of differences: weights are quotients of small differences."""
_SMALL = 1e-6
"""Differences whose squares are below this share of their mean square count as none."""
_TINY = 1e-30


@attrs.frozen
class Advected:
    """`term * d(carried)/dx`, where the core of the term is the speed."""

    term: Term
    carried: Node


@attrs.frozen
class Transport:
    """What moves along one axis: of each component, the fluxes whose derivatives are added, and advective products."""

    axis: int
    fluxes: tuple[tuple[Term, ...], ...]
    products: tuple[tuple[Advected, ...], ...]

    @property
    def empty(self) -> bool:
        return not any(self.fluxes) and not any(self.products)


def divided(rates: Sequence[Sequence[Term]], n_axes: int) -> tuple[list[tuple[Term, ...]], list[Transport]]:
    """Return what is no transport, of each component, and the transport along each axis."""
    rest: list[tuple[Term, ...]] = []
    fluxes: list[list[tuple[Term, ...]]] = [[] for _ in range(n_axes)]
    products: list[list[tuple[Advected, ...]]] = [[] for _ in range(n_axes)]
    for terms in rates:
        other: list[Term] = []
        moving: list[list[Term]] = [[] for _ in range(n_axes)]
        carrying: list[list[Advected]] = [[] for _ in range(n_axes)]
        for term in terms:
            match term.core:
                case Derivative(operator=operator, argument=flux) if is_first(operator) and is_algebraic(flux):
                    moving[operator[0].index(1)].append(attrs.evolve(term, core=flux))
                case Product(factors=factors) if (found := _carried(factors)) is not None:
                    axis, carried, speed = found
                    carrying[axis].append(Advected(attrs.evolve(term, core=speed), carried))
                case _:
                    other.append(term)
        rest.append(tuple(other))
        for axis in range(n_axes):
            fluxes[axis].append(tuple(moving[axis]))
            products[axis].append(tuple(carrying[axis]))
    return rest, [Transport(axis, tuple(fluxes[axis]), tuple(products[axis])) for axis in range(n_axes)]


def conserved(term: Term) -> Term:
    """Return `u^n du/dx` as the derivative of the flux `u^(n+1) / (n+1)`."""
    if type(term.core) is not Product or (found := _carried(term.core.factors)) is None:
        return term
    _, carried, speed = found
    if type(carried) is not Symbol:
        return term
    power = 0.0
    for factor in speed.factors if type(speed) is Product else (speed,):
        base, own = (factor.base, factor.exponent) if type(factor) is Power else (factor, 1.0)
        if base != carried or own < 0:
            return term
        power += own
    (derivative,) = (one for one in term.core.factors if type(one) is Derivative)
    flux = attrs.evolve(derivative, argument=Power(carried, power + 1))
    return Term(term.number / (power + 1), term.coefficient, flux)


def _carried(factors: Sequence[Node]) -> tuple[int, Node, Node] | None:
    """Return the axis, what is carried, and the speed of a product with one first derivative; None for any other."""
    moving = [one for one in factors if type(one) is Derivative]
    speed = [one for one in factors if type(one) is not Derivative]
    if len(moving) != 1 or not all(map(is_algebraic, [*speed, moving[0].argument])) or not is_first(moving[0].operator):
        return None
    return moving[0].operator[0].index(1), moving[0].argument, times(*speed)


def transported(transport: Transport, evaluation: Differences, components: Sequence[Symbol]) -> list[Any]:
    """Return what transport along one axis adds to the rate of each component."""
    axis, n_axes = transport.axis, evaluation.n_axes
    dim, dx = axis - n_axes, evaluation.grid.spacing[axis]
    wide = evaluation.widened(tuple(REACH if number == axis else 0 for number in range(n_axes)))
    fastest = _fastest(transport, wide, components)
    found = []
    for symbol, fluxes, products in zip(components, transport.fluxes, transport.products, strict=True):
        total: Any = 0.0
        if fluxes:
            flux = -reduce(add, (wide.spread_out(wide.term(term)) for term in fluxes))
            moved = fastest * wide.whole(symbol)
            right, left = (flux + moved) / 2, (flux - moved) / 2
            # right parts are known at the upper faces of all cells but two on each side, left ones at the lower faces
            n = right.shape[dim] - 5
            upper = _faces(right, dim, n_axes).narrow(dim, 0, n)
            lower = _faces(left.flip(dim), dim, n_axes).flip(dim).narrow(dim, 1, n)
            total = total - _difference(upper + lower, dim) / dx
        for product in products:
            steps = _difference(wide.whole(product.carried), dim) / dx
            # the steps around cell i are those of its faces, and reconstructed at the cell from either side
            n = steps.shape[dim]
            below = _faces(steps.narrow(dim, 0, n - 1), dim, n_axes)
            above = _faces(steps.narrow(dim, 1, n - 1).flip(dim), dim, n_axes).flip(dim)
            # a term of a rate moves against its sign
            speed = evaluation.tensor(evaluation.term(product.term))
            total = total + torch.where(speed < 0, below, above) * speed
        found.append(total)
    return found


def _fastest(transport: Transport, evaluation: Differences, components: Sequence[Symbol]) -> Any:
    """Return a bound of all speeds along the axis, the same for all places of a sample.

    It is `|m| + s sqrt(n - 1)` with the mean m and the spread s of the n eigenvalues, which are real: they follow from
    traces, and the bound is exact for one and for two fields (H. Wolkowicz, G. Styan, Linear Algebra Appl. 29 (1980)).
    """
    rows: list[list[Any]] = []
    for fluxes, products in zip(transport.fluxes, transport.products, strict=True):
        row = []
        for symbol in components:
            parts = [evaluation.factor(term, evaluation.of(slope(term.core, symbol))) for term in fluxes]
            parts += [
                evaluation.term(one.term) * evaluation.tensor(evaluation.of(slope(one.carried, symbol)))
                for one in products
                if slope(one.carried, symbol) != Value(0.0)
            ]
            row.append(evaluation.tensor(reduce(add, parts, 0.0)))
        rows.append(row)
    every = range(len(components))
    mean = reduce(add, (rows[i][i] for i in every)) / len(components)
    bound = mean.abs()
    if len(components) > 1:
        square = reduce(add, (rows[i][j] * rows[j][i] for i in every for j in every)) / len(components)
        # not of 0, whose root has no derivative
        bound = bound + ((square - mean * mean).clamp(min=_TINY) * (len(components) - 1)).sqrt()
    return evaluation.spread_out(bound).amax(tuple(range(-evaluation.n_axes, 0)), keepdim=True)


def courant(transports: Sequence[Transport], evaluation: Linearised, spacing: Sequence[float]) -> Tensor:
    """Return the sum over axes of speed / dx at each state, `[P]`."""
    total = torch.zeros((), dtype=torch.float64)
    n = len(evaluation.components)
    for transport in transports:
        rows = []
        for fluxes, products in zip(transport.fluxes, transport.products, strict=True):
            row = torch.zeros(1, n, dtype=torch.float64)
            for term in fluxes:
                row = row + _response(evaluation.term(term))
            for one in products:
                speed = evaluation.tensor(evaluation.term(one.term)).value
                row = row + speed * _response(evaluation.of(one.carried))
            rows.append(row)
        count = max(len(row) for row in rows)
        matrix = torch.stack([row.expand(count, n) for row in rows], dim=-2)
        matrix = torch.where(matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), matrix, 0.0)
        total = total + torch.linalg.eigvals(matrix).abs().amax(-1) / spacing[transport.axis]
    return total


def _response(value: Any) -> Any:
    """Return how a value at constant states responds to each component, `[P, n]`."""
    response = getattr(value, "response", 0.0)
    return response[..., 0, :].real if type(response) is Tensor else 0.0


def _difference(values: Tensor, dim: int) -> Tensor:
    n = values.shape[dim] - 1
    return values.narrow(dim, 1, n) - values.narrow(dim, 0, n)


def _faces(values: Tensor, dim: int, n_axes: int) -> Tensor:
    """Return what moves to the right at the upper faces of all cells but the first two and the last two, by WENO."""
    steps = _difference(values, dim)
    small = _SMALL * (steps * steps).mean(tuple(range(-n_axes, 0)), keepdim=True) + _TINY
    bends = _difference(steps, dim)
    n = values.shape[dim] - 4
    a, b, c, d = (steps.narrow(dim, start, n) for start in range(4))
    left, middle, right = (bends.narrow(dim, start, n) for start in range(3))
    rough = (
        13 / 12 * left * left + (3 * b - a) * (3 * b - a) / 4,
        13 / 12 * middle * middle + (b + c) * (b + c) / 4,
        13 / 12 * right * right + (3 * c - d) * (3 * c - d) / 4,
    )
    whole = (rough[0] - rough[2]).abs()
    shares = [whole / (own + small) for own in rough]
    weights = [best * (1 + share * share) for best, share in zip((0.1, 0.6, 0.3), shares, strict=True)]
    # as differences from the middle of three parabolas, since derivatives by the weights must not cancel
    apart = weights[0] * (left - middle) / 3 + weights[2] * (middle - right) / 6
    return values.narrow(dim, 2, n) + b / 6 + c / 3 + apart / reduce(add, weights)
