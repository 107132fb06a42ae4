"""Parts of summary.json: parameters, balance, sizes. Plain data only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import psutil
import torch
from torch import Tensor

from hyco_engine.augment.balance import Balance
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.training.error_bars import ErrorBars

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def parameter_values(model: PhysicalModel) -> dict[str, Tensor]:
    """Return the physics' parameters by name, detached, on the CPU: 0-d, or `[*resolution]` for a field."""
    with torch.no_grad():
        return {name: value.detach().cpu().clone() for name, value in model.learnables.values().items()}


def parameters_summary(
    model: PhysicalModel,
    found: Mapping[str, Mapping[str, Tensor]],
    truth: Mapping[str, Tensor],
    folder: Path,
    bars: ErrorBars | None = None,
) -> dict[str, Any]:
    """Return `summary.parameters`; write fields to `<folder>/parameters/<name>-{initial,final,best,last,truth}.npy`.

    `found` has the parameters `initial`, `final` (the reported ones), `best` (those of the smallest error on held-out
    data) and `last` (those that training ended with).
    """
    summary = {}
    for name, value in found["final"].items():
        true = truth.get(name)
        declaration = model.learnables.declarations[name]
        initial = found["initial"][name]
        summary[name] = {
            **{moment: _summarised(values[name], folder, f"{name}-{moment}") for moment, values in found.items()},
            "truth": None if true is None else _summarised(true.expand_as(value), folder, f"{name}-truth"),
            "relative_error": None if true is None else relative_error(value, true, declaration.gauge),
            "standard_error": None if bars is None else bars.standard_error.get(name),
            "at_bound": None if bars is None else bars.at_bound.get(name),
            "unit": declaration.unit,
            "moved": not torch.equal(value, initial),
        }
    return summary


def relative_error(value: Tensor, truth: Tensor, gauge: Literal["none", "constant"] = "none") -> float:
    """Return |value - truth| / |truth|, in the L2 norm for fields, or |value - truth| where the truth is 0.

    Under the gauge "constant" the means of both are subtracted first.
    """
    value, truth = value.double(), truth.double().expand_as(value)
    if gauge == "constant":
        value, truth = value - value.mean(), truth - truth.mean()
    difference = float((value - truth).norm())
    size = float(truth.norm())
    return difference / size if size else difference


def _summarised(value: Tensor, folder: Path, name: str) -> float | dict[str, Any]:
    """Return a scalar as a number, and a field as mean, min, max and the file, relative to the run folder."""
    if value.ndim == 0:
        return float(value)
    path = folder / "parameters" / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, value.numpy(), allow_pickle=False)
    return {
        "mean": float(value.mean()),
        "min": float(value.min()),
        "max": float(value.max()),
        "file": str(path.relative_to(folder)),
    }


def balance_summary(balance: Balance) -> dict[str, Any]:
    """Return one entry of `summary.balance`."""
    entry = attrs.asdict(balance, filter=attrs.filters.exclude("verdict", "candidate"))
    return entry | ({"arm": balance.candidate} if balance.candidate else {})


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    if resource is None:
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss is in kilobytes, on macOS in bytes
    return peak if sys.platform == "darwin" else peak * 1024
