"""Tables `{kind = ...}`: each picks a kind from the registry and gives the options of its record.

Each class names its hook and adds the keys that belong to the core and fit every kind. When a table is structured, the
class takes the core keys, and the record's option class takes all other keys.
"""

from __future__ import annotations

import attrs

from hyco_engine.data.settings import BoundarySetting, SourceChoice
from hyco_engine.physics.settings import PhysicalChoice
from hyco_engine.settings import Choice, option, options

__all__ = [
    "ArmChoice",
    "BoundarySetting",
    "CacheChoice",
    "Choice",
    "NormalizerChoice",
    "PhysicalChoice",
    "SourceChoice",
    "StrategyChoice",
    "SyntheticChoice",
    "TrackerChoice",
]


@options
class SyntheticChoice(Choice):
    """`[synthetic]`."""

    hook = "hyco_models"
    role = "synthetic"

    members: int = option(
        1,
        help="number of surrogates that train side by side, each with its own initial weights and its own resample of "
        "the training data; the prediction is their mean, and their spread gives bands around it",
        ge=1,
        le=64,
    )


@options
class NormalizerChoice(Choice):
    """`[loss] normalizer = {...}`."""

    hook = "hyco_normalizers"
    default_kind = "manual"


@options
class CacheChoice(Choice):
    """`[augmentation.cache]`. The kind `auto` belongs to the core: it picks memory, disk or on-the-fly by size."""

    hook = "hyco_caches"
    default_kind = "auto"
    core_kind = "auto"

    memory_budget_gb: float = option(
        2.0,
        help="budget of auto: samples below half of it go to memory, below it to disk, and larger sets are made on "
        "the fly",
        unit="GB",
        gt=0.0,
        inf=True,
    )
    directory: str | None = option(
        None, help='folder for generated samples; none: a folder in paths.cache; "": no folder, so auto skips disk'
    )


@options
class StrategyChoice(Choice):
    """`[augmentation]`."""

    hook = "hyco_strategies"
    default_kind = "trust"

    alpha: float = option(
        0.1, help="number of generated samples for each real one; a strategy may use it as a weight", ge=0.0
    )
    cache: CacheChoice = option(
        attrs.Factory(lambda: CacheChoice(kind="auto")), help="cache backend: it holds generated samples"
    )


@options
class ArmChoice(Choice):
    """A candidate: a strategy within a strategy that compares several."""

    hook = "hyco_strategies"

    alpha: float | None = option(None, help="alpha of this strategy; none: that of [augmentation]", ge=0.0)


@options
class TrackerChoice(Choice):
    """A table of `[trackers]`; the name of the table is the kind."""

    hook = "hyco_trackers"
