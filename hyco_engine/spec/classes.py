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

    name: str = option("run", help="name of the run; its folder is <runs>/<name>-<n>", check=check_folder_name)
    seed: int = option(0, help="seed of all random numbers", ge=0)
    cycles: int = option(3, help="number of cycles; in each cycle, both models generate samples and train", ge=0)
    device: str = option(
        "auto",
        help='"auto" takes the first GPU, or else the CPU; others: "cpu", "cuda", "cuda:1", ...',
        check=check_device,
    )
    precision: Literal["float32", "float64"] = option("float32", help="precision of data, models and losses")
    checkpoint_minutes: float = option(
        10.0,
        help="the run writes a checkpoint at the end of each phase, and within a phase after so many minutes",
        unit="min",
        ge=0.0,
        inf=True,
    )


@options
class PathsSpec:
    """`[paths]`. Input paths are relative to the spec's file, outputs to the working directory."""

    data: Path = option(Path("."), help="folder that relative data paths start from")
    cache: Path = option(Path("cache"), help="folder of the caches of tensors and generated samples", output=True)
    runs: Path = option(Path("runs"), help="folder of the run folders, which hold results and logs", output=True)


@options
class TermSetting:
    """`[loss.terms.<field>]`."""

    scale: float | Literal["data"] | None = option(
        None,
        help='size of an error of the field that counts as 1: a number, or "data" for the standard deviation of the '
        "field in the train split; none: as the model declares, else 1",
        gt=0.0,
    )
    weight: float = option(1.0, help="priority of the term among all terms", ge=0.0)


@options
class LossTable:
    """`[loss.physical]`, `[loss.synthetic]`: the loss of one model. Keys that are left out come from `[loss]`."""

    normalizer: NormalizerChoice | None = option(None, help="normalizer: it balances the loss terms")
    terms: Mapping[str, TermSetting] | None = option(None, help="settings of each loss term, such as a dynamic field")


@options
class LossSpec:
    """`[loss]`."""

    normalizer: NormalizerChoice = option(
        attrs.Factory(lambda: NormalizerChoice(kind="manual")), help="normalizer: it balances the loss terms"
    )
    terms: Mapping[str, TermSetting] = option(
        attrs.Factory(dict), help="settings of each loss term, such as a dynamic field"
    )
    physical: LossTable = option(attrs.Factory(LossTable), help="settings that differ for the physical model")
    synthetic: LossTable = option(attrs.Factory(LossTable), help="settings that differ for the surrogate")


@options
class TrainingSettings:
    """`[training.physical]` and `[training.synthetic]`."""

    epochs_per_cycle: int = option(10, help="number of epochs in each cycle", ge=0)
    batch_size: int = option(32, help="number of samples in one step of the optimizer", ge=1)
    optimizer: Literal["auto", "adam", "adamw", "sgd", "lbfgs", "gauss-newton"] = option(
        "adam",
        help="under lbfgs and gauss-newton, an epoch is one iteration over all windows, in chunks of batch_size; "
        "auto takes adam for a network, and for a physics gauss-newton up to 50 learned numbers, lbfgs up to a "
        "million, else adam",
    )
    starts: int = option(
        1,
        help="number of start vectors within the bounds from which gauss-newton or lbfgs first searches a physics; "
        "training continues from the lowest minimum",
        ge=1,
    )
    curriculum: tuple[tuple[int, int], ...] = option(
        (),
        help="pairs [steps, epochs]: each stage trains rollouts of so many steps for so many epochs of the run; "
        "after the last stage, rollouts have data.num_predict_steps steps. A stage under lbfgs or gauss-newton ends "
        "earlier if it has converged",
        check=check_curriculum,
    )
    initial_states: Literal["observed", "learned"] = option(
        "observed",
        help="start states of training rollouts; learned: lbfgs learns each window's start state beside the "
        "parameters of the physics, and the observed start state counts as one more frame (4D-Var)",
    )
    points_per_sample: int | None = option(
        None,
        help="number of points in one sample, for a surrogate that is a function of position and time and trains on "
        "data at points; the points are drawn at random; none: all points of a window make one sample, so with one "
        "simulation an epoch is one step",
        ge=1,
    )
    memory_gb: float = option(
        4.0,
        help="memory for the gradient of a rollout; if a rollout needs more, the engine computes parts of it twice",
        unit="GB",
        gt=0.0,
        inf=True,
    )
    lr: float = option(
        1e-3, help="learning rate of adam, adamw and sgd; the other optimizers find their own step length", gt=0.0
    )
    weight_decay: float = option(
        0.0, help="weight decay of adam, adamw and sgd; adamw decouples it from the gradient", ge=0.0
    )
    clip_grad_norm: float | None = option(
        None, help="largest norm of the gradient, which is clipped to it; none: no clipping", gt=0.0
    )
    schedule: Literal["constant", "cosine"] = option(
        "constant", help="course of the learning rate over the run; cosine: it falls to zero at the end"
    )
    on_divergence: Literal["stop", "rollback"] = option(
        "stop",
        help="reaction to a loss or gradient that is not finite; stop: the run ends; rollback: adam, adamw and sgd "
        "return to the best state of the phase so far and halve the learning rate, at most five times",
    )


@options
class TrainingSpec:
    """`[training]`."""

    synthetic: TrainingSettings = option(
        attrs.Factory(lambda: TrainingSettings(schedule="cosine")), help="training of the surrogate"
    )
    physical: TrainingSettings = option(
        attrs.Factory(lambda: TrainingSettings(epochs_per_cycle=5, optimizer="auto", lr=3e-2)),
        help="training of the physical model",
    )


@options
class Spec:
    """A whole spec. If `[physical]` or `[synthetic]` is left out, the other model trains alone."""

    run: RunSpec = option(attrs.Factory(RunSpec), help="name, seed, cycles, device")
    paths: PathsSpec = option(attrs.Factory(PathsSpec), help="folders of the data and of the results")
    data: SourceChoice = option(help="the data source")
    physical: PhysicalChoice | None = option(None, help="the physical model")
    synthetic: SyntheticChoice | None = option(None, help="the surrogate")
    augmentation: StrategyChoice = option(
        attrs.Factory(lambda: StrategyChoice(kind="trust")), help="samples that the models generate for each other"
    )
    loss: LossSpec = option(attrs.Factory(LossSpec), help="loss terms and their balance")
    training: TrainingSpec = option(attrs.Factory(TrainingSpec), help="epochs, batches, optimizers")
    trackers: Mapping[str, TrackerChoice] = option(
        attrs.Factory(dict), help="trackers that receive the events of the run"
    )

    def __attrs_post_init__(self) -> None:
        for player in ("physical", "synthetic"):
            stages, full = getattr(self.training, player).curriculum, self.data.num_predict_steps
            if stages and stages[-1][0] >= full:
                raise SpecError(
                    f"the last stage trains {stages[-1][0]} steps, but it must train fewer than "
                    f"data.num_predict_steps = {full}, which follows it: set fewer steps, or a longer horizon",
                    key=f"training.{player}.curriculum",
                )
