"""Waves of start states that a fit shows in all frames, more and others than the observed starts do.

Many waves, each below the noise of the observed starts, make up a front or a kink. And a search that begins far from
the truth learns waves that hold nothing but noise: they may have any phase, so some parameters fit them better than
the true ones, and error bars would take their size for knowledge. Once a physics fits, the loss tells which waves a
start needs: without such a wave, the gradient of the loss by it would be larger than noise makes it. For a hidden wave
that is the gradient here; for a learned one, whose gradient is zero, it is the curvature times the wave. The same
residuals with signs drawn at random, which hold no signal any more, tell how large noise makes it, whatever their sizes
(wild bootstrap).
Source: C. F. J. Wu, Ann. Stat. 14 (1986), for the bootstrap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyco_engine.data.masks import corner
from hyco_engine.training.initial_states import InitialStates
from hyco_engine.training.linearized import StartDerivatives
from hyco_engine.training.problem import Problem
from hyco_engine.training.visible_waves import stand_out

LEAST_DRAWS = 4
VALUES = 16
"""So many draws, over all windows, tell the variance of a gradient to a third."""


def waves_to_learn(problem: Problem, *, drop: bool) -> Tensor | None:
    """Return which waves the starts have from here on, a bool mask `[C_dyn, *S]`; None where they stay.

    It is for a problem whose parameters and start states have converged. Hidden waves come first; where there are
    none, and with `drop`, learned waves leave that the fit does not show.
    """
    initial = problem.initial
    if initial is None or initial.waves is None:
        return None
    shown, learned = _shown(problem, initial), initial.learned.cpu()
    if bool((shown & ~learned).any()):
        return shown | learned
    return shown if drop and not torch.equal(shown, learned) else None


def _shown(problem: Problem, initial: InitialStates) -> Tensor:
    """Return the waves that stand out of noise, and the smoothest one of each channel; all where none is hidden."""
    assert initial.waves is not None
    found = problem.shards.sum(problem.shards.each(lambda shard: _sums(problem, initial, shard)))
    windows, learned = len(initial.scaled), initial.learned.cpu()
    gradient, own, noise, curvature = found / windows
    # the mean of an inverse of so many squares is larger than the inverse of their mean
    unbiased = 1 - 2 / (windows * _draws(windows))
    signal = torch.where(learned, curvature.square() * own, gradient)
    noise = noise.clamp(min=torch.finfo(found.dtype).tiny)
    shown = torch.zeros_like(learned)
    for channel, waves in enumerate(initial.waves):
        place = corner(waves.lengths)
        if bool(learned[channel][place].all()):
            # noise hides no wave of a field that has none
            shown[channel][place] = True
            continue
        power = unbiased * waves.mean(signal[channel][place]) / waves.mean(noise[channel][place])
        values = windows * math.prod(waves.lengths) / power.numel()
        shown[channel][place] = stand_out(waves.rough, power, values) | (waves.rough <= waves.rough.min())
    return shown


def _draws(windows: int) -> int:
    return max(LEAST_DRAWS, -(-VALUES // windows))


def _sums(problem: Problem, initial: InitialStates, shard: int) -> Tensor:
    """Return sums over the windows of one shard, `[4, C_dyn, *S]` by wave.

    They are those of the squares of the loss's gradient, of the starts' coefficients and of the gradient that noise
    makes, and of the curvature.
    """
    generator = problem.generator(f"signs of residuals, shard {shard}", problem.begun)
    draws = _draws(len(initial.scaled))
    total = torch.zeros(4, *initial.learned.shape, dtype=torch.float64)
    point = problem.unknowns.point()[None]
    for chunk in problem.chunks(shard):
        states = chunk.batch[0]
        assert isinstance(states, Tensor)  # rollouts begin from states
        with torch.no_grad():
            residuals = StartDerivatives(problem, chunk, None, point).residuals()
            starts = initial.coefficients(states[:, : len(initial.learned)])
        signs = 2 * torch.randint(0, 2, (draws, *residuals.shape), generator=generator).to(residuals) - 1
        # a value that was not observed has no residual and no derivatives
        values = torch.cat([residuals[None], signs * residuals, signs])
        rows = torch.arange(len(residuals))
        fit = problem.together("gradients", chunk.batch, len(values) * len(rows))
        squares = []
        for some in torch.split(values, max(1, (fit or 0) // len(rows))):
            # copies of the samples share one rollout and its adjoint, whose calls cost more than their arithmetic
            copies = StartDerivatives(problem, chunk.rows(rows.repeat(len(some))), None, point)
            (pulled,) = copies.pull_states(some.flatten(0, 1)[None])
            own = initial.coefficients(pulled).view(len(some), -1, *initial.learned.shape)
            squares.append(own.double().square().sum(1).cpu())
        gradient, noise, curvature = torch.split(torch.cat(squares), [1, draws, draws])
        own = starts.double().square().sum(0).cpu()
        total += torch.stack([gradient[0], own, noise.mean(0), curvature.mean(0)])
    return total
