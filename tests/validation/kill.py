"""Runs that are killed at random moments and resumed end as runs that were never disturbed, bit for bit.

    python tests/validation/kill.py --trials 60 --json

A trial starts a run with one of the caches and one of the physics' optimizers, ends it at a random moment by SIGKILL,
or now and then by SIGINT, resumes it, maybe ends it again, and at last lets it finish. Then weights, metrics (but for
their times) and parameters are compared with those of an undisturbed run of the same spec, and the folders are searched
for anything left over. Every run is a process of its own, forked from this one, which has imported torch and nothing
more: so a trial takes seconds. Figures are not drawn.

The last line is {"trials", "survived", "silent_differences", "leftovers"}; `ends` says how often and in which state
(the number of checkpoints so far) runs were ended. The exit code is 0 if all survived.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

CACHES = ("memory", "disk", "on-the-fly")
OPTIMIZERS = ("adam", "lbfgs", "gauss-newton")
MOST_ENDS = 3
SPEC = """
[run]
name = "killed"
cycles = 2
checkpoint_minutes = {minutes}

[paths]
cache = "{cache_folder}"

[data]
kind = "simulate"
name = "killed"
truth = {{nu = 0.02}}
num_simulations = 4
num_frames = 8
resolution = {{x = 16}}
dt = 0.02
split = {{train = "0:2", val = "2:3", test = "3:4"}}

[physical]
kind = "equation"
compile = "eager"
rates.u = "nu*lap(u)"
parameters.nu = {{init = 0.05, bounds = [1e-4, 1.0]}}

[synthetic]
kind = "resnet"
width = 4
blocks = 1

[augmentation]
kind = "count"
alpha = 0.5
cache.kind = "{cache}"

[loss]
normalizer.kind = "running-mean"

[training.synthetic]
epochs_per_cycle = 6
batch_size = 4

