"""HYCO, hybrid-cooperative training: a differentiable physical model and a neural surrogate that teach each other.

The public names below are imported when they are first used: `import hyco_engine` alone loads neither torch nor phi.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyco_engine.engine import Engine, run
    from hyco_engine.errors import DataError, HycoError, PluginError, RunError, SpecError
    from hyco_engine.hooks.hookspecs import hookimpl
    from hyco_engine.hooks.records import ModelRecord, Record, imported
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.report.result import RunResult
    from hyco_engine.runs.loading import load_physics, load_surrogate
    from hyco_engine.spec.options import option, options
    from hyco_engine.training.hybrid import HybridTrainer
    from hyco_engine.training.trainer import Trainer

_HOME = {
    "Engine": "engine",
    "RunResult": "report.result",
    "run": "engine",
    "DataError": "errors",
    "HycoError": "errors",
    "PluginError": "errors",
    "RunError": "errors",
    "SpecError": "errors",
    "hookimpl": "hooks.hookspecs",
    "ModelRecord": "hooks.records",
    "Record": "hooks.records",
    "imported": "hooks.records",
    "Registry": "hooks.registry",
    "load_physics": "runs.loading",
    "load_surrogate": "runs.loading",
    "option": "spec.options",
    "options": "spec.options",
    "HybridTrainer": "training.hybrid",
    "Trainer": "training.trainer",
}

__all__ = [
    "DataError",
    "Engine",
    "HybridTrainer",
    "HycoError",
    "ModelRecord",
    "PluginError",
    "Record",
    "Registry",
    "RunError",
    "RunResult",
    "SpecError",
    "Trainer",
    "hookimpl",
    "imported",
    "load_physics",
    "load_surrogate",
    "option",
    "options",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
