"""Where and when to measure next: the readings that narrow the intervals of a run's parameters most."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.points import Sensors
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, Trajectory
from hyco_engine.physics.within import internal_steps
from hyco_engine.randomness import derive_generator
from hyco_engine.runs.files import dump_json, write_atomic
from hyco_engine.runs.loading import LoadedRun
from hyco_engine.runs.metrics import read_summary
from hyco_engine.threads import own_threads
from hyco_engine.training.optimal_design import Criterion, greedy, shortened, updated
from hyco_engine.training.sensitivities import Sensitivities

Unit = Literal["reading", "sensor", "frame"]

MOST_WORK = 2**31
"""So many values times internal steps times parameters are computed at most; more simulations are left out."""
MOST_NUMBERS = 2**25
"""The most derivatives of measurements; of more, positions are left out evenly."""
RANDOM_DRAWS = 101
LEAST_EIGENVALUE = 1e-12
"""The least eigenvalue of correlations: beyond it, parameters cannot be told apart within rounding."""


@attrs.frozen(kw_only=True)
class Wanted:
    """What to choose: `number` readings, sensors (a place at all times) or frames (a time at all places)."""

    number: int = 5
    unit: Unit = "reading"
    criterion: Criterion = "d"
    fields: Sequence[str] = ()
    """The fields that can be measured; all dynamic ones if there are none."""
    simulations: Sequence[int] = ()
    """The simulations whose start can be made again; all if there are none."""
    every: int | None = None
    """Sensors may stand at every so many cells along each axis."""
    until: float | None = None
    """The last time of a measurement; None stands for the end of the data."""
    noise: Mapping[str, float] = attrs.Factory(dict)
    """The standard deviations of readings of fields that are known better than the run knows them."""


def design(
    run_dir: Path | str,
    wanted: Wanted | None = None,
    *,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Choose the measurements that would narrow the 95 % intervals of a run's parameters most.

    What the run's data say is the starting point. A new reading counts by its exact derivatives by the parameters at
    the values that were found, and by its noise. Returns `chosen` (in order, with the standard errors expected after
    each), `parameters` (now, expected, and what as many random measurements would give), `noise`, `map` (the gain of
    each measurement as the first one) and `notes`. Raises DataError where the run has no error bars.
    """
    wanted = wanted or Wanted()
    run = LoadedRun(run_dir, registry, overrides=overrides)
    with own_threads(run.spec.run.threads):
        model, weights = run.model_and_weights("physical", "final")
        physics = cast("PhysicalModel", model)
        known = _Known.of_run(run, physics)
        if weights.layout is None or weights.dt is None:
            raise DataError(f"the physics of {run.folder} steps no fields, so there is nothing to place sensors in")
        task = run.assembler.task(writes=False)
        task.read()
        task.check_fit(weights.form, "physical")
        measurements = _Measurements.of(wanted, physics, weights.layout, weights.dt, task.whole_simulations(), run)
    return _found(run, wanted, known, measurements)


