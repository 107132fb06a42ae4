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

from hyco_engine.data.array_files import NETCDF, SUFFIXES, XARRAY, Hdf5Reader, MatrixReader, conversion, open_arrays
from hyco_engine.data.csv_table import SUFFIXES as CSV
from hyco_engine.data.csv_table import CsvTable, read_csv
from hyco_engine.data.fields import TIME
from hyco_engine.data.joined import in_order
from hyco_engine.data.parquet_table import SUFFIXES as PARQUET
from hyco_engine.data.parquet_table import ParquetTable, read_parquet
from hyco_engine.errors import DataError, HycoError
from hyco_engine.inspection.contents import arrays_in
from hyco_engine.inspection.guessing import FEW, data_section, lines_for, scattered, series_section, split_line
from hyco_engine.inspection.tables import (
    Columns,
    grid_section,
    series_table_section,
    table_section,
    tables_section,
    with_lines,
)
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
    if _is_zarr(path):
        return _with_xarray(path, "a zarr store")
    if stores := sorted((p for p in path.iterdir() if p.is_dir() and _is_zarr(p)), key=in_order):
        what = f"{len(stores)} zarr stores such as {stores[0].name}"
        return _with_xarray(stores[0], what, Path(glob.escape(str(path))) / f"*{stores[0].suffix}")
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


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (".zgroup", "zarr.json"))


