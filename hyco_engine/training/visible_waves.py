"""The waves of start states that noise does not hide.

The mean power of noisy starts in a wave is the variance s^2 of the noise, plus the power of the field itself. A wave is
visible if its mean power is above s^2 by more than chance. As the power of fields falls with roughness, its estimate of
maximum likelihood is the isotonic regression of the power, which pools rough waves: of m values with noise alone, the
mean power is s^2 (1 +- sqrt(2 / m)).
Source: R. E. Barlow, H. D. Brunk, J. Am. Stat. Assoc. 67 (1972), for isotonic regression.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hyco_engine.data.contracts import Samples
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.masks import corner
from hyco_engine.data.noise import NOISY
from hyco_engine.data.smoothing import frames_with_noise
from hyco_engine.data.waves import waves_of

CERTAIN = 2.0
"""Above noise by so many standard deviations of its mean power, a wave is visible."""
UNSURE = 0.2
"""The relative error of the noise's variance, which is itself an estimate."""
LEAST_FRAMES = 3
"""Noise in fewer frames, which have no differences along time, cannot be told from a rough field."""


def visible_waves(windows: Samples, layout: StateLayout) -> Tensor:
    """Return a bool mask `[C_dyn, *S]` of the visible waves, in the places of each channel's waves.

    All of them are visible in windows of few frames, and where values are hidden, have no space or no noise that
    matters. The smoothest wave always is.
    """
    mask = torch.ones(layout.n_dynamic, *layout.spatial, dtype=torch.bool)
    found = frames_with_noise(windows, layout)
    if found is None or found[0].shape[1] < LEAST_FRAMES:
        return mask
    frames, noise = found
    for channel, (waves, size) in enumerate(zip(waves_of(layout), noise, strict=True)):
        if size > NOISY * float(frames[:, :, channel].std()) and waves.vectors:
            coefficients = waves.coefficients(frames[:, 0, channel].double())
            power = waves.power(coefficients)
            seen = stand_out(waves.rough, power / size**2, coefficients.numel() / power.numel())
            mask[channel] = False
            mask[channel][corner(waves.lengths)] = seen | (waves.rough <= waves.rough.min())
    return mask


def stand_out(rough: Tensor, power: Tensor, values: float) -> Tensor:
    """Return which waves have more power than noise, as bools in the shape of their roughness `rough`.

    `power` is the mean square of `values` coefficients of each wave, in units of the variance that noise gives them.
    """
    # its import takes as long as a tenth of torch's, and few runs need it
    from scipy.optimize import isotonic_regression

    order = rough.flatten().argsort(stable=True)
    falling = isotonic_regression(power.flatten()[order].numpy(), increasing=False)
    pooled = np.diff(falling.blocks)
    above = falling.x > 1 + UNSURE + CERTAIN * np.sqrt(2 / (np.repeat(pooled, pooled) * values))
    found = torch.empty(power.numel(), dtype=torch.bool)
    found[order] = torch.from_numpy(above.copy())
    return found.view_as(rough)
