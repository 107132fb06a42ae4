"""Waves of start states that noise hides in the observed starts, and that later frames show all the same.

Many waves, each below the noise, make up a front or a kink. Once a physics fits, its residuals tell: where starts lack
a wave, the loss has a larger gradient by that wave than noise alone would give it. The same residuals with signs drawn
at random, which hold no signal any more, tell how large that is, whatever their sizes (wild bootstrap).
Source: C. F. J. Wu, Ann. Stat. 14 (1986), for the bootstrap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyco_engine.data.masks import corner
from hyco_engine.training.linearized import StartDerivatives
from hyco_engine.training.problem import Problem
from hyco_engine.training.visible_waves import stand_out

LEAST_DRAWS = 4
VALUES = 16
"""So many draws, over all windows, tell the variance of a gradient to a third."""


def learn_shown_waves(problem: Problem) -> bool:
    """Learn those hidden waves of the starts, too, without which they do not fit; return False if there are none.

    It is for a problem whose parameters and start states have converged.
    """
    initial = problem.initial
    if initial is None or initial.waves is None:
        return False
    found = problem.shards.sum(problem.shards.each(lambda shard: _squares(problem, shard)))
    windows = len(initial.scaled)
    # the mean of an inverse of so many squares is larger than the inverse of their mean
    unbiased = 1 - 2 / (windows * _draws(windows))
    signal, noise = found[0], found[1].clamp(min=torch.finfo(found.dtype).tiny)
    learned = initial.learned.cpu()
    shown = torch.zeros_like(learned)
    for channel, waves in enumerate(initial.waves):
        place = corner(waves.lengths)
        hidden = waves.mean(learned[channel][place].double()) < 1
        if bool(hidden.any()):
            power = unbiased * waves.mean(signal[channel][place]) / waves.mean(noise[channel][place])
            values = windows * math.prod(waves.lengths) / hidden.numel()
            hidden[hidden.clone()] = stand_out(waves.rough[hidden], power[hidden], values)
            shown[channel][place] = hidden
    if not bool(shown.any()):
        return False
    initial.learn(learned | shown, problem.data)
    return True


def _draws(windows: int) -> int:
    return max(LEAST_DRAWS, -(-VALUES // windows))


def _squares(problem: Problem, shard: int) -> Tensor:
    """Return the squares `[2, C_dyn, *S]` of the loss's gradient by each wave, and those that noise gives it.

    Both are sums over the windows of one shard.
    """
    initial = problem.initial
    assert initial is not None
    generator = problem.generator(f"signs of residuals, shard {shard}", problem.begun)
    draws = _draws(len(initial.scaled))
    total = torch.zeros(2, *initial.learned.shape, dtype=torch.float64)
    point = problem.unknowns.point()[None]
    for chunk in problem.chunks(shard):
        with torch.no_grad():
            residuals = StartDerivatives(problem, chunk, None, point).residuals()
        signs = 2 * torch.randint(0, 2, (draws, *residuals.shape), generator=generator).to(residuals) - 1
        values = torch.cat([residuals[None], signs * residuals])
        rows = torch.arange(len(residuals))
        fit = problem.together("gradients", chunk.batch, len(values) * len(rows))
        squares = []
        for some in torch.split(values, max(1, (fit or 0) // len(rows))):
            # copies of the samples share one rollout and its adjoint, whose calls cost more than their arithmetic
            copies = StartDerivatives(problem, chunk.rows(rows.repeat(len(some))), None, point)
            (pulled,) = copies.pull_states(some.flatten(0, 1)[None])
            own = initial.coefficients(pulled).view(len(some), -1, *initial.learned.shape)
            squares.append(own.double().square().sum(1).cpu())
        signal, noise = torch.split(torch.cat(squares), [1, draws])
        total += torch.cat([signal, noise.mean(0, keepdim=True)])
    return total
