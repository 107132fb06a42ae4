"""Measures how generated samples are held, speed and memory: `python tests/benchmarks/caches.py [--json] [--quick]`.

The loader alone, no model, in the order and by the calls that a trainer uses. All numbers are ratios within one run;
each is the median of many short turns of the two sides, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cycle
import torch
from torch import Tensor, nn

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.builtin.caches.disk import Disk
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.interfaces import Batch, CacheBackend, GeneratedSamples, Recipe, Samples

BATCH = 32
HORIZON = 3


class Copied(Recipe):
    """Samples of one field on `cells` cells over `HORIZON` steps, made at the price of a copy."""

    def __init__(self, count: int, cells: tuple[int, ...]) -> None:
        self.count = count
        self.watch: Callable[[], None] = lambda: None
        self.block = torch.randn(BATCH, 1 + HORIZON, 1, *cells)

    def __len__(self) -> int:
        return self.count

    @property
    def sample_bytes(self) -> int:
        return self.block[0].nbytes

    @property
    def batch_size(self) -> int:
        return BATCH

    def generate(self, indices: Tensor) -> Batch:
        made = self.block[: len(indices)] + indices.view(-1, *[1] * (self.block.dim() - 1))
        self.watch()
        return made[:, 0], made[:, 1:]


class FilePerSample(Samples):
    """The baseline of the comparison: one `torch.save` file a sample, with the last ones read kept in memory."""

    def __init__(self, recipe: Recipe, folder: Path, keep: int) -> None:
        self.count, self.folder, self.keep = len(recipe), folder, keep
        self.kept: OrderedDict[int, Any] = OrderedDict()
        for index in range(len(recipe)):
            inputs, targets = recipe.generate(torch.tensor([index]))
            torch.save((torch.as_tensor(inputs)[0].clone(), torch.as_tensor(targets)[0].clone()), self.path(index))

    def path(self, index: int) -> Path:
        return self.folder / f"sample_{index:06d}.pt"

    def __len__(self) -> int:
        return self.count

    def one(self, index: int) -> Any:
        if index in self.kept:
            self.kept.move_to_end(index)
            return self.kept[index]
        self.kept[index] = sample = torch.load(self.path(index), weights_only=True)
        if len(self.kept) > self.keep:
            self.kept.popitem(last=False)
        return sample

    def batch(self, indices: Tensor) -> Batch:
        samples = [self.one(index) for index in indices.tolist()]
        return torch.stack([sample[0] for sample in samples]), torch.stack([sample[1] for sample in samples])


def announce(samples: Samples, order: Sequence[Tensor]) -> None:
    if isinstance(samples, GeneratedSamples | AugmentedDataset):
        samples.upcoming(order)


def compare(sides: Sequence[Samples], epochs: int, turn: int = 32) -> list[float]:
    """Time of an epoch of each side over that of the first: medians over turns of `turn` batches, taken alternately.

    A turn must be long against the batches that are read together.
    """
    ratios: list[list[float]] = [[] for _ in sides]
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.split(torch.randperm(len(sides[0]), generator=generator), BATCH)
        turn = min(turn, len(order))
        announced = []
        for side in sides:
            begin = time.perf_counter()
            announce(side, order)
            announced.append((time.perf_counter() - begin) * turn / len(order))
        for start in range(0, len(order) - turn + 1, turn):
            times = []
            for side, share in zip(sides, announced, strict=True):
                begin = time.perf_counter()
                for indices in order[start : start + turn]:
                    side.batch(indices)
                times.append(time.perf_counter() - begin + share)
            for values, value in zip(ratios, times, strict=True):
                values.append(value / times[0])
    return [statistics.median(values) for values in ratios]


def reading(cells: tuple[int, ...], nbytes: float, epochs: int, turn: int) -> dict[str, float]:
    """Reading from disk over reading from memory: generated samples alone, and mixed with as many real ones."""
    count = int(nbytes / (4 * torch.Size(cells).numel() * (1 + HORIZON)))
    recipe = Copied(count, cells)
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = Memory().hold(recipe, None), Disk().hold(recipe, Path(folder))
        time.sleep(0.2)
        alone = compare([memory, disk], epochs, turn)[1]
        real = Memory().hold(recipe, None)
        mixed = compare([AugmentedDataset(real, memory), AugmentedDataset(real, disk)], epochs, turn)[1]
        disk.close()
    return {"alone": alone, "mixed": mixed}


def against_files(cells: tuple[int, ...], count: int, epochs: int) -> float:
    """Return the time of one file a sample over that of shards, both read from the operating system's cache."""
    recipe = Copied(count, cells)
    with tempfile.TemporaryDirectory() as shards, tempfile.TemporaryDirectory() as files:
        disk = Disk().hold(recipe, Path(shards))
        time.sleep(0.2)
        ratio = compare([disk, FilePerSample(recipe, Path(files), keep=count // 10)], epochs, turn=8)[1]
        disk.close()
    return ratio


def on_the_fly(count: int, repeats: int) -> float:
    """Return the time of an epoch on the fly over that of generation and an epoch from memory, with a small teacher."""
    grid = Grid(axes=("x", "y"), resolution=(64, 64), lower=(0.0, 0.0), upper=(1.0, 1.0))
    field = FieldInfo(name="u", boundary=Boundary.parse("periodic", grid.axes))
    layout = StateLayout(grid=grid, dynamic=(field,))
    teacher = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    starts = torch.randn(count, *(1, 64, 64))
    recipe = RolloutRecipe(
        teacher, lambda indices: starts[indices], count, horizon=HORIZON, layout=layout, batch_size=BATCH
    )
    order = torch.split(torch.randperm(count), BATCH)

    def epoch(cache: CacheBackend) -> float:
        begin = time.perf_counter()
        samples = cache.hold(recipe, None)
        samples.upcoming(order)
        for indices in order:
            samples.batch(indices)
        samples.close()
        return time.perf_counter() - begin

    pairs = [(epoch(Memory()), epoch(OnTheFly())) for _ in range(repeats)]
    return statistics.median(made / held for held, made in pairs)


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


def peak(kind: str, nbytes: float) -> int:
    """Most anonymous memory, in this process, while samples are made and read once, above the level before."""
    caches: dict[str, Callable[[], CacheBackend]] = {"disk": Disk, "on_the_fly": OnTheFly, "memory": Memory}
    cells = (64, 64)
    recipe = Copied(int(nbytes / (4 * torch.Size(cells).numel() * (1 + HORIZON))), cells)
    order = torch.split(torch.randperm(len(recipe)), BATCH)
    before = highest = anonymous_bytes()

    def watch() -> None:
        nonlocal highest
        highest = max(highest, anonymous_bytes())

    recipe.watch = watch
    with tempfile.TemporaryDirectory() as folder:
        samples = caches[kind]().hold(recipe, Path(folder))
        samples.upcoming(order)
        for indices in order:
            batch = samples.batch(indices)
            # as in training, the next one is made while this one is used, and this one is gone before it is asked for:
            # else it would be chance how many of them meet
            time.sleep(0.002)
            watch()
            del batch
        samples.close()
    return highest - before


def peak_growth(kind: str, small: float, large: float) -> float:
    """Peak at `large` generated bytes over the peak at `small`, each in a process of its own."""
    peaks = []
    for nbytes in (small, large):
        command = [sys.executable, __file__, "--peak", kind, str(nbytes)]
        # every tensor's memory goes back as soon as it is freed: what is measured is what is held
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
        runs = [subprocess.run(command, capture_output=True, check=True, text=True, env=environment) for _ in range(3)]
        # on a busy machine it is chance still
        peaks.append(max(int(run.stdout) for run in runs))
    return peaks[1] / peaks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for a look")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a loader's work is too small to be divided
    if options.peak:
        print(peak(options.peak[0], float(options.peak[1])))
        return
    scale = 0.1 if options.quick else 1.0
    plane = reading((64, 64), 0.5e9 * scale, epochs=6, turn=32)
    line = reading((128,), 0.2e9 * scale, epochs=3, turn=192)
    print("disk over memory by case:", {"64x64": plane, "128": line})
    result: dict[str, Any] = {
        "disk_over_memory": max(plane["mixed"], line["mixed"]),
        "per_sample_files_over_disk": against_files((64, 64), int(3000 * scale), epochs=3),
        "on_the_fly_over_memory_plus_generation": on_the_fly(int(1024 * scale), repeats=7),
        "peak_growth": {kind: peak_growth(kind, 0.2e9 * scale, 2e9 * scale) for kind in ("disk", "on_the_fly")},
    }
    torch.set_num_threads(threads)
    result["cycle_speedup"] = cycle.measure()["cycle_speedup"]
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