[training.physical]
epochs_per_cycle = 6
batch_size = 4
optimizer = "{optimizer}"
"""


def start(folder: Path, run: str = "run") -> int:
    """Run the spec in `folder`, in a process of its own; its id. What it prints is in `output.txt`."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        from hyco_engine.cli import cli

        cli.main(["run", "spec.toml", "--run-dir", run, "--resume", "--quiet"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        # before the command took the signals over
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int, within: float) -> int | None:
    """Return the exit code, negative for a signal, or None while the process runs."""
    deadline = time.monotonic() + within
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def results(run: Path) -> dict[str, Any]:
    """Return the results that must be equal."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("time")
    summary = json.loads((run / "summary.json").read_text())
    told = {name: summary[name] for name in ("status", "cycles", "parameters", "metrics", "balance", "warnings")}
    weights = {path.name: path.read_bytes() for path in sorted((run / "weights").iterdir())}
    return {"metrics.jsonl": lines, "weights": weights, **told}


def leftovers(folder: Path) -> list[str]:
    """Files that should be gone."""
    found = [path for path in (folder / "cache").rglob("*") if {"generated", "owners"} & set(path.parts)]
    found += [path for path in folder.rglob("*") if path.suffix == ".tmp" or path.name in ("run.lock", ".run.lock")]
    found += sorted((folder / "run" / "checkpoints").iterdir())[4:]
    return [str(path.relative_to(folder)) for path in found if path.is_file() or path.name.startswith("run")]


def judged(folder: Path, expected: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return "survived" or in what a run that has ended differs, and the files that were left over."""
    found = results(folder / "run")
    different = [name for name in expected if found[name] != expected[name]]
    left = leftovers(folder)
    if not different and not left:
        shutil.rmtree(folder)
    return f"differs in {', '.join(different)}" if different else "survived", left


def repeated(trial: Callable[[int], tuple[str, list[str]]], trials: int, log: TextIO) -> dict[str, int]:
    """Try so often, and return the `trials`, how many `survived`, the `silent_differences` and the `leftovers`."""
    outcomes: Counter[str] = Counter()
    left = 0
    for number in range(trials):
        outcome, more = trial(number)
        outcomes[outcome] += 1
        left += len(more)
        print(f"trial {number}: {outcome}{f'; left over: {more}' if more else ''}", file=log, flush=True)
    return {
        "trials": trials,
        "survived": outcomes["survived"],
        "silent_differences": sum(n for outcome, n in outcomes.items() if outcome.startswith("differs")),
        "leftovers": left,
    }


class Trials:
    """References are made when first needed, below `root`."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.references: dict[tuple[str, str], tuple[Mapping[str, Any], float]] = {}
        self.ends: Counter[str] = Counter()

    def prepare(self, name: str, cache: str, optimizer: str, minutes: float, own_cache: bool) -> Path:
        folder = self.root / name
        folder.mkdir()
        cache_folder = "cache" if own_cache else str(self.root / "cache")
        spec = SPEC.format(cache=cache, optimizer=optimizer, minutes=minutes, cache_folder=cache_folder)
        (folder / "spec.toml").write_text(spec)
        return folder

    def reference(self, cache: str, optimizer: str) -> tuple[Mapping[str, Any], float]:
        """Return the undisturbed results, and how long they take."""
        if (cache, optimizer) not in self.references:
            folder = self.prepare(f"whole-{cache}-{optimizer}", cache, optimizer, 10.0, own_cache=False)
            begin = time.monotonic()
            if code := ended(start(folder), within=300):
                raise RuntimeError(f"the undisturbed run ended with {code}: {(folder / 'output.txt').read_text()}")
            self.references[cache, optimizer] = results(folder / "run"), time.monotonic() - begin
        return self.references[cache, optimizer]

    def trial(self, number: int) -> tuple[str, list[str]]:
        """Return "survived" or what went wrong, and the files that were left over."""
        cache, optimizer = list(itertools.product(CACHES, OPTIMIZERS))[number % 9]
        expected, seconds = self.reference(cache, optimizer)
        minutes = self.random.choice([0.0, 0.002, 10.0])
        folder = self.prepare(f"trial-{number}", cache, optimizer, minutes, own_cache=number % 2 == 0)
        for _ in range(self.random.randint(1, MOST_ENDS)):
            process = start(folder)
            code = ended(process, within=self.random.uniform(0.02, 1.1) * seconds)
            if code is None:
                number_of_checkpoints = len(list((folder / "run").glob("checkpoints/*.json")))
                how = signal.SIGINT if self.random.random() < 0.2 else signal.SIGKILL
                self.ends[f"{how.name}, {number_of_checkpoints} checkpoints"] += 1
                os.kill(process, how)
                code = ended(process, within=60)
            if code not in (0, -signal.SIGKILL, 130, -signal.SIGINT):
                return f"ended with {code}", []
        if code := ended(start(folder), within=300):
            return f"the last run ended with {code}", []
        return judged(folder, expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line to stdout")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave what failed in it")
    arguments = parser.parse_args()

    # the number of threads is part of what a run is; one lets several trials share a machine
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # once for all forked runs
    for name in (
        "hyco_engine.cli.run",
        "hyco_engine.cli.terminal",
        "hyco_engine.engine",
        "hyco_engine.builtin.models.equation_physics",
        "hyco_engine.builtin.models.resnet",
        "hyco_engine.builtin.sources.simulate",
        "hyco_engine.report.run_figures",
    ):
        importlib.import_module(name)
    vars(sys.modules["hyco_engine.report.run_figures"])["draw"] = lambda *drawn: []
    log = sys.stderr if arguments.json else sys.stdout
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="hyco-kill-"))
    root.mkdir(parents=True, exist_ok=True)
    trials = Trials(root, arguments.seed)
    told = repeated(trials.trial, arguments.trials, log)
    survived = told["survived"] == arguments.trials and not told["leftovers"]
    if arguments.keep is None and survived:
        shutil.rmtree(root)
    print(json.dumps({**told, "ends": dict(sorted(trials.ends.items()))}))
    return 0 if survived else 1


if __name__ == "__main__":
    sys.exit(main())
