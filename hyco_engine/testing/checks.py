"""Checks of an installed plugin's kinds against the contracts, without pytest: `hyco-engine plugins check NAME`."""

from __future__ import annotations

import inspect
import linecache
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import attrs
from torch import nn

from hyco_engine.errors import DataError, HycoError, SpecError
from hyco_engine.hooks.attribution import ENGINE
from hyco_engine.hooks.checking import describe
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import (
    CacheBackend,
    CacheContext,
    ContextDeprecation,
    LossNormalizer,
    NormalizerContext,
    PartContext,
    Predictor,
    SampleSource,
    SourceContext,
    Strategy,
    StrategyContext,
    SurrogateContext,
    Tracker,
    TrackerContext,
    TrajectorySource,
)
from hyco_engine.spec.dumping import plain
from hyco_engine.spec.structuring import Structurer
from hyco_engine.testing.caches import CacheContract
from hyco_engine.testing.contexts import LAYOUTS, tiny_context, tiny_grid
from hyco_engine.testing.normalizers import NormalizerContract
from hyco_engine.testing.physics import PhysicsContract
from hyco_engine.testing.sources import SamplesContract, TrajectoryContract
from hyco_engine.testing.strategies import StrategyContract
from hyco_engine.testing.surrogates import SurrogateContract
from hyco_engine.testing.trackers import TrackerContract

GRIDS = (
    tiny_grid(8, 6),
    tiny_grid(16),
    tiny_grid(8, 6, 5),
    tiny_grid(16, upper=(20.0,)),
    tiny_grid(8, 8, upper=(20.0, 20.0)),
)
STEPS = (0.01, 0.1, 0.001)

Build = Callable[[PartContext], Any]
Status = Literal["passed", "failed", "not checked", "deprecated"]


@attrs.frozen(kw_only=True)
class Finding:
    """The result of one check; `message` explains a failure, a deprecation, or why a check was not made."""

    check: str
    status: Status
    message: str = ""


class _NotChecked(Exception):
    """The reason why a kind cannot be checked against its contract from here."""


def check_record(hook: str, record: Record, registry: Registry) -> Iterator[Finding]:
    """Check one kind, with its default options, against the contract of its hook."""
    deprecated: dict[str, None] = {}
    try:
        options = _default_options(record)
        check_options = partial(_check_options, record, options)
        yield _run("default options can be written to a spec and read back", check_options, deprecated)
        with _noting(deprecated):
            contract = contract_of(hook, record, registry)
    except _NotChecked as why:
        yield Finding(check="the contract", status="not checked", message=str(why))
        return
    except Exception as error:
        if (needed := _needed(hook, record, error)) is not None:
            yield Finding(check="the contract", status="not checked", message=needed)
            return
        yield Finding(check="the factory builds what its hook asks for", status="failed", message=_explained(error))
        return
    claims = 0
    for name in _tests(contract):
        if getattr(getattr(contract, name), "declared", False):
            claims += 1
        else:
            yield _run(name.removeprefix("test_").replace("_", " "), getattr(contract(), name), deprecated)
    if claims:
        told = f"left to the plugin's own tests, because they need what those declare: {claims} tests of the contract"
        yield Finding(check="what is declared", status="not checked", message=told)
    for text in deprecated:
        yield Finding(check="what it reads of its context", status="deprecated", message=text)


def contract_of(hook: str, record: Record, registry: Registry) -> type:
    """Return the contract of a kind with its default options, as a class whose tests can be called."""
    return _contract(hook, record, partial(registry.build, hook, record.kind, _default_options(record)), registry)


def _tests(contract: type) -> list[str]:
    """Return the tests in the order in which they are written, those of the contract's base classes first."""
    found = [name for cls in reversed(contract.__mro__) for name in vars(cls) if name.startswith("test_")]
    return list(dict.fromkeys(found))


@contextmanager
def _noting(deprecated: dict[str, None]) -> Iterator[None]:
    """Collect the warnings of what a plugin reads of its context, and ignore all others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ContextDeprecation)
        try:
            yield
        finally:
            deprecated.update(dict.fromkeys(f"{found.message} ({found.filename}:{found.lineno})" for found in caught))


def _run(check: str, call: Callable[[], object], deprecated: dict[str, None]) -> Finding:
    try:
        with _noting(deprecated):
            call()
    except Exception as error:
        return Finding(check=check, status="failed", message=_explained(error))
    return Finding(check=check, status="passed")


def _explained(error: Exception) -> str:
    """Explain an error in words, with the plugin's own line if the plugin raised it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, line = frames[-1]
    if isinstance(error, AssertionError) and str(frame.f_globals.get("__name__", "")).startswith(f"{ENGINE}."):
        return str(error) or f"this does not hold: {linecache.getline(frame.f_code.co_filename, line).strip()}"
    if isinstance(error, HycoError):
        return str(error)
    theirs = [
        f" ({frame.f_code.co_filename}:{line})"
        for frame, line in frames
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != ENGINE
    ]
    return f"{describe(error)}{theirs[-1] if theirs else ''}"


