"""Reading of named arrays from files of unknown origin: no content is executed, every declared size is checked."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs
import h5py
import numpy as np
import numpy.typing as npt
import scipy.io
import scipy.sparse

from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.csv_table import SUFFIXES as TABLES
from hyco_engine.data.csv_table import read_csv
from hyco_engine.data.table_grid import TableGrid, by_simulation
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.resources import free_memory

Array = npt.NDArray[Any]
Index = tuple[int | slice, ...]

KEY = "data.path"
HDF5 = (".h5", ".hdf5")
SUFFIXES = (".npy", ".npz", ".mat", *HDF5)
MATRICES = (".txt", ".dat")
"""The text files of a folder that hold a matrix each."""
NETCDF = (".nc", ".nc4", ".cdf")
XARRAY = (*NETCDF, ".zarr")
_PICKLE = "it holds pickled Python objects, which the engine never reads; save its arrays with numpy.savez"
_SHEET = "save its sheets as .csv files"
_PACKED = "unpack it, and read the file or the folder that was in it"
_FRAMES = "save its frames as numbers, one array [frames, y, x], with numpy.save"
_CONVERSIONS = {
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"), _PICKLE),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _SHEET),
    **dict.fromkeys((".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar"), _PACKED),
    **dict.fromkeys((".avi", ".mp4", ".mov", ".gif", ".tif", ".tiff", ".png", ".jpg", ".jpeg"), _FRAMES),
    ".json": "save its lists of numbers as arrays with numpy.savez",
    **dict.fromkeys((".feather", ".arrow"), "save it as .parquet, or as .csv"),
    **dict.fromkeys(XARRAY, 'kind = "xarray", of the plugin hyco-engine-xarray, reads netCDF and zarr'),
}
"""What helps with files that hold no arrays for the engine, by their suffix."""
NUMBERS = "fiubc"
"""The kinds of types that are numbers, as numpy names them."""
DATES = "Mm"
WHOLE_HASH_BYTES = 2**28
_SAMPLES = 64
_BLOCK = 2**20


@attrs.frozen
class Stored:
    """An array as its file declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class ArrayReader(ABC):
    """Reads named arrays. `squeezes` is true if the format adds or drops axes of length 1, as MATLAB's do."""

    squeezes = False
    axes = ""
    """The meaning of the axes of all arrays, if the format says it."""
    notes: Sequence[str] = ()
    """How the file was read, where that is not plain."""
    whole = False
    """Whether an array is read as a whole, whatever part of it is asked for."""
    marks_missing = False
    """Whether the file marks values as not observed; they are NaN."""
    dated: Collection[str] = ()
    """The arrays of seconds since the first of the date-times that the file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: dict[str, str] = {}
        """Arrays in the file that cannot be used, with the reason."""
        with reading(path):
            self.arrays: Mapping[str, Stored] = dict(self._list())

    @abstractmethod
    def _list(self) -> Iterable[tuple[str, Stored]]:
        """List the numeric arrays, from headers alone."""

    @abstractmethod
    def read(self, name: str, index: Index = ()) -> Array:
        """Return a part of an array. Raise DataError, for example if the file is shorter than its header declares."""

    def read_whole(self, names: Iterable[str]) -> int:
        """Return the bytes that are read, and held until `release`, before any part of these arrays is given."""
        return 0

    def unit(self, name: str) -> str:
        """Return the unit of an array, empty where the file gives none."""
        return ""

    def release(self) -> None:  # noqa: B027 - not every reader holds arrays
        """Release the arrays that were read."""

    def files(self, names: Iterable[str]) -> list[Path]:
        """Return the files that hold these arrays."""
        return [self.path]

    def content(self, names: Iterable[str]) -> str:
        """Return a hash of the content from which these arrays are read."""
        return content_hash(self.files(names))

    def find(self, name: str, key: str) -> Stored:
        """Return the declaration of that array. Raise DataError with the arrays that there are instead."""
        if name in self.refused:
            raise DataError(f"{self.path}: the array {name!r} cannot be used: {self.refused[name]}", key=key)
        if name not in self.arrays:
            raise DataError(
                f"{self.path} has no array {name!r}{did_you_mean(name, self.arrays)} (it has {self.listing()})", key=key
            )
        return self.arrays[name]

    def listing(self) -> str:
        """Return the arrays and their shapes, for messages."""
        shown = [f"{name} {stored.shape}" for name, stored in list(self.arrays.items())[:12]]
        return ", ".join(shown + ["..."] * (len(self.arrays) > 12)) or "no numeric array"


class HoldingReader(ArrayReader):
    """Opens an array once and holds it until `release`."""

    def __init__(self, path: Path) -> None:
        self._held: dict[str, Array] = {}
        super().__init__(path)

    @abstractmethod
    def _open(self, name: str) -> Array:
        """Return an array to be indexed, memory-mapped where the format allows it."""

    def read(self, name: str, index: Index = ()) -> Array:
        with reading(self.path, name):
            if name not in self._held:
                self._held[name] = self._open(name)
            return np.asarray(self._held[name][index])

    def release(self) -> None:
        self._held.clear()


class NpyReader(HoldingReader):
    """One `.npy` file, or a folder of them; an array is named by the file's stem."""

    def _list(self) -> Iterator[tuple[str, Stored]]:
        for name, file in self._paths().items():
            with reading(file), file.open("rb") as opened:
                stored = _npy_header(opened, file)
                declared = opened.tell() + stored.nbytes
                if declared > file.stat().st_size:
                    raise ValueError(f"the file ends after {file.stat().st_size} of {declared} bytes")
            yield name, stored

    def _paths(self) -> dict[str, Path]:
        files = sorted(self.path.glob("*.npy")) if self.path.is_dir() else [self.path]
        return {file.stem: file for file in files}

    def _open(self, name: str) -> Array:
        array: Array = np.load(self._paths()[name], mmap_mode="r", allow_pickle=False)
        return array

    def files(self, names: Iterable[str]) -> list[Path]:
        return [self._paths()[name] for name in sorted(set(names))]


