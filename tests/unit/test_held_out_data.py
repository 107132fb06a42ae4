"""Validation is of real, held-out data, whatever is generated meanwhile."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_specs import TINY
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.training import evaluation


def test_models_are_measured_on_held_out_simulations_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compared: list[Tensor] = []
    add = evaluation.Sums.add

    def watched(self: Any, predictions: Tensor, targets: Tensor, units: Any) -> None:
        compared.extend(targets.clone())
        add(self, predictions, targets, units)

    monkeypatch.setattr(evaluation.Sums, "add", watched)
    spec = copy.deepcopy(TINY)
    spec["run"]["cycles"] = 1
    engine = hyco.Engine(spec)
    summary = engine.run(tmp_path / "run").summary
    assert all(entry["n_generated"] > 0 for entry in summary["balance"])
    assembler = Assembler(engine.spec, engine.registry)
    simulations = assembler.task().simulations().trajectories
    whole = [trajectory.dynamic[1:] for trajectory in simulations]
    found = [next(index for index, real in enumerate(whole) if torch.equal(real, one)) for one in compared]
    # after each of two phases, and at the end both models and persistence on validation and test
    assert found == [2, 2, 2, 2, 2, 3, 3, 3]
