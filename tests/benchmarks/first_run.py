"""What does a first run give? Inputs of other solvers and the gallery, with a spec that sets nothing but what it must.

    python tests/benchmarks/first_run.py [--json] [--case NAME]... [--noise 0 5 20] [--draws 10] [--alone] [--data DIR]

A spec holds `[data]` as `hyco-engine inspect` writes it, the kinds of physics and surrogate, and the noise in percent
of a field's spread; all else is the default. The cases come from `make.py` in DIR. Bistable and two-species kinetics
are no built-ins: their physics are written here, in plain torch, as a user would.

Each draw of the noise is a seed. Of every parameter of the physics alone the benchmark reports the root mean square of
the relative errors (`rms_error`), the Cramer-Rao bound of an unbiased estimate where the start state is unknown too
(`bound`, from the Fisher information at the truth), and the share of draws whose 95 % interval covers the truth or
whose verdict flags it (`covered`). The hybrid runs once for each of the first `--hybrid` draws: `hybrid_over_alone` is
the median ratio of its parameters' error to the physics' alone, `surrogate_over_persistence` that of the test nrmse.
`--alone` leaves the hybrid out. The last line is one JSON object {case: {noise: {...}}}.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.hooks.records import ModelRecord
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.model import TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.report.result import RunResult
from hyco_engine.training.linearized import Linearizer

CASES = Path(__file__).parents[3] / "shared" / "cases"


# --- physics of one's own -------------------------------------------------------------------------------------------


class Bistable(TorchPhysics):
    """u_t = D u_xx + rate (u - u^3), periodic."""

    parameters = (
        ParameterDeclaration(name="D", init=1e-3, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="rate", init=1.0, bounds=(0.0, math.inf)),
    )

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes))], []

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def internal_steps(self, layout: Any, size: Any, parameters: Any, dt: float) -> int:
        return 4

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        def rate(u: Tensor) -> Tensor:
            # sixth order: the front is hardly wider than a cell
            weights = (-49 / 18, 3 / 2, -3 / 20, 1 / 90)
            curved = weights[0] * u
            for offset, weight in enumerate(weights[1:], start=1):
                curved = curved + weight * (torch.roll(u, offset, -1) + torch.roll(u, -offset, -1))
            curved = curved / self.spacing**2
            return parameters["D"] * curved + parameters["rate"] * (u - u**3)

        u = fields["u"]
        middle = u + dt / 2 * rate(u)
        return {"u": u + dt * rate(middle)}


class TwoSpecies(TorchPhysics):
    """a_t = D a_xx - k a b^2, b_t = D b_xx - 2 k a b^2; the values at both ends stay."""

    parameters = (
        ParameterDeclaration(name="D", init=1e-3, bounds=(0.0, math.inf)),
        ParameterDeclaration(name="k", init=1.0, bounds=(0.0, math.inf)),
    )

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name=name, boundary=Boundary.parse("zero-gradient", axes)) for name in ("a", "b")], []

    def internal_steps(self, layout: Any, size: Any, parameters: Any, dt: float) -> int:
        return 6

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> dict[str, Tensor]:
        def rates(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            reaction = parameters["k"] * a * b**2
            return self._inner(parameters["D"], a, -reaction), self._inner(parameters["D"], b, -2 * reaction)

        a, b = fields["a"], fields["b"]
        first, second = rates(a, b)
        first, second = rates(a + dt / 2 * first, b + dt / 2 * second)
        return {"a": a + dt * first, "b": b + dt * second}

    def _inner(self, diffusivity: Tensor, u: Tensor, source: Tensor) -> Tensor:
        curved = (u[..., 2:] - 2 * u[..., 1:-1] + u[..., :-2]) / self.spacing**2
        return torch.nn.functional.pad(diffusivity * curved + source[..., 1:-1], (1, 1))


@hyco.options
class NoOptions:
    """No options."""


def registry() -> Registry:
    """Return the installed plugins and the physics above."""
    found = Registry.discover()
    for kind, physics in {"bistable": Bistable, "two-species": TwoSpecies}.items():

        def build(options: NoOptions, context: PhysicsContext, physics: Any = physics) -> TorchModel:
            assert context.layout is not None
            return TorchModel(physics(context.layout.grid.spacing[0]), context)

        record = ModelRecord(kind=kind, role="physical", summary=kind, options=NoOptions, factory=build)
        found.register(record, distribution=f"first-run-{kind}", version="1", hook="hyco_models")
    return found


# --- cases ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Case:
    """`[data]` and `[physical]` of a spec, and the true parameters."""

    data: Mapping[str, Any]
    physical: Mapping[str, Any]
    truth: Mapping[str, float]

    def spec(self, noise: float, seed: int, runs: Path) -> dict[str, Any]:
        """Return the spec with `noise` in percent."""
        data = dict(self.data)
        if noise:
            data["observe"] = {"noise": {"level": noise / 100}}
        return {
            "run": {"name": "first", "seed": seed},
            "paths": {"runs": str(runs / "runs"), "cache": str(runs / "cache")},
            "data": data,
            "physical": dict(self.physical),
            "synthetic": {"kind": "unet"},
        }


def arrays(path: Path, fields: Sequence[str], boundary: Any = "periodic", **more: Any) -> dict[str, Any]:
    """Return `[data]` of an .npz file as `hyco-engine inspect` writes it: 70 % train, 15 % validate, 15 % test."""
    frames = len(np.load(path)["t"])
    a, b = frames * 7 // 10, frames * 17 // 20
    return {
        "kind": "arrays",
        "name": path.stem,
        "path": str(path),
        "variables": {name: name for name in fields},
        "axes": "tx",
        "time": "t",
        "coordinates": {"x": "x"},
        "boundary": boundary,
        "split": {"by": "time", "train": f"0:{a}", "val": f"{a}:{b}", "test": f"{b}:{frames}"},
    } | more


def cases(folder: Path) -> dict[str, Case]:
    """Return all cases; `folder` holds the files that `make.py` wrote."""

    def learned(*names: str) -> dict[str, Any]:
        return {name: {"learn": True} for name in names}

    return {
        "pulse": Case(data=arrays(folder / "pulse.npz", ["u"]), physical={"kind": "burgers"}, truth={"nu": 0.1}),
        "wide": Case(data=arrays(folder / "wide.npz", ["u"]), physical={"kind": "burgers"}, truth={"nu": 0.1}),
        "sine": Case(data=arrays(folder / "several_sine.npz", ["u"]), physical={"kind": "burgers"}, truth={"nu": 0.02}),
        "ks": Case(
            data=arrays(folder / "ks.npz", ["u"]),
            physical={"kind": "kuramoto-sivashinsky", "parameters": learned("advection")},
            truth={"alpha": 1.0, "nu": 1.0, "advection": 1.3},
        ),
        "bistable": Case(
            data=arrays(folder / "bistable.npz", ["u"]),
            physical={"kind": "bistable"},
            truth={"D": 2e-4, "rate": 4.0},
        ),
        "two_species": Case(
            data=arrays(folder / "two_species.npz", ["a", "b"], "zero-gradient"),
            physical={"kind": "two-species"},
            truth={"D": 3e-3, "k": 0.2},
        ),
        "assay": Case(
            data=arrays(
                folder / "assay.npz",
                ["u"],
                "zero-gradient",
                split={"by": "time", "train": "0:3", "val": "3:5"},
                variables={"u": "clean"},
                num_predict_steps=1,
            ),
            physical={"kind": "fisher-kpp", "parameters": learned("capacity")},
            truth={"D": 800.0, "r": 0.05, "capacity": 1.6},
        ),
    }


# --- one case -------------------------------------------------------------------------------------------------------


def bound(case: Case, spec: Mapping[str, Any], plugins: Registry) -> dict[str, float]:
    """Return the Cramer-Rao bound of each parameter, relative to the truth, with an unknown start state."""
    level = spec["data"].get("observe", {}).get("noise", {}).get("level", 0.0)
    if not level:
        return dict.fromkeys(case.truth, 0.0)
    clean = {**spec["data"]}
    del clean["observe"]
    truth = {**case.physical.get("parameters", {})}
    for name, value in case.truth.items():
        truth[name] = {**truth.get(name, {}), "init": value}
    alone = {
        **spec,
        "data": clean,
        "physical": {**case.physical, "parameters": truth},
        "run": {"precision": "float64"},
        "training": {"physical": {"initial_states": "learned", "optimizer": "gauss-newton"}},
    }
    del alone["synthetic"]
    engine = hyco.Engine(alone, registry=plugins)
    assembler = Assembler(engine.spec, plugins)
    task = assembler.task()
    task.read()
    longest = task.longest_windows()
    assert longest is not None
    for key, value in zip(("horizon", "stride"), longest, strict=True):
        alone["training"]["physical"][key] = value
    assembler = Assembler(hyco.Engine(alone, registry=plugins).spec, plugins)
    parts = assembler.prepare(task)
    trainer = parts.trainers["physical"]
    samples = AugmentedDataset(task.samples(trainer.settings))
    trainer.state.learn_starts(samples, task.form.layout, parts.device)
    whole = trainer.whole_loss(samples)
    arrow = Linearizer(trainer.model, compiles=False).arrow(whole)
    # residuals are weighted: the sum of squares of pure noise has a known expectation, which gives their unit
    spreads = torch.cat([t.dynamic for t in task.simulations().trajectories])
    sizes = {name: float(spreads[:, task.form.layout.channels(name)].std()) for name in _names(task.form.layout)}
    hessian = arrow.reduced
    variance = _variance(whole, {name: (level * size) ** 2 for name, size in sizes.items()})
    covariance = variance * torch.linalg.inv(hessian)
    slopes = _slopes(trainer.model)
    return {
        name: float(covariance[k, k].sqrt() * slopes[name].abs() / abs(case.truth[name]))
        for k, name in enumerate(trainer.model.learnables.learned)
    }


def _names(layout: StateLayout) -> list[str]:
    return [field.name for field in layout.dynamic]


def _variance(whole: Any, noise: Mapping[str, float]) -> float:
    """Return the variance of one weighted residual of pure noise; that of several fields is nearly the same."""
    found = []
    for chunk in whole.chunks():
        for name, values in whole.objective.residuals(whole.model, chunk.batch).items():
            factor = whole.weights[name] / values.shape[1] / len(whole.data)
            found.append(factor * noise[name])
    return statistics.fmean(found)


def _slopes(model: Any) -> dict[str, Tensor]:
    found = {}
    for name in model.learnables.learned:
        raw = model.learnables.raw[name].detach().clone().requires_grad_()
        (found[name],) = torch.autograd.grad(model.learnables.transform(name).to_value(raw).sum(), raw)
    return found


def errors(result: RunResult, case: Case) -> dict[str, float]:
    """Return the relative error of each parameter."""
    values = result.summary["parameters"]
    return {name: values[name]["final"] / true - 1 for name, true in case.truth.items()}


def covers(result: RunResult, case: Case) -> dict[str, bool]:
    """Return True for each parameter whose interval covers the truth, or that the verdict flags."""
    bars = result.summary["identification"]["error_bars"]
    told = " ".join(result.summary["verdict"])
    found = {}
    for name, true in case.truth.items():
        flagged = f"{name} is uncertain" in told or f"{name} was not found" in told or "does not explain" in told
        interval = None if bars is None else bars["interval"].get(name)
        found[name] = flagged or (interval is not None and interval[0] <= true <= interval[1])
    return found


def ratio(result: RunResult) -> float:
    """Return the test nrmse of the surrogate over that of persistence."""
    metrics = result.summary["metrics"]
    split = "test" if "test" in metrics["synthetic"] else "val"
    return float(metrics["synthetic"][split]["nrmse"] / metrics["persistence"][split]["nrmse"])


def run_case(name: str, case: Case, noise: float, draws: int, hybrids: int, plugins: Registry) -> dict[str, Any]:
    """Return the entry of a case with `noise` in percent."""
    alone: list[dict[str, float]] = []
    covered: list[dict[str, bool]] = []
    hybrid, surrogate, seconds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        lowest = bound(case, case.spec(noise, 0, Path(folder)), plugins)
        for seed in range(max(1, draws) if noise else 1):
            spec = case.spec(noise, seed, Path(folder))
            start = time.perf_counter()
            physics = hyco.run({k: v for k, v in spec.items() if k != "synthetic"}, registry=plugins)
            seconds.append(time.perf_counter() - start)
            alone.append(errors(physics, case))
            covered.append(covers(physics, case))
            if seed < hybrids:
                start = time.perf_counter()
                both = hyco.run(spec, registry=plugins)
                seconds[-1] = time.perf_counter() - start
                own = errors(both, case)
                hybrid.append({key: abs(own[key]) / max(abs(alone[-1][key]), 1e-6) for key in own})
                surrogate.append(ratio(both))
            print(f"{name} {noise:g} % draw {seed}: {_text(alone[-1])}", file=sys.stderr, flush=True)
    rms = {key: math.sqrt(statistics.fmean(one[key] ** 2 for one in alone)) for key in case.truth}
    return {
        "rms_error": rms,
        "bound": lowest,
        "covered": {key: statistics.fmean(one[key] for one in covered) for key in case.truth},
        "hybrid_over_alone": {key: statistics.median(one[key] for one in hybrid) for key in case.truth}
        if hybrid
        else None,
        "surrogate_over_persistence": statistics.median(surrogate) if surrogate else None,
        "seconds": statistics.median(seconds),
    }


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:+.3g} %" for name, value in values.items())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 5.0, 20.0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--hybrid", type=int, default=3, help="number of draws in which the hybrid trains too")
    parser.add_argument("--alone", action="store_true", help="train no hybrid")
    parser.add_argument("--data", type=Path, default=CASES, help="folder of make.py")
    given = parser.parse_args(argv)
    plugins, found = registry(), {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(given.data / "make.py"), folder], check=True, stdout=subprocess.DEVNULL)
        for name, case in cases(Path(folder)).items():
            if given.case and name not in given.case:
                continue
            hybrids = 0 if given.alone else given.hybrid
            found[name] = {
                f"{noise:g}": run_case(name, case, noise, given.draws, hybrids, plugins) for noise in given.noise
            }
    if not given.json:
        for name, levels in found.items():
            for noise, entry in levels.items():
                for key in entry["rms_error"]:
                    shown = (f"{100 * entry[part][key]:.3g} %" for part in ("rms_error", "bound", "covered"))
                    print(f"{name:12} {noise:>4} %  {key:10} {'  '.join(shown)}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
