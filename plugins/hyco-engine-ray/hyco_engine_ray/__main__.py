"""The command `hyco-engine-ray`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hyco_engine.errors import HycoError


def main() -> None:
    """Run the members of a sweep, or one run of several processes, on a Ray cluster."""
    parser = argparse.ArgumentParser(prog="hyco-engine-ray", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="sweep|run")
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--address", help="of the cluster; default: $RAY_ADDRESS, else Ray starts on this machine")
    every.add_argument("--cores", type=int, default=1, help="cores of each member or worker")
    every.add_argument("--gpus", type=float, default=0, help="GPUs of each member or worker")

    sweep = commands.add_parser("sweep", parents=[every], help="run the members that are not completed")
    sweep.add_argument("sweep", type=Path, help="sweep folder, as `hyco-engine sweep … --jobs 0` writes it")
    sweep.set_defaults(does=_sweep)

    run = commands.add_parser("run", parents=[every], help="run a spec on several workers, or go on with its run")
    run.add_argument("spec", type=Path, help="spec, which all machines see")
    run.add_argument("--run-dir", type=Path, required=True, help="run folder, which all machines see")
    run.add_argument("--workers", type=_workers, default=(2, 2), help="their number, or the least and the most: 2:8")
    run.add_argument("--failures", type=int, default=3, help="how many times to start anew after a worker was lost")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the spec")
    run.set_defaults(does=_run)

    args = parser.parse_args()
    try:
        sys.exit(args.does(args))
    except HycoError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        sys.exit(error.exit_code)


def _workers(text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    try:
        found = int(least), int(most if colon else least)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: write 4 or 2:8")
    return found


def _cluster(address: str | None) -> Any:
    """Return the connection to a Ray cluster, as a context that ends it."""
    # a cluster that lives as long as this command tells nobody about it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # what matters of what workers say comes back from them; Ray keeps the rest in its log files
    own: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    if address is None and "RAY_ADDRESS" not in os.environ:
        own["include_dashboard"] = False
    return ray.init(address=address, **own)


def _sweep(args: argparse.Namespace) -> int:
    from hyco_engine.sweeping import open_sweep

    sweep = open_sweep(args.sweep)
    count, failed = 0, 0
    with _cluster(args.address):
        from hyco_engine_ray.members import run_members

        for member, status in run_members(sweep, cores=args.cores, gpus=args.gpus):
            print(f"{member.name}  {member.label}  {status}", flush=True)
            count += 1
            failed += status != "completed"
    print(f"{count} of {len(sweep.members)} members run, {failed} not completed")
    return int(failed > 0)


def _run(args: argparse.Namespace) -> int:
    from hyco_engine import Engine

    # mistakes are told before anything starts
    Engine(args.spec, overrides=args.set)
    with _cluster(args.address):
        from hyco_engine_ray.workers import run_on_workers

        found = run_on_workers(
            args.spec,
            args.run_dir,
            args.workers,
            cores=args.cores,
            gpus=args.gpus,
            failures=args.failures,
            overrides=args.set,
        )
    if found["error"] is not None:
        print(f"error: {found['error']}", file=sys.stderr)
    else:
        print(f"{found['status']}: {args.run_dir}")
    return int(found["exit_code"])


if __name__ == "__main__":
    main()
