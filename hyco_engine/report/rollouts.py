"""The held-out simulation that a run shows: the truth and what each model made of its first frame."""

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
    """`truth [T, C_dyn, *S]` with NaN where nothing was observed, `predictions` alike by model, the first frame equal.

    Frames are `dt` apart. `split` is the one that the simulation belongs to, "val" or "test".
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
        """With every n-th frame, so that all arrays together take no more than `max_bytes`; at least two frames."""
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
        """Write it into a run folder, thinned; the same bytes for the same content."""
        from safetensors.numpy import save

        kept = self.thinned()
        about = {"layout": kept.layout.to_data(), "dt": kept.dt, "split": kept.split}
        arrays = {_TRUTH: kept.truth, **kept.predictions}
        contiguous = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in arrays.items()}
        path = folder / ROLLOUT
        # one key: safetensors leaves several in random order
        write_atomic(path, save(contiguous, {"rollout": json.dumps(about)}))
        return path

    @classmethod
    def load(cls, folder: Path) -> HeldOutRollout | None:
        """What `save` wrote; None where the run has none. Raises DataError where it is damaged."""
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
                raise ValueError(f"its arrays do not have the shape [T, {layout.n_dynamic}, *{list(layout.spatial)}]")
            return cls(truth=truth, predictions=arrays, layout=layout, dt=float(about["dt"]), split=str(about["split"]))
        except Exception as error:
            raise DataError(f"{path} is damaged: {error}") from error
