"""Surrogates of one kind that train side by side, whose spread says where their mean is likely to be wrong.

The width of a band around the mean comes from held-out rollouts (split conformal prediction): it is the spread of the
members times a factor, for each field and lead time, below which the asked share of errors lies.

Sources: B. Lakshminarayanan et al. (2017), Simple and scalable predictive uncertainty estimation using deep ensembles;
J. Lei et al. (2018), Distribution-free predictive inference for regression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.errors import SpecError
from hyco_engine.interfaces import SurrogateContext
from hyco_engine.physics.within import physics_within
from hyco_engine.randomness import derive_seed


@attrs.frozen(kw_only=True, eq=False)
class Bands:
    """What turns the spread of an ensemble into bands that hold a share `level` of the truth.

    `factors [T, C_dyn]` belong to lead times 1 to T; later ones take those of T.
    """

    level: float
    factors: Tensor

    def half_width(self, paths: Tensor) -> Tensor:
        """Return half the width of the band, `[B, T, C_dyn, *S]`, around the mean of `paths [N, B, T, C_dyn, *S]`."""
        steps = paths.shape[2]
        factors = self.factors[torch.arange(steps).clamp(max=len(self.factors) - 1)].to(paths)
        return factors.view(1, *factors.shape, *[1] * (paths.dim() - 4)) * uncertainty(paths)

    def to_data(self) -> dict[str, Any]:
        return {"level": self.level, "factors": self.factors.tolist()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Bands:
        """Return what `to_data` gave. Raise KeyError, TypeError or ValueError for anything else."""
        factors = torch.tensor(data["factors"], dtype=torch.float64)
        if factors.dim() != 2 or not factors.numel() or not bool((factors >= 0).all()):
            raise ValueError("the factors of bands must be a table of numbers that are not negative")
        return cls(level=float(data["level"]), factors=factors)


@attrs.frozen(kw_only=True, eq=False)
class Prediction:
    """Rollouts of a stepper, each `[B, steps, C_dyn, *S]`.

    `mean` is the prediction. Of an ensemble, `spread` is the standard deviation of its members; `lower` and `upper` are
    the ends of bands that held a share of the truth in held-out rollouts, where the run calibrated some.
    """

    mean: Tensor
    spread: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None

    def each(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        """Return what `function` makes of each tensor."""
        parts = {name: getattr(self, name) for name in ("mean", "spread", "lower", "upper")}
        return Prediction(**{name: function(part) for name, part in parts.items() if part is not None})


class Ensemble(nn.Module):
    """Steppers with weights of their own: `forward(state [B, C_all, *S])` is the mean of their steps.

    `hyco_engine.rollout.rollout` rolls each member out by itself, and returns the mean of their paths. `bands` are
    those that the run calibrated, if any.
    """

    bands: Bands | None = None

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, state: Tensor) -> Tensor:
        return torch.stack([member(state) for member in self.members]).mean(0)


def calibrated(model: nn.Module, bands: Bands | None) -> nn.Module:
    """Return the model, an ensemble with these bands around its mean."""
    if isinstance(model, Ensemble):
        model.bands = bands
    return model


def uncertainty(paths: Tensor) -> Tensor:
    """Return the size of errors to expect, `[B, T, C_dyn, *S]`, up to a factor, of the mean of `paths [N, B, ...]`.

    It is the root mean square of the spread of the members here, and of that over the whole field at this lead time:
    where all members agree by chance, no band has the width 0.
    """
    variance = paths.var(0)
    whole = variance.flatten(3).mean(-1)
    return ((variance + whole.view(*whole.shape, *[1] * (variance.dim() - 3))) / 2).sqrt()


def members_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the members of an ensemble; any other model is its own only member."""
    return tuple(model.members) if isinstance(model, Ensemble) else (model,)


def build_ensemble(
    build: Callable[[SurrogateContext], nn.Module], context: SurrogateContext, members: int
) -> nn.Module:
    """Return what `build` makes of the context, or an ensemble of that for as many seeds as there are `members`.

    The first member begins with the weights that a surrogate alone would have. Raises SpecError for surrogates that
    contain a physics, each of which would learn parameters of its own.
    """
    if members == 1:
        return build(context)
    seeds = [context.seed, *(derive_seed(context.seed, "member", k) for k in range(1, members))]
    built = [build(attrs.evolve(context, seed=seed)) for seed in seeds]
    if physics_within(built[0]):
        raise SpecError(
            f"{members} members of a surrogate that contains the physics would find {members} sets of its parameters: "
            "take a surrogate without a physics, or leave members out",
            key="synthetic.members",
        )
    return Ensemble(built)
