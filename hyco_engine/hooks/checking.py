"""The check of a plugin's module or object, which gives records or a `Refusal` that says what is wrong."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

import attrs

from hyco_engine.hooks import hookspecs
from hyco_engine.hooks.hookspecs import PROJECT
from hyco_engine.hooks.records import ModelRecord, Record

HOOKS: Mapping[str, str] = {
    "hyco_models": "model",
    "hyco_strategies": "strategy",
    "hyco_normalizers": "normalizer",
    "hyco_caches": "cache backend",
    "hyco_sources": "data source",
    "hyco_trackers": "tracker",
}
HOOK_LIST = f"hooks: {', '.join(sorted(HOOKS))}"

_MARK = f"{PROJECT}_impl"
_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# kinds to which the core itself gives a meaning
_RESERVED = frozenset({("hyco_caches", "auto")})
# the spec's own keys of each table; the spec's classes lie above this room, and a test holds both against each other
_CORE_KEYS: Mapping[str, frozenset[str]] = {
    "physical": frozenset({"kind", "dt", "compile", "parameters"}),
    "synthetic": frozenset({"kind", "members"}),
    "hyco_strategies": frozenset({"kind", "alpha", "cache"}),
    "hyco_normalizers": frozenset({"kind"}),
    "hyco_caches": frozenset({"kind", "memory_budget_gb", "directory"}),
    "hyco_sources": frozenset(
        {"kind", "name", "fields", "scale", "units", "table", "scalars", "every", "num_frames", "num_predict_steps"}
        | {"stride", "split", "observe"}
    ),
    "hyco_trackers": frozenset({"kind"}),
}

Records = Mapping[str, tuple[Record, ...]]


class Refusal(Exception):
    """The reason why a plugin cannot be used."""


@contextmanager
def as_refusal(what: str, *, place: bool = False) -> Iterator[None]:
    """Turn whatever the plugin raises, including sys.exit, into a `Refusal`; an interrupt passes.

    With `place`, the message gives the line of the plugin that raised it.
    """
    try:
        yield
    except Refusal:
        raise
    except (Exception, SystemExit) as error:
        raise Refusal(f"{what}: {describe(error)}{_place(error) if place else ''}") from error


def describe(error: BaseException) -> str:
    """Return the exception in one line."""
    import traceback

    return " ".join("".join(traceback.format_exception_only(error)).split())


def _place(error: BaseException) -> str:
    import traceback

    # the engine's own loader and Python's import machinery are not the plugin's code
    ours = (os.path.dirname(__file__), os.path.dirname(importlib.__file__), "<frozen importlib")
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [f" ({file}:{line})" for file, line in frames if not file.startswith(ours)]
    return theirs[-1] if theirs else ""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"`, or nothing if no word is close."""
    import difflib

    close = difflib.get_close_matches(word, sorted(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@as_refusal("its hooks cannot be read")
def collect(target: object) -> Records:
    """Call the hook functions of a module or object and check what they return.

    Raises `Refusal`; an exception of the plugin's own code becomes its cause.
    """
    if inspect.isclass(target):
        raise Refusal(f"its target is the class {target.__qualname__!r}; name a module or an instance")
    found: dict[str, tuple[object, ...]] = {}
    for name, member in _members(target):
        plain = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        marks = inspect.getattr_static(plain, _MARK, None)
        if not isinstance(marks, Mapping):
            if name.startswith("hyco_") and isinstance(plain, FunctionType):
                hint = "" if name in HOOKS else did_you_mean(name, HOOKS)
                raise Refusal(f"its function {name!r} is named like a hook but lacks @hookimpl{hint}")
            continue
        hook = marks.get("specname") or name
        if hook in HOOKS:
            function = member if isinstance(target, ModuleType) else getattr(target, name)
            found[hook] = found.get(hook, ()) + _call(name, function, marks)
        elif not marks.get("optionalhook"):
            raise Refusal(f"its hook {hook!r} does not exist{did_you_mean(hook, HOOKS)} ({HOOK_LIST})")
    if not found:
        raise Refusal(f"it has no function marked with @hookimpl ({HOOK_LIST})")
    return {hook: check(hook, records) for hook, records in sorted(found.items())}


def _members(target: object) -> list[tuple[str, Any]]:
    """Return attributes without running properties, `__getattr__` or lazy imports."""
    found: dict[str, Any] = {}
    for cls in reversed(type(target).__mro__):
        found |= vars(cls)
    with suppress(AttributeError):  # slots only
        found |= object.__getattribute__(target, "__dict__")
    return sorted(found.items())


def _call(name: str, function: Any, marks: Mapping[str, Any]) -> tuple[object, ...]:
    if marks.get("wrapper") or marks.get("hookwrapper"):
        raise Refusal(f"its hook function {name!r} is a wrapper; a hook function must only return records")
    parameters = inspect.signature(function).parameters.values()
    if parameters:
        listed = ", ".join(map(str, parameters))
        raise Refusal(f"its hook function {name}({listed}) must take no argument, not even with a default")
    # a generator runs, and fails, only while it is iterated
    with as_refusal(f"its hook function {name!r} failed", place=True):
        result = function()
        if isinstance(result, Iterable) and not isinstance(result, str | bytes):
            return tuple(result)
    raise Refusal(f"its hook function {name!r} returned {_described(result)}; it must return an iterable of records")


def check(hook: str, records: Iterable[object]) -> tuple[Record, ...]:
    """Return the records of one plugin for one hook, sorted by kind.

    Raises `Refusal` with all faults of the records.
    """
    good: list[Record] = []
    faults: list[str] = []
    wanted = ModelRecord if hook == "hyco_models" else Record
    for record in records:
        # a ModelRecord is a Record, but its role means nothing for another hook
        if not isinstance(record, wanted) or (wanted is Record and isinstance(record, ModelRecord)):
            faults.append(f"{hook} returned {_described(record)}; it must return {wanted.__name__} instances")
            continue
        with as_refusal(f"a record of {hook} cannot be checked"):
            faults += [f"kind {record.kind!r} of {hook}: {fault}" for fault in _faults(hook, record)]
        good.append(record)
    if faults:
        raise Refusal("; ".join(faults))
    kinds = [record.kind for record in good]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise Refusal(f"{hook} returned the kind {twice[0]!r} twice")
    return tuple(sorted(good, key=lambda record: record.kind))


def _faults(hook: str, record: Record) -> Iterator[str]:
    if not isinstance(record.kind, str) or not _KEBAB.fullmatch(record.kind):
        yield "the kind must be kebab-case, such as 'my-kind'"
    elif (hook, record.kind) in _RESERVED:
        yield "this kind belongs to the core; choose another one"
    if not isinstance(record.summary, str) or not record.summary.strip():
        yield "the summary is empty; write one sentence"
    if isinstance(record, ModelRecord) and record.role not in ("physical", "synthetic"):
        yield f"the role is {record.role!r}; it must be 'physical' or 'synthetic'"
    elif not inspect.isclass(record.options) or not attrs.has(record.options):
        yield f"the options are {_described(record.options)}; they must be a class made with hyco_engine.options"
    else:
        if not _is_frozen(record.options):
            name = record.options.__qualname__
            yield f"the options class {name!r} is not frozen; make it with hyco_engine.options"
        for name in sorted({field.name for field in attrs.fields(record.options)} & core_keys(hook, record)):
            yield f"the option {name!r} has the name of a key that belongs to the core; rename it"
    if not callable(record.factory):
        yield f"the factory is {_described(record.factory)}; it must be a function factory(options, context)"
    elif not _takes_two(record.factory):
        yield f"the factory takes {inspect.signature(record.factory)}; it must take (options, context)"


def core_keys(hook: str, record: Record) -> frozenset[str]:
    """Return the keys of the record's table in a spec that are not the record's options."""
    return _CORE_KEYS[record.role if isinstance(record, ModelRecord) else hook]


def without_help(records: Records) -> Iterator[str]:
    """Yield a warning for each option without help text."""
    for hook, ours in records.items():
        for record in ours:
            for field in attrs.fields(record.options):
                if not field.metadata.get("help"):
                    yield f"kind {record.kind!r} of {hook}: the option {field.name!r} has no help text"


def deprecated(records: Records) -> Iterator[str]:
    """Yield a warning for each deprecated hook that is used, and for each deprecated field that a record sets.

    `@hookspec(warn_on_impl=DeprecationWarning("..."))` marks a hook, `metadata={"deprecated": "..."}` a field; the text
    says what to use instead, and in which version the old way goes.
    """
    for hook, ours in records.items():
        marks = getattr(getattr(hookspecs, hook, None), f"{PROJECT}_spec", None) or {}
        if warning := marks.get("warn_on_impl"):
            yield f"its hook {hook!r} is deprecated: {warning}"
        for record in ours:
            for field in attrs.fields(type(record)):
                told = field.metadata.get("deprecated")
                if told and getattr(record, field.name) != field.default:
                    where = f"kind {record.kind!r} of {hook}"
                    yield f"{where}: the field {field.name!r} of its record is deprecated: {told}"


def _is_frozen(cls: type) -> bool:
    try:
        probe: Any = object.__new__(cls)
        probe.any = None
    except attrs.exceptions.FrozenInstanceError:
        return True
    except (AttributeError, TypeError):  # slots; an abstract class
        return False
    return False


def _takes_two(factory: Any) -> bool:
    try:
        inspect.signature(factory).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # written in C: unknown until it is called
        return True
    return True


def _described(thing: object) -> str:
    """Describe a value without its repr, which would run the plugin's code."""
    if thing is None:
        return "None"
    if inspect.isclass(thing):
        return f"the class {thing.__qualname__!r}"
    return f"an object of type {type(thing).__name__!r}"
