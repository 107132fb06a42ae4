"""Folders that PhiFlow's `Scene` writes: `sim_000000/<field>_000000.npz`. Reading them executes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.builtin.sources.options import SceneOptions
from hyco_engine.builtin.sources.truth import true_values
from hyco_engine.data.fields import NAMED_RULES, Boundary, FieldInfo, Grid, Rule, StateLayout
from hyco_engine.data.joined import file_of, unlike_boundaries
from hyco_engine.data.masks import corner
from hyco_engine.data.scene_pickle import SceneField, read_scene_npz
from hyco_engine.errors import DataError, HycoError, Problem, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import Trajectory, TrajectorySource

log = logging.getLogger("hyco_engine")

KEY = "data.path"
GLIMPSED_FRAMES = 100
_SIMULATION = re.compile(r"sim_(\d+)")
_FRAME = re.compile(r"(.+)_(\d{6,})\.npz")


@attrs.frozen
class _Frames:
    """The files of one field of one simulation by frame number, in order."""

    files: Mapping[int, Path]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.files)


class SceneSource(TrajectorySource):
    """The simulations `sim_*` of a folder, or one of them. The files determine fields, grid and boundaries."""

    def __init__(self, options: SceneOptions) -> None:
        self.options = options
        self._simulations = _simulations(file_of(options))
        self.num_simulations = len(self._simulations)
        self._static, self.dt = _about(options, self._simulations[0])
        self._names = self._choose(self._simulations[0])
        self._frames = [self._find(folder) for folder in self._simulations]
        self._header = {name: self._read(0, name, 0, data=False) for name in self._names}
        self._file_names = self._renamed()
        self.layout = self._layout()
        self._truth = true_values(options.truth, self.layout.grid)
        self._scalars = [_numbers(_description(folder)) for folder in self._simulations]
        self._known = [name for name in self._scalars[0] if all(name in own for own in self._scalars)]
        log.info(
            "%s: %d simulation(s) of %d frames, fields %s on %s cells",
            options.path,
            self.num_simulations,
            self.frames(0),
            ", ".join(f.name for f in self.layout.fields),
            "x".join(map(str, self.layout.grid.resolution)),
        )

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return self._truth

    def frames(self, index: int) -> int:
        return len(self._numbers(index))

    def scalars(self, index: int) -> dict[str, float]:
        return {name: self._scalars[index][name] for name in self._known}

    def origin(self, field: str, index: int) -> str:
        return str(self._simulations[index])

    def fingerprint(self) -> str:
        """Return a hash of names, sizes and times of change, since reading all files would take as long as loading."""
        digest = hashlib.sha256(json.dumps(self.layout.to_data()).encode())
        for frames in self._frames:
            for name in self._names:
                for number, path in frames[name].files.items():
                    status = path.stat()
                    digest.update(f"{name} {number} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def load(self, index: int) -> Trajectory:
        dynamic = torch.zeros(self.frames(index), self.layout.n_dynamic, *self.layout.spatial, dtype=torch.float64)
        static = torch.zeros(1, self.layout.n_all - self.layout.n_dynamic, *self.layout.spatial, dtype=torch.float64)
        for fields, values, first in (
            (self.layout.dynamic, dynamic, 0),
            (self.layout.static, static, self.layout.n_dynamic),
        ):
            for field in fields:
                own = self.layout.channels(field.name)
                channels = slice(own.start - first, own.stop - first)
                for frame in range(len(values)):
                    values[frame, channels] = self._samples(index, field, frame)
        return Trajectory(dynamic=dynamic, static=static[0])

    def glimpse(self) -> Trajectory | None:
        return self.load(0) if self.frames(0) <= GLIMPSED_FRAMES else None

    # --- files ---

    def _choose(self, folder: Path) -> tuple[str, ...]:
        """Return the fields to read: those that the spec names, or all but obstacles."""
        there = sorted({match[1] for path in folder.iterdir() if (match := _FRAME.fullmatch(path.name))})
        if not there:
            raise DataError(f"{folder} holds no field, that is no file such as velocity_000000.npz", key=KEY)
        for name in self._static:
            if name not in there:
                raise SpecError(
                    f"{folder} has no field {name!r}{did_you_mean(name, there)} (it has {', '.join(there)})",
                    key="data.static",
                )
        obstacles = [name for name in there if "obstacle" in name.lower() and name not in self._static]
        if obstacles or _speaks_of_obstacles(folder):
            log.warning("%s has obstacles, which are ignored, since no physical model supports them", folder)
        chosen = tuple(name for name in there if name not in obstacles)
        if not set(chosen) - set(self._static):
            raise DataError(f"{folder} holds no field that changes in time", key=KEY)
        return chosen

    def _find(self, folder: Path) -> dict[str, _Frames]:
        """Return the frames of each field. Raise DataError where one is missing, or fields have different ones."""
        found: dict[str, dict[int, Path]] = {name: {} for name in self._names}
        for path in sorted(folder.iterdir()):
            if (match := _FRAME.fullmatch(path.name)) and match[1] in found:
                found[match[1]][int(match[2])] = path
        moving = [name for name in self._names if name not in self._static]
        for name in self._names:
            if not found[name]:
                raise DataError(f"{folder} has no field {name!r}, which {self._simulations[0]} has", key=KEY)
        for name in moving:
            numbers = sorted(found[name])
            if len(numbers) < 2:
                raise DataError(
                    f"{folder} has {len(numbers)} frame of {name!r}, and at least 2 are needed; list it under static "
                    f"if it does not change",
                    key=KEY,
                )
            step = min(b - a for a, b in pairwise(numbers))
            for a, b in pairwise(numbers):
                if b - a != step:
                    raise DataError(f"{folder}: frame {a + step} of {name!r} is missing", key=KEY)
            if numbers != sorted(found[moving[0]]):
                raise DataError(
                    f"{folder}: {name!r} has {len(numbers)} frames, {numbers[0]} to {numbers[-1]}, and {moving[0]!r} "
                    f"has {len(found[moving[0]])}, {min(found[moving[0]])} to {max(found[moving[0]])}",
                    key=KEY,
                )
        return {name: _Frames(dict(sorted(files.items()))) for name, files in found.items()}

    def _numbers(self, index: int) -> tuple[int, ...]:
        moving = next(name for name in self._names if name not in self._static)
        return self._frames[index][moving].numbers

    def _read(self, index: int, name: str, frame: int, *, data: bool = True) -> SceneField:
        path = list(self._frames[index][name].files.values())[frame]
        try:
            return read_scene_npz(path, data=data)
        except HycoError as error:
            raise DataError(
                attrs.evolve(problem, key=problem.key or KEY) if isinstance(problem, Problem) else problem
                for problem in error.problems
            ) from None

    # --- fields ---

    def _renamed(self) -> dict[str, str]:
        """Return the name in the files of each field. Raises SpecError."""
        given = self.options.variables
        for field, file in given.items():
            if file not in self._names:
                raise SpecError(
                    f"{self._simulations[0]} has no field {file!r}{did_you_mean(file, self._names)} (it has "
                    f"{', '.join(self._names)})",
                    key=f"data.variables.{field}",
                )
        other = {file: field for field, file in given.items()}
        found = {other.get(file, file): file for file in self._names}
        if len(found) < len(self._names):
            field = next(field for field in given if field in self._names and field not in given.values())
            raise SpecError(f"the files have another field {field!r}: give it another name, too", key="data.variables")
        return found

    def _layout(self) -> StateLayout:
        infos = {}
        grid: Grid | None = None
        for name, header in self._header.items():
            path = next(iter(self._frames[0][name].files.values()))
            own, infos[name] = _described(name, header, path)
            if grid is not None and own != grid:
                raise DataError(f"{path} lies on another grid than the other fields: {own}, not {grid}", key=KEY)
            grid = own
        assert grid is not None  # at least one field was read
        fields = {file: field for field, file in self._file_names.items()}
        infos = {name: attrs.evolve(info, name=fields[name]) for name, info in infos.items()}
        dynamic = tuple(info for name, info in infos.items() if name not in self._static)
        if self.options.boundary is not None:
            given = self.options.boundary.on(grid.axes)
            dynamic = tuple(attrs.evolve(info, boundary=given) for info in dynamic)
        return StateLayout(grid=grid, dynamic=dynamic, static=tuple(infos[name] for name in self._static))

    def _samples(self, index: int, field: FieldInfo, frame: int) -> Tensor:
        """Return one frame of one field, `[C, *S]`, with zeros as padding."""
        name = self._file_names[field.name]
        stored, header = self._read(index, name, frame), self._header[name]
        path = list(self._frames[index][name].files.values())[frame]
        for what in ("field_type", "dims", "shape"):
            if not _equal(getattr(stored, what), getattr(header, what)):
                raise DataError(
                    f"{path}: {what} differs from that of the first frame of the first simulation: "
                    f"{getattr(stored, what)}, not {getattr(header, what)}",
                    key=KEY,
                )
        grid = self.layout.grid
        replaced = self.options.boundary is not None and name not in self._static
        if not replaced and not _equal(stored.extrapolation, header.extrapolation):
            own = _described(field.name, stored, path)[1].boundary
            if own != field.boundary:
                raise DataError(f"{path}: {unlike_boundaries(field.name, own, field.boundary)}", key="data.boundary")
        assert stored.data is not None
        values = _ordered(stored)
        out = torch.zeros(field.channels, *self.layout.spatial, dtype=torch.float64)
        for component in range(field.channels):
            samples = field.samples(grid, component)
            start = [0] * len(samples)
            if field.sampling == "staggered":
                axis = field.components[component]
                # the file holds all faces, from the lowest; faces with a fixed value are no samples
                start[grid.axes.index(axis)] = int(field.boundary.sides[axis][0].fixes)
            part = values[(component, *(slice(a, a + n) for a, n in zip(start, samples, strict=True)))]
            out[component][corner(samples)] = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float64))
        return out


def _simulations(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", key=KEY)
    found = [(int(match[1]), p) for p in path.iterdir() if p.is_dir() and (match := _SIMULATION.fullmatch(p.name))]
    if found:
        return [p for _, p in sorted(found)]
    if _SIMULATION.fullmatch(path.name) or any(_FRAME.fullmatch(p.name) for p in path.iterdir()):
        return [path]
    raise DataError(f"{path} is no folder of Scenes: it holds neither sim_000000 nor fields", key=KEY)


def _about(options: SceneOptions, folder: Path) -> tuple[tuple[str, ...], float]:
    """Return (static fields, time between frames) from the spec, or else from description.json."""
    described = _description(folder)
    static, dt = options.static, options.dt
    given = described.get("static")
    if not static and isinstance(given, list) and all(isinstance(name, str) for name in given):
        static = tuple(given)
    if dt is None:
        found = described.get("dt")
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
            raise SpecError(f"{folder} does not give the time between two frames: give dt", key="data.dt")
        dt = float(found)
    return static, dt


def _description(folder: Path) -> Mapping[str, Any]:
    """Return the content of description.json; nothing if it cannot be read."""
    try:
        described = json.loads((folder / "description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}


def _numbers(described: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Return the numbers that description.json gives beside `dt`: those of tables as `table.name`."""
    found: dict[str, float] = {}
    for name, value in described.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{above}{name}"] = float(value)
    found.pop("dt", None)
    return found


