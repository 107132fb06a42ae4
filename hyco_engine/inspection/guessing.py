"""The guess of a `[data]` section from arrays: which arrays are fields, what their axes mean, and where they end.

Facts that the file does not contain are guessed, and the section marks each guess for the reader to check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from hyco_engine.data.npy import Array
from hyco_engine.data.points import TIME_NAMES
from hyco_engine.inspection.contents import Stored

if TYPE_CHECKING:
    from hyco_engine.data.contracts import TrajectorySource

TIMES = ("t", "time", "times", "tt", "tspan", "time_points", "timepoints", "t_coordinate")
SPACE = "xyz"
_FEW = 4
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
SERIES = ("series", "timeseries", "data", "sol", "field", "train", "star", "all")
"""Words that follow the letter of a field in the name of its array."""
GENERIC = ("usol", "uu", "sol", "solution", "data", "values", "arr_0", "array", "tensor", "field", "output")
"""Names that say only that an array is the field, which built-in physics call u."""


def data_section(arrays: Mapping[str, Stored], path: Path) -> str | None:
    """Return the section for the source `arrays`, or None if no array looks like a field that changes in time."""
    squeeze = path.suffix.lower() == ".mat"
    vectors = {name: vector for name, stored in arrays.items() if (vector := _vector(stored)) is not None}
    times = [n for n in vectors if _base(n).replace("-", "_") in TIMES]
    shapes = {n: _shape(s, squeeze) for n, s in arrays.items() if n not in vectors and len(_shape(s, squeeze)) >= 2}
    if not shapes and times:
        return _series_section(arrays, vectors[times[0]], path)
    positions = {
        axis: vector
        for axis in SPACE
        for name, vector in vectors.items()
        if _base(name).replace("-", "_") in (axis, f"{axis}_coordinate")
    }
    own = _without_derived([name for name in shapes if arrays[name].dtype.kind != "b"] or list(shapes))
    if not own:
        return None
    most = max((shapes[name] for name in own), key=lambda shape: (len(shape), np.prod(shape, dtype=object)))
    fields = [name for name in own if shapes[name] == most]
    time = next((v for n, v in vectors.items() if _base(n).replace("-", "_") in TIMES and len(v.values) in most), None)
    positions = {axis: vector for axis, vector in positions.items() if len(vector.values) in most}
    longer = tuple(n for n in most if n > 1)
    if len(longer) < 2:
        return None
    axes, sure = _axes(longer, time, positions)
    axes = _with_thin(axes, most)
    if "t" not in axes:
        return None
    space = [axis for axis in SPACE if axis in axes]
    positions = {a: v for a, v in positions.items() if a in axes and most[axes.index(a)] == len(v.values)}
    if time is not None and (most[axes.index("t")] != len(time.values) or not time.increases):
        time = None
    read = {name: values.reshape(most) for name in fields if (values := arrays[name].read()) is not None}
    rings = {axis for axis, vector in positions.items() if _ends_before_its_period(vector.values)}
    sides = {name: _sides(_real(values), axes, rings) for name, values in read.items()}
    lines = ["[data]", 'kind = "arrays"', f"path = {_text(str(path))}"]
    names = {name: _field(name, k, fields) for k, name in enumerate(fields)}
    together = len({str(own) for own in sides.values()}) <= 1
    named = ", ".join(
        f"{names[name]} = {_text(name)}"
        if together and not _needs_part(read.get(name))
        else f"{names[name]} = {_table(name, None if together else sides[name], read[name], space)}"
        for name in fields
    )
    lines.append(f"variables = {{ {named} }}   # field = array; name fields as your physics does")
    other = _other_reading(axes)
    either = f'; or axes = "{other}", if these {most[0]} are simulations' if other else ""
    lines.append(f'axes = "{axes}"' + ("" if sure else f"   # <- guessed for {list(most)}: {_meaning(axes)}{either}"))
    lines.append(
        f"time = {_text(time.name)}" if time else "dt = 1.0   # <- the time between two frames is not in the file"
    )
    if positions:
        lines.append(
            "coordinates = { " + ", ".join(f"{axis} = {_text(v.name)}" for axis, v in positions.items()) + " }"
        )
    uneven = [v.name for v in (*positions.values(), *([time] if time else [])) if not v.even]
    if uneven:
        lines.append(f'resample = "linear"   # <- {" and ".join(uneven)}: not evenly spaced, so that it interpolates')
    if missing := [axis for axis in space if axis not in positions and most[axes.index(axis)] > 1]:
        ends = ", ".join(f"{axis} = [0.0, 1.0]" for axis in missing)
        lines.append(f"bounds = {{ {ends} }}   # <- the ends of the domain are not in the file")
    if together and space:
        lines.append(_boundary(next(iter(sides.values()), None), space))
    frames, sims = most[axes.index("t")], most[axes.index("s")] if "s" in axes else 1
    if any(not np.isfinite(_real(values)).all() for values in read.values()):
        lines.append(GAPS)
    lines.append(f"num_predict_steps = {max(1, min(3, frames // 8))}")
    lines.append(split_line(frames, sims))
    return "\n".join(lines)


def lines_for(source: TrajectorySource) -> list[str]:
    """Return the lines on what a source that knows its axes does not know: boundary, gaps, horizon and split."""
    layout, grid, seen = source.layout, source.layout.grid, source.glimpse()
    ends = {axis: high - low for axis, low, high in zip(grid.axes, grid.lower, grid.upper, strict=True)}
    rings = {axis for axis, length in ends.items() if axis == "x" and abs(length - ROUND) < 1e-3}
    sides: dict[str, Mapping[str, object]] = {}
    for field in () if seen is None else layout.dynamic:
        values = np.asarray(seen.dynamic)[:, layout.channels(field.name)]  # type: ignore[union-attr]
        axes = f"t{'c' if field.channels > 1 else ''}{''.join(grid.axes)}"
        sides[field.name] = _sides(values.reshape(*values.shape[: axes.count("c") + 1], *grid.resolution), axes, rings)
    together = len({str(own) for own in sides.values()}) <= 1
    named = ", ".join(
        f"{_key(name)} = {_text(name)}"
        if together
        else f"{_key(name)} = {{ variable = {_text(name)}, boundary = {_rules(sides[name], list(grid.axes))} }}"
        for name in (field.name for field in layout.dynamic)
    )
    guessed = "" if together else "; <- the boundaries are guessed from the values at the ends"
    lines = [f"variables = {{ {named} }}   # field = variable; name fields as your physics does{guessed}"]
    if together and grid.axes:
        lines.append(_boundary(next(iter(sides.values()), None), list(grid.axes)))
    if seen is not None and bool(seen.dynamic.isnan().any()):
        lines.append(GAPS)
    frames = source.frames(0) or 0
    return [*lines, f"num_predict_steps = {max(1, min(3, frames // 8))}", split_line(frames, source.num_simulations)]


def table_series_section(arrays: Mapping[str, Stored], path: Path) -> str | None:
    """Return the section for the series in a text table, or None if it has no times that increase."""
    name = next((name for name in arrays if name.lower() in (*TIMES, *TIME_NAMES)), None)
    times = None if name is None else arrays[name].read()
    if times is None or name is None:
        return None
    first = times.reshape(-1, times.shape[-1])[0]
    own = Vector(name=name, values=first - first[0])
    others = [other for other in arrays if other != name]
    return (
        _series(path, others, own, len(times) if times.ndim > 1 else 1, table=True)
        if others and own.increases
        else None
    )


def _series_section(arrays: Mapping[str, Stored], time: Vector, path: Path) -> str | None:
    """Return the section of series that have no place: the arrays that are as long as the times."""
    wanted = (len(time.values),)
    names = [n for n, s in arrays.items() if n != time.name and _shape(s, True) == wanted and s.dtype.kind in "fiu"]
    values = [found for name in names if (found := arrays[name].read()) is not None]
    gaps = any(not np.isfinite(own).all() for own in values)
    return _series(path, names, time, 1, gaps=gaps) if names else None


def _series(
    path: Path, names: Sequence[str], time: Vector, sims: int, *, gaps: bool = False, table: bool = False
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
    lines.append(f"time = {_text(time.name)}")
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


def _table(name: str, sides: Mapping[str, object] | None, values: Array, space: list[str]) -> str:
    """Return the table of one field that differs from others in its boundary, or is made of complex numbers."""
    entries = [f"variable = {_text(name)}"]
    if sides is not None:
        entries.append(f"boundary = {_rules(sides, space)}")
    if _needs_part(values):
        entries.append('part = "real"')
    return f"{{ {', '.join(entries)} }}"


def _vector(stored: Stored) -> Vector | None:
    if len([n for n in stored.shape if n > 1]) != 1 or stored.dtype.kind not in "fiuMm":
        return None
    values = stored.read()
    if values is None:
        return None
    values = values.reshape(-1)
    if values.dtype.kind in "Mm":
        values = (values - values[0]) / np.timedelta64(1, "s")
    steps = np.diff(np.asarray(values, dtype=np.float64))
    if not ((steps > 0).all() or (steps < 0).all()):
        return None
    rounding = 8 * float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    return Vector(name=stored.name, values=np.asarray(values, dtype=np.float64), rounding=rounding)


def _shape(stored: Stored, squeeze: bool) -> tuple[int, ...]:
    return tuple(n for n in stored.shape if n > 1) if squeeze else stored.shape


def _base(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _axes(shape: tuple[int, ...], time: Vector | None, positions: Mapping[str, Vector]) -> tuple[str, bool]:
    """Return the letters of the axes, and whether the lengths of times and positions determine them."""
    known = {axis: len(vector.values) for axis, vector in positions.items()}
    known |= {"t": len(time.values)} if time else {}
    # a length that two axes share determines nothing
    clear = {axis: n for axis, n in known.items() if shape.count(n) == 1 and list(known.values()).count(n) == 1}
    if len(clear) == len(shape):
        return "".join(next(axis for axis, n in clear.items() if n == length) for length in shape), True
    if "t" in clear:
        at = shape.index(clear["t"])
        rest = _guess_space(shape[:at] + shape[at + 1 :])
        return rest[:at] + "t" + rest[at:], False
    return _guess(shape), False


def _with_thin(axes: str, shape: tuple[int, ...]) -> str:
    """Return the letters of all axes, given those of the axes that are longer than 1."""
    rest = iter(axes)
    free = [letter for letter in ("s" if shape[0] == 1 else "") + "yzxs" if letter not in axes]
    return "".join(free.pop(0) if n == 1 else next(rest) for n in shape)


def _guess(shape: tuple[int, ...]) -> str:
    """Guess simulations first, then time: grids are mostly square, and simulations are mostly fewer than frames."""
    rest = shape[1:]
    cells = [n for n in rest if n > _FEW]
    letters = _guess_space(rest)
    if letters.startswith("s") or (len(set(cells)) > 1 and shape[0] < shape[1]):
        return f"st{_guess_space(shape[2:])}"
    return f"t{letters}"


def _guess_space(shape: tuple[int, ...]) -> str:
    """Guess the letters of the axes that are not time."""
    if len(shape) > 1 and shape[-1] <= _FEW:
        return f"{_guess_space(shape[:-1])}c"
    if len(shape) > 1 and shape[0] <= _FEW:
        return f"c{_guess_space(shape[1:])}"
    if len(shape) == 1 and shape[0] <= _FEW:
        return "s"
    alike = len(shape) == 1 or (max(shape) <= 4 * min(shape) and min(shape) >= 8)
    if len(shape) <= 3 and alike:
        return SPACE[: len(shape)]
    return f"s{_guess_space(shape[1:])}" if len(shape) > 1 else "x"


def _meaning(axes: str) -> str:
    words = {"s": "simulation", "t": "time", "c": "component", "x": "x", "y": "y", "z": "z"}
    return ", ".join(words[axis] for axis in axes)


def _other_reading(axes: str) -> str:
    """Return the axes if a few arrays beside each other in the first place are simulations, not components."""
    return f"s{axes[1:]}" if axes.startswith("c") and "s" not in axes else ""


def _ends_before_its_period(positions: Array) -> bool:
    """Return whether positions such as 0, 0.1, ..., 0.9 or -1, ..., 0.9 leave out the end of a period."""
    if len(positions) < 3:
        return False
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    first, end = float(positions[0]), float(positions[-1] + step)
    symmetric = abs(first + end) <= 0.01 * abs(step) and first != 0
    return symmetric or (abs(first) <= 0.01 * abs(step) and len(f"{end:.6g}") < len(f"{positions[-1]:.6g}"))


def _sides(values: Array, axes: str, rings: set[str]) -> dict[str, object]:
    """Guess the boundary at the ends of each space axis from the first simulation, allowing for noise.

    The positions along `rings` are those of a period: where the values at the ends say nothing, they decide.
    """
    if "s" in axes:
        values, axes = np.take(values, 0, axis=axes.index("s")), axes.replace("s", "")
    found: dict[str, object] = {}
    for axis in (axis for axis in axes if axis in SPACE):
        u = np.moveaxis(values.astype(np.float64), axes.index(axis), -1)
        u = u[np.isfinite(u).all(axis=-1)]
        known = u.size and u.shape[-1] >= 4
        found[axis] = (
            _side(u, constant="c" not in axes, ring=axis in rings)
            if known
            else "periodic"
            if axis in rings
            else "zero-gradient"
        )
    return found


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
    clean = _identifier(name)
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