@attrs.frozen(kw_only=True, eq=False)
class _Known:
    """What a run knows of its parameters: all learned numbers, unconstrained, with their covariance."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    raw: Tensor
    slopes: Tensor
    """d value / d raw."""
    seen: tuple[bool, ...]
    """Whether the data say anything about a number."""
    covariance: Tensor
    intervals: tuple[tuple[float, float] | None, ...]
    model: PhysicalModel

    @classmethod
    def of_run(cls, run: LoadedRun, model: PhysicalModel) -> _Known:
        bars = (read_summary(run.folder).get("identification") or {}).get("error_bars")
        if not bars:
            raise DataError(
                f"the run {run.folder} has no error bars, so it is not known what its data say: a run has them that "
                "learns at most 50 numbers by squared errors and is completed"
            )
        names = tuple(bars["names"])
        units, raws = [], []
        for name in model.learnables.learned:
            raws.append(model.learnables.raw[name].detach().double().cpu().flatten())
            units += [model.learnables.declaration(name).unit or "1"] * len(raws[-1])
        slope = model.learnables.slopes()
        if len(names) != len(slope):
            raise DataError(f"the error bars of {run.folder} are of {len(names)} numbers; it learns {len(slope)}")
        errors = [bars["standard_error"][name] for name in names]
        # what the data say nothing about is known as well as its scale: to a factor of e, or to its range
        sizes = torch.tensor([1.0 if e is None else e / abs(s) for e, s in zip(errors, slope.tolist(), strict=True)])
        correlation = torch.eye(len(names), dtype=torch.float64)
        seen = torch.tensor([error is not None for error in errors])
        if bars["correlation"] is not None:
            told = torch.tensor([[0.0 if c is None else c for c in row] for row in bars["correlation"]]).double()
            correlation = torch.where(seen[:, None] & seen, told, correlation)
        eigenvalues, vectors = torch.linalg.eigh(correlation)
        correlation = (vectors * eigenvalues.clamp(min=LEAST_EIGENVALUE)) @ vectors.T
        return cls(
            names=names,
            units=tuple(units),
            raw=torch.cat(raws),
            slopes=slope,
            seen=tuple(seen.tolist()),
            covariance=sizes[:, None].double() * correlation * sizes.double(),
            intervals=tuple(None if (edges := bars["interval"][n]) is None else tuple(edges) for n in names),
            model=model,
        )

    def errors(self, covariance: Tensor) -> dict[str, float]:
        """Return the standard errors of the values."""
        return dict(zip(self.names, (covariance.diagonal().sqrt() * self.slopes.abs()).tolist(), strict=True))

    def values(self, raw: Tensor) -> list[float]:
        """Return the values of unconstrained numbers `[P]`."""
        parts = torch.split(raw, [self.model.learnables.raw[name].numel() for name in self.model.learnables.learned])
        pairs = zip(self.model.learnables.learned, parts, strict=True)
        return torch.cat([self.model.learnables.transform(name).to_value(part) for name, part in pairs]).tolist()

    def narrowed(self, ratios: Tensor) -> list[tuple[float, float] | None]:
        """Return the intervals when the standard errors shrink to `ratios [P]` of those now."""
        reach = []
        for k, edges in enumerate(self.intervals):
            transform = self.model.learnables.transform(self.names[k].partition("[")[0])
            low, high = (math.nan,) * 2 if edges is None else transform.to_raw(torch.tensor(edges).double()).tolist()
            reach.append((high - low) / 2)
        moves = torch.tensor(reach, dtype=torch.float64) * ratios
        edges_now = zip(self.values(self.raw - moves), self.values(self.raw + moves), strict=True)
        return [pair if all(map(math.isfinite, pair)) else None for pair in edges_now]


@attrs.frozen(kw_only=True, eq=False)
class _Measurements:
    """All that can be measured: what each one is, and its derivatives in standard deviations of its noise."""

    places: Tensor
    """The positions `[X, n_axes]`."""
    times: tuple[float, ...]
    labels: tuple[dict[str, Any], ...]
    blocks: Tensor
    """`[K, n, P]`."""
    noise: dict[str, float]
    layout: StateLayout
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        wanted: Wanted,
        model: PhysicalModel,
        layout: StateLayout,
        dt: float,
        trajectories: Sequence[Trajectory],
        run: LoadedRun,
    ) -> _Measurements:
        fields = _fields(wanted, layout)
        last = max(len(trajectory.dynamic) for trajectory in trajectories) - 1
        steps = last if wanted.until is None else math.floor(wanted.until / dt + 1e-6)
        if steps < 1:
            raise DataError(f"--until {wanted.until:g} lies before the first frame after the start, at {dt:g}")
        numbers = sum(parameter.numel() for parameter in model.learnables.raw.values())
        chosen, notes = _simulations(wanted, trajectories, steps * numbers * internal_steps(model))
        every = wanted.every or _stride(layout, len(chosen) * steps * numbers)
        if every > 1 and wanted.every is None:
            notes.append(
                f"sensors may stand at every {every}. cell along each axis, so that there are not too many measurements"
            )
        places, sensors, roll_out = _places(layout, every), Sensors(layout), Sensitivities(model)
        readings, squares = [], _Squares(layout)
        device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        for index in chosen:
            trajectory = trajectories[index]
            state = torch.cat([trajectory.dynamic[0], trajectory.static])[None].to(device)
            path, derivatives = (found.cpu() for found in roll_out(state, steps))
            if not torch.isfinite(path).all() or not torch.isfinite(derivatives).all():
                raise DataError(
                    f"the physics, or its derivatives, do not stay finite up to {steps * dt:.6g} in simulation "
                    f"{index}: choose an earlier --until, or other simulations"
                )
            squares.add(trajectory, torch.cat([state[:, None, : layout.n_dynamic].cpu(), path], dim=1)[0])
            readings.append(_read(sensors, derivatives[0], places))
        noise = squares.noise(fields, run, wanted.noise)
        labels, blocks = _blocks(wanted.unit, torch.stack(readings), fields, layout, noise)
        if wanted.number > len(labels):
            raise DataError(
                f"--number {wanted.number} is more than there are measurements to choose from: {len(labels)}"
            )
        return cls(
            places=places,
            times=tuple(dt * (step + 1) for step in range(steps)),
            labels=tuple({**label, "simulation": chosen[label["simulation"]]} for label in labels),
            blocks=blocks,
            noise=noise,
            layout=layout,
            notes=tuple(notes),
        )

    def told(self, index: int) -> dict[str, Any]:
        """Return the simulation of a measurement, and its time, position and field as far as it has one."""
        label = self.labels[index]
        place = label["place"]
        position = None if place is None else dict(zip(self.layout.grid.axes, self.places[place].tolist(), strict=True))
        return {
            "simulation": label["simulation"],
            "time": None if label["frame"] is None else self.times[label["frame"]],
            "position": position,
            "field": label["field"],
        }


def _fields(wanted: Wanted, layout: StateLayout) -> list[str]:
    known = [field.name for field in layout.dynamic]
    for name in [*wanted.fields, *wanted.noise]:
        if name not in known:
            raise DataError(f"there is no field {name!r} to measure: {', '.join(known)}{did_you_mean(name, known)}")
    return [name for name in known if not wanted.fields or name in wanted.fields]


def _simulations(wanted: Wanted, trajectories: Sequence[Trajectory], work: int) -> tuple[list[int], list[str]]:
    """Return the simulations that can be measured again, and notes on those left out; `work` is that of a value."""
    if wrong := [index for index in wanted.simulations if not 0 <= index < len(trajectories)]:
        raise DataError(f"there is no simulation {wrong[0]}: the data has 0 to {len(trajectories) - 1}")
    known = list(wanted.simulations) or list(range(len(trajectories)))
    complete = [index for index in known if not bool(trajectories[index].dynamic[0].isnan().any())]
    if not complete:
        raise DataError("no simulation has a complete first frame, from which the physics could roll out")
    most = max(1, MOST_WORK // max(1, work * trajectories[0].dynamic[0].numel()))
    used = complete[:most]
    notes = []
    if len(used) < len(known):
        notes.append(f"{len(used)} of {len(known)} simulations are considered, to bound the time this takes")
    return used, notes


def _stride(layout: StateLayout, numbers: int) -> int:
    """Return the least stride of positions with which the derivatives of all measurements stay few."""
    every, channels = 1, layout.n_dynamic
    while channels * numbers * math.prod(-(-n // every) for n in layout.grid.resolution) > MOST_NUMBERS:
        every += 1
    return every


def _places(layout: StateLayout, every: int) -> Tensor:
    """Return the centres `[X, n_axes]` of every so many cells along each axis; a system without space is one place."""
    grid = layout.grid
    if not grid.axes:
        return torch.zeros(1, 0, dtype=torch.float64)
    along = [
        torch.tensor(grid.centers(axis)[min(every - 1, n - 1) // 2 :: every], dtype=torch.float64)
        for axis, n in zip(grid.axes, grid.resolution, strict=True)
    ]
    return torch.cartesian_prod(*along).reshape(-1, len(along))


def _read(sensors: Sensors, derivatives: Tensor, places: Tensor) -> Tensor:
    """Return the derivatives `[T, X, C, P]` of all readings, from those of a path `[T, C, *S, P]`."""
    if not places.shape[1]:
        return derivatives[:, None].double()
    paths = derivatives.movedim(-1, 0)
    frames, count = paths.shape[1], len(places)
    frame = torch.arange(frames, dtype=torch.float64).repeat_interleave(count).expand(len(paths), -1)
    position = places.repeat(frames, 1).expand(len(paths), -1, -1)
    # a value at a boundary does not change with a parameter
    found = sensors(paths, frame, position) - sensors(torch.zeros_like(paths), frame, position)
    return found.view(len(paths), frames, count, -1).movedim(0, -1).double()


class _Squares:
    """The residuals of the physics over the observed values of simulations, from which readings' errors are known."""

    def __init__(self, layout: StateLayout) -> None:
        self._layout = layout
        self._sensors = Sensors(layout)
        self._parts: dict[str, list[Tensor]] = {field.name: [] for field in layout.dynamic}

    def add(self, trajectory: Trajectory, path: Tensor) -> None:
        """Compare a trajectory with the path `[T, C_dyn, *S]` from its first frame."""
        shared = min(len(path), len(trajectory.dynamic))
        for name, parts in self._parts.items():
            own = self._layout.channels(name)
            parts.append((path[1:shared, own] - trajectory.dynamic[1:shared, own]).flatten())
            if (points := trajectory.points) is not None:
                within = (points.frame > 0) & (points.frame <= shared - 1)
                read = self._sensors(path[None], points.frame[within][None], points.position[within][None])[0]
                parts.append((read[:, own] - points.value[within][:, own].to(read)).flatten())

    def noise(self, fields: Sequence[str], run: LoadedRun, given: Mapping[str, float]) -> dict[str, float]:
        """Return what a reading of each field errs by: the noise, or what the physics leaves where that is more."""
        told = read_summary(run.folder).get("noise") or {}
        found = {}
        for name in fields:
            residuals = torch.cat(self._parts[name])
            residuals = residuals[~residuals.isnan()].double()
            left = float(residuals.square().mean().sqrt()) if len(residuals) else 0.0
            found[name] = given.get(name) or max((told.get(name) or {}).get("level") or 0.0, left)
            if not found[name] > 0:
                raise DataError(f"it is not known how far readings of {name} err: give --noise {name}=NUMBER")
        return found


