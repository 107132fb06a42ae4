"""`{kind = ...}` tables: a kind picked from the registry with that record's options.

Each class names its hook and adds the keys that belong to the core and fit every kind. When a table is structured, the
core keys are taken by the class, all other keys by the record's option class.
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


@options
class NormalizerChoice(Choice):
    """`[loss] normalizer = {...}`."""

    hook = "hyco_normalizers"
    default_kind = "manual"


@options
class CacheChoice(Choice):
    """`[augmentation.cache]`; the kind `auto` is the core's: it picks memory, disk or on-the-fly by size."""

    hook = "hyco_caches"
    default_kind = "auto"
    core_kind = "auto"

    memory_budget_gb: float = option(
        2.0, help="below half of it: memory; below it: disk; else on-the-fly", unit="GB", gt=0.0, inf=True
    )
    directory: str | None = option(
        None, help='folder for generated samples; none: below paths.cache; "": no folder, disk is skipped'
    )


@options
class StrategyChoice(Choice):
    """`[augmentation]`."""

    hook = "hyco_strategies"
    default_kind = "trust"

    alpha: float = option(0.1, help="generated samples per real one", ge=0.0)
    cache: CacheChoice = option(attrs.Factory(lambda: CacheChoice(kind="auto")), help="how generated samples are held")


@options
class ArmChoice(Choice):
    """A strategy within another one, which tries several."""

    hook = "hyco_strategies"

    alpha: float | None = option(None, help="generated samples per real one; none: as in [augmentation]", ge=0.0)


@options
class TrackerChoice(Choice):
    """One table of `[trackers]`; the table's name is the kind."""

    hook = "hyco_trackers"
