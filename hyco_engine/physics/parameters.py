"""The learnable parameters of a physics: the author's declarations, the user's settings, and values within bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import TIME, Grid
from hyco_engine.data.npy import read_arrays
from hyco_engine.errors import PluginError, Problem, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.physics.settings import ArrayFile, ParameterSetting, Profile, index_of
from hyco_engine.physics.transforms import Transform, choose_transform


@attrs.frozen(kw_only=True)
class ParameterDeclaration:
    """A parameter of a physics. The user's `[physical.parameters.<name>]` may replace everything but name and unit."""

    name: str
    init: float
    unit: str = "1"
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """An open interval."""
    help: str = ""
    may_be_field: bool = False
    """Whether it may have one value per grid point."""
    field_bounds: tuple[float, float] | None = None
    """The bounds of a field; None means `bounds`."""
    transform: Literal["auto", "linear", "log"] = "auto"
    gauge: Literal["none", "constant"] = "none"
    """`constant` means that the physics determines a field only up to a constant, so that errors ignore its mean."""
    optional: bool = False
    """Whether the physics has it only where the spec names it. It is then fixed, unless `learn = true`.

    `init` is the value at which it changes nothing, because a physics without it computes exactly as if it had never
    been declared: `step` and `limits` do not get it.
    """

    def __attrs_post_init__(self) -> None:
        if not self.name.isidentifier() or hasattr(nn.ParameterDict(), self.name):
            raise PluginError(f"{self.name!r} cannot name a parameter: choose another Python identifier")
        for lower, upper in (self.bounds, self.field_bounds or self.bounds):
            if not lower < upper:
                raise PluginError(f"the bounds of {self.name!r} are empty: ({lower:g}, {upper:g})")


@attrs.frozen(kw_only=True)
class _Entry:
    declaration: ParameterDeclaration
    transform: Transform
    learn: bool
    field: bool
    smoothness: float
    times: Tensor | None
    """The times of the knots, if it is a function of time."""


