"""The surrogates that are made for cooperation: u(x, t), and a physics with a correction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from data_cases import layout
from messages import error_naming
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.builtin.models.coordinate_mlp import CoordinateMLP
from hyco_engine.builtin.models.corrected import Corrected
from hyco_engine.builtin.models.options_synthetic import CoordinateMLPOptions
from hyco_engine.interfaces import BuildContext, Correction
from hyco_engine.rollout import rollout
from hyco_engine.runs.export import export
from hyco_engine.training.acceptance import accept_correction
from hyco_engine.training.history import Best

CELLS = 16


def test_position_and_time_are_scaled_over_domain_and_duration() -> None:
    context = BuildContext(seed=0, registry=hyco.Registry(), layout=layout(resolution=(8,)))
    model = CoordinateMLP(CoordinateMLPOptions(duration=4.0), layout(resolution=(8,)), context)
    corners = torch.tensor([[0.0, 0.0], [1.0, 4.0]])
    torch.testing.assert_close((corners - model.origin) * model.scale, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def physics(rate: str, kappa: float) -> dict[str, Any]:
    return {"kind": "equation", "compile": "eager", "rates": {"u": rate}, "parameters": {"kappa": {"init": kappa}}}


def wrong_physics(growth: str = " + u", **tables: Any) -> dict[str, Any]:
    """Data with growth, for a physics that only diffuses."""
    return {
        "run": {"cycles": 1, "device": "cpu"},
        "data": {
            "kind": "simulate",
            "physics": physics("kappa*lap(u)" + growth, 0.01),
            "truth": {"kappa": 0.01},
            "num_simulations": 3,
            "num_frames": 8,
            "resolution": {"x": CELLS},
            "dt": 0.1,
            "split": {"train": "0:2", "val": "2:3"},
        },
        "physical": physics("kappa*lap(u)", 0.05),
        "synthetic": {"kind": "corrected", "width": 8, "positions": False},
        "augmentation": {"kind": "trust", "alpha": 0.5, "warmup": 10},
        "training": {"synthetic": {"optimizer": "lbfgs", "epochs_per_cycle": 60}},
    } | tables


def test_a_correction_finds_what_the_physics_lacks_and_needs_the_run_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hyco.run(wrong_physics())
    metrics = result.summary["metrics"]
    assert metrics["synthetic"]["val"]["nrmse"] < 0.2 * metrics["physical"]["val"]["nrmse"]
    assert isinstance(result.synthetic, Corrected)
    assert result.physical is not None
    # its physics is a copy with parameters of its own
    own = float(result.synthetic.physics.learnables.values()["kappa"].detach())
    assert own != float(result.physical.learnables.values()["kappa"].detach())
    again = hyco.load_surrogate(result.folder)
    start = torch.rand(2, 1, CELLS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = rollout(result.synthetic, start, 3)
        assert torch.equal(rollout(again, start, 3), expected)
    correction = result.summary["correction"]
    assert correction["accepted"]
    assert correction["error"] < 0.2 * correction["error_without"]
    # each file for itself, without the run
    weights, program = tmp_path / "corrected.safetensors", tmp_path / "corrected.pt2"
    export(result.folder, weights, "safetensors")
    export(result.folder, program, "torch-export")
    with torch.no_grad():
        assert torch.equal(rollout(hyco.load_surrogate(weights), start, 3), expected)
    torch.testing.assert_close(torch.export.load(program).module()(start), expected[:, :1], rtol=1e-6, atol=1e-6)


def test_a_correction_that_does_not_pay_on_held_out_data_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = wrong_physics(growth="", training={"synthetic": {"epochs_per_cycle": 1}})
    result = hyco.run(spec)
    correction = result.summary["correction"]
    assert not correction["accepted"]
    assert correction["error_without"] < 1e-3 < correction["error"]
    assert (
        f"the correction does not pay on held-out data: {correction['error']:.4g} with it, "
        f"{correction['error_without']:.4g} without, and it must be a fifth lower. The surrogate is the physics alone"
    ) in result.summary["warnings"]
    start = torch.rand(2, 1, CELLS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = rollout(hyco.load_physics(result.folder, "best"), start, 3)
        for which in ("best", "final"):
            surrogate = hyco.load_surrogate(result.folder, which)
            assert torch.equal(rollout(surrogate, start, 3), alone)
    errors = result.summary["metrics"]["synthetic"]["val"]
    assert errors["vrmse"] == pytest.approx(correction["error_without"])


class Offset(Correction):
    """A number, which is 0 without the correction."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(()))

    def without(self, physics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"offset": torch.zeros(())}


@pytest.mark.parametrize(
    ("error", "error_without", "accepted"),
    [(0.79, 1.0, True), (0.8, 1.0, False), (0.9, 1.0, False), (0.0, 0.0, False), (1.0, math.inf, True)],
)
def test_a_correction_must_take_a_fifth_of_the_error(error: float, error_without: float, accepted: bool) -> None:
    """What takes a tenth may have learned the noise of simulations whose later frames are held out."""
    model = Offset()
    hybrid: Any = SimpleNamespace(
        trainers={"synthetic": SimpleNamespace(model=model), "physical": SimpleNamespace(model=nn.Module())},
        best={"physical": Best(error=error_without, state={}), "synthetic": Best(error=error, state={})},
        heldout=object(),
    )
    kept: list[float] = []
    hybrid.keep = lambda player, error, weights: (kept.append(error), model.load_state_dict(weights))
    assert accept_correction(hybrid) == {"accepted": accepted, "error": error, "error_without": error_without}
    assert model.offset.item() == (1.0 if accepted else 0.0)
    assert kept == ([] if accepted else [error_without])


def test_a_correction_can_be_trained_after_the_physics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parameters that an earlier run found, which then stay."""
    monkeypatch.chdir(tmp_path)
    spec = wrong_physics()
    spec["physical"]["parameters"]["kappa"] = {"init": 0.012, "learn": False}
    result = hyco.run(spec)
    assert result.physical is not None
    assert isinstance(result.synthetic, Corrected)
    for physics in (result.physical, result.synthetic.physics):
        assert float(physics.learnables.values()["kappa"]) == pytest.approx(0.012)
    correction = result.summary["correction"]
    assert correction["accepted"]
    assert correction["error"] < 0.2 * correction["error_without"]


def test_there_must_be_a_physics_to_correct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = wrong_physics()
    del spec["physical"]
    with error_naming(hyco.SpecError, "[physical]"):
        hyco.run(spec)
