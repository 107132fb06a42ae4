"""The settings of training, `[training.physical]` and `[training.synthetic]` of a spec."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import attrs

from hyco_engine.settings import option, options

Auto = Literal["auto"]
Precision = Literal["full", "bf16"]
EPOCHS = "number of epochs in each cycle"
BATCH = "number of samples in one step of the optimizer"
RATE = "learning rate of adam, adamw and sgd; the other optimizers find their own step length"
CURRICULUM = (
    "pairs [steps, epochs]: each stage trains rollouts of so many steps for so many epochs of the run; after the last "
    "stage, rollouts have data.num_predict_steps steps. A stage under lbfgs or gauss-newton ends earlier if it has "
    "converged"
)
NOISE = (
    "standard deviation of the noise that training adds to start states of rollouts, as a part of a frame's typical "
    "change; a surrogate learns from it to correct its own errors"
)
EPOCH_SAMPLES = (
    "least number of samples in an epoch; a teacher that is far better than the surrogate fills it with generated "
    "samples (trust), and as long as real and generated samples are fewer, an epoch visits all of them several times"
)
PRECISION = (
    "precision of matrix products and convolutions while a batch is computed; bf16: their inputs are rounded to "
    "bfloat16, which takes half to two thirds of the time where the processor has it, while weights, states, losses "
    "and the optimizer stay in run.precision; rollouts, held-out errors and exports are computed in full"
)
PATIENCE = (
    "number of epochs without a lower error on held-out data after which a phase ends; a phase then also ends with "
    "the best weights so far, and the error is measured eight times in so many epochs. 0: every phase trains all its "
    "epochs and ends with the last weights"
)


def check_curriculum(value: tuple[tuple[int, int], ...]) -> None:
    """Raise ValueError unless the value consists of pairs (steps, epochs) of positive numbers, with growing steps."""
    steps = [pair[0] for pair in value]
    if any(number < 1 for pair in value for number in pair) or any(a >= b for a, b in itertools.pairwise(steps)):
        given = ", ".join(f"[{a}, {b}]" for a, b in value)
        raise ValueError(f"must be pairs [steps, epochs] of at least 1 each, with growing steps, not [{given}]")


def check_auto_curriculum(value: tuple[tuple[int, int], ...] | Auto) -> None:
    """Check a curriculum that may also be "auto"."""
    if value != "auto":
        check_curriculum(value)


@options
class TrainingMethod:
    """The options that a user chooses for both models."""

    optimizer: Literal["auto", "adam", "adamw", "sgd", "lbfgs", "gauss-newton"] = option(
        "adam",
        help="under lbfgs and gauss-newton, an epoch is one iteration over all windows, as many at a time as pay and "
        "fit into memory_gb; auto takes adam for a network, and for a physics gauss-newton up to 50 learned numbers, "
        "lbfgs up to a million, else adam",
    )
    horizon: int | Literal["auto"] = option(
        "auto",
        help="number of steps in each window that this model trains on; auto: data.num_predict_steps, but for a "
        "physics whose start states are learned as many as the simulations have",
        ge=1,
    )
    stride: int | Literal["auto"] = option(
        "auto",
        help="number of frames between the starts of this model's windows; auto: data.stride, but where auto chose the "
        "horizon as many that no two windows share a frame",
        ge=1,
    )
    starts: int = option(
        1,
        help="number of start vectors within the bounds from which gauss-newton or lbfgs first searches a physics; "
        "training continues from the lowest minimum",
        ge=1,
    )
    initial_states: Literal["auto", "observed", "learned"] = option(
        "auto",
        help="start states of training rollouts; learned: gauss-newton or lbfgs learns each window's start state "
        "beside the parameters of the physics, and the observed start state counts as one more frame (4D-Var); auto: "
        "learned for a physics on noisy data, else observed",
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
        help="memory for the derivatives of rollouts; lbfgs and gauss-newton compute fewer windows at a time where all "
        "need more, and if the gradient of a batch needs more, the engine computes parts of it twice",
        unit="GB",
        gt=0.0,
        inf=True,
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
class TrainingSettings(TrainingMethod):
    """The options of a trainer, with nothing left open."""

    epochs_per_cycle: int = option(10, help=EPOCHS, ge=0)
    batch_size: int = option(32, help=BATCH, ge=1)
    lr: float = option(1e-3, help=RATE, gt=0.0)
    curriculum: tuple[tuple[int, int], ...] = option((), help=CURRICULUM, check=check_curriculum)
    input_noise: float = option(0.0, help=NOISE, ge=0.0)
    patience: int = option(0, help=PATIENCE, ge=0)
    epoch_samples: int = option(0, help=EPOCH_SAMPLES, ge=0)
    precision: Precision = option("full", help=PRECISION)


class OpenTraining(TrainingMethod):
    """Options of which some may be left to the engine."""

    @property
    def open(self) -> frozenset[str]:
        """The keys that the engine chooses."""
        return frozenset(name for name in TRAINED if getattr(self, name, None) == "auto")

    def settled(self, **chosen: Any) -> TrainingSettings:
        """Return these settings with `chosen` values for what is "auto", and else those of `TrainingSettings`."""
        # a physics has no precision and no length of an epoch of its own
        own = {field.name for field in attrs.fields(type(self))}  # type: ignore[arg-type]
        every = attrs.fields(TrainingSettings)  # type: ignore[arg-type]
        names = [field.name for field in every if field.name in own]
        values = {name: getattr(self, name) for name in names}
        kept = {name: value for name, value in values.items() if name not in self.open}
        return TrainingSettings(**{**chosen, **kept})


@options
class PhysicsTraining(OpenTraining):
    """The options of `[training.physical]`."""

    epochs_per_cycle: int | Auto = option(
        "auto",
        help=f"{EPOCHS}; auto: 5, or 25 for a physics whose start states are learned: those converge slowly",
        ge=0,
    )
    batch_size: int = option(32, help=BATCH, ge=1)
    lr: float = option(3e-2, help=RATE, gt=0.0)
    curriculum: tuple[tuple[int, int], ...] = option((), help=CURRICULUM, check=check_curriculum)
    input_noise: float = option(0.0, help=NOISE, ge=0.0)
    patience: int = option(0, help=PATIENCE, ge=0)

    def settled(self, **chosen: Any) -> TrainingSettings:
        slow = self.initial_states == "learned"
        return super().settled(**{"epochs_per_cycle": 25 if slow else 5, **chosen})


@options
class SurrogateTraining(OpenTraining):
    """The options of `[training.synthetic]`. With epochs_per_cycle = "auto", the engine chooses what is "auto"."""

    epochs_per_cycle: int | Auto = option(
        "auto", help=f"{EPOCHS}; auto: as many as run.budget allows, with the keys below that are auto", ge=0
    )
    batch_size: int | Auto = option("auto", help=f"{BATCH}; auto: chosen with the epochs, else 32", ge=1)
    lr: float | Auto = option("auto", help=f"{RATE}; auto: chosen with the epochs, else 0.001", gt=0.0)
    curriculum: tuple[tuple[int, int], ...] | Auto = option(
        "auto", help=f"{CURRICULUM}. auto: chosen with the epochs, else none", check=check_auto_curriculum
    )
    input_noise: float | Auto = option("auto", help=f"{NOISE}; auto: chosen with the epochs, else 0", ge=0.0)
    patience: int | Auto = option("auto", help=f"{PATIENCE}. auto: chosen with the epochs, else 0", ge=0)
    epoch_samples: int | Auto = option("auto", help=f"{EPOCH_SAMPLES}; auto: chosen with the epochs, else 0", ge=0)
    precision: Precision = option("full", help=PRECISION)


TRAINED = ("epochs_per_cycle", "batch_size", "lr", "curriculum", "input_noise", "patience", "epoch_samples")
"""The keys of a trainer's settings that may be "auto"."""
CHOSEN = (*TRAINED, "initial_states", "horizon", "stride")
"""The keys for which the engine chooses, where they are "auto"."""