class WholeReader(HoldingReader):
    """Reads an array as a whole, whatever part of it is asked for."""

    whole = True

    def read_whole(self, names: Iterable[str]) -> int:
        return sum(self.arrays[name].nbytes for name in set(names) - self._held.keys())

    def _open(self, name: str) -> Array:
        size, free = self.read_whole([name]), free_memory()
        if size > free:
            raise DataError(
                f"{self.path}: {name!r} {self.arrays[name].shape} takes {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB "
                f"of memory are free; save it as .npy, which the engine reads piece by piece",
                key=KEY,
            )
        return self._read(name)

    @abstractmethod
    def _read(self, name: str) -> Array:
        """Return an array."""


class NpzReader(WholeReader):
    """A `.npz` archive."""

    def _list(self) -> Iterator[tuple[str, Stored]]:
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with archive.open(info) as opened:
                    try:
                        stored = _npy_header(opened, self.path)
                    except _NotNumeric as error:
                        self.refused[info.filename.removesuffix(".npy")] = str(error)
                        continue
                    if opened.tell() + stored.nbytes != info.file_size:
                        raise ValueError(
                            f"the entry {info.filename!r} declares {stored.nbytes} bytes and holds {info.file_size}"
                        )
                yield info.filename.removesuffix(".npy"), stored

    def _read(self, name: str) -> Array:
        with np.load(self.path, allow_pickle=False) as archive:
            array: Array = archive[name]
            return array


