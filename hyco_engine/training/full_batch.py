"""Optimizers that see all samples at once: L-BFGS and Gauss-Newton, one iteration at a time, kept over the cycles."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.interfaces import PhysicalModel
from hyco_engine.training.least_squares import LevenbergMarquardt
from hyco_engine.training.linearized import LaneProblem, Linearizer
from hyco_engine.training.whole_loss import Metrics, WholeLoss

LOOKED_UP = 64
"""Points whose loss and gradient are remembered."""
FLAT = 5
"""L-BFGS iterations in a row that gain no more than rounding, after which it has converged."""


@attrs.frozen(kw_only=True)
class Iteration:
    """The loss where an iteration ended, and whether there is anything left to gain."""

    loss: float
    metrics: Metrics
    converged: bool = False


Evaluation = tuple[Tensor, float, list[Tensor], Callable[[], Metrics]]
"""(point, loss, gradients, what computes the metrics)."""


def step_reach(model: nn.Module) -> Tensor:
    """`[P]`, float64: how far one step may move each number that `model` learns; see `Transform.reach`."""
    known = model.learnables if isinstance(model, PhysicalModel) else None
    names = {} if known is None else {f"learnables.raw.{name}": known.transform(name).reach for name in known.learned}
    parts = [
        torch.full((parameter.numel(),), names.get(name, math.inf), dtype=torch.float64)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    return torch.cat(parts)


class FullBatch(ABC):
    """An optimizer that iterates over all samples.

    What it has learned of the loss's curvature belongs to one training set: where generated samples take part, each
    phase starts it anew. `nonfinite` and `uphill` count the steps of the present phase that were taken back.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._real_only = True
        self.nonfinite = 0
        self.uphill = 0

    def begin(self, real_only: bool) -> None:
        """Before a phase: what was learned on other samples is forgotten."""
        if not (real_only and self._real_only):
            self._restart()
        self._real_only = real_only
        self.nonfinite = self.uphill = 0

    def changed(self) -> None:
        """The loss is another one from here on."""
        self._restart()

    @abstractmethod
    def iterate(self, whole: WholeLoss) -> Iteration:
        """One iteration. A step to where the loss is not finite is taken back."""

    @abstractmethod
    def _restart(self) -> None:
        """Forget the curvature."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All state between two iterations, as tensors by name."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave."""

    def _counts(self) -> dict[str, Tensor]:
        counts = {name: torch.tensor(getattr(self, name)) for name in _COUNTS}
        return {**counts, "real_only": torch.tensor(self._real_only)}

    def _load_counts(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is left of `state`."""
        self._real_only = bool(state["real_only"])
        for name in _COUNTS:
            setattr(self, name, int(state[name]))
        return {name: value for name, value in state.items() if name not in (*_COUNTS, "real_only")}


_COUNTS = ("nonfinite", "uphill")


class GaussNewton(FullBatch):
    """Levenberg-Marquardt with forward-mode derivatives, for few parameters; see `least_squares`."""

    def __init__(self, parameters: Sequence[nn.Parameter], linearizer: Linearizer) -> None:
        super().__init__(parameters)
        self.linearizer = linearizer
        self._search = self._fresh()

    def iterate(self, whole: WholeLoss) -> Iteration:
        step = self._search.iterate(LaneProblem(whole, self.linearizer), whole.point()[None])
        self.nonfinite += int(step.nonfinite)
        self.uphill += int(step.uphill)
        if bool(step.moved):
            whole.move_to(step.points[0])
        loss, metrics = whole.value()
        more = {"train/damping": float(self._search.damping), "train/rejected": float(step.nonfinite + step.uphill)}
        return Iteration(loss=loss, metrics=metrics | more, converged=bool(step.converged))

    def _restart(self) -> None:
        self._search = self._fresh()

    def _fresh(self) -> LevenbergMarquardt:
        reach = step_reach(self.linearizer.model)
        return LevenbergMarquardt(precision=self._parameters[0].dtype, reach=reach)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self._search.state_dict(), **self._counts()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._search.load_state_dict(self._load_counts(state))


class LBFGS(FullBatch):
    """L-BFGS with a strong-Wolfe line search that stays within `reach` `[P]` of its start (None: goes anywhere).

    The loss is scaled so that the first step changes the parameters by about `FIRST_STEP` of their scale, and none by
    more than all of it, whatever its unit: torch's updates are skipped where y.s < 1e-10, and its first step is as long
    as the gradient.
    """

    FIRST_STEP = 0.03
    HISTORY = 20

    def __init__(self, parameters: Sequence[nn.Parameter], reach: Tensor | None = None) -> None:
        super().__init__(parameters)
        own = self._point()
        self._reach = torch.full_like(own, math.inf) if reach is None else reach.to(own)
        self._evaluations: list[Evaluation] = []
        self._flat = 0
        self._scale: float | None = None
        self._lbfgs = self._fresh()

    def begin(self, real_only: bool) -> None:
        super().begin(real_only)
        self._evaluations = []
        self._flat = 0

    def changed(self) -> None:
        super().changed()
        self._evaluations = []

    def iterate(self, whole: WholeLoss) -> Iteration:
        if whole.extra:
            # their draws are others in each iteration, so the loss at a point is another
            self._evaluations = []
        start = self._point()
        before = self._evaluate(whole)
        if not math.isfinite(before[1]):
            return Iteration(loss=before[1], metrics=before[3]())
        moved = False
        for fresh in (self._is_fresh(), True):
            if fresh and not self._is_fresh():
                self._restart()
            self._search(whole)
            accepted = self._evaluate(whole)
            if not (torch.isfinite(self._point()).all() and math.isfinite(accepted[1])):
                self.nonfinite += 1
                nn.utils.vector_to_parameters(start, self._parameters)
                self._restart()
                accepted = self._evaluate(whole)
            moved = not torch.equal(start, self._point())
            if moved or fresh:
                break
        # a search that has converged tries the same points again and again
        self._evaluations = self._evaluations[-LOOKED_UP:]
        eps = torch.finfo(start.dtype).eps
        self._flat = self._flat + 1 if before[1] - accepted[1] <= eps * before[1] else 0
        return Iteration(loss=accepted[1], metrics=accepted[3](), converged=not moved or self._flat >= FLAT)

    def _search(self, whole: WholeLoss) -> None:
        start, (_, loss, gradients, _) = self._point(), self._evaluate(whole)
        length = 1.0
        if self._scale is None:
            flat = torch.cat([gradient.flatten() for gradient in gradients]).double().abs()
            total, largest = float(flat.sum()), float(flat.max())
            usable = math.isfinite(total) and largest > 0
            self._scale = min(self.FIRST_STEP * len(flat) / total, 1 / largest) if usable else 1.0
            # the first step's length is min(1, 1 / |g|_1) * lr * |g|
            length = max(1.0, self._scale * total) if usable else 1.0
        self._lbfgs.param_groups[0]["lr"] = length
        scale = self._scale

        def evaluate() -> Tensor:
            value, slopes, sign = loss, gradients, -1.0
            if bool(((self._point() - start).abs() <= self._reach).all()):
                known = self._evaluate(whole)
                if math.isfinite(known[1]):
                    value, slopes, sign = known[1], known[2], 1.0
            # what is too far looks like the start mirrored: the line search then goes back half of the way
            for parameter, slope in zip(self._parameters, slopes, strict=True):
                parameter.grad = slope * (sign * scale)
            return torch.tensor(value * scale, dtype=torch.float64)

        self._lbfgs.step(evaluate)  # type: ignore[no-untyped-call]

    def _evaluate(self, whole: WholeLoss) -> Evaluation:
        """Loss and gradient here. The line search ends where it has been: such points are looked up."""
        point = self._point()
        # most often it is one of the last
        for known in reversed(self._evaluations):
            if torch.equal(known[0], point):
                return known
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        loss, metrics = whole.gradient()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._parameters]
        if not math.isfinite(loss):
            self.nonfinite += 1
        self._evaluations.append((point, loss, gradients, metrics))
        return self._evaluations[-1]

    def _point(self) -> Tensor:
        return nn.utils.parameters_to_vector(self._parameters).detach().clone()

    def _is_fresh(self) -> bool:
        return not self._lbfgs.state

    def _restart(self) -> None:
        self._scale = None
        self._flat = 0
        self._lbfgs = self._fresh()

    def _fresh(self) -> torch.optim.LBFGS:
        # max_eval counts from the iteration's first evaluation, which is looked up
        return torch.optim.LBFGS(
            self._parameters,
            max_iter=1,
            max_eval=25,
            history_size=self.HISTORY,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def state_dict(self) -> dict[str, Tensor]:
        saved = {"flat": torch.tensor(self._flat), **self._counts()}
        if self._scale is not None:
            saved["scale"] = torch.tensor(self._scale, dtype=torch.float64)
        for state in self._lbfgs.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    saved[name] = value.clone()
                elif isinstance(value, list):
                    saved |= {f"{name}.{k}": entry.clone() for k, entry in enumerate(value) if entry is not None}
                elif value is not None:
                    saved[name] = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
        return saved

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._restart()
        self._evaluations = []
        state = self._load_counts(state)
        self._flat = int(state["flat"])
        if "scale" not in state:
            return
        self._scale = float(state["scale"])
        own = self._lbfgs.state[self._parameters[0]]
        lists: dict[str, dict[int, Tensor]] = {}
        for name, value in state.items():
            head, _, index = name.partition(".")
            if index:
                lists.setdefault(head, {})[int(index)] = value.clone()
            elif head in ("func_evals", "n_iter"):
                own[head] = int(value)
            elif head in ("prev_loss", "t"):
                own[head] = float(value)
            elif head not in ("scale", "flat"):
                own[head] = value.clone()
        for head, entries in lists.items():
            length = self.HISTORY if head == "al" else len(entries)
            own[head] = [entries.get(k) for k in range(length)]
        own.setdefault("old_dirs", [])
        own.setdefault("old_stps", [])
        own.setdefault("ro", [])
