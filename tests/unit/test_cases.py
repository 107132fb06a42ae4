"""Each input on which a first run went wrong (`../shared/cases/make.py`): `inspect` prints a section that reads it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hyco_engine.inspection import describe

MAKE = Path(__file__).parents[3] / "shared" / "cases" / "make.py"
WALLS = {"x": {"lower": 1.0, "upper": 0.0}}

pytestmark = pytest.mark.skipif(not MAKE.exists(), reason="../shared/cases is absent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKE), str(made)], check=True, capture_output=True)
    return made


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "pulse.npz": ({"boundary": "periodic"}, "41 frames, 0.1 apart; u on 64 cells"),
    "wide.npz": ({"boundary": "periodic"}, "101 frames, 0.1 apart; u on 256 cells"),
    "ks.npz": ({"boundary": "periodic"}, "201 frames, 0.2 apart; u on 128 cells"),
    "bistable.npz": ({"boundary": "periodic"}, "151 frames, 0.01 apart; u on 128 cells"),
    "two_species.npz": (
        {"variables": {"a": "a", "b": "b"}, "boundary": WALLS},
        "161 frames, 0.05 apart; a, b on 99 cells",
    ),
    "assay.npz": ({"variables": {"u": "u"}, "boundary": "zero-gradient"}, "5 frames, 12 apart; u on 38 cells"),
    "several_sine.npz": ({"boundary": "periodic"}, "101 frames, 0.01 apart; u on 128 cells"),
    "several_bump.npz": ({"boundary": "periodic"}, "101 frames, 0.01 apart; u on 128 cells"),
    "several_two.npz": ({"boundary": "periodic"}, "101 frames, 0.01 apart; u on 128 cells"),
    "complex.mat": ({"boundary": "periodic"}, "41 frames, 0.1 apart; u on 64 cells"),
    "end.npz": ({"boundary": WALLS}, "41 frames, 0.025 apart; u on 49 cells"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_printed_reads_the_case(folder: Path, name: str) -> None:
    expected, read = CASES[name]
    found = describe(folder / name)
    section = tomllib.loads(found.spec)["data"]
    assert {key: section[key] for key in expected} == expected
    assert found.tried.startswith(f"read as 1 simulation of {read} along x in ["), found.tried


def test_every_case_is_here(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(CASES)