class MatReader(WholeReader):
    """A `.mat` file up to version 7.2. The array `u` in a struct `s` is `s/u`, and that in a cell `c{1}` is `c/1`."""

    squeezes = True

    def _list(self) -> Iterator[tuple[str, Stored]]:
        numeric = {"double": "f8", "single": "f4", "logical": "?"}
        for name, shape, kind in scipy.io.whosmat(self.path):
            dtype = numeric.get(kind) or (kind if kind.startswith(("int", "uint")) else None)
            if dtype:
                yield name, Stored(tuple(shape), np.dtype(dtype))
            elif (kind == "struct" and math.prod(shape) == 1) or (kind == "cell" and math.prod(shape) <= _CELLS):
                for inner, values in self._members(name, self._load(name)):
                    yield inner, Stored(values.shape, values.dtype)
            else:
                self.refused[name] = _MATLAB.get(kind, f"it is a MATLAB {kind}; save its numbers as an array")

    def _load(self, name: str) -> Any:
        return scipy.io.loadmat(self.path, variable_names=[name])[name]

    def _members(self, name: str, struct: Any) -> Iterator[tuple[str, Array]]:
        """Yield the arrays of a struct or a cell array, and of those in it."""
        entries = struct.reshape(-1, order="F")
        if struct.dtype.names:
            parts = [(field, entries[0][field]) for field in struct.dtype.names]
        else:
            parts = [(str(k), entry) for k, entry in enumerate(entries, start=1)]
        for own, values in parts:
            inner = f"{name}/{own}"
            if not isinstance(values, np.ndarray):
                self.refused[inner] = _MATLAB["sparse"] if scipy.sparse.issparse(values) else _MATLAB["opaque"]
            elif values.dtype.kind in NUMBERS:
                yield inner, values
            elif (values.dtype.names and values.size == 1) or (values.dtype.kind == "O" and values.size <= _CELLS):
                yield from self._members(inner, values)
            else:
                kind = "struct" if values.dtype.names else "cell" if values.dtype.kind == "O" else "char"
                self.refused[inner] = _MATLAB[kind]

    def _read(self, name: str) -> Array:
        variable = name.partition("/")[0]
        loaded = self._load(variable)
        array: Array = loaded if variable == name else dict(self._members(variable, loaded))[name]
        return array


_CELLS = 1000
"""The most entries of a cell array that are read as arrays."""
_MATLAB = {
    "cell": "it is a cell array; cat(3, c{:}) in MATLAB makes one array of equal parts",
    "struct": "it is an array of several structs; cat(3, s.u) in MATLAB makes one array of their fields u",
    "char": "it is text",
    "sparse": "it is sparse; full(u) in MATLAB makes it an array",
    "opaque": "it is a MATLAB object, such as a table; save its numbers as an array",
}


