"""A reader for fields that PhiFlow wrote, which needs no PhiFlow and executes nothing.

A Scene keeps one field in one `.npz`. Two of its entries, the names of items along a dimension and the boundary, are
pickled Python objects, and a pickle can in general run any code when it is read. PhiFlow writes only plain objects:
None, text, numbers, tuples, lists, dicts, and numpy arrays. The unpickler here builds these itself and nothing else: it
looks up no name that a pickle mentions, and it checks what a pickle says about an array before it makes the array.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from hyco_engine.data.npy import Array, read_array, read_header
from hyco_engine.errors import DataError

ENTRIES = (
    "dim_names", "dim_types", "dim_item_names", "field_type", "lower", "upper", "bounds_item_names", "extrapolation",
    "data",
)  # fmt: skip
OPTIONAL = ("dim_item_names", "bounds_item_names")
"""Entries that older versions of PhiFlow do not write."""
FIELD_TYPES = ("CenteredGrid", "StaggeredGrid")

MAX_PLAIN_BYTES = 2**20
"""The limit for an entry other than the data; in a Scene, such an entry has a few hundred bytes."""
MAX_ITEMS = 10_000
MAX_DEPTH = 16


@attrs.frozen(kw_only=True, eq=False)
class SceneField:
    """One field as PhiFlow stored it.

    `dims` has for each axis of the data (name, type such as "spatial", "channel" or "batch", names of its items or
    None). `data` is None if only the header was read. A StaggeredGrid has one more sample along each spatial axis than
    it has cells; the boundary decides which of the last samples mean something. `extrapolation` is PhiFlow's
    description of the boundary, e.g. `{"type": "periodic"}` or `{"type": "mixed_v2", "dims": {"x-": {...}, ...}}`, in
    plain Python with numpy arrays.
    """

    field_type: str
    dims: tuple[tuple[str, str, tuple[str, ...] | None], ...]
    lower: Array
    """`[d]` or `[]`, float64; `upper` alike."""
    upper: Array
    bounds_item_names: tuple[str, ...]
    extrapolation: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Array | None


def read_scene_npz(path: Path, *, data: bool = True) -> SceneField:
    """Read the field in `path`; with `data=False`, read all but the values.

    Raises DataError, which names the file and the entry, if an entry is missing, damaged, not that of a Scene, larger
    than the free memory, or a pickle of anything but plain containers and numpy arrays.
    """
    with _named_errors(path), zipfile.ZipFile(path) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in ENTRIES if name not in infos and name not in OPTIONAL]
        if missing:
            raise DataError(
                f"{path} is not a field that PhiFlow wrote: it lacks {', '.join(missing)} "
                f"(it has {', '.join(map(repr, sorted(infos)[:12])) or 'nothing'})"
            )
        about = {}
        for name in ENTRIES:
            if name in infos and name != "data":
                with _named_errors(path, name):
                    about[name] = _read_small_entry(archive, infos[name])
        with _named_errors(path, "data"):
            shape, dtype, values = _read_data(archive, infos["data"], wanted=data)
    with _named_errors(path):
        return _field(about, shape, dtype, values)


def load_plain(content: bytes) -> Any:
    """Read the plain object in a pickle: None, bool, int, float, str, bytes, tuple, list, dict, numpy array or number.

    Raises ValueError if the pickle holds anything else, or is larger than such an object needs.
    """
    if len(content) > MAX_PLAIN_BYTES:
        raise ValueError(f"it is a pickle of {len(content)} bytes; at most {MAX_PLAIN_BYTES} are read")
    return _Builder().plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())


# --- the unpickler --------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Call:
    """A call of numpy that a pickle asks for. It is carried out only when it is complete and checked."""

    what: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Callable:
    """A stand-in for a name in a pickle. It holds nothing that a pickle could change."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self._what, arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


_NAMES = {
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): "bytes",
}


