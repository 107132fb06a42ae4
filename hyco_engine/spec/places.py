"""The line of each key in a spec file, because tomllib keeps no lines."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import attrs

from hyco_engine.errors import HycoError, Problem

Key = tuple[str, ...]
E = TypeVar("E", bound=HycoError)

_TOKEN = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"{3,5}'
    r"|'''[\s\S]*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*|\n|[\[\]{}=,.]"
    r"|[^\s\[\]{}=,.\#\"']+"
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def locate_keys(text: str) -> dict[Key, int]:
    """Return the line of every key and table of a valid TOML text, except those inside arrays."""
    lines: dict[Key, int] = {}
    line = 1
    state = "key"
    table: Key = ()
    key: Key | None = ()
    parts: list[str] = []  # the key or header that is being read
    stack: list[tuple[str, Key | None]] = []  # the open brackets of a value; entries of an array have no key
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "\n":
            if not stack:
                state, parts = "key", []
        elif token.startswith("#"):
            pass
        elif state == "header":
            if token == "]" and parts:
                table, parts = _enter(lines, (), parts, line), []
            elif token not in "[].":
                parts.append(_unquoted(token))
        elif state == "key":
            if token == "[":
                state = "header"
            elif token == "=":
                prefix = stack[-1][1] if stack else table
                key = None if prefix is None else _enter(lines, prefix, parts, line)
                state = "value"
            elif token == "}":
                stack.pop()
                state = "value"
            elif token != ".":
                parts.append(_unquoted(token))
        elif token in "[{":
            in_array = bool(stack) and stack[-1][0] == "["
            stack.append((token, None if in_array or token == "[" else key))
            if token == "{":
                state, parts = "key", []
        elif token in "]}":
            stack.pop()
        elif token == "," and stack[-1][0] == "{":
            state, parts = "key", []
        line += token.count("\n")
    return lines


def _enter(lines: dict[Key, int], prefix: Key, parts: Iterable[str], line: int) -> Key:
    key = (*prefix, *parts)
    for end in range(len(prefix) + 1, len(key)):
        lines.setdefault(key[:end], line)
    lines[key] = line
    return key


def _unquoted(token: str) -> str:
    return next(iter(tomllib.loads(f"{token} = 0"))) if token[0] in "\"'" else token


def key_text(path: Iterable[str | int]) -> str:
    """Format a key path as a user writes it: `physical.parameters."my nu".bounds[0]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _BARE.fullmatch(step) else json.dumps(step, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


@attrs.frozen(kw_only=True)
class Places:
    """The places of a spec's keys: lines of `file`, or `overridden` by `overrider`."""

    file: Path | None = None
    lines: Mapping[str, int] = attrs.Factory(dict)
    overridden: tuple[str, ...] = ()
    overrider: Path = Path("--set")

    def is_overridden(self, key: str) -> bool:
        """Return whether the key's value was given outside the file."""
        return any(key == other or key.startswith((f"{other}.", f"{other}[")) for other in self.overridden)

    def located(self, problem: Problem) -> Problem:
        """Return the problem with the file and line of its key, or of the nearest table around it."""
        key = problem.key
        if key is None or problem.file is not None:
            return problem
        if self.is_overridden(key):
            return attrs.evolve(problem, file=self.overrider)
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return attrs.evolve(problem, file=self.file, line=self.lines.get(key))

    def locate(self, error: E) -> E:
        """Locate the problems of an error and return the error."""
        error.problems = tuple(map(self.located, error.problems))
        error.args = ("\n".join(map(str, error.problems)),)
        return error
