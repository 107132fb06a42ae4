"""The records that hook functions return: cheap descriptions, whose factories do the heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class Record:
    """One kind that a plugin offers.

    `kind` is kebab-case and unique per hook. `options` is a frozen attrs class, made with `hyco_engine.options` and
    `hyco_engine.option`, that describes the spec keys besides `kind`. `factory(options, context)` builds the part:
    `context` is the context of the hook, such as `hyco_engine.interfaces.SourceContext`.
    """

    kind: str
    summary: str
    options: type
    factory: Callable[[Any, Any], Any]


@attrs.frozen(kw_only=True)
class ModelRecord(Record):
    """A model; `role` says which of the two players it can be."""

    role: Literal["physical", "synthetic"]


def imported(module: str, name: str = "build") -> Callable[[Any, Any], Any]:
    """Return a factory that imports `module` when it is first called, so that the record itself stays light."""

    def factory(options: Any, context: Any) -> Any:
        return getattr(import_module(module), name)(options, context)

    return factory
