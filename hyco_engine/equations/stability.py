"""How long a step may be, by the symbol of the linearised rates: how waves on constant states grow in a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.equations.evaluation import OF_TENSORS, Evaluation
from hyco_engine.equations.terms import Diffusion, Node, Operator, Rate, Symbol, Term
from hyco_engine.physics.exponential import etdrk4

TOLERANCE = 1e-3
"""How much more than the equation itself a step may let a wave grow."""
SURE = 2.0
"""Steps with rates times dt below this are stable whatever the rates are; Runge-Kutta's own limit is 2.8."""
ACCURATE = 1.0
"""The largest product of dt and a rate that does not depend on waves: beyond it, a step is stable but not exact."""
MOST = 243
"""The number of constant states that are tried."""
WAVE_CELLS = 16
"""The length in cells of the waves whose slopes the states have."""


@attrs.frozen(eq=False)
class Dual:
    """A value `[P, 1]` and its response `[P, K, n]` to waves in each of n components."""

    value: Any
    response: Any

    def __add__(self, other: Any) -> Dual:
        value, response = _parts(other)
        return Dual(self.value + value, self.response + response)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Dual:
        value, response = _parts(other)
        return Dual(self.value * value, _wide(self.value) * response + self.response * _wide(value))

    __rmul__ = __mul__

    def __lt__(self, other: Any) -> Any:
        return self.value < _parts(other)[0]

    def __le__(self, other: Any) -> Any:
        return self.value <= _parts(other)[0]

    def __gt__(self, other: Any) -> Any:
        return self.value > _parts(other)[0]

    def __ge__(self, other: Any) -> Any:
        return self.value >= _parts(other)[0]


def _parts(value: Any) -> tuple[Any, Any]:
    return (value.value, value.response) if type(value) is Dual else (value, 0.0)


def _wide(value: Any) -> Any:
    return value[..., None] if type(value) is Tensor else value


class Linearised(Evaluation):
    """Evaluates nodes at constant states, with the response to waves."""

    def __init__(
        self,
        states: Mapping[Symbol, Tensor],
        components: Sequence[Symbol],
        factors: Callable[[Operator], Tensor],
        slope: Callable[[Operator], Tensor],
        axes: int,
    ) -> None:
        """`states` are `[P]`; `factors` gives symbols `[K]`, and `slope` how large a derivative of 1 is, `[P]`."""
        super().__init__(axes, torch.zeros((), dtype=torch.float64))
        self.states = states
        self.components = {symbol: index for index, symbol in enumerate(components)}
        self.factors = factors
        self.slope = slope

    def symbol(self, node: Symbol) -> Dual:
        response = torch.zeros(1, 1, len(self.components), dtype=torch.complex128)
        if node in self.components:
            response[..., self.components[node]] = 1.0
        return Dual(self.states[node][:, None], response)

    def derivative(self, operator: Operator, argument: Node) -> Any:
        inner = self.of(argument)
        value, response = _parts(inner)
        return Dual(value * self.slope(operator)[:, None], response * self.factors(operator)[None, :, None])

    def diffusion(self, node: Diffusion) -> Dual:
        # a wave of u meets the second difference, where two first ones would miss the shortest waves
        once, twice = (tuple(n * (axis == node.axis) for axis in range(self.n_axes)) for n in (1, 2))
        correction = self.factors((twice,)) - self.factors((once,)) ** 2
        coefficient, argument = self.tensor(self.of(node.coefficient)), self.tensor(self.of(node.argument))
        shortest = coefficient * Dual(0.0, argument.response * correction[None, :, None])
        whole: Dual = super().diffusion(node) + shortest
        return whole

    def mean(self, argument: Node) -> Dual:
        # a wave has no mean
        return Dual(_parts(self.of(argument))[0], 0.0)

    def tensor(self, value: Any) -> Any:
        return Dual(super().tensor(value), 0.0) if type(value) is float else value

    def power(self, base: Any, exponent: float) -> Any:
        if type(base) is float:
            return base**exponent
        return Dual(
            base.value**exponent, _wide(exponent * base.value ** (exponent - 1 if exponent else 0)) * base.response
        )

    def apply(self, function: str, arguments: Sequence[Any]) -> Dual:
        duals = [self.tensor(argument) for argument in arguments]
        with torch.enable_grad():
            given = [dual.value.detach().clone().requires_grad_() for dual in duals]
            result = OF_TENSORS[function](*given)
            slopes = torch.autograd.grad(result.sum(), given)
        return Dual(
            result.detach(), sum(_wide(slope) * dual.response for slope, dual in zip(slopes, duals, strict=True))
        )

    def choice(self, condition: Any, chosen: Any, other: Any) -> Dual:
        (a, da), (b, db) = map(_parts, map(self.tensor, (chosen, other)))
        wide = condition[..., None]
        return Dual(torch.where(condition, a, b), torch.where(wide, _complex(da), _complex(db)))


def _complex(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.complex128)


