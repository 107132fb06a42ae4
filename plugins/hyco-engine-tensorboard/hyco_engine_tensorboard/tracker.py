"""The tracker `tensorboard`."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Tracker, TrackerContext

if TYPE_CHECKING:
    from hyco_engine_tensorboard import TensorBoardOptions

POSITION = ("time", "cycle", "phase", "epoch", "step")
FLUSH_SECONDS = 10


class TensorBoardTracker(Tracker):
    """Writes event files below `<run folder>/<folder>`, with a folder for each model, since each counts its own steps.

    Where a strategy has candidates, each model of each candidate has a folder (`synthetic-trust`). A resumed run writes
    them anew from the records that it keeps, since an event file cannot be shortened. A run without a folder writes
    nothing and says so in the log.
    """

    def __init__(self, folder: str, images: bool = True) -> None:
        self._name = folder
        self._images = images
        self._path: Path | None = None
        self._run: Path | None = None
        self._writers: dict[str, SummaryWriter] = {}
        self._begin = 0.0
        self._warnings = 0

    def started(self, info: Mapping[str, Any]) -> None:
        self._close()
        self._warnings = 0
        self._run = info.get("folder")
        records = info.get("records")
        if self._run is None:
            self._path = None
            logging.getLogger("hyco_engine").warning(
                "tracker tensorboard: the run has no folder, so nothing is written"
            )
            return
        self._path = self._run / self._name
        if records is None and self._path.exists():
            raise SpecError(f"{self._path} exists already; give another name", key="trackers.tensorboard.folder")
        for file in self._path.rglob("events.out.tfevents.*"):
            file.unlink()
        records = records or ()
        # the times of records are seconds since the run's start
        self._begin = time.time() - (records[-1].get("time", 0.0) if records else 0.0)
        for record in records:
            self.metrics(record)
        if info.get("spec") is not None:
            self._text("spec", _preformatted(info["spec"]))
        for number, note in enumerate(info.get("notes") or ()):
            self._text("notes", note, number)

    def metrics(self, record: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        phase = str(record.get("phase", ""))
        model = phase.removeprefix("train_") if phase.startswith("train_") else ""
        if "arm" in record:
            # each candidate has models of its own, which count the same steps
            model = f"{model}-{re.sub(r'[^A-Za-z0-9_-]', '_', record['arm'])}"
        when = self._begin + record["time"] if "time" in record else time.time()
        for name, value in record.items():
            if name not in POSITION and isinstance(value, int | float):
                self._writer(model).add_scalar(name, value, record.get("step"), walltime=when)

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        for writer in self._writers.values():
            writer.flush()

    def warned(self, message: str) -> None:
        self._text("warnings", message, self._warnings)
        self._warnings += 1

    def artifact(self, path: Path) -> None:
        if self._path is not None and self._images and path.suffix == ".png":
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer().add_image(f"figures/{path.stem}", pixels, dataformats="HWC")

    def finished(self, summary: Mapping[str, Any]) -> None:
        if self._path is not None and not self._path.is_dir():
            # a run that never began leaves no folder, and closing the files would create it again
            self._writers.clear()
        elif self._path is not None:
            error = f"\n\n{summary['error']}" if summary.get("error") else ""
            self._text("status", f"**{summary.get('status', 'ended')}**{error}")
            results = {name: summary[name] for name in ("parameters", "metrics", "timings") if summary.get(name)}
            self._text("results", _preformatted(json.dumps(results, indent=2, default=str)))
            for name, value in final_values(summary).items():
                self._writer().add_scalar(f"final/{name}", value, summary.get("cycles"))
        self._close()

    def _text(self, tag: str, text: str, step: int | None = None) -> None:
        if self._path is not None:
            self._writer().add_text(tag, text, step)
            self._writer().flush()

    def _writer(self, model: str = "") -> SummaryWriter:
        """Return the writer of a model, or of the whole run."""
        assert self._path is not None
        if model not in self._writers:
            self._writers[model] = SummaryWriter(str(self._path / model), flush_secs=FLUSH_SECONDS)
        return self._writers[model]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def final_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return numbers such as `{"param/nu": 0.02, "param/nu/relative_error": 0.01, "test/physical/nrmse": 0.1}`."""
    found: dict[str, Any] = {}
    for name, entry in (summary.get("parameters") or {}).items():
        found |= {f"param/{name}": entry.get("final"), f"param/{name}/relative_error": entry.get("relative_error")}
    for model, splits in (summary.get("metrics") or {}).items():
        for split, values in splits.items():
            found |= {f"{split}/{model}/{name}": value for name, value in values.items()}
    return {n: v for n, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}


def _preformatted(text: str) -> str:
    """Return text as preformatted Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def build(options: TensorBoardOptions, context: TrackerContext) -> TensorBoardTracker:
    """Build the tracker `tensorboard`."""
    return TensorBoardTracker(options.folder, options.images)
