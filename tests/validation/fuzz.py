"""As tests/unit/test_spec_fuzz.py, with 2,000 specs and another seed each time: `pytest tests/validation/fuzz.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from spec_mutations import judge, mutated


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mistakes_are_told_and_located(text: str) -> None:
    judge(text, Path.cwd())
