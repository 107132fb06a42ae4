"""The arrays of a data set of xarray, read lazily: fill values are NaN, packed numbers unpacked, times in seconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray

from hyco_engine.data.array_files import ArrayReader, Stored, content_hash
from hyco_engine.errors import DataError

SECONDS = {
    "nanosecond": 1e-9,
    "ns": 1e-9,
    "microsecond": 1e-6,
    "us": 1e-6,
    "millisecond": 1e-3,
    "ms": 1e-3,
    "second": 1.0,
    "sec": 1.0,
    "s": 1.0,
    "minute": 60.0,
    "min": 60.0,
    "hour": 3600.0,
    "hr": 3600.0,
    "h": 3600.0,
    "day": 86400.0,
    "d": 86400.0,
    "week": 604800.0,
}
"""The units in which CF counts times since a date, without a plural s."""
_EAST = ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee")
"""The units of longitudes in CF, in lower case."""
_NUMBERS = "fiubc"
"""The kinds of types that are numbers, as numpy names them."""
_WHOLE = 2**28
"""The size of a store up to which its whole content is hashed."""


class XarrayReader(ArrayReader):
    """A netCDF file, or the folder of a zarr store. Nothing is read before it is asked for but coordinates."""

    def __init__(self, path: Path, group: str = "") -> None:
        self.group = group
        if not path.exists():
            raise DataError(f"there is no file or folder {path}", key="data.path")
        super().__init__(path)

    def _list(self) -> Iterable[tuple[str, Stored]]:
        _refuse_what_is_elsewhere(self.path)
        # times are counted, not decoded: a calendar of 360 days has no dates in numpy
        engine = _engine(self.path)
        self._data = xarray.open_dataset(
            self.path,
            engine=engine,
            # what is consolidated may be older than the store
            backend_kwargs={"consolidated": False} if engine == "zarr" else None,
            group=self.group or None,
            decode_times=False,
            decode_timedelta=False,
        )
        for name, variable in self._data.variables.items():
            if variable.dtype.kind in _NUMBERS:
                yield str(name), Stored(tuple(variable.shape), variable.dtype)
            else:
                self.refused[str(name)] = f"it holds {variable.dtype}, and the engine reads only numbers"

    @property
    def dimensions(self) -> Mapping[str, int]:
        """The lengths of all dimensions by name."""
        return {str(name): n for name, n in self._data.sizes.items()}

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups in the file or store that hold numbers."""
        if self.path.is_dir():
            found = {Path(entry.path).parent.parent for entry in _entries(self.path) if _is_head_of_array(entry)}
            return tuple(sorted(p.relative_to(self.path).as_posix() for p in found - {self.path}))
        if not h5py.is_hdf5(self.path):
            return ()
        with h5py.File(self.path, "r") as file:
            held = {name.rpartition("/")[0].strip("/") for name, item in _items(file, set()) if _is_array(item)}
        return tuple(sorted(held - {""}))

    def leave_out(self, dimensions: Iterable[str]) -> None:
        """Read all variables without these dimensions, whose length is 1."""
        self._data = self._data.squeeze(list(dimensions), drop=True)
        kept = {name: stored for name, stored in self.arrays.items() if name in self._data.variables}
        self.arrays = {name: Stored(self._data.variables[name].shape, own.dtype) for name, own in kept.items()}

    def counts_from_a_date(self, name: str) -> bool:
        """Return whether a variable holds times, by its unit."""
        return name in self.arrays and " since " in self.attribute(name, "units")

    def times_along(self, dimension: str) -> str:
        """Return the variable with the times along a dimension; empty if there is none, or several."""
        if dimension in self.arrays:
            return dimension
        lines = (name for name in self.arrays if self.dimensions_of(name) == (dimension,))
        found = [name for name in lines if self.counts_from_a_date(name)]
        return found[0] if len(found) == 1 else ""

    def named_by(self, attribute: str) -> tuple[str, ...]:
        """Return the variables that other variables name in an attribute such as `bounds`."""
        # xarray moves what it understands from the attributes to the encoding
        texts = (v.attrs.get(attribute, v.encoding.get(attribute, "")) for v in self._data.variables.values())
        return tuple(name for text in texts if isinstance(text, str) for name in text.split())

    def is_flag(self, name: str) -> bool:
        """Return whether the numbers of a variable stand for words, as those of a quality flag do."""
        return "flag_meanings" in self._data.variables[name].attrs

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables with numbers that are no coordinates."""
        return tuple(str(name) for name in self._data.data_vars if str(name) in self.arrays)

    def dimensions_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the dimensions of a variable, in order."""
        return tuple(map(str, self._data.variables[name].dims))

    def attribute(self, name: str, attribute: str) -> str:
        """Return an attribute of a variable as text; empty without the variable or the attribute."""
        found = self._data.variables[name].attrs.get(attribute) if name in self._data.variables else None
        return found if isinstance(found, str) else ""

    def read(self, name: str, index: tuple[int | slice, ...] = ()) -> np.ndarray[Any, np.dtype[Any]]:
        try:
            values = np.asarray(self._data.variables[name][index].values)
        except Exception as error:  # the backends raise many types on damaged files
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"cannot read {self.path} ({name!r}): {reason}", key="data.path") from error
        if (limits := self._limits(name)) is not None:
            values = np.where((values < limits[0]) | (values > limits[1]), np.nan, values)
        unit, since, _ = self.attribute(name, "units").partition(" since ")
        if unit.lower() in _EAST and self._data.variables[name].ndim == 1:
            return _onwards(values)
        if not since:
            return values
        factor = seconds_in(self.attribute(name, "units"), self.path, name)
        # what is counted from a date has digits for the date alone in single precision
        return (values.astype(np.float64) - float(np.ravel(values)[0])) * factor

    def counted(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the times in a variable as the file counts them."""
        return np.asarray(self._data.variables[name].values, np.float64)

    def _limits(self, name: str) -> tuple[float, float] | None:
        """Return the range outside of which a value was not observed; None where the file gives none.

        CF gives the range of packed numbers as these are in the file.
        """
        variable = self._data.variables[name]
        given = variable.attrs.get("valid_range", [variable.attrs.get(f"valid_{end}") for end in ("min", "max")])
        ends = [None if end is None else float(end) for end in np.ravel(np.asarray(given, dtype=object))]
        if len(ends) != 2 or ends == [None, None]:
            return None
        scale, offset = (float(variable.encoding.get(k, v)) for k, v in (("scale_factor", 1.0), ("add_offset", 0.0)))
        low = -np.inf if ends[0] is None else ends[0] * scale + offset
        high = np.inf if ends[1] is None else ends[1] * scale + offset
        return min(low, high), max(low, high)

    def content(self, names: Iterable[str]) -> str:
        """Return a hash of the file, or of the store: of its content, or of sizes and times if it is large."""
        if self.path.is_file():
            return content_hash([self.path])
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        if sum(path.stat().st_size for path in files) <= _WHOLE:
            return content_hash(files)
        listed = [(str(f.relative_to(self.path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(json.dumps(listed).encode("utf-8", "surrogateescape")).hexdigest()


def seconds_in(units: str, path: Path | None = None, name: str = "") -> float:
    """Return the seconds in the unit of times such as "hours since 2000-01-01"; 1 for times that no date begins.

    The length of others is not known: 0 without a path, else DataError.
    """
    unit, since, _ = units.partition(" since ")
    if not since:
        return 1.0
    unit = unit.strip().lower()
    factor = SECONDS.get(unit, SECONDS.get(unit.removesuffix("s"), 0.0))
    if not factor and path is not None:
        raise DataError(
            f"{path}: {name!r} counts {unit} since a date, whose length is not known; give data.dt, the time "
            f"between two frames",
            key="data.dt",
        )
    return factor


def _onwards(longitudes: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return longitudes that go on where those in the file begin again, as 350, 0 or 170, -180 do."""
    jumps = np.diff(longitudes)
    if not (np.abs(jumps) > 180).any():
        return longitudes
    turns = np.concatenate([[0], np.cumsum(np.where(jumps < -180, 1, np.where(jumps > 180, -1, 0)))])
    return np.asarray(longitudes + 360 * turns.astype(longitudes.dtype))


def _is_array(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and item.dtype.kind in _NUMBERS and item.ndim > 0


def _is_head_of_array(entry: os.DirEntry[str]) -> bool:
    """Return whether a file in a store declares an array, and not a group."""
    if entry.name == "zarr.json":
        return '"node_type": "array"' in _words(Path(entry.path)).partition('"consolidated_metadata"')[0]
    return entry.name == ".zarray"


def _engine(path: Path) -> str:
    if path.is_dir():
        return "zarr"
    return "h5netcdf" if h5py.is_hdf5(path) else "scipy"


def _refuse_what_is_elsewhere(path: Path) -> None:
    """Raise DataError for what leads out of a file or store, and for pickled objects in a store."""
    if path.is_dir():
        for entry in _entries(path):
            if entry.is_symlink():
                raise DataError(f"{entry.path} is a link to another place, which you did not name", key="data.path")
            if entry.name in (".zarray", "zarr.json") and "pickle" in _words(Path(entry.path)):
                raise DataError(f"{entry.path} declares pickled objects, which the engine never reads", key="data.path")
    elif h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            for name, item in _items(file, set()):
                dataset = isinstance(item, h5py.Dataset)
                if isinstance(item, h5py.ExternalLink) or (dataset and (item.is_virtual or item.external)):
                    raise DataError(
                        f"{path}: the numbers of {name!r} are in another file, which you did not name", key="data.path"
                    )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def _words(path: Path) -> str:
    """Return the content of a JSON file with its escapes resolved, as the library that reads the store sees it."""
    try:
        return json.dumps(json.loads(path.read_bytes()), ensure_ascii=False)
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no JSON", key="data.path") from None


def _items(group: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a group and of the groups in it, each group once, by however many names it goes."""
    seen.add(h5py.h5o.get_info(group.id).addr)
    for name in group:
        link = group.get(name, getlink=True)
        item = link if isinstance(link, h5py.ExternalLink) else group[name]
        yield f"{group.name.rstrip('/')}/{name}", item
        own = isinstance(item, h5py.Group) and isinstance(link, h5py.HardLink)
        if own and h5py.h5o.get_info(item.id).addr not in seen:
            yield from _items(item, seen)
