"""How much longer a run takes beside busy programs: `python tests/benchmarks/shared_machine.py [--rounds 3] [--json]`.

Each round runs the quickstart with two cycles, by the command, calm and beside one busy loop for each core, in turn.
The result has the medians of the clock's seconds, their ratio, and the processor's seconds of both. On an idle machine
of two cores the ratio of a run of one thread would ideally be 1.5, since three programs share the cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hyco_engine.resources import usable_cores

SPEC = Path(__file__).parents[2] / "docs" / "examples" / "quickstart.toml"


def run() -> tuple[float, float]:
    """Run the quickstart in a process of its own; return the seconds of the clock and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hyco_engine", "run", str(SPEC), "--quiet", "--set", "run.cycles=2"]
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic() - begun, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    given = parser.parse_args(argv)
    calm, beside = [], []
    for round_ in range(given.rounds):
        calm.append(run())
        with busy(usable_cores()):
            beside.append(run())
        if not given.json:
            print(f"round {round_}: calm {calm[-1][0]:.1f} s, beside busy loops {beside[-1][0]:.1f} s", flush=True)
    found = {
        "calm_s": statistics.median(clock for clock, _ in calm),
        "beside_s": statistics.median(clock for clock, _ in beside),
        "ratio": statistics.median(other[0] / one[0] for one, other in zip(calm, beside, strict=True)),
        "calm_cpu_s": statistics.median(cpu for _, cpu in calm),
        "beside_cpu_s": statistics.median(cpu for _, cpu in beside),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
