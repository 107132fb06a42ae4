"""The command `hyco-engine-submitit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hyco_engine.errors import HycoError


def main() -> None:
    """Submit the members of a sweep folder that are not completed, each as a job of its own."""
    parser = argparse.ArgumentParser(prog="hyco-engine-submitit", description=main.__doc__)
    parser.add_argument("sweep", type=Path, help="sweep folder, as `hyco-engine sweep … --jobs 0` writes it")
    parser.add_argument("--cluster", default="slurm", choices=["slurm", "local"], help="local: processes here")
    parser.add_argument("--minutes", type=int, default=60, help="most minutes of a job before it is queued again")
    parser.add_argument("--cores", type=int, default=1, help="cores of a job")
    parser.add_argument("--memory-gb", type=float, help="memory of a job")
    parser.add_argument("--parallel", type=int, default=256, help="most jobs beside one another, under SLURM")
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="such as partition=cpu")
    parser.add_argument("--wait", action="store_true", help="wait for all jobs, and tell how each member ended")
    args = parser.parse_args()
    try:
        sys.exit(_submit(args))
    except HycoError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        sys.exit(error.exit_code)


def _submit(args: argparse.Namespace) -> int:
    from submitit import AutoExecutor

    from hyco_engine.sweeping import open_sweep
    from hyco_engine_submitit import submit
    from hyco_engine_submitit.jobs import LOGS

    sweep = open_sweep(args.sweep)
    executor = AutoExecutor(folder=args.sweep / LOGS, cluster=args.cluster)
    executor.update_parameters(**_parameters(args))
    jobs = submit(args.sweep, executor)
    for member, job in jobs:
        print(f"{member.name}  {member.label}  job {job.job_id}")
    print(f"{len(jobs)} of {len(sweep.members)} members submitted")
    if not args.wait:
        return 0
    for member, job in jobs:
        # what the member's run says counts, and not what submitit says of the job
        job.wait()
        print(f"{member.name}  {member.label}  {sweep.status(member)}")
    return int(any(sweep.status(member) != "completed" for member, _ in jobs))


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    own: dict[str, Any] = {"timeout_min": args.minutes, "cpus_per_task": args.cores, "name": "hyco-engine"}
    if args.memory_gb is not None:
        own["mem_gb"] = args.memory_gb
    if args.cluster == "slurm":
        own["slurm_array_parallelism"] = args.parallel
        for text in args.slurm:
            key, equals, value = text.partition("=")
            if not equals:
                raise SystemExit(f"error: --slurm {text}: write KEY=VALUE")
            own[f"slurm_{key}"] = value
    return own


if __name__ == "__main__":
    main()
