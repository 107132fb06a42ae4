"""What the texts of an equation in a spec mean on a layout: its rates, and what is given at sides and at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import TIME, Boundary, FieldInfo, StateLayout
from hyco_engine.data.units import base_units
from hyco_engine.equations.dimensions import Unit, Units
from hyco_engine.equations.evaluation import Differences
from hyco_engine.equations.syntax import Expression, Text, parse
from hyco_engine.equations.terms import Node, Symbol, Words, acting, is_algebraic, lowered, sees, symbols
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.physics.knots import at_times
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting

KEY = "physical"
SIDES = "data.boundary"


@attrs.frozen(kw_only=True)
class Texts:
    """An equation as a spec has it."""

    key: str
    """That of the equations of fields: `rates`, or `steady` for what is 0."""
    fields: Mapping[str, str]
    initial: Mapping[str, str] = attrs.Factory(dict)
    units: Mapping[str, str] = attrs.Factory(dict)
    constants: Mapping[str, float] = attrs.Factory(dict)
    series: Mapping[str, tuple[Tensor, Tensor]] = attrs.Factory(dict)
    """Constants that are functions of time, by their times and values."""
    inputs: Sequence[str] = ()


@attrs.frozen(kw_only=True, eq=False)
class Meaning:
    """An equation on a layout."""

    layout: StateLayout
    steady: bool
    components: tuple[Symbol, ...]
    nodes: tuple[Node, ...]
    """The rate of change of each component, or what is 0."""
    walls: Mapping[str, Node]
    """The values at sides that formulas give, by their texts."""
    starts: Mapping[Symbol, Node]
    """The start states that are given, of each component."""
    varying: frozenset[str]
    """Parameters that are fields."""
    parameters: tuple[ParameterDeclaration, ...]
    series: Mapping[str, tuple[Tensor, Tensor]]
    units: Units | None

    @classmethod
    def of(cls, texts: Texts, layout: StateLayout, settings: Mapping[str, ParameterSetting]) -> Meaning:
        """Raise SpecError for names without a meaning, and for what does not fit together."""
        sources = {name: Text(text=text, key=f"{KEY}.{texts.key}.{name}") for name, text in texts.fields.items()}
        trees = {name: parse(source.text, source.key) for name, source in sources.items()}
        own = [info for info in layout.static if info.sampling in ("centered", "uniform") and not info.advance]
        words = Words(
            axes=layout.grid.axes,
            dynamic={info.name: info.components for info in layout.dynamic},
            static={info.name: info.components for info in own if info.name not in settings},
            parameters=tuple(settings),
            constants=texts.constants,
            series=texts.series,
        )
        _check_names(texts, layout, settings)
        rates = {name: lowered(trees[name], sources[name], words) for name in trees}
        varying = frozenset(name for name, setting in settings.items() if setting.field or _is_field(setting, layout))
        walls = _walls(layout, words, varying)
        starts = _starts(texts.initial, layout, words)
        units = _units(texts, layout, words)
        if units is not None:
            _check_units(units, texts, layout, trees, sources)
        for info in layout.dynamic:
            if (parts := len(rates[info.name])) != info.channels:
                told = f"the rate has {parts} component(s), and the field has {info.channels}"
                raise SpecError(told, key=sources[info.name].key)
        nodes = tuple(part for info in layout.dynamic for part in rates[info.name])
        named = {symbol for node in (*nodes, *walls.values(), *starts.values()) for symbol in symbols(node)}
        used = [name for name in settings if Symbol("parameter", name) in named]
        learned = [name for name in used if settings[name].learn is not False and settings[name].from_ is None]
        _check_effects(learned, layout, walls, (*nodes, *starts.values()), varying)
        return cls(
            layout=layout,
            steady=texts.key == "steady",
            components=tuple(
                Symbol("field", info.name, index) for info in layout.dynamic for index in range(info.channels)
            ),
            nodes=nodes,
            walls=walls,
            starts=starts,
            varying=varying,
            parameters=tuple(_declared(name, settings[name], _unit(name, units)) for name in used),
            series=texts.series,
            units=units,
        )

    # --- names ---

    @cached_property
    def in_rates(self) -> tuple[Symbol, ...]:
        """What stands in the rates, each once."""
        return tuple(dict.fromkeys(symbol for node in self.nodes for symbol in symbols(node)))

    @cached_property
    def _anywhere(self) -> tuple[Symbol, ...]:
        given = (*self.walls.values(), *self.starts.values())
        return tuple(dict.fromkeys((*self.in_rates, *(symbol for node in given for symbol in symbols(node)))))

    @property
    def statics(self) -> tuple[Symbol, ...]:
        return tuple(symbol for symbol in self._anywhere if symbol.kind == "static")

    @property
    def timed(self) -> tuple[Symbol, ...]:
        """What depends on time."""
        return tuple(symbol for symbol in self._anywhere if symbol.kind in ("time", "series"))

    # --- values ---

    def at(self, time: Tensor | None) -> dict[Symbol, Tensor]:
        """Return what depends on time alone, at times that broadcast over the grid."""
        if time is None:
            return {}
        found = {}
        for symbol in self.timed:
            found[symbol] = (
                time if symbol.kind == "time" else at_times(time, *(p.to(time) for p in self.series[symbol.name]))
            )
        return found

    def split(self, others: Mapping[Symbol, Tensor]) -> tuple[dict[Symbol, Tensor], dict[Symbol, Tensor]]:
        """Return what varies over the grid, and what does not."""
        fields = {symbol: value for symbol, value in others.items() if value.dim() >= self.layout.n_axes}
        return fields, {symbol: value for symbol, value in others.items() if symbol not in fields}

    def differences(
        self, fields: Mapping[Symbol, Tensor], numbers: Mapping[Symbol, Tensor], like: Tensor
    ) -> Differences:
        """Return the evaluation of nodes by differences."""
        layout = self.layout
        first = layout.dynamic[0].boundary
        sides = {axis: "periodic" if first.is_periodic(axis) else "zero-gradient" for axis in layout.grid.axes}
        beyond = {symbol: Boundary.parse(sides, layout.grid.axes) for symbol in fields}
        beyond |= {symbol: layout.field(symbol.name).boundary for symbol in (*self.components, *self.statics)}
        components = {
            symbol: symbol.component if symbol.kind != "parameter" and layout.field(symbol.name).components else None
            for symbol in beyond
        }
        return Differences(layout.grid, fields, beyond, components, numbers, like, walls=self.walls)

    def at_sides(self, numbers: Mapping[Symbol, Tensor], like: Tensor) -> dict[str, Tensor]:
        """Return the values at sides that formulas give, by their texts, where `numbers` have these values."""
        sides = self.differences({}, numbers, like)
        return {text: torch.as_tensor(sides.of(node), dtype=like.dtype) for text, node in self.walls.items()}

    def begun(self, state: Tensor, others: Mapping[Symbol, Tensor], time: Tensor | None) -> Tensor:
        """Return states `[B, C_dyn, *S]` whose components are those of the start, where it is given."""
        fields, numbers = self.split(others)
        evaluation = self.differences(fields, numbers | self.at(time), state)
        found = [
            evaluation.whole(self.starts[symbol]).expand(state[:, index].shape)
            if symbol in self.starts
            else state[:, index]
            for index, symbol in enumerate(self.components)
        ]
        return torch.stack(found, dim=1)


def _check_names(texts: Texts, layout: StateLayout, settings: Mapping[str, ParameterSetting]) -> None:
    """Raise SpecError for names that have two meanings."""
    taken = dict.fromkeys(layout.grid.axes, "a position")
    taken |= {TIME: "the time", "pi": "a number", "constants": "a table"}
    keys = {name: f"{texts.key}.{name}" for name in texts.fields} | dict.fromkeys(texts.inputs, "inputs")
    for name, key in (keys | {name: f"parameters.{name}" for name in settings}).items():
        if name in taken:
            named = {field.name for field in layout.fields}
            renames = f' with data.variables, such as {{ {name.upper()} = "{name}" }}' if name in named else ""
            raise SpecError(f"{name!r} is {taken[name]} in equations: choose another name{renames}", key=f"{KEY}.{key}")
    if clash := [name for name in settings if name in texts.fields]:
        raise SpecError(f"a field of {texts.key} has this name: choose another one", key=f"{KEY}.parameters.{clash[0]}")


def _is_field(setting: ParameterSetting, layout: StateLayout) -> bool:
    """Return whether the data give the parameter as a field."""
    given = {info.name: info for info in layout.static}
    return setting.from_ in given and given[setting.from_].sampling == "centered"


def _walls(layout: StateLayout, words: Words, varying: frozenset[str]) -> dict[str, Node]:
    """Return the values at sides that formulas give, by their texts. Raises SpecError."""
    numbers = [name for name in words.static if layout.field(name).sampling == "uniform"]
    told = "varies within the domain; a side takes numbers, the time, and positions along it"
    refused = {name: told for name in (*words.dynamic, *words.static, *varying)}
    refused |= {
        name: f"is a number of the data: physical.parameters.{name}.from makes it a parameter" for name in numbers
    }
    found = {}
    for place, text in _formulas(layout.fields):
        axis = place.partition(".")[0]
        known = attrs.evolve(words, refused=refused | {axis: f"is the same along the sides of {axis}: write a number"})
        source = Text(text=text, key=f"{SIDES}.{place}")
        tree = parse(text, source.key)
        parts = lowered(tree, source, known)
        if len(parts) != 1 or not is_algebraic(parts[0]):
            raise source.mistake(tree.place, "a side has one value at each place: leave derivatives and means out")
        found[text] = parts[0]
    return found


def _formulas(infos: Iterable[FieldInfo]) -> dict[tuple[str, str], list[FieldInfo]]:
    """Return the formulas at the sides of fields, each as its place and its text, with the fields that have it."""
    found: dict[tuple[str, str], list[FieldInfo]] = {}
    for info in infos:
        for own in info.boundary.formulas.items():
            found.setdefault(own, []).append(info)
    return found


def _check_effects(
    learned: Iterable[str],
    layout: StateLayout,
    walls: Mapping[str, Node],
    nodes: Iterable[Node],
    varying: frozenset[str],
) -> None:
    """Raise SpecError for a parameter on which nothing depends, though it stands in a text.

    The derivative of what is the same everywhere is 0, and a side counts where a field has a derivative across it.
    """
    every = tuple(nodes)
    seen = {place for node in every for place in sees(node)}
    at_sides = _formulas(layout.fields)
    counted = [
        walls[text]
        for (place, text), infos in at_sides.items()
        if any((info.name, layout.grid.axes.index(place.partition(".")[0])) in seen for info in infos)
    ]
    found = {symbol.name for node in every for symbol in acting(node, varying) if symbol.kind == "parameter"}
    found |= {symbol.name for node in counted for symbol in symbols(node)}
    for name in learned:
        if name in found:
            continue
        for place, text in at_sides:
            if Symbol("parameter", name) in symbols(walls[text]):
                axis = place.partition(".")[0]
                raise SpecError(
                    f"{name!r} has no effect: no equation has a derivative along {axis} of a field with this value at "
                    "its side. Write a number, or leave the parameter out",
                    key=f"{SIDES}.{place}",
                )
        raise SpecError(
            "has no effect: it stands in derivatives alone, and is the same everywhere. Leave it out, or make it a "
            "field (field = true)",
            key=f"{KEY}.parameters.{name}",
        )


def _starts(texts: Mapping[str, str], layout: StateLayout, words: Words) -> dict[Symbol, Node]:
    """Return the start states that the spec gives, of each component. Raises SpecError."""
    found: dict[Symbol, Node] = {}
    known = attrs.evolve(words, refused=dict.fromkeys(words.dynamic, "has no value yet where it starts"))
    for name, text in texts.items():
        source = Text(text=text, key=f"{KEY}.initial.{name}")
        parts = lowered(parse(text, source.key), source, known)
        field, _, component = name.partition(".")
        info = layout.field(field)
        if component and component not in info.components:
            listed = ", ".join(f"{field}.{one}" for one in info.components)
            told = f"the components of {field!r} are {listed}" if listed else f"{field!r} has no components"
            raise SpecError(told, key=source.key)
        own = [info.components.index(component)] if component else list(range(info.channels))
        if len(parts) != len(own):
            written = f'; give its components, such as initial."{field}.{info.components[0]}"' if len(own) > 1 else ""
            raise SpecError(f"has {len(parts)} component(s), and the field has {len(own)}{written}", key=source.key)
        found |= {Symbol("field", field, index): part for index, part in zip(own, parts, strict=True)}
    return found


def _units(texts: Texts, layout: StateLayout, words: Words) -> Units | None:
    """Return the units that the spec and the data give; None if there are none. Raises SpecError."""
    infos = {info.name: info for info in layout.fields}
    own = {name: info.unit for name, info in infos.items() if info.unit != "1" and name not in texts.units}
    if not (own or texts.units):
        return None
    constants = [f"constants.{name}" for name in (*texts.constants, *texts.series)]
    known = [*words.dynamic, *words.static, *words.parameters, *words.axes, "t", *constants]
    for name in texts.units:
        if name not in known:
            listed = f"there are {', '.join(known)}"
            raise SpecError(f"nothing has the name {name!r}{did_you_mean(name, known)}; {listed}", key=f"{KEY}.units")
    try:
        pint = base_units()
    except ImportError:
        if not texts.units:
            return None
        told = "units are checked by the package pint: install it (pip install 'hyco-engine[units]'), or leave them out"
        raise SpecError(told, key=f"{KEY}.units") from None
    found = {}
    for name, unit in {**own, **texts.units}.items():
        try:
            found[name] = Unit.known(*pint.of(unit))
        except ValueError as error:
            # data may have units that only their author understands
            if name in texts.units:
                raise SpecError(str(error), key=f"{KEY}.units.{name}") from None
    return Units(words, found) if found else None


def _check_units(
    units: Units,
    texts: Texts,
    layout: StateLayout,
    trees: Mapping[str, Expression],
    sources: Mapping[str, Text],
) -> None:
    """Raise SpecError where what is added or equated has different units."""
    for name, tree in trees.items():
        if texts.key == "steady":
            units.alone(tree, sources[name])
        else:
            units.rate(name, tree, sources[name])
    given = [(f"{KEY}.initial.{name}", name.partition(".")[0], text) for name, text in texts.initial.items()]
    sides = [(f"{SIDES}.{place}", info.name, text) for info in layout.dynamic for place, text in _formulas([info])]
    for key, field, text in (*sides, *given):
        units.value(field, parse(text, key), Text(text=text, key=key))


def _unit(name: str, units: Units | None) -> str:
    """Return the unit of a parameter; 1 where nothing says more."""
    found = None if units is None else units.of_name(name)
    return "1" if found is None or found.unknown else found.text


def _declared(name: str, setting: ParameterSetting, unit: str) -> ParameterDeclaration:
    key = f"{KEY}.parameters.{name}"
    if setting.init is None and setting.from_ is None:
        raise SpecError("an equation cannot know where its parameters start: give init", key=key)
    start = setting.init if isinstance(setting.init, float | int) else 1.0
    try:
        return ParameterDeclaration(name=name, init=float(start), unit=unit, may_be_field=True, help="of the equation")
    except PluginError as error:
        raise SpecError(str(error), key=key) from None
