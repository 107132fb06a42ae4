"""The meaning of a state tensor: grid, fields, boundary conditions, channel order. Imports neither torch nor PhiFlow.

A state is a tensor `[B, C, *S]`. Its channels are the dynamic fields, then the static ones, each in listed order and
each with its components in order. `S` is the grid's resolution, except that staggered fields on open sides need one
more sample along each axis. Entries of `S` beyond a component's own samples are padding: they are zero and never count.

A static field whose sampling is `uniform` holds one number of a simulation, such as its viscosity, at every cell: so
each sample carries the numbers of its own simulation wherever it goes. One whose sampling is `index` holds the number
of the group that the simulation belongs to, whose values a model has found itself; it is -1 for a state that holds its
values. A uniform field may `advance`: the time of a state is such a number, which grows by dt from frame to frame.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs

RuleKind = Literal[
    "periodic",
    "constant",
    "zero-gradient",
    "symmetric",
    "antisymmetric",
    "reflect",
    "antireflect",
    "normal-tangential",
    "formula",
]
RULE_KINDS: tuple[str, ...] = RuleKind.__args__  # type: ignore[attr-defined]
NAMED_RULES = tuple(kind for kind in RULE_KINDS if kind not in ("constant", "normal-tangential", "formula"))
"""The rules that consist of their name alone."""

T = TypeVar("T")

SIMULATION = "simulation"
"""The name of the index of which each simulation is a group of its own."""
TIME = "t"
"""The name of the static field that holds the time of a state."""


@attrs.frozen(kw_only=True)
class Rule:
    """The boundary condition on one side. `value` (one number, or one per component) belongs to `constant`;

    `normal` and `tangential` belong to `normal-tangential`: they hold for the component normal to the side and for the
    components tangential to it; `text` belongs to `formula`: a value that follows from parameters of the physics, such
    as `T_left`, and that the data do not know.
    """

    kind: RuleKind
    value: float | tuple[float, ...] = 0.0
    text: str = ""
    normal: Rule | None = None
    tangential: Rule | None = None

    @classmethod
    def parse(cls, data: Any) -> Rule:
        """Read `"periodic"`, a number, a list of numbers, `{normal = ..., tangential = ...}`, or a formula.

        Raises ValueError.
        """
        if isinstance(data, str):
            if data in NAMED_RULES:
                return cls(kind=data)  # type: ignore[arg-type]
            if not data.strip() or data in RULE_KINDS or _meant(data):
                raise RuleError(unknown_rule(data))
            return cls(kind="formula", text=data)
        if isinstance(data, int | float) and not isinstance(data, bool):
            return cls(kind="constant", value=_finite(data))
        if isinstance(data, Sequence) and data:
            return cls(kind="constant", value=tuple(map(_finite, data)))
        if isinstance(data, Mapping) and set(data) == {"normal", "tangential"}:
            normal, tangential = (_below(part, cls.parse, data[part]) for part in ("normal", "tangential"))
            return cls(kind="normal-tangential", normal=normal, tangential=tangential)
        raise RuleError(f"cannot read the boundary {data!r}: {_RULES}, or a table of the sides lower and upper")

    def to_data(self) -> Any:
        """Return the form that `parse` reads."""
        if self.kind == "formula":
            return self.text
        if self.kind == "constant":
            return list(self.value) if isinstance(self.value, tuple) else self.value
        if self.normal is not None and self.tangential is not None:
            return {"normal": self.normal.to_data(), "tangential": self.tangential.to_data()}
        return self.kind

    @property
    def fixes(self) -> bool:
        """Whether it fixes the value at the side, or that of the component normal to it."""
        return self.normal.fixes if self.normal is not None else self.kind in ("constant", "formula")

    def settled(self, values: Mapping[str, float]) -> Rule:
        """Return the rule with these values in place of formulas."""
        if self.kind == "formula":
            return Rule(kind="constant", value=values[self.text])
        if self.normal is not None and self.tangential is not None:
            return attrs.evolve(self, normal=self.normal.settled(values), tangential=self.tangential.settled(values))
        return self

    @property
    def formulas(self) -> Mapping[str, str]:
        """The formulas in it by the end of their key: `""`, or `.normal` and `.tangential`."""
        parts = {".normal": self.normal, ".tangential": self.tangential}
        inner = {place: part.text for place, part in parts.items() if part is not None and part.text}
        return {"": self.text} if self.kind == "formula" else inner


class RuleError(ValueError):
    """A boundary condition that cannot be read, at `path` below the value that was read."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


