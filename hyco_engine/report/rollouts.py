"""The held-out simulation that a run shows: the truth and each model's rollout from its first frame."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from hyco_engine.data.fields import StateLayout
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.reading import RunFiles
from hyco_engine.untrusted import parse_json, tensors_metadata

ROLLOUT = "figures/rollout.safetensors"
MAX_BYTES = 16_000_000
_TRUTH = "truth"
_BAND = "-band"
_COPIES = 6
"""The content of a file, its arrays, and their copies in float64."""


@attrs.frozen(kw_only=True, eq=False)
class HeldOutRollout:
    """One held-out simulation and its rollouts.

    `truth [T, C_dyn, *S]` is NaN where nothing was observed; `predictions` hold the same shape by model and share the
    first frame. Frames are `dt` apart. `split` is the split that the simulation belongs to, "val" or "test". `bands`
    hold half the width of the band around the prediction of each model that has one.
    """

    truth: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]
    layout: StateLayout
    dt: float
    split: str
    bands: Mapping[str, NDArray[np.float32]] = attrs.Factory(dict)

    @property
    def split_name(self) -> str:
        return {"val": "validation"}.get(self.split, self.split)

    def thinned(self, max_bytes: int = MAX_BYTES) -> HeldOutRollout:
        """Return every n-th frame, at least two, so that all arrays together take no more than `max_bytes`."""
        size = self.truth.nbytes * (1 + len(self.predictions) + len(self.bands))
        step = min(max(1, math.ceil(size / max_bytes)), max(1, len(self.truth) - 1))
        if step == 1:
            return self
        return attrs.evolve(
            self,
            truth=self.truth[::step],
            predictions={model: values[::step] for model, values in self.predictions.items()},
            bands={model: values[::step] for model, values in self.bands.items()},
            dt=self.dt * step,
        )

    def save(self, folder: Path) -> Path:
        """Write it into a run folder, thinned; equal content gives equal bytes."""
        from safetensors.numpy import save

        kept = self.thinned()
        about = {"layout": kept.layout.to_data(), "dt": kept.dt, "split": kept.split}
        bands = {model + _BAND: values for model, values in kept.bands.items()}
        arrays = {_TRUTH: kept.truth, **kept.predictions, **bands}
        contiguous = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in arrays.items()}
        path = folder / ROLLOUT
        # one key, since safetensors writes several in random order
        write_atomic(path, save(contiguous, {"rollout": json.dumps(about)}))
        return path

    @classmethod
    def load(cls, folder: Path) -> HeldOutRollout | None:
        """Return what `save` wrote; None where the run has none. Raise DataError where it is damaged."""
        from safetensors.numpy import load

        files = RunFiles(folder)
        if (content := files.read(ROLLOUT, memory=_COPIES)) is None:
            return None
        try:
            about = parse_json(tensors_metadata(content)["rollout"])
            # safetensors gives them in any order
            arrays = dict(sorted(load(content).items()))
            truth = arrays.pop(_TRUTH)
            layout = StateLayout.from_data(about["layout"])
            wanted = (len(truth), layout.n_dynamic, *layout.spatial)
            if not len(truth) or any(values.shape != wanted for values in (truth, *arrays.values())):
                raise ValueError(f"its arrays must have the shape [T, {layout.n_dynamic}, *{list(layout.spatial)}]")
            if any(values.dtype != np.float32 for values in (truth, *arrays.values())):
                raise ValueError("its arrays must hold float32")
            dt, split = about["dt"], about["split"]
            if not isinstance(dt, int | float) or dt <= 0 or split not in ("val", "test"):
                raise ValueError(f"it says that {dt!r} is the time between two frames, and {split!r} their split")
            bands = {name.removesuffix(_BAND): arrays.pop(name) for name in list(arrays) if name.endswith(_BAND)}
            return cls(truth=truth, predictions=arrays, layout=layout, dt=dt, split=split, bands=bands)
        except Exception as error:  # safetensors raises many kinds on damaged files
            raise files.damaged(ROLLOUT, error) from error
