"""Built-in cache backends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.options import option, options


@options
class MemoryOptions:
    """`kind = "memory"`."""


@options
class DiskOptions:
    """`kind = "disk"`."""

    shard_mb: float = option(256.0, help="largest size of one file; a single sample may exceed it", unit="MB", gt=0.0)


@options
class OnTheFlyOptions:
    """`kind = "on-the-fly"`."""

    prefetch: bool = option(True, help="true: a background thread makes the next batch while this one trains")


def _memory(options: MemoryOptions, context: Any) -> Any:
    from hyco_engine.builtin.caches.memory import Memory

    return Memory()


def _disk(options: DiskOptions, context: Any) -> Any:
    from hyco_engine.builtin.caches.disk import Disk

    return Disk(shard_bytes=int(options.shard_mb * 1e6))


def _on_the_fly(options: OnTheFlyOptions, context: Any) -> Any:
    from hyco_engine.builtin.caches.on_the_fly import OnTheFly

    return OnTheFly(prefetch=options.prefetch)


@hookimpl
def hyco_caches() -> Iterable[Record]:
    return (
        Record(
            kind="memory",
            summary="holds all generated samples in memory: the fastest way, if they fit",
            options=MemoryOptions,
            factory=_memory,
        ),
        Record(
            kind="disk",
            summary="generated samples in safetensors shards that are mapped: as fast, in little memory",
            options=DiskOptions,
            factory=_disk,
        ),
        Record(
            kind="on-the-fly",
            summary="makes generated samples again for every batch: slow, but needs neither memory nor disk",
            options=OnTheFlyOptions,
            factory=_on_the_fly,
        ),
    )
