"""Samples of posteriors: a closed form, simulation-based calibration on three problems, runs, and users' mistakes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hyco_engine_posterior import sample
from hyco_engine_posterior.sampling import ensemble
from scipy.special import stdtr
from scipy.stats import chi2, kstest
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.errors import DataError
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.parameters import Learnables, ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.posterior import Posterior
from hyco_engine.randomness import derive_generator
from hyco_engine.rollout import rollout
from hyco_engine.testing.problems import Decay, decay_layout
from hyco_engine.training.discretisation import Held
from hyco_engine.training.problem import Problem
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

F64 = torch.float64
SIGMA = 0.05
FRAMES = 5
CELLS = 8


class Forced(PhysicalModel):
    """The equation u_t = a sin(2 pi x) + b cos(2 pi x), linear in its two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layout, self.dt = decay_layout(CELLS), 0.1
        x = 2 * math.pi * torch.arange(CELLS, dtype=F64) / CELLS
        self.waves = torch.stack([x.sin(), x.cos() + 0.5 * x.sin()])
        declarations = [ParameterDeclaration(name=name, init=0.5) for name in ("a", "b")]
        self.learnables = Learnables(declarations, None, self.layout.grid, F64)

    def forward(self, state: Tensor) -> Tensor:
        values = torch.stack(list(self.learnables.values().values()))
        return state + self.dt * (values[:, None] * self.waves).sum(0)


