"""From a file or tables to a spec: parse, override, structure, check, make paths absolute; report all mistakes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from hyco_engine.errors import HycoError, PluginError, Problem, SpecError
from hyco_engine.settings import Choice, key_of
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.dumping import dump_spec
from hyco_engine.spec.overrides import Overrides, apply_overrides, overrider, parse_overrides
from hyco_engine.spec.places import Places, key_text, locate_keys
from hyco_engine.spec.structuring import Kinds, Structurer
from hyco_engine.spec.values import Mistake, Mistakes, has_keys, is_text
from hyco_engine.untrusted import parse_toml

__all__ = ["LoadedSpec", "dump_spec", "load_spec", "spec_from_dict", "spec_from_text"]

MAX_BYTES = 1_000_000

E = TypeVar("E", bound=HycoError)


@attrs.frozen(kw_only=True)
class LoadedSpec:
    """A spec, the places of its keys, and `notes`: one sentence for each change that the loader made."""

    spec: Spec
    places: Places
    notes: tuple[str, ...] = ()

    def locate(self, error: E) -> E:
        """Add file and line to the problems of an error that have a key but no file, and return the error.

        It serves errors that only other packages can detect: `raise loaded.locate(error)`.
        """
        return self.places.locate(error)


def load_spec(path: Path | str, registry: Kinds, overrides: Overrides = ()) -> LoadedSpec:
    """Read a spec file.

    `overrides` are TOML texts such as `run.cycles=2`, or a mapping `{"run.cycles": 2}`. Input paths are made absolute:
    those in the file start from its folder (those of a data source from `paths.data`), those in `overrides` from the
    working directory. Raises SpecError with all mistakes, or PluginError if only plugins are at fault.
    """
    path = Path(path)
    return spec_from_text(_read(path), path, registry, overrides)


def spec_from_text(text: str, path: Path, registry: Kinds, overrides: Overrides = ()) -> LoadedSpec:
    """Read a spec from the text of the file `path`, as `load_spec` does."""
    try:
        data = parse_toml(text)
    except ValueError as error:
        raise SpecError([_syntax_problem(error, text, path), *parse_overrides(overrides)[1]]) from None
    lines = {key_text(key): line for key, line in locate_keys(text).items()}
    return _load(data, registry, overrides, Places(file=path, lines=lines), path.parent.absolute())


def spec_from_dict(
    data: Mapping[str, Any], registry: Kinds, overrides: Overrides = (), *, folder: Path | str = "."
) -> LoadedSpec:
    """Read a spec from the tables of a parsed TOML file; its relative paths start from `folder`.

    Raises like `load_spec`.
    """
    return _load(data, registry, overrides, Places(), Path(folder).absolute())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes, so it is probably not a spec")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        message = "there is no such file; `hyco-engine init` writes a spec to start from"
    except IsADirectoryError:
        message = "is a folder; name the spec file in it"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
    except (OSError, ValueError) as error:
        message = getattr(error, "strerror", None) or str(error)
    raise SpecError([Problem(message=message, file=path)])


def _syntax_problem(error: ValueError, text: str, path: Path) -> Problem:
    message = str(error)
    if not isinstance(error, tomllib.TOMLDecodeError):
        return Problem(message=message.removeprefix("it "), file=path)
    line: int | None = None
    if place := re.search(r" \(at line (\d+), column (\d+)\)$", message):
        line = int(place[1])
        message = f"{message[: place.start()]} at column {place[2]}"
    elif message.endswith("(at end of document)"):
        line = text.rstrip().count("\n") + 1
    return Problem(message=f"is not valid TOML: {message[:1].lower()}{message[1:]}", file=path, line=line)


def _load(data: Mapping[str, Any], registry: Kinds, overrides: Overrides, places: Places, folder: Path) -> LoadedSpec:
    changes, problems = parse_overrides(overrides)
    place = overrider(overrides)
    merged, more = apply_overrides(data, changes, place)
    problems += more
    places = attrs.evolve(places, overridden=tuple(key_text(change.key) for change in changes), overrider=place)
    structurer = Structurer(registry)
    mistakes: tuple[Mistake, ...] = ()
    try:
        spec = structurer.structure(merged, Spec)
    except Mistakes as found:
        mistakes = found.found
    problems += [places.located(Problem(message=mistake.message, key=key_text(mistake.path))) for mistake in mistakes]
    if merged.get("physical") is None and merged.get("synthetic") is None:
        message = "there is neither [physical] nor [synthetic], so there is nothing to train; add one of them"
        problems.append(Problem(message=message, file=places.file))
    if problems:
        only_plugins = all(mistake.plugin for mistake in mistakes) and len(problems) == len(mistakes)
        raise (PluginError if only_plugins else SpecError)(sorted(problems, key=_reading_order))
    return LoadedSpec(spec=_with_absolute_paths(spec, folder, places), places=places, notes=tuple(structurer.notes))


def _reading_order(problem: Problem) -> tuple[bool, int]:
    """Order the problems of the file by line, before those without a line."""
    return problem.line is None, problem.line or 0


def _with_absolute_paths(spec: Spec, folder: Path, places: Places) -> Spec:
    here = Path.cwd()
    data_folder = (here if places.is_overridden("paths.data") else folder) / spec.paths.data

    def absolute(key: str, value: Path) -> Path:
        inside = data_folder if key.startswith("data.") else folder
        path = (here if places.is_overridden(key) else inside) / value
        if not is_text(str(path)):
            message = f"the path {str(path)!a} is not UTF-8, and a spec holds no other text: rename the folder"
            raise SpecError([places.located(Problem(message=message, key=key))])
        return path

    return with_paths(spec, absolute)


def with_paths(spec: Spec, change: Callable[[str, Path], Path]) -> Spec:
    """Return the spec with another path in place of each that is read, by its key."""

    def walk(value: Any, key: str) -> Any:
        if isinstance(value, Path):
            return change(key, value)
        if isinstance(value, tuple):
            return tuple(walk(entry, f"{key}[{index}]") for index, entry in enumerate(value))
        if isinstance(value, Mapping):
            return {name: walk(entry, _below(key, name)) for name, entry in value.items()}
        if not has_keys(type(value)):
            return value
        changes = {
            # options have no key of their own: they are in the table of their choice
            field.name: walk(
                getattr(value, field.name), key if is_options(value, field) else _below(key, key_of(field))
            )
            for field in attrs.fields(type(value))
            if field.init and not field.metadata.get("output")
        }
        return attrs.evolve(value, **changes)

    def is_options(value: Any, field: attrs.Attribute[Any]) -> bool:
        return isinstance(value, Choice) and field.name == "options"

    changed: Spec = walk(spec, "")
    return changed


def _below(key: str, name: str) -> str:
    return f"{key}.{key_text([name])}" if key else key_text([name])
