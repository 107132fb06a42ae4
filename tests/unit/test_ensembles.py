"""Ensembles: members train apart from each other, and calibrated bands hold the share that they promise."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_specs import TINY
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.ensemble import Bands, Ensemble, members_of, uncertainty
from hyco_engine.errors import SpecError
from hyco_engine.interfaces import Trajectory
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.verdict import verdict
from hyco_engine.report.views import views
from hyco_engine.rollout import member_rollouts, rollout, rollout_with_bands
from hyco_engine.runs.export import export
from hyco_engine.runs.predicting import predict
from hyco_engine.training.bootstrap import Bootstrap
from hyco_engine.training.calibration import LEVEL, calibrate, coverage
from hyco_engine.training.losses import RolloutObjective

pytestmark = pytest.mark.usefixtures("drawn")

CELLS = 400
LAYOUT = StateLayout(
    grid=Grid(axes=("x",), resolution=(CELLS,), lower=(0.0,), upper=(1.0,)),
    dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ("x",))),),
    static=(),
)


class Affine(nn.Module):
    """u -> slope u + shift."""

    def __init__(self, slope: float, shift: float = 0.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, state: Tensor) -> Tensor:
        return self.slope * state + self.shift


def batch(samples: int = 6, steps: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(samples, 1, CELLS, generator=generator)
    return states, torch.randn(samples, steps, 1, CELLS, generator=generator)


# --- rollouts and their loss ------------------------------------------------------------------------------------------


def test_a_rollout_is_the_mean_of_the_members_own_rollouts() -> None:
    ensemble, state = Ensemble([Affine(0.5), Affine(1.5)]), batch()[0]
    torch.testing.assert_close(ensemble(state), state)
    # the mean of squares, not the square of the mean
    torch.testing.assert_close(rollout(ensemble, state, 2)[:, 1], (0.25 + 2.25) / 2 * state)
    assert member_rollouts(ensemble, state, 2).shape == (2, 6, 2, 1, CELLS)
    assert members_of(ensemble.members[0]) == (ensemble.members[0],)


def test_each_member_has_the_gradient_that_it_would_have_alone() -> None:
    data, objective = batch(), RolloutObjective(LAYOUT)
    weights = torch.tensor([[1.0, 0.0, 2.0, 1.0, 0.0, 2.0], [0.0, 3.0, 1.0, 1.0, 1.0, 0.0]])
    together = Ensemble([Affine(0.5), Affine(1.2, 0.3)])
    (term,) = objective(together, data, weights)
    term.mean().backward()
    for member, own in zip(together.members, weights, strict=True):
        single = copy.deepcopy(member)
        single.zero_grad()
        (alone,) = objective(single, data, own)
        # each member counts by its share of all weights
        (alone.mean() * own.sum() / weights.sum()).backward()
        for found, wanted in zip(member.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad)
    torch.testing.assert_close(objective.weights(data, weights)["u"], weights.mean(0).double())


def test_resamples_draw_as_many_real_samples_and_leave_generated_ones_alone() -> None:
    drawn = Bootstrap.draw(3, 200, seed=5)
    assert drawn.counts.sum(1).tolist() == [200.0] * 3
    assert not torch.equal(drawn.counts[0], drawn.counts[1])
    assert torch.equal(drawn.counts, Bootstrap.draw(3, 200, seed=5).counts)
    # about 1/e of all samples are left out of a resample
    assert float((drawn.counts == 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.06)
    indices, generated = torch.tensor([3, 250]), torch.tensor([False, True])
    found = drawn.weights(indices, generated, torch.tensor([1.0, 0.25]))
    assert found.tolist() == [[count, 0.25] for count in drawn.counts[:, 3].tolist()]


# --- bands ------------------------------------------------------------------------------------------------------------


def noisy_paths(count: int, size: float, seed: int, frames: int = 4) -> list[Trajectory]:
    """Simulations in which every value is drawn anew, with a spread of `size`; models predict 0."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Trajectory(
            dynamic=size * torch.randn(frames, 1, CELLS, generator=generator, dtype=torch.float64),
            static=torch.zeros(0, CELLS, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def around_zero(spread: float) -> Ensemble:
    return Ensemble([Affine(0.0, spread), Affine(0.0, -spread)]).double()


def test_bands_of_normal_errors_have_their_quantile() -> None:
    ensemble = around_zero(0.5)
    bands = calibrate(ensemble, noisy_paths(20, 0.3, seed=1), LAYOUT)
    assert bands is not None
    assert bands.factors.shape == (3, 1)
    state = torch.zeros(1, 1, CELLS, dtype=torch.float64)
    assert rollout_with_bands(ensemble, state, 5).upper is None
    ensemble.bands = bands
    with torch.no_grad():
        found = rollout_with_bands(ensemble, state, 5)
    assert found.lower is not None
    assert found.upper is not None
    # 90 % of a normal distribution lie within 1.645 of its spread
    torch.testing.assert_close(found.upper, torch.full_like(found.mean, 0.3 * 1.645), rtol=0.06, atol=0)
    torch.testing.assert_close(found.lower, -found.upper)
    torch.testing.assert_close(found.spread, torch.full_like(found.mean, 0.5 * math.sqrt(2)))
    # lead times beyond the last that was calibrated have its factor
    assert torch.equal(found.upper[:, 2], found.upper[:, 4])
    told = coverage(ensemble, bands, noisy_paths(20, 0.3, seed=2), LAYOUT)
    assert told["share"] == pytest.approx(LEVEL, abs=0.01)
    assert told["by_field"] == {"u": told["share"]}
    assert len(told["by_step"]) == 3


def test_the_worst_simulation_counts_twice() -> None:
    paths = noisy_paths(2, 1.0, seed=1)
    paths[0].dynamic[1:] = torch.linspace(0, 1, CELLS, dtype=torch.float64)
    paths[1].dynamic[1:] = torch.linspace(0, 10, CELLS, dtype=torch.float64)
    ensemble = around_zero(math.sqrt(0.5))  # of spread 1
    for chosen, wanted in ((paths[:1], 0.9), (paths, 8.5)):
        # of three parts, two are hard: 0.9 = (1 + 2 * 8.5 / 10) / 3
        bands = calibrate(ensemble, chosen, LAYOUT)
        assert bands is not None
        torch.testing.assert_close(bands.factors, torch.full((3, 1), wanted).double(), rtol=0, atol=0.03)


def test_unobserved_values_have_no_part_in_bands() -> None:
    ensemble, paths = around_zero(0.5), noisy_paths(4, 0.3, seed=1)
    for path in paths:
        path.dynamic[1:, :, 200:] = math.nan
        path.dynamic[2] = math.nan
    bands = calibrate(ensemble, paths, LAYOUT)
    assert bands is not None
    assert float(bands.factors.max()) < 2.0
    # nobody saw lead time 2: it has the factor of the next
    assert bands.factors[1] == bands.factors[2]
    for path in paths:
        path.dynamic[1:] = math.nan
    assert calibrate(ensemble, paths, LAYOUT) is None


def test_the_expected_error_is_never_zero_where_members_agree_by_chance() -> None:
    paths = torch.zeros(2, 1, 1, 1, 4)
    paths[0, ..., 0] = 2.0
    # variances 2, 0, 0, 0: half of each, and half of their mean
    torch.testing.assert_close(uncertainty(paths)[0, 0, 0], torch.tensor([1.25, 0.25, 0.25, 0.25]).sqrt())


@pytest.mark.parametrize("factors", [[], [[-1.0]], [1.0], "x"])
def test_damaged_bands_are_refused(factors: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Bands.from_data({"level": 0.9, "factors": factors})


# --- a whole run ------------------------------------------------------------------------------------------------------


def tables(folder: Path, **synthetic: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY) | {
        "paths": {"runs": str(folder / "runs"), "cache": str(folder / "cache")},
        "synthetic": {"kind": "resnet", "width": 4, "blocks": 1, **synthetic},
    }


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> hyco.RunResult:
    return hyco.run(tables(tmp_path_factory.mktemp("ensemble"), members=3))


def test_a_run_tells_members_bands_and_their_coverage(result: hyco.RunResult) -> None:
    told = result.summary["ensemble"]
    assert told["members"] == 3
    assert told["bands"]["level"] == LEVEL
    assert np.shape(told["bands"]["factors"]) == (7, 1)
    assert 0 <= told["coverage"]["share"] <= 1
    shown = f"The 90 % bands of the surrogate hold {100 * told['coverage']['share']:.2g} % of the test data."
    assert shown in verdict(result.summary)
    members = members_of(result.synthetic)
    assert len(members) == 3
    weights = [torch.cat([p.detach().flatten() for p in member.parameters()]) for member in members]
    assert not torch.equal(weights[0], weights[1])


def test_the_report_shows_the_band_beside_the_error(result: hyco.RunResult) -> None:
    found = HeldOutRollout.load(Path(result.folder))
    assert found is not None
    assert set(found.bands) == {"synthetic"}
    assert not found.bands["synthetic"][0].any()
    titles = [panel["title"] for panel in views(found)[0]["panels"]]
    assert titles[-2:] == ["Surrogate − truth", "Surrogate: half-width of its band"]
    assert "half-width of its band" in (Path(result.folder) / "report.html").read_text(encoding="utf-8")


def test_a_loaded_and_an_exported_surrogate_have_the_same_bands(result: hyco.RunResult, tmp_path: Path) -> None:
    state = torch.sin(2 * math.pi * torch.arange(16) / 16)[None, None]
    loaded = hyco.load_surrogate(result.folder)
    export(result.folder, tmp_path / "s.safetensors")
    exported = hyco.load_surrogate(tmp_path / "s.safetensors")
    wanted = rollout_with_bands(result.synthetic.cpu(), state, 3)
    for model in (loaded, exported):
        found = rollout_with_bands(model, state, 3)
        for name in ("mean", "spread", "lower", "upper"):
            assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert "members = 3" in (tmp_path / "s.toml").read_text(encoding="utf-8")
    # the weights of the best epoch were not calibrated
    assert rollout_with_bands(hyco.load_surrogate(result.folder, which="best"), state, 3).upper is None


def test_predict_writes_spread_and_bands(result: hyco.RunResult, tmp_path: Path) -> None:
    np.savez(tmp_path / "start.npz", u=np.sin(2 * np.pi * np.arange(16) / 16))
    told = predict(result.folder, tmp_path / "start.npz", tmp_path / "out.npz", steps=3)
    assert told["members"] == 3
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {"u", "u_spread", "u_lower", "u_upper"}
        assert all(found[name].shape == (3, 1, 16) for name in found)
        assert (found["u_lower"] < found["u"]).all()
        np.testing.assert_allclose(found["u_upper"] - found["u"], found["u"] - found["u_lower"], rtol=1e-3, atol=1e-6)


def test_the_exported_program_is_the_mean(result: hyco.RunResult, tmp_path: Path) -> None:
    assert export(result.folder, tmp_path / "s.pt2", steps=2)["difference"] <= 1e-6


def test_one_member_is_the_surrogate_alone(tmp_path: Path) -> None:
    from hyco_engine.assembly import Assembler

    def built(**synthetic: Any) -> nn.Module:
        engine = hyco.Engine(tables(tmp_path, **synthetic))
        assembler = Assembler(engine.spec, engine.registry)
        return assembler.model("synthetic", assembler.task().form)

    alone, one, three = built(), built(members=1), built(members=3)
    assert members_of(alone) == (alone,)
    for model in (one, members_of(three)[0]):
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("synthetic", "training", "key", "message"),
    [
        ({"members": 0}, {}, "synthetic.members", "must be >= 1 and <= 64, not 0"),
        (
            {"members": 2},
            {"optimizer": "gauss-newton"},
            "training.synthetic.optimizer",
            "gauss-newton has one vector of residuals, and 2 members have 2: use adam or lbfgs",
        ),
        (
            {"kind": "corrected", "members": 2},
            {},
            "synthetic.members",
            "2 members of a surrogate that contains the physics would find 2 sets of its parameters: take a surrogate "
            "without a physics, or leave members out",
        ),
    ],
)
def test_what_cannot_be_an_ensemble_is_refused(
    synthetic: dict[str, Any], training: dict[str, Any], key: str, message: str, tmp_path: Path
) -> None:
    spec = tables(tmp_path)
    spec["synthetic"] = {"kind": "resnet", "width": 4, **synthetic}
    spec["training"]["synthetic"] |= training
    with pytest.raises(SpecError) as caught:
        hyco.run(spec)
    (problem,) = caught.value.problems
    assert (problem.key, problem.message) == (key, message)