def _several(folder: Path) -> Found | None:
    """Describe the files of a folder as one data set: those whose suffix most files have; None if there are none."""
    if (matrices := MatrixReader.files_in(folder)) and _is_matrix(matrices[len(matrices) // 2]):
        return _arrays(folder, "a folder of text files of a matrix each")
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
    tables = [_observations(path) for path in paths] if 'kind = "points"' in first.spec else []
    if seen := [table for table in tables if table is not None]:
        if None in tables:
            other = paths[tables.index(None)]
            raise DataError(f"{other} is no table of observations, as other files of the folder are")
        form = [line for line in first.spec.splitlines() if line.startswith("csv.")]
        return attrs.evolve(found, spec=with_lines(tables_section(seen, named), form))
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


def _is_matrix(path: Path) -> bool:
    """Return whether a text file without a header has more columns than a table of a few series."""
    try:
        table = read_csv(path)
    except DataError:
        return False
    return not table.names and table.width > FEW


def _damage(path: Path) -> str:
    """Return why a file cannot be read; empty if it can."""
    try:
        if _read_table(path) is None:
            open_arrays(path)
    except DataError as error:
        return error.problems[0].message
    return ""


def _observations(path: Path) -> Columns | None:
    """Return the columns of a file that holds a table of observations; None if it holds something else."""
    table = _read_table(path)
    if table is None:
        return Columns.of_arrays(arrays_in(path)[0], path)
    columns = Columns.of_table(_with_dates(table)[0])
    return columns if columns.are_observations else None


def _file(path: Path) -> Found:
    if not path.is_file():
        raise DataError(f"{path} is neither a regular file nor a folder, and the engine reads nothing else")
    if (table := _read_table(path)) is not None:
        return _table(table)
    if path.suffix == ".toml":
        return _toml(path)
    if path.suffix == ".safetensors":
        return _weights(path)
    if path.suffix.lower() in XARRAY:
        return _with_xarray(path, "a netCDF file")
    if h5py.is_hdf5(path) and path.suffix.lower() != ".mat":
        return _hdf5(path)
    if path.suffix.lower() in (".npy", ".npz", ".mat"):
        return _arrays(path, f"a {path.suffix} file")
    known = (*SUFFIXES, *CSV, *PARQUET, *XARRAY, ".toml", ".safetensors")
    told = conversion(path)
    raise DataError(
        f"{path} is of no known kind{told and f': {told}'}; known are {', '.join(known)} files, "
        f"folders of such files, PhiFlow scenes, and run folders"
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
    evened = 'resample = "linear"   # <- times or positions are not evenly spaced, so that it interpolates'
    # where it is open, an axis keeps its end samples; a series has no ends
    ways = product(([], [evened]), [[own] for own in readings] or [[]], (['boundary = "zero-gradient"'], []))
    for even, more, ends in ways:
        try:
            source = cast("TrajectorySource", _source("\n".join([*lines, *even, *more, *ends]))[1])
        except (Mistakes, HycoError):
            continue
        return attrs.evolve(found, spec="\n".join([*lines, *more, *even, *lines_for(source)]))
    lines += readings[:1]
    more = ['boundary = "periodic"   # <- the file does not say', 'split = { by = "time" }']
    return attrs.evolve(found, spec="\n".join([*lines, *more]))


def _arrays(path: Path, what: str) -> Found:
    arrays, refused = arrays_in(path)
    contents = tuple([*map(str, arrays.values()), *(f"{name}: {why}" for name, why in refused.items())][:MAX_LINES])
    if not arrays:
        return Found(what=f"{what} without arrays of numbers", contents=contents)
    if advice := scattered(arrays):
        return Found(what=f"{what}; {advice}", contents=contents)
    section = data_section(arrays, path)
    if section is None and (columns := Columns.of_arrays(arrays, path)) is not None:
        return Found(what=f"{what} with a table of observations", contents=contents, spec=table_section(columns))
    if section is None:
        return Found(what=f"{what}; nothing in it looks like a field that changes in time", contents=contents)
    return Found(what=what, contents=contents, spec=section)


def _hdf5(path: Path) -> Found:
    with h5py.File(path, "r") as file:
        keys, attributes = set(file), {str(k): _short(v) for k, v in file.attrs.items()}
        numbers = {k: float(v) for k, v in file.attrs.items() if isinstance(v, float | int) and not isinstance(v, bool)}
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
        return _with_source("pdebench", path, f"a PDEBench file, {form}", lines, _pdebench_lines(path))
    section = data_section(arrays, path, numbers)
    if section is None:
        return Found(
            what="an HDF5 file of an unknown layout; nothing in it looks like a field that changes in time",
            contents=lines,
        )
    return Found(what="an HDF5 file", contents=lines, spec=section)


def _is_well(path: Path) -> bool:
    with h5py.File(path, "r") as file:
        return "t0_fields" in file and "dimensions" in file


def _pdebench_lines(path: Path) -> list[str]:
    """Return the lines that the values show, since the files say nothing of their boundaries."""
    from hyco_engine.spec.values import Mistakes

    lines = ["[data]", 'kind = "pdebench"', f"path = {_toml_text(str(path))}", 'boundary = "zero-gradient"']
    try:
        return lines_for(cast("TrajectorySource", _source("\n".join(lines))[1]), named=False)
    except (Mistakes, HycoError):
        return ['boundary = "periodic"   # <- the file does not say']  # reading it says what is wrong


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


def _read_table(path: Path) -> CsvTable | ParquetTable | None:
    """Return the table in a file; None for a text that is none, and for another kind of file."""
    if path.suffix.lower() in PARQUET:
        return read_parquet(path)
    if path.suffix.lower() not in CSV:
        return None
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
    dated, form = _with_dates(table)
    columns = Columns.of_table(dated)
    listed = "columns: " + ", ".join(table.names) if table.names else f"{table.width} columns without names"
    contents = (f"{table.count} rows", listed, *table.notes)
    if isinstance(dated, CsvTable) and (section := grid_section(dated)) is not None:
        return Found(what="a table of a field on a grid", contents=contents, spec=with_lines(section, form))
    if columns.are_observations:
        return Found(what="a table of observations", contents=contents, spec=with_lines(table_section(columns), form))
    if (section := series_table_section(dated)) is not None:
        what = "a table of series, each at its own times"
        return Found(what=what, contents=contents, spec=with_lines(section, form))
    if isinstance(dated, CsvTable):
        section, more = _series_in(dated)
        if section is not None:
            spec = with_lines(section, [*form, *more])
            what = "a table of series in time" if "\ncoordinates" not in spec else "a table of a field"
            return Found(what=what, contents=contents, spec=spec)
    keys = (
        'kind = "points" reads observations if data.columns names the columns t, x, y, z and s (the simulation) and '
        'the fields; kind = "arrays" reads series if data.time names a column of times that increase from row to row, '
        "or within each simulation, which data.csv.simulation tells apart"
    )
    return Found(what=f"a table whose columns are not plain; {keys}", contents=contents)


def _with_dates(table: CsvTable | ParquetTable) -> tuple[CsvTable | ParquetTable, list[str]]:
    """Return (a table whose date-times can be read, the line of a spec that says so)."""
    if not isinstance(table, CsvTable):
        return table, []
    for k in range(table.width):
        if not table.are_moments(k) and (forms := table.time_formats(k)):
            others = f"; or {', '.join(map(_toml_text, forms[1:]))}" if forms[1:] else ""
            line = f"csv.time_format = {_toml_text(forms[0])}   # <- it fits to all rows{others}"
            return attrs.evolve(table, form=attrs.evolve(cast("Any", table.form), time_format=forms[0])), [line]
    return table, []


def _series_in(table: CsvTable) -> tuple[str | None, list[str]]:
    """Return (the section of a table without places, lines on its form), trying each column as that of simulations."""
    headed, path = bool(table.names), table.path
    section = series_section(arrays_in(path, table.form)[0], path, headed=headed)
    if section is not None:
        return section, []
    for name in table.names:
        own = attrs.evolve(cast("Any", table.form), simulation=(name,))
        try:
            section = series_section(arrays_in(path, own)[0], path, headed=headed, named=True)
        except DataError:
            continue
        if section is not None:
            return section, [f"csv.simulation = [{_toml_text(name)}]   # <- within its entries, times increase"]
    return None, []


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
    from hyco_engine.runs.metrics import find_summary

    summary = find_summary(path)
    status = "unfinished" if summary is None else str(summary.get("status"))
    contents = [*([] if summary is None else [" ".join(verdict(summary))]), *RunFiles(path).names()]
    return Found(
        what=f"a run folder, {status}; hyco-engine report {path} shows it", contents=tuple(contents[:MAX_LINES])
    )


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _short(value: Any) -> str:
    text = str(value.decode(errors="replace") if isinstance(value, bytes) else value)
    return text if len(text) < 80 else f"{text[:77]}..."
