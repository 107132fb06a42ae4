"""Writes the distribution of a new plugin from templates. It works as it is, and its author changes it."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.hooks.loading import ENGINE
from hyco_engine.hooks.registry import Registry

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = f"{ENGINE}-"


@attrs.frozen(kw_only=True)
class Kind:
    """A kind of plugin that can be written. `module` is the file beside `plugin.py`; `summary` describes its part."""

    hook: str
    noun: str
    module: str
    summary: str


KINDS: Mapping[str, Kind] = {
    "strategy": Kind(
        hook="hyco_strategies",
        noun="strategy",
        module="strategy",
        summary="alpha grows in equal parts over the first cycles",
    ),
    "surrogate": Kind(
        hook="hyco_models",
        noun="surrogate",
        module="model",
        summary="a surrogate of two convolutions, on grids of 1 to 3 dimensions",
    ),
    "physics": Kind(
        hook="hyco_models",
        noun="physics",
        module="model",
        summary="heat equation with losses, u_t = kappa lap(u) - k u",
    ),
    "normalizer": Kind(
        hook="hyco_normalizers",
        noun="normalizer",
        module="normalizer",
        summary="terms of many values weigh more: priority n^p / scale",
    ),
    "cache": Kind(
        hook="hyco_caches", noun="cache backend", module="cache", summary="a file for each batch of generated samples"
    ),
    "source": Kind(
        hook="hyco_sources",
        noun="data source",
        module="source",
        summary="exact solutions of the heat equation on an interval",
    ),
    "tracker": Kind(hook="hyco_trackers", noun="tracker", module="tracker", summary="one line of text for each epoch"),
}


def write_plugin(name: str, what: str, parent: Path, registry: Registry) -> list[Path]:
    """Write the distribution `name` into a new folder of `parent`; `what` is a key of KINDS.

    Return the files. Raise SpecError, and write nothing, where the name cannot be used or the folder exists.
    """
    part, kind = KINDS[what], name.removeprefix(_PREFIX)
    package = name.replace("-", "_")
    _check_name(name, kind)
    folder = parent / name
    if folder.exists():
        raise SpecError(f"{folder} exists and is not overwritten; choose another name, or remove it", key="NAME")
    _check_package(name, package)
    if kind in registry.kinds(part.hook) or (part.hook, kind) == ("hyco_caches", "auto"):
        owner = "the core" if kind == "auto" else str(registry.origin(part.hook, kind))
        raise SpecError(f"the kind {kind!r} of {part.hook} belongs to {owner}; choose another name", key="NAME")
    engine, following = _versions()
    values = {
        "name": name,
        "package": package,
        "kind": kind,
        "cls": "".join(word.capitalize() for word in kind.split("-")),
        "noun": part.noun,
        "module": part.module,
        "summary": part.summary,
        "Summary": part.summary[0].upper() + part.summary[1:],
        "engine": engine,
        "next": following,
    }
    written = []
    for place, text in _texts(what, package).items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(path)
    return written


def _check_name(name: str, kind: str) -> None:
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(kind):
        after = f" after {_PREFIX!r}" if name.startswith(_PREFIX) else ""
        raise SpecError(
            f"{name!r} cannot name a plugin: use lower-case letters, digits and single dashes, with a letter "
            f"first{after}, such as 'my-plugin' or '{_PREFIX}my-plugin'",
            key="NAME",
        )


def _check_package(name: str, package: str) -> None:
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or find_spec(package) is not None:
        raise SpecError(
            f"{name!r} cannot name a plugin: its package {package!r} would hide an installed Python module of that "
            f"name; choose another name",
            key="NAME",
        )


def _versions() -> tuple[str, str]:
    """Return this engine's minor version and the next one, which may drop what this one deprecates."""
    try:
        major, minor = metadata.version(ENGINE).split(".")[:2]
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        major, minor = "0", "1"
    return f"{major}.{minor}", f"{major}.{int(minor) + 1}"


def _texts(what: str, package: str) -> dict[str, str]:
    """Return the templates' texts, by the file's place in the distribution."""
    root = files("hyco_engine.cli") / "templates" / "plugin"
    places = {"README.md": "", "pyproject.toml": "", "example.toml": "", "test.py": f"tests/test_{package}.py"}
    texts = {}
    for folder in (root / "common", root / what):
        for file in folder.iterdir():
            name = file.name.removesuffix(".tmpl")
            texts[places.get(name, f"{package}/{name}") or name] = file.read_text("utf-8")
    return dict(sorted(texts.items()))
