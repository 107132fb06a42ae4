"""Tables in text files, in the forms in which people have them.

Separator, decimal sign, encoding, comments, header, a row of units, marks of missing entries and date-times are found
where the text leaves one possibility, and told in `notes`. Where it leaves several, the refusal names the key of
`[data.csv]` that decides.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import attrs
import numpy as np
import numpy.typing as npt

from hyco_engine.data.csv_form import CsvForm
from hyco_engine.errors import DataError
from hyco_engine.untrusted import TooLargeError, read_regular

SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
MISSING = frozenset({"", ".", "na", "n/a", "#n/a", "nan", "null", "none", "-", "--"})
"""Entries that mean "not observed", in lower case."""
# each expression decides in one pass over the entry, however long it is
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eEdD][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_DIGITS = re.compile(r"[+−-]?[.,]?\d[\d., ':/TZeEdD+-]*|[+-]?inf", re.IGNORECASE)
"""Entries that are numbers or times, in whatever form."""
_COMPACT = re.compile(r"((?:19|20)\d{6})(\d{4}(?:\d{2})?)?")
"""Date-times written as one number: 20240501, or 202405011230."""
_DAY = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|(19|20)\d{6}")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AP]M)?", re.IGNORECASE)
_FINER = re.compile(r"[.,]\d{6}0*[1-9]")
"""Digits of a second that `datetime` has no place for."""
_TIME_FORMATS = tuple(
    f"{day}{clock}".strip()
    for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d-%b-%Y", "%d %b %Y", "")
    for clock in ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
)
"""Forms of date-times, and of times of the day, in which people write them."""
_COMMENTS = ("#", "%", "//", "!")
_OPENING = {"]": "[", ")": "("}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


_MEMORY = 25
"""How many times the size of a text table its entries take in memory."""


@attrs.frozen(kw_only=True)
class CsvTable:
    """The entries of a table as text, and how they are to be read."""

    path: Path
    names: tuple[str, ...]
    """The names in the header, without their units; empty without a header."""
    units: tuple[str, ...]
    """The unit of each column, "" where the file gives none."""
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    """The number of each row's line in the file."""
    form: CsvForm
    notes: tuple[str, ...]
    """How the file was read, where that is not plain."""

    @property
    def width(self) -> int:
        return len(self.rows[0])

    @property
    def count(self) -> int:
        return len(self.rows)

    def text(self, column: int) -> list[str]:
        """Return the entries of a column."""
        return [row[column] for row in self.rows]

    def is_missing(self, entry: str) -> bool:
        """Return true if the entry means "not observed"."""
        return entry.lower() in MISSING or entry in self.form.missing

    def is_text(self, column: int) -> bool:
        """Return true if no entry of the column is made of digits, though some are not missing."""
        seen = False
        for entry in self.text(column):
            if not self.is_missing(entry):
                if _DIGITS.fullmatch(entry):
                    return False
                seen = True
        return seen

    def numbers(self, column: int) -> npt.NDArray[np.float64]:
        """Return a column as numbers, with NaN where an entry is missing. Raises DataError at what is no number."""
        entries = self.text(column)
        if (plain := _all_plain(entries, self.form.decimal)) is not None:
            return plain
        out = np.full(len(entries), math.nan)
        for row, entry in enumerate(entries):
            if self.is_missing(entry):
                continue
            if not _is_number(entry, self.form.decimal):
                self._refuse(row, column, "is no number", *self._remedy(entry))
            out[row] = float(_plain(entry, self.form.decimal))
            if math.isinf(out[row]):
                self._refuse(row, column, "is not finite", *_not_observed(entry))
        return out

    def seconds(self, column: int) -> tuple[npt.NDArray[np.float64], str]:
        """Return (the date-times of a column in seconds since the first of them, that one as text)."""
        times: list[datetime | None] = []
        for row, entry in enumerate(self.text(column)):
            if self.is_missing(entry):
                times.append(None)
                continue
            moment = self._moment(entry)
            if moment is None:
                self._refuse(row, column, "is no date-time", *_how_times_are_written("they are"))
            if _FINER.search(entry):
                self._refuse(
                    row,
                    column,
                    "is finer than a microsecond",
                    "write the times as numbers, of seconds since the first one",
                    "data.path",
                )
            times.append(moment)
        known = [moment for moment in times if moment is not None]
        if len({moment.tzinfo is None for moment in known}) > 1:
            raise DataError(
                f"{self.path}: some date-times of the column {self._name(column)} have a time zone and some have none",
                key="data.path",
            )
        # what has no zone is counted as if it were in UTC, which knows no summer time
        zoned = [None if moment is None else moment.astimezone(UTC) if moment.tzinfo else moment for moment in times]
        first = min((moment for moment in zoned if moment is not None), default=datetime.min)
        return (
            np.array([math.nan if moment is None else (moment - first).total_seconds() for moment in zoned]),
            first.isoformat(),
        )

    def are_moments(self, column: int) -> bool:
        """Return true if the first entry of the column is a date-time, or the form says so.

        Whole numbers are date-times if each of them can be one, such as 20240501.
        """
        seen = [entry for entry in self.text(column) if not self.is_missing(entry)]
        if self.form.time_format and seen:
            return self._moment(seen[0]) is not None or _like_moment(seen[0])
        if seen and not _is_number(seen[0], self.form.decimal):
            return self._moment(seen[0]) is not None
        return bool(seen) and all(_COMPACT.fullmatch(entry) and self._moment(entry) for entry in seen)

    def time_formats(self, column: int) -> list[str]:
        """Return the common forms of date-times that fit to all entries of a column."""
        entries = [entry for entry in self.text(column) if not self.is_missing(entry)]
        return [form for form in _TIME_FORMATS if entries and all(_parsed(entry, form) for entry in entries)]

    def _moment(self, entry: str) -> datetime | None:
        try:
            if self.form.time_format:
                return _parsed(entry, self.form.time_format)
            compact = _COMPACT.fullmatch(entry)
            return datetime.fromisoformat("T".join(filter(None, compact.groups())) if compact else entry)
        except ValueError:
            return None

    def _remedy(self, entry: str) -> tuple[str, str]:
        if "\n" in entry:
            return "a quotation mark before it is not closed", "data.path"
        if "," in entry and _is_number(entry, ","):
            return 'if the comma is the decimal sign, set data.csv.decimal = ","', "data.csv.decimal"
        if _CLOCK.fullmatch(entry):
            how, key = _how_times_are_written("date-times are")
            return f"if it belongs to a date, put it into the column after that of dates; else {how}", key
        if _like_moment(entry):
            return _how_times_are_written("date-times are")
        if _DIGITS.fullmatch(entry):
            return "write numbers without signs between their thousands", "data.path"
        return _not_observed(entry)

    def _refuse(self, row: int, column: int, what: str, remedy: str, key: str) -> NoReturn:
        entry = self.rows[row][column]
        if not row and not self.names:
            remedy += "; if the line is a header, data.csv.skip leaves it out"
        raise DataError(
            f"{self.path}: line {self.lines[row]}, column {self._name(column)}: {entry[:40]!r} {what}; {remedy}",
            key=key,
        )

    def _name(self, column: int) -> str:
        return repr(self.names[column]) if self.names else str(column + 1)


