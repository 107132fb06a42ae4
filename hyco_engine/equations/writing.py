"""Equations as people write them: in Unicode for a terminal, and in LaTeX for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from hyco_engine.equations.terms import (
    ONE,
    PI,
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
    times,
)

_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_LETTERS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_GREEK = frozenset(_LETTERS.split())
_SUM, _FACTOR, _WHOLE = range(3)
"""How tightly a text binds: as a sum, as a product, as one thing."""


def steps_text(steps: Mapping[str, float]) -> str:
    """Return the sentence on the internal steps of a physics."""
    steps_of = f"internal step{'s' if steps['count'] > 1 else ''} of {steps['internal']:.3g}"
    told = f"a frame of {steps['frame']:.6g} has {steps['count']} {steps_of}"
    if "longest" not in steps:
        return told
    return f"{told}; with the present parameters, those up to {steps['longest']:.3g} are stable, or accurate enough"


@attrs.frozen(kw_only=True)
class Style:
    """How the parts of an equation are written."""

    axes: tuple[str, ...]
    components: Mapping[str, tuple[str, ...]]
    latex: bool

    def of(self, node: Node) -> str:
        """Return the text of a node."""
        return self._of(node)[0]

    def term(self, term: Term) -> str:
        """Return the text of a term."""
        core = () if term.core == ONE else (term.core,)
        return self.of(times(Value(term.number), *term.coefficient, *core))

    def rate(self, symbol: Symbol, node: Node) -> str:
        """Return the equation of a component."""
        left = f"\\partial_t {self.of(symbol)}" if self.latex else f"∂t {self.of(symbol)}"
        return f"{left} = {self.of(node)}"

    def steady(self, node: Node) -> str:
        """Return the equation of a component that does not change."""
        return f"0 = {self.of(node)}"

    def start(self, symbol: Symbol, node: Node, time: float) -> str:
        """Return the equation of the start of a component."""
        return f"{self.of(symbol)} = {self.of(node)}{self._where('t', time)}"

    def side(self, symbol: Symbol, axis: str, place: float, node: Node) -> str:
        """Return the equation of a component at a side."""
        return f"{self.of(symbol)} = {self.of(node)}{self._where(axis, place)}"

    def _where(self, name: str, value: float) -> str:
        return f" \\text{{ at }} {name} = {value:.6g}" if self.latex else f" at {name} = {value:.6g}"

    def _of(self, node: Node) -> tuple[str, int]:
        match node:
            case Value(value=value):
                return self._number(value), _WHOLE if value >= 0 else _SUM
            case Symbol():
                return self._name(node), _WHOLE
            case Sum(parts=parts):
                text = self.of(parts[0])
                if text.startswith("-") and type(parts[-1]) is Value:
                    # 1 - u, of which the number was moved to the end
                    parts = (parts[-1], *parts[:-1])
                    text = self.of(parts[0])
                for part in parts[1:]:
                    own = self.of(part)
                    text += f" - {own[1:]}" if own.startswith("-") else f" + {own}"
                return text, _SUM
            case Product(factors=factors):
                return self._product(factors)
            case Power(base=base, exponent=exponent):
                return self._power(base, exponent), _WHOLE if exponent > 0 else _FACTOR
            case Derivative(operator=operator, argument=argument):
                return f"{self._operator(operator)} {self._tight(argument, _WHOLE)}", _FACTOR
            case Diffusion(axis=axis, coefficient=coefficient, argument=argument):
                unit = tuple(int(other == axis) for other in range(len(self.axes)))
                return self._of(Derivative((unit,), times(coefficient, Derivative((unit,), argument))))
            case Mean(argument=argument):
                inner = self.of(argument)
                return (f"\\langle {inner} \\rangle" if self.latex else f"⟨{inner}⟩"), _WHOLE
            case Apply(function=function, arguments=arguments):
                inner = ", ".join(map(self.of, arguments))
                name = f"\\operatorname{{{function}}}" if self.latex else function
                return f"{name}({inner})", _WHOLE
            case Choice(sign=sign, left=left, right=right, chosen=chosen, other=other):
                sign = {"<=": "\\le" if self.latex else "≤", ">=": "\\ge" if self.latex else "≥"}.get(sign, sign)
                condition = f"{self.of(left)} {sign} {self.of(right)}"
                words = "\\text{ where }", "\\text{, else }"
                where, else_ = words if self.latex else (" where ", ", else ")
                return f"({self.of(chosen)}{where}{condition}{else_}{self.of(other)})", _WHOLE
        raise TypeError(f"no node: {node!r}")

    def _tight(self, node: Node, binding: int) -> str:
        text, own = self._of(node)
        return text if own >= binding else f"({text})"

    def _product(self, factors: Sequence[Node]) -> tuple[str, int]:
        first = factors[0]
        sign = "-" if type(first) is Value and first.value < 0 else ""
        if sign and type(first) is Value:
            factors = factors[1:] if first.value == -1.0 else (Value(-first.value), *factors[1:])
        above = [one for one in factors if not (type(one) is Power and one.exponent < 0)]
        below = [Power(one.base, -one.exponent) for one in factors if type(one) is Power and one.exponent < 0]
        lower = [one.base if one.exponent == 1.0 else one for one in below]
        if self.latex:
            whole = " ".join(self._tight(one, _FACTOR if len(above) > 1 or not below else _SUM) for one in above) or "1"
            under = " ".join(self._tight(one, _FACTOR if len(lower) > 1 else _SUM) for one in lower)
            text = f"\\frac{{{whole}}}{{{under}}}" if under else whole
        else:
            text = "·".join(self._tight(one, _FACTOR) for one in above) or "1"
            under = "·".join(self._tight(one, _WHOLE) for one in lower)
            if under:
                text = f"{text}/{under}" if len(lower) == 1 else f"{text}/({under})"
        return f"{sign}{text}", _SUM if sign else _FACTOR

    def _power(self, base: Node, exponent: float) -> str:
        if exponent < 0:
            return self._product((Power(base, exponent),))[0]
        text = self._tight(base, _WHOLE)
        if self.latex:
            return f"{text}^{{{exponent:g}}}"
        return f"{text}{self._raised(int(exponent))}" if exponent == int(exponent) else f"{text}^{exponent:g}"

    def _operator(self, operator: Operator) -> str:
        laplacian = tuple(tuple(2 * int(i == j) for j in range(len(self.axes))) for i in range(len(self.axes)))
        if len(self.axes) > 1 and operator == tuple(sorted(laplacian)):
            return "\\nabla^2" if self.latex else "∇²"
        parts = [
            "".join(self._along(axis, n) for axis, n in zip(self.axes, orders, strict=True)) for orders in operator
        ]
        return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"

    def _along(self, axis: str, order: int) -> str:
        if not order:
            return ""
        if self.latex:
            return f"\\partial_{{{axis}}}" + (f"^{{{order}}}" if order > 1 else "")
        return f"∂{axis}" + (self._raised(order) if order > 1 else "")

    def _raised(self, number: int) -> str:
        return str(number).translate(_RAISED)

    def _number(self, value: float) -> str:
        if value == PI:
            return "\\pi" if self.latex else "π"
        return f"{value:.6g}"

    def _name(self, symbol: Symbol) -> str:
        name = symbol.name
        if self.latex and name in _GREEK:
            name = f"\\{name}"
        elif self.latex and len(name) > 1:
            escaped = name.replace("_", "\\_")
            name = f"\\mathrm{{{escaped}}}"
        if symbol.kind == "series":
            return f"{name}(t)"
        components = self.components.get(symbol.name, ())
        if not components:
            return name
        part = components[symbol.component]
        return f"{name}_{{{part}}}" if self.latex else f"{name}.{part}"
