"""The guess of a `[data]` section from arrays: which arrays are fields, what their axes mean, and where they end.

Facts that the file does not contain are guessed, and the section marks each guess for the reader to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from hyco_engine.data.npy import Array
from hyco_engine.data.numbered import STAR, members, patterns
from hyco_engine.data.points import TIME_NAMES
from hyco_engine.inspection.contents import MAX_VALUES, Stored

if TYPE_CHECKING:
    from hyco_engine.data.contracts import TrajectorySource

TIMES = ("t", "time", "times", "tt", "tspan", "time_points", "timepoints", "t_coordinate")
SPACE = "xyz"
FEW = 4
"""The length up to which an axis may count components, or an only one beside time the simulations."""
GAPS = 'observe = { mask = { value = "nan" } }   # <- values that are not finite were not observed'
"""The line that gaps in the data need."""
ROUND = 360.0
"""The degrees of longitude once round the Earth."""


@attrs.frozen(kw_only=True)
class Vector:
    """Numbers that increase or decrease, evenly or not: times, or positions along an axis."""

    name: str
    values: Array
    rounding: float = 0.0
    """By how much the file rounds these numbers, relative to the largest of them."""
    mesh: tuple[int, ...] = ()
    """The shape of the array if it repeats the numbers for others, as `numpy.meshgrid` does."""
    along: int = 0
    """The axis of the mesh along which they vary."""

    def places_in(self, shape: tuple[int, ...]) -> set[int]:
        """Return the axes of a field of this shape that may be the axis of these numbers."""
        if not self.mesh:
            return {k for k, n in enumerate(shape) if n == len(self.values)}
        every = combinations(range(len(shape)), len(self.mesh))
        return {own[self.along] for own in every if tuple(shape[k] for k in own) == self.mesh}

    @property
    def even(self) -> bool:
        steps = np.diff(self.values)
        # positions that lie far from 0 have few digits left
        rounding = max(1e-6, self.rounding) * float(np.abs(self.values).max(initial=0.0))
        return bool(len(steps) and np.allclose(steps, steps.mean(), rtol=1e-3, atol=rounding))

    @property
    def increases(self) -> bool:
        return bool((np.diff(self.values) > 0).all())


DERIVED = ("all", "swap", "clean", "true", "truth", "exact", "noise", "noisy", "pred", "error", "mask", "star", "ref")
"""Words in the names of arrays that are copies of a field, or made from one."""
PARTS = ("train", "training", "valid", "validation", "val", "dev", "test", "testing")
"""Words in the names of arrays that are parts of a split."""
SERIES = ("series", "timeseries", "data", "sol", "field", "train", "star", "all")
"""Words that follow the letter of a field in the name of its array."""
OUTPUTS = ("u", "y", "sol", "solution", "output", "outputs", "target", "targets", "label", "labels")
"""Words in the names of arrays that are made from other arrays of the file."""
POSITIONS = ("x", "coords", "coordinates", "positions", "points", "nodes", "mesh", "grid", "locations")
"""Words in the names of arrays of positions."""
GENERIC = ("usol", "uu", "sol", "solution", "data", "values", "arr_0", "array", "tensor", "field", "output", "train")
"""Names that say only that an array is the field, which built-in physics call u."""


def data_section(arrays: Mapping[str, Stored], path: Path, attributes: Mapping[str, float] | None = None) -> str | None:
    """Return the section for the source `arrays`, or None if no array looks like a field that changes in time.

    `attributes` are numbers of the file beside its arrays, by name.
    """
    single, arrays = arrays, _stacked(arrays)
    squeeze = path.suffix.lower() == ".mat"
    vectors = {name: vector for name, stored in arrays.items() if (vector := _vector(stored, squeeze)) is not None}
    times = {n: v for n, v in vectors.items() if _named(n) in TIMES}
    shapes = {n: _shape(s, squeeze) for n, s in arrays.items() if n not in vectors and len(_shape(s, squeeze)) >= 2}
    if not shapes and times:
        return _series_section(arrays, next(iter(times.values())), path)
    own = _without_derived([name for name in shapes if arrays[name].dtype.kind != "b"] or list(shapes))
    if not own:
        return None
    most = max((shapes[name] for name in own), key=lambda shape: (len(shape), np.prod(shape, dtype=object)))
    fields = [name for name in own if shapes[name] == most]
    time = next((v for v in times.values() if v.increases and v.places_in(most)), None)
    positions = {
        axis: vector
        for axis in SPACE
        for name, vector in vectors.items()
        if _named(name) in (axis, f"{axis}_coordinate") and vector.places_in(most)
    }
    longer = [k for k, n in enumerate(most) if n > 1]
    if len(longer) < 2:
        return None
    listed = _listed(vectors, most)
    if listed and time is None and not positions:
        *space, time = listed
        positions = dict(zip(SPACE, space, strict=False))
        axes, sure = f"{SPACE[: len(space)]}t", False
    else:
        named = positions | ({"t": time} if time else {})
        places = {axis: {longer.index(k) for k in v.places_in(most) if k in longer} for axis, v in named.items()}
        axes, sure = _axes(tuple(most[k] for k in longer), places)
        axes = _with_thin(axes, most)
    if STAR in fields[0] and not sure:
        axes = _with_stack(axes, fields[0], most, time is not None and 0 not in time.places_in(most))
    if STAR in fields[0] and time is None and axes[0] == "t":
        numbered = np.array(list(members(fields[0], single)))
        # whole numbers count frames or steps
        time = Vector(name=STAR, values=numbered) if (numbered % 1).any() else None
    read = {name: values.reshape(most) for name in fields if (values := arrays[name].read()) is not None}
    steady = time is None and len(read) > 1 and len(read) == len(fields) and all(map(_unrelated, read.values()))
    if steady:
        axes = f"s{_guess_space(most[1:])}"
    if not steady and ("t" not in axes or most[axes.index("t")] < 3):
        return None
    positions = {a: v for a, v in positions.items() if a in axes and axes.index(a) in v.places_in(most)}
    if time is not None and axes.index("t") not in time.places_in(most):
        time = None
    numbers = {name: float(v.flat[0]) for name, v in _single(arrays).items()} | dict(attributes or {})
    section = fields_section(path, read, fields, most, axes, sure, time, positions, numbers)
    if others := _other_parts(fields, shapes):
        section += f"   # <- {', '.join(others)} are not read: join them to one array, and give their ranges here"
    return section


def _other_parts(fields: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the arrays that hold what fields hold, for another part of a split."""

    def bare(name: str) -> tuple[list[str], bool]:
        words = re.split(r"[/_-]", name.lower())
        return [word for word in words if word not in PARTS], any(word in PARTS for word in words)

    own = [bare(field) for field in fields]
    return [name for name in names if name not in fields and bare(name)[1] and bare(name) in own]


