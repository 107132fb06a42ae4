"""The tables of a spec, from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine.data.settings import SourceChoice
from hyco_engine.errors import SpecError
from hyco_engine.physics.settings import PhysicalChoice
from hyco_engine.settings import check_folder_name, option, options
from hyco_engine.spec.choices import NormalizerChoice, StrategyChoice, SyntheticChoice, TrackerChoice
from hyco_engine.training.settings import TrainingSettings

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def check_device(value: str) -> None:
    """The value looks like a device; whether it is there is seen when the run starts."""
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps', not {value[:120]!r}")


@options
class RunSpec:
    """`[run]`."""

    name: str = option("run", help="names the run folder <runs>/<name>-<n>", check=check_folder_name)
    seed: int = option(0, help="seed of everything random", ge=0)
    cycles: int = option(3, help="cycles of generate, train, generate, train", ge=0)
    device: str = option(
        "auto", help='"auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:1", ...', check=check_device
    )
    precision: Literal["float32", "float64"] = option("float32", help="of data, models and losses")
    checkpoint_minutes: float = option(
        10.0,
        help="a checkpoint is written at each phase's end, and within a phase after so many minutes",
        unit="min",
        ge=0.0,
        inf=True,
    )


@options
class PathsSpec:
    """`[paths]`. Input paths are relative to the spec's file, outputs to the working directory."""

    data: Path = option(Path("."), help="folder that relative data paths start from")
    cache: Path = option(Path("cache"), help="tensor and generated-sample caches", output=True)
    runs: Path = option(Path("runs"), help="run folders: results and logs", output=True)


@options
class TermSetting:
    """`[loss.terms.<field>]`."""

    scale: float | Literal["data"] | None = option(
        None,
        help='size of the field that counts as 1: a number, or "data": its standard deviation in the train split; '
        "none: the model's own declaration, or 1",
        gt=0.0,
    )
    weight: float = option(1.0, help="priority among the terms", ge=0.0)


@options
class LossTable:
    """`[loss.physical]`, `[loss.synthetic]`: what one model does differently. What is left out comes from `[loss]`."""

    normalizer: NormalizerChoice | None = option(None, help="how the terms are balanced")
    terms: Mapping[str, TermSetting] | None = option(None, help="settings by term, that is by dynamic field")


@options
class LossSpec:
    """`[loss]`."""

    normalizer: NormalizerChoice = option(
        attrs.Factory(lambda: NormalizerChoice(kind="manual")), help="how the terms are balanced"
    )
    terms: Mapping[str, TermSetting] = option(attrs.Factory(dict), help="settings by term, that is by dynamic field")
    physical: LossTable = option(attrs.Factory(LossTable), help="overrides for the physical model")
    synthetic: LossTable = option(attrs.Factory(LossTable), help="overrides for the synthetic model")


@options
class TrainingSpec:
    """`[training]`."""

    synthetic: TrainingSettings = option(
        attrs.Factory(lambda: TrainingSettings(schedule="cosine")), help="of the synthetic model"
    )
    physical: TrainingSettings = option(
        attrs.Factory(lambda: TrainingSettings(epochs_per_cycle=5, optimizer="auto", lr=3e-2)),
        help="of the physical model",
    )


@options
class Spec:
    """A whole spec. Leaving out `[physical]` or `[synthetic]` trains the other model alone."""

    run: RunSpec = option(attrs.Factory(RunSpec), help="name, seed, cycles, device")
    paths: PathsSpec = option(attrs.Factory(PathsSpec), help="where data comes from and results go")
    data: SourceChoice = option(help="the data source")
    physical: PhysicalChoice | None = option(None, help="the physical model")
    synthetic: SyntheticChoice | None = option(None, help="the synthetic model: the surrogate")
    augmentation: StrategyChoice = option(
        attrs.Factory(lambda: StrategyChoice(kind="trust")), help="what the models generate for each other"
    )
    loss: LossSpec = option(attrs.Factory(LossSpec), help="loss terms and their balance")
    training: TrainingSpec = option(attrs.Factory(TrainingSpec), help="epochs, batches, optimizers")
    trackers: Mapping[str, TrackerChoice] = option(attrs.Factory(dict), help="who is told of the run's progress")

    def __attrs_post_init__(self) -> None:
        for player in ("physical", "synthetic"):
            stages, full = getattr(self.training, player).curriculum, self.data.num_predict_steps
            if stages and stages[-1][0] >= full:
                raise SpecError(
                    f"the last stage trains {stages[-1][0]} steps, which is no less than data.num_predict_steps = "
                    f"{full}, what follows it: give stages with fewer steps, or a longer horizon",
                    key=f"training.{player}.curriculum",
                )
