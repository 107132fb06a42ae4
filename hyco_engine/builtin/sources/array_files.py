"""Reading of named arrays from files of unknown origin: no content is executed, every declared size is checked."""

from __future__ import annotations

import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs
import h5py
import numpy as np
import numpy.typing as npt
import scipy.io

from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.resources import free_memory

Array = npt.NDArray[Any]
Index = tuple[int | slice, ...]

KEY = "data.path"
SUFFIXES = (".npy", ".npz", ".mat")
WHOLE_HASH_BYTES = 2**28
_SAMPLES = 64
_BLOCK = 2**20


@attrs.frozen
class Stored:
    """An array as its file declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class ArrayReader(ABC):
    """Reads named arrays. `squeezes` is true if the format adds or drops axes of length 1, as MATLAB's do."""

    squeezes = False

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

    def release(self) -> None:  # noqa: B027 - not every reader holds arrays
        """Release the arrays that were read."""

    def files(self, names: Iterable[str]) -> list[Path]:
        """Return the files that hold these arrays."""
        return [self.path]

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

    def _whole(self, name: str) -> None:
        """Raise DataError if the array does not fit into memory as a whole."""
        stored = self.arrays[name]
        size = int(np.prod(stored.shape, dtype=object)) * stored.dtype.itemsize
        free = free_memory()
        if size > free:
            raise DataError(
                f"{self.path}: {name!r} {stored.shape} takes {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory "
                f"are free; save it as .npy, which the engine reads piece by piece",
                key=KEY,
            )


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
                declared = opened.tell() + int(np.prod(stored.shape, dtype=object)) * stored.dtype.itemsize
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


class NpzReader(HoldingReader):
    """A `.npz` archive; an array is read as a whole."""

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
                    size = int(np.prod(stored.shape, dtype=object)) * stored.dtype.itemsize
                    if opened.tell() + size != info.file_size:
                        raise ValueError(
                            f"the entry {info.filename!r} declares {size} bytes and holds {info.file_size}"
                        )
                yield info.filename.removesuffix(".npy"), stored

    def _open(self, name: str) -> Array:
        self._whole(name)
        with np.load(self.path, allow_pickle=False) as archive:
            array: Array = archive[name]
            return array


class MatReader(HoldingReader):
    """A `.mat` file up to version 7.2; an array is read as a whole."""

    squeezes = True

    def _list(self) -> Iterator[tuple[str, Stored]]:
        numeric = {"double": "f8", "single": "f4", "logical": "?"}
        for name, shape, kind in scipy.io.whosmat(self.path):
            dtype = numeric.get(kind) or (kind if kind.startswith(("int", "uint")) else None)
            if dtype:
                yield name, Stored(tuple(shape), np.dtype(dtype))

    def _open(self, name: str) -> Array:
        self._whole(name)
        array: Array = scipy.io.loadmat(self.path, variable_names=[name])[name]
        return array


class Mat73Reader(ArrayReader):
    """A `.mat` file of version 7.3, which is HDF5 with all axes reversed; read piece by piece."""

    squeezes = True

    def _list(self) -> Iterator[tuple[str, Stored]]:
        found: dict[str, Stored] = {}

        # visititems follows hard links alone, so no name leads out of the file
        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and not is_elsewhere(item):
                found[name] = Stored(tuple(item.shape[::-1]), item.dtype)

        with h5py.File(self.path, "r") as file:
            file.visititems(visit)
        return iter(found.items())

    def read(self, name: str, index: Index = ()) -> Array:
        with reading(self.path, name), h5py.File(self.path, "r") as file:
            index = (*index, *(slice(None) for _ in range(len(self.arrays[name].shape) - len(index))))
            return np.asarray(file[name][index[::-1]]).T


def is_elsewhere(dataset: h5py.Dataset) -> bool:
    """Return True if the numbers are in another file, which the user did not name."""
    return bool(dataset.is_virtual or dataset.external)


class _NotNumeric(ValueError):
    pass


def _npy_header(file: IO[bytes], path: Path) -> Stored:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise _NotNumeric(f"it holds {dtype}, and the engine reads only real numbers, never pickled objects")
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


def open_arrays(path: Path) -> ArrayReader:
    """Return the reader of a file or folder. Raise DataError if there is none, or none that can be read."""
    path = path.absolute()
    if path.is_dir():
        if not any(path.glob("*.npy")):
            raise DataError(f"the folder {path} holds no .npy file{_nearby(path)}", key=KEY)
        return NpyReader(path)
    if not path.is_file():
        folder = next(parent for parent in path.parents if parent.is_dir())
        raise DataError(f"there is no file {path}{_nearby(folder, path.relative_to(folder).parts[0])}", key=KEY)
    if path.suffix == ".npy":
        return NpyReader(path)
    if path.suffix == ".npz":
        return NpzReader(path)
    if path.suffix == ".mat":
        return Mat73Reader(path) if h5py.is_hdf5(path) else MatReader(path)
    raise DataError(
        f"cannot read {path}: the engine reads arrays from {', '.join(SUFFIXES)} files and from folders of .npy",
        key=KEY,
    )


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
            digest.update(f"{path.name} {status.st_size}\n".encode())
            if status.st_size < WHOLE_HASH_BYTES:
                while block := file.read(_BLOCK):
                    digest.update(block)
                continue
            digest.update(f"{status.st_mtime_ns}\n".encode())
            for i in range(_SAMPLES):
                file.seek(i * max(0, status.st_size - _BLOCK) // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