def scattered(arrays: Mapping[str, Stored]) -> str:
    """Return what to do about arrays that hold the positions of points, such as `X_star [points, 2]`; else nothing."""
    for name, stored in arrays.items():
        words = set(_named(name).replace("xy", "x").split("_"))
        points, columns = stored.shape if len(stored.shape) == 2 else (0, 0)
        others = [other for other, own in arrays.items() if other != name and points in own.shape]
        if columns not in (2, 3) or points <= FEW or not words & set(POSITIONS):
            continue
        # a mesh repeats the positions along one axis for the other
        if others and _vector(stored, False) is None:
            return (
                f"{name} seems to hold the positions of {points} points, at which {', '.join(others)} are given: if "
                f"the points are a grid, reshape these arrays to its axes, and save the positions along each; else "
                f"write a row t, {', '.join(SPACE[:columns])} and values for each point and time, which "
                'kind = "points" reads'
            )
    return ""


def fields_section(
    path: Path,
    read: Mapping[str, Array],
    fields: list[str],
    most: tuple[int, ...],
    axes: str,
    sure: bool,
    time: Vector | None,
    positions: Mapping[str, Vector],
    numbers: Mapping[str, float],
) -> str:
    """Return the section of fields of the shape `most`, given the meaning of their axes and what else is known.

    Without an axis of time, the last field is a state that does not change, and the others are inputs.
    """
    space = [axis for axis in SPACE if axis in axes]
    inputs = [] if "t" in axes else sorted(fields, key=_named_as_output)[:-1]
    rings = {axis for axis, vector in positions.items() if _ends_before_its_period(vector.values)}
    # states that do not change show their ends in all simulations together
    rows = axes if "t" in axes else axes.replace("s", "t")
    sides = {name: _sides(_real(values), rows, rings) for name, values in read.items()}
    lines = ["[data]", 'kind = "arrays"', f"path = {_text(str(path))}"]
    names = {name: _field(name, k, fields) for k, name in enumerate(fields)}
    together = len({str(own) for own in sides.values()}) <= 1
    entries: list[str] = []
    for name in fields:
        boundary = None if together else sides[name]
        if _needs_part(read.get(name)):
            entries += [
                f"{names[name]}_{part} = {_table(name, boundary, space, part=part)}" for part in ("real", "imag")
            ]
        elif together and name not in inputs:
            entries.append(f"{names[name]} = {_text(name)}")
        else:
            entries.append(f"{names[name]} = {_table(name, boundary, space, static=name in inputs)}")
    lines.append(f"variables = {{ {', '.join(entries)} }}   # field = array; name fields as your physics does")
    lines.append(f'axes = "{axes}"' + ("" if sure else f"   # <- guessed for {list(most)}: {_readings(axes, most)}"))
    if "t" not in axes:
        lines.append("steady = true   # <- entries of the first axis do not resemble their neighbours, as frames do")
    elif time is not None:
        lines.append(f"time = {_text(time.name)}")
    elif name := _found(numbers, "dt", "delta_t", "timestep", "time_step"):
        lines.append(f"dt = {numbers[name]!r}   # <- the number {name} of the file")
    else:
        lines.append("dt = 1.0   # <- the time between two frames is not in the file")
    if positions:
        lines.append(
            "coordinates = { " + ", ".join(f"{axis} = {_text(v.name)}" for axis, v in positions.items()) + " }"
        )
    uneven = [v.name for v in (*positions.values(), *([time] if time else [])) if not v.even]
    if uneven:
        lines.append(f'resample = "linear"   # <- {" and ".join(uneven)}: not evenly spaced, so that it interpolates')
    if missing := [axis for axis in space if axis not in positions and most[axes.index(axis)] > 1]:
        lines.append(_bounds({axis: most[axes.index(axis)] for axis in missing}, numbers))
    if together and space:
        lines.append(_boundary(next(iter(sides.values()), None), space))
    frames, sims = most[axes.index("t")] if "t" in axes else 2, most[axes.index("s")] if "s" in axes else 1
    if any(not np.isfinite(_real(values)).all() for values in read.values()):
        lines.append(GAPS)
    lines.append(f"num_predict_steps = {max(1, min(3, frames // 8))}")
    lines.append(split_line(frames, sims))
    return "\n".join(lines)


