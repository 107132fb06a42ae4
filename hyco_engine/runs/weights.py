"""Trained weights in files that describe the model, so that they can be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from hyco_engine.data.form import DataForm
from hyco_engine.errors import DataError
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.seal import verify


def save_model(folder: RunFolder, name: str, state: Mapping[str, Tensor], kind: str, form: DataForm) -> Path:
    """Write `weights/<name>.safetensors`, with the kind of the model and the form of its data in the metadata."""
    return folder.save_weights(name, state, {"kind": kind, **form.to_metadata()})


class Weights:
    """A weights file. Reading it executes nothing. Raise DataError where it is missing or damaged."""

    def __init__(self, path: Path) -> None:
        verify(path.parent.parent, path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                self.state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.options: dict[str, Any] | None = json.loads(metadata["options"]) if "options" in metadata else None
            self.physical: dict[str, Any] | None = json.loads(metadata["physical"]) if "physical" in metadata else None
            self.kind = str(metadata["kind"])
            self.form = DataForm.from_metadata(metadata)
            self.layout, self.dt, self.statistics = self.form.layout, self.form.dt, self.form.statistics
        except FileNotFoundError:
            raise DataError(f"there are no weights {path}: the run did not end, or it has no such model") from None
        except Exception as error:
            raise DataError(f"the weights {path} are damaged: {error}") from error
