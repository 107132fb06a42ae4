"""A small training with three loss terms, on one rank or several, which tests normalizers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyco_engine.interfaces import LossNormalizer, LossTerm, NormalizedLoss, StepContext, TermSpec
from hyco_engine.training.normalized import Normalization

SPECS = (
    TermSpec(name="small", kind="categorical", n_elements=1, priority=2.0),
    TermSpec(name="wide", kind="laplace", n_elements=100, unit="m", scale=3.0, priority=1.0),
    TermSpec(name="middle", kind="gaussian", n_elements=9, unit="K^2", priority=0.5),
)
NAMES = tuple(spec.name for spec in SPECS)
BATCH = 16


class Run:
    """A small network with three loss terms that is trained through a normalizer.

    `units[name]` multiplies a term's loss. With `fixed`, the network does not change, so that the losses of equal
    batches are constant.
    """

    def __init__(
        self,
        normalizer: LossNormalizer,
        seed: int,
        *,
        units: Mapping[str, float] | None = None,
        fixed: bool = False,
        specs: Sequence[TermSpec] = SPECS,
    ) -> None:
        self.normalizer = normalizer
        self.normalization = Normalization(normalizer, specs, "under test")
        self.units = dict(units or {})
        self.fixed = fixed
        self.step = 0
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, len(SPECS)))
        for parameter in self.model.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
        self.inputs = torch.randn(BATCH, 6, generator=generator)
        self.targets = torch.randn(64, BATCH, len(SPECS), generator=generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def context(self, **more: Any) -> StepContext:
        """Return the context of the coming step."""
        return StepContext(step=self.step, shared_parameters=lambda: list(self.model.parameters()), **more)

    def terms(
        self, names: Sequence[str] = NAMES, samples: slice = slice(None), changes: Mapping[str, float] | None = None
    ) -> list[LossTerm]:
        """Return the terms `names` for some samples of the step's batch.

        `changes[name]` is a factor for the term's losses; a factor that is not finite replaces the first sample's loss.
        """
        target = self.targets[0 if self.fixed else self.step % len(self.targets)]
        errors = (self.model(self.inputs[samples]) - target[samples]).square()
        terms = []
        for k, spec in enumerate(SPECS):
            if spec.name not in names:
                continue
            loss = errors[:, k] * self.units.get(spec.name, 1.0)
            change = (changes or {}).get(spec.name, 1.0)
            loss = loss * change if math.isfinite(change) else torch.cat([loss[:1] * 0.0 + change, loss[1:]])
            terms.append(LossTerm(spec=spec, per_sample=loss))
        return terms

    def take(self, terms: Sequence[LossTerm] | None = None, context: StepContext | None = None) -> NormalizedLoss:
        """Make one optimizer step."""
        context = context or self.context()
        loss = self.normalization(self.terms() if terms is None else terms, context)
        self.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        self.apply(context)
        return loss

    def zero_grad(self) -> None:
        """Clear all gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        self.normalization.zero_grad()

    def apply(self, context: StepContext) -> None:
        """Step both optimizers."""
        if not self.fixed:
            self.optimizer.step()
        self.normalization.step(context)
        self.step += 1

    def gradient(self) -> Tensor:
        """Return the gradient of the last total in the network, flat."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.parameters()]
        return torch.cat([part.flatten() for part in parts])

    def gradient_of(self, term: LossTerm) -> Tensor:
        """Return the gradient of a term's mean, flat."""
        parts = torch.autograd.grad(term.mean(), list(self.model.parameters()), retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    def parameters(self) -> Tensor:
        """Return the parameters of the network, flat."""
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


class _Sum:
    """Implements `reduce_sum` among threads: all wait for each other, then each adds in the same order."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks)
        self._given: list[Tensor | None] = [None] * ranks

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        def reduce_sum(tensor: Tensor) -> Tensor:
            self._given[rank] = tensor
            self.barrier.wait()
            total = torch.stack([given for given in self._given if given is not None]).sum(0)
            self.barrier.wait()
            return total

        return reduce_sum


def on_ranks(ranks: Sequence[Run], names: Sequence[Sequence[str]], parts: Sequence[slice]) -> list[NormalizedLoss]:
    """Make one step in which each rank has its own terms and samples; gradients are summed over the ranks."""
    reduction = _Sum(len(ranks))
    losses: list[Any] = [None] * len(ranks)

    def work(rank: int) -> None:
        run = ranks[rank]
        try:
            run.zero_grad()
            context = run.context(reduce_sum=reduction.of(rank))
            losses[rank] = run.normalization(run.terms(names[rank], parts[rank]), context)
            losses[rank].total.backward()
        except BaseException as error:
            losses[rank] = error
            reduction.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [loss for loss in losses if isinstance(loss, BaseException)]
    # if one rank failed, the others failed only because they waited for it
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    _sum_gradients(ranks)
    for run in ranks:
        run.apply(run.context())
    return losses


def _sum_gradients(ranks: Sequence[Run]) -> None:
    def parameters(run: Run) -> list[Any]:
        own = [parameter for group in run.normalizer.param_groups() for parameter in group["params"]]
        return [*run.model.parameters(), *own]

    for together in zip(*map(parameters, ranks), strict=True):
        given = [parameter.grad for parameter in together if parameter.grad is not None]
        if given:
            total = torch.stack(given).sum(0)
            for parameter in together:
                parameter.grad = total.clone()
