"""The way from entry points to plugins. A fault of one plugin becomes its reason and never hides another plugin.

pluggy's own loader is not used: it silently drops the second of two equal entry-point names, lets one broken
import stop all others, and lets misspelt hooks pass.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import attrs

from hyco_engine.hooks.checking import Records, Refusal, as_refusal, collect, deprecated, describe, without_help
from hyco_engine.hooks.hookspecs import PROJECT

logger = logging.getLogger(__name__)

ENGINE = "hyco-engine"
SLOW_IMPORT_S = 0.5
LONG_IMPORT_S = 5.0
DIGITS = 12
"""How many digits of its digest are the version of a file."""

_HEAVY = ("torch", "phi")


@attrs.frozen(kw_only=True)
class PluginInfo:
    """The result of loading one plugin.

    `name` is the name of the entry point, or that of the `file` which is the plugin; the version of a file is its
    digest. `reason` says why a plugin is disabled or failed, and is empty otherwise.
    `records` maps a hook to its records sorted by kind. A plugin that failed only because another plugin offers the
    same kind keeps its records, and those of its kinds that are not in conflict can be used.
    """

    name: str
    distribution: str
    version: str
    status: Literal["ok", "disabled", "failed"] = "ok"
    reason: str = ""
    warnings: tuple[str, ...] = ()
    file: Path | None = None
    records: Records = attrs.field(factory=dict, repr=False)

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The kinds by hook, both sorted."""
        return {hook: tuple(record.kind for record in records) for hook, records in self.records.items()}

    def __str__(self) -> str:
        name = f"plugin {self.name!r}" if self.file is None else "plugin"
        return f"{name} ({self.distribution} {self.version})"

    def disabled(self) -> PluginInfo:
        return attrs.evolve(self, status="disabled", reason="disabled by name")

    def failed(self, reason: str) -> PluginInfo:
        return attrs.evolve(self, status="failed", reason=reason)

    def offering(self, records: Records) -> PluginInfo:
        """Add records, and the warnings about them.

        A deprecation is a Python warning as well, because authors see those in their tests.
        """
        for message in (old := tuple(deprecated(records))):
            warnings.warn(f"{self}: {message}", DeprecationWarning, stacklevel=2)
        return attrs.evolve(self, records=records, warnings=(*self.warnings, *old, *without_help(records)))

    def answers_to(self, names: Collection[str]) -> bool:
        """Return whether the name of the entry point or distribution is one of `names`, which are normalised."""
        return not {normalise(self.name), normalise(self.distribution)}.isdisjoint(names)


def normalise(name: str) -> str:
    """Normalise a distribution's name as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def load_plugins(disabled: Collection[str], entry_points: Iterable[metadata.EntryPoint] | None) -> list[PluginInfo]:
    """Return one plugin for each entry point; None means the installed ones. `disabled` names are normalised."""
    plugins: list[PluginInfo] = []
    if entry_points is None:
        entry_points, unreadable = _installed()
        plugins = [info.disabled() if info.answers_to(disabled) else info for info in unreadable]
    by_name: dict[str, list[tuple[PluginInfo, metadata.EntryPoint]]] = {}
    for entry_point in entry_points:
        distribution, version = _name_and_version(entry_point.dist)
        info = PluginInfo(name=entry_point.name, distribution=distribution, version=version)
        if info.answers_to(disabled):
            plugins.append(info.disabled())
            continue
        try:
            _check_version(entry_point.dist)
        except Refusal as refusal:
            plugins.append(info.failed(str(refusal)))
        else:
            by_name.setdefault(info.name, []).append((info, entry_point))

    # sorted, because only the first plugin that imports torch can be caught at it
    for name, claims in sorted(by_name.items()):
        own = [claim for claim in claims if normalise(claim[0].distribution) == ENGINE]
        if len(claims) == 1 or len(own) == 1:
            kept = own[0] if own else claims[0]
            plugins.append(_load(*kept))
            reason = f"{kept[0]} has this entry-point name, which no other distribution may use; rename the entry point"
            plugins += [info.failed(reason) for info, _ in claims if info is not kept[0]]
            continue
        owners = " and ".join(sorted(f"{info.distribution} {info.version}" for info, _ in claims))
        reason = (
            f"the entry-point name {name!r} is used by {owners}, so none of them is loaded; "
            f"disable or uninstall all but one of them"
        )
        plugins += [info.failed(reason) for info, _ in claims]
    return plugins


def _installed() -> tuple[list[metadata.EntryPoint], list[PluginInfo]]:
    """Return the group's entry points, and the distributions that seem to offer some but cannot be read."""
    try:
        return list(metadata.entry_points(group=PROJECT)), []
    except Exception:
        # one malformed entry_points.txt, of any distribution, hides all others
        return _installed_one_by_one()


