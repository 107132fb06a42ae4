"""Says what this process may take: memory, by the machine, its control groups and its own limits, and processors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import attrs
import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60
"""Control groups of version 1 say "no limit" by a number about this large."""


@attrs.frozen(kw_only=True)
class MemoryLimit:
    """The bytes that may be used in all, those still free, and their source: "machine", "cgroup" or "rlimit"."""

    source: str
    total: int
    free: int


def memory_limits(groups: Iterable[Path] | None = None) -> list[MemoryLimit]:
    """Return all limits that can be read, the tightest first, for control groups with these folders.

    Without `groups` they are those of this process.
    """
    machine = psutil.virtual_memory()
    found = [MemoryLimit(source="machine", total=int(machine.total), free=int(machine.available))]
    for group in _own_groups() if groups is None else groups:
        if (limit := _group_limit(group)) is not None:
            found.append(limit)
    if resource is not None:
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            used = int(psutil.Process().memory_info().vms)
            found.append(MemoryLimit(source="rlimit", total=soft, free=max(0, soft - used)))
    return sorted(found, key=lambda limit: limit.free)


def limit_text() -> str:
    """Describes the tightest limit, for messages."""
    tightest = memory_limits()[0]
    by = {"machine": "", "cgroup": " (limited by a control group)", "rlimit": " (limited by ulimit -v)"}
    return f"{tightest.free / 1e9:.1f} GB of {tightest.total / 1e9:.1f} GB free{by[tightest.source]}"


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Returns how many bytes of memory this process may still take."""
    return memory_limits()[0].free


def _own_groups() -> list[Path]:
    """Returns the folders of this process' control groups of version 2 and 1, inner ones first; Linux alone has any."""
    groups: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        own = root / path.lstrip("/")
        groups += [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    # inside a container the path may be the host's, while the container's own group is the root
    return list(dict.fromkeys([*groups, _CGROUPS, _CGROUPS / "memory"]))


def _group_limit(group: Path) -> MemoryLimit | None:
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            total = int((group / limit).read_text())
            taken = int((group / used).read_text())
            # pages of files that the kernel would drop at once
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file; "max"
            continue
        if total < _UNLIMITED:
            held = max(0, taken - int(statistics.get(cache, 0)))
            return MemoryLimit(source="cgroup", total=total, free=max(0, total - held))
    return None