def _blocks(
    unit: Unit, readings: Tensor, fields: Sequence[str], layout: StateLayout, noise: Mapping[str, float]
) -> tuple[list[dict[str, Any]], Tensor]:
    """Return what each measurement is, and its derivatives `[K, n, P]`, from those of readings `[B, T, X, C, P]`."""
    own = {name: readings[..., layout.channels(name), :] / noise[name] for name in fields}
    runs, frames, places = readings.shape[:3]
    if unit == "reading":
        rows = max(block.shape[3] for block in own.values())
        parts = [torch.nn.functional.pad(block, (0, 0, 0, rows - block.shape[3])) for block in own.values()]
        blocks = torch.cat([part.flatten(0, 2) for part in parts])
        labels = [_label(b, t, x, f) for f in fields for b in range(runs) for t in range(frames) for x in range(places)]
        return labels, shortened(blocks)
    every = torch.cat(list(own.values()), dim=3)
    if unit == "sensor":
        labels = [_label(b, None, x, None) for b in range(runs) for x in range(places)]
        return labels, shortened(every.movedim(2, 1).flatten(0, 1).flatten(1, 2))
    labels = [_label(b, t, None, None) for b in range(runs) for t in range(frames)]
    return labels, shortened(every.flatten(0, 1).flatten(1, 2))