class Hdf5Reader(ArrayReader):
    """An HDF5 file, read piece by piece. An array in a group is named by its path.

    In a `.mat` file of version 7.3, all axes are reversed.
    """

    def __init__(self, path: Path) -> None:
        self.squeezes = path.suffix.lower() == ".mat"
        super().__init__(path)

    def _list(self) -> Iterable[tuple[str, Stored]]:
        found: dict[str, Stored] = {}
        self._paths: dict[str, str] = {}

        # visititems follows hard links alone, so no name leads out of the file
        def visit(name: str, item: Any) -> None:
            if name[0] == "#":
                return  # where MATLAB keeps the parts of cells and objects
            # an entry of another type than a reference could name a link that leads out of the file
            refers = isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is h5py.Reference
            if refers and self._matlab_kind(item) == "cell" and item.size <= _CELLS:
                for k, entry in enumerate(item[()].reshape(-1), start=1):
                    if entry and item.file[entry].name:
                        self._paths[f"{name}/{k}"] = item.file[entry].name
                        visit_one(f"{name}/{k}", item.file[entry])
                return
            visit_one(name, item)

        def visit_one(name: str, item: object) -> None:
            kind = self._matlab_kind(item)
            if any(name.startswith(f"{other}/") for other in self.refused):
                return
            if kind is not None:
                self.refused[name] = _MATLAB[kind]
            elif isinstance(item, h5py.Dataset) and {"scale_factor", "add_offset"} & set(item.attrs):
                self.refused[name] = (
                    'it holds packed numbers (scale_factor, add_offset); kind = "xarray", of the plugin '
                    "hyco-engine-xarray, unpacks them"
                )
            elif isinstance(item, h5py.Dataset) and not is_elsewhere(item) and _number_type(item.dtype):
                shape = item.shape[::-1] if self.squeezes else item.shape
                found[name] = Stored(tuple(shape), _number_type(item.dtype) or item.dtype)

        with h5py.File(self.path, "r") as file:
            file.visititems(visit)
        return found.items()

    def _matlab_kind(self, item: Any) -> str | None:
        """Return the entry of `_MATLAB` that says why an item holds no array."""
        if not self.squeezes:
            return None
        if "MATLAB_sparse" in item.attrs:
            return "sparse"
        kind = bytes(item.attrs.get("MATLAB_class", b"")).decode("ascii", "replace")
        if kind in ("cell", "char"):
            return kind
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "O":
            return "struct" if kind in ("", "struct") else "opaque"
        return None

    def read(self, name: str, index: Index = ()) -> Array:
        with reading(self.path, name), h5py.File(self.path, "r") as file:
            index = (*index, *(slice(None) for _ in range(len(self.arrays[name].shape) - len(index))))
            values = np.asarray(file[self._paths.get(name, name)][index[::-1] if self.squeezes else index])
            if values.dtype.names:  # complex numbers, as MATLAB writes them
                real, imaginary = (values[part] for part in values.dtype.names)
                values = real + 1j * imaginary
            return values.T if self.squeezes else values


class CsvReader(ArrayReader):
    """A text table, in which each column of numbers is an array.

    Its rows follow each other in time. With columns of positions, they are the points of a grid instead. Rows with the
    same entries in the columns that the form names, or else in a column `s`, are a simulation. Where the form names
    columns, another one with one number for each of several simulations is an array of these. Missing entries are NaN,
    and date-times seconds since the first one.
    """

    def __init__(self, path: Path, form: CsvForm | None = None, along: Mapping[str, str] | None = None) -> None:
        """`along` are the letters of the axes along which columns of times and positions lie."""
        self._form = form or CsvForm()
        self._along = along or {}
        super().__init__(path)

    def _list(self) -> Iterator[tuple[str, Stored]]:
        table = read_csv(self.path, self._form)
        self.notes = list(table.notes)
        names = table.names or tuple(f"c{column}" for column in range(table.width))
        self._units = dict(zip(names, table.units, strict=True))
        told = self._form.simulation
        if unknown := [name for name in told if name not in names and self._form.simulation != CsvForm().simulation]:
            raise DataError(
                f"{self.path} has no column {unknown[0]!r}{did_you_mean(unknown[0], names)}, which is to tell "
                f"simulations apart (it has {', '.join(names)})",
                key="data.csv.simulation",
            )
        told = tuple(name for name in told if name in names)
        entries = list(zip(*(table.text(names.index(name)) for name in told), strict=True)) or [()] * table.count
        self._labels = [", ".join(entry) for entry in dict.fromkeys(entries)]
        read: dict[str, Array] = {}
        for column, name in enumerate(names):
            if not name or (name in told and (name == "s" or table.is_text(column))):
                continue
            if table.are_moments(column):
                read[name], first = table.seconds(column)
                self.dated = (*self.dated, name)
                self.notes.append(f"{name} is counted in seconds since {first}")
            elif table.is_text(column):
                self.refused[name] = "its entries are texts"
            else:
                read[name] = table.numbers(column)
        self._columns = self._laid_out(read, by_simulation(entries), bool(told))
        for name, values in self._columns.items():
            self.marks_missing |= bool(np.isnan(values).any())
            yield name, Stored(values.shape, values.dtype)

    def _laid_out(self, read: Mapping[str, Array], simulation: Array, told: bool) -> dict[str, Array]:
        """Return the columns by simulation, and on a grid if positions are among them."""
        count, given = int(simulation.max()) + 1, self._form.simulation != CsvForm().simulation
        first = np.array([int((simulation == k).argmax()) for k in range(count)])
        # a number that is the same in all rows of each simulation is known of it
        known = {
            name: values[first]
            for name, values in read.items()
            if given and 1 < count < len(values) and np.array_equal(values[first][simulation], values, equal_nan=True)
        }
        lines = {name: letter for name, letter in self._along.items() if name in read}
        if set(lines.values()) - {"t"}:
            grid = TableGrid.of(simulation, {name: read[name] for name in lines})
            self.axes = ("s" if count > 1 else "") + "".join(lines.values())
            return {
                name: grid.lines[name] if name in lines else known.get(name, grid(values))
                for name, values in read.items()
            }
        counts = np.bincount(simulation).tolist()
        if len(set(counts)) > 1:
            longest, shortest = (self._labels[counts.index(pick(counts))] for pick in (max, min))
            raise ValueError(
                f"simulation {longest!r} has {max(counts)} rows and {shortest!r} has {min(counts)}; give rows with "
                "empty entries for what was not observed, or a file for each simulation (a list in data.path); "
                'kind = "points" takes simulations at their own times'
            )
        self.axes = "st" if told else "t"
        order = np.argsort(simulation, kind="stable")
        shape = (count, counts[0]) if told else (counts[0],)
        return {name: known[name] if name in known else values[order].reshape(shape) for name, values in read.items()}

    def read(self, name: str, index: Index = ()) -> Array:
        return np.asarray(self._columns[name][index])

    def unit(self, name: str) -> str:
        return self._units[name]


