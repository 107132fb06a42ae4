"""The form of a text table, `[data.csv]`; light, since the registry reads it before anything runs."""

from __future__ import annotations

import codecs
from typing import Literal

from hyco_engine.settings import option, options


def _check_encoding(value: str) -> None:
    if value:
        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError(f"there is no encoding {value!r}") from None


def _check_separator(value: str) -> None:
    if len(value) > 1:
        raise ValueError(f"must be one character, not {value!r}")


@options
class CsvForm:
    """`[data.csv]`: the form of a text table. Each key that is left out is found in the file."""

    separator: str = option(
        "", help='sign between two entries; " " for white space; empty: found', check=_check_separator
    )
    decimal: Literal["", ".", ","] = option("", help="decimal sign; empty: found")
    encoding: str = option("", help='encoding, such as "latin-1"; empty: found', check=_check_encoding)
    skip: int = option(0, help="number of lines before the first line of the table", ge=0)
    missing: tuple[str, ...] = option(
        (), help='entries that mean "not observed", such as "inf", beside empty ones, NA, NaN, null, none, . and -'
    )
    time_format: str = option(
        "", help='form of date-times, such as "%d.%m.%Y %H:%M"; empty: numbers, or ISO 8601 (2024-05-01T12:00:00)'
    )
    simulation: tuple[str, ...] = option(
        ("s",),
        help='kind = "arrays": columns whose entries together tell to which simulation a row belongs, where they are',
    )
