"""Parts of summary.json: parameters, balance, sizes. Plain data only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import psutil
import torch
from torch import Tensor

from hyco_engine.augment.balance import Balance
from hyco_engine.data.fields import TIME
from hyco_engine.interfaces import PhysicalModel

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
    standard_errors: Mapping[str, float | None],
    intervals: Mapping[str, tuple[float, float] | None],
    at_bound: Mapping[str, str],
) -> dict[str, Any]:
    """Return `summary.parameters`; write fields to `<folder>/parameters/<name>-{initial,final,best,last,truth}.npy`.

    `found` has the parameters `initial`, `final` (the reported ones), `best` (those of the smallest error on held-out
    data) and `last` (those that training ended with). Of a parameter with a value for each group, `own` has the name
    of the group, its `value`, `standard_error`, `interval` and `truth`. One that is a function of time has its `times`.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, value in found["final"].items():
        true = truth.get(name)
        declaration = model.learnables.declarations[name]
        initial = found["initial"][name]
        summary[name] = {
            **{moment: _summarised(values[name], folder, f"{name}-{moment}") for moment, values in found.items()},
            "truth": None if true is None else _summarised(true.expand_as(value), folder, f"{name}-truth"),
            "relative_error": None if true is None else relative_error(value, true, declaration.gauge),
            "standard_error": standard_errors.get(name),
            "at_bound": at_bound.get(name),
            "unit": declaration.unit,
            "moved": not torch.equal(value, initial),
        }
        if (index := model.learnables.index.get(name)) is not None:
            groups = model.layout.field(index).groups
            summary[name] |= {"by": index, "own": _own(name, groups, value, true, standard_errors, intervals)}
        if (times := model.learnables.times(name)) is not None:
            summary[name] |= {"along": TIME, "times": times.tolist()}
    return summary


def _own(
    name: str,
    groups: Sequence[str],
    values: Tensor,
    truth: Tensor | None,
    standard_errors: Mapping[str, float | None],
    intervals: Mapping[str, tuple[float, float] | None],
) -> list[dict[str, Any]]:
    known = None if truth is None else truth.expand_as(values)
    return [
        {
            "group": group,
            "value": float(value),
            "standard_error": standard_errors.get(f"{name}[{k}]"),
            "interval": intervals.get(f"{name}[{k}]"),
            "truth": None if known is None else float(known[k]),
        }
        for k, (group, value) in enumerate(zip(groups, values, strict=True))
    ]


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
