"""The command `hyco-engine-fabric`."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

import hyco_engine as hyco
from hyco_engine.errors import HycoError
from hyco_engine.ranks.environment import timeout


def main() -> None:
    """Run a spec on processes that Lightning Fabric starts, or go on with its run."""
    parser = argparse.ArgumentParser(prog="hyco-engine-fabric", description=main.__doc__)
    parser.add_argument("spec", type=Path, help="spec, which all machines see")
    parser.add_argument("--run-dir", type=Path, required=True, help="run folder, which all machines see")
    parser.add_argument("--devices", type=int, default=1, help="processes on each machine")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the spec")
    args = parser.parse_args()
    try:
        # mistakes are told before anything starts
        hyco.Engine(args.spec, overrides=args.set)
        patience = timedelta(seconds=timeout(os.environ))
    except HycoError as error:
        sys.exit(_told(error, "error: "))
    sys.exit(_run(args, patience))


def _told(error: HycoError, begin: str) -> int:
    """Print the problems of an error; return its exit code."""
    print("\n".join(f"{begin}{problem}" for problem in error.problems), file=sys.stderr)
    return error.exit_code


def _run(args: argparse.Namespace, patience: timedelta) -> int:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    from hyco_engine.ranks.runtime import INTERRUPTED
    from hyco_engine.runs.signals import stop_on_signals
    from hyco_engine_fabric import FabricRuntime

    strategy = DDPStrategy(timeout=patience)
    fabric = Fabric(accelerator=args.accelerator, devices=args.devices, num_nodes=args.nodes, strategy=strategy)
    fabric.launch()
    runtime = FabricRuntime(fabric)
    with stop_on_signals(tells=runtime.rank == 0) as stop:
        engine = hyco.Engine(args.spec, overrides=args.set, runtime=runtime)
        try:
            result = engine.run(args.run_dir, resume=True, stop=stop)
        except KeyboardInterrupt as interrupted:
            # Fabric kills all processes when the first one ends, and rank 0 may still be writing
            runtime.barrier()
            if runtime.rank == 0:
                print(f"{interrupted}; the same command goes on", file=sys.stderr)
            return INTERRUPTED
        except HycoError as error:
            return _told(error, f"error: rank {runtime.rank}: ")
    if runtime.rank == 0:
        print(f"{result.summary['status']}: {result.folder}")
    return 0


if __name__ == "__main__":
    main()
