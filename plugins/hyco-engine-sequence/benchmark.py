"""Compares the remedies for a starved loss term by the four final losses of each, beside those without a remedy.

    python plugins/hyco-engine-sequence/benchmark.py            # the table of docs/losses.md
    python plugins/hyco-engine-sequence/benchmark.py --json     # one JSON object, as the last line

trains `sequence.toml` once for each remedy and seed; progress goes to stderr. About five minutes on one free core with
all remedies and three seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hyco_engine_sequence
import torch
from hyco_engine_sequence.data import HEADS, constant_floors

from hyco_engine.assembly import Assembler
from hyco_engine.hooks import Registry
from hyco_engine.spec.loading import load_spec
from hyco_engine.training.evaluation import HeldOut, HeldOutSamples

SPEC = Path(__file__).with_name("sequence.toml")

UNSCALED = {"synthetic.countdown_scale": 1.0}
PLAIN = {
    "loss.normalizer": {"kind": "manual"},
    "loss.terms.type": {"weight": 1.0},
    "loss.terms.pointer": {"weight": 1.0},
    "loss.terms.binary": {"weight": 1.0},
    # weight / scale = 1 leaves the loss in bars
    "loss.terms.countdown": {"weight": 20.0, "scale": 20.0},
}
SGD = {
    "training.synthetic.optimizer": "sgd",
    "training.synthetic.lr": 0.05,
    "training.synthetic.weight_decay": 0.0,
    # at a constant rate the final loss would depend on the last oscillation
    "training.synthetic.schedule": "cosine",
}


def normalizer(kind: str) -> dict[str, Any]:
    return {"loss.normalizer": {"kind": kind}}


REMEDIES: dict[str, dict[str, Any]] = {
    "baseline": UNSCALED | normalizer("running-mean"),
    "plain sum": UNSCALED | PLAIN,
    "manual re-weighting": UNSCALED | normalizer("running-mean") | {"loss.terms.countdown": {"weight": 0.7}},
    "sqrt-dim": UNSCALED | normalizer("sqrt-dim"),
    "batch-stat": UNSCALED | normalizer("batch-stat"),
    "uncertainty": UNSCALED | normalizer("uncertainty"),
    "grad-norm": UNSCALED | normalizer("grad-norm"),
    "scalar head": UNSCALED | normalizer("running-mean") | {"synthetic.countdown": "scalar"},
    "scale": normalizer("running-mean"),
    "scale, scalar head": normalizer("running-mean") | {"synthetic.countdown": "scalar"},
    "scale, plain sum": PLAIN,
    "scale, sqrt-dim": normalizer("sqrt-dim"),
    "scale, batch-stat": normalizer("batch-stat"),
    "scale, uncertainty": normalizer("uncertainty"),
    "scale, grad-norm": normalizer("grad-norm"),
    "scale, SGD": SGD | normalizer("running-mean"),
    "scale, SGD, sqrt-dim": SGD | normalizer("sqrt-dim"),
}


def registry() -> Registry:
    """Return the installed plugins, with this one from the checkout where it is not installed."""
    found = Registry.discover()
    if "multi-head-lstm" not in found.kinds("hyco_models"):
        found.register(hyco_engine_sequence, distribution="hyco-engine-sequence", version="checkout", name="sequence")
    return found


def train(remedy: str, seed: int, *, epochs: int = 20, width: int = 32) -> dict[str, Any]:
    """Train once; return the heads' losses on the train split after epochs 1 and 5, and on both splits at the end."""
    overrides = {
        **REMEDIES[remedy],
        "run.seed": seed,
        "run.device": "cpu",
        "synthetic.width": width,
        "training.synthetic.epochs_per_cycle": epochs,
    }
    plugins = registry()
    assembler = Assembler(load_spec(SPEC, plugins, overrides).spec, plugins)
    task = assembler.task()
    trainer = assembler.prepare(task).trainers["synthetic"]
    heldout = task.heldout("val", trainer.objective)
    assert heldout is not None
    taught = HeldOutSamples(task.train, trainer.objective)

    def losses(samples: HeldOut) -> dict[str, float]:
        return dict(samples.measure(trainer.model)["loss_by_field"])

    warning = None
    early: dict[int, dict[str, float]] = {}
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        notes = trainer.train(task.train, 1).notes
        warning = next((note for note in notes if "not being learned" in note), warning)
        if epoch in (1, 5):
            early[epoch] = losses(taught)
    return {
        "remedy": remedy,
        "seed": seed,
        "epoch_1": early[1],
        "epoch_5": early.get(5),
        "train": losses(taught),
        "val": losses(heldout),
        "warning": warning,
        "seconds": round(time.perf_counter() - start, 1),
    }


def floors(seed: int) -> dict[str, float]:
    """Return the errors of constant predictions on the train split, in bars."""
    plugins = registry()
    assembler = Assembler(load_spec(SPEC, plugins, {"run.seed": seed}).spec, plugins)
    return constant_floors(assembler.task().train)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the smallest and largest final loss over the seeds as Markdown, with the pointer's in thousandths."""
    lines = ["| | type | pointer (×10⁻³) | binary | countdown (bars) | starved |", "|---|---|---|---|---|---|"]
    for remedy in dict.fromkeys(result["remedy"] for result in results):
        same = [result for result in results if result["remedy"] == remedy]
        cells = []
        for head in HEADS:
            values = [result["val"][head] * (1000 if head == "pointer" else 1) for result in same]
            cells.append(f"{min(values):.3g} – {max(values):.3g}")
        warned = sum(result["warning"] is not None for result in same)
        lines.append(f"| {remedy} | {' | '.join(cells)} | {warned} of {len(same)} |")
    return "\n".join(lines)


def row(name: str, cells: Sequence[str]) -> str:
    return f"{name:24}" + "".join(f"{cell:>12}" for cell in cells)


def show(result: Mapping[str, Any]) -> str:
    losses = [f"{result['val'][head]:.4g}" for head in HEADS]
    return row(f"{result['remedy']}, {result['seed']}", [*losses, f"{result['seconds']:.0f} s"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--remedies", default=";".join(REMEDIES), help="separated by semicolons")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args(arguments)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    remedies = [name.strip() for name in given.remedies.split(";")]
    if unknown := [name for name in remedies if name not in REMEDIES]:
        parser.error(f"unknown remedies {', '.join(unknown)}; there are {'; '.join(REMEDIES)}")
    torch.set_num_threads(1)
    print(row("val losses, seed", [*HEADS, ""]), file=sys.stderr)
    results = []
    for remedy in remedies:
        for seed in seeds:
            results.append(train(remedy, seed, epochs=given.epochs, width=given.width))
            print(show(results[-1]), file=sys.stderr, flush=True)
    known = {seed: floors(seed) for seed in seeds}
    for result in results:
        for key, other in (("baseline", "baseline"), ("unnormalised", "plain sum")):
            same = [r for r in results if (r["remedy"], r["seed"]) == (other, result["seed"])]
            result[key] = same[0]["val"] if same else None
        result["countdown_floors"] = known[result["seed"]]
    if given.json:
        report = {"epochs": given.epochs, "width": given.width, "results": results}
        print(json.dumps(report))
        return
    print(table(results))
    for name in ("zero", "median"):
        found = [floor[name] for floor in known.values()]
        print(f"\ncountdown of a constant prediction ({name}): {min(found):.2f} – {max(found):.2f} bars")


if __name__ == "__main__":
    main()
