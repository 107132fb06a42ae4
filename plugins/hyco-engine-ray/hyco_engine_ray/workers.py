"""One run on the workers of Ray Train, which meet as the processes of torchrun do.

Ray Train starts workers, says who they are, and starts them anew if one was lost, perhaps with another number of them.
The run folder knows how far the run got, so every start is a resuming, and Ray's own checkpoints are not needed.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

import hyco_engine as hyco
from hyco_engine.errors import HycoError
from hyco_engine.ranks.environment import place, runtime_at
from hyco_engine.ranks.runtime import RankFailed

STARTER = "Ray Train"
SHARDS = 8


def run_on_workers(
    spec: Path,
    run_dir: Path,
    workers: tuple[int, int],
    *,
    cores: int = 1,
    gpus: float = 0,
    failures: int = 3,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Run a spec, or go on with its run, on between `workers[0]` and `workers[1]` workers of the Ray cluster.

    Each takes this many cores and GPUs. Ray starts them anew up to `failures` times after one was lost, and whenever
    the cluster has another number of them. The largest power of two of them takes part, and the number changes nothing
    in the results. All machines must see the spec, its data and the run folder under the same paths.

    Returns `run`, `status` (completed or failed), `error` and `exit_code`. Raises SpecError for a mistake in the spec.
    """
    changed = list(overrides)
    run = hyco.Engine(spec, overrides=changed).spec.run
    if run.shards == "auto" and run.reduction == "exact" and workers[1] > 1:
        # else a first start on one worker would fix one shard, which no second worker can share
        changed.append(f"run.shards={max(SHARDS, _power_of_two(workers[1]))}")
    told = {"spec": str(spec.absolute()), "run": str(run_dir.absolute()), "set": changed, "folder": str(Path.cwd())}
    run_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=run_dir.absolute().parent) as storage:
        trainer = TorchTrainer(
            _take_part,
            train_loop_config=told,
            scaling_config=ScalingConfig(
                num_workers=workers[0] if workers[0] == workers[1] else workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": cores, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=failures)),
        )
        try:
            found: dict[str, Any] = trainer.fit().return_value
        except TrainingFailedError as error:
            *_, last = (line for line in str(error).splitlines() if line.strip())
            found = _failed(run_dir, f"workers were lost more than {failures} times; the same command goes on: {last}")
    return found


def _take_part(told: Mapping[str, Any]) -> dict[str, Any]:
    """Be one rank of the run, and return how it ended.

    Raises RuntimeError if another rank was lost, so that Ray Train starts all of them anew.
    """
    # outputs of a spec are relative to the folder in which the command was given
    os.chdir(told["folder"])
    end: dict[str, Any] = {"run": told["run"], "status": "completed", "error": None, "exit_code": 0}
    own = place(os.environ)
    port = broadcast_from_rank_zero(_free_port())
    # the engine meets in a group of its own, which knows why a rank failed
    torch.distributed.destroy_process_group()
    if own is not None:
        own = attrs.evolve(own, starter=STARTER, size=_power_of_two(own.size), port=port)
        if own.rank >= own.size:
            return end
    try:
        with runtime_at(own if own is not None and own.size > 1 else None) as runtime:
            hyco.Engine(told["spec"], overrides=told["set"], runtime=runtime).run(told["run"], resume=True)
    except HycoError as error:
        if isinstance(error, RankFailed) and error.silent:
            raise RuntimeError(str(error)) from None
        # whatever a run tells would be the same in a second try
        return _failed(told["run"], str(error), error.exit_code)
    return end


def _failed(run: Path | str, error: str, exit_code: int = 1) -> dict[str, Any]:
    return {"run": str(run), "status": "failed", "error": error, "exit_code": exit_code}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def _power_of_two(most: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (most.bit_length() - 1)