def probes(ranges: Mapping[Symbol, tuple[float, float]]) -> dict[Symbol, Tensor]:
    """Return constant states `[P]`: both ends and the middle of each range, in all combinations, or some of many."""
    names = list(ranges)
    values = [sorted({low, (low + high) / 2, high}) for low, high in ranges.values()]
    count = math.prod(map(len, values))
    # steps of the golden ratio around all combinations, without a common factor: no quantity stays at one of its values
    stride = (math.isqrt(5 * count * count) - count) // 2
    while math.gcd(stride, count) > 1:
        stride += 1
    chosen = [number * stride % count for number in range(min(count, MOST))]
    found, repeats = {}, 1
    for name, own in zip(names, values, strict=True):
        picked = [own[index // repeats % len(own)] for index in chosen]
        found[name] = torch.tensor(picked, dtype=torch.float64)
        repeats *= len(own)
    return found


def waves_of(lengths: Sequence[float], shortest: Sequence[float], count: int) -> list[Tensor]:
    """Return wave numbers along each axis, `[K]`: all pairs of directions, up to the largest along each axis."""
    lines = []
    for axis, (length, most) in enumerate(zip(lengths, shortest, strict=True)):
        few = torch.linspace(0.0 if axis == 0 else -most, most, count, dtype=torch.float64)
        lines.append(torch.cat([few, torch.tensor([2 * math.pi / length, 4 * math.pi / length])]))
    return [line.reshape(-1) for line in torch.meshgrid(*lines, indexing="ij")]


def least_steps(linear: Tensor, jacobian: Tensor, flat: Tensor, dt: float) -> float:
    """Return the smallest number of steps in `dt` that is stable, not rounded; infinite if it cannot be computed.

    `linear` are the exact rates `[K, n]` and `jacobian` those of the rest, `[P, K, n, n]`; `flat` `[P, n, n]` is the
    part of the latter that acts on what does not vary. States at which the rates are not finite do not count.
    """
    jacobian, flat = (states[states.isfinite().flatten(1).all(1)] for states in (jacobian, flat))
    if not len(jacobian):
        return 0.0
    size = float(torch.linalg.matrix_norm(jacobian, 2).max())
    exact = dt * float(torch.linalg.matrix_norm(flat, 2).max()) / ACCURATE if len(flat) else 0.0
    high = dt * size / SURE
    low = max(high / 64, exact)
    if high <= exact or not math.isfinite(high):
        return max(high, exact)
    linear, jacobian = _modes(linear, jacobian)
    growth = _eigenvalues(torch.diag_embed(linear)[None] + jacobian).real.amax(-1)
    if _stable(linear, jacobian, growth, dt / low):
        return low
    for _ in range(8):
        middle = math.sqrt(low * high)
        if _stable(linear, jacobian, growth, dt / middle):
            high = middle
        else:
            low = middle
    return high


def _modes(linear: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rates of modes, each of one component, where the exact rates of all components are the same."""
    n = linear.shape[-1]
    if not (linear == linear[:, :1]).all():
        return linear, jacobian
    # the rest has the same modes as all of the rates, and they are found once, not for each length of a step
    return linear[:, :1].repeat_interleave(n, 0), _eigenvalues(jacobian).flatten(1)[..., None, None]


def _eigenvalues(matrices: Tensor) -> Tensor:
    # for matrices of one component, a library's call takes far longer
    return matrices[..., 0] if matrices.shape[-1] == 1 else torch.linalg.eigvals(matrices)


def _stable(linear: Tensor, jacobian: Tensor, growth: Tensor, h: float) -> bool:
    """Return whether no wave grows more in a step of `h` than the equation, with rates of `growth`, lets it grow."""
    start = torch.eye(linear.shape[-1], dtype=torch.complex128).expand(jacobian.shape)
    step = etdrk4(linear[None, :, :, None], lambda u, _: jacobian @ u, start, h)
    factor = _eigenvalues(step).abs().amax(-1)
    allowed = torch.exp(h * growth.clamp(min=0).clamp(max=100 / h))
    return bool((factor <= allowed * (1 + TOLERANCE)).all())


def jacobian_of(rates: Sequence[Sequence[Term]], evaluation: Linearised, size: tuple[int, int]) -> Tensor:
    """Return the response `[P, K, n, n]` of the sums of terms to waves in each component."""
    n = len(rates)
    rows = []
    for terms in rates:
        total = torch.zeros(*size, n, dtype=torch.complex128)
        for term in terms:
            total = total + _parts(evaluation.term(term))[1]
        rows.append(total)
    return torch.stack(rows, dim=-2)


def linear_of(rates: Sequence[Rate], evaluation: Linearised, count: int) -> Tensor:
    """Return the exact rates `[K, n]`, at the first of the states."""
    columns = []
    for rate in rates:
        total = torch.zeros(count, dtype=torch.complex128)
        for term, operator in rate.linear:
            factor = _parts(evaluation.factor(term, 1.0))[0]
            first = factor.flatten()[0] if type(factor) is Tensor else factor
            total = total + first * evaluation.factors(operator)
        columns.append(total)
    return torch.stack(columns, dim=-1)