def read_csv(path: Path, form: CsvForm | None = None, *, header: bool = True, named: bool = False) -> CsvTable:
    """Read a text table. Raises DataError where the text leaves open what it means, and names the key that decides.

    With `header = False`, each line is a row. If the columns are `named` elsewhere, a first line with a number is one.
    """
    form = form or CsvForm()
    notes: list[str] = []
    text = _decoded(path, form, notes)
    every = enumerate(re.split(r"\r\n|\n|\r", text), start=1)
    lines = [(number, line) for number, line in every if line.strip() and number > form.skip]
    if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0][1], re.IGNORECASE)):
        form = form if form.separator else _with(form, separator=told[1])
        lines = lines[1:]
    comments = [line for _, line in lines if _is_comment(line)]
    body = [(number, line) for number, line in lines if not _is_comment(line)]
    if not body:
        raise DataError(f"{path} holds no rows", key="data.path")
    if not form.separator:
        form = _with(form, separator=_separator([line for _, line in islice(body, 2)]))
    cells = [(number, row) for number, row in _split(path, body, form.separator) if any(row)]
    form = _with(form, decimal=form.decimal or _decimal(path, cells))
    if form.separator not in (",", ""):
        notes.append(f"the entries are separated by {_named(form.separator)}")
    if form.decimal == ",":
        notes.append("the decimal sign is a comma")
    names = _header(path, cells, comments, form, named) if header else None
    if names is cells[0][1]:
        cells = cells[1:]
    if not cells:
        raise DataError(f"{path} holds no rows", key="data.path")
    width = len(cells[0][1])
    bare, units = _names(names or ())
    if names is not None and len(cells) > 1 and _are_units(cells[0][1], cells[1][1], form):
        units = tuple(own or given.strip("[]() ") for own, given in zip(units, cells[0][1], strict=True))
        notes.append(f"line {cells[0][0]} holds units: {', '.join(filter(None, units))}")
        cells = cells[1:]
    wanted = width if names is None else len(names)
    if all(len(row) == wanted + 1 and not row[-1] for _, row in cells):  # each line ends in a separator
        cells = [(number, row[:-1]) for number, row in cells]
    for number, row in cells:
        if len(row) != wanted:
            raise DataError(
                f"{path}: line {number} has {len(row)} entries, and the first line of the table has {wanted}; "
                f"data.csv.separator says what separates them (here {_named(form.separator)}), and data.csv.skip how "
                f"many lines precede the table",
                key="data.csv.separator",
            )
    rows = [row for _, row in cells]
    units = units or ("",) * wanted
    for k in reversed(range(wanted - 1)):
        if _are_days_and_clocks(rows, k, form):
            rows = [[*row[:k], _moment_of(row[k], row[k + 1]), *row[k + 2 :]] for row in rows]
            both = " and ".join(map(repr, bare[k : k + 2])) or f"{k + 1} and {k + 2}"
            notes.append(f"the columns {both} are one, of date-times")
            bare, units = (own[: k + 1] + own[k + 2 :] for own in (bare, units))
    return CsvTable(
        path=path,
        names=bare,
        units=units,
        rows=rows,
        lines=[number for number, _ in cells],
        form=form,
        notes=tuple(notes),
    )


