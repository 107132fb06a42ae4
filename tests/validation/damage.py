"""Damaged files are noticed: `python tests/validation/damage.py [--trials N] [--json]`.

Every file of a run folder and of a cache is truncated, emptied, changed in one bit, or replaced by another run's. Then
everything that reads it is asked for its result: an error that names a file, or the very result as without the damage.
Anything else is a silent difference. Runs in one process; a trial takes about a third of a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hyco_engine as hyco
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.errors import HycoError
from hyco_engine.interfaces import Batch, Recipe
from hyco_engine.runs.loading import LoadedRun
from hyco_engine.runs.metrics import read_metrics, read_summary
from hyco_engine.runs.predicting import predict

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_specs import HEAT_HYBRID

SPEC: dict[str, Any] = {
    **HEAT_HYBRID,
    "run": {"name": "damaged", "cycles": 1},
    "physical": {"kind": "heat", "compile": "eager", "parameters": {"kappa": {"init": 0.2}}},
    "augmentation": {"kind": "count", "alpha": 1.0, "cache": {"kind": "disk"}},
}
UNREAD = ("log.txt", "run.lock", ".run.lock")
"""Files that nothing reads back."""

Reader = Callable[[], Any]


class Copied(Recipe):
    """Samples that only their index decides. Each part fills a page, so that hardly a byte of a file is no value."""

    batch_size = 8
    sample_bytes = 2 * 1024 * 4

    def __len__(self) -> int:
        return 64

    def generate(self, indices: torch.Tensor) -> Batch:
        values = torch.sin(indices[:, None].float() + torch.arange(1024))
        return values, values * 2


def damages(path: Path, other: Path, chance: random.Random) -> list[tuple[str, bytes]]:
    """Yield (kind of damage, damaged content) of one file; `other` is the file of another run, if it has one."""
    content = path.read_bytes()
    found = [("emptied", b"")]
    if content:
        cut = chance.randrange(len(content))
        found += [(f"cut to {cut} bytes", content[:cut]), ("without its last byte", content[:-1])]
        for _ in range(4):
            place, bit = chance.randrange(len(content)), chance.randrange(8)
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            found.append((f"bit {bit} of byte {place}", bytes(changed)))
    if other.is_file():
        found.append(("another run's", other.read_bytes()))
    return [(what, new) for what, new in found if new != content]


def fingerprint(value: Any) -> Any:
    """Comparable bit by bit."""
    if isinstance(value, torch.nn.Module):
        return fingerprint(dict(value.state_dict()))
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {name: fingerprint(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(entry) for entry in value]
    return repr(value)


class Trials:
    """Runs readers on damaged copies and counts what comes of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.trials = self.survived = 0
        self.noticed = 0
        self.failures: list[str] = []
        self.leftovers: list[str] = []
        self.registry = hyco.Registry.discover()

    def run(self, spec: dict[str, Any], run_dir: Path, **more: Any) -> hyco.RunResult:
        return hyco.Engine(spec, registry=self.registry).run(run_dir, **more)

    def prepare(self) -> None:
        """Make two runs with a cache each, and the result of an undamaged one."""
        for name, seed in (("one", 0), ("two", 1)):
            self.run(self.spec(name, seed), self.folder / name)
        np.save(self.folder / "state.npy", np.sin(np.arange(8.0))[None])
        work = self.fresh()
        self.expected = {name: fingerprint(read()) for name, read in self.readers(work).items()}
        self.expected["resume"] = fingerprint(self.resumed(work))
        # nothing that is compared may come by chance
        again = self.fresh()
        assert all(fingerprint(read()) == self.expected[name] for name, read in self.readers(again).items())
        assert fingerprint(self.resumed(again)) == self.expected["resume"]

    def spec(self, name: str, seed: int) -> dict[str, Any]:
        spec = json.loads(json.dumps(SPEC))
        spec["run"]["seed"] = seed
        spec["paths"] = {"cache": str(self.folder / f"{name}-cache")}
        return dict(spec)

    def fresh(self) -> Path:
        """Copy the first run to a fixed place, so that results that name the place stay the same."""
        work = self.folder / "work"
        for source, place in (("one", work), ("one-cache", self.folder / "work-cache")):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(self.folder / source, place)
        return work

    def readers(self, work: Path) -> dict[str, Reader]:
        def loaded() -> LoadedRun:
            return LoadedRun(work, self.registry, overrides=[f"paths.cache={str(self.folder / 'work-cache')!r}"])

        def predicted() -> bytes:
            out = self.folder / "out.npy"
            predict(work, self.folder / "state.npy", out, 2, registry=self.registry)
            return out.read_bytes()

        def evaluated() -> Any:
            return loaded().evaluate("test")

        readers: dict[str, Reader] = {
            f"{player} {which}": lambda p=player, w=which: loaded().model(p, w)
            for player in ("physical", "synthetic")
            for which in ("final", "best")
        }
        readers |= {"evaluate": evaluated, "predict": predicted}
        return readers | {"metrics": lambda: read_metrics(work), "summary": lambda: read_summary(work)}

    def resumed(self, work: Path) -> Any:
        spec = self.spec("work", 0)
        spec["run"]["cycles"] = 2
        # nine tenths of its time would go into figures, which nothing here looks at
        result = hyco.Engine(spec, registry=self.registry, draw=lambda *drawn: ()).run(work, resume=True)
        assert result.physical is not None
        assert result.synthetic is not None
        lines = [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(work)]
        return [result.physical, result.synthetic, result.summary["metrics"], lines]

    def judge(self, what: str, name: str, read: Reader) -> bool:
        """Return whether a reader gave an error for the user, or the result that it gives without damage."""
        try:
            found = fingerprint(read())
        except HycoError as error:
            self.noticed += 1
            if "\n  File " in str(error) or not str(error):
                self.failures.append(f"{what}: {name}: no message for a user: {error!r}")
                return False
            return True
        except Exception as error:
            self.failures.append(f"{what}: {name}: {type(error).__name__}: {error}")
            return False
        if found != self.expected[name]:
            self.failures.append(f"{what}: {name}: a silent difference")
            return False
        return True

    def count(self, good: bool) -> None:
        self.trials += 1
        self.survived += good

    def look_for_leftovers(self, what: str) -> None:
        for place in (self.folder / "work", self.folder / "work-cache"):
            left = [path for path in place.rglob("*.tmp") if path.is_file()]
            left += [path for path in (place / "generated").rglob("*") if path.is_file()]
            self.leftovers += [f"{what}: {path}" for path in left]

    # --- what is damaged --------------------------------------------------------------------------------------------

    def run_files(self) -> Iterator[None]:
        """Files of a finished run: read back, and gone on with."""
        names = sorted(p.relative_to(self.folder / "one") for p in (self.folder / "one").rglob("*") if p.is_file())
        for name in names:
            checkpoint = name.parts[0] == "checkpoints"
            for kind, content in damages(self.folder / "one" / name, self.folder / "two" / name, self.chance):
                what = f"{name}, {kind}"
                if not checkpoint:
                    work = self.fresh()
                    (work / name).write_bytes(content)
                    self.count(all([self.judge(what, reader, read) for reader, read in self.readers(work).items()]))
                    self.look_for_leftovers(what)
                    yield
                if name.parts[0] not in ("figures", "weights", *UNREAD):
                    work = self.fresh()
                    (work / name).write_bytes(content)
                    self.count(self.judge(f"{what}, resumed", "resume", lambda w=work: self.resumed(w)))
                    self.look_for_leftovers(what)
                    yield

    def tensor_files(self) -> Iterator[None]:
        """Check that damage in the cache of real data is noticed and the cache made again."""
        names = sorted(p.relative_to(self.folder / "one-cache") for p in (self.folder / "one-cache").rglob("sim_*"))
        for name in names:
            sound = (self.folder / "one-cache" / name).read_bytes()
            # the same simulation as another spec has it
            other = next((self.folder / "two-cache").rglob(f"{name.name.partition('-')[0]}-*"))
            for kind, content in damages(self.folder / "one-cache" / name, other, self.chance):
                work = self.fresh()
                (self.folder / "work-cache" / name).write_bytes(content)
                good = self.judge(f"{name}, {kind}", "evaluate", self.readers(work)["evaluate"])
                mended = (self.folder / "work-cache" / name).read_bytes() == sound
                if good and not mended:
                    self.failures.append(f"{name}, {kind}: was not made again")
                self.count(good and mended)
                self.look_for_leftovers(f"{name}, {kind}")
                yield

    def shards(self) -> Iterator[None]:
        """Generated samples, damaged between two batches."""
        recipe = Copied()
        indices = torch.arange(64)
        self.expected["shards"] = fingerprint(recipe.generate(indices))
        place = self.folder / "shards"
        for shard in range(2):
            for number in range(8):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                samples = Disk(shard_bytes=100_000).hold(recipe, place)
                try:
                    path = sorted(place.iterdir())[shard]
                    kinds = damages(path, sorted(place.iterdir())[1 - shard], self.chance)
                    kind, content = kinds[number % len(kinds)]
                    samples.batch(indices[:4])
                    path.write_bytes(content)
                    self.count(self.judge(f"shard {shard}, {kind}", "shards", lambda s=samples: s.batch(indices)))
                finally:
                    samples.close()
                left = list(place.iterdir())
                self.leftovers += [f"shard {shard}, {kind}: {path}" for path in left]
                yield


def measure(trials: int, seed: int = 0) -> dict[str, Any]:
    """Measure at least `trials` cases, unless every file has had all its kinds of damage before."""
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Trials(Path(folder), seed)
            found.prepare()
            sources = [found.shards(), found.tensor_files(), found.run_files()]
            while sources and found.trials < trials:
                for source in list(sources):
                    if next(source, found) is found:
                        sources.remove(source)
                    if not sources and found.trials < trials:
                        sources = [found.run_files(), found.tensor_files()]
    finally:
        logging.disable(logging.NOTSET)
    return {
        "trials": found.trials,
        "survived": found.survived,
        "silent_differences": sum("silent difference" in failure for failure in found.failures),
        "leftovers": len(found.leftovers),
        "noticed": found.noticed,
        "failures": [*found.failures, *found.leftovers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.trials, options.seed)
    for failure in result.pop("failures"):
        print(failure, file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name}: {value}")
    sys.exit(0 if result["survived"] == result["trials"] and not result["leftovers"] else 1)


if __name__ == "__main__":
    main()
