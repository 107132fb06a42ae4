"""The records that hook functions return: cheap descriptions, whose factories do the heavy imports."""

from __future__ import annotations

from collections.abc import Callable, Collection
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
    settled: Callable[[Any, Any], Any] | None = None
    """For a surrogate whose size may depend on the data: a function of the same arguments as `factory`. It returns the
    options with a value for each that is "auto". The engine calls it first, and writes these values into the resolved
    spec."""
    uses_time: Callable[[Any], bool] | None = None
    """For a physics that may depend on time: a function of the options that says whether it does. States then hold
    their time, as the static field `t`."""
    gives_start: Callable[[Any], Collection[str]] | None = None
    """For a physics that may give start states: a function of the options that names the fields, or components such as
    `u.x`, of which it does. Sources of sensors then need no first frame of them."""


def imported(module: str, name: str = "build") -> Callable[[Any, Any], Any]:
    """Return a function of options and context that imports `module` when it is first called.

    So the record itself stays light.
    """

    def factory(options: Any, context: Any) -> Any:
        return getattr(import_module(module), name)(options, context)

    return factory