class MatrixReader(ArrayReader):
    """A folder of text files of a matrix each, as `numpy.savetxt` writes them; an array is named by the file's stem."""

    def __init__(self, path: Path, files: Sequence[Path], form: CsvForm | None = None) -> None:
        self._files, self._form = {file.stem: file for file in files}, form
        self._values: dict[str, Array] = {}
        super().__init__(path)

    @staticmethod
    def files_in(folder: Path) -> list[Path]:
        """Return the files of a folder that may hold a matrix each."""
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in MATRICES and file.is_file())

    def _list(self) -> Iterator[tuple[str, Stored]]:
        for name, file in self._files.items():
            try:
                table = read_csv(file, self._form, header=False)
                values = np.stack([table.numbers(column) for column in range(table.width)], axis=1)
            except DataError as error:
                self.refused[name] = error.problems[0].message
                continue
            self._values[name] = values
            self.marks_missing |= bool(np.isnan(values).any())
            yield name, Stored(values.shape, values.dtype)

    def read(self, name: str, index: Index = ()) -> Array:
        return np.asarray(self._values[name][index])

    def files(self, names: Iterable[str]) -> list[Path]:
        return [self._files[name] for name in sorted(set(names))]


def _number_type(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the type of the numbers that are read, None where there are no numbers."""
    parts = [dtype[name] for name in dtype.names or ()]
    if [name[0] for name in dtype.names or ()] == ["r", "i"] and all(part.kind == "f" for part in parts):
        return np.result_type(*parts, np.complex64)
    return dtype if dtype.kind in NUMBERS else None


def is_elsewhere(dataset: h5py.Dataset) -> bool:
    """Return True if the numbers are in another file, which the user did not name."""
    return bool(dataset.is_virtual or dataset.external)


class _NotNumeric(ValueError):
    pass


_REMEDIES = {
    "O": "pickled Python objects, which the engine never reads; save them as numbers, np.asarray(u, dtype=float)",
    "V": "raw bytes without a type, as numpy saves bfloat16; save u.astype('float32')",
    "U": "text, and the engine reads only numbers",
    "S": "text, and the engine reads only numbers",
}


def _npy_header(file: IO[bytes], path: Path) -> Stored:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in NUMBERS + DATES:
        remedy = "records; save each of their fields as an array" if dtype.names else _REMEDIES.get(dtype.kind)
        raise _NotNumeric(f"it holds {dtype}, {remedy or 'and the engine reads only numbers'}")
    return Stored(tuple(shape), dtype)


@contextmanager
def reading(path: Path, name: str | None = None) -> Iterator[None]:
    """Turn whatever a reader raises about a file into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the readers raise many types on damaged files
        text = str(error) or type(error).__name__
        array = "" if name is None else f" ({name!r})"
        raise DataError(f"cannot read {path}{array}: {text.splitlines()[0]}", key=KEY) from error


def open_arrays(path: Path, form: CsvForm | None = None, along: Mapping[str, str] | None = None) -> ArrayReader:
    """Return the reader of a file or folder. Raise DataError if there is none, or none that can be read.

    `form` is that of a text table, and `along` the letters of the axes of its columns of times and positions.
    """
    path = path.absolute()
    if path.is_dir():
        if any(path.glob("*.npy")):
            return NpyReader(path)
        if matrices := MatrixReader.files_in(path):
            return MatrixReader(path, matrices, form)
        raise DataError(f"the folder {path} holds no .npy file{_nearby(path)}", key=KEY)
    if not path.is_file():
        folder = next(parent for parent in path.parents if parent.is_dir())
        raise DataError(f"there is no file {path}{_nearby(folder, path.relative_to(folder).parts[0])}", key=KEY)
    match path.suffix.lower():
        case ".npy":
            return NpyReader(path)
        case ".npz":
            return NpzReader(path)
        case ".mat":
            return Hdf5Reader(path) if h5py.is_hdf5(path) else MatReader(path)
        case suffix if suffix in HDF5:
            return Hdf5Reader(path)
        case suffix if suffix in TABLES:
            return CsvReader(path, form, along)
    told = conversion(path)
    raise DataError(
        f"cannot read {path}: the engine reads arrays from {', '.join(SUFFIXES + TABLES)} files and from folders of "
        f".npy{told and f'; {told}'}",
        key=KEY,
    )


def conversion(path: Path) -> str:
    """Return how to convert a file that the engine does not read; empty where nothing is known."""
    return _CONVERSIONS.get(path.suffix.lower(), "")


def _nearby(folder: Path, name: str = "") -> str:
    """Return, for a message, what a folder holds that could have been meant."""
    try:
        found = [p for p in folder.iterdir() if p.suffix in SUFFIXES or (p.is_dir() and p.name[0] != ".")]
        names = [p.name for p in sorted(found, key=lambda p: (p.is_dir(), p.name))]
    except OSError:
        return ""
    if not names:
        return f"; {folder} holds neither arrays nor folders"
    more = ", ..." if len(names) > 8 else ""
    return f"{did_you_mean(name, names)}; {folder} holds {', '.join(names[:8])}{more}"


def content_hash(files: Iterable[Path]) -> str:
    """Return a hash of the files' content, independent of where they are and when they were written.

    For a file of 256 MB or more, hash its size, its time of change, and 64 pieces of 1 MB spread evenly over it.
    """
    digest = hashlib.sha256()
    for path in files:
        with reading(path), path.open("rb") as file:
            status = path.stat()
            digest.update(os.fsencode(path.name) + f" {status.st_size}\n".encode())
            if status.st_size < WHOLE_HASH_BYTES:
                while block := file.read(_BLOCK):
                    digest.update(block)
                continue
            digest.update(f"{status.st_mtime_ns}\n".encode())
            for i in range(_SAMPLES):
                file.seek(i * max(0, status.st_size - _BLOCK) // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
