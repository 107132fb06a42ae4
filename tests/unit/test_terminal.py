"""The output of a run on a terminal, in a file, and with --quiet."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hyco_engine.cli import terminal as module
from hyco_engine.cli.layout import metrics_lines, plan_lines, summary_lines, table
from hyco_engine.cli.terminal import Terminal, library_warnings
from hyco_engine.report.numbers import seconds, size

SPEC = "[run]\ncycles = 2\n"
DONE = {"status": "completed", "timings": {"total_s": 3.25}}


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(tracker: Terminal, folder: Path | None = None, summary: Mapping[str, Any] = DONE) -> None:
    """Send a cycle of a run to the terminal, event by event as the engine does."""
    tracker.started({"name": "quick", "folder": folder, "spec": SPEC})
    tracker.phase_started({"cycle": None, "phase": "prepare_data", "total": None})
    tracker.phase_ended({"cycle": None, "phase": "prepare_data", "seconds": 0.25})
    for player, teacher, loss in (("synthetic", "physical", 0.5), ("physical", "synthetic", 0.125)):
        generate = {"cycle": 0, "phase": f"generate_{teacher}"}
        tracker.phase_started({**generate, "total": 4})
        tracker.progress({**generate, "done": 4, "total": 4})
        tracker.phase_ended({**generate, "seconds": 1.0})
        train = {"cycle": 0, "phase": f"train_{player}"}
        tracker.phase_started({**train, "total": 2})
        for epoch in (1, 2):
            own = {"param/nu": 0.01 * epoch} if player == "physical" else {}
            tracker.metrics({**train, "epoch": epoch, "step": epoch, "train/loss": loss / epoch, **own})
            tracker.progress({**train, "done": epoch, "total": 2})
        tracker.phase_ended({**train, "seconds": 62.0})
        tracker.phase_started({"cycle": 0, "phase": "evaluate", "total": 1})
        tracker.phase_ended({"cycle": 0, "phase": "evaluate", "seconds": 0.1})
        tracker.metrics({**train, "epoch": 2, "step": 2, "val/nrmse": loss / 10, "val/nrmse/u": loss / 10})
        tracker.warned("mind the gap")
    tracker.finished(summary)


LINES = [
    "run quick",
    "prepare data  0.2 s",
    "cycle 1/2  generate physical  1.0 s",
    "cycle 1/2  train synthetic  1 min 02 s  loss 0.25  val nrmse 0.05",
    "warning: mind the gap",
    "cycle 1/2  generate synthetic  1.0 s",
    "cycle 1/2  train physical  1 min 02 s  loss 0.0625  val nrmse 0.0125  nu 0.02",
]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    err = io.StringIO()
    tell(Terminal(err=err))
    assert err.getvalue().splitlines() == LINES
    assert capsys.readouterr().out.splitlines() == [
        "completed in 3.2 s",
        "learned   the surrogate; no physics",
        "errors    not measured: no validation data",
        "time      3.2 s",
    ]


def test_quiet_tells_warnings_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    err = Tty()
    tell(Terminal(quiet=True, err=err))
    assert err.getvalue() == "warning: mind the gap\n"
    assert capsys.readouterr().out == "completed in 3.2 s\n"


def test_results_can_be_left_to_others(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Terminal(results=False, err=io.StringIO()))
    assert capsys.readouterr().out == ""


def test_a_run_that_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = io.StringIO()
    tell(Terminal(err=err), tmp_path, DONE | {"status": "failed"})
    assert err.getvalue().splitlines()[-1] == "failed after 3.2 s"
    (tmp_path / "summary.json").touch()
    tell(Terminal(err=err), tmp_path, DONE | {"status": "failed"})
    assert err.getvalue().splitlines()[-1] == f"failed after 3.2 s; the results so far are in {tmp_path}"
    assert capsys.readouterr().out == ""


def test_a_phase_that_is_not_measured_has_its_line_too() -> None:
    err = io.StringIO()
    tracker = Terminal(err=err)
    for cycle in (0, 1):
        tracker.phase_started({"cycle": cycle, "phase": "train_synthetic", "total": 1})
        tracker.metrics({"cycle": cycle, "phase": "train_synthetic", "train/loss": 0.5})
        tracker.phase_ended({"cycle": cycle, "phase": "train_synthetic", "seconds": 1.0})
    tracker.finished({"status": "interrupted", "timings": {"total_s": 2.0}})
    assert err.getvalue().splitlines() == [
        "cycle 1  train synthetic  1.0 s  loss 0.5",
        "cycle 2  train synthetic  1.0 s  loss 0.5",
        "interrupted after 2.0 s",
    ]


def test_long_phases_give_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    err = io.StringIO()
    tracker = Terminal(err=err)
    tracker.started({"name": "quick", "folder": None, "spec": SPEC})
    train = {"cycle": 1, "phase": "train_synthetic", "total": 100}
    tracker.phase_started(train)
    for second in range(150):
        now = 100.0 + second
        tracker.progress({**train, "done": second // 4})
    assert err.getvalue().splitlines() == [
        "run quick",
        "cycle 2/2  train synthetic  15 of 100 epochs, 0.25/s, at most 5 min 40 s left",
        "cycle 2/2  train synthetic  30 of 100 epochs, 0.25/s, at most 4 min 40 s left",
    ]


class TestTerminal:
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)

    def test_progress_in_place(self, capsys: pytest.CaptureFixture[str]) -> None:
        err = Tty()
        tell(Terminal(err=err))
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue()).replace("\r", "\n")
        assert "cycle 1/2  train synthetic  1 min 02 s  loss 0.25  val nrmse 0.05\n" in text
        assert "generate physical  1.0 s" not in text
        assert text.count("warning: mind the gap\n") == 1
        assert "\x1b" in err.getvalue()
        # the cursor is back
        assert err.getvalue().rindex("\x1b[?25h") > err.getvalue().rindex("\x1b[?25l")
        assert "\x1b" not in capsys.readouterr().out

    def bar(self) -> str:
        """Return the output until the middle of a phase."""
        err = Tty()
        tracker = Terminal(err=err)
        tracker.started({"name": "quick", "folder": None, "spec": SPEC})
        train = {"cycle": 0, "phase": "train_physical"}
        tracker.phase_started({**train, "total": 8})
        tracker.metrics({**train, "train/loss": 0.5, "param/nu": 0.02, "val/nrmse": 0.1})
        tracker.progress({**train, "done": 3, "total": 8})
        tracker.close()
        tracker.close()
        return err.getvalue()

    def test_the_bar(self) -> None:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.bar())
        assert "cycle 1/2  train physical" in text
        assert "3/8 epochs" in text
        assert "loss 0.5  physics nrmse 0.1  nu 0.02" in text

    def test_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]")
        assert colour.search(self.bar())
        monkeypatch.setenv("NO_COLOR", "1")
        assert not colour.search(self.bar())

    def test_dumb_terminals_get_plain_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        err = Tty()
        tell(Terminal(err=err))
        assert err.getvalue().splitlines() == LINES


def test_warnings_of_libraries_are_one_line_and_told_once() -> None:
    logger = logging.getLogger("hyco_engine")
    before = (logger.level, list(logger.handlers), warnings.showwarning)
    err = io.StringIO()
    with library_warnings(Terminal(err=err)):
        logger.getChild("data").warning("from %s", "the data")
        logger.info("not for here")
        for _ in range(2):
            warnings.showwarning("old thing", UserWarning, "lib.py", 3)
    assert err.getvalue() == "warning: from the data\nwarning: old thing (UserWarning, lib.py:3)\n"
    assert (logger.level, list(logger.handlers), warnings.showwarning) == before


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.6, "1 h 00 min"), (7322, "2 h 02 min")],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (999_900, "1 MB"), (4e12, "4 TB")],
)
def test_size(value: float, text: str) -> None:
    assert size(value) == text


def test_summary_of_fields_and_many_parameters(tmp_path: Path) -> None:
    field = {"mean": 0.5, "min": 0.25, "max": 1.0, "file": "parameters/nu-final.npy"}
    one = {"initial": 1.0, "final": 2.0, "truth": None, "relative_error": None, "unit": "1"}
    (tmp_path / "figures").mkdir()
    for name in ("rollout.png", "history.png"):
        (tmp_path / "figures" / name).touch()
    lines = summary_lines(
        {
            "verdict": ["This is wrong.", "That is right."],
            "parameters": {"nu": one | {"initial": 0.1, "final": field}, "a": one, "b": one, "c": one, "d": one},
            "metrics": {
                "persistence": {"test": {"nrmse": 0.5}, "val": {"nrmse": 0.4}},
                "synthetic": {"test": {"nrmse": None}, "val": {"nrmse": 0.1}},
            },
        },
        tmp_path,
    )
    assert lines == [
        "verdict   This is wrong.",
        "          That is right.",
        "learned   nu 0.1 -> mean 0.5 [0.25, 1]; a 1 -> 2; b 1 -> 2; c 1 -> 2; ...",
        "errors    test nrmse: surrogate -, persistence 0.5",
        "time      0.0 s",
        f"results   {tmp_path}, figures/history.png, figures/rollout.png",
        f"next      hyco-engine evaluate {tmp_path} --split test, or hyco-engine export {tmp_path} --out surrogate.pt2",
    ]


def test_plan_without_cooperation() -> None:
    plan = {
        "n_real": 7,
        "n_generated": 0,
        "cache": None,
        "parts": {"synthetic": {"kind": "unet", "distribution": "hyco-engine", "version": "1"}},
        "data": {},
        "phases": [{"cycle": 0, "phase": "train_synthetic", "epochs": 3}, {"cycle": 1, "phase": "train_synthetic"}],
        "device": "cpu",
    }
    assert plan_lines(plan) == [
        "parts     synthetic  unet  hyco-engine 1",
        "data      7 real windows, 0 generated for each phase",
        "phases    cycle 1: train synthetic, epochs 3",
        "          cycle 2: train synthetic",
        "device    cpu",
    ]


def test_metrics_that_are_no_rollouts() -> None:
    assert metrics_lines({"synthetic": {"val": {"loss": 0.5}}}, "val") == ["model      loss", "surrogate  0.5"]


@pytest.mark.parametrize("columns", ["20", "200"])
def test_tables_are_as_wide_as_their_cells(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same on terminals of any width and in a pipe, and take nothing in a cell for markup."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    rows = [("KIND", "SUMMARY"), ("[bold]a", "x" * 300), ("", "äß :smile:"), ("氷", "wide")]
    assert table(rows) == ["KIND     SUMMARY", f"[bold]a  {'x' * 300}", "         äß :smile:", "氷       wide"]
