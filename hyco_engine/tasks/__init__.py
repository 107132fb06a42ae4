"""Tasks: what there is to learn, one class for each kind of data.

A task owns all that depends on the kind of data: the samples that models train on, the objective that they are trained
by, the measure on held-out data, and the sizes that a plan tells. Nobody else has to ask which kind of data it is.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import SourceChoice
from hyco_engine.interfaces import SampleSource, TrajectorySource
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
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Task:
    """The task that a source gives; `choice`, `cache`, `dtype` and `seed` are as in `DataManager`.

    No simulation is loaded. Raises SpecError and DataError where the source does not fit what `choice` asks for.
    """
    if isinstance(source, SampleSource):
        return SampleTask(source, choice)
    manager = DataManager(source, choice, cache, dtype=dtype, seed=seed)
    return GridTask(manager) if source.points(0) is None else PointTask(manager)
