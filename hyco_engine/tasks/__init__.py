"""Tasks, with one class for each kind of data.

A task owns all that depends on the kind of data: the samples on which models train, their objective, the measure on
held-out data, and the sizes in a plan. No other code needs to know the kind of data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from hyco_engine.data.carrying import carrying
from hyco_engine.data.known import described
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import SourceChoice
from hyco_engine.interfaces import SampleSource, TrajectorySource
from hyco_engine.ranks.runtime import Runtime
from hyco_engine.tasks.base import Task
from hyco_engine.tasks.fields import FieldTask
from hyco_engine.tasks.grid import GridTask
from hyco_engine.tasks.points import PointTask
from hyco_engine.tasks.samples import SampleTask

__all__ = ["FieldTask", "GridTask", "PointTask", "SampleTask", "Task", "task_for"]


def task_for(
    source: TrajectorySource | SampleSource,
    choice: SourceChoice,
    cache: Path | None = None,
    *,
    writes: bool = True,
    runtime: Runtime | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    spare: bool = False,
    given: Mapping[str, str] | None = None,
    found: Mapping[str, str] | None = None,
    time: bool = False,
) -> Task:
    """Return the task of a source; the arguments from `choice` to `spare` are those of `DataManager`.

    States carry the scalars of their simulation; `given`, `found` and `time` are those of
    `hyco_engine.data.carrying.carrying`. This loads no simulation. Raises SpecError and DataError if the source does
    not fit `choice`.
    """
    if isinstance(source, SampleSource):
        return SampleTask(source, choice)
    given = given or {}
    known = described(source, choice, named=given.values())
    carried = carrying(known, choice.fields, given, found or {}, time=time or choice.fields.time)
    manager = DataManager(carried, choice, cache, writes=writes, runtime=runtime, dtype=dtype, seed=seed, spare=spare)
    return GridTask(manager) if source.points(0) is None else PointTask(manager)
