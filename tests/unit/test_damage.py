"""A few cases of the damage test; the many are in tests/validation/damage.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "validation"))
import damage


@pytest.mark.slow
def test_damaged_files_are_noticed() -> None:
    found = damage.measure(20)
    assert found["failures"] == []
    assert found["trials"] == found["survived"] >= 20
    assert found["noticed"] > 5
    assert (found["silent_differences"], found["leftovers"]) == (0, 0)
