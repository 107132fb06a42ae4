"""Trained weights in files that describe the model, so that they can be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.seal import verify

if TYPE_CHECKING:
    from hyco_engine.assembly import Data


def save_model(folder: RunFolder, name: str, state: Mapping[str, Tensor], kind: str, data: Data) -> Path:
    """Write `weights/<name>.safetensors`: the weights, and as metadata kind, layout, dt and statistics of the data."""
    metadata = {"kind": kind}
    if data.layout is not None and data.statistics is not None:
        metadata |= {
            "layout": json.dumps(data.layout.to_data()),
            "dt": repr(data.dt),
            "statistics": json.dumps(data.statistics.to_data()),
        }
    return folder.save_weights(name, state, metadata)


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
            fields = "layout" in metadata
            self.layout = StateLayout.from_data(json.loads(metadata["layout"])) if fields else None
            self.dt = float(metadata["dt"]) if fields else None
            self.statistics = Statistics.from_data(json.loads(metadata["statistics"])) if fields else None
        except FileNotFoundError:
            raise DataError(f"there are no weights {path}: the run did not end, or it has no such model") from None
        except Exception as error:
            raise DataError(f"the weights {path} are damaged: {error}") from error
