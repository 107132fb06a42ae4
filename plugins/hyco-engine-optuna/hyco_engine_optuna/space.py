"""The values that a search may give to keys of a spec."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from hyco_engine.errors import Problem, SpecError
from hyco_engine.sweeping import parse_over

_NUMBER = r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(:log)?")
_WHOLE = re.compile(r"-?\d{1,9}")

Space = Mapping[str, BaseDistribution]
"""By key of the spec."""


def parse_space(texts: Sequence[str]) -> dict[str, BaseDistribution]:
    """Return the values that each key may have, from texts such as `training.synthetic.lr=1e-4:1e-2:log`.

    `a:b` are the numbers from a to b, whole ones if both are; `:log` draws them by their logarithm. All else lists
    values as `hyco-engine sweep --over` does. Raise SpecError for all texts that say something else.
    """
    found: dict[str, BaseDistribution] = {}
    problems: list[Problem] = []
    for text in texts:
        key, _, values = (part.strip() for part in text.partition("="))
        try:
            if key in found:
                raise ValueError("is given twice")
            match = _RANGE.fullmatch(values)
            found[key] = (
                CategoricalDistribution(parse_over([text])[key])
                if match is None
                else _numbers(match[1], match[2], log=match[3] is not None)
            )
        except SpecError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(message=f"{values!r}: {error}", file=Path("--search"), key=key))
    if problems or not found:
        raise SpecError(problems or "a search needs values: --search training.synthetic.lr=1e-4:1e-2:log")
    return found


def _numbers(low: str, high: str, *, log: bool) -> BaseDistribution:
    if _WHOLE.fullmatch(low) and _WHOLE.fullmatch(high):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def ends_of(values: BaseDistribution) -> Sequence[Any]:
    """Return the least and the largest number, or all values of a list."""
    return values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)


def to_data(space: Space) -> dict[str, Any]:
    """Return the space as plain values."""
    return {key: json.loads(distribution_to_json(values)) for key, values in space.items()}


def from_data(data: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the space that `to_data` described. Raise ValueError or KeyError for anything else."""
    return {str(key): json_to_distribution(json.dumps(values)) for key, values in data.items()}
