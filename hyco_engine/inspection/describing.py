"""The kind of a file or folder, and the contents that matter."""

from __future__ import annotations

import glob
import json
import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import h5py

from hyco_engine.data.array_files import NETCDF, XARRAY, Hdf5Reader, open_arrays
from hyco_engine.data.csv_table import SUFFIXES as CSV
from hyco_engine.data.csv_table import CsvTable, read_csv
from hyco_engine.data.fields import TIME
from hyco_engine.data.joined import in_order
from hyco_engine.data.parquet_table import SUFFIXES as PARQUET
from hyco_engine.data.parquet_table import ParquetTable, read_parquet
from hyco_engine.errors import DataError, HycoError
from hyco_engine.inspection.contents import arrays_in
from hyco_engine.inspection.guessing import data_section, lines_for, split_line, table_series_section
from hyco_engine.inspection.tables import Columns, table_section, tables_section
from hyco_engine.runs.reading import RunFiles
from hyco_engine.spec.loading import MAX_BYTES
from hyco_engine.untrusted import PARSED, parse_json, parse_toml, read_regular

if TYPE_CHECKING:
    from hyco_engine.data.settings import SourceChoice
    from hyco_engine.interfaces import SampleSource, TrajectorySource

MAX_LINES = 40
JOINED = (*CSV, *PARQUET, ".npz", ".mat", ".h5", ".hdf5", *NETCDF)
"""The files that a source joins to one data set."""


@attrs.frozen(kw_only=True)
class Found:
    """The nature of a file or folder, a line for each thing in it, and the section that reads it, if a source can."""

    what: str
    contents: tuple[str, ...] = ()
    spec: str = ""
    tried: str = ""
    """The result of reading the data with that section."""


