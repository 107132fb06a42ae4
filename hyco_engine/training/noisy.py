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


def meet_noise(settings: TrainingSettings, optimizer: str, longest: tuple[int, int] | None) -> dict[str, Any]:
    """Return what "auto" stands for on noisy data; {} if start states are not learned, or nothing is left to choose.

    `optimizer` is what the settings mean for this physics, and `longest` is the horizon and the stride of the longest
    windows that share no frame.
    """
    if settings.initial_states == "observed" or optimizer not in FULL_BATCH or settings.starts > 1:
        return {}
    wanted: dict[str, Any] = {"initial_states": "learned"}
    if settings.horizon == "auto" and longest is not None:
        wanted |= {"horizon": longest[0], "stride": longest[1]}
    return {name: value for name, value in wanted.items() if getattr(settings, name) == "auto"}


def told(noise: Mapping[str, float], chosen: Mapping[str, Any]) -> str:
    """Return a sentence that says what was chosen and why."""
    levels = " and ".join(f"{name} has noise of {100 * level:.2g} % of its spread" for name, level in noise.items())
    keys = ", ".join(f"{name} = {json.dumps(value)}" for name, value in chosen.items())
    return f"{levels}: training.physical takes {keys}"