class Growth(PhysicalModel):
    """Logistic growth u_t = r u (1 - u / c) in every cell, solved exactly; r and c lie between bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.layout, self.dt = decay_layout(CELLS), 0.3
        bounds = {"r": (0.5, 2.0), "c": (0.5, 3.0)}
        declarations = [ParameterDeclaration(name=n, init=1.0, bounds=b, transform="linear") for n, b in bounds.items()]
        self.learnables = Learnables(declarations, None, self.layout.grid, F64)

    def forward(self, state: Tensor) -> Tensor:
        values = self.learnables.values()
        grown = torch.exp(values["r"] * self.dt)
        return state * grown / (1 + state / values["c"] * (grown - 1))


def decay() -> Decay:
    return Decay(decay_layout(CELLS), settings={"k": ParameterSetting(bounds=(0.2, 3.0))}, dtype=F64)


def problem_of(model: PhysicalModel, truth: Tensor, seed: int, *, learned: bool) -> Problem:
    """The problem of noisy rollouts from known, or else from observed and learned starts, at its least F."""
    generator = torch.Generator().manual_seed(seed)
    states = 1.0 + 0.3 * torch.randn(2, 1, CELLS, generator=generator, dtype=F64)
    for name, value in zip(model.learnables.learned, truth, strict=True):
        model.learnables.set_(name, float(value))
    with torch.no_grad():
        targets = rollout(model, states, FRAMES)
    noise = SIGMA * torch.randn(2, FRAMES + 1, 1, CELLS, generator=generator, dtype=F64)
    observed = states + noise[:, 0] if learned else states
    settings = TrainingSettings(optimizer="gauss-newton", initial_states="learned" if learned else "observed")
    trainer = Trainer(model, player="physical", layout=model.layout, settings=settings)
    data = AugmentedDataset(Held(observed, targets + noise[:, 1:]))
    trainer.train(data, 20)
    return trainer.whole_loss(data, passes="tangents")


def posterior_of(model: PhysicalModel, truth: Tensor, seed: int, *, learned: bool = False) -> Posterior:
    """The posterior with the exact number of values; its width is a guess, from which walkers begin."""
    problem = problem_of(model, truth, seed, learned=learned)
    names = model.learnables.learned
    return Posterior(problem, names, torch.full((len(names),), 0.02), count=2 * FRAMES * CELLS)


def drawn(found: Posterior, seed: int, steps: int) -> Tensor:
    chain = ensemble(found, torch.Generator().manual_seed(seed), walkers=8, steps=steps)
    return found.values(chain.points.flatten(0, 1))


def ranks(make: Callable[[], PhysicalModel], prior: Callable[[Tensor], Tensor], count: int, **more: Any) -> Tensor:
    """The ranks of true parameters among 19 draws of their posteriors, `[count, P]`: uniform from 0 to 19."""
    generator = derive_generator(0, "calibration", make.__name__)
    found = []
    for seed in range(count):
        model = make()
        truth = prior(torch.rand(len(model.learnables.learned), generator=generator, dtype=F64))
        draws = drawn(posterior_of(model, truth, seed, **more), seed, steps=80)
        kept = draws[torch.linspace(0, len(draws) - 1, 19).round().long()]
        found.append((kept < truth).sum(0))
    return torch.stack(found)


def chi_square(found: Tensor, bins: int = 5) -> Tensor:
    """The probability of ranks that are less even than these, for each parameter."""
    counts = torch.stack([torch.bincount(own * bins // 20, minlength=bins) for own in found.T]).double()
    expected = len(found) / bins
    return torch.from_numpy(chi2.sf(((counts - expected) ** 2 / expected).sum(1).numpy(), bins - 1))


def test_a_linear_problem_has_the_posterior_of_its_closed_form() -> None:
    found = posterior_of(Forced(), torch.tensor([0.3, 0.7]), 0)
    draws = drawn(found, 0, steps=600)
    # by linear regression on the two waves; F is the mean over values, of which a window has FRAMES * CELLS
    model = Forced()
    lead = model.dt * torch.arange(1, FRAMES + 1, dtype=F64)
    columns = (lead[:, None, None] * model.waves).movedim(1, 0).flatten(1)
    inverse = torch.linalg.inv(2 * columns @ columns.T)
    density = found(found.point[None]) - found(found.point[None] + 1.0)
    moved = found.values(found.point[None] + 1.0)[0] - found.values(found.point[None])[0]
    # F(1) / F(0) = 1 + d H d / |r|^2
    squares = float(moved @ torch.linalg.inv(inverse) @ moved / torch.expm1(2 / found.count * density))
    dof = found.count - 2
    covariance = squares / dof * inverse
    for k, own in enumerate(draws[::20].T):
        standard = (own - found.values(found.point[None])[0, k]) / covariance[k, k].sqrt()
        told = kstest(standard.numpy(), lambda t: stdtr(dof, t))
        assert told.pvalue > 0.01, (k, told)
    assert (squares / dof) ** 0.5 == pytest.approx(SIGMA, rel=0.2)
    correlation = torch.corrcoef(draws.T)[0, 1]
    assert float(correlation) == pytest.approx(float(covariance[0, 1] / covariance.diagonal().prod().sqrt()), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "prior", "more"),
    [
        (Forced, lambda u: u, {}),
        (Growth, lambda u: torch.stack([0.5 + 1.5 * u[0], 0.5 + 2.5 * u[1]]), {}),
        (decay, lambda u: 0.2 * 15.0**u, {"learned": True}),
    ],
    ids=["linear", "growth", "learned starts"],
)
def test_true_parameters_rank_evenly_among_draws(make: Any, prior: Any, more: Any) -> None:
    found = ranks(make, prior, 100, **more)
    assert float(chi_square(found).min()) > 0.01, (chi_square(found), found.double().mean(0), found.double().std(0))


# --- runs ---

SPEC: dict[str, Any] = {
    "run": {"name": "sampled", "cycles": 1, "precision": "float64"},
    "data": {
        "kind": "simulate",
        "truth": {"kappa": 0.1},
        "num_simulations": 3,
        "num_frames": 6,
        "resolution": {"x": 8},
        "dt": 0.02,
        "split": {"train": "0:1", "val": "1:2", "test": "2:3"},
        "observe": {"noise": {"level": 0.05, "relative": True}},
    },
    "physical": {"kind": "heat", "parameters": {"kappa": {"init": 0.2, "bounds": [1e-3, 1.0]}}},
    "training": {"physical": {"epochs_per_cycle": 10}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    paths = {"cache": str(folder / "cache"), "runs": str(folder)}
    return hyco.run({**SPEC, "paths": paths}, run_dir=folder / "run").folder


def command(*arguments: Path | str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hyco_engine_posterior", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def test_a_run_gets_its_posterior_and_shows_it(run: Path) -> None:
    found = json.loads(command(run, "--walkers", "8", "--steps", "60", "--json"))
    own = found["parameters"]["kappa"]
    told = json.loads((run / "summary.json").read_text())["parameters"]["kappa"]
    assert own["median"] == pytest.approx(told["final"], abs=told["standard_error"])
    assert own["standard_deviation"] == pytest.approx(told["standard_error"], rel=0.3)
    assert own["interval"][0] < own["median"] < own["interval"][1]
    assert json.loads((run / "posterior.json").read_text()) == found
    assert (run / "figures" / "posterior.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    assert "<h2>Posterior of the parameters</h2>" in page
    assert f"{found['effective_samples']} effective samples" in page
    band = found["bands"][0]
    assert band["value"] == "u at x = 0.3125"
    assert all(low <= high for low, high in zip(band["low"], band["high"], strict=True))
    assert len(band["time"]) == 5


def test_a_chain_depends_on_the_seed_alone(run: Path) -> None:
    draws = [sample(run, walkers=8, steps=20, seed=seed)["parameters"]["kappa"]["draws"] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_short_chain_is_warned_of(run: Path) -> None:
    assert sample(run, walkers=8, steps=20)["warning"] == (
        "the chain is shorter than 50 autocorrelation times: take more steps"
    )


@pytest.mark.parametrize(
    ("walkers", "steps", "told"),
    [
        (7, 20, "7 walkers: 1 parameter(s) need an even number of walkers, at least 8"),
        (6, 20, "6 walkers: 1 parameter(s) need an even number of walkers, at least 8"),
        (8, 1, "1 steps: a chain needs at least 2, and a useful one hundreds"),
    ],
)
def test_numbers_that_no_chain_can_have_are_refused(run: Path, walkers: int, steps: int, told: str) -> None:
    with pytest.raises(DataError) as error:
        sample(run, walkers=walkers, steps=steps)
    assert str(error.value) == told


def test_mistakes_are_told_without_a_traceback(tmp_path: Path) -> None:
    assert command(tmp_path, code=2) == f"error: {tmp_path} is no run folder: it holds no spec.toml\n"
    told = json.loads(command(tmp_path, "--json", code=2))
    assert told["errors"][0]["message"] == f"{tmp_path} is no run folder: it holds no spec.toml"