class Learnables(nn.Module):
    """The parameters of one physics.

    The learned ones are unconstrained `nn.Parameter`s (`raw.<name>` in the state dict), which a smooth transform maps
    to values within the bounds; the known ones are buffers (`fixed.<name>`). The values of those in `given` come with
    each state instead, so they belong neither to `names` nor to `values`.
    """

    def __init__(
        self,
        declarations: Iterable[ParameterDeclaration],
        settings: Mapping[str, ParameterSetting] | None = None,
        grid: Grid | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        groups: Mapping[str, int] | None = None,
        times: tuple[float, float] | None = None,
    ) -> None:
        """Raise SpecError with one problem per mistake in `settings`.

        `groups` has the number of groups of an index, and functions of time have their knots between `times`.
        """
        super().__init__()
        self.declarations = {declaration.name: declaration for declaration in declarations}
        self.raw = nn.ParameterDict()
        self.fixed = nn.Module()
        self._entries: dict[str, _Entry] = {}
        self.given: dict[str, str] = {}
        """The static fields of the data that hold the values of parameters, by the name of the parameter."""
        self.index: dict[str, str] = {}
        """The indices by which simulations differ in a parameter, by the name of the parameter; it has `[groups]`."""
        settings = settings or {}
        problems = [self._unknown(name) for name in settings if name not in self.declarations]
        for name, declaration in self.declarations.items():
            if declaration.optional and name not in settings:
                continue
            if name in settings and (source := settings[name].from_) is not None:
                self.given[name] = source
                continue
            try:
                setting = settings.get(name) or ParameterSetting()
                if (index := index_of(setting)) is not None:
                    self.index[name] = index
                where = _in_time(times, setting.knots) if setting.along else grid if setting.field else None
                self._add(declaration, setting, where, dtype, device, (groups or {}).get(index or ""))
            except SpecError as error:
                problems += error.problems
        if problems:
            raise SpecError(problems)

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters that the physics has here and the data do not give, in declared order."""
        return tuple(self._entries)

    @property
    def learned(self) -> tuple[str, ...]:
        """The learned parameters, in declared order."""
        return tuple(name for name, entry in self._entries.items() if entry.learn)

    def declaration(self, name: str) -> ParameterDeclaration:
        """Return the author's declaration."""
        return self.declarations[name]

    @property
    def in_time(self) -> tuple[str, ...]:
        """The parameters that are functions of time: they have `[knots]`."""
        return tuple(name for name, entry in self._entries.items() if entry.times is not None)

    def times(self, name: str) -> Tensor | None:
        """Return the times `[knots]` of the values of a function of time, in float64; None for any other parameter."""
        return self._entries[name].times

    def is_field(self, name: str) -> bool:
        """Return whether the parameter has one value per grid point."""
        return self._entries[name].field

    def smoothness(self, name: str) -> float:
        """Return the weight of the mean squared gradient of the field in the loss; 0 means none."""
        return self._entries[name].smoothness

    def transform(self, name: str) -> Transform:
        """Return the map from the unconstrained number to the value."""
        return self._entries[name].transform

    def values(self, raw: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the values by name, differentiable by `raw` (default: the module's own).

        A value is 0-d, `[*resolution]` for a field, `[groups]` where simulations differ, or `[knots]` of a function of
        time.
        """
        chosen: Mapping[str, Tensor] | nn.ParameterDict = self.raw if raw is None else raw
        return {
            name: entry.transform.to_value(chosen[name]) if entry.learn else getattr(self.fixed, name)
            for name, entry in self._entries.items()
        }

    def slopes(self) -> Tensor:
        """Return d value / d raw of all learned numbers here, float64 `[P]` on the CPU."""
        found = [torch.zeros(0, dtype=torch.float64)]
        for name in self.learned:
            raw = self.raw[name].detach().double().cpu().flatten().requires_grad_()
            found.append(torch.autograd.grad(self._entries[name].transform.to_value(raw).sum(), raw)[0])
        return torch.cat(found)

    def set_(self, name: str, value: float | Tensor) -> None:
        """Set the value of a parameter; one number fills a field. Raises SpecError outside of the bounds."""
        entry = self._entries[name]
        target = self.raw[name] if entry.learn else getattr(self.fixed, name)
        new = torch.as_tensor(value, dtype=torch.float64, device=target.device)
        key = f"physical.parameters.{name}"
        if new.dim() and new.shape != target.shape:
            raise SpecError(f"{name} has the shape {tuple(target.shape)}; the value has {tuple(new.shape)}", key=key)
        _check_within(name, new, entry.transform, key=key)
        with torch.no_grad():
            target.copy_((entry.transform.to_raw(new) if entry.learn else new).expand(target.shape))

    def _unknown(self, name: str) -> Problem:
        known = ", ".join(self.declarations) or "none"
        return Problem(
            key=f"physical.parameters.{name}",
            message=f"the physics has no parameter {name!r}; it has {known}{did_you_mean(name, self.declarations)}",
        )

    def _add(
        self,
        declaration: ParameterDeclaration,
        setting: ParameterSetting,
        grid: Grid | None,
        dtype: torch.dtype,
        device: torch.device | str,
        groups: int | None,
    ) -> None:
        name = declaration.name
        key = f"physical.parameters.{name}"
        if setting.field and not declaration.may_be_field:
            raise SpecError(f"{name} is one number in this physics and cannot be a field", key=f"{key}.field")
        if setting.field and grid is None:
            raise SpecError(f"{name} can be a field only if the data has a grid", key=f"{key}.field")
        start = _start(declaration, setting, grid, key)
        if index_of(setting) is not None:
            if groups is None:
                raise SpecError(
                    f"the simulations do not differ here in {index_of(setting)!r}, so {name} has one value",
                    key=f"{key}.scope",
                )
            start = start.expand(groups).clone()
        lower, upper = _bounds(declaration, setting)
        if setting.transform == "log" and not math.isfinite(lower):
            raise SpecError(f"the log scale needs a lower bound, but the bounds are ({lower:g}, {upper:g})", key=key)
        rms = float(start.square().mean().sqrt())
        kind = declaration.transform if setting.transform == "auto" else setting.transform
        transform = choose_transform(kind, lower, upper, rms, positive=bool((start > 0).all()))
        learn = not declaration.optional if setting.learn is None else setting.learn
        if learn:
            _check_within(name, start, transform, key=f"{key}.init")
            self.raw[name] = nn.Parameter(transform.to_raw(start).to(device=device, dtype=dtype))
        else:
            self.fixed.register_buffer(name, start.to(device=device, dtype=dtype))
        self._entries[name] = _Entry(
            declaration=declaration,
            transform=transform,
            learn=learn,
            field=setting.field,
            smoothness=setting.smoothness,
            times=None if grid is None or not setting.along else torch.tensor(grid.centers(TIME), dtype=torch.float64),
        )


def _in_time(ends: tuple[float, float] | None, knots: int) -> Grid:
    """Return the cells whose centres are the knots; nobody steps a physics before the times are known."""
    first, last = (0.0, 1.0) if ends is None or not ends[0] < ends[1] else ends
    half = (last - first) / (knots - 1) / 2
    return Grid(axes=(TIME,), resolution=(knots,), lower=(first - half,), upper=(last + half,))


def _bounds(declaration: ParameterDeclaration, setting: ParameterSetting) -> tuple[float, float]:
    if setting.bounds is not None:
        return setting.bounds
    if setting.field and declaration.field_bounds is not None:
        return declaration.field_bounds
    return declaration.bounds


def _start(declaration: ParameterDeclaration, setting: ParameterSetting, grid: Grid | None, key: str) -> Tensor:
    """Return the start value in float64: 0-d, or `[*resolution]` if `grid` is given."""
    init = declaration.init if setting.init is None else setting.init
    if isinstance(init, Profile | ArrayFile):
        if grid is None:
            raise SpecError("a profile or a file gives one value per grid point: add field = true", key=f"{key}.init")
        start = profile(init, grid) if isinstance(init, Profile) else _read(init, grid, key)
    else:
        start = torch.full(() if grid is None else grid.resolution, float(init), dtype=torch.float64)
    if not bool(start.isfinite().all()):
        raise SpecError(f"{declaration.name} must start from finite numbers", key=f"{key}.init")
    return start


def profile(formula: Profile, grid: Grid) -> Tensor:
    """Evaluate the formula at the cell centres: float64 `[*resolution]`."""
    value = torch.ones((), dtype=torch.float64)
    for axis, lower, upper in zip(grid.axes, grid.lower, grid.upper, strict=True):
        x = torch.tensor(grid.centers(axis), dtype=torch.float64)
        hump = torch.sin(math.pi * formula.waves * (x - lower) / (upper - lower)) ** 2
        value = value.unsqueeze(-1) * hump
    return formula.offset + formula.scale * value


def _read(source: ArrayFile, grid: Grid, key: str) -> Tensor:
    place = f"{key}.init.file"
    try:
        array = read_arrays(source.file)
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read {source.file} as a .npy array: {error}", key=place) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise SpecError(f"{source.file} must hold one array of real numbers", key=place)
    if array.shape != grid.resolution:
        raise SpecError(
            f"{source.file} has the shape {array.shape}, but the grid has {grid.resolution} cells", key=place
        )
    return torch.as_tensor(array.astype(np.float64))


def span_text(low: float, high: float) -> str:
    """Return the text of a number, or of the range of a field."""
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _check_within(name: str, value: Tensor, transform: Transform, *, key: str) -> None:
    low, high = float(value.min()), float(value.max())
    if not (transform.lower < low and high < transform.upper):
        raise SpecError(
            f"{name} = {span_text(low, high)} is outside of its open bounds ({transform.lower:g}, {transform.upper:g}):"
            " choose a value between them, or set other bounds",
            key=key,
        )
