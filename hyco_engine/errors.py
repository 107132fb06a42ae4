"""The errors that a user can meet. Each one says what happened, where, with which values, and what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Problem:
    """One mistake and its place; unknown parts of the place are None."""

    message: str
    file: Path | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else str(self.file) if self.line is None else f"{self.file}:{self.line}"
        head = ": ".join(part for part in (place, self.key) if part)
        return f"{head}: {self.message}" if head else self.message


class HycoError(Exception):
    """The base of all errors that the command line shows without a traceback.

    `exit_code` is the exit code of the command line. `problems` holds one entry per mistake.
    """

    exit_code = 1

    def __init__(self, message: str | Iterable[Problem], *, key: str | None = None) -> None:
        if isinstance(message, str):
            self.problems: tuple[Problem, ...] = (Problem(message=message, key=key),)
        else:
            self.problems = tuple(message)
        super().__init__("\n".join(map(str, self.problems)))


class SpecError(HycoError):
    """The spec, an override or a command-line argument is wrong."""

    exit_code = 2


class DataError(HycoError):
    """The data that the spec names is missing, damaged, or does not fit the spec."""

    exit_code = 2


class PluginError(HycoError):
    """A plugin does not keep its contract; the message names its distribution and version."""

    exit_code = 3


class RunError(HycoError):
    """The run failed after it had started (divergence, a full disk, ...)."""

    exit_code = 1


_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def how_to_write(error: OSError, elsewhere: str = "choose another folder") -> str:
    """Return what helps against a failed write, by its cause; `elsewhere` says how to name another folder."""
    if error.errno in _FULL:
        return f"free space or {elsewhere}"
    if error.errno in _FORBIDDEN:
        return f"allow writing there or {elsewhere}"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    return elsewhere
