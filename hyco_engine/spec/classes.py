"""The tables of a spec, in the order of a spec file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from hyco_engine.errors import SpecError
from hyco_engine.spec.checks import check_curriculum, check_device, check_folder_name
from hyco_engine.spec.choices import (
    NormalizerChoice,
    PhysicalChoice,
    SourceChoice,
    StrategyChoice,
    SyntheticChoice,
    TrackerChoice,
)
from hyco_engine.spec.options import option, options


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
    """`[loss.physical]`, `[loss.synthetic]`: the loss of one model. Keys that are left out come from `[loss]`."""

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
class TrainingSettings:
    """`[training.physical]` and `[training.synthetic]`."""

    epochs_per_cycle: int = option(10, help="epochs in each cycle", ge=0)
    batch_size: int = option(32, help="samples per step", ge=1)
    optimizer: Literal["auto", "adam", "adamw", "sgd", "lbfgs", "gauss-newton"] = option(
        "adam",
        help="lbfgs, gauss-newton: an epoch is one iteration over all windows, in chunks of batch_size; auto: adam for "
        "a network; for a physics gauss-newton up to 50 numbers to learn, lbfgs up to a million, else adam",
    )
    starts: int = option(
        1,
        help="a physics under gauss-newton or lbfgs is first searched from so many starts within its bounds, and goes "
        "on from the lowest minimum",
        ge=1,
    )
    curriculum: tuple[tuple[int, int], ...] = option(
        (),
        help="pairs [steps, epochs]: the first epochs of the run train rollouts of so many steps, then longer ones; "
        "after the last pair data.num_predict_steps. A stage of lbfgs or gauss-newton also ends when it has converged",
        check=check_curriculum,
    )
    initial_states: Literal["observed", "learned"] = option(
        "observed",
        help="where training rollouts start; learned: each window's start is an unknown beside the parameters, and "
        "the observed one counts as one more frame (4D-Var; a physics under lbfgs)",
    )
    points_per_sample: int | None = option(
        None,
        help="of data at points, a surrogate that is a function of position and time learns samples of so many points, "
        "drawn at random; none: all points of a window are one sample, so with one simulation one epoch is one step",
        ge=1,
    )
    memory_gb: float = option(
        4.0, help="gradients of rollouts that would keep more compute parts again", unit="GB", gt=0.0, inf=True
    )
    lr: float = option(1e-3, help="learning rate of adam, adamw and sgd; the others find their own step", gt=0.0)
    weight_decay: float = option(0.0, help="decoupled for adamw", ge=0.0)
    clip_grad_norm: float | None = option(None, help="largest gradient norm; none: unclipped", gt=0.0)
    schedule: Literal["constant", "cosine"] = option(
        "constant", help="learning rate over the whole run; cosine: falls to zero at its end"
    )
    on_divergence: Literal["stop", "rollback"] = option(
        "stop",
        help="where a loss or gradient is not finite; rollback: back to the phase's best state so far with half the "
        "learning rate, at most five times (adam, adamw, sgd)",
    )


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
    """A whole spec. If `[physical]` or `[synthetic]` is left out, the other model trains alone."""

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
                    f"the last stage trains {stages[-1][0]} steps, but it must train fewer than "
                    f"data.num_predict_steps = {full}, which follows it: set fewer steps, or a longer horizon",
                    key=f"training.{player}.curriculum",
                )
