"""The settings of training, `[training.physical]` and `[training.synthetic]` of a spec."""

from __future__ import annotations

import itertools
from typing import Literal

from hyco_engine.settings import option, options


def check_curriculum(value: tuple[tuple[int, int], ...]) -> None:
    """Raise ValueError unless the value consists of pairs (steps, epochs) of positive numbers, with growing steps."""
    steps = [pair[0] for pair in value]
    if any(number < 1 for pair in value for number in pair) or any(a >= b for a, b in itertools.pairwise(steps)):
        given = ", ".join(f"[{a}, {b}]" for a, b in value)
        raise ValueError(f"must be pairs [steps, epochs] of at least 1 each, with growing steps, not [{given}]")


@options
class TrainingSettings:
    """The options of `[training.physical]` and `[training.synthetic]`."""

    epochs_per_cycle: int = option(10, help="number of epochs in each cycle", ge=0)
    batch_size: int = option(32, help="number of samples in one step of the optimizer", ge=1)
    optimizer: Literal["auto", "adam", "adamw", "sgd", "lbfgs", "gauss-newton"] = option(
        "adam",
        help="under lbfgs and gauss-newton, an epoch is one iteration over all windows, in chunks of batch_size; "
        "auto takes adam for a network, and for a physics gauss-newton up to 50 learned numbers, lbfgs up to a "
        "million, else adam",
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
    curriculum: tuple[tuple[int, int], ...] = option(
        (),
        help="pairs [steps, epochs]: each stage trains rollouts of so many steps for so many epochs of the run; "
        "after the last stage, rollouts have data.num_predict_steps steps. A stage under lbfgs or gauss-newton ends "
        "earlier if it has converged",
        check=check_curriculum,
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
