"""The environment of a run: versions of packages and plugins, Python, machine, device, threads."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from hyco_engine.hooks.registry import Registry

DISTRIBUTION = "hyco-engine"


def package_versions() -> dict[str, str]:
    """Return the versions of this package and of its direct dependencies, by distribution."""
    names = {DISTRIBUTION}
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        requirements = []
    for requirement in requirements:
        if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
            names.add(match[0])
    return {name: version for name in sorted(names) if (version := _version(name))}


def plugin_versions(registry: Registry) -> list[dict[str, Any]]:
    """Return all plugins, usable or not."""
    return [
        {"name": info.name, "distribution": info.distribution, "version": info.version, "status": info.status}
        for info in registry.plugins
    ]


def running_on(registry: Registry, device: torch.device, threads: int | Literal["auto"]) -> dict[str, Any]:
    """Return everything that the last digits of results may depend on; `threads` is `run.threads`."""
    return {
        "versions": package_versions(),
        "plugins": {plugin.name: plugin.version for plugin in registry.plugins if plugin.status == "ok"},
        "threads": threads,
        "device": str(device),
    }


def describe_environment(registry: Registry, device: torch.device | None = None) -> dict[str, Any]:
    """Return the content of environment.json, which names no user and no host."""
    import torch

    device = device or torch.device("cpu")
    return {
        "packages": package_versions(),
        "plugins": plugin_versions(registry),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "device": {"name": str(device), "model": _device_model(device)},
        "threads": {"torch": torch.get_num_threads(), "torch_interop": torch.get_num_interop_threads()},
        "torch": {
            "version": str(torch.__version__),
            "git": torch.version.git_version,
            "cuda": torch.version.cuda,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
    }


def _device_model(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
