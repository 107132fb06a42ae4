"""The part of a parameter's error that comes from noise in observed start states, by adding more of it.

Rollouts from noisy states bias parameters, by a multiple of the variance of the noise while it is small. Noise of the
same variance once more moves the estimate as far again as it has been moved: the mean Gauss-Newton step of fits with
such starts is an estimate of the bias. Source: J. R. Cook, L. A. Stefanski, J. Am. Stat. Assoc. 89 (1994), SIMEX.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hyco_engine.data.fields import StateLayout
from hyco_engine.randomness import derive_generator
from hyco_engine.training.discretisation import Excerpt, newton_step
from hyco_engine.training.linearized import Linearizer
from hyco_engine.training.problem import Problem

DRAWS = 4


def start_noise(
    whole: Problem, linearizer: Linearizer, excerpt: Excerpt, layout: StateLayout, noise: Mapping[str, float], seed: int
) -> Tensor | None:
    """Return the bias of the unconstrained parameters `[P]`; None where it cannot be estimated.

    `noise` is the standard deviation of each field's noise in its own unit.
    """
    sizes = [torch.full((field.channels,), float(noise.get(field.name, 0.0))) for field in layout.dynamic]
    size = torch.cat(sizes).to(excerpt.states).reshape(-1, *(1 for _ in excerpt.states.shape[2:]))
    generator = derive_generator(seed, "start noise")
    dynamic, static = excerpt.states[:, : layout.n_dynamic], excerpt.states[:, layout.n_dynamic :]
    before = newton_step(whole, linearizer, excerpt, excerpt.states, excerpt.observed)
    steps = []
    for _ in range(DRAWS):
        drawn = torch.randn(dynamic.shape, generator=generator, dtype=torch.float64).to(size) * size
        states = torch.cat([dynamic + drawn, static], dim=1)
        steps.append(newton_step(whole, linearizer, excerpt, states, excerpt.observed) - before)
    bias = torch.stack(steps).mean(0)
    return bias if bool(bias.isfinite().all()) else None
