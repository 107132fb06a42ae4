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
from hyco_engine.errors import DataError
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.seal import verify

ROLLOUT = "figures/rollout.safetensors"
MAX_BYTES = 16_000_000
_TRUTH = "truth"


@attrs.frozen(kw_only=True, eq=False)
class HeldOutRollout:
    """One held-out simulation and its rollouts.

    `truth [T, C_dyn, *S]` is NaN where nothing was observed; `predictions` hold the same shape by model and share the
    first frame. Frames are `dt` apart. `split` is the split that the simulation belongs to, "val" or "test".
    """

    truth: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]
    layout: StateLayout
    dt: float
    split: str

    @property
    def split_name(self) -> str:
        return {"val": "validation"}.get(self.split, self.split)

    def thinned(self, max_bytes: int = MAX_BYTES) -> HeldOutRollout:
        """Return every n-th frame, at least two, so that all arrays together take no more than `max_bytes`."""
        size = self.truth.nbytes * (1 + len(self.predictions))
        step = min(max(1, math.ceil(size / max_bytes)), max(1, len(self.truth) - 1))
        if step == 1:
            return self
        return attrs.evolve(
            self,
            truth=self.truth[::step],
            predictions={model: values[::step] for model, values in self.predictions.items()},
            dt=self.dt * step,
        )

    def save(self, folder: Path) -> Path:
        """Write it into a run folder, thinned; equal content gives equal bytes."""
        from safetensors.numpy import save

        kept = self.thinned()
        about = {"layout": kept.layout.to_data(), "dt": kept.dt, "split": kept.split}
        arrays = {_TRUTH: kept.truth, **kept.predictions}
        contiguous = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in arrays.items()}
        path = folder / ROLLOUT
        # one key, since safetensors writes several in random order
        write_atomic(path, save(contiguous, {"rollout": json.dumps(about)}))
        return path

    @classmethod
    def load(cls, folder: Path) -> HeldOutRollout | None:
        """Return what `save` wrote; None where the run has none. Raise DataError where it is damaged."""
        from safetensors import safe_open

        path = folder / ROLLOUT
        if not path.is_file():
            return None
        verify(folder, path)
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["rollout"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            truth = arrays.pop(_TRUTH)
            layout = StateLayout.from_data(about["layout"])
            if truth.shape[1:] != (layout.n_dynamic, *layout.spatial) or any(
                values.shape != truth.shape for values in arrays.values()
            ):
                raise ValueError(f"its arrays must have the shape [T, {layout.n_dynamic}, *{list(layout.spatial)}]")
            return cls(truth=truth, predictions=arrays, layout=layout, dt=float(about["dt"]), split=str(about["split"]))
        except Exception as error:
            raise DataError(f"{path} is damaged: {error}") from error