def _are_days_and_clocks(rows: Sequence[Sequence[str]], k: int, form: CsvForm) -> bool:
    """Return true if column k holds days, and the next one the times of the day."""
    if form.time_format and not re.search("%[HIcXT]", form.time_format):
        return False
    pairs = [(row[k], row[k + 1]) for row in rows if row[k] or row[k + 1]]
    return bool(pairs) and all(_CLOCK.fullmatch(clock) and _DAY.fullmatch(day) for day, clock in pairs)


def _moment_of(day: str, clock: str) -> str:
    return f"{day} {clock if clock[1:2] != ':' else f'0{clock}'}".strip()


def _not_observed(entry: str) -> tuple[str, str]:
    return f'if it means "not observed", set data.csv.missing = ["{entry}"]', "data.csv.missing"


def _how_times_are_written(they: str) -> tuple[str, str]:
    return f'data.csv.time_format says how {they} written, such as "%d.%m.%Y %H:%M"', "data.csv.time_format"


def _with(form: CsvForm, **found: str) -> CsvForm:
    return attrs.evolve(cast("Any", form), **found)  # type: ignore[no-any-return]


def _decoded(path: Path, form: CsvForm, notes: list[str]) -> str:
    try:
        content = read_regular(path, memory=_MEMORY)
    except TooLargeError as error:
        raise DataError(
            f"cannot read {path}: {error}; a table saved as .parquet or .npy takes less", key="data.path"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", key="data.path") from None
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), "")
    # half of the bytes of numbers in UTF-16 are zero
    wide = {0: "utf-16-be", 1: "utf-16-le"}
    found = next((wide[k] for k in wide if len(content) > 3 and not any(content[k:200:2])), "")
    for name in [form.encoding] if form.encoding else [marked or found or "utf-8", "cp1252"]:
        try:
            text = content.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if name not in ("utf-8", "utf-8-sig", form.encoding):
            notes.append(f"the encoding is {'Latin-1' if name == 'cp1252' else 'UTF-16'}")
        return text
    raise DataError(
        f"{path} is no text in {form.encoding or 'UTF-8, UTF-16 or Latin-1'}; data.csv.encoding names its encoding",
        key="data.csv.encoding",
    )


def _is_comment(line: str) -> bool:
    return line.lstrip(" \t\"'").startswith(_COMMENTS) and not line.lstrip(" \t\"'").lower().startswith("#n/a")


def _separator(lines: Sequence[str]) -> str:
    """Return the sign that occurs in the first two lines; a comma comes last, since it may be a decimal sign."""
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines]
    for sign in (";", "\t", "|", ","):
        if all(sign in line for line in bare):
            return sign
    return " " if all(len(line.split()) > 1 for line in bare) and not any("," in line for line in bare) else ","


def _split(path: Path, lines: Sequence[tuple[int, str]], separator: str) -> Iterator[tuple[int, list[str]]]:
    if separator == " ":
        for number, line in lines:
            yield number, line.split()
        return
    # without its end, a line whose quotation mark is not closed would join the next one
    reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=separator, skipinitialspace=True)
    first = 0
    try:
        for row in reader:
            yield lines[first][0], [entry.strip() for entry in row]
            first = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}: line {lines[first][0]}: {error}", key="data.path") from None