def _below(step: str, parse: Callable[[Any], T], data: Any) -> T:
    """Return what `data`, which is under `step`, is read as. Raises RuleError with the path from above it."""
    try:
        return parse(data)
    except RuleError as error:
        raise RuleError(str(error), (step, *error.path)) from None
    except ValueError as error:
        raise RuleError(str(error), (step,)) from None


_RULES = f"use a number, {{normal, tangential}}, or one of {', '.join(NAMED_RULES)}"
_ELSEWHERE = {"neumann": "zero-gradient", "dirichlet": "0.0", "cyclic": "periodic"}
"""What conditions that have other names in other programs are here."""


def _meant(text: str) -> str:
    """Return the rule that a text may have been meant to be; empty if it is like none."""
    if elsewhere := difflib.get_close_matches(text.lower(), _ELSEWHERE, n=1, cutoff=0.8):
        return _ELSEWHERE[elsewhere[0]]
    return next(iter(difflib.get_close_matches(text.lower(), NAMED_RULES, n=1)), "")


def unknown_rule(text: str) -> str:
    """Return the message for a text that is no boundary condition."""
    meant = _meant(text)
    told = f"; did you mean {repr(meant) if meant in NAMED_RULES else f'a number, such as {meant}'}?" if meant else ""
    return f"unknown boundary {text!r}{told or ':'} {_RULES[0].upper() if told else _RULES[0]}{_RULES[1:]}"


@attrs.frozen(kw_only=True)
class Boundary:
    """The boundary condition of a field: a (lower, upper) pair of rules for each axis."""

    sides: Mapping[str, tuple[Rule, Rule]]

    @classmethod
    def parse(cls, data: Any, axes: Sequence[str]) -> Boundary:
        """Read one rule for all sides, or `{x = rule, y = {lower = rule, upper = rule}}`. Raises ValueError."""
        if isinstance(data, Boundary):
            return data
        if isinstance(data, Mapping) and set(data) != {"normal", "tangential"}:
            if set(data) != set(axes):
                raise ValueError(f"the boundary names {', '.join(data) or 'no axis'}; the axes are {', '.join(axes)}")
            return cls(sides={axis: _below(axis, _pair, data[axis]) for axis in axes})
        rule = Rule.parse(data)
        return cls(sides={axis: (rule, rule) for axis in axes})

    def to_data(self) -> Any:
        """Return the JSON-able form that `parse` reads."""
        return {a: {"lower": lo.to_data(), "upper": up.to_data()} for a, (lo, up) in self.sides.items()}

    def __attrs_post_init__(self) -> None:
        for axis, (lower, upper) in self.sides.items():
            if (lower.kind == "periodic") != (upper.kind == "periodic"):
                raise ValueError(f"axis {axis} is periodic on one side only")

    def settled(self, values: Mapping[str, float]) -> Boundary:
        """Return the boundary with these values in place of formulas."""
        return Boundary(sides={axis: (a.settled(values), b.settled(values)) for axis, (a, b) in self.sides.items()})

    @property
    def formulas(self) -> Mapping[str, str]:
        """The formulas in it by their key in its table, such as `x.lower`."""
        return {
            f"{axis}.{side}{end}": text
            for axis, pair in self.sides.items()
            for side, rule in zip(("lower", "upper"), pair, strict=True)
            for end, text in rule.formulas.items()
        }

    def is_periodic(self, axis: str) -> bool:
        return self.sides[axis][0].kind == "periodic"

    def rules(self, axis: str, axes: Sequence[str], component: int | None) -> tuple[Rule, Rule]:
        """Return the rules of one component, None for a scalar, on the two sides of an axis."""
        lower, upper = self.sides[axis]
        return _of_component(lower, axis, axes, component), _of_component(upper, axis, axes, component)


