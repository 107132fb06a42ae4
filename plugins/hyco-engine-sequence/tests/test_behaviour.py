"""What losses.md promises of the remedies, on three seeds. Minutes: `tox -e sequence`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import benchmark
import pytest

SEEDS = (0, 1, 2)

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("seed", SEEDS)]


@functools.cache
def trained(remedy: str, seed: int) -> Mapping[str, Any]:
    return benchmark.train(remedy, seed)


def ratio(head: str, remedy: str, other: str, seed: int) -> float:
    """Of the losses on windows that neither was trained on."""
    return float(trained(remedy, seed)["val"][head] / trained(other, seed)["val"][head])


def test_the_symptom_one_term_stands_still_while_another_learns(seed: int) -> None:
    first, fifth = trained("baseline", seed)["epoch_1"], trained("baseline", seed)["epoch_5"]
    assert abs(fifth["countdown"] / first["countdown"] - 1) < 0.01
    assert abs(fifth["pointer"] / first["pointer"] - 1) > 0.20
    assert "'countdown' is not being learned" in trained("baseline", seed)["warning"]
    assert trained("scale", seed)["warning"] is None


def test_a_run_without_remedy_knows_less_than_a_constant(seed: int) -> None:
    assert trained("baseline", seed)["val"]["countdown"] > benchmark.floors(seed)["median"]


def test_a_declared_scale_makes_the_countdown_learn(seed: int) -> None:
    assert ratio("countdown", "scale", "baseline", seed) <= 0.35


@pytest.mark.parametrize("remedy", ["scale, sqrt-dim", "scale, uncertainty"])
@pytest.mark.parametrize(("head", "largest"), [("pointer", 0.15), ("binary", 0.4), ("countdown", 1.7)])
def test_normalizers_with_scales_against_the_plain_sum_with_scales(
    head: str, largest: float, remedy: str, seed: int
) -> None:
    assert ratio(head, remedy, "scale, plain sum", seed) <= largest


def test_dimensions_matter_where_the_optimizer_does_not_rescale(seed: int) -> None:
    assert ratio("countdown", "scale, SGD, sqrt-dim", "scale, SGD", seed) <= 0.85
