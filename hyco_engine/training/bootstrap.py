"""Resamples of the training data, one for each member of an ensemble.

Source: L. Breiman (1996), Bagging predictors.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.ensemble import members_of
from hyco_engine.errors import SpecError
from hyco_engine.randomness import derive_generator
from hyco_engine.training.losses import Objective


def check_members(members: int, optimizer: str, objective: Objective) -> None:
    """Raise SpecError if models with this loss, or this optimizer, cannot train side by side."""
    if members == 1:
        return
    if not objective.rolls_out or objective.takes_parts:
        raise SpecError(
            "only surrogates that step states of fields forward can be members: leave members out",
            key="synthetic.members",
        )
    if optimizer == "gauss-newton":
        raise SpecError(
            f"gauss-newton has one vector of residuals, and {members} members have {members}: use adam or lbfgs",
            key="training.synthetic.optimizer",
        )


@attrs.frozen(kw_only=True, eq=False)
class Bootstrap:
    """The number of times `[N, n]` that each of N members has each of n real samples.

    All members see the same batches, in which these numbers are weights. Every member has all generated samples once.
    """

    counts: Tensor

    @classmethod
    def of(cls, model: nn.Module, samples: int, seed: int) -> Bootstrap | None:
        """Return the resamples for the members of an ensemble; None for any other model."""
        members = len(members_of(model))
        return cls.draw(members, samples, seed) if members > 1 and samples else None

    @classmethod
    def draw(cls, members: int, samples: int, seed: int) -> Bootstrap:
        """Draw `samples` of as many real samples with replacement, for each member."""
        drawn = [
            torch.randint(samples, (samples,), generator=derive_generator(seed, "bootstrap", member))
            for member in range(members)
        ]
        return cls(counts=torch.stack([torch.bincount(own, minlength=samples) for own in drawn]).float())

    def weights(self, indices: Tensor, generated: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Return the weights `[N, B]` of a batch for each member, given those `[B]` that samples have anyway."""
        real = indices.clamp(max=self.counts.shape[1] - 1)
        own = torch.where(generated, 1.0, self.counts[:, real].to(generated.device))
        return own if sample_weight is None else own * sample_weight
