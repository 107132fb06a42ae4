"""How a model is trained: `[training.physical]` and `[training.synthetic]` of a spec."""

from __future__ import annotations

import itertools
from typing import Literal

from hyco_engine.settings import option, options


def check_curriculum(value: tuple[tuple[int, int], ...]) -> None:
    """Pairs (steps, epochs) of positive numbers, whose steps grow."""
    steps = [pair[0] for pair in value]
    if any(number < 1 for pair in value for number in pair) or any(a >= b for a, b in itertools.pairwise(steps)):
        given = ", ".join(f"[{a}, {b}]" for a, b in value)
        raise ValueError(f"must be pairs [steps, epochs] of at least 1 each, with growing steps, not [{given}]")


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
