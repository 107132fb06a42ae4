"""Whether a surrogate pays: sentences, and the chart of cost against error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hyco_engine.report.drawing import color_of, legend, logarithmic, plain_axes
from hyco_engine.report.numbers import seconds, significant


def pay_sentences(found: Mapping[str, Any]) -> list[str]:
    """Say after how many rollouts the training of the surrogate is won back, from what `paying.costs` measured."""
    surrogate, after, rivals = found["surrogate"], found["pays_after"], found["rivals"]
    if surrogate["error"] >= found["persistence"]:
        return ["The surrogate never pays: “nothing changes” errs no more than it, and costs nothing."]
    if rivals["single"] is None:
        best = min((row["error"] for row in found["physics"]), default=float("inf"))
        return [
            "The surrogate pays from its first rollout on: no physics with the parameters that were found errs as "
            f"little ({significant(best, 2)} at best; the surrogate {significant(surrogate['error'], 2)})."
        ]
    each = f"rollouts of {found['steps']} steps"
    ways = [("single", "seconds", "one by one")]
    if found["batch"] > 1:
        ways.append(("batch", "seconds_in_batch", f"{found['batch']} at a time"))
    told = []
    for name, key, way in ways:
        rival, count = rivals[name], after[name]
        cost = (
            f"at its error of {significant(surrogate['error'], 2)}, the physics {_grid(rival)} takes "
            f"{_time(rival[key])} a rollout, the surrogate {_time(surrogate[key])}"
        )
        if count is None:
            told.append(f"For {each} {way}, the surrogate never pays: {cost}.")
        else:
            told.append(f"For {each} {way}, the surrogate pays after {count} of them: {cost}.")
    return [*told, f"Its training took {seconds(found['training_s'])}."]


def _grid(row: Mapping[str, Any]) -> str:
    steps = row["internal_steps"]
    cells = " × ".join(map(str, row["resolution"]))
    return f"on {cells} cells with {steps} internal step{'s' if steps > 1 else ''} in a frame"


def _time(value: float) -> str:
    return f"{significant(1000 * value, 2)} ms" if value < 1 else seconds(value)


def cost_panel(found: Mapping[str, Any], ax: Axes) -> None:
    """Chart the error of a rollout against its time: the physics by grid, the surrogate, and “nothing changes”."""
    plain_axes(ax, "Error against time of a rollout")
    grids: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for row in found["physics"]:
        # JSON has no infinity
        if row["error"] is not None and np.isfinite(row["error"]):
            grids.setdefault(tuple(row["resolution"]), []).append((row["seconds"], row["error"]))
    for k, (resolution, points) in enumerate(grids.items()):
        x, y = zip(*points, strict=True)
        label = f"physics, {' × '.join(map(str, resolution))} cells"
        ax.plot(x, y, "o-", color=color_of("physical", ()), alpha=1 - 0.2 * k, markersize=4, label=label)
    own = found["surrogate"]
    if own["error"] is not None and np.isfinite(own["error"]):
        ax.plot([own["seconds"]], [own["error"]], "D", color=color_of("synthetic", ()), label="surrogate")
    ax.axhline(found["persistence"], color=color_of("persistence", ()), linestyle=":", label="nothing changes")
    logarithmic(ax, "x")
    logarithmic(ax)
    ax.set_xlabel("seconds a rollout, one by one")
    ax.set_ylabel(found["measure"])
    legend(ax)