def _found(numbers: Mapping[str, float], *names: str) -> str:
    """Return the positive number with one of the names, in whatever case; empty if there is none."""
    return next((name for name, value in numbers.items() if _named(name) in names and value > 0), "")


def _bounds(cells: Mapping[str, int], numbers: Mapping[str, float]) -> str:
    """Return the line with the ends of axes, from a spacing or a length that the file holds where there is one."""
    ends, told = {}, set()
    for axis, n in cells.items():
        lengths = [f"l{axis}", f"length_{axis}", *(("l", "length") if len(cells) == 1 else ())]
        step, length = _found(numbers, f"d{axis}", f"delta_{axis}"), _found(numbers, *lengths)
        name = step or length
        ends[axis] = float(f"{numbers[name] * (n if step else 1):.12g}") if name else 1.0
        told.add(name)
    listed = ", ".join(f"{axis} = [0.0, {end!r}]" for axis, end in ends.items())
    why = "the ends of the domain are not in the file" if "" in told else f"by {', '.join(sorted(told))} of the file"
    return f"bounds = {{ {listed} }}   # <- {why}"


def lines_for(source: TrajectorySource, *, named: bool = True) -> list[str]:
    """Return the lines on what a source that knows its axes does not know: boundary, gaps, horizon and split.

    Where fields are not `named`, one boundary holds for all: along an axis on which they differ, there is no gradient.
    """
    layout, grid, seen = source.layout, source.layout.grid, source.glimpse()
    ends = {axis: high - low for axis, low, high in zip(grid.axes, grid.lower, grid.upper, strict=True)}
    rings = {axis for axis, length in ends.items() if axis == "x" and abs(length - ROUND) < 1e-3}
    sides: dict[str, Mapping[str, object]] = {}
    for field in () if seen is None else layout.dynamic:
        values = np.asarray(seen.dynamic)[:, layout.channels(field.name)]  # type: ignore[union-attr]
        axes = f"t{'c' if field.channels > 1 else ''}{''.join(grid.axes)}"
        sides[field.name] = _sides(values.reshape(*values.shape[: axes.count("c") + 1], *grid.resolution), axes, rings)
    together = len({str(own) for own in sides.values()}) <= 1
    if not named and not together:
        every = list(sides.values())
        alike = {a: every[0][a] if all(own[a] == every[0][a] for own in every) else "zero-gradient" for a in grid.axes}
        sides, together = dict.fromkeys(sides, alike), True
    entries = ", ".join(
        f"{_key(name)} = {_text(name)}"
        if together
        else f"{_key(name)} = {{ variable = {_text(name)}, boundary = {_rules(sides[name], list(grid.axes))} }}"
        for name in (field.name for field in layout.dynamic)
    )
    guessed = "" if together else "; <- the boundaries are guessed from the values at the ends"
    lines = [f"variables = {{ {entries} }}   # field = variable; name fields as your physics does{guessed}"] * named
    if together and grid.axes:
        lines.append(_boundary(next(iter(sides.values()), None), list(grid.axes)))
    if seen is not None and bool(seen.dynamic.isnan().any()):
        lines.append(GAPS)
    frames = source.frames(0) or 0
    return [*lines, f"num_predict_steps = {max(1, min(3, frames // 8))}", split_line(frames, source.num_simulations)]


