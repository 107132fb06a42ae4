"""The folder of one run, a tracker that writes files. It holds
RUN/spec.toml environment.json log.txt metrics.jsonl summary.json weights/ figures/ checkpoints/ checksums.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from hyco_engine.errors import RunError, SpecError
from hyco_engine.interfaces import Tracker
from hyco_engine.runs.environment import ENVIRONMENT
from hyco_engine.runs.files import cannot_write, dump_json, is_temporary, numbered_folder, write_atomic
from hyco_engine.runs.lock import GUARD
from hyco_engine.runs.metrics import METRICS, SUMMARY, metrics_line
from hyco_engine.runs.reading import SPEC
from hyco_engine.runs.seal import SEAL, seal
from hyco_engine.settings import check_folder_name
from hyco_engine.untrusted import read_regular

LOG = "log.txt"
LOGGER = "hyco_engine"


def tidy(folder: Path) -> None:
    """Remove the temporary files of a killed run, and the summary and checksums of its earlier end."""
    for path in [*folder.iterdir(), *folder.glob("*/*")]:
        if is_temporary(path) or path in (folder / SUMMARY, folder / SEAL):
            with suppress(OSError):
                path.unlink()


class RunFolder(Tracker):
    """A run folder; `create` makes one. Metrics and log lines are written at once, all other files replaced atomically.

    log.txt holds the tracker's events and, from `started` to `finished`, the lines that this thread logs under
    `hyco_engine` at the level set there. The level belongs to the host program and is not changed.
    """

    def __init__(self, path: Path, *, made: bool = True) -> None:
        self.path = path
        self._made = made
        self._discarded = False
        self._start = time.monotonic()
        self._metrics: IO[bytes] | None = None
        # size, lines and hash of the content of metrics.jsonl
        self._digest = hashlib.sha256()
        self._size = self._lines = 0
        self._elapsed = 0.0
        self._log: logging.FileHandler | None = None
        self._has_summary = False

    @classmethod
    def create(cls, runs: Path, name: str, run_dir: Path | None = None) -> RunFolder:
        """Create `<runs>/<name>-<n>` with the next n, or `run_dir`, which must be new or empty.

        Two processes never get the same folder. Raise SpecError where the folder cannot be used, ValueError for a name
        that leads out of `runs`.
        """
        check_folder_name(name)
        if run_dir is None:
            return cls(numbered_folder(runs, name))
        made = not run_dir.exists()
        return cls(_own_folder(run_dir), made=made)

    @property
    def exists(self) -> bool:
        """Return False once the folder is discarded."""
        return not self._discarded

    def discard(self) -> None:
        """Remove the folder of a run that never began; a folder that the user made is left, empty.

        Events that come afterwards are not written.
        """
        self.close()
        self._discarded = True
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != GUARD or os.name != "nt":
                entry.unlink()
        if self._made:
            with suppress(OSError):  # on Windows the lock's file is open, and goes when the lock is freed
                self.path.rmdir()

    # --- files ----------------------------------------------------------------------------------------------------

    def write_spec(self, text: str) -> Path:
        """Write spec.toml, the resolved spec."""
        return self._write(SPEC, text)

    def write_environment(self, environment: Mapping[str, Any]) -> Path:
        """Write environment.json, the result of `hyco_engine.runs.environment.describe_environment`."""
        return self._write(ENVIRONMENT, dump_json(environment) + "\n")

    def keep(self, name: str, path: Path) -> Path:
        """Write a copy of a file. Raise RunError where it cannot be read."""
        try:
            return self._write(name, read_regular(path))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot keep a copy of {path}: {error}") from error

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write summary.json."""
        path = self._write(SUMMARY, dump_json(summary) + "\n")
        self._has_summary = True
        return path

    def save_weights(
        self, name: str, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write weights/<name>.safetensors. Equal weights and metadata give equal bytes."""
        check_folder_name(name)
        return self._write(f"weights/{name}.safetensors", weights_bytes(state_dict, metadata or {}))

    def remove_weights(self, name: str) -> None:
        """Remove weights/<name>.safetensors, which an earlier end of the run may have left."""
        (self.path / "weights" / f"{name}.safetensors").unlink(missing_ok=True)

    def _write(self, name: str, content: bytes | str) -> Path:
        path = self.path / name
        write_atomic(path, content)
        return path

    # --- going on -------------------------------------------------------------------------------------------------

    def metrics_position(self) -> dict[str, Any]:
        """Return `bytes`, `lines` and `sha256` of the content of metrics.jsonl, all of which is on the disk."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        return {"bytes": self._size, "lines": self._lines, "sha256": self._digest.hexdigest()}

    def rewind(self, size: int, elapsed: float) -> None:
        """Continue after the first `size` bytes of metrics.jsonl, `elapsed` seconds after the start; drop the rest."""
        tidy(self.path)
        path = self.path / METRICS
        data = b""
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(size)
        self._size, self._lines, self._digest = len(data), data.count(b"\n"), hashlib.sha256(data)
        self._elapsed = elapsed
        if path.is_file():
            os.truncate(path, size)

    # --- log ------------------------------------------------------------------------------------------------------

    def log(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Write a line to log.txt, whatever level the logger `hyco_engine` has, followed by `error`'s traceback."""
        if self._discarded:
            return
        handler = self._log or self._open_log()
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        handler.handle(logging.LogRecord(LOGGER, level, "", 0, message, None, exc_info))
        if self._log is None:
            handler.close()

    def _open_log(self) -> logging.FileHandler:
        try:
            handler = _LogFile(self.path / LOG, encoding="utf-8")
        except OSError as error:
            raise cannot_write(self.path / LOG, error) from error
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        return handler

    def close(self) -> None:
        """Close the files and detach from the logger. It may be called twice; `finished` calls it."""
        if self._log is not None:
            logging.getLogger(LOGGER).removeHandler(self._log)
            with suppress(OSError):
                self._log.close()
            self._log = None
        if self._metrics is not None:
            # the writer reports a full disk, so closing need not
            with suppress(OSError):
                self._metrics.close()
            self._metrics = None

    # --- tracker --------------------------------------------------------------------------------------------------

    def started(self, info: Mapping[str, Any]) -> None:
        self._start = time.monotonic() - self._elapsed
        if self._log is None:
            self._log = self._open_log()
            # another engine in this process runs in its own thread and has its own log
            thread = threading.get_ident()
            self._log.addFilter(lambda record: record.thread == thread)
            logging.getLogger(LOGGER).addHandler(self._log)
        if info.get("spec") is not None:
            self.write_spec(info["spec"])
        self.log(logging.INFO, f"run {info.get('name') or self.path.name} in {self.path}")
        for note in info.get("notes") or ():
            self.log(logging.INFO, note)

    def phase_started(self, record: Mapping[str, Any]) -> None:
        self.log(logging.INFO, f"{_phase(record)} started{_details(record)}")

    def metrics(self, record: Mapping[str, Any]) -> None:
        line = (metrics_line(record, time.monotonic() - self._start) + "\n").encode()
        try:
            if self._metrics is None:
                self._metrics = (self.path / METRICS).open("ab")
            self._metrics.write(line)
            self._metrics.flush()
        except OSError as error:
            raise cannot_write(self.path / METRICS, error) from error
        self._digest.update(line)
        self._size += len(line)
        self._lines += 1

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        self.log(logging.INFO, f"{_phase(record)} ended{_details(record)}")

    def noted(self, message: str) -> None:
        self.log(logging.INFO, message)

    def warned(self, message: str) -> None:
        self.log(logging.WARNING, message)

    def artifact(self, path: Path) -> None:
        self.log(logging.INFO, f"wrote {path}")

    def finished(self, summary: Mapping[str, Any]) -> None:
        try:
            if self.exists and not self._has_summary:
                self.write_summary(summary)
            error = f": {summary['error']}" if summary.get("error") else ""
            self.log(logging.INFO, f"{summary.get('status', 'ended')}{error}")
        finally:
            self.close()
        if self.exists and self.path.is_dir():
            seal(self.path)


class FolderElsewhere(RunFolder):
    """The run folder as another process of the run has it, which alone writes to it."""

    @property
    def exists(self) -> bool:
        """Return False: for this process there is no folder."""
        return False

    def discard(self) -> None:
        pass

    def rewind(self, size: int, elapsed: float) -> None:
        pass

    def log(self, level: int, message: str, error: BaseException | None = None) -> None:
        pass

    def started(self, info: Mapping[str, Any]) -> None:
        pass

    def metrics(self, record: Mapping[str, Any]) -> None:
        pass

    def _write(self, name: str, content: bytes | str) -> Path:
        return self.path / name


def _own_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        empty = next(path.iterdir(), None) is None
        if empty:
            # the process that creates the log owns the folder
            (path / LOG).open("x").close()
            return path
    except FileExistsError:
        if not path.is_dir():
            raise SpecError(f"{path} is not a folder", key="--run-dir") from None
    except OSError as error:
        raise SpecError(f"cannot make the run folder {path}: {error.strerror}", key="--run-dir") from error
    raise SpecError(
        f"the run folder {path} is not empty, and results are never overwritten; resume its run with --resume, name a "
        "new folder, or leave out --run-dir",
        key="--run-dir",
    )


def weights_bytes(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the weights as safetensors, with sorted keys, also in the metadata, which safetensors does not sort."""
    from safetensors.torch import save

    for key, text in metadata.items():
        if not isinstance(text, str):
            raise TypeError(f"the weights' metadata {key!r} must be text, not {type(text).__name__}")
    # each tensor is copied, since safetensors refuses tied weights, which share memory
    tensors = {name: state_dict[name].detach().cpu().contiguous().clone() for name in sorted(state_dict)}
    data = save(tensors)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    head = json.dumps(header, separators=(",", ":")).encode()
    # the format requires 8-byte alignment of the tensors
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data[end:]


class _LogFile(logging.FileHandler):
    """A log file that drops lines that cannot be written; metrics and checkpoints report a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing; the base class would print a traceback on the terminal."""


class _Formatter(logging.Formatter):
    default_msec_format = "%s.%03d"


def _phase(record: Mapping[str, Any]) -> str:
    cycle = record.get("cycle")
    return f"{record.get('phase')}" if cycle is None else f"cycle {cycle} {record.get('phase')}"


def _details(record: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in record.items()
        if name not in ("cycle", "phase") and value is not None
    ]
    return f": {', '.join(parts)}" if parts else ""
