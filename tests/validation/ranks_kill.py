"""Runs on several processes of which one is killed at a random moment, and which go on with another number of them, end
as an undisturbed run of one process, bit for bit.

    python tests/validation/ranks_kill.py --trials 30 --json

A trial starts a run on one, two or four processes, kills one of them, waits until the others have noticed and ended,
and resumes the run with another number; it may do so again, and at last lets it finish. The spec, what is compared and
what counts as left over are those of `kill.py`. The last line is {"trials", "survived", "silent_differences",
"leftovers", "hangs"}, where a hang is a process that has not ended a minute and a half after another one was killed, or
twice as long as an undisturbed run takes on a busy machine. The exit code is 0 if all survived.
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
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kill import CACHES, OPTIMIZERS, SPEC, ended, judged, repeated, results, start

SIZES = (1, 2, 4)
SHARDS = 4
HANG_S = 90.0
PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started(folder: Path, size: int) -> list[int]:
    """Run the spec in `folder` on so many processes; their ids, in the order of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(size):
        os.environ.update(zip(PLACE, (str(rank), str(size), "127.0.0.1", port), strict=True))
        processes.append(start(folder))
    for name in PLACE:
        del os.environ[name]
    return processes


def all_ended(processes: list[int], within: float) -> tuple[list[int | None], int]:
    """Return all exit codes, and how many processes had to be killed since they did not end."""
    deadline, codes, hangs = time.monotonic() + within, [], 0
    for process in processes:
        code = ended(process, max(0.0, deadline - time.monotonic()))
        if code is None:
            hangs += 1
            os.kill(process, signal.SIGKILL)
            ended(process, 60)
        codes.append(code)
    return codes, hangs


def prepare(folder: Path, cache: str, optimizer: str, minutes: float) -> Path:
    folder.mkdir()
    spec = SPEC.format(cache=cache, optimizer=optimizer, minutes=minutes, cache_folder="cache")
    (folder / "spec.toml").write_text(spec.replace("[run]\n", f"[run]\nshards = {SHARDS}\n", 1))
    return folder


class Trials:
    """References are made when first needed, below `root`."""

    def __init__(self, root: Path, seed: int, sizes: tuple[int, ...]) -> None:
        self.root = root
        self.sizes = sizes
        self.random = random.Random(seed)
        self.references: dict[tuple[str, str], tuple[Mapping[str, Any], float]] = {}
        self.hangs = 0

    def reference(self, cache: str, optimizer: str) -> tuple[Mapping[str, Any], float]:
        """Return what one process finds, and how long it takes."""
        if (cache, optimizer) not in self.references:
            folder = prepare(self.root / f"whole-{cache}-{optimizer}", cache, optimizer, 10.0)
            begin = time.monotonic()
            if code := ended(start(folder), within=600):
                raise RuntimeError(f"the undisturbed run ended with {code}: {(folder / 'output.txt').read_text()}")
            self.references[cache, optimizer] = results(folder / "run"), time.monotonic() - begin
        return self.references[cache, optimizer]

    def trial(self, number: int) -> tuple[str, list[str]]:
        """Return "survived" or what went wrong, and the files that were left over."""
        cache, optimizer = list(itertools.product(CACHES, OPTIMIZERS))[number % 9]
        expected, seconds = self.reference(cache, optimizer)
        folder = prepare(self.root / f"trial-{number}", cache, optimizer, self.random.choice([0.0, 0.002, 10.0]))
        for _ in range(self.random.randint(1, 2)):
            processes = started(folder, self.random.choice(self.sizes))
            time.sleep(self.random.uniform(0.05, 1.5) * seconds)
            victim = self.random.choice(processes)
            code = ended(victim, 0.0)
            if code is None:
                os.kill(victim, signal.SIGKILL)
                code = ended(victim, 60)
            codes, hangs = all_ended([one for one in processes if one != victim], max(HANG_S, 2 * seconds))
            self.hangs += hangs
            # whoever has already done its part ends well; the others end with an error, or as they are asked to
            if hangs or not {code, *codes} <= {0, 1, 130, -signal.SIGKILL}:
                return f"ended with {[code, *codes]}", []
        codes, hangs = all_ended(started(folder, self.random.choice(self.sizes)), 600)
        self.hangs += hangs
        if any(codes):
            return f"the last run ended with {codes}", []
        return judged(folder, expected)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=max(SIZES), help="most processes of a run")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line to stdout")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave what failed in it")
    arguments = parser.parse_args()

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # once for all forked runs
    for name in ("cli.run", "cli.terminal", "engine", "physics.model", "ranks.process_group", "report.run_figures"):
        importlib.import_module(f"hyco_engine.{name}")
    vars(sys.modules["hyco_engine.report.run_figures"])["draw"] = lambda *drawn: []
    log = sys.stderr if arguments.json else sys.stdout
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="hyco-ranks-"))
    root.mkdir(parents=True, exist_ok=True)
    trials = Trials(root, arguments.seed, tuple(size for size in SIZES if size <= arguments.most))
    told = repeated(trials.trial, arguments.trials, log)
    told["hangs"] = trials.hangs
    survived = told["survived"] == arguments.trials and not told["leftovers"] and not told["hangs"]
    if arguments.keep is None and survived:
        shutil.rmtree(root)
    print(json.dumps(told))
    return 0 if survived else 1


if __name__ == "__main__":
    sys.exit(main())
