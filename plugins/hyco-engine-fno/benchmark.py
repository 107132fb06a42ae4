"""Compares the FNO with the built-in resnet on the same simulations and number of samples, without cooperation.

    python plugins/hyco-engine-fno/benchmark.py [--seeds 3]

Burgers' equation as in fno.toml, with frames 0.02 and 0.1 apart; the latter need a receptive field five times as wide.
It takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hyco_engine as hyco

SPEC = Path(__file__).parent / "fno.toml"
ALONE: Mapping[str, Any] = {
    "run.cycles": 1,
    "augmentation.alpha": 0.0,
    "training.physical.epochs_per_cycle": 0,
    "training.synthetic.epochs_per_cycle": 20,
}
DATA: Mapping[str, Mapping[str, Any]] = {
    "frames 0.02 apart": {"data.dt": 0.02, "data.num_frames": 41},
    "frames 0.1 apart": {"data.dt": 0.1, "data.num_frames": 17},
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "resnet": {"kind": "resnet"},
    "fno": {"kind": "fno"},
}


def measured(data: str, model: str, seed: int) -> tuple[float, float, float, int]:
    """Return (nrmse of rollouts on held-out data, that of persistence, seconds of training, numbers learned)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"paths.runs": f"{folder}/runs", "paths.cache": f"{folder}/cache"}
        overrides = {**ALONE, **DATA[data], "synthetic": dict(MODELS[model]), "run.seed": seed, **paths}
        result = hyco.run(SPEC, overrides=overrides)
    metrics = result.summary["metrics"]
    assert result.synthetic is not None
    learned = sum(parameter.numel() for parameter in result.synthetic.parameters())
    seconds = result.summary["timings"]["phases"]["train_synthetic"]
    return metrics["synthetic"]["test"]["nrmse"], metrics["persistence"]["test"]["nrmse"], seconds, learned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    for data in DATA:
        for model in MODELS:
            errors, floors, seconds, learned = zip(*(measured(data, model, seed) for seed in seeds), strict=True)
            each = ", ".join(f"{error:.3g}" for error in errors)
            print(
                f"{data}: {model}: {learned[0]} numbers, test nrmse {statistics.median(errors):.3g} ({each}), "
                f"persistence {statistics.median(floors):.3g}, {statistics.median(seconds):.0f} s of training",
                flush=True,
            )


if __name__ == "__main__":
    main()