# --- options ----------------------------------------------------------------------------------------------------------


def _needed(hook: str, record: Record, error: Exception) -> str | None:
    """Return what a source without data misses, if `error` asks for values of its options; else None."""
    if hook != "hyco_sources" or not isinstance(error, SpecError | DataError):
        return None
    asked = {(problem.key or "").removeprefix("data.").partition(".")[0] for problem in error.problems}
    if not asked <= {field.name for field in attrs.fields(record.options)}:
        return None
    return _author_knows(sorted(asked))


def _author_knows(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names))
    return f"its options need values for {listed}, which only its author knows; its own tests must check it"


def _default_options(record: Record) -> Any:
    required = [field.name for field in attrs.fields(record.options) if field.default is attrs.NOTHING and field.init]
    if required:
        raise _NotChecked(_author_knows(required))
    return record.options()


def _check_options(record: Record, options: Any) -> None:
    written = plain(options)
    read: Any = Structurer(Registry()).structure(written, record.options)
    assert read == options, f"the default options {options}, written to a spec, are read back as {read}"


# --- contracts --------------------------------------------------------------------------------------------------------


def _contract(hook: str, record: Record, build: Build, registry: Registry) -> type:
    if isinstance(record, ModelRecord):
        return _physics(build, registry) if record.role == "physical" else _surrogate(build, registry)
    if hook == "hyco_sources":
        return _source(build, registry)
    bases: dict[str, tuple[type, type, type[PartContext]]] = {
        "hyco_strategies": (StrategyContract, Strategy, StrategyContext),
        "hyco_normalizers": (NormalizerContract, LossNormalizer, NormalizerContext),
        "hyco_caches": (CacheContract, CacheBackend, CacheContext),
        "hyco_trackers": (TrackerContract, Tracker, TrackerContext),
    }
    base, wanted, kind = bases[hook]
    context = tiny_context(registry=registry).derive(kind)
    _accepted(build, [context], wanted)
    members = {"elsewhere": lambda self: {"kind": record.kind}} if hook == "hyco_caches" else {}
    return _subclass(base, make=lambda self: build(context), **members)


def _subclass(base: type, **members: Any) -> type:
    made = type("Installed", (base,), members)
    assert not inspect.isabstract(made)
    return made


def _surrogate(build: Build, registry: Registry) -> type:
    def context(self: Any, layout: Any, **more: Any) -> SurrogateContext:
        return tiny_context(layout, registry=registry, **more).derive(SurrogateContext)

    built = _accepted(build, [context(None, layout) for layout in (*LAYOUTS, None)], nn.Module)
    if isinstance(built, Predictor):
        raise _NotChecked("its inputs are its own; a test of its own, a subclass of PredictorContract, must give them")
    return _subclass(SurrogateContract, make=lambda self, context: build(context), context=context)


def _physics(build: Build, registry: Registry) -> type:
    told = []
    for grid in GRIDS:
        for dt in STEPS:
            members = {"make": lambda self, context: build(context), "grid": grid, "dt": dt}
            contract = _subclass(PhysicsContract, **members)
            try:
                warning = contract().unstable()
            except HycoError as error:
                told.append(str(error))
                break  # another step does not help
            if warning is None:
                return contract
            told.append(warning)
    raise _NotChecked(f"none of the grids and steps of the check suits it: {'; '.join(dict.fromkeys(told))}")


def _source(build: Build, registry: Registry) -> type:
    context = tiny_context(registry=registry).derive(SourceContext)
    built = _accepted(build, [context], TrajectorySource, SampleSource)
    base = SamplesContract if isinstance(built, SampleSource) else TrajectoryContract
    members = {"make": lambda self, context: build(context), "context": lambda self: context}
    return _subclass(base, **members)


def _accepted(build: Build, contexts: Sequence[PartContext], *wanted: type) -> Any:
    """Build for the first context that is not refused. Raises AssertionError unless the result is one of `wanted`."""
    told = []
    for context in contexts:
        try:
            built = build(context)
            names = " or ".join(cls.__name__ for cls in wanted)
            assert isinstance(built, wanted), f"the factory returns a {type(built).__name__}, not a {names}"
            return built
        except HycoError as error:
            if error.exit_code != 2:
                raise
            told.append(str(error))
    raise _NotChecked(f"none of the problems of the check suits it: {'; '.join(dict.fromkeys(told))}")