def _speaks_of_obstacles(folder: Path) -> bool:
    return "obstacle" in json.dumps(_description(folder)).lower()


def _described(name: str, header: SceneField, path: Path) -> tuple[Grid, FieldInfo]:
    axes = tuple(dim for dim, kind, _ in header.dims if kind == "spatial")
    staggered = header.field_type == "StaggeredGrid"
    components: tuple[str, ...] = ()
    for position, (dim, kind, items) in enumerate(header.dims):
        if kind == "channel":
            count = header.shape[position]
            components = tuple(items) if items else axes if count == len(axes) else tuple(f"c{i}" for i in range(count))
        elif kind != "spatial":
            raise DataError(
                f"{path}: the source cannot read the {kind} dimension {dim!r}; write one simulation a folder", key=KEY
            )
    if not 1 <= len(axes) <= 3 or sum(kind == "channel" for _, kind, _ in header.dims) > 1:
        raise DataError(
            f"{path}: the source cannot read {len(axes)} axes of space with several component axes", key=KEY
        )
    sizes = [n for n, (_, kind, _) in zip(header.shape, header.dims, strict=True) if kind == "spatial"]
    lower, upper = (
        dict(zip(header.bounds_item_names, np.broadcast_to(ends, len(axes)).tolist(), strict=False))
        for ends in (header.lower, header.upper)
    )
    try:
        grid = Grid(
            axes=axes,
            resolution=tuple(n - 1 if staggered else n for n in sizes),
            lower=tuple(float(lower[axis]) for axis in axes),
            upper=tuple(float(upper[axis]) for axis in axes),
        )
        boundary = boundary_from_dict(header.extrapolation, axes)
        if staggered and components != axes:
            raise ValueError(
                f"a staggered field must have the components {', '.join(axes)}, not {', '.join(components)}"
            )
        return grid, FieldInfo(
            name=name,
            components=components,
            sampling="staggered" if staggered else "centered",
            boundary=boundary,
        )
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}", key=KEY) from None