def describe(path: Path) -> Found:
    """Describe what `path` holds. Raises DataError if it does not exist or holds nothing that is known here."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    found = _folder(path) if path.is_dir() else _file(path)
    return attrs.evolve(found, tried=_read_with(found.spec)) if found.spec else found


def _read_with(section: str) -> str:
    """Say what the source reads with the section, or which error it raises."""
    from hyco_engine.data.conversion import converted
    from hyco_engine.spec.places import key_text
    from hyco_engine.spec.values import Mistakes
    from hyco_engine.tasks import task_for

    try:
        choice, source = _source(section)
        return task_for(converted(source, choice), choice).text
    except Mistakes as error:
        told = (f"{key_text(('data', *mistake.path))}: {mistake.message}" for mistake in error.found)
        return f"this section does not work yet: {'; '.join(told)}"
    except HycoError as error:
        return f"this section does not work yet: {error}"


def _source(section: str) -> tuple[SourceChoice, TrajectorySource | SampleSource]:
    """Return the choice that a section makes, and its source. Raises Mistakes and HycoError."""
    from hyco_engine.data.settings import SourceChoice
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.interfaces import SourceContext
    from hyco_engine.spec.structuring import Structurer

    registry = Registry.installed()
    choice = Structurer(registry).structure(tomllib.loads(section)["data"], SourceChoice)
    context = SourceContext(seed=0, registry=registry)
    return choice, registry.build(choice.hook, choice.kind, choice.options, context)


def _folder(path: Path) -> Found:
    run = RunFiles(path)
    if run.has("spec.toml") and (run.has("log.txt") or run.has("summary.json")):
        return _run(path)
    scenes = sorted(p for p in path.glob("sim_[0-9]*") if p.is_dir())
    if scenes or (path.name.startswith("sim_") and any(path.glob("*_000000.npz"))):
        return _scenes(path, scenes or [path])
    if any(path.glob("*.npy")):
        return _arrays(path, "a folder of .npy files")
    if any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        return _with_xarray(path, "a zarr store")
    if (path / "data").is_dir() and any(path.glob("data/*/*.hdf5")):
        files = sorted(path.glob("data/*/*.hdf5"))
        splits = sorted({f.parent.name for f in files})
        contents = tuple(f"data/{split}: {len(list(path.glob(f'data/{split}/*.hdf5')))} files" for split in splits)
        return _with_source("well", path, "a data set of The Well", contents)
    if found := sorted(p for p in path.glob("*") if p.is_file() and h5py.is_hdf5(p) and _is_well(p)):
        return _with_source("well", path, "files of The Well", (f"{len(found)} files such as {found[0].name}",))
    if (several := _several(path)) is not None:
        return several
    names = sorted(p.name for p in path.iterdir())[:12]
    raise DataError(f"{path} is a folder without data of a known kind; it holds {', '.join(names) or 'nothing'}")


def _several(folder: Path) -> Found | None:
    """Describe the files of a folder as one data set: those whose suffix most files have; None if there are none."""
    there = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in JOINED and not p.name.startswith(".")]
    most = max(sorted({p.suffix for p in there}), key=[p.suffix for p in there].count, default="")
    paths = sorted((p for p in there if p.suffix == most), key=in_order)
    if len(paths) < 2:
        return _file(paths[0]) if paths else None
    if most.lower() in NETCDF:
        what = f"{len(paths)} netCDF files such as {paths[0].name}"
        return _with_xarray(paths[0], what, Path(glob.escape(str(folder))) / f"*{most}")
    from hyco_engine.spec.places import key_text
    from hyco_engine.spec.values import Mistakes

    named = _toml_text(str(Path(glob.escape(str(folder))) / f"*{most}"))
    if damaged := {path: why for path in paths if (why := _damage(path))}:
        paths = [path for path in paths if path not in damaged] or paths
        named = f"[{', '.join(_toml_text(str(path)) for path in paths)}]"
    first = _file(paths[0])
    told = (*first.contents, *(f"{path.name} is left out: {why}" for path, why in damaged.items()))
    found = attrs.evolve(first, what=f"{len(paths)} files; {paths[0].name} is {first.what}", contents=told)
    if not first.spec:
        return found
    if 'kind = "points"' in first.spec:
        return attrs.evolve(found, spec=tables_section([_columns(path) for path in paths], named))
    lines = [line for line in first.spec.splitlines() if not line.startswith(("path = ", "split = "))]
    lines.insert(2, f"path = {named}")
    try:
        # only tables of observations are samples
        source = cast("TrajectorySource", _source("\n".join(lines))[1])
    except (Mistakes, HycoError):
        return attrs.evolve(found, spec="\n".join(lines))  # reading it says what is wrong
    every = [source.scalars(index) for index in range(source.num_simulations)]
    if names := [name for name in every[0] if source.guesses_scalars and len({own[name] for own in every}) > 1]:
        listed = ", ".join(f"{key_text([name])} = {_toml_text(name)}" for name in names)
        lines.append(f"scalars = {{ {listed} }}   # <- numbers that differ between simulations")
    lines += [split_line(frames, len(every))] if (frames := source.frames(0)) else []
    return attrs.evolve(found, spec="\n".join(lines))


def _damage(path: Path) -> str:
    """Return why a file cannot be read; empty if it can."""
    try:
        if path.suffix.lower() in PARQUET:
            read_parquet(path)
        else:
            open_arrays(path)
    except DataError as error:
        return error.problems[0].message
    return ""


def _columns(path: Path) -> Columns:
    if path.suffix.lower() in PARQUET:
        return Columns.of_table(read_parquet(path))
    if path.suffix.lower() in CSV:
        return Columns.of_table(read_csv(path))
    columns = Columns.of_arrays(arrays_in(path)[0], path)
    if columns is None:
        raise DataError(f"{path} is no table of observations, as other files of the folder are")
    return columns


def _file(path: Path) -> Found:
    if not path.is_file():
        raise DataError(f"{path} is neither a regular file nor a folder, and the engine reads nothing else")
    if path.suffix.lower() in CSV and (table := _read_table(path)) is not None:
        return _table(table)
    if path.suffix == ".toml":
        return _toml(path)
    if path.suffix == ".safetensors":
        return _weights(path)
    if path.suffix.lower() in PARQUET:
        return _table(read_parquet(path))
    if path.suffix.lower() in XARRAY:
        return _with_xarray(path, "a netCDF file")
    if h5py.is_hdf5(path) and path.suffix.lower() != ".mat":
        return _hdf5(path)
    if path.suffix.lower() in (".npy", ".npz", ".mat"):
        return _arrays(path, f"a {path.suffix} file")
    raise DataError(
        f"{path} is of no known kind; known are .npy, .npz, .mat, .h5, .hdf5, .csv, .toml and .safetensors files, "
        f"folders of .npy files, PhiFlow scenes, and run folders"
    )


def _with_xarray(path: Path, what: str, several: Path | None = None) -> Found:
    """Describe a file or store that knows its axes: the section says what the values show.

    `path` is the first of the files that the glob `several` matches.
    """
    from hyco_engine.spec.values import Mistakes

    reader = Hdf5Reader(path) if path.is_file() and h5py.is_hdf5(path) else None
    arrays = {} if reader is None else reader.arrays
    refused = {} if reader is None else reader.refused
    listed = [f"{name}: {own.dtype} {list(own.shape)}" for name, own in arrays.items()]
    contents = tuple([*listed, *(f"{name}: {why}" for name, why in refused.items())][:MAX_LINES])
    found = _with_source("xarray", several or path, f"{what}, for the plugin hyco-engine-xarray", contents)
    if not found.spec:
        return found
    lines = found.spec.splitlines()
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in [*arrays, *refused]))
    if groups and "" not in groups:
        others = f"   # <- or {', '.join(groups[1:])}" if groups[1:] else ""
        lines.append(f"group = {_toml_text(groups[0])}{others}")
    readings = (
        [] if several is None else [f'files = "{each}"   # <- by their times' for each in ("frames", "simulations")]
    )
    # where it is open, an axis keeps its end samples; a series has no ends
    for more, ends in product([[own] for own in readings] or [[]], (['boundary = "zero-gradient"'], [])):
        try:
            source = cast("TrajectorySource", _source("\n".join([*lines, *more, *ends]))[1])
        except (Mistakes, HycoError):
            continue
        return attrs.evolve(found, spec="\n".join([*lines, *more, *lines_for(source)]))
    lines += readings[:1]
    more = ['boundary = "periodic"   # <- the file does not say', 'split = { by = "time" }']
    return attrs.evolve(found, spec="\n".join([*lines, *more]))


def _arrays(path: Path, what: str) -> Found:
    arrays, refused = arrays_in(path)
    contents = tuple([*map(str, arrays.values()), *(f"{name}: {why}" for name, why in refused.items())][:MAX_LINES])
    if not arrays:
        return Found(what=f"{what} without arrays of numbers", contents=contents)
    section = data_section(arrays, path)
    if section is None and (columns := Columns.of_arrays(arrays, path)) is not None:
        return Found(what=f"{what} with a table of observations", contents=contents, spec=table_section(columns))
    if section is None:
        return Found(what=f"{what}; nothing in it looks like a field that changes in time", contents=contents)
    return Found(what=what, contents=contents, spec=section)


def _hdf5(path: Path) -> Found:
    with h5py.File(path, "r") as file:
        keys, attributes = set(file), {str(k): _short(v) for k, v in file.attrs.items()}
        seeds = [key for key in keys if key.isdigit() and isinstance(file[key], h5py.Group) and "data" in file[key]]
    contents = [f"@{name} = {value}" for name, value in attributes.items()]
    arrays, refused = arrays_in(path)
    contents += [*map(str, arrays.values()), *(f"{name}: {why}" for name, why in refused.items())]
    lines = tuple(contents[:MAX_LINES]) + (("...",) if len(contents) > MAX_LINES else ())
    if _is_well(path):
        return _with_source("well", path, f"a file of The Well, data set {attributes.get('dataset_name')}", lines)
    incompressible = "velocity" in keys and bool({"t", "particles"} & keys)
    if "tensor" in keys or {"density", "pressure"} <= keys or seeds or incompressible:
        form = f"{len(seeds)} simulations, a group each" if seeds else "all simulations in one array"
        more = ['boundary = "periodic"   # <- the file does not say', *_pdebench_split(path, seeds)]
        return _with_source("pdebench", path, f"a PDEBench file, {form}", lines, more)
    section = data_section(arrays, path)
    if section is None:
        return Found(
            what="an HDF5 file of an unknown layout; nothing in it looks like a field that changes in time",
            contents=lines,
        )
    return Found(what="an HDF5 file", contents=lines, spec=section)


def _is_well(path: Path) -> bool:
    with h5py.File(path, "r") as file:
        return "t0_fields" in file and "dimensions" in file


def _pdebench_split(path: Path, seeds: list[str]) -> list[str]:
    with h5py.File(path, "r") as file:
        if seeds:
            return [split_line(int(file[seeds[0]]["data"].shape[0]), len(seeds))]
        name = next((name for name in ("tensor", "density", "velocity") if name in file), None)
        return [] if name is None else [split_line(*map(int, file[name].shape[1::-1]))]


def _with_source(kind: str, path: Path, what: str, contents: tuple[str, ...], more: Sequence[str] = ()) -> Found:
    """Describe a layout that says most itself: the section only names the file, if such a source is installed."""
    from hyco_engine.hooks.registry import Registry

    if kind not in Registry.installed().kinds("hyco_sources"):
        return Found(what=f"{what}; no installed source reads it (see docs/extending.md)", contents=contents)
    lines = ["[data]", f'kind = "{kind}"', f"path = {_toml_text(str(path))}", *more]
    return Found(what=what, contents=contents, spec="\n".join(lines))


def _scenes(path: Path, scenes: list[Path]) -> Found:
    names = sorted({file.name.rpartition("_")[0] for file in scenes[0].glob("*_[0-9]*.npz")})
    frames = {name: len(list(scenes[0].glob(f"{name}_[0-9]*.npz"))) for name in names}
    contents = (f"{len(scenes)} simulations", *(f"{name}: {count} frames" for name, count in frames.items()))
    more = []
    if TIME in names:
        more.append(f'variables = {{ {TIME.upper()} = "{TIME}" }}   # {TIME} is the time in equations')
    if not _names_dt(scenes[0] / "description.json"):
        more.append("dt = 1.0   # <- the time between two frames is not in description.json")
    if names:
        more.append(split_line(max(frames.values()), len(scenes)))
    return _with_source("scene", path, "PhiFlow scenes", contents, more)


def _names_dt(path: Path) -> bool:
    try:
        description = parse_json(read_regular(path, memory=PARSED))
    except (OSError, ValueError):
        return False
    return isinstance(description, dict) and "dt" in description


def _read_table(path: Path) -> CsvTable | None:
    """Return a table in a text file; None for a text that is none."""
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    try:
        table = read_csv(path)
    except DataError:
        if path.suffix.lower() in (".csv", ".tsv"):
            raise
        return None
    return table if table.width > 1 or path.suffix.lower() in (".csv", ".tsv") else None


def _table(table: CsvTable | ParquetTable) -> Found:
    columns = Columns.of_table(table)
    listed = "columns: " + ", ".join(table.names) if table.names else f"{table.width} columns without names"
    contents = (f"{table.count} rows", listed, *table.notes)
    if not columns.are_observations and isinstance(table, CsvTable) and not columns.axes:
        arrays, _ = arrays_in(table.path)
        if (section := table_series_section(arrays, table.path)) is not None:
            return Found(what="a table of series in time", contents=contents, spec=section)
    if not columns.are_observations:
        return Found(what="a table; observations need the columns t, x and at least one value", contents=contents)
    return Found(what="a table of observations", contents=contents, spec=table_section(columns))


def _toml(path: Path) -> Found:
    try:
        tables = parse_toml(read_regular(path, most=MAX_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    parts = [f"[{name}] kind = {tables[name].get('kind')}" for name in tables if isinstance(tables[name], dict)]
    return Found(what=f"a spec; hyco-engine check {path} says what it would do", contents=tuple(parts))


def _weights(path: Path) -> Found:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = [f"{name}: {list(file.get_slice(name).get_shape())}" for name in file.keys()]  # noqa: SIM118
    except Exception as error:  # the reader raises many kinds on damaged files
        raise DataError(f"cannot read {path}: {error}") from error
    facts = [f"{name}: {metadata[name]}" for name in ("kind", "dt") if name in metadata]
    return Found(what="weights in safetensors", contents=tuple([*facts, *tensors][:MAX_LINES]))


def _run(path: Path) -> Found:
    from hyco_engine.report.verdict import verdict
    from hyco_engine.runs.metrics import has_summary, read_summary

    contents: list[str] = []
    status = "unfinished"
    if has_summary(path):
        summary = read_summary(path)
        status = str(summary.get("status"))
        contents.append(" ".join(verdict(summary)))
    contents += RunFiles(path).names()
    return Found(
        what=f"a run folder, {status}; hyco-engine report {path} shows it", contents=tuple(contents[:MAX_LINES])
    )


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _short(value: Any) -> str:
    text = str(value.decode(errors="replace") if isinstance(value, bytes) else value)
    return text if len(text) < 80 else f"{text[:77]}..."
