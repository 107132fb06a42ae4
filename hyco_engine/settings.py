"""The form of option classes: `@options` on the class, `option(...)` for each field.

    @options
    class UNetOptions:
        levels: int = option(3, help="resolution levels", ge=1, le=6)
        activation: Literal["silu", "gelu"] = option("silu", help="nonlinearity")

Allowed types: bool, int, float, str, pathlib.Path, Literal[...], other option classes, `X | None`, `tuple[T, ...]`,
`Mapping[str, T]`, and from `hyco_engine.spec.choices` the `Choice` classes (a nested `{kind = ...}` table) and
`BoundarySetting`. Plugins import these names from `hyco_engine` or `hyco_engine.spec.options`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

import attrs

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def option(
    default: Any = attrs.NOTHING,
    *,
    help: str,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    inf: bool = False,
    check: Callable[[Any], object] | None = None,
    output: bool = False,
) -> Any:
    """Declare a spec key. It is required unless it has a default; a mutable default is an `attrs.Factory(...)`.

    `help` is one sentence, `unit` a physical unit, if there is one. `ge`, `gt`, `le`, `lt` bound a number, or each
    number of a tuple or mapping; numbers must be finite unless `inf` is True; other values pass. `check(value)` raises
    ValueError for mistakes that bounds cannot express. Checks across keys belong in `__attrs_post_init__`, which raises
    ValueError, or SpecError with the key of the mistake. `output` marks a Path that is written: it stays relative to
    the working directory, whereas input paths are made absolute when the spec is loaded.
    """
    bounds = {name: bound for name, bound in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if bound is not None}
    within = _Within(bounds, inf)
    return attrs.field(
        default=default,
        validator=[within, _Checked(check)] if check else within,
        metadata={"help": help, "unit": unit, "bounds": bounds, "output": output},
    )


# no field_specifiers: mypy would accept a default only by keyword, and would take every key for required
@dataclass_transform(kw_only_default=True, frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make a class of spec keys: frozen attrs with keyword-only arguments."""
    return attrs.frozen(kw_only=True)(cls)


_TEST = {"ge": lambda x, b: x >= b, "gt": lambda x, b: x > b, "le": lambda x, b: x <= b, "lt": lambda x, b: x < b}
_SIGN = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@attrs.frozen
class _Within:
    """An attrs validator of numeric bounds."""

    bounds: dict[str, float]
    inf: bool

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        for number in _numbers(value):
            if not all(_TEST[name](number, bound) for name, bound in self.bounds.items()):
                wanted = " and ".join(f"{_SIGN[name]} {bound:g}" for name, bound in self.bounds.items())
                raise ValueError(f"must be {wanted}, not {number}")
            if math.isinf(number) and not self.inf:
                raise ValueError(f"must be finite, not {number}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | Mapping):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(entry)


@attrs.frozen
class _Checked:
    """An attrs validator that checks the value alone."""

    check: Callable[[Any], object]

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        self.check(value)


@options
class Choice:
    """A kind with its options; `options` is an instance of the record's option class."""

    hook: ClassVar[str]
    role: ClassVar[Literal["physical", "synthetic"] | None] = None
    default_kind: ClassVar[str | None] = None
    core_kind: ClassVar[str | None] = None
    """A kind that belongs to the core: it has no record and no options."""

    kind: str
    options: Any = None


def key_of(field: attrs.Attribute[Any]) -> str:
    """Return the spec key of an option: its name, less an underscore at the end, which keeps it apart from a keyword.

    So the option `from_` is the key `from`.
    """
    return field.name.removesuffix("_")


def check_folder_name(value: str) -> None:
    """Check that the value names a folder directly below another one and cannot lead out of it."""
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value[:120]!r} cannot name a folder: use 1 to 100 letters, digits, '_', '-' and '.', "
            f"and do not start with '-' or '.'"
        )
