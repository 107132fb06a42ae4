"""The parser of equations: text becomes a tree of few kinds of nodes, and nothing in it is ever executed.

Python's own parser reads the text, and an allow-list of its nodes becomes a tree of ours; every other node is refused
at its place. Characters that no equation has are refused before Python's parser sees them.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import attrs

from hyco_engine.errors import SpecError

MAX_CHARACTERS = 4000
MAX_DEPTH = 100
MAX_POWER = 32
"""The largest exponent, by magnitude: a larger one is a mistake."""

_PUNCTUATION = frozenset("_.+-*/(),<>=!")
_SIGNS: Mapping[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_INSTEAD = {
    "^": "write ** for a power",
    "[": "write u.x for a component, and parentheses for groups",
    "{": "write parentheses",
    "·": "write * for a product, dot(a, b) for one of vectors",
    "×": "write * for a product",
    "−": "write - for minus",
    "∇": "write grad(f), div(v) or lap(f)",
    "∂": "write dx(f) for a derivative along x",
}


@attrs.frozen
class Number:
    place: int
    value: float


@attrs.frozen
class Name:
    """A name, or two with a dot between: `u`, `u.x`, `constants.g`."""

    place: int
    name: str


@attrs.frozen
class Negative:
    place: int
    argument: Expression


@attrs.frozen
class Operation:
    """`sign` is one of + - * / ** and, between numbers that `where` compares, < <= > >=."""

    place: int
    sign: str
    left: Expression
    right: Expression


@attrs.frozen
class Call:
    place: int
    function: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Number | Name | Negative | Operation | Call


@attrs.frozen(kw_only=True)
class Text:
    """One equation as its author wrote it, and the key of the spec that holds it."""

    text: str
    key: str

    def mistake(self, place: int, message: str) -> SpecError:
        """Return the error that says where in the text what is wrong."""
        before = self.text[:place]
        column = place - (before.rfind("\n") + 1) + 1
        line = before.count("\n") + 1
        where = f"line {line}, column {column}" if "\n" in self.text.strip() else f"column {column}"
        rest = self.text[place:].split("\n")[0]
        quoted = f"{rest[:20]!r}" if rest else "the end"
        return SpecError(f"{where}, at {quoted}: {message}", key=self.key)


def parse(text: str, key: str) -> Expression:
    """Return the tree of an equation. Raises SpecError with the place of a mistake and what was expected there."""
    return _Parser(Text(text=text, key=key)).parsed()


class _Parser:
    def __init__(self, source: Text) -> None:
        self._source = source
        # Python counts columns in bytes, within lines
        self._lines = [line.encode() for line in source.text.split("\n")]
        self._starts = [0]
        for line in source.text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def parsed(self) -> Expression:
        text, mistake = self._source.text, self._source.mistake
        if len(text) > MAX_CHARACTERS:
            raise SpecError(
                f"is {len(text)} characters long; an equation has at most {MAX_CHARACTERS}", key=self._source.key
            )
        if not text.strip():
            raise SpecError("is empty; write the rate of change, such as 'nu * lap(u)'", key=self._source.key)
        self._check_characters()
        try:
            # within parentheses an equation may continue on other lines
            with warnings.catch_warnings():
                # what Python only warns of, such as 2or u, has no meaning here
                warnings.simplefilter("ignore", SyntaxWarning)
                body = ast.parse(f"({text}\n)", mode="eval").body
        except SyntaxError as error:
            place = self._place(error.lineno or 1, None, (error.offset or 1) - 1)
            raise mistake(place, "a number, a name or an operator is missing or misplaced here") from None
        except (ValueError, RecursionError, MemoryError):
            raise mistake(0, f"is nested too deeply: at most {MAX_DEPTH} levels") from None
        return self._converted(body, 0)

    def _check_characters(self) -> None:
        """Refuse what no equation has, words that Python keeps for itself, and parentheses without a partner."""
        text, mistake = self._source.text, self._source.mistake
        for word in re.finditer(r"(?<![\w.])[^\W\d]\w*", text):
            if keyword.iskeyword(word[0]):
                raise mistake(
                    word.start(), f"{word[0]!r} cannot be a name in equations; choose another, such as {word[0]}_"
                )
        opened: list[int] = []
        for place, character in enumerate(text):
            known = character in _PUNCTUATION or character in " \t\n" or f"a{character}".isidentifier()
            if not known or character in _INSTEAD:
                instead = _INSTEAD.get(character, "an equation has names, numbers, + - * / **, parentheses and commas")
                raise mistake(place, f"{character!r} has no meaning here; {instead}")
            if character == "(":
                opened.append(place)
                if len(opened) > MAX_DEPTH:
                    raise mistake(place, f"is nested too deeply: at most {MAX_DEPTH} levels")
            elif character == ")":
                if not opened:
                    raise mistake(place, "this parenthesis closes none")
                opened.pop()
        if opened:
            raise mistake(opened[-1], "this parenthesis is not closed")

    def _converted(self, node: ast.expr, depth: int) -> Expression:
        place = self._place(node.lineno, node.col_offset)
        if depth > MAX_DEPTH:
            told = f"is nested too deeply: at most {MAX_DEPTH} levels, and each operation in a row is one"
            raise self._source.mistake(place, f"{told}; put parentheses around parts of a long sum")
        match node:
            case ast.Constant(value=bool() | None):
                pass
            case ast.Constant(value=int() | float() as value):
                return Number(place, self._finite(place, value))
            case ast.Name(id=name):
                return Name(place, name)
            case ast.Attribute(value=ast.Name(id=name), attr=part) if not part.startswith("_"):
                return Name(place, f"{name}.{part}")
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return Negative(place, self._converted(inner, depth + 1))
            case ast.UnaryOp(op=ast.UAdd(), operand=inner):
                return self._converted(inner, depth + 1)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _SIGNS:
                return self._operation(place, _SIGNS[type(operator)], left, right, depth)
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _SIGNS:
                return self._operation(place, _SIGNS[type(operator)], left, right, depth)
            case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
                return Call(place, function, tuple(self._converted(one, depth + 1) for one in arguments))
        raise self._source.mistake(
            place, "is no part of an equation; expected a number, a name, an operation or a function such as dx(u)"
        )

    def _operation(self, place: int, sign: str, left: ast.expr, right: ast.expr, depth: int) -> Operation:
        made = Operation(place, sign, self._converted(left, depth + 1), self._converted(right, depth + 1))
        if sign == "**" and abs(constant(made.right)) > MAX_POWER:
            where = self._place(right.lineno, right.col_offset)
            raise self._source.mistake(
                where, f"expected a number from -{MAX_POWER} to {MAX_POWER} as exponent; exp(a * log(u)) takes others"
            )
        return made

    def _finite(self, place: int, value: int | float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._source.mistake(place, "is too large for a number")
        return number

    def _place(self, line: int, column: int | None, characters: int = 0) -> int:
        """Return the place in the text of a place in the text within parentheses, in bytes or in `characters`."""
        line = min(line, len(self._lines))
        shift = 1 if line == 1 else 0
        if column is not None:
            characters = len(self._lines[line - 1][: max(0, column - shift)].decode(errors="ignore"))
        else:
            characters = max(0, characters - shift)
        return min(self._starts[line - 1] + characters, len(self._source.text))


def constant(node: Expression) -> float:
    """Return the value of a number with a sign, or of a quotient of two; infinite for anything else."""
    match node:
        case Number(value=value):
            return value
        case Negative(argument=inner):
            return -constant(inner)
        case Operation(sign="/", left=Number(value=above), right=Number(value=below)) if below:
            return above / below
    return math.inf


def names(node: Expression) -> Iterator[Name]:
    """Yield all names, in the order of the text."""
    match node:
        case Name():
            yield node
        case Negative(argument=inner):
            yield from names(inner)
        case Operation(left=left, right=right):
            yield from names(left)
            yield from names(right)
        case Call(arguments=arguments):
            for argument in arguments:
                yield from names(argument)