def series_section(arrays: Mapping[str, Stored], path: Path, *, headed: bool, named: bool = False) -> str | None:
    """Return the section for the series or the field in the columns of a text table, or None if it shows none.

    Columns are `headed` if the file names them. Those whose names differ in a number alone are a field, unless the
    table names its times. With `named`, only a column that is named as times holds them.
    """
    first, *others = arrays
    given = next((name for name in arrays if is_time(name)), None)
    star = next((name for name, own in patterns(others).items() if len(own) == len(others)), "")
    lines = {name: own for name in arrays if (own := _increasing(arrays[name])) is not None}
    if star and len(others) > (FEW - 2 if headed else FEW) and given in (None, first if star == STAR else None):
        columns = {number: arrays[name] for number, name in members(star, others).items()}
        if first not in lines and not headed:
            return data_section(arrays, path)
        if first in lines and len(arrays[first].shape) == 1:
            return _wide_section(path, star, columns, lines[first], headed)
    time = lines.get(given) if given else None if named else next(iter(lines.values()), None)
    fields = [name for name in arrays if time is not None and name != time.name]
    if time is None or not fields:
        return None
    shape = arrays[time.name].shape
    note = "" if given else "   # <- the first column that increases"
    return _series(path, fields, time, shape[0] if len(shape) > 1 else 1, table=True, note=note)


def _wide_section(path: Path, star: str, columns: Mapping[float, Stored], rows: Vector, headed: bool) -> str | None:
    """Return the section of one field `[columns, rows]` of a table; the numbers in its header are times or places."""
    values = _stack(list(columns.values()))
    if values is None:
        return None
    header = Vector(name=STAR, values=np.array(list(columns))) if headed else None
    timed = is_time(rows.name)
    time, place = (rows, header) if timed else (header, rows)
    positions = {"x": place} if place is not None else {}
    axes = "xt" if timed else "tx"
    return fields_section(path, {star: values}, [star], values.shape, axes, False, time, positions, {})


def is_time(name: str) -> bool:
    """Return whether a column is named as the times of its rows."""
    return name.lower() in (*TIMES, *TIME_NAMES)


def _increasing(stored: Stored) -> Vector | None:
    """Return the numbers of a column, since the first one and in the first simulation; None if they do not increase."""
    values = stored.read()
    if values is None or values.dtype.kind not in "fiu":
        return None
    first = values.reshape(-1, values.shape[-1])[0].astype(np.float64)
    found = Vector(name=stored.name, values=first - first[0])
    return found if len(first) > 1 and found.increases else None


def _series_section(arrays: Mapping[str, Stored], time: Vector, path: Path) -> str | None:
    """Return the section of series that have no place: the arrays that are as long as the times."""
    wanted = (len(time.values),)
    names = [n for n, s in arrays.items() if n != time.name and _shape(s, True) == wanted and s.dtype.kind in "fiu"]
    values = [found for name in names if (found := arrays[name].read()) is not None]
    gaps = any(not np.isfinite(own).all() for own in values)
    return _series(path, names, time, 1, gaps=gaps) if names else None


