"""The numbers that tell how hard the house is to live in, counted from the source alone.

python tests/meta/house_numbers.py [--json]

names_in_a_cycle         names that one cycle of training uses: what the modules of cycle, trainers and the contract of
                         solvers import from the rest of the project
package_cycles           rooms (packages below `hyco_engine`, modules at its top) that import one another in a circle
foreign_private_accesses places where an object uses the private names of another module's object
isinstance_outside_tasks places that ask which kind of model, source, data set or objective they have
arms_outside             modules that name arms, beside those that choose among candidates, offer arms, or show results
source_lines             lines of the package that are not blank
"""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "hyco_engine"
NAME = PACKAGE.name

CYCLE = ("training/cycle.py", "training/hybrid.py", "training/fit.py", "training/trainer.py", "training/solver/base.py")
KINDS = re.compile(
    r"PhysicalModel|Predictor|DeclaredModel|Correction|\w*Objective|SampleSource|TrajectorySource|FullBatch|HeldOut\w*|Samples"
)
ARMS_AT_HOME = (
    "training/candidates.py",
    "training/arms.py",
    "builtin/*",
    "report/*",
    "parts.py",
    "runs/summary.py",
    "runs/metrics.py",
    "runs/structure.py",
    "comparing.py",
    "results.py",
    "interfaces.py",
    "spec/*",
    "testing/strategies.py",
)
"""The choice among candidates; what offers arms; results; the contract, whose word it is, and its tests."""
TYPES_ONLY = {("interfaces", "physics")}
"""A contract may name, for type checkers alone, a type of a room above it: that of a physics' learnable parameters."""


def modules() -> dict[str, Path]:
    """Paths of the package's modules by their dotted names."""
    return {_dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _lies_in(path: Path, patterns: Iterable[str]) -> bool:
    inside = path.relative_to(PACKAGE)
    return any(inside.match(pattern) or pattern.removesuffix("/*") in map(str, inside.parents) for pattern in patterns)


# --- rooms ------------------------------------------------------------------------------------------------------------


def room(module: str) -> str:
    """The package directly below the top one, or the module at its top, to which a module belongs."""
    return module.split(".")[1] if "." in module else module


def imports(module: str, path: Path, known: Iterable[str]) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether for type checkers alone) of each import within the project, wherever it stands."""
    tree = _tree(path)
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] + "." if node.level else ""
            base = f"{package}{node.module or ''}".rstrip(".")
            found = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        for name in found:
            if name.split(".")[0] == NAME:
                yield name, node.lineno, node in checked


Edges = dict[tuple[str, str], list[str]]


def edges() -> Edges:
    """Places ("module:line") where a room imports another one."""
    known = modules()
    found: Edges = {}
    for module, path in known.items():
        for name, line, types_only in imports(module, path, known):
            pair = (room(module), room(name))
            if pair[0] != pair[1] and not (types_only and pair in TYPES_ONLY):
                found.setdefault(pair, []).append(f"{module}:{line}")
    return found


def package_cycles(found: Edges | None = None) -> list[str]:
    """Circles of imports, each named with the places of its rarest import, without which it were none."""
    left = edges() if found is None else dict(found)
    cycles = []
    while (circle := _shortest_circle(left)) is not None:
        pairs = list(zip(circle, circle[1:] + circle[:1], strict=True))
        rarest = min(pairs, key=lambda pair: (len(left[pair]), pair))
        cycles.append(
            f"{' -> '.join((*circle, circle[0]))}: {rarest[0]} imports {rarest[1]} in {', '.join(left[rarest])}"
        )
        del left[rarest]
    return cycles


def _shortest_circle(found: Edges) -> list[str] | None:
    targets: dict[str, list[str]] = {}
    for start, end in sorted(found):
        targets.setdefault(start, []).append(end)
    circles = []
    for first in sorted(targets):
        paths, seen = [[first]], {first}
        while paths:
            path = paths.pop(0)
            if first in targets.get(path[-1], ()):
                circles.append(path)
                break
            new = [end for end in targets.get(path[-1], ()) if end not in seen]
            seen.update(new)
            paths += [[*path, end] for end in new]
    return min(circles, key=len, default=None)


# --- private names ----------------------------------------------------------------------------------------------------


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _own_names(tree: ast.Module) -> set[str]:
    """Private names that a module defines itself: its own, those of its classes, and those of `self` and `cls`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
    return {name for name in names if _is_private(name)}


