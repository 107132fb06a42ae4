"""Trained weights in files that describe the model, so that they can be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from hyco_engine.data.form import DataForm
from hyco_engine.ensemble import Bands
from hyco_engine.errors import DataError
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.reading import RunFiles
from hyco_engine.untrusted import parse_json, read_regular, tensors_metadata


def save_model(
    folder: RunFolder,
    name: str,
    state: Mapping[str, Tensor],
    kind: str,
    form: DataForm,
    bands: Bands | None = None,
) -> Path:
    """Write `weights/<name>.safetensors` with its description."""
    return folder.save_weights(name, state, description(kind, form, bands))


def description(kind: str, form: DataForm, bands: Bands | None) -> dict[str, str]:
    """Return the metadata of weights: the kind of the model, the form of its data, and the bands of an ensemble."""
    more = {} if bands is None else {"bands": json.dumps(bands.to_data())}
    return {"kind": kind, **form.to_metadata(), **more}


class Weights:
    """The weights of a model, and the form of its data, from a file. Reading it executes nothing."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Read the content of the file `path`. Raise DataError where it is damaged."""
        try:
            metadata = tensors_metadata(content)
            # sorted, since safetensors gives them in any order; copied, since their places in the file are not aligned
            self.state: dict[str, Tensor] = {name: value.clone() for name, value in sorted(load(content).items())}
            self.options = _table(metadata, "options")
            self.physical = _table(metadata, "physical")
            bands = _table(metadata, "bands")
            self.bands = None if bands is None else Bands.from_data(bands)
            self.kind = metadata["kind"]
            self.form = DataForm.from_metadata(metadata)
            self.layout, self.dt, self.statistics = self.form.layout, self.form.dt, self.form.statistics
        except Exception as error:  # safetensors and torch raise many kinds on damaged files
            why = f"there is no {error} in it" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise DataError(f"the weights {path} are damaged: {why.splitlines()[0]}") from error

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights; float32 if there are none."""
        return next((t.dtype for t in self.state.values() if t.is_floating_point()), torch.float32)

    @classmethod
    def of_run(cls, files: RunFiles, name: str) -> Weights:
        """Return `weights/<name>.safetensors` of a run. Raise DataError where it is missing or damaged."""
        place = f"weights/{name}.safetensors"
        path = files.folder / place
        if (content := files.read(place, memory=_COPIES)) is None:
            raise DataError(f"there are no weights {path}: the run did not end, or it has no such model")
        return cls(path, content)

    @classmethod
    def of_file(cls, path: Path) -> Weights:
        """Return the weights in a file that the user named. Raise DataError where it is missing or damaged."""
        try:
            return cls(path, read_regular(path, memory=_COPIES))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


ANALYSES = "analyses"
"""The name of the file of states from which held-out rollouts begin."""


def analyses_of_run(files: RunFiles) -> Tensor | None:
    """Return the states `[n, C_dyn, *S]` from which held-out rollouts of a run begin; None for observed frames.

    Raise DataError where the file is damaged.
    """
    place = f"weights/{ANALYSES}.safetensors"
    if (content := files.read(place, memory=_COPIES)) is None:
        return None
    try:
        return load(content)["states"].clone()
    except Exception as error:  # safetensors raises many kinds on damaged files
        raise files.damaged(place, error) from error


_COPIES = 3
"""The content of a file, the tensors in it, and their copies."""


def _table(metadata: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """Return the table that a text of the metadata holds, None without one."""
    if name not in metadata:
        return None
    found = parse_json(metadata[name])
    if not isinstance(found, dict):
        raise ValueError(f"its {name} must be a table")
    return found
