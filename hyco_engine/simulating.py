"""Writing of a spec's simulations as files that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs

from hyco_engine.assembly import Assembler
from hyco_engine.data.splits import SplitName
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import Trajectory, TrajectorySource
from hyco_engine.spec.resolving import replaced
from hyco_engine.tasks import task_for

Form = Literal["scene", "well", "csv"]


class Writer(Protocol):
    """Writes one simulation after the other."""

    def write(self, index: int, trajectory: Trajectory) -> Path: ...

    def close(self) -> None: ...


def write_simulations(
    assembler: Assembler, out: Path, form: Form, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Write all simulations of `[data]` below `out`, which must be new or empty; return what was written.

    They are complete and in float32, without noise and masks: `[data.observe]` acts where data is read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"{out} is not empty; name a new folder", key="--out")
    # files hold scalars as such, not as fields of the states
    data = assembler.spec.data
    choice = replaced(data, {"fields.scalars": ()})
    # the manager has checked the split, and gives the frames that are wanted
    manager = task_for(assembler.source(), choice, seed=assembler.spec.run.seed).simulations()
    source = manager.source
    splits = manager.simulations_by_split()
    writer = _writer(assembler, source, out, form, splits)
    paths: list[Path] = []

    def written() -> Iterator[Trajectory]:
        for index in range(source.num_simulations):
            loaded = manager.clean(index)
            single = attrs.evolve(loaded, dynamic=loaded.dynamic.float(), static=loaded.static.float())
            path = writer.write(index, single)
            if path not in paths:
                paths.append(path)
            progress(index + 1, source.num_simulations)
            if index in splits["train"]:
                yield single

    try:
        statistics = Statistics.of(written(), source.layout)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}", key="--out") from error
    finally:
        writer.close()
    if form == "well":
        _write_statistics(out / "stats.yaml", statistics, source)
    return {
        "format": form,
        "folder": str(out),
        "simulations": source.num_simulations,
        "dt": source.dt,
        "fields": [field.name for field in source.layout.fields],
        "files": [str(path) for path in paths],
    }


def _writer(
    assembler: Assembler, source: TrajectorySource, out: Path, form: Form, splits: Mapping[SplitName, Sequence[int]]
) -> Writer:
    if form == "csv":
        from hyco_engine.data.series import SeriesWriter

        return SeriesWriter(out, source.layout, source.dt)
    if not source.layout.n_axes:
        raise DataError("these simulations have no space, and are written as a table: --format csv", key="--format")
    if form == "scene":
        from hyco_engine.physics.scenes import SceneWriter

        return SceneWriter(out, source.layout, source.dt)
    from hyco_engine.data.well_layout import WellWriter

    numbers = {name: float(value) for name, value in source.truth.items() if value.ndim == 0}
    name = assembler.spec.data.name
    return WellWriter(out, source.layout, source.dt, name=name, splits=splits, parameters=numbers)


def _write_statistics(path: Path, statistics: Statistics, source: TrajectorySource) -> None:
    """Write mean and standard deviation of the training data by field, with one number a component for vectors."""
    lines = []
    for name, values in (("mean", statistics.mean), ("std", statistics.std)):
        lines.append(f"{name}:")
        for field in source.layout.fields:
            own = values[source.layout.channels(field.name)].tolist()
            lines.append(f"  {field.name}: {own[0] if not field.components else own}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
