"""The loss terms of a model with the declarations of `[loss]`, and a warning where scales are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from hyco_engine.errors import SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import Player, Samples, TermSpec
from hyco_engine.spec.classes import LossSpec, TermSetting
from hyco_engine.training.losses import loss_of_size

UNLIKE = 100.0
"""The warning asks for scales from this ratio of two losses on, which errors that differ tenfold have."""
_LOOKED_AT = 1024


def declared_terms(
    own: Sequence[TermSpec],
    player: Player,
    loss: LossSpec,
    sizes: Mapping[str, float] | None,
    usual: Mapping[str, float] | None,
) -> list[TermSpec]:
    """Return the model's `own` terms with the declarations of `loss`.

    `sizes` are the scales for `scale = "data"`, and `usual` those of terms to which neither the model nor the spec
    gives a scale, since a loss in a field's unit would have another size in every unit, and optimizers notice: Adam's
    epsilon, for one. Raises SpecError if `loss` names another term.
    """
    override = getattr(loss, player).terms
    settings: Mapping[str, TermSetting] = loss.terms if override is None else override
    key = "loss.terms" if override is None else f"loss.{player}.terms"
    names = [term.name for term in own]
    for name in settings:
        if name not in names:
            raise SpecError(
                f"there is no loss term {name!r}; the terms are {', '.join(names)}{did_you_mean(name, names)}",
                key=f"{key}.{name}",
            )
    found = []
    for term in own:
        setting = settings.get(term.name, TermSetting())
        if setting.scale is None and term.scale is None and usual is not None:
            setting = TermSetting(scale=usual.get(term.name), weight=setting.weight)
        found.append(_declared(term, setting, sizes, f"{key}.{term.name}"))
    return found


def _declared(term: TermSpec, setting: TermSetting, sizes: Mapping[str, float] | None, key: str) -> TermSpec:
    size = setting.scale
    if size == "data":
        if sizes is None or term.name not in sizes:
            raise SpecError('scale = "data" needs fields; give a number', key=f"{key}.scale")
        size = sizes[term.name]
    if size is not None:
        # the declared scale is the size of an error, in the field's own unit
        term = attrs.evolve(term, scale=loss_of_size(term.kind, size))
    return attrs.evolve(term, priority=term.priority * setting.weight)


def sample_sizes(samples: Samples, terms: Sequence[TermSpec]) -> dict[str, float]:
    """Return the targets' standard deviation for each term that compares by differences, from the first samples."""
    targets = samples.batch(torch.arange(min(len(samples), _LOOKED_AT)))[1]
    if isinstance(targets, Tensor):
        return {}
    return {
        term.name: _spread(targets[term.name].flatten()[None])
        for term in terms
        if term.kind not in ("categorical", "bernoulli") and term.name in targets
    }


def _spread(values: Tensor) -> float:
    """Return the root of the variance averaged over the rows; NaN means "not observed" and is left out."""
    rows = [row[row.isfinite()].double() for row in values]
    variances = [float(row.var(correction=0)) for row in rows if len(row)]
    return math.sqrt(math.fsum(variances) / len(variances)) if variances else 0.0


def scale_warning(terms: Mapping[Player, Sequence[TermSpec]], sizes: Mapping[str, float]) -> str | None:
    """Return a warning with the scales to declare if a model's terms differ in size and scales are missing, else None.

    `sizes` holds the known sizes by term.
    """
    found = {player: _unlike(own, sizes) for player, own in terms.items()}
    players = [player for player, text in found.items() if text is not None]
    if not players:
        return None
    missing = [term.name for term in terms[players[0]] if term.scale is None and term.name in sizes]
    written = ", ".join(f"terms.{name} = {{ scale = {sizes[name]:.2g} }}" for name in missing)
    return (
        f"the loss terms of the {' and the '.join(players)} model are not comparable, and not all have a scale: "
        f"{found[players[0]]}. Write under [loss] {written}, or other sizes that should count as 1; see docs/losses.md"
    )


def _unlike(terms: Sequence[TermSpec], sizes: Mapping[str, float]) -> str | None:
    counted = [term for term in terms if term.priority > 0]
    if len(counted) < 2 or all(term.scale is not None for term in counted):
        return None
    losses = {
        term.name: term.priority * loss_of_size(term.kind, sizes[term.name]) / (term.scale or 1.0)
        for term in counted
        if sizes.get(term.name, 0.0) > 0
    }
    if len(losses) < 2:
        return None
    largest, smallest = max(losses, key=losses.__getitem__), min(losses, key=losses.__getitem__)
    if losses[largest] < UNLIKE * losses[smallest]:
        return None
    return (
        f"{largest!r}, with a standard deviation of {sizes[largest]:.3g}, counts "
        f"{losses[largest] / losses[smallest]:.2g} times as much as {smallest!r} with {sizes[smallest]:.3g}"
    )
