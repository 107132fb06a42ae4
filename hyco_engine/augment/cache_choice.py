"""The choice of the cache for generated samples if the spec says `auto` (R15)."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

import attrs

from hyco_engine.errors import SpecError

AUTO = "auto"
MEMORY, DISK, ON_THE_FLY = "memory", "disk", "on-the-fly"
KEY = "augmentation.cache.kind"

# the substitutes for a kind that is not installed: first those that need less memory
_INSTEAD = {MEMORY: (DISK, ON_THE_FLY), DISK: (ON_THE_FLY, MEMORY), ON_THE_FLY: (DISK, MEMORY)}


@attrs.frozen(kw_only=True)
class CacheDecision:
    """The kind of cache, the reason in one sentence, and the bytes of all generated samples of the largest phase."""

    kind: str
    reason: str
    estimated_bytes: int


def choose_cache(
    requested_kind: str,
    sample_bytes: int,
    n_generated: int,
    budget_gb: float,
    has_folder: bool,
    available_kinds: Collection[str],
) -> CacheDecision:
    """Choose memory below half the budget, disk below the budget, else on-the-fly; keep a kind that the spec names.

    `sample_bytes` counts input and target; a GB is 1e9 bytes. Raises SpecError if nothing installed fits.
    """
    estimated = sample_bytes * n_generated
    size = f"{n_generated} samples × {sample_bytes} bytes = {_gb(estimated)} GB"
    if requested_kind != AUTO:
        return _forced(requested_kind, estimated, size, has_folder, available_kinds)
    wanted, why = _by_size(estimated, budget_gb, size)
    usable = [kind for kind in (wanted, *_INSTEAD[wanted]) if kind in available_kinds and (kind != DISK or has_folder)]
    if not usable:
        raise SpecError(
            f"'auto' finds no cache: {why}, but of memory, disk and on-the-fly "
            f"{'only disk is installed and has no folder' if DISK in available_kinds else 'none is installed'} "
            f"(installed: {_listed(available_kinds)}); enable the plugin that offers them, or name an installed kind",
            key=KEY,
        )
    for kind in (wanted, *_INSTEAD[wanted]):
        if kind == usable[0]:
            break
        skipped = kind == DISK and DISK in available_kinds
        why += "; there is no cache folder" if skipped else f"; {kind!r} is not installed"
    return CacheDecision(kind=usable[0], reason=f"{why}: {usable[0]}", estimated_bytes=estimated)


def _by_size(estimated: int, budget_gb: float, size: str) -> tuple[str, str]:
    # Decimal: a budget of 0.3 GB means 300000000 bytes, which 0.3 * 1e9 in binary may miss
    budget = Decimal(repr(float(budget_gb))) * 10**9
    if 2 * estimated < budget:
        return MEMORY, f"{size}, below half the budget of {budget_gb:g} GB"
    if estimated < budget:
        return DISK, f"{size}, at least half the budget of {budget_gb:g} GB but below it"
    return ON_THE_FLY, f"{size}, not below the budget of {budget_gb:g} GB"


def _forced(kind: str, estimated: int, size: str, has_folder: bool, available_kinds: Collection[str]) -> CacheDecision:
    if kind not in available_kinds:
        raise SpecError(f"the cache {kind!r} is not installed (installed: {_listed(available_kinds)})", key=KEY)
    if kind == DISK and not has_folder:
        raise SpecError(
            "the cache 'disk' needs a folder, but augmentation.cache.directory is \"\": name one, leave it out to use "
            "paths.cache, or choose 'memory' or 'on-the-fly'",
            key=KEY,
        )
    return CacheDecision(kind=kind, reason=f"the spec asks for {kind}; {size}", estimated_bytes=estimated)


def _listed(kinds: Collection[str]) -> str:
    return ", ".join(sorted(kinds)) or "none"


def _gb(count: int) -> str:
    """Format with enough digits to distinguish the two sides of a limit."""
    return f"{Decimal(count) / 10**9:.9f}".rstrip("0").rstrip(".") or "0"
