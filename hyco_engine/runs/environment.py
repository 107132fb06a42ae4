"""The environment of a run: versions of packages and plugins, Python, machine, device, threads."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyco_engine.errors import DataError, Problem, SpecError
from hyco_engine.runs.reading import RunFiles

if TYPE_CHECKING:
    import torch

    from hyco_engine.hooks.registry import Registry

DISTRIBUTION = "hyco-engine"
ENVIRONMENT = "environment.json"


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
    """Return all plugins, usable or not; the version of a file is its digest."""
    return [
        {"name": info.name, "distribution": info.distribution, "version": info.version, "status": info.status}
        | ({} if info.file is None else {"file": str(info.file)})
        for info in registry.plugins
    ]


def plugin_files(folder: Path) -> tuple[str, ...]:
    """Return the files that were plugins of the run in a folder, as its user named them."""
    try:
        environment = RunFiles(folder).json(ENVIRONMENT)
        return tuple(str(info["file"]) for info in environment["plugins"] if "file" in info)
    except (DataError, KeyError, TypeError):
        # a run that has not begun has none, and one without this file does all else without it
        return ()


def plugin_options(files: Iterable[Path | str]) -> str:
    """Return the options by which a command loads files as plugins, with a space before each."""
    return "".join(f" --plugin {shlex.quote(str(file))}" for file in files)


@contextmanager
def asking_for_files(folder: Path, registry: Registry) -> Iterator[None]:
    """Add to a mistake in the spec of a run which of its plugins' files are not loaded now."""
    try:
        yield
    except SpecError as error:
        loaded = {info.name for info in registry.plugins}
        missing = [file for file in plugin_files(folder) if Path(file).name not in loaded]
        if not missing:
            raise
        told = f"{folder} is a run with the plugin {' and '.join(missing)}: add{plugin_options(missing)}"
        raise SpecError([*error.problems, Problem(message=told, key="--plugin")]) from error


def running_on(registry: Registry, device: torch.device, threads: int | Literal["auto"]) -> dict[str, Any]:
    """Return everything that the last digits of results may depend on; `threads` is `run.threads`."""
    return {
        "versions": package_versions(),
        "plugins": {info.name: info.version for info in registry.plugins if info.status == "ok" and info.file is None},
        "files": {
            info.name: info.version for info in registry.plugins if info.status == "ok" and info.file is not None
        },
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