def _of_component(rule: Rule, axis: str, axes: Sequence[str], component: int | None) -> Rule:
    if rule.normal is not None and rule.tangential is not None:
        return rule.normal if component is not None and axes[component] == axis else rule.tangential
    if isinstance(rule.value, tuple):
        return Rule(kind="constant", value=rule.value[component or 0])
    return rule


def _finite(data: Any) -> float:
    value = _number(data)
    if not math.isfinite(value):
        raise ValueError(f"a boundary value must be finite, not {value}")
    return value


def _pair(data: Any) -> tuple[Rule, Rule]:
    if isinstance(data, Mapping) and set(data) == {"lower", "upper"}:
        return _below("lower", Rule.parse, data["lower"]), _below("upper", Rule.parse, data["upper"])
    if isinstance(data, Mapping) and set(data) & {"lower", "upper"}:
        raise RuleError(f"the sides of an axis are lower and upper, not {', '.join(map(str, data))}")
    rule = Rule.parse(data)
    return rule, rule


@attrs.frozen(kw_only=True)
class Grid:
    """A uniform grid of cells; the samples of centred fields lie at the cells' centres.

    Without axes there is no space: each component of a field is one number, and a state is `[B, C]`.
    """

    axes: tuple[str, ...]
    resolution: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __attrs_post_init__(self) -> None:
        if not len(self.axes) == len(self.resolution) == len(self.lower) == len(self.upper) in (0, 1, 2, 3):
            raise ValueError(f"a grid has at most 3 axes, each with resolution, lower and upper bound: {self}")
        if len(set(self.axes)) < len(self.axes):
            raise ValueError(f"a grid has distinct axes: {self}")
        if min(self.resolution, default=1) < 1 or not all(0 < width < math.inf for width in self.spacing):
            raise ValueError(f"every resolution must be at least 1 and every lower bound below its upper one: {self}")

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple((u - l) / n for l, u, n in zip(self.lower, self.upper, self.resolution, strict=True))

    @property
    def shortest(self) -> float:
        """The length of the domain along its shortest axis."""
        return min(b - a for a, b in zip(self.lower, self.upper, strict=True))

    @property
    def text(self) -> str:
        """Where fields are, as messages say it."""
        sides = zip(self.axes, self.resolution, self.lower, self.upper, strict=True)
        cells = ", ".join(f"{n} cells along {axis} in [{low:.6g}, {high:.6g}]" for axis, n, low, high in sides)
        return f"on {cells}" if cells else "without space"

    def to_data(self) -> dict[str, Any]:
        """Return a JSON-able form that `from_data` reads back exactly."""
        return {name: list(value) for name, value in attrs.asdict(self).items()}

    @classmethod
    def from_data(cls, data: Any) -> Grid:
        """Read what `to_data` returned. Raises ValueError on anything else."""
        entries = {name: _list(value) for name, value in _entries(data, cls).items()}
        if not all(type(n) is int for n in entries["resolution"]):
            raise ValueError(f"a resolution is a list of whole numbers, not {entries['resolution']!r}")
        return cls(
            axes=tuple(map(_text, entries["axes"])),
            resolution=tuple(entries["resolution"]),
            lower=tuple(map(_number, entries["lower"])),
            upper=tuple(map(_number, entries["upper"])),
        )

    def centers(self, axis: str) -> list[float]:
        """Return the coordinates of the cell centres along one axis."""
        i = self.axes.index(axis)
        return [self.lower[i] + (k + 0.5) * self.spacing[i] for k in range(self.resolution[i])]


