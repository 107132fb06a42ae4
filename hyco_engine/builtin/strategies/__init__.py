"""Built-in augmentation strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.choices import ArmChoice
from hyco_engine.spec.options import option, options

if TYPE_CHECKING:
    from hyco_engine.interfaces import StrategyContext


def _several(arms: tuple[ArmChoice, ...]) -> None:
    if len(arms) < 2:
        raise ValueError(f"must list two strategies or more, not {len(arms)}")


@options
class CountOptions:
    """`count` has no option of its own; the core reads `alpha`."""


@options
class WeightOptions:
    """`weight` has no option of its own; the core reads `alpha`."""


@options
class TrustOptions:
    """Options of `trust`; the core reads `alpha`, for which 0.5 is a good value."""

    warmup: int = option(
        100,
        help="epochs that the physics trains on real data before the first cycle; gauss-newton and lbfgs end earlier "
        "if they have converged",
        ge=0,
    )
    starts: Literal["mixed", "drawn", "real"] = option(
        "mixed",
        help="start states of generated rollouts; mixed: two real states, shifted along periodic axes and mixed; "
        "drawn: the physics' own initial states; the teacher first takes 1 to 20 steps from both; real: the starts "
        "of real windows",
    )


@options
class InteractionOptions:
    """Options of `interaction`; the core reads `alpha`, which weighs the interaction against the misfit to the data."""

    points: int = option(256, help="number of ghost points for each sample of a batch", ge=1)
    cooperate: int = option(
        0,
        help="number of cycles in which the surrogate also teaches the physics; afterwards the physics trains on "
        "real data alone and still teaches; 0: all cycles",
        ge=0,
    )
    teach: Literal["both", "synthetic", "physical"] = option(
        "both",
        help="model that learns from the other one; synthetic: the physics learns from real data alone, so the "
        "surrogate cannot harm it",
    )

    def __attrs_post_init__(self) -> None:
        if self.cooperate and self.teach == "synthetic":
            raise ValueError(
                'cooperate sets for how many cycles the physics is taught, and with teach = "synthetic" it is never '
                "taught: leave one of the two out"
            )


@options
class TwoArmsOptions:
    """Options of `two-arms`; the core reads `alpha`, which holds for the candidates that give none of their own."""

    arms: tuple[ArmChoice, ...] = option(
        help='two or more strategies, such as [{kind = "trust"}, {kind = "interaction", cooperate = 4}]',
        check=_several,
    )


def _count(options: CountOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.count import Count

    return Count()


def _weight(options: WeightOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.weight import Weight

    return Weight()


def _trust(options: TrustOptions, context: StrategyContext) -> Any:
    from hyco_engine.builtin.strategies.trust import Trust

    return Trust(options, context.epoch_samples)


def _interaction(options: InteractionOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.interaction import Interaction

    return Interaction(options)


def _two_arms(options: TwoArmsOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.two_arms import build

    return build(options, context)


@hookimpl
def hyco_strategies() -> list[Record]:
    return [
        Record(
            kind="count",
            summary="generates int(n_real * alpha) samples, each of which counts as much as a real one",
            options=CountOptions,
            factory=_count,
        ),
        Record(
            kind="weight",
            summary="generates as many samples as there are real ones, each with weight alpha",
            options=WeightOptions,
            factory=_weight,
        ),
        Record(
            kind="interaction",
            summary="generates nothing; adds alpha times the misfit of both models at ghost points to the loss",
            options=InteractionOptions,
            factory=_interaction,
        ),
        Record(
            kind="trust",
            summary="generates int(n_real * alpha * tau) samples; tau is the ratio of held-out squared errors, pupil "
            "to teacher, at most 1 or what fills an epoch of the surrogate",
            options=TrustOptions,
            factory=_trust,
        ),
        Record(
            kind="two-arms",
            summary="tries several strategies from the same start; held-out error chooses the best of each model",
            options=TwoArmsOptions,
            factory=_two_arms,
        ),
    ]
