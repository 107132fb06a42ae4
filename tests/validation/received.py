"""Run folders of others do no harm: `python tests/validation/received.py [--trials N] [--seed S] [--json]`.

Each trial changes a copy of a small run folder (types, sizes, links, FIFOs, nesting, numbers, missing files) and gives
it to every command that reads run folders, each in a process of its own with 2 GB of memory and 20 s of time. Counted
are commands that end in a traceback or in "this is a bug", that do not end, that open or change anything outside of the
folder that they were not given, and that need more memory than they have. The time is the processor's, which a busy
machine does not change, or that of a command which waits and does nothing. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any

import attrs
import numpy as np
import tomli_w
import torch

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.runs.seal import SEAL, seal

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_specs import HEAT_HYBRID

MEMORY = 2 * 10**9
SECONDS = 20
CANARY = "precious-content-of-another-file"
SPEC: dict[str, Any] = {
    **HEAT_HYBRID,
    "run": {"name": "received", "cycles": 1},
    "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.2, "field": True}}},
    "augmentation": {"kind": "count", "alpha": 1.0},
}
EVERY = 4
"""Commands that do not read the changed file are tried in one trial out of so many."""
READ = (
    "spec.toml",
    "summary.json",
    "metrics.jsonl",
    "environment.json",
    "weights/physical-final.safetensors",
    "weights/synthetic-final.safetensors",
    "weights/synthetic-best.safetensors",
    "figures/rollout.safetensors",
    "parameters/kappa-final.npy",
    SEAL,
    "run.lock",
    ".run.lock",
    "report.html",
    "checkpoints",
    "log.txt",
)
"""The files that commands look at, those that are read by most of them first."""

Change = Callable[[Path, random.Random], str]


# --- mutations --------------------------------------------------------------------------------------------------------


def strange_values(outside: Path) -> list[Any]:
    """Return values that no run writes where they may be put."""
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    return [
        *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 0, -1, 1, 0.5, 2**31, 2**63, 2 * 10**9),
        *(10**5, 10**400, -(10**400), True, False, None, "", "x" * 200_000, "nan", "\ud800", "a\x00b", "<script>"),
        *([], {}, [[]], [None], {"": {}}, [1, "a"], list(range(1000)), deep, {"a": {"b": {"c": 1}}}),
        *(str(outside), str(outside / "secret.npy"), "../../outside/secret.npy", "/dev/zero", "/dev/stdin"),
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in nested tables and lists."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def changed(value: Any, chance: random.Random, outside: Path) -> tuple[Any, str]:
    """Return plain data with one to three entries replaced, removed or added, and what was done."""
    value, told = json.loads(json.dumps(value)), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        found = list(places(value))
        if not found:
            break
        path = chance.choice(found)
        where = value
        for key in path[:-1]:
            where = where[key]
        match chance.randrange(8):
            case 0 if isinstance(where, dict):
                del where[path[-1]]
                told.append(f"without {path}")
            case 1 if isinstance(where, dict):
                where["more"] = chance.choice(strange_values(outside))
                told.append(f"more beside {path}")
            case _:
                where[path[-1]] = new = chance.choice(strange_values(outside))
                told.append(f"{path} = {str(new)[:60]!r}")
    return value, "; ".join(told)


class Mutations:
    """Changes of one file of a run folder."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def any(self) -> list[Change]:
        """Return what may be done to every file."""
        return [
            self.removed,
            self.link,
            self.link,
            self.link_to_device,
            self.dangling,
            self.loop,
            self.parent_is_link,
            self.fifo,
            self.folder,
            self.empty,
            self.cut,
            self.bits,
            self.noise,
            self.huge,
            self.nested,
            self.long_line,
        ]

    def of(self, name: str) -> list[Change]:
        """Return what may be done to the content of a file."""
        if name.endswith(".toml"):
            return [self.toml, self.toml_nested, self.toml_paths]
        if name.endswith(".json") or name == "run.lock":
            return [self.json]
        if name.endswith(".jsonl"):
            return [self.json_lines, self.many_lines]
        if name.endswith(".safetensors"):
            return [self.tensors_metadata, self.tensors_header]
        return [self.npy_header] if name.endswith(".npy") else []

    def change(self, folder: Path, chance: random.Random) -> tuple[str, str]:
        """Change one file; return its name and what was done."""
        name = chance.choice([*READ, *READ[:9], *READ[:9]])
        own = self.of(name)
        change = chance.choice(own) if own and chance.random() < 0.6 else chance.choice(self.any())
        told = change(folder / name, chance)
        return name, f"{name}: {change.__name__} {told}"

    # --- kinds of files

    def removed(self, path: Path, chance: random.Random) -> str:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return ""

    def link(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        target = self.outside / "run" / path.name if chance.random() < 0.7 else self.outside / "secret.txt"
        path.symlink_to(target)
        return str(target)

    def link_to_device(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        device = chance.choice(("/dev/zero", "/dev/full", "/dev/tty", "/proc/self/mem", "/dev/random", "/proc/kmsg"))
        path.symlink_to(device)
        return device

    def dangling(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        path.symlink_to(self.outside / "new")
        return ""

    def loop(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        path.symlink_to(path.name)
        return ""

    def parent_is_link(self, path: Path, chance: random.Random) -> str:
        if not (path.parent.parent / "spec.toml").exists():
            return self.link(path, chance)
        shutil.rmtree(path.parent)
        path.parent.symlink_to(self.outside / "run")
        return ""

    def fifo(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        os.mkfifo(path)
        return ""

    def folder(self, path: Path, chance: random.Random) -> str:
        self.removed(path, chance)
        path.mkdir()
        return ""

    # --- sizes and bytes

    def empty(self, path: Path, chance: random.Random) -> str:
        return self._write(path, b"")

    def cut(self, path: Path, chance: random.Random) -> str:
        content = self._content(path)
        return self._write(path, content[: chance.randrange(len(content) + 1)])

    def bits(self, path: Path, chance: random.Random) -> str:
        content = bytearray(self._content(path) or b"\0")
        for _ in range(chance.choice((1, 3, 20))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        return self._write(path, bytes(content))

    def noise(self, path: Path, chance: random.Random) -> str:
        return self._write(path, chance.randbytes(chance.choice((1, 100, 10_000))))

    def huge(self, path: Path, chance: random.Random) -> str:
        self._write(path, self._content(path))
        size = chance.choice((10**6 + 1, 10**8, 3 * 10**9, 10**12))
        with path.open("r+b") as file:
            file.truncate(size)
        return str(size)

    def nested(self, path: Path, chance: random.Random) -> str:
        depth = chance.choice((100, 900, 3000, 200_000))
        kind = chance.choice(('{"a":', "["))
        close = {"[": "]", '{"a":': "}"}[kind] * depth if chance.random() < 0.7 else ""
        prefix = "a = " if path.suffix == ".toml" else '{"a":' if chance.random() < 0.5 else ""
        text = prefix + kind * depth + "1" + close + ("}" if prefix == '{"a":' else "")
        self._write(path, f"{text}\n".encode())
        return f"{depth} deep"

    def long_line(self, path: Path, chance: random.Random) -> str:
        return self._write(path, b'{"a": "' + b"x" * 30_000_000 + b'"}\n')

    # --- content

    def json(self, path: Path, chance: random.Random) -> str:
        found = json.loads(self._content(path) or b"{}")
        if path.name == "summary.json" and chance.random() < 0.3:
            found["parameters"]["kappa"]["final"]["file"] = chance.choice(
                ("../outside/secret.npy", str(self.outside / "secret.npy"), "parameters/../../outside/secret.npy")
            )
            told = "a file elsewhere"
        else:
            found, told = changed(found, chance, self.outside)
        self._write(path, json.dumps(found).encode())
        return told

    def json_lines(self, path: Path, chance: random.Random) -> str:
        lines = [json.loads(line) for line in self._content(path).splitlines()] or [{}]
        place = chance.randrange(len(lines))
        lines[place], told = changed(lines[place], chance, self.outside)
        self._write(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
        return told

    def many_lines(self, path: Path, chance: random.Random) -> str:
        line = chance.choice((b"{}\n", b'{"phase":"train_physical","train/loss":1.5,"cycle":1}\n', b"\n"))
        count = chance.choice((10_000, 300_000, 20_000_000))
        return self._write(path, line * count) or f"{count} lines"

    def toml(self, path: Path, chance: random.Random) -> str:
        found, told = changed(tomllib.loads(self._content(path).decode()), chance, self.outside)
        self._write(path, tomli_w.dumps(_without_none(found)).encode("utf-8", "surrogatepass"))
        return told

    def toml_nested(self, path: Path, chance: random.Random) -> str:
        depth = chance.choice((100, 2000, 100_000))
        key = ".".join("a" * depth)
        array = f"a = {'[' * depth}{']' * depth}\n"
        more = chance.choice((f"{key} = 1\n", f"[{key}]\nb = 1\n", f"[data.{key}]\n", array))
        content = self._content(path)
        return self._write(path, more.encode() + content if more[0] != "[" else content + more.encode()) or f"{depth}"

    def toml_paths(self, path: Path, chance: random.Random) -> str:
        found = tomllib.loads(self._content(path).decode())
        key = chance.choice(("cache", "data", "init", "cache", "generated"))
        if key == "init":
            found["physical"]["parameters"]["kappa"]["init"] = {"file": str(self.outside / "secret.npy")}
        elif key == "generated":
            found["augmentation"]["cache"]["directory"] = str(self.outside / "made")
        else:
            found["paths"][key] = str(self.outside / "made")
        return self._write(path, tomli_w.dumps(found).encode()) or key

    def tensors_metadata(self, path: Path, chance: random.Random) -> str:
        header, data = self._header(path)
        about = header.get("__metadata__", {})
        keys = [key for key in about if about[key][:1] in '{["'] + ["dt"]
        name = chance.choice(keys)
        if name == "dt":
            about["dt"] = told = chance.choice(("nan", "inf", "-1", "0", "x", "1e400", "[1]", ""))
        else:
            parsed = json.loads(about[name])
            if name == "layout" and chance.random() < 0.4:
                parsed["grid"]["resolution"] = [chance.choice((2 * 10**9, 10**8, 10**12, 10**400, 0))]
                told = "resolution"
            else:
                parsed, told = changed(parsed, chance, self.outside)
            about[name] = json.dumps(parsed)
        header["__metadata__"] = about
        self._write_tensors(path, header, data)
        return f"{name}: {told}"

    def tensors_header(self, path: Path, chance: random.Random) -> str:
        header, data = self._header(path)
        header, told = changed(header, chance, self.outside)
        if chance.random() < 0.2:
            name = next(name for name in header if name != "__metadata__") if len(header) > 1 else "a"
            header[name] = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}
        self._write_tensors(path, header, data)
        return told

    def npy_header(self, path: Path, chance: random.Random) -> str:
        shape = chance.choice(("(1000000000, 1000000000)", "(-1,)", "()", "(8, 8, 8)", "(0,)", "(2000000000,)", "(7,)"))
        kind = chance.choice(("<f8", "|O", "<c16", "|b1", "<M8[s]", "<U4", "|V8"))
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        body = bytes(8 * chance.choice((0, 8, 512)))
        self._write(path, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body)
        return f"{kind} {shape}"

    def _content(self, path: Path) -> bytes:
        return path.read_bytes() if path.is_file() else b""

    def _write(self, path: Path, content: bytes) -> str:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
        path.write_bytes(content)
        return ""

    def _header(self, path: Path) -> tuple[dict[str, Any], bytes]:
        content = path.read_bytes()
        end = 8 + struct.unpack("<Q", content[:8])[0]
        return json.loads(content[8:end]), content[end:]

    def _write_tensors(self, path: Path, header: Mapping[str, Any], data: bytes) -> None:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._write(path, struct.pack("<Q", len(text)) + text + data)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value if entry is not None] if isinstance(value, list) else value


# --- trials -----------------------------------------------------------------------------------------------------------


class Watch:
    """Tells whether anything in a tree of folders was opened or changed, by any library, since the last question."""

    _OPENED, _CHANGED = 0x20, 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200  # inotify(7)

    def __init__(self, root: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            mask = self._OPENED | self._CHANGED
            if self._libc.inotify_add_watch(self._handle, os.fsencode(folder), mask) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def events(self) -> tuple[set[str], set[str]]:
        """Return the names of what was opened, and of what was changed."""
        opened, altered = set(), set()
        while True:
            try:
                content = os.read(self._handle, 2**16)
            except BlockingIOError:
                return opened, altered
            at = 0
            while at < len(content):
                _, mask, _, length = struct.unpack_from("iIII", content, at)
                name = content[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace") or "."
                (opened if mask & self._OPENED else altered).add(name)
                at += 16 + length


class Received:
    """Runs commands on changed run folders and counts what they should not do."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.outside, self.work = root / "outside", root / "work"
        self.trials = 0
        self.counts = dict.fromkeys(("tracebacks", "hangs", "outside_reads", "outside_writes", "over_memory"), 0)
        self.failures: list[str] = []
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """Make a run, and what lies outside of run folders."""
        spec = json.loads(json.dumps(SPEC))
        spec["paths"] = {"cache": str(self.root / "cache")}
        (self.root / "spec.toml").write_text(tomli_w.dumps(spec), encoding="utf-8")
        hyco.run(self.root / "spec.toml", run_dir=self.root / "sound")
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(f'"{CANARY}"\n')
        np.save(self.outside / "secret.npy", np.full(8, 0.2))
        np.save(self.root / "state.npy", np.sin(np.arange(8.0))[None])
        inner = self.outside / "run"
        inner.mkdir()
        for path in (self.root / "sound").rglob("*"):
            if path.is_file():
                shutil.copy(path, inner / path.name)
        for name in ("spec.toml", "environment.json"):
            # a sound file, so that a reader that follows a link shows it
            text = (inner / name).read_text(encoding="utf-8")
            more = f"# {CANARY}\n" + text if name == "spec.toml" else text.replace('"python"', f'"{CANARY}"', 1)
            (inner / name).write_text(more, encoding="utf-8")
        self.watch = Watch(self.outside)
        self._warm_up()

    def _warm_up(self) -> None:
        """Run the commands once in this process, so that the copies of it need not import and parse the same again."""
        self.work.mkdir()
        for arguments in self.commands(self.root / "sound").values():
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
                cli.main(arguments)
        # else a collection of garbage in a copy would write to all memory, and so copy it
        gc.freeze()

    def commands(self, run: Path) -> dict[str, list[str]]:
        """Return the commands that read a run folder, each with all that it may write."""
        out = str(self.work / "out")
        predict = ["predict", str(run), "--input", str(self.root / "state.npy"), "--out", f"{out}.npy"]
        return {
            "report": ["report", str(run)],
            "evaluate": ["evaluate", str(run), "--split", "test", "--csv", f"{out}.csv"],
            "predict": [*predict, "--steps", "3"],
            "predict physics": [*predict, "--steps", "2", "--model", "physical", "--json"],
            "export": ["export", str(run), "--out", f"{out}.safetensors"],
            "compare": ["compare", str(run), str(self.root / "sound"), "--out", f"{out}.html", "--json"],
            "runs list": ["runs", "list", str(run.parent)],
            "inspect": ["inspect", str(run), "--json"],
            "resume": [
                *("run", str(self.root / "spec.toml"), "--run-dir", str(run), "--resume", "--quiet"),
                *("--set", f"paths.cache={str(self.work / 'cache')!r}"),
            ],
        }

    def trial(self, number: int) -> None:
        """Change a run folder and run every command on it."""
        chance = random.Random(f"{self.seed} {number}")
        shutil.rmtree(self.work, ignore_errors=True)
        run = self.work / "runs" / "received-1"
        shutil.copytree(self.root / "sound", run)
        shutil.copytree(self.root / "sound", self.work / "runs" / "sound-1")
        told, names = [], []
        for _ in range(chance.choice((1, 1, 1, 2))):
            name, what = Mutations(self.outside).change(run, chance)
            told.append(what)
            names.append(name)
        match chance.randrange(6):
            case 0:
                pass
            case 1:
                if not any(path.is_fifo() or path.is_symlink() for path in run.rglob("*")) and _small(run):
                    shutil.rmtree(run / SEAL, ignore_errors=True) if (run / SEAL).is_dir() else None
                    seal(run)
                    told.append("sealed again")
            case _:
                if SEAL not in names:
                    (run / SEAL).unlink(missing_ok=True)
        self.trials += 1
        what = f"trial {number}: {', '.join(told)}"
        before = _snapshot(self.root, run)
        self.watch.events()
        chosen = {
            name: arguments
            for name, arguments in self.commands(run).items()
            if not number % EVERY or self._reads(name, names)
        }
        in_child(chosen, self.work, lambda name, ended: self._judge(name, what, ended))
        after = _snapshot(self.root, run)
        if before != after:
            self._fail("outside_writes", f"{what}: {sorted(set(before.items()) ^ set(after.items()))[:4]}")

    @staticmethod
    def _reads(command: str, changed: Iterable[str]) -> bool:
        """Return whether a command looks at one of the changed files; those that take no time count as if they did."""
        if command == "resume":
            return False
        if command in ("report", "compare"):
            return any(not name.startswith(("weights", "checkpoints", "run.lock", ".run.lock")) for name in changed)
        return True

    def _judge(self, name: str, what: str, ended: Ended) -> None:
        code, output = ended.code, ended.output
        self.seconds[name] = self.seconds.get(name, 0.0) + ended.seconds
        told = f"{what}: {name}: {output.strip()[-700:]}"
        opened, altered = self.watch.events()
        if code is None:
            self._fail("hangs", told)
        elif code < 0 or code not in (0, 1, 2, 3) or "Traceback" in output or "this is a bug" in output:
            self._fail("tracebacks", f"{told} (exit code {code})")
        elif name == "runs list" and (code != 0 or "sound-1" not in output):
            self._fail("tracebacks", f"{told} (the other run is not listed)")
        if "out of memory" in output or ended.peak > MEMORY:
            self._fail("over_memory", f"{told} ({ended.peak / 1e9:.2g} GB)")
        if opened or CANARY in output or self._shows_canary():
            self._fail("outside_reads", f"{told} ({sorted(opened)})")
        if altered:
            self._fail("outside_writes", f"{told} ({sorted(altered)})")

    def _shows_canary(self) -> bool:
        pages = [self.work / "out.html", self.work / "out.toml", self.work / "runs" / "received-1" / "report.html"]
        return any(
            CANARY in page.read_text(encoding="utf-8", errors="replace")
            for page in pages
            if page.is_file() and not page.is_symlink() and page.stat().st_size < 10**8
        )

    def _fail(self, kind: str, told: str) -> None:
        self.counts[kind] += 1
        self.failures.append(f"{kind}: {told}")
        print(f"{kind}: {told}", file=sys.stderr, flush=True)


def _small(run: Path) -> bool:
    return all(path.stat().st_size < 10**8 for path in run.rglob("*") if path.is_file())


def _snapshot(root: Path, run: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all files but those that the commands were given to write."""
    given = {root / "work" / name for name in ("out.csv", "out.npy", "out.safetensors", "out.toml", "out.html", "told")}
    found = {}
    for path in root.rglob("*"):
        if path in given or path.is_relative_to(run) or path.is_relative_to(root / "work" / "cache") or path.is_dir():
            continue
        state = path.lstat()
        found[str(path.relative_to(root))] = (state.st_size, state.st_mtime_ns)
    return found


@attrs.frozen
class Ended:
    """How a command ended: its exit code (None: not in time), all that it printed, its peak of memory, its time."""

    code: int | None
    output: str
    peak: int
    seconds: float


def in_child(commands: Mapping[str, list[str]], folder: Path, after: Callable[[str, Ended], None]) -> None:
    """Run the commands in a copy of this process, one after the other; a new copy goes on after one that was ended."""
    left = list(commands)
    while left:
        told = folder / "told"
        (reader, writer), (seen, see) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.close(see)
            _become([commands[name] for name in left], told, writer, seen)
        os.close(writer)
        os.close(seen)
        with os.fdopen(reader, "r") as results:
            for name in list(left):
                _wait(results, pid)
                line = results.readline()
                if not line:
                    break
                code, peak, seconds = json.loads(line)
                left.remove(name)
                after(name, Ended(code, told.read_text(errors="replace"), peak, seconds))
                with suppress(BrokenPipeError):
                    os.write(see, b"s")
        os.close(see)
        _, status, usage = os.wait4(pid, 0)
        if left and status:
            code = os.waitstatus_to_exitcode(status)
            slow = code in (-signal.SIGXCPU, -signal.SIGKILL)
            output = told.read_text(errors="replace") if told.exists() else ""
            after(left.pop(0), Ended(None if slow else code, output, usage.ru_maxrss * 1024, float(SECONDS)))


def _wait(results: IO[str], pid: int) -> None:
    """Wait for the outcome of a command; end a process that does nothing for `SECONDS` and waits for no processor."""
    before = None
    while not select.select([results], [], [], SECONDS)[0]:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = fields[10:12]  # user and system time, proc(5)
        if state == "S" and used == before:
            os.kill(pid, signal.SIGKILL)
        before = used


def _become(commands: Iterable[list[str]], told: Path, writer: int, seen: int) -> None:
    """Run the commands, each with its own limits; wait after each of them until its outcome has been looked at."""
    code = 0
    try:
        os.chdir(told.parent)
        warnings.simplefilter("ignore")
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        for arguments in commands:
            handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(handle)
            start = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(start) + SECONDS, resource.RLIM_INFINITY))
            try:
                cli.main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                code = 99
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            outcome = json.dumps([code, peak, time.process_time() - start])
            os.write(writer, f"{outcome}\n".encode())
            os.read(seen, 1)
        os._exit(0)
    finally:
        os._exit(98)


def measure(trials: int, seed: int = 0, first: int = 0) -> dict[str, Any]:
    """Make `trials` trials and return their number and the counts."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Received(Path(folder), seed)
        found.prepare()
        for number in range(first, first + trials):
            found.trial(number)
            if found.trials % 20 == 0:
                print(f"{found.trials} trials, {len(found.failures)} failures", file=sys.stderr, flush=True)
    return {"trials": found.trials, **found.counts, "failures": found.failures, "seconds": found.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to repeat one")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.trials, options.seed, options.first)
    failures, seconds = result.pop("failures"), result.pop("seconds")
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))
        print(", ".join(f"{name} {value / max(1, result['trials']):.2f} s" for name, value in seconds.items()))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
