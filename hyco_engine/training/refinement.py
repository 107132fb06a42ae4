"""The same physics on a finer grid and with shorter internal steps, whose predictions lie at the same places as before.

Each cell becomes three along an axis, so that the middle one has the centre of the old one: predictions on the finer
grid are compared where the old ones are, without any interpolation. A side with a constant value has that value at the
centre of the first cell beyond it, and a side that reflects mirrors about the centre of its last cell; the finer grid
keeps these places too. Start states are interpolated: by trigonometric polynomials along a periodic axis, as a spectral
physics does, and else by the polynomial through six neighbours, beyond the boundary by its condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import FieldInfo, Grid, RuleKind, StateLayout
from hyco_engine.data.padding import Sides, component_sides
from hyco_engine.equations.evaluation import continued
from hyco_engine.errors import HycoError
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.within import internal_steps
from hyco_engine.rollout import rollout

PARTS = 3
"""Cells in place of one along each axis, and internal steps in place of one, or more where the grid asks for them."""

Build = Callable[[StateLayout, "float | None"], PhysicalModel]
"""Builds the physics for another layout and with an internal step; None stands for steps that are stable."""

_REACH = 3
_WEIGHTS = {
    # of the values at -2, -1, 0, 1, 2, 3 for the place 1/3, by Lagrange's formula
    "upper": (8 / 729, -70 / 729, 560 / 729, 280 / 729, -56 / 729, 7 / 729),
}


class NotRefinable(Exception):
    """Raised where a physics cannot be refined; the message says why, without a full stop."""


@attrs.frozen(kw_only=True, eq=False)
class Refinement:
    """A finer `model` beside a `coarse` one with the same parameters.

    `grid` is true if the grid is finer; else the internal steps alone are shorter, for the reason `why_not`. `dear` is
    true if that is the cost of a finer grid.
    """

    coarse: PhysicalModel
    model: PhysicalModel
    grid: bool
    why_not: str = ""
    dear: bool = False

    @classmethod
    def of(cls, coarse: PhysicalModel, build: Build, *, grid: bool = True) -> Refinement:
        """Build the finer model. Raises NotRefinable."""
        why_not = "the grid was left as it is to bound the time that this takes"
        if grid:
            try:
                layout = finer(coarse.layout)
                if fields := [name for name in coarse.learnables.names if coarse.learnables.is_field(name)]:
                    raise NotRefinable(f"{fields[0]} has a value for each cell of this grid")
                model = _with_parameters(coarse, build(layout, None))
                model.settle_steps()
                steps = max(internal_steps(model), PARTS * internal_steps(coarse))
                if steps > internal_steps(model):
                    model = _with_parameters(coarse, build(layout, coarse.dt / steps))
                return cls(coarse=coarse, model=model, grid=True)
            except (NotRefinable, HycoError) as error:
                why_not = str(error)
        steps = PARTS * internal_steps(coarse)
        try:
            model = _with_parameters(coarse, build(coarse.layout, coarse.dt / steps))
        except HycoError as error:
            raise NotRefinable(str(error)) from error
        if internal_steps(model) != steps:
            raise NotRefinable("the physics has no internal steps that could be shorter" + f", and {why_not}")
        return cls(coarse=coarse, model=model, grid=False, why_not=why_not, dear=not grid)

    @property
    def cells(self) -> int:
        """How many times as many cells the finer grid has."""
        return PARTS ** len(self.coarse.layout.grid.axes) if self.grid else 1

    def predictions(self, states: Tensor, steps: int) -> Tensor:
        """Return the rollouts of the finer model from states on the coarse grid, at its places: `[B, T, C_dyn, *S]`."""
        if not self.grid:
            return rollout(self.model, states, steps)
        found = rollout(self.model, interpolated(states, self.coarse.layout), steps)
        for axis, (lower, _) in enumerate(_more(self.coarse.layout)):
            n = self.coarse.layout.grid.resolution[axis]
            places = 1 + lower + PARTS * torch.arange(n, device=found.device)
            found = found.index_select(3 + axis, places)
        return found


def finer(layout: StateLayout) -> StateLayout:
    """Return the layout on the finer grid. Raises NotRefinable."""
    if not layout.n_axes:
        raise NotRefinable("there is no space")
    grid, more = layout.grid, _more(layout)
    for axis, n in zip(grid.axes, grid.resolution, strict=True):
        if n <= _REACH + 1:
            raise NotRefinable(f"{n} cells along {axis} are too few to interpolate between them")
    spacing = [dx / PARTS for dx in grid.spacing]
    ends = list(zip(grid.lower, grid.upper, spacing, more, strict=True))
    return attrs.evolve(
        layout,
        grid=Grid(
            axes=grid.axes,
            resolution=tuple(PARTS * n + sum(own) for n, own in zip(grid.resolution, more, strict=True)),
            lower=tuple(lower - own[0] * dx for lower, _, dx, own in ends),
            upper=tuple(upper + own[1] * dx for _, upper, dx, own in ends),
        ),
    )


def interpolated(states: Tensor, layout: StateLayout) -> Tensor:
    """Return states `[B, C_all, *S]` on the finer grid."""
    parts = []
    for field in layout.fields:
        own = states[:, layout.channels(field.name)]
        for component, values in enumerate(own.unbind(1)):
            for axis, more in enumerate(_more(layout)):
                sides = component_sides(field, component, layout.grid.axes[axis])
                alike = field.sampling in ("uniform", "index")
                values = _along(values, 1 + axis, sides, more, repeat=alike)
            parts.append(values)
    return torch.stack(parts, dim=1)


def _with_parameters(coarse: PhysicalModel, model: PhysicalModel) -> PhysicalModel:
    model.learnables.load_state_dict(coarse.learnables.state_dict())
    return model.eval()


def _more(layout: StateLayout) -> list[tuple[int, int]]:
    """Return for each axis how many cells the finer grid has beyond thrice as many, on the lower and the upper side."""
    if staggered := [field.name for field in layout.fields if field.sampling == "staggered"]:
        raise NotRefinable(f"{staggered[0]} lies on the faces of the cells")
    known = [field for field in layout.fields if field.sampling == "centered"]
    found = []
    for axis in layout.grid.axes:
        every = {tuple(map(_beyond, sides)) for field in known for sides in _sides(field, axis)}
        if len(every) > 1:
            raise NotRefinable(f"the boundaries of the fields along {axis} lie at different places")
        found.append(every.pop())
    return [(lower, upper) for lower, upper in found]


def _sides(field: FieldInfo, axis: str) -> list[Sides]:
    return [component_sides(field, component, axis) for component in range(field.channels)]


def _beyond(rule: object) -> int:
    kind: RuleKind = getattr(rule, "kind")  # noqa: B009
    return 1 if kind in ("constant", "formula") else -1 if kind in ("reflect", "antireflect") else 0


def _along(values: Tensor, dim: int, sides: Sides, more: tuple[int, int], *, repeat: bool) -> Tensor:
    """Return three values for each one along an axis, and `more` or fewer at its sides."""
    n = values.shape[dim]
    if repeat:
        return values.narrow(dim, 0, 1).expand(*values.shape[:dim], PARTS * n + sum(more), *values.shape[dim + 1 :])
    if sides[0].kind == "periodic":
        return _threes([_shifted(values, dim, -1 / PARTS), values, _shifted(values, dim, 1 / PARTS)], dim)
    # one cell beyond each side is interpolated too, for which three more are needed
    wide = continued(values, dim, _REACH + 1, *sides)
    neighbours = [wide.narrow(dim, start, n + 2) for start in range(2 * _REACH + 1)]
    upper = _weighted(neighbours[1:], _WEIGHTS["upper"])
    lower = _weighted(neighbours[:-1][::-1], _WEIGHTS["upper"])
    return _threes([lower, neighbours[_REACH], upper], dim).narrow(dim, PARTS - more[0], PARTS * n + sum(more))


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = weights[0] * values[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + weight * value
    return total


def _threes(parts: Sequence[Tensor], dim: int) -> Tensor:
    return torch.stack(list(parts), dim=dim + 1).flatten(dim, dim + 1)


def _shifted(values: Tensor, dim: int, share: float) -> Tensor:
    """Return the trigonometric interpolation of periodic values `share` of a cell further on."""
    n = values.shape[dim]
    waves = torch.arange(n // 2 + 1, dtype=torch.float64, device=values.device)
    factor = torch.exp(2j * torch.pi * share / n * waves)
    if n % 2 == 0:
        # the shortest wave has no side to which it goes
        factor[-1] = math.cos(math.pi * share)
    shape = [-1 if axis == dim else 1 for axis in range(values.dim())]
    spectrum = torch.fft.rfft(values.double(), dim=dim) * factor.reshape(shape)
    found: Tensor = torch.fft.irfft(spectrum, n=n, dim=dim)
    return found.to(values.dtype)