@attrs.frozen(kw_only=True)
class FieldInfo:
    """One field; without `components` a scalar. A staggered field has a component per axis, named like the axis."""

    name: str
    components: tuple[str, ...] = ()
    sampling: Literal["centered", "staggered", "uniform", "index"] = "centered"
    boundary: Boundary
    unit: str = "1"
    groups: tuple[str, ...] = ()
    """The names of the groups of an index."""
    by: str = ""
    """The index of a number that a model finds for each group; empty for one that is known."""
    advance: float = 0.0
    """By how much a uniform number grows from one frame to the next."""

    @classmethod
    def uniform(cls, name: str, axes: Sequence[str], by: str = "", advance: float = 0.0) -> FieldInfo:
        """Return the field that holds one number of each simulation."""
        boundary = Boundary.parse("zero-gradient", axes)
        return cls(name=name, sampling="uniform", boundary=boundary, by=by, advance=advance)

    @classmethod
    def time(cls, axes: Sequence[str], dt: float) -> FieldInfo:
        """Return the field that holds the time of a state; `dt` is that between two frames."""
        return cls.uniform(TIME, axes, advance=dt)

    @classmethod
    def index(cls, name: str, axes: Sequence[str], groups: Sequence[str]) -> FieldInfo:
        """Return the field that holds the number of the group, among `groups`, that a simulation belongs to."""
        return cls(name=name, sampling="index", boundary=Boundary.parse("zero-gradient", axes), groups=tuple(groups))

    @property
    def channels(self) -> int:
        return max(1, len(self.components))

    def to_data(self) -> dict[str, Any]:
        """Return a JSON-able form that `from_data` reads back exactly."""
        return {
            "name": self.name,
            "components": list(self.components),
            "sampling": self.sampling,
            "boundary": self.boundary.to_data(),
            "unit": self.unit,
            **({"groups": list(self.groups)} if self.groups else {}),
            **({"by": self.by} if self.by else {}),
            **({"advance": self.advance} if self.advance else {}),
        }

    @classmethod
    def from_data(cls, data: Any, axes: Sequence[str]) -> FieldInfo:
        """Read what `to_data` returned. Raises ValueError on anything else."""
        entries = _entries({**_OPTIONAL, **data} if isinstance(data, Mapping) else data, cls)
        if entries["sampling"] not in ("centered", "staggered", "uniform", "index"):
            raise ValueError(f"unknown sampling {entries['sampling']!r}")
        return cls(
            name=_text(entries["name"]),
            components=tuple(map(_text, _list(entries["components"]))),
            sampling=entries["sampling"],
            boundary=Boundary.parse(entries["boundary"], axes),
            unit=_text(entries["unit"]),
            groups=tuple(map(_text, _list(entries["groups"]))),
            by=_text(entries["by"]),
            advance=_finite(entries["advance"]),
        )

    def samples(self, grid: Grid, component: int) -> tuple[int, ...]:
        """Return the number of samples of one component along each axis.

        Along its own axis, a staggered component has a sample on each face whose value the boundary does not fix:
        PhiFlow keeps the lower face of a periodic axis and drops faces on sides with a constant value.
        """
        shape = list(grid.resolution)
        if self.sampling == "staggered":
            axis = self.components[component]
            lower, upper = self.boundary.sides[axis]
            shape[grid.axes.index(axis)] += _outer_faces(lower, upper)
        return tuple(shape)


def _outer_faces(lower: Rule, upper: Rule) -> int:
    """Return by how much the number of faces that are samples exceeds the number of cells: -1, 0 or 1."""
    if lower.kind == "periodic":
        return 0
    return sum(not rule.fixes for rule in (lower, upper)) - 1