def _label(simulation: int, frame: int | None, place: int | None, field: str | None) -> dict[str, Any]:
    return {"simulation": simulation, "frame": frame, "place": place, "field": field}


def _found(run: LoadedRun, wanted: Wanted, known: _Known, measurements: _Measurements) -> dict[str, Any]:
    now = known.covariance
    chosen = greedy(now, measurements.blocks, wanted.number, wanted.criterion)
    final = chosen.covariances[-1]
    random = _at_random(now, measurements.blocks, wanted.number, run.spec.run.seed)
    ratios = (final.diagonal() / now.diagonal()).sqrt()
    values, errors = known.values(known.raw), (known.errors(now), known.errors(final))
    intervals = known.narrowed(ratios)
    parameters = {
        name: {
            "value": values[k],
            "unit": known.units[k],
            "standard_error": errors[0][name] if known.seen[k] else None,
            "interval": known.intervals[k],
            "expected_error": errors[1][name],
            "expected_interval": intervals[k],
            "narrower": float(1 / ratios[k]) if known.seen[k] else None,
            "narrower_at_random": float(1 / random[k]) if known.seen[k] else None,
        }
        for k, name in enumerate(known.names)
    }
    told = [
        {
            "rank": rank + 1,
            **measurements.told(index),
            "gain": float(chosen.gains[index]),
            "standard_error": known.errors(after),
        }
        for rank, (index, after) in enumerate(zip(chosen.indices, chosen.covariances, strict=True))
    ]
    return {
        "run": str(run.folder),
        "unit": wanted.unit,
        "criterion": wanted.criterion,
        "possible": len(measurements.labels),
        "noise": measurements.noise,
        "chosen": told,
        "parameters": parameters,
        "notes": list(measurements.notes),
        "map": _map(measurements, chosen.gains),
    }


