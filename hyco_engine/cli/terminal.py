"""A run's output: progress in place on a terminal, plain lines elsewhere. Results go to stdout."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from hyco_engine.cli.layout import PLAYERS, number, summary_lines
from hyco_engine.cli.progress import Bars
from hyco_engine.interfaces import Tracker
from hyco_engine.report.numbers import seconds

HEARTBEAT_S = 60.0


class Terminal(Tracker):
    """Prints a run's progress and results.

    With `quiet` it prints warnings and one last line only. `results` is false with --json, and stdout then gets none.
    """

    def __init__(self, *, quiet: bool = False, results: bool = True, err: TextIO | None = None) -> None:
        self._quiet = quiet
        self._results = results
        self._err = err or sys.stderr
        live = not quiet and self._err.isatty() and os.environ.get("TERM") != "dumb"
        self._bars = Bars(self._err) if live else None
        self._folder: Path | None = None
        self._cycles: int | None = None
        # the values of the current phase, and the latest ones of the run
        self._values: dict[str, float] = {}
        self._latest: dict[str, str] = {}
        self._pending: tuple[Mapping[str, Any], float] | None = None
        self._told: set[str] = set()
        self._phase_start = self._last_line = time.monotonic()

    def started(self, info: Mapping[str, Any]) -> None:
        self._folder = info.get("folder")
        self._cycles = _cycles(info.get("spec"))
        if not self._quiet:
            self._say(f"run {info.get('name')}" + (f" in {self._folder}" if self._folder else ""))
        for note in info.get("notes") or ():
            self._say(note)
        if self._bars is not None:
            self._bars.start()

    def phase_started(self, record: Mapping[str, Any]) -> None:
        if not _measures(record):
            self._end_line()
            self._values = {}
        self._phase_start = self._last_line = time.monotonic()
        if self._bars is not None:
            self._bars.phase(self._title(record), record.get("total"), unit(record))

    def progress(self, record: Mapping[str, Any]) -> None:
        if self._bars is not None:
            self._bars.progress(record["done"], record.get("total"))
        elif not self._quiet and time.monotonic() - self._last_line >= HEARTBEAT_S:
            self._last_line = time.monotonic()
            self._say(f"{self._title(record)}  {_pace(record, time.monotonic() - self._phase_start)}")

    def metrics(self, record: Mapping[str, Any]) -> None:
        self._values |= {name: value for name, value in record.items() if isinstance(value, int | float)}
        player = str(record.get("phase")).removeprefix("train_")
        for name, text in _shown(self._values):
            if name.startswith("val/"):
                # an error belongs to the model that was trained, and stays visible while the other one trains
                name, text = f"{player}/{name}", f"{PLAYERS.get(player, player)} {text.removeprefix('val ')}"
            self._latest[name] = text
        if self._bars is not None:
            self._bars.status("  ".join(self._latest.values()))
        if any(name.startswith("val/") for name in record):
            self._end_line()

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        if self._bars is not None:
            self._bars.phase("", None, "")
        if not _measures(record):
            self._pending = record, record.get("seconds") or 0.0

    def _end_line(self) -> None:
        """Print the line of a phase, once it is clear whether the trained model is measured."""
        if self._pending is None:
            return
        (record, elapsed), self._pending = self._pending, None
        values = [text for _, text in _shown(self._values)]
        # on a terminal only lines with results stay
        if not self._quiet and (self._bars is None or values):
            self._say("  ".join([self._title(record), seconds(elapsed), *values]))

    def noted(self, message: str) -> None:
        if not self._quiet:
            self._say(message)

    def warned(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._say(f"warning: {message}")

    def finished(self, summary: Mapping[str, Any]) -> None:
        self._end_line()
        self.close()
        total = seconds((summary.get("timings") or {}).get("total_s") or 0.0)
        # a run that never began leaves no folder
        kept = self._folder is not None and (self._folder / "summary.json").exists()
        where = f" in {self._folder}" if kept else ""
        if (status := summary.get("status")) != "completed":
            self._say(f"{status} after {total}" + (f"; the results so far are{where}" if kept else ""))
            if kept and self._folder is not None and (self._folder / "checkpoints").is_dir():
                from hyco_engine.runs.resuming import resume_command

                self._say(f"to resume it: {resume_command(self._folder)}")
        elif self._results:
            line = f"completed in {total}{where}"
            lines = [line] if self._quiet else [line, *summary_lines(summary, self._folder)]
            click.echo("\n".join(lines))

    def record(self, error: BaseException) -> Path | None:
        """Append the traceback to the run's log and return its path; None without a run folder that can be written."""
        if self._folder is None:
            return None
        path = Path(self._folder) / "log.txt"
        try:
            with path.open("a", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
        except OSError:
            return None
        return path

    def close(self) -> None:
        """Restore the terminal. It may be called twice."""
        if self._bars is not None:
            self._bars.stop()

    def _say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.say(text)
        else:
            click.echo(text, file=self._err)

    def _title(self, record: Mapping[str, Any]) -> str:
        name = str(record.get("phase")).replace("_", " ")
        cycle = record.get("cycle")
        if cycle is None:
            return name
        return f"cycle {cycle + 1}/{self._cycles}  {name}" if self._cycles else f"cycle {cycle + 1}  {name}"


def _measures(record: Mapping[str, Any]) -> bool:
    """Return True if a phase only measures the model that the phase before it trained."""
    return record.get("phase") == "evaluate" and record.get("cycle") is not None


def _shown(values: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return (metric, text) for the loss, the overall error and at most four parameters."""
    names = {"train/loss": "loss", "val/nrmse": "val nrmse", "val/loss": "val loss"}
    found = [(name, f"{text} {number(values[name])}") for name, text in names.items() if name in values]
    parameters = [name for name in values if name.startswith("param/")]
    return found + [(name, f"{name[6:]} {number(values[name])}") for name in parameters[:4]]


def unit(record: Mapping[str, Any]) -> str:
    """Return the name of the items that a phase counts."""
    phase = str(record.get("phase"))
    return "epochs" if phase.startswith("train") else "samples" if phase.startswith("generate") else ""


def _pace(record: Mapping[str, Any], elapsed: float) -> str:
    done, total = record["done"], record.get("total")
    rate = done / elapsed if elapsed > 0 else 0.0
    text = f"{done}{f' of {total}' if total else ''} {unit(record)}".strip() + f", {rate:.3g}/s"
    if not total or rate <= 0:
        return text
    # training ends earlier where it converges, or where held-out errors fall no more
    most = "at most " if unit(record) == "epochs" else ""
    return f"{text}, {most}{seconds((total - done) / rate)} left"


def _cycles(spec: str | None) -> int | None:
    import tomllib

    try:
        value = tomllib.loads(spec or "").get("run", {}).get("cycles")
    except tomllib.TOMLDecodeError:
        return None
    return value if isinstance(value, int) else None


class _ToTerminal(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.warned(record.getMessage())


@contextmanager
def library_warnings(terminal: Terminal) -> Iterator[None]:
    """Print each warning of a library as one line, on the terminal and in the run's log."""
    logger = logging.getLogger("hyco_engine")
    handler, level = _ToTerminal(terminal), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        logger.warning("%s (%s, %s:%d)", message, category.__name__, filename, lineno)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