# The unpickler written in Python: the one in C allocates as much memory as an index or a length in the pickle says.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        what = _NAMES.get((module, name))
        if what is None:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, but only plain containers and numpy arrays are read"
            )
        return _Callable(what)

    def _bytearray8(self: Any) -> None:
        """Read a bytearray as the base class does, but trust the length only as far as there are bytes."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _bytearray8}


class _Builder:
    """Builds plain objects from what the unpickler returned, up to a limit of number and depth."""

    def __init__(self) -> None:
        self._left = MAX_ITEMS

    def plain(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels or has more than {MAX_ITEMS} items")
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if isinstance(value, bytearray):  # how protocol 5 keeps an array's values
            return bytes(value)
        if type(value) in (tuple, list):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if type(value) is dict:
            return {self.plain(key, depth + 1): self.plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, _Call):
            return self._made(value, depth)
        raise ValueError(f"it holds a {type(value).__name__}, but only plain containers and numpy arrays are read")

    def _made(self, made: _Call, depth: int) -> Any:
        match made:
            case _Call("_reconstruct", (_Callable(), _, _), (_, tuple() as shape, _Call() as dtype, fortran, content)):
                return self._array(shape, dtype, bool(fortran), content, depth)
            case _Call("_frombuffer", (content, _Call() as dtype, tuple() as shape, order), None):
                return self._array(shape, dtype, order == "F", content, depth)
            case _Call("scalar", (_Call() as dtype, content), None):
                return self._array((), dtype, False, content, depth)[()]
            case _Call("encode", (str() as text, "latin1" | b"latin1"), None):
                return text.encode("latin1")
            case _Call("bytes", (), None):
                return b""
        raise ValueError(f"it calls numpy's {made.what!r} in an unknown way")

    def _array(self, shape: tuple[Any, ...], dtype: _Call, fortran: bool, content: Any, depth: int) -> Array:
        if not all(type(length) is int and length >= 0 for length in shape) or len(shape) > 32:
            raise ValueError(f"it holds an array of the impossible shape {shape!r:.100}")
        order: Any = "F" if fortran else "C"
        count = math.prod(shape)
        kind = _dtype(dtype)
        if kind.hasobject:
            items = self.plain(content, depth + 1)
            if not isinstance(items, list) or len(items) != count:
                raise ValueError(f"an array of the shape {shape} does not hold {count} objects")
            array = np.empty(count, object)
            for i, item in enumerate(items):
                array[i] = item
            return array.reshape(shape, order=order)
        content = self.plain(content, depth + 1)
        if not isinstance(content, bytes) or len(content) != count * kind.itemsize:
            raise ValueError(f"an array of the shape {shape} and type {kind} does not hold its bytes")
        return np.frombuffer(content, kind).reshape(shape, order=order).copy()


def _dtype(made: _Call) -> np.dtype[Any]:
    """Read `dtype(code, ...)` with the state `(version, byte order, ...)`: numbers, text or objects, no structures."""
    code = made.arguments[0] if made.what == "dtype" and made.arguments else None
    code = code.decode("ascii") if isinstance(code, bytes) else code
    state = made.state
    order = state[1] if isinstance(state, tuple) and len(state) > 4 and state[2:5] == (None, None, None) else None
    order = order.decode("ascii") if isinstance(order, bytes) else order
    if code in ("O", "O8") and order == "|":
        return np.dtype(object)
    if isinstance(code, str) and code[:1] in tuple("biufU") and code[1:].isdecimal() and order in ("<", ">", "|"):
        return np.dtype(order + code)
    raise ValueError(f"it holds an array of the type {code!r:.50}, but only numbers, text and objects are read")


# --- entries --------------------------------------------------------------------------------------------------------


def _read_small_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """Read an entry other than the data, as plain Python or a small array."""
    if info.file_size > MAX_PLAIN_BYTES:
        raise ValueError(f"it has {info.file_size} bytes; at most {MAX_PLAIN_BYTES} are read")
    content = archive.read(info)
    opened = io.BytesIO(content)
    shape, fortran, dtype = read_header(opened)
    body = content[opened.tell() :]
    count = math.prod(shape)
    if dtype.hasobject:
        value = load_plain(body)
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise ValueError(f"it declares the shape {shape} but holds another")
        return value[()]
    if dtype.kind not in "fiubU" or len(body) != count * dtype.itemsize:
        raise ValueError(f"it declares {dtype} {shape} but holds {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _read_data(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, wanted: bool
) -> tuple[tuple[int, ...], np.dtype[Any], Array | None]:
    with archive.open(info) as opened:
        if wanted:
            values = read_array(opened, info.file_size)
            return values.shape, values.dtype, values
        shape, _, dtype = read_header(opened)
        if opened.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"it declares {dtype} {shape} but has {info.file_size} bytes")
        return shape, dtype, None


def _field(about: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], data: Array | None) -> SceneField:
    field_type = str(np.asarray(about["field_type"])[()])
    if field_type not in FIELD_TYPES:
        raise ValueError(f"it holds a {field_type!r:.50}; only {' and '.join(FIELD_TYPES)} are read")
    names, kinds = _texts(about["dim_names"], "dim_names"), _texts(about["dim_types"], "dim_types")
    items = about.get("dim_item_names")
    items = [None] * len(shape) if items is None else list(np.atleast_1d(np.asarray(items, dtype=object)))
    if not len(names) == len(kinds) == len(items) == len(shape):
        raise ValueError(f"it names {len(names)} dimensions and {len(kinds)} types, but its data has {len(shape)} axes")
    named = tuple(None if item is None else _texts(item, "dim_item_names") for item in items)
    extrapolation = about["extrapolation"]
    if not isinstance(extrapolation, dict) or not isinstance(extrapolation.get("type"), str):
        raise ValueError("its extrapolation does not describe a boundary")
    bounds = about.get("bounds_item_names")
    spatial = tuple(name for name, kind in zip(names, kinds, strict=True) if kind == "spatial")
    unnamed = bounds is None or np.ndim(bounds) == 0
    return SceneField(
        field_type=field_type,
        dims=tuple(zip(names, kinds, named, strict=True)),
        lower=_corner(about["lower"], "lower"),
        upper=_corner(about["upper"], "upper"),
        bounds_item_names=spatial if unnamed else _texts(bounds, "bounds_item_names"),
        extrapolation=extrapolation,
        shape=shape,
        dtype=dtype,
        data=data,
    )


def _texts(values: Any, what: str) -> tuple[str, ...]:
    texts = tuple(np.asarray(values, dtype=object).reshape(-1).tolist())
    if not all(isinstance(text, str) and text.isidentifier() for text in texts):
        raise ValueError(f"{what} holds {texts!r:.100}, which are not names")
    return texts


def _corner(values: Any, what: str) -> Array:
    corner = np.asarray(values)
    if corner.dtype.kind not in "fiu" or corner.ndim > 1 or not np.isfinite(corner).all():
        raise ValueError(f"{what} is not a corner of a box")
    return corner.astype(np.float64)


@contextmanager
def _named_errors(path: Path, entry: str | None = None) -> Iterator[None]:
    """Turn any error within into a DataError that names the file and the entry."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except Exception as error:  # damaged archives and pickles raise many kinds, MemoryError and RecursionError too
        text = (str(error) or type(error).__name__).splitlines()[0]
        place = "" if entry is None else f", entry {entry!r}"
        raise DataError(f"cannot read {path}{place}: {text}") from error
