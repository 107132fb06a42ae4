"""What summary.json says of a run: parameters, balance, sizes. Plain data only."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from hyco_engine.augment.balance import Balance
from hyco_engine.interfaces import PhysicalModel


def parameter_values(model: PhysicalModel) -> dict[str, Tensor]:
    """The physics' parameters by name, detached, on the CPU: 0-d, or `[*resolution]` for a field."""
    with torch.no_grad():
        return {name: value.detach().cpu().clone() for name, value in model.learnables.values().items()}


def parameters_summary(
    model: PhysicalModel,
    initial: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    folder: Path,
    standard_errors: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """`summary.parameters`. Fields are written to `<folder>/parameters/<name>-{initial,final,truth}.npy`."""
    final = parameter_values(model)
    summary = {}
    for name, value in final.items():
        true = truth.get(name)
        declaration = model.learnables.declarations[name]
        summary[name] = {
            "initial": _told(initial[name], folder, f"{name}-initial"),
            "final": _told(value, folder, f"{name}-final"),
            "truth": None if true is None else _told(true.expand_as(value), folder, f"{name}-truth"),
            "relative_error": None if true is None else relative_error(value, true, declaration.gauge),
            "standard_error": (standard_errors or {}).get(name),
            "unit": declaration.unit,
            "moved": not torch.equal(value, initial[name]),
        }
    return summary


def relative_error(value: Tensor, truth: Tensor, gauge: Literal["none", "constant"] = "none") -> float:
    """|value - truth| / |truth|, in the L2 norm for fields; absolute where the truth is 0.

    Under the gauge "constant" both are taken less their means.
    """
    value, truth = value.double(), truth.double().expand_as(value)
    if gauge == "constant":
        value, truth = value - value.mean(), truth - truth.mean()
    difference = float((value - truth).norm())
    size = float(truth.norm())
    return difference / size if size else difference


def _told(value: Tensor, folder: Path, name: str) -> float | dict[str, Any]:
    """A scalar as a number; a field as mean, min, max and the file (relative to the run folder) that holds it."""
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
    """One entry of `summary.balance`."""
    entry = attrs.asdict(balance, filter=attrs.filters.exclude("verdict", "candidate"))
    return entry | ({"arm": balance.candidate} if balance.candidate else {})


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes, except on macOS
    return peak if sys.platform == "darwin" else peak * 1024
