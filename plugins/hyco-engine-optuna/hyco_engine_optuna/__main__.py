"""The command `hyco-engine-optuna`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hyco_engine.errors import HycoError


def main() -> None:
    """Search for values of keys of SPEC with which an error is least, or go on with a search in its folder."""
    parser = argparse.ArgumentParser(prog="hyco-engine-optuna", description=main.__doc__)
    parser.add_argument("target", type=Path, metavar="SPEC | SWEEP")
    parser.add_argument(
        "--search", action="append", default=[], metavar="KEY=VALUES", help="LOW:HIGH, LOW:HIGH:log, or a list"
    )
    parser.add_argument("--trials", type=int, default=20, help="number of trials in all (default: 20)")
    parser.add_argument("--jobs", type=int, default=1, help="trials beside one another (default: 1)")
    parser.add_argument(
        "--minimize", default="metrics.synthetic.val.nrmse", metavar="KEY", help="key of summary.json: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the search (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key for all trials")
    parser.add_argument("--out", type=Path, help="sweep folder, new or empty")
    parser.add_argument("--resume", action="store_true", help="go on with the search in the folder SWEEP")
    args = parser.parse_args()
    if args.resume and (args.search or args.set or args.out):
        parser.error("--resume goes on with a search as it is: leave out --search, --set, --out")
    try:
        sys.exit(_search(args))
    except HycoError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        sys.exit(error.exit_code)


def _search(args: argparse.Namespace) -> int:
    import optuna

    from hyco_engine_optuna import Search, parse_space

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.resume:
        search = Search.open(args.target)
    else:
        search = Search.create(
            args.target,
            parse_space(args.search),
            objective=args.minimize,
            seed=args.seed,
            overrides=args.set,
            out=args.out,
        )
    stop = _stop_on_signals()
    for member, status, value in search.run(args.trials, args.jobs, stop):
        shown = status if value is None else f"{value:.6g}"
        print(f"{member.name}  {member.label}  {shown}", flush=True)
    go_on = f"to go on: hyco-engine-optuna {search.sweep.folder} --resume --trials {args.trials}"
    if stop() is not None:
        print(go_on)
        return 130
    found = [trial for trial in search.study.get_trials() if trial.value is not None]
    if not found:
        print(f"error: no trial has a number under {search.objective} in its summary.json", file=sys.stderr)
        return 1
    best = search.study.best_trial
    print(f"least {search.objective}: {best.value:.6g} of member {best.number:03} in {search.sweep.folder}")
    for key, value in best.params.items():
        print(f"  {key} = {value}")
    return 0


def _stop_on_signals() -> Callable[[], str | None]:
    """Return a function that says which signal has asked to end, once one has."""
    asked: list[str] = []
    for own in (signal.SIGINT, signal.SIGTERM):
        signal.signal(own, lambda number, frame: asked.append(signal.Signals(number).name))
    return lambda: asked[0] if asked else None


if __name__ == "__main__":
    main()
