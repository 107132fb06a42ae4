"""What an epoch's losses were, in all and in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyco_engine.interfaces import LossTerm

Numbers = Mapping[str, float | Tensor]


class EpochMetrics:
    """Running means over an epoch.

    Losses are in declared units, priority / scale times the term, whatever a normalizer makes of them: so they can be
    compared between normalizers, and from epoch to epoch. What the normalizer made is told by its weights and shares.
    """

    def __init__(self) -> None:
        self._losses: dict[tuple[str, str], tuple[Tensor | float, Tensor | float]] = {}
        self._factors: dict[str, float] = {}
        self._effective: dict[str, tuple[float, int]] = {}

    def add(self, terms: Sequence[LossTerm], generated: Tensor, weights: Numbers, shares: Numbers) -> None:
        """One batch: its terms, `[B]` which samples are generated, and the effective weights and shares by term."""
        for term in terms:
            name = term.spec.name
            self._factors[name] = term.spec.priority / (term.spec.scale or 1.0)
            weight = torch.ones_like(term.per_sample) if term.sample_weight is None else term.sample_weight
            values = term.per_sample.detach() * weight
            for part, chosen in (("loss", None), ("loss_real", ~generated), ("loss_generated", generated)):
                value, count = (values, weight) if chosen is None else (values[chosen], weight[chosen])
                before = self._losses.get((part, name), (0.0, 0.0))
                self._losses[part, name] = (before[0] + value.sum(), before[1] + count.sum())
        for kind, numbers in (("weight", weights), ("share", shares)):
            for name, number in numbers.items():
                total, batches = self._effective.get(f"{kind}/{name}", (0.0, 0))
                self._effective[f"{kind}/{name}"] = (total + float(number), batches + 1)

    def losses(self) -> dict[str, float]:
        """The mean of each term, unweighted, in its own unit."""
        return {name: mean for (part, name), mean in self._means().items() if part == "loss"}

    def metrics(self) -> dict[str, float]:
        """`train/loss`, `train/loss_real`, `train/loss_generated`: sums over terms.

        Where there are several terms also `train/loss/<term>` and so on, `weight/<term>` and `share/<term>`.
        """
        means = {key: self._factors[key[1]] * mean for key, mean in self._means().items()}
        metrics: dict[str, float] = {}
        for (part, _), mean in means.items():
            metrics[f"train/{part}"] = metrics.get(f"train/{part}", 0.0) + mean
        if len(self._factors) > 1:
            metrics |= {f"train/{part}/{name}": mean for (part, name), mean in means.items()}
            metrics |= {key: total / count for key, (total, count) in self._effective.items()}
        return metrics

    def _means(self) -> dict[tuple[str, str], float]:
        return {key: float(value / count) for key, (value, count) in self._losses.items() if float(count) > 0}
