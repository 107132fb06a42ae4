"""The command `hyco-engine-posterior`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hyco_engine.errors import HycoError


def main() -> None:
    """Sample the posterior of the parameters in a run folder, and add it to the folder and its report."""
    parser = argparse.ArgumentParser(prog="hyco-engine-posterior", description=main.__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--walkers", type=int, default=32, help="number of walkers (default: 32)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each walker (default: 500)")
    parser.add_argument("--seed", type=int, help="seed of the chain (default: that of the run)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the run's spec: data.path"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    from hyco_engine_posterior import sample

    try:
        found = sample(args.run, walkers=args.walkers, steps=args.steps, seed=args.seed, overrides=args.set)
    except HycoError as error:
        problems = [{"file": p.file, "line": p.line, "key": p.key, "message": p.message} for p in error.problems]
        if args.json:
            print(json.dumps({"errors": problems}))
        else:
            print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        sys.exit(error.exit_code)
    if args.json:
        print(json.dumps(found))
        return
    for name, own in found["parameters"].items():
        low, high = own["interval"]
        print(f"{name} {own['median']:.4g} ± {own['standard_deviation']:.2g}, 95 % between {low:.4g} and {high:.4g}")
    print(f"{found['effective_samples']} effective samples; {found['accepted']:.0%} of the steps accepted")
    print(f"wrote {args.run / 'posterior.json'} and {args.run / 'figures' / 'posterior.png'}")
    if found["warning"]:
        print(f"warning: {found['warning']}", file=sys.stderr)


if __name__ == "__main__":
    main()