def _installed_one_by_one() -> tuple[list[metadata.EntryPoint], list[PluginInfo]]:
    found: list[metadata.EntryPoint] = []
    unreadable: list[PluginInfo] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name, version = _name_and_version(distribution)
        if normalise(name) in seen:
            continue
        seen.add(normalise(name))
        text = ""
        try:
            text = distribution.read_text("entry_points.txt") or ""
            found += distribution.entry_points.select(group=PROJECT)
        except Exception as error:
            if f"[{PROJECT}]" in text:
                info = PluginInfo(name=name, distribution=name, version=version)
                unreadable.append(info.failed(f"its entry_points.txt cannot be read: {describe(error)}"))
    return found, unreadable


def _name_and_version(distribution: metadata.Distribution | None) -> tuple[str, str]:
    if distribution is None:
        return "unknown", "unknown"
    try:
        return distribution.name or "unknown", distribution.version or "unknown"
    except Exception:  # damaged metadata
        return "unknown", "unknown"


def _check_version(distribution: metadata.Distribution | None) -> None:
    with as_refusal(f"its requirement on {ENGINE} cannot be read"):
        texts = (distribution.requires if distribution else None) or ()
        ours = [text for text in texts if normalise(re.split(r"[^\w.-]", text.strip())[0]) == ENGINE]
        if not ours:
            return
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in ours]
    try:
        engine = metadata.version(ENGINE)
    except metadata.PackageNotFoundError:  # run from a folder that is not installed
        return
    for requirement in requirements:
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(engine, prereleases=True):
            raise Refusal(
                f"it requires {ENGINE} {requirement.specifier}, but {engine} is installed; "
                f"install a version of one of them that fits the other"
            )


@contextmanager
def _told_if_it_lasts(info: PluginInfo, entry_point: metadata.EntryPoint) -> Iterator[None]:
    """Log which plugin is being imported once that has lasted `LONG_IMPORT_S`; the import goes on."""
    message = (
        f"{info} has been importing {entry_point.value!r} for {LONG_IMPORT_S:g} s; if it does not end, leave it out: "
        f"--disable-plugin {info.name}"
    )
    timer = threading.Timer(LONG_IMPORT_S, logger.warning, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _load(info: PluginInfo, entry_point: metadata.EntryPoint) -> PluginInfo:
    before = {name for name in _HEAVY if name in sys.modules}
    start = time.perf_counter()
    try:
        if not entry_point.pattern.match(entry_point.value):
            raise Refusal(f"its entry point {entry_point.value!r} is neither 'module' nor 'module:object'")
        with as_refusal(f"importing {entry_point.value!r} failed", place=True), _told_if_it_lasts(info, entry_point):
            target = entry_point.load()
        records = collect(target)
    except Refusal as refusal:
        return info.failed(str(refusal))
    seconds = time.perf_counter() - start
    told = [
        f"loading it imports {name}; import {name} inside the factory, so that the engine starts fast"
        for name in _HEAVY
        if name in sys.modules and name not in before
    ]
    if seconds > SLOW_IMPORT_S:
        took = f"{seconds:.1f} s, more than {SLOW_IMPORT_S} s"
        told.append(f"loading it took {took}; import slow modules inside the factory")
    return attrs.evolve(info, warnings=tuple(told)).offering(records)


def load_file(path: Path, disabled: Collection[str]) -> PluginInfo:
    """Return the plugin that is one file of Python code, which its user named. Raises OSError if it cannot be read."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    info = PluginInfo(name=path.name, distribution=f"file {path.name}", version=digest, file=path)
    if info.answers_to(disabled):
        return info.disabled()
    try:
        with as_refusal("importing it failed", place=True):
            module = _module_of(info, path.absolute(), content)
        return info.offering(collect(module))
    except Refusal as refusal:
        return info.failed(str(refusal))


class _Given(SourceFileLoader):
    """Runs the text that was read, and writes no compiled copy beside the file."""

    def __init__(self, name: str, path: Path, content: bytes, plugin: PluginInfo) -> None:
        super().__init__(name, str(path))
        self._content = content
        self.plugin = plugin

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._content, self.path)
        return code


def _module_of(info: PluginInfo, path: Path, content: bytes) -> ModuleType:
    """Return the module of this content; the same content is run once."""
    name = f"{re.sub('[^0-9a-zA-Z_]', '_', path.stem)}_{info.version}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Given(name, path, content, info)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
