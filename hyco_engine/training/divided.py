"""Losses whose samples are divided among shards, and shards among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import LossTerm
from hyco_engine.ranks.shards import Shards

Terms = Callable[[int, Tensor], list[LossTerm]]
"""Returns the loss terms of the samples at some rows of a batch, which make one shard."""


class DividedLoss:
    """The loss terms of one batch. Each rank computes those of its own shards, and all ranks know all of them.

    A normalizer sees `terms`, whose values are those of the whole batch and do not know how they came about. Once the
    total is differentiated by them, `pull` adds its gradient by the `parameters` to their `grad`: every shard's is
    computed alone. So a normalizer need not know that there are shards.
    """

    def __init__(self, shards: Shards, samples: int, terms: Terms, parameters: Sequence[nn.Parameter]) -> None:
        self._shards = shards
        self._parameters = parameters
        ends = shards.cut(samples)
        self._own = [(slice(*ends[shard]), _terms(terms, shard, *ends[shard])) for shard in shards.own]
        there = [own for _, own in self._own if own]
        if not there:
            # without a sample the names and types of its terms are still needed
            with torch.no_grad():
                there = [[_without_samples(term) for term in terms(0, torch.arange(1))]]
        mine = [joined([own[k] for own in there]) for k in range(len(there[0]))]
        self.terms = joined_terms(shards, mine, samples)
        if torch.is_grad_enabled():
            for term in self.terms:
                term.per_sample.requires_grad_()

    def pull(self) -> None:
        """Add the gradient to the parameters' `grad`."""
        slopes = [
            torch.zeros_like(term.per_sample) if term.per_sample.grad is None else term.per_sample.grad
            for term in self.terms
        ]
        whole = DividedSum(self._shards, self._parameters)
        for rows, own in self._own:
            given = [(term.per_sample, slope[rows]) for term, slope in zip(own, slopes, strict=bool(own))]
            if used := [(value, slope) for value, slope in given if value.requires_grad]:
                torch.autograd.backward([value for value, _ in used], [slope for _, slope in used])
            whole.add()
        self._own.clear()
        whole.differentiate()


class DividedSum:
    """A sum over all shards and its gradient. Each shard adds to the parameters' `grad`, and then calls `add`.

    At the end, `differentiate` adds the gradient of the sum to what was in their `grad` before.
    """

    def __init__(self, shards: Shards, parameters: Sequence[nn.Parameter]) -> None:
        self._shards = shards
        self._parameters = parameters
        self._values: list[float] = []
        self._gradients: list[Tensor] = []
        self._before = [p.grad for p in parameters]
        self._clear()

    def add(self, value: float = 0.0) -> None:
        """Take over what one shard of this rank found."""
        self._values.append(value)
        if self._parameters and not self._shards.whole:
            there = torch.tensor([p.grad is not None for p in self._parameters], device=self._parameters[0].device)
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            flat = torch.cat([part.detach().flatten() for part in found])
            self._gradients.append(torch.cat([flat, there.to(flat)]))
            self._clear()

    def total(self) -> float:
        """Return the sum of all values."""
        if self._shards.whole:
            return self._values[0]
        return float(self._shards.sum([torch.tensor(value, dtype=torch.float64) for value in self._values]))

    def differentiate(self) -> None:
        """Add the gradient of the sum to the parameters' `grad`."""
        if self._parameters and not self._shards.whole:
            summed = self._shards.sum(self._gradients)
            sizes = [p.numel() for p in self._parameters]
            *parts, there = torch.split(summed, [*sizes, len(sizes)])
            for parameter, part, before, used in zip(
                self._parameters, parts, self._before, there.tolist(), strict=True
            ):
                new = part.view_as(parameter).to(parameter.dtype) if used else None
                parameter.grad = new if before is None else before if new is None else before + new

    def _clear(self) -> None:
        if not self._shards.whole:
            for parameter in self._parameters:
                parameter.grad = None


def joined(parts: Sequence[LossTerm]) -> LossTerm:
    """Return one term over the samples of all parts, without their gradients."""
    values, weights = zip(*map(weighted, parts), strict=True)
    return LossTerm(
        spec=parts[0].spec, per_sample=torch.cat(values).detach(), sample_weight=torch.cat(weights).detach()
    )


def weighted(term: LossTerm) -> tuple[Tensor, Tensor]:
    """Return the values and the weights of a term, both `[B]`."""
    return term.per_sample, torch.ones_like(term.per_sample) if term.sample_weight is None else term.sample_weight


def _terms(terms: Terms, shard: int, start: int, stop: int) -> list[LossTerm]:
    return terms(shard, torch.arange(start, stop)) if stop > start else []


def _without_samples(term: LossTerm) -> LossTerm:
    weight = term.per_sample if term.sample_weight is None else term.sample_weight
    return LossTerm(spec=term.spec, per_sample=term.per_sample[:0], sample_weight=weight[:0])


def joined_terms(shards: Shards, own: Sequence[LossTerm], samples: int) -> list[LossTerm]:
    """Return the terms of all samples, which every rank has for the samples of its own shards."""
    given = [(term, *weighted(term)) for term in own]
    columns = [column.detach().double() for _, *pair in given for column in pair]
    every = shards.joined(torch.stack(columns, dim=1), samples).unbind(1)
    return [
        LossTerm(spec=term.spec, per_sample=value.to(mine).clone(), sample_weight=weight.to(own_weight).clone())
        for (term, mine, own_weight), value, weight in zip(given, every[::2], every[1::2], strict=True)
    ]


@contextmanager
def unchanged_buffers(model: nn.Module, who: str) -> Iterator[None]:
    """Raise SpecError if the model changes a buffer within: it would hold what one rank saw."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(before[name].nan_to_num(), buffer.nan_to_num()):
            raise SpecError(
                f"{who} changes its buffer {name} while it trains, as batch normalization does, so its batches cannot "
                "be divided: train it in one process with run.shards = 1",
                key="run.shards",
            )
