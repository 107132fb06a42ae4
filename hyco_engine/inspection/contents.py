"""The arrays in files of unknown origin: names, shapes and, if they fit into memory, values."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import attrs
import h5py
import numpy as np
import scipy.io

from hyco_engine.data.npy import Array, read_array, read_header
from hyco_engine.errors import DataError

MAX_VALUES = 2**27
"""The number of values above which an array is described by its header alone."""
NUMBERS = "fiub"
_MATLAB = {"double": "f8", "single": "f4", "logical": "?"}


@attrs.frozen(kw_only=True, eq=False)
class Stored:
    """An array of real numbers; `read` returns its values, or None if there are too many."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    read: Callable[[], Array | None]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {list(self.shape)}"


def arrays_in(path: Path) -> dict[str, Stored]:
    """Return the arrays of a `.npy`, `.npz`, `.mat` or HDF5 file, or of a folder. Raises DataError if it is damaged."""
    try:
        if path.is_dir():
            return {name: stored for file in sorted(path.glob("*.npy")) for name, stored in _npy(file).items()}
        if h5py.is_hdf5(path):
            return _hdf5(path, reverse=path.suffix == ".mat")
        return {".npy": _npy, ".npz": _npz, ".mat": _mat}[path.suffix](path)
    except Exception as error:  # the readers raise many kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path}: {reason}") from error


def _small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= MAX_VALUES


def _npy(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        shape, _, dtype = read_header(file)

    def read() -> Array | None:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) if _small(shape) else None

    return {path.stem: Stored(name=path.stem, shape=shape, dtype=dtype, read=read)} if dtype.kind in NUMBERS else {}


def _npz(path: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as file:
                shape, _, dtype = read_header(file)
            if dtype.kind in NUMBERS:
                name = info.filename.removesuffix(".npy")
                found[name] = Stored(name=name, shape=shape, dtype=dtype, read=_reader(path, name, shape))
    return found


def _reader(path: Path, name: str, shape: tuple[int, ...]) -> Callable[[], Array | None]:
    def read() -> Array | None:
        if not _small(shape):
            return None
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
                return read_array(file, archive.getinfo(f"{name}.npy").file_size)
        values: Array = scipy.io.loadmat(path, variable_names=[name])[name]
        return values

    return read


def _mat(path: Path) -> dict[str, Stored]:
    found = {}
    for name, shape, kind in scipy.io.whosmat(path):
        dtype = _MATLAB.get(kind) or (kind if kind.startswith(("int", "uint")) else None)
        if dtype:
            shape = tuple(shape)
            found[name] = Stored(name=name, shape=shape, dtype=np.dtype(dtype), read=_reader(path, name, shape))
    return found


def _hdf5(path: Path, *, reverse: bool) -> dict[str, Stored]:
    found: dict[str, Stored] = {}

    def reader(name: str, shape: tuple[int, ...]) -> Callable[[], Array | None]:
        def read() -> Array | None:
            if not _small(shape):
                return None
            with h5py.File(path, "r") as file:
                values = np.asarray(file[name][()])
            return values.T if reverse else values

        return read

    # visits only hard links, so that no name leads out of the file
    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in NUMBERS and not (item.is_virtual or item.external):
            shape = tuple(item.shape[::-1] if reverse else item.shape)
            found[name] = Stored(name=name, shape=shape, dtype=item.dtype, read=reader(name, shape))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found
