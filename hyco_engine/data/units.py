"""Units of fields and parameters, and the conversion between two of them, by pint, which the extra `units` installs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from hyco_engine.data.settings import Scale
from hyco_engine.errors import DataError

_POWER = r"(?:\*\*|\^)"
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?(?:[eE][-+]?\d\d?)?"
_UNIT = re.compile(
    rf"(?:[^\W\d]+|{_NUMBER}|{_POWER} ?[-+]?\d(?! ?{_POWER})|\*(?!\*)|[ /%.°(-]|\)(?! ?{_POWER}))+",
)
"""Names, numbers, and powers of one digit, but no power of a power or of a parenthesis, which could take forever."""
_LONGEST = 80
_CF_POWER = re.compile(r"(?<=[^\W\d])(-?\d)(?!\d)")
"""The powers of the CF conventions: `m s-1` is `m s**-1`."""


def between(source: str, wanted: str, field: str) -> Scale:
    """Return the conversion from the unit `source`, which the data gives, to the unit `wanted`.

    Raise DataError where pint is not installed, does not know a unit, or where the units measure different things.
    """
    key, by_hand = f"data.units.{field}", f"give the conversion yourself by data.scale.{field}"
    try:
        import pint
    except ImportError:
        raise DataError(
            f"the data gives {field!r} in {source!r}, and the conversion to {wanted!r} needs the package pint: install "
            f"it (pip install 'hyco-engine[units]'), or {by_hand}",
            key=key,
        ) from None
    known, units = pint.UnitRegistry(), []
    for unit in (source, wanted):
        try:
            units.append(_parsed(unit, known))
        except Exception as error:  # pint raises what its parser meets
            raise DataError(
                f"{unit!r} is not a unit that pint knows; the data gives {field!r} in {source!r}, and data.units asks "
                f"for {wanted!r}: {by_hand}",
                key=key,
            ) from error
    try:
        zero, million = (float(known.Quantity(value, units[0]).to(units[1]).magnitude) for value in (0.0, 1e6))
    except pint.PintError:
        raise DataError(
            f"{source!r}, the unit of {field!r} in the data, and {wanted!r} measure different things; {by_hand}, or "
            "correct the unit",
            key=key,
        ) from None
    return Scale(factor=(million - zero) / 1e6, offset=zero)


class BaseUnits:
    """Units as products of powers of base units, by pint."""

    def __init__(self) -> None:
        import pint

        self._known = pint.UnitRegistry()

    def of(self, unit: str) -> tuple[float, Mapping[str, float]]:
        """Return the number and the powers of base units, by their symbols, that make a unit. Raise ValueError."""
        try:
            factor, base = self._known.get_base_units(_parsed(unit, self._known))
            _, parts = self._known.Quantity(1.0, base).to_tuple()
            powers = {self._known.get_symbol(name): float(power) for name, power in parts}
        except Exception as error:  # pint raises what its parser meets
            raise ValueError(f"{unit!r} is not a unit that pint knows") from error
        return float(factor), powers


@cache
def base_units() -> BaseUnits:
    """Return the units that pint knows, which take long to load. Raise ImportError if it is not installed."""
    return BaseUnits()


def _parsed(unit: str, known: Any) -> Any:
    """Return the unit that pint reads. Raise ValueError for what no unit looks like, and what pint raises."""
    text = _CF_POWER.sub(r"**\1", unit)
    if len(text) > _LONGEST or not _UNIT.fullmatch(text):
        raise ValueError(f"{unit!r} does not look like a unit")
    return known.parse_units(text)
