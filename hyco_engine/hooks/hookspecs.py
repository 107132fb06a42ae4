"""The six hooks. A hook function takes no argument and returns an iterable of records."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from hyco_engine.hooks.records import ModelRecord, Record

PROJECT = "hyco_engine"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hyco_models() -> Iterable[ModelRecord]:  # type: ignore[empty-body]
    """Models: factories return an `nn.Module`, a stepper or a predictor (`hyco_engine.interfaces`)."""


@hookspec
def hyco_strategies() -> Iterable[Record]:  # type: ignore[empty-body]
    """Augmentation strategies: factories return a `hyco_engine.interfaces.Strategy`."""


@hookspec
def hyco_normalizers() -> Iterable[Record]:  # type: ignore[empty-body]
    """Loss normalizers: factories return a `hyco_engine.interfaces.LossNormalizer`."""


@hookspec
def hyco_caches() -> Iterable[Record]:  # type: ignore[empty-body]
    """Cache backends: factories return a `hyco_engine.interfaces.CacheBackend`."""


@hookspec
def hyco_sources() -> Iterable[Record]:  # type: ignore[empty-body]
    """Data sources: factories return a `hyco_engine.interfaces.TrajectorySource` or `SampleSource`."""


@hookspec
def hyco_trackers() -> Iterable[Record]:  # type: ignore[empty-body]
    """Trackers: factories return a `hyco_engine.interfaces.Tracker`."""