@attrs.frozen(kw_only=True)
class StateLayout:
    """The grid, the dynamic fields and the static fields of a state tensor."""

    grid: Grid
    dynamic: tuple[FieldInfo, ...]
    static: tuple[FieldInfo, ...] = ()

    def __attrs_post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not self.dynamic or len(set(names)) < len(names):
            raise ValueError(f"a state needs at least one dynamic field and distinct names: {names}")

    @property
    def fields(self) -> tuple[FieldInfo, ...]:
        return self.dynamic + self.static

    @property
    def n_axes(self) -> int:
        """The number of space dimensions."""
        return len(self.grid.axes)

    @property
    def n_dynamic(self) -> int:
        return sum(field.channels for field in self.dynamic)

    @property
    def n_all(self) -> int:
        return sum(field.channels for field in self.fields)

    @property
    def spatial(self) -> tuple[int, ...]:
        """`S`: the spatial shape that holds the samples of every component."""
        shapes = [f.samples(self.grid, c) for f in self.fields for c in range(f.channels)]
        return tuple(map(max, zip(*shapes, strict=True)))

    @property
    def has_filler(self) -> bool:
        """Whether the tensor has padding, because a component has fewer samples than `S`."""
        return any(f.samples(self.grid, c) != self.spatial for f in self.fields for c in range(f.channels))

    def channels(self, name: str) -> slice:
        """Return the channels of one field. Raises KeyError if there is no such field."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return slice(start, start + field.channels)
            start += field.channels
        raise KeyError(name)

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of the static fields that hold one number of each simulation."""
        return tuple(field.name for field in self.static if field.sampling == "uniform")

    @property
    def indices(self) -> tuple[str, ...]:
        """The names of the static fields that hold the number of a simulation's group."""
        return tuple(field.name for field in self.static if field.sampling == "index")

    @property
    def advances(self) -> tuple[float, ...]:
        """By how much each static channel grows from one frame to the next; empty where none does."""
        found = tuple(field.advance for field in self.static for _ in range(field.channels))
        return found if any(found) else ()

    @property
    def has_time(self) -> bool:
        """Whether states hold their time."""
        return any(field.name == TIME and field.advance for field in self.static)

    @property
    def bare(self) -> StateLayout:
        """The layout without scalars and indices: the fields that differ from cell to cell."""
        return self.without((*self.scalars, *self.indices))

    def without(self, names: Collection[str]) -> StateLayout:
        """Return the layout without these static fields."""
        return attrs.evolve(self, static=tuple(field for field in self.static if field.name not in names))

    def places(self, fields: Iterable[FieldInfo]) -> list[int]:
        """Return the channels of these fields in a state, field by field."""
        every = range(self.n_all)
        return [channel for field in fields for channel in every[self.channels(field.name)]]

    def field(self, name: str) -> FieldInfo:
        """Return one field. Raises KeyError if there is no such field."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def n_samples(self, name: str) -> int:
        """Return the number of values of one field in one state, without padding."""
        field = self.field(name)
        return sum(math.prod(field.samples(self.grid, c)) for c in range(field.channels))

    def to_data(self) -> dict[str, Any]:
        """Return a JSON-able form that `from_data` reads back exactly."""
        return {
            "grid": self.grid.to_data(),
            "dynamic": [field.to_data() for field in self.dynamic],
            "static": [field.to_data() for field in self.static],
        }

    @classmethod
    def from_data(cls, data: Any) -> StateLayout:
        """Read what `to_data` returned, after a passage through JSON. Raises ValueError on anything else."""
        entries = _entries(data, cls)
        grid = Grid.from_data(entries["grid"])
        dynamic, static = (
            tuple(FieldInfo.from_data(field, grid.axes) for field in _list(entries[group]))
            for group in ("dynamic", "static")
        )
        return cls(grid=grid, dynamic=dynamic, static=static)


_OPTIONAL: Mapping[str, Any] = {"groups": [], "by": "", "advance": 0.0}


def _entries(data: Any, cls: type) -> Mapping[str, Any]:
    names = {field.name for field in attrs.fields(cls)}
    if not isinstance(data, Mapping) or set(data) != names:
        raise ValueError(f"a {cls.__name__} needs the entries {', '.join(sorted(names))}, not {data!r}")
    return data


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list | tuple):
        raise ValueError(f"expected a list, not {data!r}")
    return list(data)


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise ValueError(f"expected a text, not {data!r}")
    return data


def _number(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise ValueError(f"expected a number, not {data!r}")
    return float(data)