def _series(
    path: Path,
    names: Sequence[str],
    time: Vector,
    sims: int,
    *,
    gaps: bool = False,
    table: bool = False,
    note: str = "",
) -> str:
    """Return the section of series without a place; a text table itself says what its axes and its gaps are."""
    frames = len(time.values)
    fields = {name: _field(name, k, list(names)) for k, name in enumerate(names)}
    lines = ["[data]", 'kind = "arrays"', f"path = {_text(str(path))}"]
    if not table or any(name != field for name, field in fields.items()):
        named = ", ".join(f"{field} = {_text(name)}" for name, field in fields.items())
        lines.append(f"variables = {{ {named} }}   # field = array; name fields as your physics does")
    if not table:
        lines.append(f'axes = "{"st" if sims > 1 else "t"}"')
    lines.append(f"time = {_text(time.name)}{note}")
    if not time.even:
        lines.append(f'resample = "linear"   # <- {time.name}: not evenly spaced, so that it interpolates')
    if gaps:
        lines.append(GAPS)
    lines += [f"num_predict_steps = {max(1, min(3, frames // 8))}", split_line(frames, sims)]
    return "\n".join(lines)


def _without_derived(names: list[str]) -> list[str]:
    """Return the names of arrays that are not named as copies of another one, or of it with something added."""
    bare = {name: _base(name) for name in names}
    added = [n for n in names if any(bare[n].startswith(f"{bare[other]}_") for other in names if other != n)]
    words = [n for n in names if set(bare[n].replace("-", "_").split("_")) & set(DERIVED)]
    return [n for n in names if n not in added and n not in words] or names


def _real(values: Array) -> Array:
    return np.asarray(values.real if values.dtype.kind == "c" else values)


def _needs_part(values: Array | None) -> bool:
    """Return whether complex numbers have imaginary parts that are no rounding."""
    if values is None or values.dtype.kind != "c":
        return False
    return float(np.abs(values.imag).max(initial=0.0)) > 1e-6 * float(np.abs(values).max(initial=0.0))


def _table(
    name: str, sides: Mapping[str, object] | None, space: list[str], *, part: str = "", static: bool = False
) -> str:
    """Return the table of one field that is not like the others, or is made of complex numbers."""
    entries = [f"variable = {_text(name)}"]
    if sides is not None:
        entries.append(f"boundary = {_rules(sides, space)}")
    if part:
        entries.append(f'part = "{part}"')
    if static:
        entries.append("static = true")
    return f"{{ {', '.join(entries)} }}"


