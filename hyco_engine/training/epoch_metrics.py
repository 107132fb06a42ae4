"""The losses of an epoch, in total and in parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import LossTerm, NormalizedLoss, Player

Number = float | Tensor


class EpochMetrics:
    """Running means over an epoch.

    Losses are in declared units, priority / scale times the term, so that they are comparable between normalizers and
    from epoch to epoch. The weights and shares show the work of the normalizer. A batch in which a term's loss is not
    finite does not count for that term; `nonfinite` counts those batches.
    """

    def __init__(self) -> None:
        self._losses: dict[tuple[str, str], tuple[Number, Number]] = {}
        self._factors: dict[str, float] = {}
        self._made: dict[str, tuple[Number, Number]] = {}
        self._nonfinite: dict[str, Number] = {}
        self.batches = 0
        self.skipped = 0

    def add(self, terms: Sequence[LossTerm], generated: Tensor, loss: NormalizedLoss) -> None:
        """Add one batch: its terms, bool `generated [B]`, and the result of the normalizer."""
        finite: dict[str, Tensor] = {}
        for term in terms:
            name = term.spec.name
            self._factors[name] = term.spec.priority / (term.spec.scale or 1.0)
            weight, values = _weighted(term)
            # the sums stay on the device, since reading a number, or as many numbers as are chosen, would wait for it
            finite[name] = torch.isfinite(values.sum())
            for part, left_out in (("loss", None), ("loss_real", generated), ("loss_generated", ~generated)):
                before = self._losses.get((part, name), (0.0, 0.0))
                chosen = (n if left_out is None else n.masked_fill(left_out, 0.0) for n in (values, weight))
                sums = [torch.where(finite[name], numbers.sum(), 0.0) for numbers in chosen]
                self._losses[part, name] = (before[0] + sums[0], before[1] + sums[1])
        self._count(finite)
        for kind, numbers in (("weight/", loss.weights), ("share/", loss.shares), ("", loss.log)):
            for name, number in numbers.items():
                there = finite[name].to(torch.float64) if name in finite else 1.0
                known = number.detach() if isinstance(number, Tensor) else number
                total, batches = self._made.get(f"{kind}{name}", (0.0, 0.0))
                self._made[f"{kind}{name}"] = (total + known * there, batches + there)

    def skip(self, terms: Sequence[LossTerm]) -> None:
        """Count one batch that the normalizer left out."""
        self.skipped += 1
        self._count({term.spec.name: torch.isfinite(_weighted(term)[1].sum()) for term in terms})

    def _count(self, finite: Mapping[str, Tensor]) -> None:
        self.batches += 1
        for name, there in finite.items():
            self._nonfinite[name] = self._nonfinite.get(name, 0) + there.logical_not().long()

    @property
    def nonfinite(self) -> dict[str, int]:
        """Return the number of batches with a loss that was not finite, for each term that had one."""
        counts = {name: int(count) for name, count in self._nonfinite.items()}
        return {name: count for name, count in counts.items() if count}

    def losses(self) -> dict[str, float]:
        """Return the mean of each term, unweighted, in its own unit."""
        return {name: mean for (part, name), mean in self._means().items() if part == "loss"}

    def metrics(self) -> dict[str, float]:
        """Return `train/loss`, `train/loss_real` and `train/loss_generated`, which are sums over terms.

        Several terms add `train/loss/<term>` and so on, `weight/<term>`, `share/<term>`, and what the normalizer logs.
        `train/skipped` counts batches that the normalizer left out, and `nonfinite/<term>` those in which the term was
        not finite.
        """
        means = {key: self._factors[key[1]] * mean for key, mean in self._means().items()}
        metrics: dict[str, float] = {}
        for (part, _), mean in means.items():
            metrics[f"train/{part}"] = metrics.get(f"train/{part}", 0.0) + mean
        if len(self._factors) > 1:
            metrics |= {f"train/{part}/{name}": mean for (part, name), mean in means.items()}
            metrics |= {key: float(total) / float(n) for key, (total, n) in self._made.items() if float(n) > 0}
        if self.skipped:
            metrics["train/skipped"] = self.skipped
        return metrics | {f"nonfinite/{name}": count for name, count in self.nonfinite.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the present sums, as tensors and plain values."""
        return copy.deepcopy(vars(self))

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> EpochMetrics:
        """Return the metrics of which `saved` is the state dict."""
        metrics = cls()
        vars(metrics).update(copy.deepcopy(dict(saved)))
        return metrics

    def _means(self) -> dict[tuple[str, str], float]:
        return {key: float(value / count) for key, (value, count) in self._losses.items() if float(count) > 0}


def _weighted(term: LossTerm) -> tuple[Tensor, Tensor]:
    """Return `w [B]` and `w l [B]`; a sample of weight 0 adds nothing, whatever its loss."""
    values = term.per_sample.detach()
    if term.sample_weight is None:
        return torch.ones_like(values), values
    weight = term.sample_weight
    return weight, torch.where(weight > 0, weight * values, 0.0)


@attrs.define
class SkippedBatches:
    """The batches of a phase that a normalizer left out, in whole or in part."""

    batches: int = 0
    skipped: int = 0
    whole_epochs: int = 0
    nonfinite: dict[str, int] = attrs.Factory(dict)

    def epoch(self, epoch: EpochMetrics) -> None:
        """Count one epoch."""
        self.batches += epoch.batches
        self.skipped += epoch.skipped
        self.whole_epochs += int(0 < epoch.batches == epoch.skipped)
        for name, count in epoch.nonfinite.items():
            self.nonfinite[name] = self.nonfinite.get(name, 0) + count

    def note(self, player: Player) -> str | None:
        """Return a message to the user; None if there were no such batches."""
        if not self.skipped and not self.nonfinite:
            return None
        where = ", ".join(f"{name!r} in {count}" for name, count in self.nonfinite.items())
        text = f"of {self.batches} batches of the {player} model {self.skipped} were left out"
        text += f"; losses were not finite: {where}" if where else ""
        if self.whole_epochs:
            text += f"; nothing at all was learned in {self.whole_epochs} epoch(s)"
        return text + f". Lower training.{player}.lr, set clip_grad_norm, or shorten data.num_predict_steps"
