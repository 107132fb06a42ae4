"""Readers for `.npy` and `.npz` files of unknown origin: no declared size is trusted, nothing in them is executed."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hyco_engine.untrusted import open_regular, refuse_large

Array = npt.NDArray[Any]

_PIECE = 2**24


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """Return the array of a `.npy` file, or the arrays of a `.npz` file by name.

    Raises OSError or ValueError; the message says what is wrong, and the caller adds the name of the file.
    """
    with open_regular(path) as file:
        if file.read(2) != b"PK":
            size = os.fstat(file.fileno()).st_size
            file.seek(0)
            return read_array(file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                refuse_large(sum(info.file_size for info in archive.infolist()))
                return {info.filename.removesuffix(".npy"): _entry(archive, info) for info in archive.infolist()}
        except OSError:
            raise
        except Exception as error:  # zipfile raises many kinds on damaged archives
            raise ValueError(str(error) or type(error).__name__) from error


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as opened:
        try:
            return read_array(opened, info.file_size)
        except ValueError as error:
            raise ValueError(f"entry {info.filename!r}: {error}") from error


def read_array(file: IO[bytes], file_size: int) -> Array:
    """Return the array of real numbers at the beginning of `file`, which has `file_size` bytes. Raises ValueError."""
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "fiub":
        raise ValueError(f"it holds {dtype}, and the engine reads only real numbers, never pickled objects")
    size = math.prod(shape) * dtype.itemsize
    if file.tell() + size != file_size:
        raise ValueError(f"it declares {size} bytes of numbers, but has {file_size - file.tell()}")
    refuse_large(size)
    values = np.empty(size, np.uint8)
    done = 0
    while part := file.read(min(_PIECE, max(1, size - done))):
        values[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if done != size:
        raise ValueError(f"it ends after {done} of {size} bytes")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array in numpy's format: (shape, whether in Fortran order, type). Raises ValueError."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(length < 0 for length in shape):
        raise ValueError(f"it declares the shape {shape}")
    return tuple(shape), bool(fortran), dtype