def _is_self(node: ast.expr) -> bool:
    called = node.func if isinstance(node, ast.Call) else node
    return isinstance(called, ast.Name) and called.id in ("self", "cls", "super")


def foreign_privates(trees: Mapping[str, ast.Module]) -> list[str]:
    """`module:line: what` where a module uses private names that are not its own but another module's of the package.

    A library's names, such as `torch.ops.aten._to_copy`, are none of the package's.
    """
    own = {module: _own_names(tree) for module, tree in trees.items()}
    owned = set().union(*own.values())
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in owned - own[module] and not _is_self(node.value):
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == NAME:
                names = [alias.name for alias in node.names if _is_private(alias.name)]
                found += [f"{module}:{node.lineno}: from {node.module} import {name}" for name in names]
    return found


def foreign_private_accesses() -> list[str]:
    """Those of the package."""
    return foreign_privates({module: _tree(path) for module, path in modules().items()})


# --- concepts ---------------------------------------------------------------------------------------------------------


def names_in_a_cycle() -> list[str]:
    """Names that who reads a cycle has to know beside what is written there."""
    known = modules()
    inside = {module: path for module, path in known.items() if _lies_in(path, CYCLE)}
    names: set[str] = set()
    for path in inside.values():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module in known.keys() - inside.keys():
                names |= {alias.name for alias in node.names}
    return sorted(names)


def isinstance_outside_tasks() -> list[str]:
    """`module:line: call` of each question for a kind."""
    found = []
    for module, path in modules().items():
        if _lies_in(path, ("tasks/*", "testing/*")):
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)}
                if any(KINDS.fullmatch(name) for name in asked):
                    found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def arms_outside() -> list[str]:
    """Modules with identifiers, attributes, keywords or whole strings that are called arm or arms."""
    return [
        module
        for module, path in modules().items()
        if not _lies_in(path, ARMS_AT_HOME) and any(_is_of_arms(word) for word in _words(_tree(path)))
    ]


def _is_of_arms(word: str) -> bool:
    parts = re.findall(r"[A-Z]?[a-z]+", word)
    return any(part.lower() in ("arm", "arms") for part in parts)


def _words(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.alias(name=word):
                yield word
            case ast.FunctionDef(name=word) | ast.ClassDef(name=word) | ast.keyword(arg=str(word)):
                yield word
            case ast.Constant(value=str(word)) if re.fullmatch(r"\w+", word):
                yield word


def source_lines() -> int:
    """Lines that are not blank."""
    return sum(
        bool(line.strip()) for path in modules().values() for line in path.read_text(encoding="utf-8").splitlines()
    )


@functools.cache
def findings() -> dict[str, list[str]]:
    """What is behind each number that counts places or names."""
    return {
        "names_in_a_cycle": names_in_a_cycle(),
        "package_cycles": package_cycles(),
        "foreign_private_accesses": foreign_private_accesses(),
        "isinstance_outside_tasks": isinstance_outside_tasks(),
        "arms_outside": arms_outside(),
    }


def numbers() -> dict[str, int]:
    """The numbers by name."""
    return {name: len(found) for name, found in findings().items()} | {"source_lines": source_lines()}


def main(arguments: list[str]) -> None:
    """Print the numbers as JSON with `--json`, else each with what is behind it."""
    if arguments == ["--json"]:
        print(json.dumps(numbers(), indent=2))
        return
    for name, places in findings().items():
        print(f"{name}: {len(places)}")
        for place in places:
            print(f"    {place}")
    print(f"source_lines: {source_lines()}")


if __name__ == "__main__":
    main(sys.argv[1:])
