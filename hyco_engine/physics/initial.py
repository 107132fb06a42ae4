"""Random smooth initial states that satisfy the boundary conditions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, Rule
from hyco_engine.errors import DataError

_CUTOFF = 3.0
"""The number of standard deviations of the spectrum beyond which modes are left out."""

_EVEN = {"zero-gradient": -0.5, "symmetric": -0.5, "reflect": 0.0}
_ODD = {"constant": -1.0, "antisymmetric": -0.5, "antireflect": 0.0}
"""The place about which a side mirrors the field, in samples from the first: evenly, or oddly about its value."""


def smooth_noise(
    grid: Grid,
    boundary: Boundary,
    count: int,
    generator: torch.Generator,
    *,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
    component: int | None = None,
    samples: tuple[int, ...] | None = None,
) -> Tensor:
    """Draw random fields `[count, *resolution]`, each different, on the CPU.

    They are sums of Fourier, sine and cosine modes that satisfy the boundary exactly, with amplitudes `exp(-(wave
    number * scale)^2 / 2)` and wave numbers in periods per length. Each sample has unit root mean square around the
    boundary's value, and zero mean if all sides are periodic or even. `scale` is a length (default: a quarter of the
    domain). `component` is the index of a vector component, or None for a scalar; `samples` are its samples along each
    axis if they differ from the cells. Raises DataError for boundaries that no such field satisfies.
    """
    shape = grid.resolution if samples is None else samples
    rules = [boundary.rules(axis, grid.axes, component) for axis in grid.axes]
    bases, waves = [], []
    for sides, size, lower, upper in zip(rules, shape, grid.lower, grid.upper, strict=True):
        basis, periods = _modes(sides, size, (upper - lower) / scale if scale else 4.0)
        bases.append(basis)
        waves.append(periods * (scale / (upper - lower) if scale else 0.25))
    square = torch.zeros((), dtype=torch.float64)
    for wave in waves:
        square = square.unsqueeze(-1) + wave**2
    amplitude = torch.exp(-square / 2)
    amplitude[square == 0] = 0.0
    noise = torch.randn(count, *amplitude.shape, generator=generator, dtype=torch.float64) * amplitude
    for basis in bases:
        # contracts the first mode axis and appends the axis in space, so that the axes end in their order
        noise = torch.tensordot(noise, basis, dims=([1], [0]))
    dims = tuple(range(1, noise.dim()))
    noise = noise / noise.square().mean(dim=dims, keepdim=True).sqrt()
    return (noise + _base(rules, shape)).to(dtype)


def noise_field(
    field: FieldInfo,
    grid: Grid,
    spatial: tuple[int, ...],
    count: int,
    generator: torch.Generator,
    *,
    scale: float | None = None,
    amplitude: float = 1.0,
) -> Tensor:
    """Draw `smooth_noise` for each component of a field: float64 `[count, channels, *spatial]`, zero on padding.

    `amplitude` multiplies the deviation from the boundary's value.
    """
    values = torch.zeros(count, field.channels, *spatial, dtype=torch.float64)
    for index in range(field.channels):
        own = field.samples(grid, index)
        place: tuple[slice | int, ...] = (slice(None), index, *(slice(n) for n in own))
        component = index if field.components else None
        noise = smooth_noise(grid, field.boundary, count, generator, scale=scale, component=component, samples=own)
        base = _base([field.boundary.rules(axis, grid.axes, component) for axis in grid.axes], own)
        values[place] = base + amplitude * (noise - base)
    return values


def _modes(sides: tuple[Rule, Rule], size: int, periods: float) -> tuple[Tensor, Tensor]:
    """Return the modes along one axis `[M, size]` and their wave numbers `[M]` in periods per domain."""
    index = torch.arange(size, dtype=torch.float64)
    limit = max(1.0, min(_CUTOFF * periods, size / 3))
    lower, upper = sides
    if lower.kind == "periodic":
        wave = torch.arange(0, int(limit) + 1, dtype=torch.float64)
        phase = 2 * math.pi * wave[:, None] * (index + 0.5) / size
        return torch.cat([torch.cos(phase), torch.sin(phase[1:])]), torch.cat([wave, wave[1:]])
    start, odd_start = _mirror(lower)
    end, odd_end = _mirror(upper)
    end = size - 1 - end
    position = (index - start) / (end - start)
    half_waves = torch.arange(0, max(1, int(2 * limit)) + 1, dtype=torch.float64)
    if odd_start != odd_end:
        half_waves = half_waves + 0.5
    elif odd_start:
        half_waves = half_waves[1:]
    phase = math.pi * half_waves[:, None] * position
    return torch.sin(phase) if odd_start else torch.cos(phase), half_waves / 2


def _mirror(rule: Rule) -> tuple[float, bool]:
    if rule.kind in _ODD:
        return _ODD[rule.kind], True
    return _EVEN[rule.kind], False


def _base(rules: list[tuple[Rule, Rule]], shape: tuple[int, ...]) -> Tensor:
    """Return what the constant sides require: one value or a linear profile, which broadcasts to `[*shape]`."""
    base = torch.zeros((1,) * len(shape), dtype=torch.float64)
    constants = {float(rule.value) for sides in rules for rule in sides if rule.kind == "constant"}  # type: ignore[arg-type]
    if len(constants) <= 1:
        return base + (constants.pop() if constants else 0.0)
    fixed = [axis for axis, sides in enumerate(rules) if any(rule.kind == "constant" for rule in sides)]
    if len(fixed) > 1:
        raise DataError(
            "smooth initial states need one boundary value on all sides, or two values along a single axis, but the "
            f"boundary has {', '.join(f'{value:g}' for value in sorted(constants))}"
        )
    size = shape[fixed[0]]
    first, last = (float(rule.value) for rule in rules[fixed[0]])  # type: ignore[arg-type]
    profile = first + (last - first) * (torch.arange(size, dtype=torch.float64) + 1) / (size + 1)
    return profile.reshape([size if axis == fixed[0] else 1 for axis in range(len(shape))])