def _decimal(path: Path, cells: Sequence[tuple[int, list[str]]]) -> Literal[".", ","]:
    """Return the decimal sign. Raises DataError if each comma could as well stand between thousands."""
    doubtful: tuple[int, str] | None = None
    for number, row in cells:
        for entry in row:
            if "." in entry and _is_number(entry, "."):
                return "."
            if "," in entry and _is_number(entry, ","):
                if not re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", entry):
                    return ","
                doubtful = doubtful or (number, entry)
    if doubtful is not None:
        raise DataError(
            f"{path}: line {doubtful[0]}: {doubtful[1]!r} may be {doubtful[1].replace(',', '.')} or "
            f"{doubtful[1].replace(',', '')}; data.csv.decimal says which sign is the decimal one",
            key="data.csv.decimal",
        )
    return "."


def _header(
    path: Path, cells: Sequence[tuple[int, list[str]]], comments: Sequence[str], form: CsvForm, named: bool
) -> list[str] | None:
    first = cells[0][1]
    if _is_header(first, cells[1][1] if len(cells) > 1 else [], form, named):
        return first
    # numpy.savetxt writes the header as a comment
    for comment in reversed(comments):
        bare = comment.strip().lstrip("#%!/ ")
        ((_, row),) = _split(path, [(0, bare)], form.separator)
        # columns that white space separates may have names with single blanks
        for names in (row, re.split(r"\s{2,}", bare.strip())):
            if len(names) == len(first) and not any(_is_number(entry, form.decimal) for entry in names):
                return names
    return None


def _is_header(first: Sequence[str], after: Sequence[str], form: CsvForm, named: bool) -> bool:
    """Return true if the first line names the columns.

    Numbers among its text are names only if the text stands above numbers: a row may hold the name of a sensor.
    """
    valued = [_is_number(entry, form.decimal) or _like_moment(entry) for entry in first]
    text = [k for k, entry in enumerate(first) if not valued[k] and entry.lower() not in MISSING]
    if not text or not any(valued):
        return bool(text)
    below = [after[k] for k in text if k < len(after)]
    return not named and any(_is_number(entry, form.decimal) or _like_moment(entry) for entry in below)


def _parsed(entry: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(entry, form)
    except ValueError:
        return None


def _like_moment(entry: str) -> bool:
    return bool(re.match(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}:\d{2}", entry))


def _names(header: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (names, units) of a header such as `t [s], x (m), u`."""
    found = [_name_and_unit(entry) for entry in header]
    return tuple(name for name, _ in found), tuple(unit for _, unit in found)


def _name_and_unit(entry: str) -> tuple[str, str]:
    opening = _OPENING.get(entry[-1:])
    name, sign, unit = entry[:-1].rpartition(opening) if opening else ("", "", "")
    return (name.strip(), unit.strip()) if sign and name.strip() else (entry, "")


def _are_units(row: Sequence[str], after: Sequence[str], form: CsvForm) -> bool:
    """Return true if a row below the header names the units of the numbers in the row `after` it."""
    if len(row) != len(after) or any(_is_number(entry, form.decimal) or _like_moment(entry) for entry in row):
        return False
    numeric = [_is_number(entry, form.decimal) or _like_moment(entry) for entry in after]
    named = [entry.lower() not in MISSING for entry in row]
    return any(map(min, named, numeric)) and not any(
        own and not number for own, number in zip(named, numeric, strict=True)
    )


def _is_number(entry: str, decimal: str) -> bool:
    return ("," not in entry or decimal == ",") and _NUMBER.fullmatch(_plain(entry, decimal)) is not None


def _all_plain(entries: Sequence[str], decimal: str) -> npt.NDArray[np.float64] | None:
    """Return entries as numbers at once if all are plain, finite ones, as in most columns; else None."""
    try:
        found = np.array(list(map(float, entries)))
    except ValueError:
        return None
    # Python reads 1_000, and a point always as the decimal sign
    foreign = "_." if decimal == "," else "_"
    strange = any(sign in entry for sign in foreign for entry in entries)
    return None if strange or not np.isfinite(found).all() else found


def _plain(entry: str, decimal: str) -> str:
    """Return a number as Python writes it."""
    if decimal == ",":
        entry = entry.replace(".", "_").replace(",", ".")
    return entry.replace("−", "-").replace("D", "e").replace("d", "e")


def _named(separator: str) -> str:
    return {" ": "white space", "\t": "tabs"}.get(separator, repr(separator))
