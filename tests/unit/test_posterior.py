"""The posterior of a run's parameters: its density in closed form, what it keeps of a sampler's chain, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import error_naming
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.errors import DataError
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.posterior import Chain, Posterior, sample_posterior
from hyco_engine.report.page import write_report
from hyco_engine.rollout import rollout
from hyco_engine.runs.posterior import POSTERIOR, keep_posterior, read_posterior
from hyco_engine.testing.problems import Decay, decay_layout
from hyco_engine.training.discretisation import Held
from hyco_engine.training.problem import Problem
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("measured")

F64 = torch.float64
FRAMES, CELLS = 4, 8


def decaying(*, learned: bool) -> tuple[Problem, Tensor, Tensor]:
    """A problem of noisy decay at its least F, with the states and targets of its windows."""
    model = Decay(decay_layout(CELLS), settings={"k": ParameterSetting(bounds=(0.1, 4.0))}, dtype=F64)
    generator = torch.Generator().manual_seed(0)
    states = model.initial_states(2, generator)
    with torch.no_grad():
        targets = rollout(model, states, FRAMES)
    states, targets = (v + 0.1 * torch.randn(v.shape, generator=generator, dtype=F64) for v in (states, targets))
    settings = TrainingSettings(optimizer="gauss-newton", initial_states="learned" if learned else "observed")
    trainer = Trainer(model, player="physical", layout=model.layout, settings=settings)
    data = AugmentedDataset(Held(states, targets))
    trainer.train(data, 20)
    return trainer.whole_loss(data, passes="tangents"), states[:, 0], targets[:, :, 0]


@pytest.mark.parametrize("learned", [False, True], ids=["observed starts", "learned starts"])
def test_the_density_is_prior_times_the_least_sum_of_squares(learned: bool) -> None:
    problem, states, targets = decaying(learned=learned)
    found = Posterior(problem, ("k",), torch.tensor([0.1]), count=50.0)
    points = found.point + torch.tensor([[-0.2], [0.0], [0.3]], dtype=F64)
    expected = []
    for raw, k in zip(points[:, 0], found.values(points)[:, 0], strict=True):
        decay = torch.exp(-0.1 * k * torch.arange(1, FRAMES + 1))[None, :, None]
        if learned:
            # the starts that fit best, with the observed ones as one more frame
            start = (states + (decay * targets).sum(1)) / (1 + decay.square().sum())
            squares = (states - start).square().sum() + (targets - decay * start[:, None]).square().sum()
        else:
            squares = (targets - decay * states[:, None]).square().sum()
        # flat in log k, with k - 0.1 = 3.9 sigmoid(raw): its density by the raw number is that derivative
        share = float(torch.sigmoid(raw))
        prior = math.log(3.9 * share * (1 - share) / float(k))
        expected.append(prior - 25.0 * math.log(float(squares)))
    # linearised starts are exact where the derivatives by them are those at the estimate
    told = found(points)
    assert float(told[0] - told[1]) == pytest.approx(expected[0] - expected[1], abs=0.02 if learned else 1e-8)
    assert float(told[2] - told[1]) == pytest.approx(expected[2] - expected[1], abs=0.02 if learned else 1e-8)


def test_walkers_begin_where_moves_change_something() -> None:
    found = Posterior(decaying(learned=False)[0], ("k",), torch.tensor([0.1]), count=50.0)
    found.point = torch.tensor([-44.0], dtype=F64)
    values = found.values(found.starts(8, torch.Generator().manual_seed(0)))
    # a fiftieth of the way from 0.1 to 4 in the logarithm, give or take
    assert values.min() > 0.1001
    assert values.median().item() == pytest.approx(0.1 * 40**0.02, rel=0.01)


def test_points_that_are_not_finite_have_no_density() -> None:
    found = Posterior(decaying(learned=False)[0], ("k",), torch.tensor([0.1]), count=50.0)
    told = found(torch.tensor([[float("nan")], [0.0], [math.inf]]))
    assert told.isfinite().tolist() == [False, True, False]
    assert found(torch.tensor([[float("nan")]])).tolist() == [-math.inf]


def test_the_number_of_values_is_that_for_which_error_bars_stand() -> None:
    problem = decaying(learned=False)[0]
    loose = Posterior(problem, ("k",), torch.tensor([0.2], dtype=F64)).count
    tight = Posterior(problem, ("k",), torch.tensor([0.1], dtype=F64)).count
    assert tight == pytest.approx(4 * loose)
    found = Posterior(problem, ("k",), torch.tensor([0.1], dtype=F64))
    h = 1e-3
    around = found(found.point + torch.tensor([[-h], [0.0], [h]], dtype=F64)) - found.log_prior(
        found.point + torch.tensor([[-h], [0.0], [h]], dtype=F64)
    )
    curvature = -float(around[0] - 2 * around[1] + around[2]) / h**2
    assert curvature**-0.5 == pytest.approx(0.1, rel=0.05)


# --- a run ---


def gaussian(posterior: Posterior, generator: torch.Generator) -> Chain:
    """Normal draws in place of a sampler."""
    noise = torch.randn(100, 4, len(posterior.point), generator=generator, dtype=F64)
    return Chain(points=posterior.point + posterior.spread * noise, accepted=0.5, autocorrelation_time=1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    spec: dict[str, Any] = {
        "run": {"name": "sampled", "cycles": 1, "precision": "float64"},
        "paths": {"cache": str(folder / "cache"), "runs": str(folder)},
        "data": {
            "kind": "simulate",
            "truth": {"D": 0.01, "r": 1.0},
            "num_simulations": 3,
            "num_frames": 6,
            "resolution": {"x": 8},
            "dt": 0.1,
            "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
            "observe": {"noise": {"level": 0.01, "relative": True}},
        },
        "physical": {
            "kind": "fisher-kpp",
            "parameters": {"D": {"init": 0.02, "bounds": [1e-3, 1.0]}, "r": {"init": 2.0, "bounds": [0.1, 9.0]}},
        },
        "training": {"physical": {"epochs_per_cycle": 10, "initial_states": "observed"}},
    }
    return hyco.run(spec, run_dir=folder / "run").folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    return sample_posterior(run, gaussian)


def test_a_run_keeps_what_a_sampler_found(run: Path, found: dict[str, Any]) -> None:
    told = json.loads((run / "summary.json").read_text())["parameters"]
    assert list(found["parameters"]) == ["D", "r"]
    for name, own in found["parameters"].items():
        error = told[name]["standard_error"]
        assert own["median"] == pytest.approx(told[name]["final"], abs=0.2 * error)
        assert own["standard_deviation"] == pytest.approx(error, rel=0.2)
        assert own["interval"][1] - own["interval"][0] == pytest.approx(2 * 1.96 * error, rel=0.2)
        assert len(own["draws"]) == 400
    assert (found["walkers"], found["steps"], found["effective_samples"], found["warning"]) == (4, 100, 400, None)
    assert read_posterior(run) == found
    assert (run / "figures" / "posterior.png").read_bytes().startswith(b"\x89PNG")
    page = write_report(run).read_text()
    assert "<h2>Posterior of the parameters</h2>" in page
    for title in ("Posterior of D", "Posterior of D and r", "u at x = 0.3125"):
        assert f'aria-label="{title}"' in page


def test_the_random_numbers_follow_from_the_seed(run: Path, found: dict[str, Any]) -> None:
    # the run's own seed is 0
    assert sample_posterior(run, gaussian, seed=0) == found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.pop("parameters"), "it lacks parameters"),
        (lambda found: found["parameters"]["D"].update(draws=[]), "its parameters have different numbers of draws"),
        (lambda found: found["parameters"]["D"].update(median=None), "the posterior of D is not complete"),
        (lambda found: found["bands"][0].update(low=[1.0]), "the curves of a band have different lengths"),
        (lambda found: found["bands"][0].update(value=3), "bands.value must be text"),
    ],
)
def test_a_damaged_posterior_is_named(run: Path, found: dict[str, Any], change: Any, told: str) -> None:
    try:
        damaged = json.loads(json.dumps(found))
        change(damaged)
        keep_posterior(run, damaged)
        with error_naming(DataError, POSTERIOR, told):
            read_posterior(run)
    finally:
        keep_posterior(run, found)


def test_a_run_without_error_bars_is_told_why_it_has_no_posterior(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (run / "spec.toml", *(run / "weights").iterdir()):
        (copy / path.relative_to(run)).parent.mkdir(exist_ok=True)
        (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    summary = json.loads((run / "summary.json").read_text())
    bars = summary["identification"]["error_bars"]
    summary["identification"]["error_bars"] = None
    (copy / "summary.json").write_text(json.dumps(summary))
    with error_naming(DataError, str(copy), "at most 50 numbers by squared errors"):
        sample_posterior(copy, gaussian)
    summary["identification"]["error_bars"] = {**bars, "standard_error": {**bars["standard_error"], "r": None}}
    (copy / "summary.json").write_text(json.dumps(summary))
    with error_naming(DataError, "say nothing about r", "learn = false"):
        sample_posterior(copy, gaussian)
