"""A strategy for hyco-engine that starts with few generated samples. It imports torch only when it is built."""

from __future__ import annotations

from typing import Literal

from hyco_engine import Record, hookimpl, imported, option, options


@options
class CurriculumOptions:
    """`[augmentation] kind = "curriculum"`; the schedule ends at `alpha`, which the core reads."""

    schedule: Literal["constant", "linear", "cosine", "step"] = option(
        "linear", help="how alpha gets in force; constant: it is from the first cycle on"
    )
    initial_share: float = option(
        0.0, help="in the first cycle alpha is this share of what it will be; above 1 the schedule falls", ge=0.0
    )
    ramp_cycles: int = option(3, help="cycles until alpha is in full force", ge=1)
    starts: Literal["real", "perturbed", "rolled-out"] = option(
        "real",
        help="where generated rollouts start: real, as real windows do; perturbed, there with noise; rolled-out, where "
        "the teacher is 1 to lead_steps steps later",
    )
    noise: float = option(
        0.05, help="perturbed: standard deviation of the noise, as a share of each field's own in the state", gt=0.0
    )
    lead_steps: int = option(5, help="rolled-out: the most steps that the teacher goes ahead", ge=1)


@hookimpl
def hyco_strategies() -> list[Record]:
    return [
        Record(
            kind="curriculum",
            summary="alpha scheduled over cycles, rollouts from real, perturbed or rolled-out starts",
            options=CurriculumOptions,
            factory=imported("hyco_engine_curriculum.strategy"),
        )
    ]
