"""Strict structuring of single values, arrays and mappings: no value is converted in a way that surprises a reader.

cattrs dispatches on the type; on its own, it would turn "false" into True, 1.9 into 1 and "abc" into ('a', 'b', 'c').
"""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import cattrs

from hyco_engine.data.fields import RuleError
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.settings import key_of

Step = str | int
Hook = Callable[[Any, Any], Any]


@attrs.frozen
class Mistake:
    """A mistake at `path` below the value that was structured.

    `plugin` says that a plugin is at fault and not the spec.
    """

    message: str
    path: tuple[Step, ...] = ()
    plugin: bool = False


class Mistakes(Exception):
    """All mistakes in a value."""

    def __init__(self, found: Iterable[Mistake] | str) -> None:
        self.found = (Mistake(found),) if isinstance(found, str) else tuple(found)
        super().__init__(self.found)

    def below(self, step: Step) -> list[Mistake]:
        """Return the mistakes with paths that start from the table or array that holds the value under `step`."""
        return [attrs.evolve(mistake, path=(step, *mistake.path)) for mistake in self.found]


def mismatch(value: object, tp: Any) -> Mistakes:
    """Return the mistake that the value does not have the type."""
    return Mistakes(f"must be {describe(tp)}, not {_shown(value)}{_hint(value, tp)}")


def _origin(tp: Any) -> Any:
    return get_origin(tp)


