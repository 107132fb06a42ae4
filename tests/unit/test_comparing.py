"""A spec beside its baselines, and runs beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from messages import error_naming
from tiny_specs import TINY

import hyco_engine as hyco
from hyco_engine.cli import cli
from hyco_engine.comparing import baseline, compare_runs, compare_spec
from hyco_engine.errors import DataError, SpecError

SPEC: dict[str, Any] = {
    "run": {"name": "small", "cycles": 2, "device": "cpu"},
    "data": {
        "kind": "simulate",
        "truth": {"nu": 0.02},
        "num_simulations": 3,
        "num_frames": 8,
        "resolution": {"x": 16},
        "dt": 0.01,
        "split": {"train": "0:2", "val": "2:3"},
    },
    "physical": TINY["physical"],
    "synthetic": {"kind": "resnet", "width": 2, "blocks": 1},
    "augmentation": {"kind": "count", "alpha": 0.5},
    "training": {"physical": {"optimizer": "adam", "epochs_per_cycle": 2}, "synthetic": {"epochs_per_cycle": 4}},
}


def test_baselines_train_on_as_many_samples_and_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: None
) -> None:
    monkeypatch.chdir(tmp_path)
    found = compare_spec(SPEC)
    both, physics, surrogate = found["runs"]
    assert [row["name"] for row in found["runs"]] == ["small", "physics-only", "surrogate-only"]
    # ten windows and five generated ones, two cycles
    assert both["samples"] == {"synthetic": 2 * 4 * 15, "physical": 2 * 2 * 15}
    assert surrogate["samples"] == {"synthetic": 120}
    assert physics["samples"] == {"physical": 60}
    persistence = {row["errors"]["persistence val"] for row in found["runs"]}
    assert len(persistence) == 1
    assert physics["parameters"].keys() == {"nu"}
    again = compare_runs([Path(row["run"]) for row in found["runs"]])
    assert again["notes"] == []
    assert [row["errors"] for row in again["runs"]] == [row["errors"] for row in found["runs"]]

    other = hyco.run({**SPEC, "data": {**SPEC["data"], "dt": 0.02}, "run": {**SPEC["run"], "cycles": 1}})
    notes = compare_runs([Path(both["run"]), other.folder])["notes"]
    assert notes == [
        "small-2 is not comparable to small-1: their data differ (data.dt)",
        "the synthetic models of small-2 and small-1 are not comparable: they trained on 60 and 120 samples",
        "the physical models of small-2 and small-1 are not comparable: they trained on 30 and 60 samples",
    ]
    shown = CliRunner().invoke(cli, ["compare", both["run"], surrogate["run"], "--json"])
    assert json.loads(shown.stdout)["runs"][1]["name"] == "small-surrogate-only-1"
    lines = CliRunner().invoke(cli, ["compare", both["run"], surrogate["run"]]).stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:3] == ["run", "physics", "val"]
    page = Path("runs/small-1-compared.html")
    assert lines[4] == f"wrote {page}: open it in a browser"
    assert "Surrogate, small-surrogate-only-1" in page.read_text()


def test_the_physics_that_makes_the_data_stays_when_it_does_not_train() -> None:
    tables = {**SPEC, "physical": {**SPEC["physical"], "parameters": {"nu": {"learn": True}, "k": {"learn": False}}}}
    summary = {"balance": [{"n_real": 10}], "trained": {"synthetic": {"samples": 41}}}
    alone = baseline(tables, "synthetic", summary)
    assert "physical" not in alone
    assert alone["data"]["physics"]["parameters"] == {"k": {"learn": False}}
    # at least as many samples
    assert alone["training"]["synthetic"]["epochs_per_cycle"] == 3
    assert tables["data"] == SPEC["data"]


def test_only_a_spec_of_two_models_has_baselines() -> None:
    with error_naming(SpecError, "[physical]", "[synthetic]"):
        compare_spec({name: table for name, table in SPEC.items() if name != "synthetic"})


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with error_naming(DataError, tmp_path):
        compare_runs([tmp_path])
    (tmp_path / "summary.json").write_text('{"status": "failed"}')
    with error_naming(DataError, tmp_path, "failed"):
        compare_runs([tmp_path])
