"""How a physics learns from noisy data: the choices that `auto` stands for in its settings.

Rollouts from noisy start states bias parameters, however many there are ("errors in variables"): 5 % of noise and a
horizon of 3 steps give a viscosity 5 % too large, 20 % of noise 50 %. So start states are learned beside the
parameters. Each learned start costs as many numbers as a frame has values, which only a long window determines: windows
are as long as the simulations, and share no frame, since a shared frame would count its noise twice. That is the
maximum-likelihood estimate, which reaches the Cramer-Rao bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.choosing import FULL_BATCH

NOISY = 0.002
"""Noise below this many standard deviations of a field does not matter: its bias, of second order, is below 1e-5."""
MOST_STARTS = 2**26
"""Gauss-Newton solves for start states with up to so many numbers in their curvature; L-BFGS learns more."""
MOST_WORK = 2**29
"""Gauss-Newton pushes up to so many derivatives of values through all steps of an iteration; L-BFGS takes more."""
TOGETHER = 2**25
"""Windows whose derivatives have up to so many values are computed together."""


def is_noisy(noise: Mapping[str, float]) -> bool:
    """Return True if the noise of any field, in standard deviations of the field, matters."""
    return max(noise.values(), default=0.0) > NOISY


def meet_noise(settings: TrainingSettings, optimizer: str, longest: tuple[int, int] | None) -> dict[str, Any]:
    """Return the settings that "auto" stands for on noisy data; {} if the start states are not learned.

    `optimizer` is what the settings mean for this physics, and `longest` is the horizon and the stride of the longest
    windows that share no frame.
    """
    able = optimizer in FULL_BATCH and settings.starts == 1
    if settings.initial_states == "observed" or not able:
        return {}
    chosen: dict[str, Any] = {"initial_states": "learned"}
    if settings.horizon == "auto" and longest is not None:
        chosen["horizon"] = longest[0]
        if settings.stride == "auto":
            chosen["stride"] = longest[1]
    return chosen


def afford_starts(
    settings: TrainingSettings, *, values: int, parameters: int, windows: int, horizon: int, substeps: int
) -> dict[str, Any]:
    """Return the settings with which Gauss-Newton learns start states, or those for L-BFGS where that costs too much.

    A state has `values` dynamic values, the physics so many learned `parameters`, and each frame of the `windows` takes
    `substeps` internal steps.
    """
    derivatives = (parameters + values) * values * (horizon + 1)
    work, curvature = windows * derivatives * substeps, windows * values**2
    if work > MOST_WORK or curvature > MOST_STARTS or derivatives > 2 * TOGETHER:
        return {"optimizer": "lbfgs"}
    return {
        "optimizer": "gauss-newton",
        "batch_size": max(1, min(settings.batch_size, windows, TOGETHER // derivatives)),
    }


def told(noise: Mapping[str, float], chosen: Mapping[str, Any]) -> str:
    """Return a sentence that says what was chosen and why."""
    levels = " and ".join(f"{name} has noise of {100 * level:.2g} % of its spread" for name, level in noise.items())
    keys = ", ".join(f"{name} = {json.dumps(value)}" for name, value in chosen.items())
    return f"{levels}: training.physical takes {keys}"
