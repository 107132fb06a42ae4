"""Optimizers by name, the learning-rate schedule, and L-BFGS over all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hyco_engine.spec.classes import TrainingSettings


def make_optimizer(parameters: Sequence[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer | FullBatch:
    """The optimizer that `settings.optimizer` names."""
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        case "sgd":
            return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
        case "lbfgs":
            return FullBatch(parameters)


def learning_rate(settings: TrainingSettings, fraction: float) -> float:
    """At `fraction` (0 to 1) of the whole run."""
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))


Metrics = dict[str, float]
LOOKED_UP = 64
"""Points whose loss and gradient are remembered."""


class FullBatch:
    """L-BFGS with a strong-Wolfe line search, one iteration at a time, kept over the cycles.

    Its curvature belongs to one training set: where generated samples take part, each phase starts it anew.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._real_only = True
        self._lbfgs = self._fresh()
        self._evaluations: list[tuple[Tensor, float, list[Tensor], Metrics]] = []

    def begin(self, real_only: bool) -> None:
        """Before a phase: what was evaluated on other samples is forgotten."""
        if not (real_only and self._real_only):
            self._lbfgs = self._fresh()
        self._real_only = real_only
        self._evaluations = []

    def iterate(self, closure: Callable[[], tuple[float, Metrics]]) -> tuple[float, Metrics]:
        """One iteration. `closure` adds the gradient to the parameters and returns the loss with its metrics.

        Returns those of the point that was accepted; a step to where the loss is not finite is taken back.
        """

        def evaluate() -> Tensor:
            return torch.tensor(self._evaluate(closure)[1], dtype=torch.float64)

        start = self._point()
        self._lbfgs.step(evaluate)  # type: ignore[no-untyped-call]
        if not (torch.isfinite(self._point()).all() and math.isfinite(self._evaluate(closure)[1])):
            nn.utils.vector_to_parameters(start, self._parameters)
            self._lbfgs = self._fresh()
        accepted = self._evaluate(closure)
        # a search that has converged tries the same points again and again
        self._evaluations = self._evaluations[-LOOKED_UP:]
        return accepted[1], accepted[3]

    def _evaluate(self, closure: Callable[[], tuple[float, Metrics]]) -> tuple[Tensor, float, list[Tensor], Metrics]:
        """Loss and gradient here. The line search ends where it has been: such points are looked up."""
        point = self._point()
        for known in self._evaluations:
            if torch.equal(known[0], point):
                for parameter, gradient in zip(self._parameters, known[2], strict=True):
                    parameter.grad = gradient.clone()
                return known
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        loss, metrics = closure()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._parameters]
        self._evaluations.append((point, loss, gradients, metrics))
        return self._evaluations[-1]

    def _point(self) -> Tensor:
        return nn.utils.parameters_to_vector(self._parameters).detach().clone()

    def _fresh(self) -> torch.optim.LBFGS:
        # max_eval counts from the iteration's first evaluation, which is looked up
        return torch.optim.LBFGS(
            self._parameters,
            max_iter=1,
            max_eval=25,
            history_size=20,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
