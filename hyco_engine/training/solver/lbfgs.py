"""L-BFGS with a strong-Wolfe line search that stays within a trust region."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import Player
from hyco_engine.training.problem import Problem
from hyco_engine.training.solver.full_batch import Ends, FullBatch, FullBatchState, Iteration, stably, stacked

FIRST_STEP = 0.03
"""The first step changes the parameters by about this much of their scale."""
HISTORY = 20
"""Number of pairs of steps and gradient changes that L-BFGS keeps."""
LOOKED_UP = 64
"""Number of points whose loss and gradient L-BFGS remembers."""
FLAT = 5
"""L-BFGS has converged after so many iterations in a row that gain no more than rounding."""

Evaluation = tuple[Tensor, float, list[Tensor], Callable[[], dict[str, float]]]
"""A tuple (point, loss, gradients, function that computes the metrics)."""


@attrs.define(kw_only=True, eq=False)
class LBFGSState(FullBatchState):
    """The state of L-BFGS: torch's optimizer with its curvature pairs, and the `scale` of the loss.

    Both are None before the first step. `flat` counts the last iterations that gained no more than rounding.
    `evaluations` are remembered, and not saved.
    """

    optimizer: torch.optim.LBFGS
    scale: float | None = None
    flat: int = 0
    evaluations: list[Evaluation] = attrs.Factory(list)

    def state_dict(self) -> dict[str, Any]:
        return {**self.counts(), "scale": self.scale, "flat": self.flat, "pairs": _saved_pairs(self.optimizer)}


@attrs.frozen(kw_only=True)
class LBFGS(FullBatch[LBFGSState]):
    """L-BFGS on a scaled loss, with which no first step changes a parameter by more than all of its scale.

    The scaling makes the unit of the loss irrelevant: torch skips updates where y.s < 1e-10, and its own first step is
    as long as the gradient.
    """

    player: Player
    name: str = "lbfgs"

    @property
    def passes(self) -> Literal["gradients"]:
        return "gradients"

    def fresh(self, problem: Problem) -> LBFGSState:
        return LBFGSState(optimizer=_optimizer(problem.parameters))

    def init(self, problem: Problem, before: LBFGSState | None = None) -> LBFGSState:
        state = super().init(problem, before)
        state.evaluations, state.flat = [], 0
        return state

    def load(self, saved: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> LBFGSState:
        optimizer = _optimizer(parameters)
        _load_pairs(optimizer, parameters[0], saved["pairs"])
        return LBFGSState(
            **{name: value for name, value in saved.items() if name != "pairs"},
            optimizer=optimizer,
        )

    def forget(self, state: LBFGSState) -> None:
        state.scale, state.flat = None, 0
        state.optimizer = _optimizer(_parameters(state))
        state.evaluations = []

    def iterate(self, problem: Problem, state: LBFGSState) -> Iteration:
        if problem.terms:
            # these terms draw other samples in each iteration, which changes the loss at a point
            state.evaluations = []
        parameters = _parameters(state)
        start = _point(parameters)
        before = self._evaluate(problem, state)
        if not math.isfinite(before[1]):
            return Iteration(loss=before[1], metrics=before[3]())
        moved = False
        for fresh in (_is_fresh(state), True):
            if fresh and not _is_fresh(state):
                self._restart(state)
            self._search_line(problem, state)
            accepted = self._evaluate(problem, state)
            if not (torch.isfinite(_point(parameters)).all() and math.isfinite(accepted[1])):
                state.nonfinite += 1
                nn.utils.vector_to_parameters(start, parameters)
                self._restart(state)
                accepted = self._evaluate(problem, state)
            moved = not torch.equal(start, _point(parameters))
            if moved or fresh:
                break
        # a converged search tries the same points again and again
        state.evaluations = state.evaluations[-LOOKED_UP:]
        eps = torch.finfo(start.dtype).eps
        state.flat = state.flat + 1 if before[1] - accepted[1] <= eps * before[1] else 0
        return Iteration(loss=accepted[1], metrics=accepted[3](), converged=not moved or state.flat >= FLAT)

    @staticmethod
    def _restart(state: LBFGSState) -> None:
        state.scale, state.flat = None, 0
        state.optimizer = _optimizer(_parameters(state))

    def _search_line(self, problem: Problem, state: LBFGSState) -> None:
        parameters = _parameters(state)
        start, (_, loss, gradients, _) = _point(parameters), self._evaluate(problem, state)
        allowed = _trust_region(problem, start)
        length = 1.0
        if state.scale is None:
            flat = torch.cat([gradient.flatten() for gradient in gradients]).double().abs()
            total, largest = float(flat.sum()), float(flat.max())
            usable = math.isfinite(total) and largest > 0
            state.scale = min(FIRST_STEP * len(flat) / total, 1 / largest) if usable else 1.0
            # the first step's length is min(1, 1 / |g|_1) * lr * |g|
            length = max(1.0, state.scale * total) if usable else 1.0
        state.optimizer.param_groups[0]["lr"] = length
        scale = state.scale

        def evaluate() -> Tensor:
            value, slopes, sign = loss, gradients, -1.0
            if bool(((_point(parameters) - start).abs() <= allowed).all()):
                known = self._evaluate(problem, state)
                if math.isfinite(known[1]):
                    value, slopes, sign = known[1], known[2], 1.0
            # a point beyond the trust region gets the start's loss and reversed gradient: the search goes half way back
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter.grad = slope * (sign * scale)
            return torch.tensor(value * scale, dtype=torch.float64)

        state.optimizer.step(evaluate)  # type: ignore[no-untyped-call]

    def _evaluate(self, problem: Problem, state: LBFGSState) -> Evaluation:
        """Return loss and gradient here, from memory if possible: the line search ends at a point that it has tried."""
        parameters = _parameters(state)
        point = _point(parameters)
        # most often the point is one of the last
        for known in reversed(state.evaluations):
            if torch.equal(known[0], point):
                return known
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        loss, metrics = problem.gradient()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        if not math.isfinite(loss):
            state.nonfinite += 1
        state.evaluations.append((point, loss, gradients, metrics))
        return state.evaluations[-1]

    def search(self, problem: Problem, starts: Tensor, iterations: int) -> Ends:
        """Iterate from one start after the other."""
        points, losses, converged = [], [], []
        for start in starts:
            problem.unknowns.move_to(start)
            problem.unknowns.settle_steps()
            state = self.fresh(problem)
            loss, done = math.inf, False
            for _ in range(iterations):
                made = stably(problem, partial(self.iterate, problem, state), partial(self.forget, state))
                loss, done = made.loss, made.converged
                if done or not math.isfinite(loss):
                    break
            points.append(problem.unknowns.point())
            losses.append(loss)
            converged.append(done)
        return stacked(points, losses, converged)


def _optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.LBFGS:
    # max_eval counts from the iteration's first evaluation, which comes from memory
    return torch.optim.LBFGS(
        parameters,
        max_iter=1,
        max_eval=25,
        history_size=HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )


def _parameters(state: LBFGSState) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = state.optimizer.param_groups[0]["params"]
    return parameters


def _point(parameters: Sequence[nn.Parameter]) -> Tensor:
    return nn.utils.parameters_to_vector(parameters).detach().clone()


def _trust_region(problem: Problem, point: Tensor) -> Tensor:
    """Return how far one line search may move each number; it has no bound for learned start states."""
    own = problem.unknowns.trust_region()
    return torch.cat([own, own.new_full((len(point) - len(own),), math.inf)]).to(point)


def _is_fresh(state: LBFGSState) -> bool:
    return not state.optimizer.state


def _saved_pairs(optimizer: torch.optim.LBFGS) -> dict[str, Tensor]:
    """Return torch's state as tensors by name."""
    saved: dict[str, Tensor] = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                saved[name] = value.clone()
            elif isinstance(value, list):
                saved |= {f"{name}.{k}": entry.clone() for k, entry in enumerate(value) if entry is not None}
            elif value is not None:
                saved[name] = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
    return saved


def _load_pairs(optimizer: torch.optim.LBFGS, first: nn.Parameter, saved: Mapping[str, Tensor]) -> None:
    if not saved:
        return
    own = optimizer.state[first]
    lists: dict[str, dict[int, Tensor]] = {}
    for name, value in saved.items():
        head, _, index = name.partition(".")
        if index:
            lists.setdefault(head, {})[int(index)] = value.to(first.device, copy=True)
        elif head in ("func_evals", "n_iter"):
            own[head] = int(value)
        elif head in ("prev_loss", "t"):
            own[head] = float(value)
        else:
            own[head] = value.to(first.device, copy=True)
    for head, entries in lists.items():
        length = HISTORY if head == "al" else len(entries)
        own[head] = [entries.get(k) for k in range(length)]
    own.setdefault("old_dirs", [])
    own.setdefault("old_stps", [])
    own.setdefault("ro", [])
