"""The ensemble of emcee on the posterior of a run; half of the walkers are rolled out together.

Walkers move by differences of others, in a fifth of the steps towards or away from one ("snooker"): in few dimensions
their autocorrelation time is a fifth of that of the stretch move. A chain depends on the seed alone.
Sources: D. Foreman-Mackey et al., PASP 125 (2013); C. J. F. ter Braak, J. A. Vrugt, Stat. Comput. 18 (2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import emcee
import numpy as np
import torch
from numpy.typing import NDArray

from hyco_engine import Registry
from hyco_engine.errors import DataError
from hyco_engine.posterior import Chain, Posterior, sample_posterior

Array = NDArray[np.float64]
MOVES = ((emcee.moves.DEMove(), 0.8), (emcee.moves.DESnookerMove(), 0.2))
LEAST_WALKERS = 8
"""A move by others needs three of them in each half."""
WARM_UP = 0.2
"""The share of a chain that still depends on where it began."""


def sample(
    run_dir: Path | str,
    *,
    walkers: int = 32,
    steps: int = 500,
    seed: int | None = None,
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Sample the posterior of a run's parameters; see `hyco_engine.posterior.sample_posterior` for what it returns.

    Each of `walkers` takes `steps` steps, the first fifth of which is left out.
    """
    sampler = partial(ensemble, walkers=walkers, steps=steps)
    return sample_posterior(run_dir, sampler, seed=seed, registry=registry, overrides=overrides)


def ensemble(posterior: Posterior, generator: torch.Generator, *, walkers: int, steps: int) -> Chain:
    """Return a chain of emcee's ensemble of walkers. Raise DataError for numbers that emcee cannot work with."""
    size = len(posterior.names)
    least = max(LEAST_WALKERS, 2 * size)
    if walkers < least or walkers % 2:
        raise DataError(f"{walkers} walkers: {size} parameter(s) need an even number of walkers, at least {least}")
    if steps < 2:
        raise DataError(f"{steps} steps: a chain needs at least 2, and a useful one hundreds")

    def density(points: Array) -> Array:
        # in halves, as in each step, since a graph is captured for one number of points
        parts = np.array_split(points, max(1, 2 * len(points) // walkers))
        return np.concatenate([posterior(torch.from_numpy(np.ascontiguousarray(part))).numpy() for part in parts])

    # emcee draws from its sampler's own state of random numbers alone
    random = np.random.RandomState(int(torch.randint(2**31, (1,), generator=generator))).get_state()
    sampler = emcee.EnsembleSampler(walkers, size, density, vectorize=True, moves=list(MOVES))
    sampler.run_mcmc(emcee.State(posterior.starts(walkers, generator).numpy(), random_state=random), steps)
    warm = int(WARM_UP * steps)
    return Chain(
        points=torch.from_numpy(sampler.get_chain()[warm:]),
        accepted=float(sampler.acceptance_fraction.mean()),
        autocorrelation_time=float(np.max(sampler.get_autocorr_time(discard=warm, tol=0))),
    )
