"""What does an ensemble cost, and do its bands hold what they promise?

    python tests/benchmarks/ensembles.py [--json] [--case NAME]... [--members 5] [--seeds 3] [--epochs 20]

Each case trains a surrogate alone and as one of several members, with the same number of epochs; ten simulations
validate and ten test. `cost` is the time of the ensemble over that of as many single runs, one after the other;
`error` is the test nrmse of its mean over that of the single surrogate; `covered` is the share of the test data in the
bands that hold 90 % of the validation data. Each number is the median over seeds, with the smallest and the largest.
The last line is one JSON object {case: {name: [median, least, most]}}.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hyco_engine as hyco

TRAIN, HELD = 8, 10
SPLIT = {
    "by": "simulation",
    "train": f"0:{TRAIN}",
    "val": f"{TRAIN}:{TRAIN + HELD}",
    "test": f"{TRAIN + HELD}:{TRAIN + 2 * HELD}",
}
BURGERS = {
    "data": {
        "kind": "simulate",
        "name": "burgers",
        "num_simulations": TRAIN + 2 * HELD,
        "num_frames": 31,
        "resolution": {"x": 64},
        "dt": 0.02,
        "truth": {"nu": 0.01},
        "split": SPLIT,
    },
    "physical": {"kind": "burgers", "parameters": {"nu": {"init": 0.02}}},
}
FISHER = {
    "data": {
        **BURGERS["data"],
        "name": "fisher-kpp",
        "num_frames": 21,
        "dt": 0.2,
        "truth": {"D": 0.001, "r": 1.0},
    },
    "physical": {"kind": "fisher-kpp"},
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "burgers, hybrid": BURGERS,
    "burgers, alone": {"data": {**BURGERS["data"], "physics": {"kind": "burgers"}}},
    "fisher-kpp, hybrid": FISHER,
    "fisher-kpp, alone": {"data": {**FISHER["data"], "physics": {"kind": "fisher-kpp"}}},
}


def measured(case: Mapping[str, Any], seed: int, members: int, epochs: int, folder: Path) -> tuple[float, Any]:
    """Return the seconds and the summary of one run."""
    table = copy.deepcopy(dict(case)) | {
        "run": {"name": "ensemble", "seed": seed, "cycles": 2, "threads": 1},
        "paths": {"runs": str(folder / "runs"), "cache": str(folder / "cache")},
        "synthetic": {"kind": "unet", "members": members},
        "training": {"synthetic": {"epochs_per_cycle": epochs}},
    }
    start = time.perf_counter()
    summary = hyco.Engine(table, draw=lambda *drawn: ()).run().summary
    return time.perf_counter() - start, summary


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--case", action="append", default=[], choices=list(CASES))
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="epochs in each of two cycles")
    given = parser.parse_args(argv)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        if given.case and name not in given.case:
            continue
        rows: dict[str, list[float]] = {"cost": [], "error": [], "covered": []}
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                alone, single = measured(case, seed, 1, given.epochs, Path(folder))
                together, many = measured(case, seed, given.members, given.epochs, Path(folder))
            rows["cost"].append(together / (given.members * alone))
            errors = [summary["metrics"]["synthetic"]["test"]["nrmse"] for summary in (many, single)]
            rows["error"].append(errors[0] / errors[1])
            rows["covered"].append(many["ensemble"]["coverage"]["share"])
        found[name] = {key: [statistics.median(own), min(own), max(own)] for key, own in rows.items()}
        if not given.json:
            print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
