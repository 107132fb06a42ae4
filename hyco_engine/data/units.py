"""The conversion between two units of a field, by pint, which the extra `units` installs."""

from __future__ import annotations

import re

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
        text = _CF_POWER.sub(r"**\1", unit)
        try:
            if len(text) > _LONGEST or not _UNIT.fullmatch(text):
                raise ValueError
            units.append(known.parse_units(text))
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
