"""Normal equations of parameters and of start states that are learned beside them.

Each start state has a residual of its own rollout alone, so H = J^T J has the form of an arrow: with the block A of the
parameters, and for each sample w the block C_w of its start and the block B_w between both,

    H = [[A, B_1, B_2, ...], [B_1^T, C_1, 0, ...], [B_2^T, 0, C_2, ...], ...]

The starts are eliminated one by one. What is left for the parameters is the Schur complement S = A - sum_w B_w C_w^-1
B_w^T; s^2 S^-1 is the covariance of the parameters when the starts are unknown too.
Source: the reduced camera system of bundle adjustment, B. Triggs et al., LNCS 1883 (2000), sec. 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import attrs
import torch
from torch import Tensor

from hyco_engine.training.least_squares import decrease, unit_scale, within_box

# a start value on which no residual depends keeps its place, as the damping is relative
_LEAST_DAMPING = 1e-12


@attrs.frozen(kw_only=True, eq=False)
class Arrow:
    """The quadratic model of P parameters and of W learned start states with D values each, float64.

    A point is `[1, P + W D]`: the parameters, then the start states of the samples in their order.
    """

    values: Tensor
    """F, `[1]`."""
    gradient: Tensor
    """J^T r of the parameters, `[P]`."""
    hessian: Tensor
    """A, `[P, P]`."""
    start_gradient: Tensor
    """J^T r of the starts, `[W, D]`."""
    between: Tensor
    """B, `[W, P, D]`."""
    start_hessian: Tensor
    """C, `[W, D, D]`."""
    count: int
    """The number of observed values."""

    @classmethod
    def of(cls, residual: Tensor, jacobian: Tensor, count: int, learned: Tensor) -> Arrow:
        """Return the quadratic model of one chunk.

        Of its residuals `[B, N]` and derivatives `[B, N, P + D]`, the first `count` belong to the parameters. The
        starts of the samples at `learned` (bool `[B]`) are unknown.
        """
        r, j = residual.double(), jacobian[:, :, :count].double()
        own, pulled = jacobian[learned, :, count:].double(), r[learned]
        return cls(
            values=r.square().sum()[None].cpu(),
            gradient=torch.einsum("bnp,bn->p", j, r).cpu(),
            hessian=torch.einsum("bnp,bnq->pq", j, j).cpu(),
            start_gradient=torch.einsum("bnd,bn->bd", own, pulled).cpu(),
            between=(j[learned].mT @ own).cpu(),
            start_hessian=(own.mT @ own).cpu(),
            # the residual and derivatives of a value that was not observed are 0
            count=int(((residual != 0) | (jacobian != 0).any(-1)).sum()),
        )

    @classmethod
    def joined(cls, parts: Sequence[Arrow]) -> Arrow:
        """Return the quadratic model of all chunks, in the order of their samples."""
        summed = {name: torch.stack([getattr(part, name) for part in parts]).sum(0) for name in _SUMMED}
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _JOINED}
        return cls(**summed, **joined, count=sum(part.count for part in parts))

    def with_prior(self, value: Tensor, gradient: Tensor, hessian: Tensor) -> Arrow:
        """Return the quadratic model of the sum with a prior of the parameters."""
        return attrs.evolve(
            self, values=self.values + value, gradient=self.gradient + gradient, hessian=self.hessian + hessian
        )

    @property
    def usable(self) -> Tensor:
        parts = (getattr(self, name) for name in (*_SUMMED, *_JOINED))
        return torch.tensor([all(bool(part.isfinite().all()) for part in parts)])

    @cached_property
    def reduced(self) -> tuple[Tensor, Tensor]:
        """The gradient `[P]` and the Hessian `[P, P]` of the parameters once the starts follow them."""
        return self._reduce(0.0)[:2]

    def decrease(self) -> Tensor:
        if not bool(self.usable):
            return torch.full((1,), torch.inf, dtype=torch.float64)
        gradient, hessian, pulled, _ = self._reduce(0.0)
        return decrease(hessian[None], gradient[None]) + (self.start_gradient * pulled).sum()

    def step(self, starts: Tensor, damping: Tensor, trust_region: Tensor | None) -> Tensor:
        own = float(damping)
        gradient, hessian, pulled, solved = self._reduce(own)
        moved = within_box(hessian[None], gradient[None], torch.zeros(1, dtype=torch.float64), trust_region)
        followed = -(pulled + torch.einsum("wdp,p->wd", solved, moved[0]))
        return torch.cat([moved, followed.reshape(1, -1)], dim=1)

    def predicted(self, starts: Tensor, delta: Tensor) -> Tensor:
        moved, followed = self._split(delta)
        linear = (self.gradient * moved).sum() + (self.start_gradient * followed).sum()
        curved = moved @ self.hessian @ moved
        curved = curved + 2 * torch.einsum("p,wpd,wd->", moved, self.between, followed)
        curved = curved + torch.einsum("wd,wde,we->", followed, self.start_hessian, followed)
        return (-2 * linear - curved)[None]

    def _split(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self.gradient)
        return delta[0, :count], delta[0, count:].view_as(self.start_gradient)

    def _reduce(self, damping: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the reduced gradient and Hessian, C^-1 g `[W, D]` and C^-1 B^T `[W, D, P]`, all of them damped."""
        scale = unit_scale(self.start_hessian)
        more = (damping + _LEAST_DAMPING) * scale.square()
        right = torch.cat([self.start_gradient[:, :, None], self.between.mT], dim=2)
        solution = torch.linalg.solve(self.start_hessian + torch.diag_embed(more), right)
        pulled, solved = solution[:, :, 0], solution[:, :, 1:]
        gradient = self.gradient - torch.einsum("wpd,wd->p", self.between, pulled)
        own = self.hessian + torch.diag(damping * unit_scale(self.hessian).square())
        return gradient, own - torch.einsum("wpd,wdq->pq", self.between, solved), pulled, solved


_SUMMED = ("values", "gradient", "hessian")
_JOINED = ("start_gradient", "between", "start_hessian")
