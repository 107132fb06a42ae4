"""Normal equations of parameters and of start states that are learned beside them.

Each start state has a residual of its own rollout alone, so H = J^T J has the form of an arrow: with the block A of the
parameters, and for each sample w the block C_w of its start and the block B_w between both,

    H = [[A, B_1, B_2, ...], [B_1^T, C_1, 0, ...], [B_2^T, 0, C_2, ...], ...]

The starts are eliminated one by one. What is left for the parameters is the Schur complement S = A - sum_w B_w C_w^-1
B_w^T; s^2 S^-1 is the covariance of the parameters when the starts are unknown too. Of several ranks, each holds the
blocks of its own samples: they exchange sums of P^2 numbers, and the steps of the starts.
Source: the reduced camera system of bundle adjustment, B. Triggs et al., LNCS 1883 (2000), sec. 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from hyco_engine.ranks.shards import Shards
from hyco_engine.training.least_squares import START_DAMPING, decrease, unit_scale, within_box

TOLERANCE = 1e-2
"""Conjugate gradients reduce the residual by this factor: a step that is so exact converges by it from step to step."""
MOST_PRODUCTS = 100
"""Most products of conjugate gradients for one solution."""
TOGETHER = 4
"""So many columns share the products of conjugate gradients: calls cost more than their arithmetic, up to here."""
# a start value on which no residual depends keeps its place, as the damping is relative
_LEAST_DAMPING = 1e-12


class StartCurvature(Protocol):
    """The blocks C_w of the start states, W in number, with D values each."""

    def times(self, starts: Tensor) -> Tensor:
        """Return C_w x_w `[W, D]` for x `[W, D]`."""

    def solve(self, right: Tensor, damping: float) -> Tensor:
        """Return the solutions `[W, D, K]` of damped systems with K right sides `[W, D, K]` each."""


@attrs.frozen(eq=False)
class DenseCurvature:
    """Blocks `[W, D, D]` as matrices, damped by their diagonals."""

    blocks: Tensor

    def times(self, starts: Tensor) -> Tensor:
        return torch.einsum("wde,we->wd", self.blocks, starts)

    def solve(self, right: Tensor, damping: float) -> Tensor:
        more = (damping + _LEAST_DAMPING) * unit_scale(self.blocks).square()
        solved, singular = torch.linalg.solve_ex(self.blocks + torch.diag_embed(more), right)
        # an error would end the rank that holds this start alone; NaN tells all of them
        solution: Tensor = torch.where((singular == 0)[:, None, None], solved, torch.nan)
        return solution


@attrs.frozen(eq=False)
class ProductCurvature:
    """Blocks of which only the products with states are known, damped by `scale`.

    `scale` is the curvature that the observed start gives each value of the learned one. Other frames add at most as
    much as they are many, so a few iterations of conjugate gradients are enough.
    """

    product: Callable[[Tensor], Tensor]
    """Returns C_w x_w for K vectors each, `[K, W, D]`."""
    scale: float

    def times(self, starts: Tensor) -> Tensor:
        return self.product(starts[None])[0]

    def solve(self, right: Tensor, damping: float) -> Tensor:
        def product(starts: Tensor) -> Tensor:
            return self.product(starts) + damping * self.scale * starts

        columns = OwnColumns.of(right.mT)
        groups = torch.split(columns.pack(right.mT).movedim(1, 0), TOGETHER)
        solved = torch.cat([_conjugate_gradients(product, group) for group in groups])
        return columns.unpack(solved.movedim(0, 1)).mT


@attrs.frozen(kw_only=True, eq=False)
class OwnColumns:
    """The columns among K that are not zero, of each of W samples: at most Q, so that Q products do for all.

    A sample does not depend on parameters that belong to other groups of simulations.
    """

    places: Tensor
    """`[W, Q]`; what is left of them points at columns that are zero."""
    count: int

    @classmethod
    def of(cls, columns: Tensor) -> OwnColumns:
        """Return those of `columns [W, K, N]`."""
        filled = (columns != 0).any(2)
        most = max([1, *filled.sum(1).tolist()])
        return cls(places=filled.byte().argsort(dim=1, descending=True, stable=True)[:, :most], count=columns.shape[1])

    def of_samples(self, chosen: Tensor) -> OwnColumns:
        """Return those of some samples, bool `[W]`."""
        return attrs.evolve(self, places=self.places[chosen])

    def pack(self, columns: Tensor) -> Tensor:
        """Return `[W, Q, N]` of `[W, K, N]`."""
        return columns.gather(1, self.places[..., None].expand(*self.places.shape, columns.shape[2]))

    def unpack(self, packed: Tensor) -> Tensor:
        """Return `[W, K, N]` of `[W, Q, N]`."""
        whole = packed.new_zeros(len(packed), self.count, packed.shape[2])
        return whole.scatter(1, self.places.to(packed.device)[..., None].expand_as(packed), packed)


def _conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Return the solutions `[K, W, D]` of K W systems at once, each with its own step lengths."""
    solution, residual = torch.zeros_like(right), right
    direction, size = right, right.square().sum(-1)
    aim = TOLERANCE**2 * size
    for _ in range(MOST_PRODUCTS):
        open_ = size > aim
        if not bool(open_.any()):
            break
        pushed = product(direction)
        curved = (direction * pushed).sum(-1)
        length = torch.where(open_ & (curved > 0), size / curved.where(curved > 0, 1.0), 0.0)[..., None]
        solution, residual = solution + length * direction, residual - length * pushed
        before, size = size, residual.square().sum(-1)
        direction = residual + (size / before.where(before > 0, 1.0))[..., None] * direction
    return solution