def _at_random(covariance: Tensor, blocks: Tensor, number: int, seed: int) -> Tensor:
    """Return the standard errors after random measurements, as shares of those now: medians over draws `[P]`."""
    generator = derive_generator(seed, "design")
    found = []
    for _ in range(RANDOM_DRAWS):
        drawn = torch.randperm(len(blocks), generator=generator)[:number]
        found.append(updated(covariance, blocks[drawn].flatten(0, 1)).diagonal())
    shares: Tensor = (torch.stack(found) / covariance.diagonal()).sqrt().median(0).values
    return shares


def _map(measurements: _Measurements, gains: Tensor) -> dict[str, Any]:
    """Return the largest gain of a measurement at each place, and at each time, where measurements have one."""
    labels = measurements.labels
    by_place = [0.0] * len(measurements.places)
    by_time = [0.0] * len(measurements.times)
    both = [[0.0] * len(by_place) for _ in by_time]
    for label, gain in zip(labels, gains.tolist(), strict=True):
        place, frame = label["place"], label["frame"]
        if place is not None:
            by_place[place] = max(by_place[place], gain)
        if frame is not None:
            by_time[frame] = max(by_time[frame], gain)
        if place is not None and frame is not None:
            both[frame][place] = max(both[frame][place], gain)
    has_place = labels[0]["place"] is not None and bool(measurements.layout.grid.axes)
    has_time = labels[0]["frame"] is not None
    return {
        "axes": list(measurements.layout.grid.axes),
        "positions": measurements.places.tolist(),
        "times": list(measurements.times),
        "by_position": by_place if has_place else None,
        "by_time": by_time if has_time else None,
        "by_time_and_position": both if has_place and has_time and len(measurements.layout.grid.axes) == 1 else None,
    }


def write_design(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a design into a folder: `design.json`, `design.csv` with the chosen measurements, and `design.png`."""
    from hyco_engine.report.design_figure import design_figure

    if not folder.is_dir():
        raise DataError(f"cannot write the design: there is no folder {folder}")
    axes, names = found["map"]["axes"], list(found["parameters"])
    rows = [
        [
            entry["rank"],
            entry["simulation"],
            _cell(entry["time"]),
            *("" if entry["position"] is None else _cell(entry["position"][axis]) for axis in axes),
            entry["field"] or "",
            *(_cell(entry["standard_error"][name]) for name in names),
        ]
        for entry in found["chosen"]
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "simulation", "t", *axes, "field", *(f"standard_error {name}" for name in names)])
    table.writerows(rows)
    paths = [folder / "design.json", folder / "design.csv", folder / "design.png"]
    write_atomic(paths[0], dump_json(dict(found)) + "\n")
    write_atomic(paths[1], text.getvalue())
    return [*paths[:2], design_figure(found, paths[2])]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
