"""The guess of a `[data]` section from arrays: which arrays are fields, what their axes mean, and where they end.

Facts that the file does not contain are guessed, and the section marks each guess for the reader to check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from hyco_engine.data.npy import Array
from hyco_engine.inspection.contents import Stored

TIMES = ("t", "time", "times", "tt", "tspan", "time_points", "timepoints", "t_coordinate")
SPACE = "xyz"
_FEW = 4
"""The length up to which an axis may count components."""


@attrs.frozen(kw_only=True)
class Vector:
    """An increasing sequence of numbers, evenly spaced or not: times, or positions along an axis."""

    name: str
    values: Array

    @property
    def even(self) -> bool:
        steps = np.diff(self.values)
        return bool(len(steps) and np.allclose(steps, steps.mean(), rtol=1e-3, atol=0.0))


def data_section(arrays: Mapping[str, Stored], path: Path) -> str | None:
    """Return the section for the source `arrays`, or None if no array looks like a field that changes in time."""
    squeeze = path.suffix == ".mat"
    vectors = {name: vector for name, stored in arrays.items() if (vector := _vector(stored)) is not None}
    shapes = {n: _shape(s, squeeze) for n, s in arrays.items() if n not in vectors and len(_shape(s, squeeze)) >= 2}
    if not shapes:
        return None
    most = max(shapes.values(), key=lambda shape: (len(shape), np.prod(shape, dtype=object)))
    fields = [name for name, shape in shapes.items() if shape == most]
    time = next((v for n, v in vectors.items() if _base(n).replace("-", "_") in TIMES and len(v.values) in most), None)
    positions = {
        axis: vector
        for axis in SPACE
        for name, vector in vectors.items()
        if _base(name).replace("-", "_") in (axis, f"{axis}_coordinate") and len(vector.values) in most
    }
    axes, sure = _axes(most, time, positions)
    space = [axis for axis in SPACE if axis in axes]
    positions = {a: v for a, v in positions.items() if a in axes and most[axes.index(a)] == len(v.values) and v.even}
    if time is not None and (not time.even or most[axes.index("t")] != len(time.values)):
        time = None
    values = arrays[fields[0]].read()
    sides = None if values is None else _sides(values.reshape(most), axes)
    lines = ["[data]", 'kind = "arrays"', f"path = {_text(str(path))}"]
    named = ", ".join(f"{_field(name, k, fields)} = {_text(name)}" for k, name in enumerate(fields))
    lines.append(f"variables = {{ {named} }}   # field = array; name fields as your physics does")
    lines.append(f'axes = "{axes}"' + ("" if sure else f"   # <- guessed for {list(most)}: {_meaning(axes)}"))
    lines.append(
        f"time = {_text(time.name)}" if time else "dt = 1.0   # <- the time between two frames is not in the file"
    )
    if positions:
        lines.append(
            "coordinates = { " + ", ".join(f"{axis} = {_text(v.name)}" for axis, v in positions.items()) + " }"
        )
    if missing := [axis for axis in space if axis not in positions]:
        ends = ", ".join(f"{axis} = [0.0, 1.0]" for axis in missing)
        lines.append(f"bounds = {{ {ends} }}   # <- the ends of the domain are not in the file")
    lines.append(_boundary(sides, space))
    frames, sims = most[axes.index("t")], most[axes.index("s")] if "s" in axes else 1
    lines.append(f"num_predict_steps = {max(1, min(3, frames // 8))}")
    lines.append(split_line(frames, sims))
    return "\n".join(lines)


def _vector(stored: Stored) -> Vector | None:
    if len([n for n in stored.shape if n > 1]) != 1 or stored.dtype.kind not in "fiu":
        return None
    values = stored.read()
    if values is None:
        return None
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    return Vector(name=stored.name, values=values) if bool((np.diff(values) > 0).all()) else None


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
    alike = len(shape) == 1 or (max(shape) <= 4 * min(shape) and min(shape) >= 8)
    if len(shape) <= 3 and alike:
        return SPACE[: len(shape)]
    return f"s{_guess_space(shape[1:])}" if len(shape) > 1 else "x"


def _meaning(axes: str) -> str:
    words = {"s": "simulation", "t": "time", "c": "component", "x": "x", "y": "y", "z": "z"}
    return ", ".join(words[axis] for axis in axes)


def _sides(values: Array, axes: str) -> dict[str, object]:
    """Guess the boundary at the ends of each space axis from the first simulation, allowing for noise."""
    if "s" in axes:
        values, axes = np.take(values, 0, axis=axes.index("s")), axes.replace("s", "")
    found: dict[str, object] = {}
    for axis in (axis for axis in axes if axis in SPACE):
        u = np.moveaxis(values.astype(np.float64), axes.index(axis), -1)
        u = u[np.isfinite(u).all(axis=-1)]
        found[axis] = _side(u, constant="c" not in axes) if u.size and u.shape[-1] >= 4 else "zero-gradient"
    return found


def _side(u: Array, *, constant: bool) -> object:
    """Guess from rows `u [rows, cells]` across the axis; `constant` says whether one value may hold at both ends."""
    spread = float(u.std())
    ends = u[:, [0, -1]]
    if constant and spread > 0 and np.ptp(ends) <= 1e-6 * float(np.ptp(u)):
        return _level(float(ends.mean()), 1e-6 * spread)
    bends = np.square(np.diff(u, 2, axis=-1)).mean(0)
    # across the seam of a periodic axis, values and slopes continue as they do inside
    around = np.concatenate([u[:, -2:], u[:, :2]], axis=-1)
    jump, step = np.abs(u[:, -1] - u[:, 0]).mean(), np.abs(u[:, 1] - u[:, 0]).mean()
    seam = np.square(np.diff(around, 2, axis=-1)).mean(0)
    if jump <= 2 * step + 1e-6 * spread and seam.max() <= 2 * bends.max() + 1e-12 * spread**2:
        return "periodic"
    walls = 1.5 * ends - 0.5 * u[:, [1, -2]]
    if constant and spread > 0 and walls.std() <= 0.1 * spread:
        return _level(float(walls.mean()), 0.05 * spread)
    return "zero-gradient"


def _level(value: float, near: float) -> float:
    """Round a value to three digits, or to zero if it is within `near` of zero."""
    return 0.0 if abs(value) <= near else float(f"{value:.9g}" if near < 1e-5 * abs(value) else f"{value:.3g}")


def _boundary(sides: Mapping[str, object] | None, space: list[str]) -> str:
    marked = "   # <- guessed from the values at the ends"
    if sides is None:
        return 'boundary = "periodic"   # <- guessed: the file is too large to be examined'
    if len({str(rule) for rule in sides.values()}) == 1:
        return f"boundary = {json.dumps(sides[space[0]])}{marked}"
    return f"boundary = {{ {', '.join(f'{axis} = {json.dumps(sides[axis])}' for axis in space)} }}{marked}"


def split_line(frames: int, sims: int) -> str:
    """Split by simulation if there are three or more, else by time; data that are too short get no test split."""
    by, count = ("simulation", sims) if sims >= 3 else ("time", frames)
    # a rollout needs at least two frames
    least = 1 if by == "simulation" else 2
    second = min(max(int(0.85 * count), 1), count - least)
    first = min(max(int(0.7 * count), 1), second - least)
    if first < 1:
        return f'split = {{ by = "{by}", train = "0:{count - least}", val = "{count - least}:{count}" }}'
    return f'split = {{ by = "{by}", train = "0:{first}", val = "{first}:{second}", test = "{second}:{count}" }}'


def _field(name: str, k: int, fields: list[str]) -> str:
    """Return a name for the field of an array that TOML takes as a key without quotes."""
    clean = _identifier(name)
    usable = clean and not clean[0].isdigit() and [_identifier(other) for other in fields].count(clean) == 1
    return clean if usable else f"u{k or ''}"


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in _base(name)).strip("_")


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
