"""`hyco-engine doctor`: checks of this machine, one line for each thing that may be wrong."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
import click

from hyco_engine.cli.options import json_option, print_json
from hyco_engine.cli.plugins import disable_option, discover

if TYPE_CHECKING:
    from hyco_engine.hooks.registry import Registry

SHOWN = ("hyco-engine", "torch", "phiflow", "phiml", "numpy")
LOW_DISK = 5 * 10**9
LOW_MEMORY = 2 * 10**9
NETWORK = ("nfs", "cifs", "smb", "sshfs", "lustre", "gpfs", "beegfs", "9p", "afs")


@attrs.frozen
class Finding:
    """The result of one check; `remedy` says what to do unless the status is "ok"."""

    name: str
    status: Literal["ok", "warning", "problem"]
    message: str
    remedy: str = ""


@click.command()
@disable_option
@json_option
def doctor(disable_plugin: tuple[str, ...], as_json: bool) -> None:
    """Check that this machine is ready: versions, torch's build, PhiFlow, compiler, devices, disk, memory, plugins.

    The command looks for the cache and the runs at the default places of a spec in the working directory. The exit code
    is 1 if there is a problem; warnings do not count.
    """
    registry = discover(disable_plugin)
    findings = list(examine(registry))
    broken = any(finding.status == "problem" for finding in findings)
    if as_json:
        print_json({"ok": not broken, "findings": [attrs.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            remedy = f": {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.status:<8} {finding.name:<9} {finding.message}{remedy}")
    sys.exit(1 if broken else 0)


def examine(registry: Registry) -> Iterator[Finding]:
    """Yield the result of every check, in the order in which they are printed."""
    yield _versions()
    yield _torch()
    yield _phiflow()
    yield _compiler()
    yield from _devices()
    for name in ("cache", "runs"):
        yield _disk(name)
    yield _memory()
    yield from _plugins(registry)


def _versions() -> Finding:
    from importlib import metadata

    from packaging.requirements import Requirement

    from hyco_engine.runs.environment import DISTRIBUTION, package_versions

    versions = package_versions()
    told = ", ".join(
        [f"python {platform.python_version()}"]
        + [
            f"{name} {versions[name]}"
            for name in ("hyco-engine", "torch", "phiflow", "phiml", "numpy")
            if name in versions
        ]
    )
    try:
        wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return Finding("versions", "warning", told, "hyco-engine is not installed, so its versions are not checked")
    wrong = [
        f"{requirement.name}{requirement.specifier}"
        for requirement in wanted
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not requirement.specifier.contains(versions.get(requirement.name, "0"), prereleases=True)
    ]
    if wrong:
        command = " ".join(f"'{text}'" for text in wrong)
        return Finding("versions", "problem", f"{told}; required are {', '.join(wrong)}", f"pip install {command}")
    return Finding("versions", "ok", told)


def _torch() -> Finding:
    """Tell which build of torch is installed and its size, which differs by gigabytes."""
    import torch

    cuda, hip = torch.version.cuda, torch.version.hip
    built = f"CUDA {cuda}" if cuda is not None else f"ROCm {hip}" if hip is not None else "CPUs"
    size = _installed_bytes("torch")
    told = f"torch {torch.__version__} is built for {built}"
    if size:
        told += f" and takes {size / 1e9:.1f} GB" + (" with its libraries for GPUs" if cuda is not None else "")
    if cuda is not None and not Path("/dev/nvidiactl").exists():
        told += "; there is no NVIDIA GPU here, so the build for CPUs would do and is much smaller (see the README)"
    return Finding("torch", "ok", told)


def _installed_bytes(distribution: str) -> int:
    """Return the size of a distribution and of the libraries for GPUs that it requires; 0 if it is unknown."""
    from importlib import metadata

    from packaging.requirements import Requirement

    waiting, total, seen = [distribution], 0, set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        total += sum(file.size or 0 for file in found.files or ())
        required = (Requirement(text).name for text in found.requires or ())
        waiting += [name for name in required if name.startswith(("nvidia-", "cuda-", "triton"))]
    return total


def _phiflow() -> Finding:
    try:
        from hyco_engine.physics.probe import probe

        results = list(probe())
    except Exception as error:
        text = f"PhiFlow cannot be imported: {type(error).__name__}: {error}"
        return Finding("phiflow", "problem", text, "pip install --force-reinstall hyco-engine")
    wrong = [f"{what} ({fault})" for what, fault in results if fault]
    if wrong:
        remedy = "install the versions that hyco-engine asks for; phiml 1.16.1 is known to break 1-D advection"
        return Finding("phiflow", "problem", f"PhiFlow computes wrong results on torch: {'; '.join(wrong)}", remedy)
    return Finding("phiflow", "ok", f"PhiFlow is right in {', '.join(what for what, _ in results)}")


def _compiler() -> Finding:
    from hyco_engine.physics.compiling import has_compiler

    if has_compiler():
        return Finding("compiler", "ok", "there is a C++ compiler, so long runs can be compiled")
    remedy = "install g++ or clang++, or name one in CXX, to make the physics several times as fast"
    return Finding("compiler", "warning", "there is no C++ compiler, so physical.compile stays at 'graph'", remedy)


def _devices() -> Iterator[Finding]:
    import torch

    from hyco_engine.resources import usable_cores

    usable, threads = usable_cores(), torch.get_num_threads()
    told = f"cpu, {usable} core(s), {threads} torch thread(s)"
    if threads > usable:
        yield Finding("device", "warning", told, f"more threads than cores are slow: set OMP_NUM_THREADS={usable}")
    else:
        yield Finding("device", "ok", told)
    if torch.version.cuda is None or not torch.cuda.is_available():
        if torch.version.cuda is not None and Path("/dev/nvidiactl").exists():
            remedy = "check that the driver fits torch (nvidia-smi), and check CUDA_VISIBLE_DEVICES"
            yield Finding("device", "warning", "there is a GPU that torch cannot use", remedy)
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield Finding("device", "ok", f"cuda:{index}, {about.name}, {about.total_memory / 1e9:.0f} GB")


def _disk(name: str) -> Finding:
    """Check the default place of `paths.<name>`."""
    import psutil

    place = Path(name).absolute()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    key = f"paths.{name}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "problem", f"{place} cannot be written", f"set {key} to a folder that can be written")
    free = shutil.disk_usage(there).free
    told = f"{place}, {free / 1e9:.1f} GB free"
    mounts = [part for part in psutil.disk_partitions(all=True) if there.is_relative_to(part.mountpoint)]
    system = max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""
    if free < LOW_DISK:
        return Finding(name, "warning", told, f"free some space, or set {key} to another disk")
    if name == "cache" and system.startswith(NETWORK):
        return Finding(
            name,
            "warning",
            f"{told}, on {system}",
            f"set {key} to a local disk: locks and maps are unsafe on this one",
        )
    return Finding(name, "ok", told)


def _memory() -> Finding:
    from hyco_engine.resources import free_memory, limit_text

    told = limit_text()
    if free_memory() < LOW_MEMORY:
        return Finding("memory", "warning", told, "end other programs, or set augmentation.cache.kind = 'disk'")
    return Finding("memory", "ok", told)


def _plugins(registry: Registry) -> Iterator[Finding]:
    usable = [info for info in registry.plugins if info.status == "ok"]
    others = len({info.distribution for info in usable} - {"hyco-engine"})
    yield Finding("plugins", "ok", f"{len(usable)} usable, from hyco-engine and {others} other distribution(s)")
    for info in registry.plugins:
        if info.status == "failed":
            remedy = "see hyco-engine plugins check; repair, update or uninstall the plugin, or give --disable-plugin"
            yield Finding("plugins", "problem", f"{info} failed: {' '.join(info.reason.split())}", remedy)
        for warning in info.warnings:
            yield Finding("plugins", "warning", f"{info}: {' '.join(warning.split())}", "tell its author")
