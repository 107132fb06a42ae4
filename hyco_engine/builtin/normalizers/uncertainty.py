"""`uncertainty`: the variance of each term is learned with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.builtin.normalizers.base import Balancer, Step
from hyco_engine.builtin.normalizers.options import NonFinite, UncertaintyOptions
from hyco_engine.builtin.normalizers.sizes import TINY, Sizes
from hyco_engine.interfaces import NormalizerContext, StepContext, TermSpec

RANGE = 13.8
"""Largest change of s from its start, a factor of 10^6 in the weight, either way."""


@attrs.frozen
class Variance:
    """The start of a term, its first loss that was not 0."""

    loss: float


@final
class Uncertainty(Balancer):
    """w_k = priority_k c_k exp(-s_k) / scale_k, R = sum_k priority_k a_k s_k, with s_k = log sigma_k^2 learned.

    Kendall, Gal, Cipolla (CVPR 2018), eq. 7 and 10. c = a = 1/2 for gaussian, huber, residual and other terms; c = 1,
    a = 1/2 for categorical and bernoulli ones; c = a = 1 for laplace, where s = log b. The learned parameter is the
    offset d_k from the optimum for the first batch, s_k = log(c_k L_k(0) / (a_k scale_k)) + d_k, so that

        w_k = priority_k a_k exp(-d_k) / L_k(0),

    which makes the total independent of units. The optimum for a constant loss is w_k = priority_k a_k / L_k: a larger
    loss has a lower weight. The total may be negative, so do not monitor it.
    """

    unit_invariant = True
    learnable = True
    record = Variance

    def __init__(self, *, lr: float = 1e-2, nonfinite: NonFinite = "raise") -> None:
        super().__init__(nonfinite=nonfinite)
        self.lr = lr
        # on the CPU: one number each, needed on the host for the weights
        self._offsets: dict[str, nn.Parameter] = {}

    def add_term(self, spec: TermSpec) -> None:
        super().add_term(spec)
        self._offset(spec.name)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return one group a term, so that the groups of terms that appear later can be added."""
        common = {"lr": self.lr, "weight_decay": 0.0}
        return [{"params": [offset], "name": name, **common} for name, offset in self._offsets.items()]

    def post_step(self, context: StepContext) -> None:
        """Project s to its range."""
        with torch.no_grad():
            for offset in self._offsets.values():
                offset.clamp_(-RANGE, RANGE)

    def advanced(self, state: Mapping[str, Variance], step: Step) -> dict[str, Variance]:
        fresh = {name: size.mean for name, size in step.sizes.items() if name not in state}
        return {name: Variance(loss) for name, loss in fresh.items() if loss > TINY}

    def weight(self, spec: TermSpec, state: Variance | None) -> float:
        if state is None:
            return _factors(spec)[0] * self.manual_weight(spec)
        offset = float(self._offsets[spec.name].detach())
        return spec.priority * _factors(spec)[1] * math.exp(-offset) / state.loss

    def regularizer(
        self, state: Mapping[str, Variance], sizes: Mapping[str, Sizes], own: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Return R, whose gradient for d is that of the whole total, priority a (1 - exp(-d) L / L(0)).

        The losses come from the sums over all ranks in float64, so that the gradient is exactly 0 at the optimum; Adam
        would take a full step for a rounding error.
        """
        parts = []
        for name, share in own.items():
            spec, start = self.specs[name], state.get(name)
            if start is None:
                continue
            priority, (c, a) = spec.priority, _factors(spec)
            offset: Tensor = self._offsets[name]
            relative = sizes[name].mean / start.loss
            # the optimum lies below the range of s, so s does not move
            if relative <= math.exp(-RANGE):
                offset = offset.detach()
            pull = torch.exp(-offset)
            constant = math.log(c * start.loss / (a * (spec.scale or 1.0)))
            parts.append(share * priority * a * (relative * (pull - pull.detach()) + offset + constant))
        return torch.stack(parts).sum() if parts else None

    def logged(self, state: Mapping[str, Variance]) -> dict[str, float]:
        """Return `log_variance/<term>`, the s of the loss in units of its scale."""
        logged = {}
        for name, start in state.items():
            if name in self.specs:
                c, a = _factors(self.specs[name])
                offset = float(self._offsets[name].detach())
                logged[f"log_variance/{name}"] = (
                    math.log(c * start.loss / (a * (self.specs[name].scale or 1.0))) + offset
                )
        return logged

    def state_dict(self) -> dict[str, Tensor]:
        offsets = {f"offset/{name}": offset.detach().clone() for name, offset in sorted(self._offsets.items())}
        return {**super().state_dict(), **offsets}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load state as `Balancer.load_state_dict` does; the parameters stay the same objects."""
        offsets = {key.partition("/")[2]: value for key, value in state.items() if key.startswith("offset/")}
        super().load_state_dict({key: value for key, value in state.items() if not key.startswith("offset/")})
        with torch.no_grad():
            for name in {*self._offsets, *offsets}:
                self._offset(name).copy_(offsets.get(name, torch.zeros(())))

    def _offset(self, name: str) -> nn.Parameter:
        if name not in self._offsets:
            self._offsets[name] = nn.Parameter(torch.zeros((), dtype=torch.float64))
        return self._offsets[name]


def _factors(spec: TermSpec) -> tuple[float, float]:
    """Return (c, a)."""
    match spec.kind:
        case "categorical" | "bernoulli":
            return 1.0, 0.5
        case "laplace":
            return 1.0, 1.0
        case "gaussian" | "huber" | "residual" | "other":
            return 0.5, 0.5


def build(options: UncertaintyOptions, context: NormalizerContext) -> Uncertainty:
    """Build the normalizer `uncertainty`."""
    return Uncertainty(lr=options.lr, nonfinite=options.nonfinite)
