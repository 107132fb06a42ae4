"""`grad-norm`: the weights give all terms' gradients the same norm in the shared parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import attrs
import torch
from torch import Tensor

from hyco_engine.builtin.normalizers.base import Balancer, Step
from hyco_engine.builtin.normalizers.options import GradNormOptions, NonFinite
from hyco_engine.builtin.normalizers.sizes import TINY, weighted
from hyco_engine.interfaces import LossTerm, NormalizerContext, TermSpec


@attrs.frozen
class Rate:
    """A term's first loss that was not 0, the rate lambda that its gradients led to, and the steps it took part in."""

    loss: float = 0.0
    rate: float = 1.0
    steps: float = 0.0


@final
class GradNorm(Balancer):
    """w_k = priority_k lambda_k / L_k(0); every N steps lambda_k <- decay lambda_k + (1 - decay) lambda^_k with

        lambda^_k = (sum_j |G_j| / K) / max(|G_k|, floor max_j |G_j|),    G_k = grad L_k / L_k(0).

    Wang, Teng, Perdikaris (SIAM J. Sci. Comput. 43, 2021), with L2 norms over the shared parameters. Each loss is
    divided by its first value; otherwise the term with the smallest unit would determine the mean over terms, and with
    it the step size. Every N steps it costs one backward pass a term.
    """

    unit_invariant = True
    requires = ("shared_parameters",)
    record = Rate

    def __init__(
        self, *, every: int = 10, decay: float = 0.9, floor: float = 1e-3, nonfinite: NonFinite = "raise"
    ) -> None:
        super().__init__(nonfinite=nonfinite)
        self.every = every
        self.decay = decay
        self.floor = floor
        # sums of w grad l over the micro-batches of this step
        self._gradients: dict[str, Tensor] = {}

    def advanced(self, state: Mapping[str, Rate], step: Step) -> dict[str, Rate]:
        sizes = step.sizes
        before = {name: state.get(name, Rate()) for name in sizes}
        steps = [rate.steps for rate in before.values()]
        rates = {name: rate.rate for name, rate in before.items()}
        losses = {name: rate.loss or _first(sizes[name].mean) for name, rate in before.items()}
        if max(steps) % self.every == 0 or min(steps) == 0:
            norms = self._norms(step)
            # a term without a gradient gives no information on its size
            relative = {name: norms[name] / loss for name, loss in losses.items() if loss > 0 and norms[name] > 0}
            largest = max(relative.values(), default=0.0)
            if 0 < largest < math.inf:
                mean = sum(relative.values()) / len(relative)
                for name, norm in relative.items():
                    found = mean / max(norm, self.floor * largest)
                    kept = self.decay if before[name].loss > 0 else 0.0
                    rates[name] = kept * rates[name] + (1.0 - kept) * found
        return {name: Rate(losses[name], rates[name], before[name].steps + 1.0) for name in sizes}

    def weight(self, spec: TermSpec, state: Rate | None) -> float:
        if state is None or state.loss <= 0:
            return self.manual_weight(spec)
        return spec.priority * state.rate / state.loss

    def _norms(self, step: Step) -> dict[str, float]:
        """Return |grad L_k| of this optimizer step so far, over all ranks."""
        context = step.context
        shared = [parameter for parameter in context.shared_parameters() if parameter.requires_grad]
        if not shared:
            raise ValueError("grad-norm needs shared parameters (StepContext.shared_parameters), and there are none")
        names = sorted(step.sizes)
        rows = context.reduce_sum(torch.stack([_gradient(step.terms.get(name), shared) for name in names]))
        before = {} if context.micro_step == 0 else self._gradients
        sums = {name: before[name] + row if name in before else row for name, row in zip(names, rows, strict=True)}
        self._gradients = {} if context.micro_step == context.n_micro - 1 else sums
        norms = torch.stack([sums[name].norm() for name in names]).tolist()
        return {name: norm / step.sizes[name].weight for name, norm in zip(names, norms, strict=True)}


def _first(loss: float) -> float:
    return loss if loss > TINY else 0.0


def _gradient(term: LossTerm | None, shared: list[Tensor]) -> Tensor:
    """Return grad of sum_b w_b l_b, flat, float64; 0 where it does not depend on the parameters."""
    if term is None or not term.per_sample.requires_grad:
        return torch.zeros(sum(parameter.numel() for parameter in shared), device=shared[0].device, dtype=torch.float64)
    found = torch.autograd.grad(
        weighted(term)[1].sum(), shared, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.detach().flatten().double() for gradient in found])


def build(options: GradNormOptions, context: NormalizerContext) -> GradNorm:
    """Build the normalizer `grad-norm`."""
    return GradNorm(every=options.every, decay=options.decay, floor=options.floor, nonfinite=options.nonfinite)
