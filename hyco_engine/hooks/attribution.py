"""The attribution of unexpected errors to the plugin whose code raised them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hyco_engine.errors import HycoError, PluginError
from hyco_engine.hooks.checking import describe
from hyco_engine.hooks.loading import PluginInfo
from hyco_engine.hooks.registry import Registry

ENGINE = __name__.partition(".")[0]


@contextmanager
def naming_plugins(registry: Registry) -> Iterator[None]:
    """Turn an error that the code of a plugin raises into a PluginError with its distribution and the place.

    The engine's own errors and a lack of memory pass unchanged.
    """
    try:
        yield
    except HycoError:
        raise
    except Exception as error:
        found = culprit(registry, error)
        if found is None or out_of_memory(error):
            raise
        raise PluginError(f"{found[0]} failed at {found[1]}: {describe(error)}") from error


def culprit(registry: Registry, error: BaseException) -> tuple[PluginInfo, str] | None:
    """Return the plugin with the innermost code and its file:line, or None if the innermost code is the engine's."""
    owners = {
        str(getattr(part, "__module__", "")).partition(".")[0]: info
        for info in registry.plugins
        for records in info.records.values()
        for record in records
        for part in (record.factory, record.options)
    }
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == ENGINE:
            found = None
        elif package in owners:
            found = owners[package], f"{frame.f_code.co_filename}:{line}"
    return found


@contextmanager
def attributed(who: str, where: str) -> Iterator[None]:
    """Turn an error in a plugin's part into a PluginError that names the part and `where`, e.g. "epoch 3, batch 5"."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{who}, {where}: {error}") from error
    except HycoError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise PluginError(f"{who} failed in {where}: {describe(error)}") from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out. Torch is not imported here, and on the CPU it has no exception class for this."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
