"""Units in equations: whether what is added, compared and equated has one unit, and the units of what has none yet.

A unit is a product of powers of base units, of a number, and of units that are not known yet. What an equation demands,
such as the same unit of two summands, is a linear equation between powers, which either makes one of the latter known,
holds anyway, or cannot hold: then the equation is wrong at this place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from hyco_engine.equations.syntax import Call, Expression, Name, Negative, Number, Operation, Text, constant
from hyco_engine.equations.terms import COMPARED, Words

NUMBER = "*"
"""The entry of a unit that holds the logarithm of its number."""
_ROUNDING = 1e-9


@attrs.frozen(eq=False)
class Unit:
    """Powers of base units by their symbols, and of units that are not known yet by `?` and a name."""

    powers: Mapping[str, float] = attrs.Factory(dict)

    @classmethod
    def known(cls, factor: float, powers: Mapping[str, float]) -> Unit:
        return cls({**powers, NUMBER: math.log(factor)})

    def times(self, other: Unit, power: float = 1.0) -> Unit:
        """Return the product with a power of another unit."""
        found = dict(self.powers)
        for name, own in other.powers.items():
            found[name] = found.get(name, 0.0) + power * own
        return Unit({name: own for name, own in found.items() if abs(own) > _ROUNDING})

    def to(self, power: float) -> Unit:
        return Unit().times(self, power)

    @property
    def unknown(self) -> list[str]:
        """The names of the units in it that are not known."""
        return [name for name in self.powers if name.startswith("?")]

    @property
    def text(self) -> str:
        """The unit as people write it; a unit that is not known is in brackets."""
        above: list[str] = []
        below: list[str] = []
        for name, power in self.powers.items():
            if name == NUMBER:
                continue
            shown = f"[{name[1:]}]" if name.startswith("?") else name
            size = f"{abs(power):.4g}"
            (above if power > 0 else below).append(shown if size == "1" else f"{shown}**{size}")
        factor = math.exp(self.powers.get(NUMBER, 0.0))
        if abs(factor - 1) > _ROUNDING:
            above.insert(0, f"{factor:.6g}")
        return "/".join(["*".join(above) or "1", *below])


class Units:
    """What is known of the units of names in equations; it grows with each equation that is looked at."""

    def __init__(self, words: Words, known: Mapping[str, Unit]) -> None:
        """`known` has units by the name of a field, a parameter, an axis, `t`, or `constants.<name>`."""
        self.words = words
        self._known = known
        self._found: dict[str, Unit] = {}

    def of_name(self, name: str) -> Unit:
        """Return the unit of a name, as far as it is known."""
        return self._settled(self._known.get(name) or Unit({f"?{name}": 1.0}))

    def rate(self, field: str, node: Expression, source: Text) -> None:
        """Look at the rate of change of a field. Raise SpecError where units differ."""
        wanted = self.of_name(field).times(self.of_name("t"), -1.0)
        self._whole(node, wanted, source, f"the rate of {field}")

    def value(self, field: str, node: Expression, source: Text) -> None:
        """Look at what gives values of a field."""
        self._whole(node, self.of_name(field), source, field)

    def told(self) -> list[str]:
        """Return the unit of each name, first of those that have one in the spec or the data."""
        found = dict.fromkeys([*self._known, *(name[1:] for name in self._found)])
        return [f"{name} in {self.of_name(name).text}" for name in found]

    def alone(self, node: Expression, source: Text) -> None:
        """Look at what is 0."""
        _Reading(self, source).of(node)

    def same(self, first: Unit, second: Unit) -> bool:
        """Demand that two units are the same; return whether they can be."""
        rest = self._settled(first.times(second, -1.0))
        if not (unknown := rest.unknown):
            return not rest.powers
        # units of parameters follow first, and those of space and time last
        words = self.words
        late = [f"?{name}" for name in (*words.static, *words.dynamic, *words.axes, "t")]
        chosen = min(unknown, key=lambda name: late.index(name) if name in late else -1)
        power = rest.powers[chosen]
        found = Unit({name: own for name, own in rest.powers.items() if name != chosen}).to(-1.0 / power)
        self._found = {name: _replaced(own, chosen, found) for name, own in self._found.items()}
        self._found[chosen] = found
        return True

    def _whole(self, node: Expression, wanted: Unit, source: Text, what: str) -> None:
        own = _Reading(self, source).of(node)
        if own is not None and not self.same(own, wanted):
            told = f"{what} has the unit {self.text(wanted)}, and this has {self.text(own)}"
            raise source.mistake(node.place, told)

    def text(self, unit: Unit) -> str:
        return self._settled(unit).text

    def _settled(self, unit: Unit) -> Unit:
        for name in unit.unknown:
            if name in self._found:
                unit = _replaced(unit, name, self._found[name])
        return unit


def _replaced(unit: Unit, name: str, found: Unit) -> Unit:
    power = unit.powers.get(name, 0.0)
    rest = Unit({other: own for other, own in unit.powers.items() if other != name})
    return rest.times(found, power) if power else unit


class _Reading:
    """Finds the unit of an expression whose words are known to have a meaning; None is that of 0, which fits any."""

    def __init__(self, units: Units, source: Text) -> None:
        self.units = units
        self.source = source
        self.one = Unit()

    def of(self, node: Expression) -> Unit | None:
        match node:
            case Number(value=value):
                return None if value == 0.0 else self.one
            case Name(name=name):
                return self._name(name)
            case Negative(argument=inner):
                return self.of(inner)
            case Operation(sign="**", left=left, right=right):
                own = self.of(left)
                return None if own is None else own.to(constant(right))
            case Operation(sign="*" | "/" as sign, left=left, right=right):
                first, second = self.of(left), self.of(right)
                return None if first is None or second is None else first.times(second, 1.0 if sign == "*" else -1.0)
            case Operation(sign=sign, left=left, right=right):
                verb = {"+": "adds", "-": "subtracts"}.get(sign, "compares")
                return self._alike(node.place, verb, left, right)
        return self._call(node)

    def _name(self, name: str) -> Unit:
        whole = name.partition(".")[0]
        if name == "pi":
            return self.one
        return self.units.of_name(name if whole == "constants" else whole)

    def _alike(self, place: int, verb: str, first: Expression, second: Expression) -> Unit | None:
        a, b = self.of(first), self.of(second)
        if a is None or b is None:
            return a or b
        if not self.units.same(a, b):
            left, right = (f"{written(node)}, in {self.units.text(own)}" for node, own in ((first, a), (second, b)))
            raise self.source.mistake(place, f"{verb} {left}, and {right}")
        return a

    def _plain(self, node: Expression, function: str) -> Unit:
        own = self.of(node)
        if own is not None and not self.units.same(own, self.one):
            told = f"{function} takes a number without a unit, and {written(node)} is in {self.units.text(own)}"
            raise self.source.mistake(node.place, told)
        return self.one

    def _call(self, node: Call) -> Unit | None:
        name, arguments = node.function, node.arguments
        axes = self.units.words.axes
        match name:
            case "lap" | "grad" | "div" | "advect":
                # the axes have one unit, since derivatives along them are added
                length = self.units.of_name(axes[0])
                for axis in axes[1:]:
                    if not self.units.same(length, own := self.units.of_name(axis)):
                        told = f"adds derivatives along {axes[0]}, in {length.text}, and {axis}, in {own.text}"
                        raise self.source.mistake(node.place, told)
                length = self.units.of_name(axes[0])
                inner = self.of(arguments[-1])
                speed = self.of(arguments[0]) if name == "advect" else self.one
                if inner is None or speed is None:
                    return None
                return inner.times(length, -2.0 if name == "lap" else -1.0).times(speed)
            case "dot":
                first, second = map(self.of, arguments)
                return None if first is None or second is None else first.times(second)
            case "mean" | "abs":
                return self.of(arguments[0])
            case "sqrt":
                inner = self.of(arguments[0])
                return None if inner is None else inner.to(0.5)
            case "sign":
                self.of(arguments[0])
                return self.one
            case "min" | "max":
                return self._alike(node.place, "compares", *arguments)
            case "where":
                self.of(arguments[0])
                return self._alike(arguments[1].place, "chooses between", *arguments[1:])
        if name[:1] == "d" and name[1:] in axes:
            order = 1.0 if len(arguments) == 1 else constant(arguments[1])
            inner = self.of(arguments[0])
            return None if inner is None else inner.times(self.units.of_name(name[1:]), -order)
        return self._plain(arguments[0], name)


def written(node: Expression) -> str:
    """Return the text of an expression."""
    match node:
        case Number(value=value):
            return f"{value:.6g}"
        case Name(name=name):
            return name
        case Negative(argument=inner):
            return f"-{_tight(inner)}"
        case Operation(sign="**", left=left, right=right):
            return f"{_tight(left)}**{_tight(right)}"
        case Operation(sign="*" | "/" as sign, left=left, right=right):
            below = _tight(right) if sign == "/" else _factor(right)
            return f"{_factor(left)}{sign}{below}"
        case Operation(sign=sign, left=left, right=right):
            after = _factor(right) if sign == "-" else written(right)
            return f"{written(left)} {sign} {after}"
    return f"{node.function}({', '.join(map(written, node.arguments))})"


def _factor(node: Expression) -> str:
    loose = type(node) is Operation and node.sign in ("+", "-", *COMPARED)
    return f"({written(node)})" if loose else written(node)


def _tight(node: Expression) -> str:
    return f"({written(node)})" if type(node) in (Operation, Negative) else written(node)
