"""A hierarchical prior: values of groups are drawn from a population, whose mean and spread the data determine.

The estimate y_k of group k has the standard error e_k, and its true value the distribution N(m, s^2), on the scale of
the unconstrained numbers. s solves sum_k (y_k - m)^2 / (s^2 + e_k^2) = K - 1, where m is the mean with the weights
1 / (s^2 + e_k^2), and is 0 where the error bars alone explain more. The value of group k is then
(y_k / e_k^2 + m / s^2) / (1 / e_k^2 + 1 / s^2): groups with much data keep theirs, those with few lean on the others.
Its error allows for those of m and s.
Sources: R. C. Paule, J. Mandel, J. Res. Natl. Bur. Stand. 87 (1982); C. N. Morris, J. Am. Stat. Assoc. 78 (1983).
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import PhysicalModel
from hyco_engine.training.error_bars import ErrorBars, quantile

_BISECTIONS = 100


@attrs.frozen(kw_only=True, eq=False)
class Population:
    """The `mean` and `spread` of the population, and the `values` and `errors` `[K]` of its groups after pooling."""

    mean: float
    spread: float
    values: Tensor
    errors: Tensor


def pooled(estimates: Tensor, errors: Tensor) -> Population:
    """Return the population of `estimates [K]` with the standard errors `errors [K]`; infinite: not determined."""
    y, variance = estimates.double(), errors.double().square()
    known = variance.isfinite()
    if int(known.sum()) < 2:
        raise ValueError("a population needs two groups whose values the data determine")

    def mean(spread: float) -> Tensor:
        weight = 1 / (spread**2 + variance[known])
        return (weight * y[known]).sum() / weight.sum()

    def excess(spread: float) -> float:
        """Return by how much the estimates scatter more than their errors and this spread explain."""
        scores = (y[known] - mean(spread)).square() / (spread**2 + variance[known])
        return float(scores.sum()) - (int(known.sum()) - 1)

    low, high = 0.0, float(y[known].max() - y[known].min())
    for _ in range(_BISECTIONS if excess(0.0) > 0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    spread = low
    m = mean(spread)
    of_mean = 1 / (1 / (spread**2 + variance[known])).sum()
    share = torch.where(known, spread**2 / (spread**2 + variance), 0.0)
    values = torch.where(known, share * y + (1 - share) * m, m)
    own = torch.where(known, share * variance, torch.full_like(variance, spread**2))
    # Morris, eq. 1.16 to 1.18: a value that leans on the population is as uncertain as the mean and the spread of it
    count = int(known.sum())
    typical = float(variance[known].mean()) + spread**2
    of_spread = torch.where(known, 2 / max(1, count - 3) * typical / (variance + spread**2) * (y - m).square(), 0.0)
    errors = (own + (1 - share).square() * (of_mean + of_spread)).sqrt()
    return Population(mean=float(m), spread=spread, values=values, errors=errors)


def pool(model: PhysicalModel, bars: ErrorBars, name: str) -> tuple[ErrorBars, dict[str, float]]:
    """Give the groups of the parameter `name` their pooled values; return the error bars then, and the population.

    The population is `mean`, `lower` and `upper`: the value at the mean, and one spread to both sides of it.
    """
    own = [k for k, known in enumerate(bars.names) if known.startswith(f"{name}[")]
    transform = model.learnables.transform(name)
    raw = model.learnables.raw[name].detach().double().cpu()
    determined = torch.tensor([bars.standard_error[bars.names[k]] is not None for k in own])
    errors = torch.where(determined, bars.covariance.diagonal()[own].sqrt(), math.inf)
    found = pooled(raw, errors)
    with torch.no_grad():
        model.learnables.raw[name].copy_(found.values)
    points = found.values.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(transform.to_value(points).sum(), points)
    reach = quantile(math.inf) * found.errors
    low, high = transform.to_value(found.values - reach), transform.to_value(found.values + reach)
    labels = [bars.names[k] for k in own]
    standard = dict(zip(labels, (found.errors * slopes.abs()).tolist(), strict=True))
    interval = dict(zip(labels, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    ends = torch.tensor([found.mean, found.mean - found.spread, found.mean + found.spread], dtype=torch.float64)
    population = dict(zip(("mean", "lower", "upper"), transform.to_value(ends).tolist(), strict=True))
    new = attrs.evolve(
        bars,
        standard_error={**bars.standard_error, **standard},
        interval={**bars.interval, **interval},
        assumption=f"{bars.assumption}; the values of {name} belong to one population",
    )
    return new, population