def _stacked(arrays: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return arrays with those whose names differ in one number alone as one, where they are many or in groups.

    A few, such as u1 and u2, are fields.
    """
    found = dict(arrays)
    for name, own in sorted(patterns(arrays).items(), key=lambda each: -len(each[1])):
        every = [found[member] for member in own.values() if member in found]
        alike = len({(each.shape, each.dtype) for each in every}) == 1 and len(every) == len(own)
        if alike and (len(own) > FEW or STAR in name.rpartition("/")[0]):
            stack = Stored(
                name=name,
                shape=(len(every), *every[0].shape),
                dtype=every[0].dtype,
                read=partial(_stack, every),
            )
            found = {other: each for other, each in found.items() if other not in own.values()} | {name: stack}
    return found


def _with_stack(axes: str, name: str, shape: tuple[int, ...], timed: bool) -> str:
    """Return the letters of the axes of a stack: groups are simulations, and so are arrays that have times."""
    if timed:
        return f"s{axes[1:]}"
    return f"s{_guess(shape[1:])}" if STAR in name.rpartition("/")[0] else f"t{_guess_space(shape[1:])}"


def _stack(every: Sequence[Stored]) -> Array | None:
    if len(every) * np.prod(every[0].shape, dtype=object) > MAX_VALUES:
        return None
    read = [values for each in every if (values := each.read()) is not None]
    return np.stack(read) if len(read) == len(every) else None


def _single(arrays: Mapping[str, Stored]) -> dict[str, Array]:
    """Return the arrays of one number."""
    one = {name: own for name, own in arrays.items() if own.dtype.kind in "fiu" and np.prod(own.shape, dtype=int) == 1}
    return {name: values for name, own in one.items() if (values := own.read()) is not None}


def _listed(vectors: Mapping[str, Vector], shape: tuple[int, ...]) -> list[Vector]:
    """Return vectors that are as long as the axes of a shape, one after another, such as those of a cell array."""
    for group in {name.rpartition("/")[0] for name in vectors} - {""}:
        own = [vector for name, vector in vectors.items() if name.rpartition("/")[0] == group]
        if tuple(len(vector.values) for vector in own) == shape and len(shape) <= 4 and own[-1].increases:
            return own
    return []


def _unrelated(values: Array) -> bool:
    """Return whether entries along the first axis differ from their neighbours as much as from all others."""
    values = _real(values).astype(np.float64)
    near = np.square(np.diff(values, axis=0)).mean()
    return len(values) > FEW and bool(near > 0.7 * 2 * values.var(axis=0, ddof=1).mean())


def _named_as_output(name: str) -> bool:
    return bool(set(_named(name).split("_")) & set(OUTPUTS))


def _vector(stored: Stored, squeeze: bool) -> Vector | None:
    """Return the times or positions that an array holds: one line, or a mesh with such a name; None for others."""
    shape = _shape(stored, squeeze)
    line = len([n for n in shape if n > 1]) == 1
    if stored.dtype.kind not in "fiuMm" or not (line or (shape and _named(stored.name) in (*TIMES, *SPACE))):
        return None
    values = stored.read()
    if values is None:
        return None
    values, mesh = (values.reshape(-1), ()) if line else (values.reshape(shape), shape)
    if values.dtype.kind in "Mm":
        values = (values - values.reshape(-1)[0]) / np.timedelta64(1, "s")
    rounding = 8 * float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    numbers = np.asarray(values, dtype=np.float64)
    for along in range(numbers.ndim):
        lines = np.moveaxis(numbers, along, -1).reshape(-1, numbers.shape[along])
        steps = np.diff(lines[0])
        if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
            continue
        # each simulation may have its own first time
        since = lines - lines[:, :1] if _named(stored.name) in TIMES else lines
        if np.abs(since - since[0]).max() <= 1e-3 * np.abs(steps).min():
            return Vector(name=stored.name, values=lines[0], rounding=rounding, mesh=mesh, along=along)
    return None


def _shape(stored: Stored, squeeze: bool) -> tuple[int, ...]:
    return tuple(n for n in stored.shape if n > 1) if squeeze else stored.shape


def _base(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _named(name: str) -> str:
    return _base(name).replace("-", "_")


def _axes(shape: tuple[int, ...], places: Mapping[str, set[int]]) -> tuple[str, bool]:
    """Return the letters of the axes, and whether times and positions, whose axes may be `places`, determine them."""
    every = [dict(zip(places, own, strict=True)) for own in product(*places.values()) if len(set(own)) == len(own)]
    if len(places) == len(shape) and len(every) == 1:
        return "".join(sorted(every[0], key=every[0].__getitem__)), True
    if len(places) == len(shape) - 1 and "t" in places and len(every) == 1 and 0 not in every[0].values():
        return ("c" if shape[0] <= FEW else "s") + "".join(sorted(every[0], key=every[0].__getitem__)), False
    if len(places) == len(shape) - 1 and "t" not in places and len(every) == 1:
        (free,) = set(range(len(shape))) - set(every[0].values())
        known = every[0] | {"t": free}
        return "".join(sorted(known, key=known.__getitem__)), False
    at = {own["t"] for own in every if "t" in own}
    if len(at) == 1:
        (k,) = at
        rest = _guess_space(shape[:k] + shape[k + 1 :])
        return rest[:k] + "t" + rest[k:], False
    return _guess(shape), False


def _with_thin(axes: str, shape: tuple[int, ...]) -> str:
    """Return the letters of all axes, given those of the axes that are longer than 1."""
    rest = iter(axes)
    free = [letter for letter in ("s" if shape[0] == 1 else "") + "yzxs" if letter not in axes]
    return "".join(free.pop(0) if n == 1 else next(rest) for n in shape)


def _guess(shape: tuple[int, ...]) -> str:
    """Guess simulations first, then time: grids are mostly square, and simulations are mostly fewer than frames."""
    rest = shape[1:]
    if shape[0] <= FEW and len(shape) == 3:
        return f"c{_guess(rest)}"
    cells = [n for n in rest if n > FEW]
    letters = _guess_space(rest)
    if letters.startswith("s") or (len(set(cells)) > 1 and shape[0] < shape[1]):
        return f"st{_guess_space(shape[2:])}"
    return f"t{letters}"


def _guess_space(shape: tuple[int, ...]) -> str:
    """Guess the letters of the axes that are not time."""
    if not shape:
        return ""
    if len(shape) > 1 and shape[-1] <= FEW:
        return f"{_guess_space(shape[:-1])}c"
    if len(shape) > 1 and shape[0] <= FEW:
        return f"c{_guess_space(shape[1:])}"
    if len(shape) == 1 and shape[0] <= FEW:
        return "c"
    alike = len(shape) == 1 or (max(shape) <= 4 * min(shape) and min(shape) >= 8)
    if len(shape) <= 3 and alike:
        return SPACE[: len(shape)]
    return f"s{_guess_space(shape[1:])}" if len(shape) > 1 else "x"


def _readings(axes: str, shape: tuple[int, ...]) -> str:
    """Return the meaning of axes in words, and the other one that a few arrays beside each other may have."""
    words = {"s": "simulation", "t": "time", "c": "component", "x": "x", "y": "y", "z": "z"}
    told = ", ".join(words[axis] for axis in axes)
    beside = axes.startswith("c") or not set(axes) & set(SPACE)
    if "c" not in axes or "s" in axes or not beside:
        return told
    return f'{told}; or axes = "{axes.replace("c", "s")}", if these {shape[axes.index("c")]} are simulations'


def _ends_before_its_period(positions: Array) -> bool:
    """Return whether positions such as 0, 0.1, ..., 0.9 or -1, ..., 0.9 leave out the end of a period."""
    if len(positions) < 3:
        return False
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    first, end = float(positions[0]), float(positions[-1] + step)
    symmetric = abs(first + end) <= 0.01 * abs(step) and first != 0
    return symmetric or (abs(first) <= 0.01 * abs(step) and len(f"{end:.6g}") < len(f"{positions[-1]:.6g}"))


def _sides(values: Array, axes: str, rings: set[str]) -> dict[str, object]:
    """Guess the boundary at the ends of each space axis, allowing for noise.

    What holds for the first or the last simulation alone is no boundary. The positions along `rings` are those of a
    period: where the values at the ends say nothing, they decide.
    """
    if "s" in axes:
        rest = axes.replace("s", "")
        first, last = (_sides(np.take(values, k, axis=axes.index("s")), rest, rings) for k in (0, -1))
        return {axis: rule if rule == last[axis] else "zero-gradient" for axis, rule in first.items()}
    later = None
    if "t" in axes and values.shape[axes.index("t")] >= 4:
        later = np.split(values, [values.shape[axes.index("t")] // 2], axis=axes.index("t"))[1]
    found: dict[str, object] = {}
    for axis in (axis for axis in axes if axis in SPACE):
        found[axis] = _side_along(values, axes, axis, ring=axis in rings)
        # a start need not keep the boundary: across the seam of a period it may jump, which later frames smooth out
        if axis in rings and later is not None and found[axis] != "periodic":
            smoothed = _side_along(later, axes, axis, ring=True)
            found[axis] = "periodic" if smoothed == "periodic" else found[axis]
    return found


def _side_along(values: Array, axes: str, axis: str, *, ring: bool) -> object:
    u = np.moveaxis(values.astype(np.float64), axes.index(axis), -1)
    u = u[np.isfinite(u).all(axis=-1)]
    if u.size and u.shape[-1] >= 4:
        return _side(u, constant="c" not in axes, ring=ring)
    return "periodic" if ring else "zero-gradient"


def _side(u: Array, *, constant: bool, ring: bool) -> object:
    """Guess from rows `u [rows, cells]` across the axis; `constant` says whether one value may hold at an end."""
    spread = float(u.std())
    if not spread:
        return "zero-gradient"
    ends = u[:, [0, -1]]
    near = 1e-4 * float(np.ptp(u))
    kept = [constant and float(np.ptp(ends[:, side])) <= near for side in (0, 1)]
    bends = np.square(np.diff(u, 2, axis=-1)).mean(0)
    jump, step = np.abs(u[:, -1] - u[:, 0]).mean(), np.abs(u[:, 1] - u[:, 0]).mean()
    if all(kept) and jump <= near:
        # a wall, or a period whose end is repeated: there the slope goes on
        seam = np.square(u[:, -2] - u[:, -1] + u[:, 1] - u[:, 0]).mean()
        if ring or (step > 1e-2 * spread and seam <= 2 * bends.max()):
            return "periodic"
        return _level(float(ends.mean()), 1e-6 * spread)
    if all(kept):
        lower, upper = (_kept(float(ends[:, side].mean()), near) for side in (0, 1))
        return {"lower": lower, "upper": upper}
    # across the seam of a periodic axis, values and slopes continue as they do inside
    around = np.concatenate([u[:, -2:], u[:, :2]], axis=-1)
    seam = np.square(np.diff(around, 2, axis=-1)).mean(0)
    if jump <= 2 * step + 1e-6 * spread and seam.max() <= 2 * bends.max() + 1e-12 * spread**2:
        return "periodic"
    repeated = np.square(u[:, -2] - u[:, -1] + u[:, 1] - u[:, 0]).mean()
    if jump <= 1e-6 * spread and repeated <= 2 * bends.max():
        return "periodic"
    if ring and jump <= 0.1 * spread:
        return "periodic"
    walls = 1.5 * ends - 0.5 * u[:, [1, -2]]
    if constant and walls.std() <= 0.1 * spread:
        return _level(float(walls.mean()), 0.05 * spread)
    return "zero-gradient"


def _kept(value: float, near: float) -> float:
    """Return the shortest number within a tenth of `near` of a value, zero if zero is within `near`."""
    if abs(value) <= near:
        return 0.0
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((number for number in shorter if abs(number - value) <= near / 10), value)


def _level(value: float, near: float) -> float:
    """Round a value to three digits, or to zero if it is within `near` of zero."""
    return 0.0 if abs(value) <= near else float(f"{value:.9g}" if near < 1e-5 * abs(value) else f"{value:.3g}")


def _boundary(sides: Mapping[str, object] | None, space: list[str]) -> str:
    if sides is None:
        return 'boundary = "periodic"   # <- guessed: the file is too large to be examined'
    return f"boundary = {_rules(sides, space)}   # <- guessed from the values at the ends"


def _rules(sides: Mapping[str, object], space: list[str]) -> str:
    """Return the rules of a boundary as TOML."""
    if len({str(rule) for rule in sides.values()}) == 1 and not isinstance(sides[space[0]], dict):
        return json.dumps(sides[space[0]])
    return f"{{ {', '.join(f'{axis} = {_rule(sides[axis])}' for axis in space)} }}"


def _rule(rule: object) -> str:
    if isinstance(rule, dict):
        return f"{{ {', '.join(f'{side} = {json.dumps(value)}' for side, value in rule.items())} }}"
    return json.dumps(rule)


def split_line(frames: int, sims: int) -> str:
    """Split by simulation if there are three or more, else by time; data that are too short get no test split."""
    by, count = ("simulation", sims) if sims >= 3 else ("time", frames)
    # a rollout needs at least two frames
    least = 1 if by == "simulation" else 2
    second = min(max(int(0.85 * count), 1), count - least)
    first = min(max(int(0.7 * count), least), second - least)
    if first < least:
        return f'split = {{ by = "{by}", train = "0:{count - least}", val = "{count - least}:{count}" }}'
    return f'split = {{ by = "{by}", train = "0:{first}", val = "{first}:{second}", test = "{second}:{count}" }}'


def _field(name: str, k: int, fields: list[str]) -> str:
    """Return a name for the field of an array that TOML takes as a key without quotes."""
    clean = _identifier(name.rpartition("/")[2].partition(STAR)[0] if STAR in name else name)
    if STAR in name:
        clean = re.sub(r"\W.*|__.*|_t(ime)?$", "", clean) or "u"
    if len(fields) == 1 and clean.lower() in GENERIC:
        return "u"
    letter, _, rest = clean.partition("_")
    letters = [_identifier(other).partition("_")[0] for other in fields]
    if len(letter) == 1 and letter.isalpha() and rest.lower() in ("", *SERIES) and letters.count(letter) == 1:
        return letter.lower() if letter in "UVW" else letter
    usable = clean and not clean[0].isdigit() and [_identifier(other) for other in fields].count(clean) == 1
    return clean if usable else f"u{k or ''}"


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name.rpartition("/")[2]).strip("_")


def _key(name: str) -> str:
    from hyco_engine.spec.places import key_text

    return key_text([name])


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
