"""The registry: the kinds, the plugin that offers each of them, and the faults of plugins that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

from hyco_engine.errors import HycoError, PluginError, SpecError
from hyco_engine.hooks.checking import (
    HOOK_LIST,
    HOOKS,
    Records,
    Refusal,
    check,
    collect,
    did_you_mean,
)
from hyco_engine.hooks.loading import PluginInfo, load_file, load_plugins, normalise
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.variables import DISABLE_VARIABLE, FILES_VARIABLE

Role = Literal["physical", "synthetic"]


def disabled_names(given: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the plugins not to import: those `given` and those in HYCO_ENGINE_DISABLE_PLUGINS, separated by commas."""
    names = (*given, *environ.get(DISABLE_VARIABLE, "").split(","))
    return frozenset(name.strip() for name in names if name.strip())


def plugin_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the files in HYCO_ENGINE_PLUGINS, separated as in PATH: each is a plugin."""
    return tuple(Path(text) for text in environ.get(FILES_VARIABLE, "").split(os.pathsep) if text)


class Registry:
    """The kinds of the six hooks. It is no global state: two registries share nothing.

    `Registry()` is empty; `Registry.discover()` holds what the installed distributions offer under the
    entry-point group `hyco_engine`. A plugin that cannot be used is listed in `plugins` with the reason and
    disturbs no other plugin; only a request for a missing kind raises.
    """

    def __init__(self) -> None:
        self._loaded: tuple[PluginInfo, ...] = ()
        self._offers: dict[tuple[str, str], tuple[tuple[PluginInfo, Record], ...]] = {}
        self._unmatched: tuple[str, ...] = ()

    @classmethod
    def installed(cls, disabled: Iterable[str] = ()) -> Registry:
        """Load the installed plugins as the environment variables say: without these, and with these files."""
        return cls.discover(disabled_names(disabled), files=plugin_files())

    @classmethod
    def discover(
        cls,
        disabled: Collection[str] = (),
        entry_points: Iterable[EntryPoint] | None = None,
        files: Iterable[Path | str] = (),
    ) -> Registry:
        """Load the installed plugins, or those of `entry_points`, and `files` of Python code, each of them a plugin.

        `disabled` names entry points, distributions or files, which are then not imported. Raises SpecError for a file
        that cannot be read.
        """
        registry = cls()
        names = {normalise(name): name for name in disabled}
        registry._adopt([*load_plugins(names.keys(), entry_points), *_from_files(files, names.keys())])
        known = {normalise(name) for info in registry._loaded for name in (info.name, info.distribution)}
        registry._unmatched = tuple(sorted(name for key, name in names.items() if key not in known))
        return registry

    def register(
        self,
        target: object,
        *,
        distribution: str,
        version: str,
        name: str | None = None,
        hook: str | None = None,
    ) -> PluginInfo:
        """Add a module or object with `@hookimpl` functions, or one record.

        `name` is the name of the plugin in messages (default: the distribution's name). `hook` is the hook of a plain
        `Record`. Raises `PluginError` if anything is wrong or a kind is taken, and adds nothing then.
        """
        info = PluginInfo(name=name or distribution, distribution=distribution, version=version)
        try:
            records = _single(target, hook) if isinstance(target, Record) else collect(target)
        except Refusal as refusal:
            raise PluginError(f"{info}: {refusal}") from refusal.__cause__
        info = info.offering(records)
        taken = [
            f"kind {kind!r} of {hook} is already offered by {' and '.join(str(owner) for owner, _ in offers)}"
            for (hook, kind), offers in sorted(self._offers.items())
            if kind in info.kinds.get(hook, ())
        ]
        if taken:
            raise PluginError(f"{info}: {'; '.join(taken)}; rename the kind or do not use the other plugin")
        self._adopt([info])
        return info

    def _adopt(self, plugins: Iterable[PluginInfo]) -> None:
        self._loaded = tuple(
            sorted((*self._loaded, *plugins), key=lambda info: (info.name, info.distribution, info.version))
        )
        offers: dict[tuple[str, str], tuple[tuple[PluginInfo, Record], ...]] = {}
        for info in self._loaded:
            for hook, records in info.records.items():
                for record in records:
                    offers[hook, record.kind] = (*offers.get((hook, record.kind), ()), (info, record))
        self._offers = offers

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """All plugins, usable or not, sorted by name and distribution."""
        return tuple(self._with_conflicts(info) for info in self._loaded)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The names that were to be disabled but that no plugin has."""
        return self._unmatched

    def kinds(self, hook: str, role: Role | None = None) -> tuple[str, ...]:
        """Return the kinds that can be used, sorted; with `role`, only models of that role."""
        _check_hook(hook)
        usable = ((key, offers[0][1]) for key, offers in self._offers.items() if len(offers) == 1)
        return tuple(
            sorted(
                kind
                for (offered, kind), record in usable
                if offered == hook and role in (None, getattr(record, "role", None))
            )
        )

    def get(self, hook: str, kind: str, role: Role | None = None) -> Record:
        """Return the record of a kind.

        Raises `SpecError` for a kind that is not installed or a model of the other role, and `PluginError`
        for a kind that several plugins offer.
        """
        return self._find(hook, kind, role)[1]

    def origin(self, hook: str, kind: str) -> PluginInfo:
        """Return the plugin that offers a kind. Raises like `get`."""
        return self._with_conflicts(self._find(hook, kind)[0])

    def build(
        self, hook: str, kind: str, options: Any, context: Any, expected: type[Any] | tuple[type[Any], ...] = object
    ) -> Any:
        """Build a part: call the kind's factory with an instance of its option class and the context of its hook.

        Raises like `get`, and PluginError if the part is not of an `expected` type. The engine's own errors pass; any
        other error of the factory becomes a `PluginError`.
        """
        info, record = self._find(hook, kind)
        try:
            part = record.factory(options, context)
        except HycoError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"the factory of {HOOKS[hook]} {kind!r}, from {info}, failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(part, expected):
            wanted = expected if isinstance(expected, tuple) else (expected,)
            raise PluginError(
                f"{kind!r} of {info} returned {type(part).__name__}: "
                f"expected {' or '.join(cls.__name__ for cls in wanted)}"
            )
        return part

    def _find(self, hook: str, kind: str, role: Role | None = None) -> tuple[PluginInfo, Record]:
        _check_hook(hook)
        offers = self._offers.get((hook, kind), ())
        if len(offers) > 1:
            raise PluginError(_conflict(hook, kind, [info for info, _ in offers]))
        if not offers:
            raise SpecError(self._unknown(hook, kind, role))
        info, record = offers[0]
        if role is not None and isinstance(record, ModelRecord) and record.role != role:
            raise SpecError(
                f"{kind!r} is a {record.role} model, but a {role} one is needed; {self._installed(hook, role)}"
            )
        return info, record

    def _installed(self, hook: str, role: Role | None) -> str:
        return f"installed: {', '.join(self.kinds(hook, role)) or 'none'}"

    def _unknown(self, hook: str, kind: str, role: Role | None) -> str:
        noun = f"{role} {HOOKS[hook]}" if role else HOOKS[hook]
        parts = [
            f"unknown {noun} {kind!r}{did_you_mean(kind, self.kinds(hook, role))}",
            self._installed(hook, role),
        ]
        # any of these plugins might offer the kind
        for info in self._loaded:
            if info.status == "failed":
                parts.append(f"{info} failed to load: {info.reason}")
            elif info.status == "disabled":
                parts.append(f"{info} is disabled")
        return "; ".join(parts)

    def _with_conflicts(self, info: PluginInfo) -> PluginInfo:
        """Return `info`, as failed if another plugin offers one of its kinds."""
        conflicts = [
            _conflict(hook, kind, [owner for owner, _ in self._offers[hook, kind]])
            for hook, kinds in info.kinds.items()
            for kind in kinds
            if len(self._offers[hook, kind]) > 1
        ]
        return info.failed("; ".join(conflicts)) if conflicts else info


def _from_files(files: Iterable[Path | str], disabled: Collection[str]) -> list[PluginInfo]:
    """Load each file once. Raises SpecError for one that cannot be read, and for two of one name."""
    loaded: dict[str, Path] = {}
    plugins = []
    for path in dict.fromkeys(map(Path, files)):
        if (other := loaded.setdefault(path.name, path)) is not path:
            if os.path.realpath(other) == os.path.realpath(path):
                continue
            raise SpecError(
                f"{other} and {path} have one name, by which runs know a plugin: rename one of them", key="--plugin"
            )
        try:
            plugins.append(load_file(path, disabled))
        except OSError as error:
            raise SpecError(
                f"{path}: {error.strerror or error}; name a file of Python code with hooks, as "
                f"`hyco-engine init own-physics` writes one",
                key="--plugin",
            ) from error
    return plugins


def _single(record: Record, hook: str | None) -> Records:
    hook = hook or ("hyco_models" if isinstance(record, ModelRecord) else "")
    if hook not in HOOKS:
        raise Refusal(f"register(record, hook=...) does not say which hook the record is for ({HOOK_LIST})")
    return {hook: check(hook, [record])}


def _conflict(hook: str, kind: str, owners: list[PluginInfo]) -> str:
    names = " and ".join(map(str, owners))
    return (
        f"kind {kind!r} of {hook} is offered by {names}, so none of them is used; "
        f"disable all but one with --disable-plugin or {DISABLE_VARIABLE}"
    )


def _check_hook(hook: str) -> None:
    if hook not in HOOKS:
        raise ValueError(f"unknown hook {hook!r}{did_you_mean(hook, HOOKS)}")