def members(tp: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type itself."""
    return get_args(tp) if _origin(tp) in (Union, types.UnionType) else (tp,)


def has_keys(tp: Any) -> bool:
    """Return whether values of the type are tables with declared keys."""
    return attrs.has(tp) and tp is not BoundarySetting


def is_mapping(tp: Any) -> bool:
    """Return whether values of the type are tables with any keys."""
    return _origin(tp) in (Mapping, dict) and get_args(tp)[0] is str


def describe(tp: Any) -> str:
    """Describe the type's values in the words of TOML. Raises TypeError for a type that a spec cannot hold."""
    if tp in _SCALARS:
        return _SCALARS[tp][0]
    if tp is BoundarySetting:
        return "a boundary condition"
    if has_keys(tp):
        return "a table"
    if is_mapping(tp):
        return f"a table (each entry {describe(get_args(tp)[1])})"
    if _origin(tp) is Literal:
        return _or([repr(choice) for choice in get_args(tp)])
    if _origin(tp) is tuple:
        entries = get_args(tp)
        if entries[1:] == (...,):
            return f"an array (each entry {describe(entries[0])})"
        return f"an array of {len(entries)} entries ({', '.join(map(describe, entries))})"
    if len(members(tp)) > 1:
        return _or(list(dict.fromkeys(describe(member) for member in members(tp) if member is not types.NoneType)))
    raise TypeError(f"{tp} is not a type that a spec can hold")


def strict_converter(table: Hook) -> cattrs.Converter:
    """Return a converter for all types that `hyco_engine.spec.options` lists; `table` structures attrs classes."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

    def structure_array(value: Any, tp: Any) -> tuple[Any, ...]:
        entries = get_args(tp)
        if not isinstance(value, list | tuple):
            raise mismatch(value, tp)
        if entries[1:] == (...,):
            entries = (entries[0],) * len(value)
        elif len(entries) != len(value):
            raise Mistakes(f"must be {describe(tp)}, not of {len(value)}")
        steps = zip(range(len(value)), value, entries, strict=True)
        return tuple(result for _, result in structure_each(steps, converter.structure))

    def structure_mapping(value: Any, tp: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise mismatch(value, tp)
        entry = get_args(tp)[1]
        return dict(structure_each(((key, value[key], entry) for key in value), converter.structure))

    def structure_union(value: Any, tp: Any) -> Any:
        candidates = [member for member in members(tp) if member is not types.NoneType]
        if value is None and types.NoneType in members(tp):
            return None
        if len(candidates) == 1:
            return converter.structure(value, candidates[0])
        fitting = [member for member in candidates if _same_shape(value, member)]
        if fitting and not _is_scalar(value):
            # all mistakes of an array or table are reported, so the alternative that was meant must be chosen first
            return converter.structure(value, max(fitting, key=lambda tp: sum(key in value for key in _keys(tp))))
        for member in fitting:
            try:
                return converter.structure(value, member)
            except Mistakes:
                continue
        raise mismatch(value, tp)

    for scalar in _SCALARS:
        converter.register_structure_hook(scalar, _structure_scalar)
    converter.register_structure_hook_func(lambda tp: _origin(tp) is Literal, _structure_literal)
    converter.register_structure_hook_func(lambda tp: _origin(tp) is tuple, structure_array)
    converter.register_structure_hook_func(is_mapping, structure_mapping)
    converter.register_structure_hook_func(lambda tp: len(members(tp)) > 1, structure_union)
    converter.register_structure_hook_func(has_keys, table)
    converter.register_structure_hook(BoundarySetting, _structure_boundary)
    return converter


def structure_each(items: Iterable[tuple[Step, Any, Any]], structure: Hook) -> list[tuple[Any, Any]]:
    """Structure all items (step, value, type), even after a mistake, and return (step, result) for each."""
    results: list[tuple[Any, Any]] = []
    mistakes: list[Mistake] = []
    for step, value, tp in items:
        try:
            results.append((step, structure(value, tp)))
        except Mistakes as found:
            mistakes += found.below(step)
    if mistakes:
        raise Mistakes(mistakes)
    return results


def _structure_scalar(value: Any, tp: Any) -> Any:
    if not _SCALARS[tp][1](value):
        raise mismatch(value, tp)
    return tp(value)


def _structure_literal(value: Any, tp: Any) -> Any:
    # compares types too, because True == 1
    if not any(type(value) is type(choice) and value == choice for choice in get_args(tp)):
        raise mismatch(value, tp)
    return value


def _structure_boundary(value: Any, tp: Any) -> BoundarySetting:
    try:
        return BoundarySetting.from_data(value)
    except RuleError as error:
        raise Mistakes([Mistake(str(error), error.path)]) from None
    except (ValueError, TypeError) as error:
        raise Mistakes(str(error)) from None


def _is_int(value: object) -> bool:
    # TOML integers have 64 bits
    return isinstance(value, Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def _is_float(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and not math.isnan(value))


def is_text(value: object) -> bool:
    """Return whether the value is text that a file can hold."""
    # surrogates without a partner cannot be written to a file
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_path(value: object) -> bool:
    return isinstance(value, str | Path) and is_text(str(value)) and "\0" not in str(value)


_SCALARS: Mapping[Any, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", _is_int),
    float: ("a number", _is_float),
    str: ("a string", is_text),
    Path: ("a path (a string)", _is_path),
}


def _is_scalar(value: object) -> bool:
    return not isinstance(value, Mapping | list | tuple)


def _same_shape(value: object, tp: Any) -> bool:
    if isinstance(value, Mapping):
        return has_keys(tp) or is_mapping(tp)
    if isinstance(value, list | tuple):
        return _origin(tp) is tuple
    return not has_keys(tp) and not is_mapping(tp) and _origin(tp) is not tuple


def _keys(tp: Any) -> set[str]:
    return {key_of(field) for field in attrs.fields(tp)} if has_keys(tp) else set()


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return repr(value if len(value) <= 60 else value[:60] + "…")
        case Mapping():
            return "a table"
        case list() | tuple():
            return "an array"
        case None:
            return "nothing"
        case Integral() if not _is_int(value):
            return "a number beyond 64 bits"
        case Integral() | float():
            return str(value)
        case datetime.date() | datetime.time():
            return f"the {type(value).__name__} {value}"
    return f"an object of type {type(value).__name__}"


def _hint(value: object, tp: Any) -> str:
    """Say how to correct a value of the wrong type, if that is clear."""
    if not isinstance(value, str):
        return ""
    wanted = members(tp)
    choices = [choice for member in wanted if _origin(member) is Literal for choice in get_args(member)]
    if choices:
        return did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])
    if any(member in (tuple[str, ...], tuple[Path, ...]) for member in wanted):
        return f"; write [{_shown(value)}]"
    quoted_bool = bool in wanted and value in ("true", "false")
    if quoted_bool or ((int in wanted or float in wanted) and _reads_as_number(value)):
        return "; remove the quotes"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _or(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