@attrs.frozen(kw_only=True, eq=False)
class ArrowPart:
    """The part of an `Arrow` that the samples of one chunk contribute, of which b have learned starts."""

    value: Tensor
    gradient: Tensor
    hessian: Tensor
    start_gradient: Tensor
    """`[b, D]`."""
    between: Tensor
    """`[b, P, D]`."""
    scores: Tensor
    """`[B, P]`."""
    count: int

    @classmethod
    def of(cls, residual: Tensor, jacobian: Tensor, learned: Tensor, pull: Callable[[Tensor], Tensor]) -> ArrowPart:
        """Return the part of a chunk with residuals `[B, N]` and derivatives `[B, N, P]` by the parameters.

        `pull` maps values `[K, B, N]` to their products `[K, b, D]` with the derivatives by the learned starts, those
        of the samples `learned`, bool `[B]`.
        """
        r, j = residual.double(), jacobian.double()
        own = OwnColumns.of(jacobian.mT)
        pulled = pull(torch.cat([residual[None], own.pack(jacobian.mT).movedim(1, 0)])).double().cpu()
        return cls(
            value=r.square().sum().cpu(),
            gradient=torch.einsum("bnp,bn->p", j, r).cpu(),
            hessian=torch.einsum("bnp,bnq->pq", j, j).cpu(),
            start_gradient=pulled[0],
            between=own.of_samples(learned).unpack(pulled[1:].movedim(0, 1)),
            scores=torch.einsum("bnp,bn->bp", j, r).cpu(),
            # the residual and derivatives of a value that was not observed are 0
            count=int(((residual != 0) | (jacobian != 0).any(-1)).sum()),
        )

    @classmethod
    def joined(cls, parts: Sequence[ArrowPart]) -> ArrowPart:
        """Return the part of all chunks, in the order of their samples."""
        return cls(
            value=torch.stack([part.value for part in parts]).sum(0),
            gradient=torch.stack([part.gradient for part in parts]).sum(0),
            hessian=torch.stack([part.hessian for part in parts]).sum(0),
            start_gradient=torch.cat([part.start_gradient for part in parts]),
            between=torch.cat([part.between for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            count=sum(part.count for part in parts),
        )

    @property
    def sums(self) -> Tensor:
        """All that is summed over shards, the count and the number of values that are not finite among it."""
        kept = (self.value, self.gradient, self.hessian, self.start_gradient, self.between)
        broken = sum(int((~part.isfinite()).sum()) for part in kept)
        numbers = self.value.new_tensor([self.count, broken])
        return torch.cat([self.value[None], self.gradient, self.hessian.flatten(), numbers])


@attrs.frozen(eq=False)
class OwnedStarts:
    """The learned starts of one shard, b in number, which only the rank of the shard holds."""

    part: ArrowPart
    curvature: StartCurvature

    def solved(self, damping: float) -> tuple[Tensor, Tensor]:
        """Return C^-1 g `[b, D]` and C^-1 B^T `[b, D, P]`, for damped starts."""
        right = torch.cat([self.part.start_gradient[:, :, None], self.part.between.mT], dim=2)
        solution = self.curvature.solve(right, damping)
        return solution[:, :, 0], solution[:, :, 1:]


@attrs.frozen(kw_only=True, eq=False)
class _Reduced:
    """What is left for the parameters once the starts are eliminated.

    `gain` is g^T C^-1 g of the starts, and `solved` has C^-1 g and C^-1 B^T of this rank's starts, shard by shard.
    """

    gradient: Tensor
    hessian: Tensor
    gain: Tensor
    solved: list[tuple[Tensor, Tensor]]


@attrs.frozen(kw_only=True, eq=False)
class Arrow:
    """The quadratic model of P parameters and of W learned start states with D values each, float64.

    A point is `[1, P + W D]`: the parameters, then the start states of the samples in their order. `owned` has the
    starts of this rank's shards; what is summed over starts is summed over the shards of all ranks, so that every
    method is a meeting of them.
    """

    values: Tensor
    """F, `[1]`."""
    gradient: Tensor
    """J^T r of the parameters, `[P]`."""
    hessian: Tensor
    """A, `[P, P]`."""
    count: int
    """The number of observed values."""
    broken: int
    """The number of values in the blocks of all samples that are not finite."""
    owned: list[OwnedStarts]
    shards: Shards
    samples: int
    """The number n of samples."""
    starts: int
    """W; the samples with learned starts are the first ones."""
    _known: dict[float, _Reduced] = attrs.field(init=False, factory=dict)
    """What `_reduce` found, by damping: the test for convergence and the first step ask for the same."""

    @classmethod
    def joined(cls, owned: list[OwnedStarts], shards: Shards, samples: int, starts: int) -> Arrow:
        """Return the quadratic model of all shards, of which this rank has its own."""
        p = len(owned[0].part.gradient)
        sums = shards.sum([own.part.sums for own in owned])
        value, gradient, hessian, count, broken = torch.split(sums, [1, p, p * p, 1, 1])
        return cls(
            values=value,
            gradient=gradient,
            hessian=hessian.view(p, p),
            count=int(count),
            broken=int(broken),
            owned=owned,
            shards=shards,
            samples=samples,
            starts=starts,
        )

    def with_prior(self, value: Tensor, gradient: Tensor, hessian: Tensor) -> Arrow:
        """Return the quadratic model of the sum with a prior of the parameters."""
        return attrs.evolve(
            self, values=self.values + value, gradient=self.gradient + gradient, hessian=self.hessian + hessian
        )

    @property
    def noise(self) -> Tensor:
        return self.values / max(1, self.count)

    @property
    def usable(self) -> Tensor:
        if self.broken or not _finite(self.values, self.gradient, self.hessian):
            return torch.tensor([False])
        # finite blocks may be singular, and products with starts may overflow
        left = self._reduce(0.0)
        return torch.tensor([_finite(left.gradient, left.hessian, left.gain)])

    @property
    def reduced(self) -> Tensor:
        """The Schur complement S `[P, P]`."""
        return self._reduce(0.0).hessian

    def scores(self) -> Tensor:
        """Return J^T r of the parameters for each sample, `[n, P]`: at their minimum, that of its start is zero."""
        return self.shards.joined(torch.cat([own.part.scores for own in self.owned]), self.samples)

    def decrease(self) -> Tensor:
        if not bool(self.usable):
            return torch.full((1,), torch.inf, dtype=torch.float64)
        left = self._reduce(0.0)
        return decrease(left.hessian[None], left.gradient[None]) + left.gain

    def step(self, starts: Tensor, damping: Tensor, trust_region: Tensor | None) -> Tensor:
        # damped starts follow the parameters less, so even a little of it would all but hold what both could explain
        left = self._reduce(max(0.0, float(damping) - START_DAMPING))
        moved = within_box(left.hessian[None], left.gradient[None], damping, trust_region)
        followed = [-(pulled + solved @ moved[0]) for pulled, solved in left.solved]
        return torch.cat([moved, self._everywhere(followed).reshape(1, -1)], dim=1)

    def start_step(self) -> tuple[Tensor, float]:
        """Return the undamped step `[W, D]` of the starts alone, and its gain if F were quadratic."""
        left = self._reduce(0.0)
        return self._everywhere([-pulled for pulled, _ in left.solved]), float(left.gain)

    def predicted(self, starts: Tensor, delta: Tensor) -> Tensor:
        moved, followed = torch.split(delta[0], [len(self.gradient), delta.shape[1] - len(self.gradient)])
        shifts = self._own(followed)
        pushed = self.shards.of_own(
            lambda: [own.curvature.times(shift) for own, shift in zip(self.owned, shifts, strict=True)]
        )
        parts = []
        for own, shift, curvature in zip(self.owned, shifts, pushed, strict=True):
            linear = (own.part.start_gradient * shift).sum()
            curved = (shift * curvature).sum()
            parts.append(torch.stack([linear, curved, torch.einsum("p,wpd,wd->", moved, own.part.between, shift)]))
        linear, curved, between = self.shards.sum(parts)
        gain: Tensor = -2 * ((self.gradient * moved).sum() + linear)
        gain = gain - (moved @ self.hessian @ moved + curved + 2 * between)
        return gain[None]

    def _reduce(self, damping: float) -> _Reduced:
        """Eliminate the starts, which are damped."""
        if damping not in self._known:
            self._known[damping] = self._reduced(damping)
        return self._known[damping]

    def _reduced(self, damping: float) -> _Reduced:
        solved = self.shards.of_own(lambda: [own.solved(damping) for own in self.owned])
        parts = []
        for own, (pulled, followed) in zip(self.owned, solved, strict=True):
            gradient = torch.einsum("wpd,wd->p", own.part.between, pulled)
            hessian = torch.einsum("wpd,wdq->pq", own.part.between, followed)
            gain = (own.part.start_gradient * pulled).sum()
            parts.append(torch.cat([gradient, hessian.flatten(), gain[None]]))
        p = len(self.gradient)
        gradient, hessian, gain = torch.split(self.shards.sum(parts), [p, p * p, 1])
        schur = self.hessian - hessian.view(p, p)
        return _Reduced(gradient=self.gradient - gradient, hessian=(schur + schur.T) / 2, gain=gain[0], solved=solved)

    def _everywhere(self, own: Sequence[Tensor]) -> Tensor:
        """Return the values `[W, D]` of all starts, of which this rank has its own, shard by shard."""
        rows = []
        for (start, stop), values in zip(self._ends(), own, strict=True):
            # the samples of a shard that were generated have no start to learn
            rows += [values, values.new_zeros(stop - start - len(values), values.shape[1])]
        return self.shards.joined(torch.cat(rows), self.samples)[: self.starts]

    def _own(self, starts: Tensor) -> list[Tensor]:
        """Return the values `[b, D]` of the starts of each of this rank's shards, from those of all, `[W D]`."""
        return [starts.view(self.starts, -1)[start:stop] for start, stop in self._ends()]

    def _ends(self) -> list[tuple[int, int]]:
        ends = self.shards.cut(self.samples)
        return [ends[shard] for shard in self.shards.own]


def _finite(*parts: Tensor) -> bool:
    return all(bool(part.isfinite().all()) for part in parts)