def boundary_from_dict(described: Mapping[str, Any], axes: tuple[str, ...]) -> Boundary:
    """Return the boundary that PhiFlow wrote as `{"type": ...}`. Raise ValueError for one that the engine lacks."""
    if described["type"] in ("mixed", "mixed_v2"):
        sides = {}
        for axis in axes:
            dims = described["dims"]
            both = dims.get(axis)
            if both is None:
                both = (dims[f"{axis}-"], dims[f"{axis}+"])
            elif isinstance(both, Mapping):
                both = (both, both)
            sides[axis] = (_rule(both[0]), _rule(both[1]))
        return Boundary(sides=sides)
    rule = _rule(described)
    return Boundary(sides={axis: (rule, rule) for axis in axes})


def _rule(described: Mapping[str, Any]) -> Rule:
    kind = described["type"]
    if kind == "constant":
        value = np.asarray(described["value"], dtype=np.float64)
        if value.ndim > 1:
            raise ValueError(f"the source cannot read a boundary value of the shape {value.shape}")
        return Rule(kind="constant", value=tuple(value.tolist()) if value.ndim else float(value))
    if kind == "normal-tangential":
        return Rule(
            kind="normal-tangential", normal=_rule(described["normal"]), tangential=_rule(described["tangential"])
        )
    kind = {"boundary": "zero-gradient", "zero-gradient": "zero-gradient"}.get(kind, kind)
    if kind not in NAMED_RULES:
        raise ValueError(f"the source cannot read the boundary {kind!r}")
    return Rule(kind=kind)


def _ordered(stored: SceneField) -> Any:
    """Return the values, `[C, *sizes]`."""
    assert stored.data is not None
    channel = [i for i, (_, kind, _) in enumerate(stored.dims) if kind == "channel"]
    spatial = [i for i, (_, kind, _) in enumerate(stored.dims) if kind == "spatial"]
    values = stored.data.transpose([*channel, *spatial])
    return values if channel else values[None]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)
