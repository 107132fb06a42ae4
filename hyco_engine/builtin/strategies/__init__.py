"""Built-in augmentation strategies."""

from __future__ import annotations

from typing import Any, Literal

from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import Record
from hyco_engine.spec.choices import ArmChoice
from hyco_engine.spec.options import option, options


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
        help="epochs of the physics on real data before the first cycle; gauss-newton and lbfgs end once they have "
        "converged",
        ge=0,
    )
    starts: Literal["mixed", "drawn", "real"] = option(
        "mixed",
        help="where generated rollouts start: mixed, two real states shifted along periodic axes and mixed; drawn, the "
        "physics' own initial states; both are rolled on by the teacher for 1 to 20 steps; real, as real windows do",
    )


@options
class InteractionOptions:
    """Options of `interaction`; the core reads `alpha`, which weighs the interaction against the misfit to the data."""

    points: int = option(256, help="ghost points for each sample of a batch", ge=1)
    cooperate: int = option(
        0,
        help="the first so many cycles teach the physics too; then real data alone polish it, and it goes on teaching; "
        "0: all do",
        ge=0,
    )
    teach: Literal["both", "synthetic", "physical"] = option(
        "both",
        help="which model learns from the other; synthetic: the physics learns from real data alone, and no surrogate "
        "can harm it",
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
        help='two strategies or more, such as [{kind = "trust"}, {kind = "interaction", cooperate = 4}]',
        check=_several,
    )


def _count(options: CountOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.count import Count

    return Count()


def _weight(options: WeightOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.weight import Weight

    return Weight()


def _trust(options: TrustOptions, context: Any) -> Any:
    from hyco_engine.builtin.strategies.trust import Trust

    return Trust(options)


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
            summary="int(n_real * alpha) generated samples, each counting as much as a real one",
            options=CountOptions,
            factory=_count,
        ),
        Record(
            kind="weight",
            summary="as many generated samples as real ones, each with weight alpha",
            options=WeightOptions,
            factory=_weight,
        ),
        Record(
            kind="interaction",
            summary="no samples; a further loss term, alpha times the misfit between both models at ghost points",
            options=InteractionOptions,
            factory=_interaction,
        ),
        Record(
            kind="trust",
            summary="int(n_real * alpha * tau) samples, tau by how well teacher and pupil do on held-out real data",
            options=TrustOptions,
            factory=_trust,
        ),
        Record(
            kind="two-arms",
            summary="two strategies or more train from the same start; held-out data choose the best for each model",
            options=TwoArmsOptions,
            factory=_two_arms,
        ),
    ]
