"""What an epoch's losses were, in all and in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyco_engine.interfaces import LossTerm


class EpochMetrics:
    """Running means of an epoch's losses: in all, by term, and apart for real and generated samples."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, terms: Sequence[LossTerm], weights: Mapping[str, float | Tensor], generated: Tensor) -> None:
        """One batch: its terms, their weights in the loss, and `[B]` which samples are generated."""
        for term in terms:
            weight = torch.ones_like(term.per_sample) if term.sample_weight is None else term.sample_weight
            values = float(weights[term.spec.name]) * (term.per_sample.detach() * weight)
            for name, chosen in (("loss", None), ("loss_real", ~generated), ("loss_generated", generated)):
                value, count = (values, weight) if chosen is None else (values[chosen], weight[chosen])
                self._add(f"train/{name}/{term.spec.name}", value.sum(), count.sum())

    def _add(self, key: str, value: Tensor, count: Tensor) -> None:
        sums = self._sums.setdefault(key, [torch.zeros_like(value), torch.zeros_like(count)])
        sums[0] += value
        sums[1] += count

    def metrics(self) -> dict[str, float]:
        """`train/loss` and its parts: each the sum over terms of weighted means; `train/loss/<term>` where several."""
        means = {key: float(value / count) for key, (value, count) in self._sums.items() if float(count) > 0}
        totals: dict[str, float] = {}
        for key, mean in means.items():
            head = key.rsplit("/", 1)[0]
            totals[head] = totals.get(head, 0.0) + mean
        several = len({key.rsplit("/", 1)[1] for key in means}) > 1
        return {**totals, **(means if several else {})}
