"""The results of a run, measured after training, and summed up and saved even after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.assembly import Parts
from hyco_engine.data.noise import is_noisy
from hyco_engine.ensemble import Bands, calibrated, members_of
from hyco_engine.hooks.attribution import attributed
from hyco_engine.interfaces import PhysicalModel, Player
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.randomness import derive_generator
from hyco_engine.ranks.runtime import RanksDiffer
from hyco_engine.report.verdict import verdict
from hyco_engine.runs.environment import package_versions
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.summary import balance_summary, parameter_values, parameters_summary, peak_rss_bytes
from hyco_engine.runs.weights import ANALYSES, save_model
from hyco_engine.spec.classes import Spec
from hyco_engine.training.acceptance import accept_correction
from hyco_engine.training.calibration import LEVEL
from hyco_engine.training.error_bars import ErrorBars, measure
from hyco_engine.training.error_budget import ErrorBudget, error_budget
from hyco_engine.training.evaluation import HeldOut
from hyco_engine.training.history import History
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.lyapunov import Lyapunov, largest_exponent
from hyco_engine.training.physics_test import PhysicsTest, physics_test
from hyco_engine.training.pooling import pool
from hyco_engine.training.reporter import Reporter
from hyco_engine.training.trainer import Trainer

PHASES = (
    "prepare_data",
    "compile",
    "generate_physical",
    "train_synthetic",
    "generate_synthetic",
    "train_physical",
    "evaluate",
    "error_budget",
    "checkpoint",
)
COVERED = (0.85, 0.95)
"""The share of test data in bands that are as wide as they should be."""
TABLES = ("by_field", "by_step")
"""Metrics that `hyco-engine evaluate` prints, and which would be most of a summary."""


@attrs.define(kw_only=True, eq=False)
class Results:
    """The results of a run, which grow as it proceeds; None stands for a result that is not known yet."""

    spec: Spec
    folder: RunFolder
    report: Reporter
    draw: Callable[..., Iterable[Path]] | None = None
    """The function that makes the figures and the report; None stands for `report.run_figures.draw`."""
    parts: Parts | None = None
    hybrid: HybridTrainer | None = None
    initial: Mapping[str, Tensor] = attrs.Factory(dict)
    """The physics' parameters before training."""
    last: Mapping[str, Tensor] = attrs.Factory(dict)
    """The parameters that training ended with, if it did; those of the model are the ones that are reported."""
    metrics: dict[str, Any] = attrs.Factory(dict)
    error_bars: ErrorBars | None = None
    budget: ErrorBudget | None = None
    physics_test: PhysicsTest | None = None
    chaos: Lyapunov | None = None
    populations: dict[str, dict[str, float]] = attrs.Factory(dict)
    """The populations of the values of groups, by the name of the parameter."""
    correction: dict[str, Any] | None = None
    bands: Bands | None = None
    """The bands of an ensemble, calibrated on validation data."""
    coverage: dict[str, Any] | None = None
    """The share of the test data in the bands."""
    analyses: Tensor | None = None
    """The states from which held-out rollouts begin, as `Task.begin_from_learned` returns them."""
    _begun_at: int | None = None
    """The epochs of the physics after which they were found."""

    def begin(self, parts: Parts, spec: Spec) -> None:
        """Take note of the parts of the run, of the resolved spec, and of the initial parameters of the physics."""
        self.parts, self.spec = parts, spec
        if parts.physical is not None:
            self.initial = parameter_values(parts.physical)

    @property
    def models(self) -> dict[Player, nn.Module]:
        """The models of the run that are built already."""
        return {} if self.parts is None else self.parts.models

    # --- the states that held-out rollouts begin from ---

    def heldout(self, split: Literal["val", "test"]) -> HeldOut | None:
        """Return the measure of the models on a split, which is divided among the ranks."""
        assert self.parts is not None
        first = next(iter(self.parts.trainers.values()))
        heldout = self.parts.task.heldout(split, first.objective, self.parts.device)
        return None if heldout is None else heldout.divided(first.shards)

    def begin_heldout(self, *, settled: bool = False) -> None:
        """Begin held-out rollouts from what the physics knows now, if it learns its start states.

        Candidates are compared on the same rollouts, from observed frames. `settled` says that the weights are chosen.
        """
        assert self.parts is not None
        assert self.hybrid is not None
        physical = self.parts.trainers.get("physical")
        if physical is None or physical.state.initial is None or self.hybrid.compares_candidates:
            return
        if physical.epochs_done == self._begun_at and not settled:
            return
        self._begun_at = physical.epochs_done
        before, self.analyses = self.analyses, self.parts.task.begin_from_learned(physical)
        if not _same(before, self.analyses):
            self.hybrid.heldout = self.heldout("val")

    def begin_heldout_from(self, analyses: Tensor) -> None:
        """Begin held-out rollouts from the states of an earlier run that this one continues."""
        assert self.parts is not None
        assert self.hybrid is not None
        self.analyses = analyses
        self.parts.task.begin_from(analyses, self.parts.trainers["physical"].settings)
        self.hybrid.heldout = self.heldout("val")

    # --- measured once training is over ---

    def measure(self, between: Callable[[], None]) -> None:
        """Choose what is reported, then measure both models and the parameters; `between` may end the run."""
        assert self.parts is not None
        assert self.hybrid is not None
        if self.parts.physical is not None:
            self.last = parameter_values(self.parts.physical)
        self.hybrid.settle()
        self.begin_heldout(settled=True)
        self._accept(self.hybrid)
        if any(setting.prior == "population" for setting in self._settings().values()):
            # pooled values need the error bars, and what is measured is measured with them
            self._measure_parameters(self.parts, self.hybrid)
            self._pool(self.parts)
            self._evaluate(self.parts, self.hybrid, between)
        else:
            self._evaluate(self.parts, self.hybrid, between)
            self._measure_parameters(self.parts, self.hybrid)
        between()
        self._measure_budget(self.parts, self.hybrid)
        self._measure_chaos(self.parts, self.hybrid, between)

    def _settings(self) -> Mapping[str, ParameterSetting]:
        return {} if self.spec.physical is None else self.spec.physical.parameters

    def _pool(self, parts: Parts) -> None:
        """Let the values of groups lean on one another where the spec assumes a population."""
        for name, setting in self._settings().items():
            if setting.prior != "population":
                continue
            if self.error_bars is None or parts.physical is None:
                self.report.warn(f"without error bars, the values of {name} are not pooled")
                continue
            try:
                self.error_bars, self.populations[name] = pool(parts.physical, self.error_bars, name)
            except ValueError as error:
                self.report.warn(f"the values of {name} are not pooled: {error}")

    def _accept(self, hybrid: HybridTrainer) -> None:
        """Decide whether to keep a learned correction of the physics."""
        self.correction = found = accept_correction(hybrid)
        if found is not None and not found["accepted"]:
            self.report.warn(
                f"the correction does not pay on held-out data: {found['error']:.4g} with it, "
                f"{found['error_without']:.4g} without, and it must be a fifth lower. "
                "The surrogate is the physics alone"
            )

    def _evaluate(self, parts: Parts, hybrid: HybridTrainer, between: Callable[[], None]) -> None:
        """Measure all models on held-out real data, and the persistence that they must beat."""
        splits: tuple[Literal["val", "test"], ...] = ("val", "test")
        with self.report.timed("evaluate"):
            for split in splits:
                heldout = self.heldout(split)
                if heldout is None:
                    continue
                heldout = heldout.in_detail()
                for player, trainer in hybrid.trainers.items():
                    between()
                    with attributed(trainer.who, f"rollouts on the {split} data"):
                        self._keep(player, split, heldout.measure(trainer.model))
                        warning = heldout.instability(trainer.model)
                    if warning is not None:
                        self.report.warn(f"on the {split} data, {warning}")
                if "synthetic" in hybrid.trainers and self._ensemble() is not None:
                    self._measure_bands(hybrid.trainers["synthetic"], split, heldout)
                floor = heldout.persistence()
                if floor is not None:
                    self._keep("persistence", split, floor)

    def _keep(self, model: str, split: str, metrics: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in metrics.items() if name not in TABLES}
        self.metrics.setdefault(model, {})[split] = kept

    def _measure_bands(self, trainer: Trainer, split: str, heldout: HeldOut) -> None:
        """Calibrate the bands of an ensemble on validation data, and measure them on test data."""
        with attributed(trainer.who, f"bands on the {split} data"):
            if split == "val":
                self.bands = heldout.bands(trainer.model)
                calibrated(trainer.model, self.bands)
            elif self.bands is not None:
                self.coverage = heldout.coverage(trainer.model, self.bands)
        share = None if self.coverage is None else self.coverage["share"]
        if share is not None and not COVERED[0] <= share <= COVERED[1]:
            self.report.warn(
                f"the bands were made to hold {LEVEL:.0%} of the validation data, and hold {share:.0%} of the test "
                "data: rollouts of the two differ, or are few"
            )

    def _ensemble(self) -> dict[str, Any] | None:
        """Return the number of members, the bands and their coverage; None for a single surrogate."""
        synthetic = self.models.get("synthetic")
        members = 1 if synthetic is None else len(members_of(synthetic))
        if members == 1:
            return None
        bands = None if self.bands is None else self.bands.to_data()
        return {"members": members, "bands": bands, "coverage": self.coverage}

    def _measure_parameters(self, parts: Parts, hybrid: HybridTrainer) -> None:
        """Compute error bars of the physics' learned parameters, from the real training data."""
        trainer = hybrid.trainers.get("physical")
        if trainer is None or parts.physical is None:
            return
        # internal steps that the user set may be too long for the learned parameters
        states = parts.start_states()
        warning = None if states is None else parts.physical.stability(states)
        if warning is not None:
            self.report.warn(f"with the parameters that were found, {warning}")
        with self._spared(trainer, "the parameters' error bars"), self.report.timed("evaluate"):
            self.error_bars = measure(trainer, parts.task.samples(trainer.settings))
        if self.error_bars is not None:
            for message in self.error_bars.warnings:
                self.report.warn(message)
            found = {f"standard_error/{name}": value for name, value in self.error_bars.standard_error.items()}
            at = {"cycle": self.spec.run.cycles - 1, "phase": "evaluate"}
            at |= trainer.at
            self.report.tell("metrics", {**at, **{name: value for name, value in found.items() if value is not None}})

    def _measure_budget(self, parts: Parts, hybrid: HybridTrainer) -> None:
        """Compute the error budget of the parameters that have error bars, and test the physics on the same data."""
        trainer, form = hybrid.trainers.get("physical"), parts.task.form
        if trainer is None or parts.physical is None or self.error_bars is None:
            return
        data = parts.task.samples(trainer.settings)
        noise = {name: entry["level"] for name, entry in parts.task.noise_summary().items()}
        matters = noise if is_noisy(parts.task.noise) else None
        with self._spared(trainer, "the parameters' error budget"), self.report.timed("error_budget"):
            converged = bool(hybrid.history.trained.get("physical", {}).get("converged"))
            found = error_budget(trainer, data, self.error_bars, parts.physics_on, matters, converged=converged)
            if found.excerpt is not None and form.layout is not None and form.dt is not None:
                self.physics_test = physics_test(
                    parts.physical,
                    form.layout,
                    form.dt,
                    found.excerpt,
                    noise,
                    data=data,
                    learned_starts=trainer.state.initial is not None,
                    defect=None if found.discretisation is None else found.discretisation.defect,
                    finer_residual=found.finer_residual,
                    most=None if trainer.state.initial is not None else found.tested,
                    seed=self.spec.run.seed,
                )
            self.budget = found if self.physics_test is None else found.after(self.physics_test.verdict)

    @contextmanager
    def _spared(self, trainer: Trainer, what: str) -> Iterator[None]:
        """Warn if `what` fails on any rank: the learned parameters are worth keeping without it."""
        failed = None
        try:
            yield
        except RanksDiffer:
            raise
        except Exception as error:
            failed = error
        if trainer.shards.all_failed(failed):
            self.report.warn(f"{what} could not be computed: {failed}")

    def _measure_chaos(self, parts: Parts, hybrid: HybridTrainer, between: Callable[[], None]) -> None:
        """Estimate the largest Lyapunov exponent of a physics that steps fields, with the parameters that are reported.

        Without any field that was measured there is no lead time to compare it with.
        """
        trainer, form = hybrid.trainers.get("physical"), parts.task.form
        if trainer is None or form.layout is None or form.dt is None or form.statistics is None or not self.metrics:
            return
        generator = derive_generator(self.spec.run.seed, "lyapunov")
        whole, device = parts.task.whole_simulations(), parts.device
        try:
            with self.report.timed("evaluate"):
                self.chaos = largest_exponent(
                    trainer.model, whole, form.layout, form.dt, form.statistics, generator, device, between
                )
        except Exception as error:
            # a physics may fail beyond the data
            self.report.warn(f"whether the physics is chaotic could not be found out: {error}")

    # --- summed up and saved at any end ---

    def summary(self, status: str, error: str | None) -> dict[str, Any]:
        """Return the content of summary.json."""
        history = History() if self.hybrid is None else self.hybrid.history
        # before training begins nothing has changed, and the folder may be discarded
        parts = None if self.hybrid is None else self.parts
        physical = None if parts is None else parts.physical
        cache = None if self.parts is None else self.parts.cache
        seconds = {name: self.report.seconds.get(name, 0.0) + history.seconds.get(name, 0.0) for name in PHASES}
        found: dict[str, Any] = {
            "status": status,
            "error": error,
            "cycles": history.cycles,
            "data": None if parts is None else parts.task.summary(),
            "noise": {} if parts is None else parts.task.noise_summary(),
            "parameters": {} if parts is None else self._parameters(parts),
            "physics_test": None if self.physics_test is None else self.physics_test.to_data(),
            "metrics": self.metrics,
            "chaos": None if self.chaos is None else self.chaos.to_data(),
            "balance": [balance_summary(balance) for balance in history.balance],
            "cooperation": history.cooperation,
            "arms": history.candidates,
            "correction": self.correction,
            "ensemble": self._ensemble(),
            "trained": history.trained,
            "cache": None if cache is None else {**attrs.asdict(cache), "peak_bytes": history.peak_bytes},
            "timings": {"total_s": self.report.seconds["total_s"], "phases": seconds},
            "physics": {} if physical is None else _physics(physical),
            "identification": self._identification(),
            "warnings": [*self.report.warnings, *history.warnings],
            "peak_rss_bytes": peak_rss_bytes(),
            "seed": self.spec.run.seed,
            "versions": package_versions(),
        }
        return {**found, "verdict": verdict(found)}

    def _parameters(self, parts: Parts) -> dict[str, Any]:
        if parts.physical is None:
            return {}
        found = {"initial": self.initial, "final": parameter_values(parts.physical)}
        best = None if self.hybrid is None else self.hybrid.best["physical"].state
        if best is not None:
            with parts.trainers["physical"].unknowns.with_weights(best):
                found["best"] = parameter_values(parts.physical)
        found = {**found, "best": found.get("best", found["final"]), "last": self.last or found["final"]}
        bars, truth = self.error_bars, parts.task.truth
        known = ({}, {}, {}) if bars is None else (bars.standard_error, bars.interval, bars.at_bound)
        summary = parameters_summary(parts.physical, found, truth, self.folder.path, *known)
        for name, population in self.populations.items():
            summary[name]["population"] = population
        budget = {} if self.budget is None else self.budget.entries
        for name, entry in summary.items():
            entry["budget"] = budget.get(name)
            for k, own in enumerate(entry.get("own") or ()):
                own["budget"] = budget.get(f"{name}[{k}]")
        return summary

    def _identification(self) -> dict[str, Any]:
        """Return the error bars and minima, as far as there are any."""
        trainer = None if self.hybrid is None else self.hybrid.trainers.get("physical")
        starts = None if trainer is None else trainer.minima
        return {
            "optimizer": None if trainer is None else trainer.optimizer_name,
            "error_bars": None if self.error_bars is None else self.error_bars.to_data(),
            "starts": None if starts is None else starts.to_data(),
        }

    def save(self, summary: Mapping[str, Any]) -> None:
        """Write weights, figures and the summary; the summary comes last, and says that the rest is there."""
        if self.hybrid is not None and self.parts is not None:
            for player, trainer in self.hybrid.trainers.items():
                if trainer.epochs_done == 0 and summary["status"] != "completed":
                    continue  # untrained weights would look like results
                kind, last = getattr(self.spec, player).kind, trainer.model.state_dict()
                for which, state in {"final": last, "best": self.hybrid.best[player].state or last}.items():
                    bands = self.bands if (player, which) == ("synthetic", "final") else None
                    path = save_model(self.folder, f"{player}-{which}", state, kind, self.parts.task.form, bands)
                    self.report.tell("artifact", path)
            if self.analyses is not None:
                self.folder.save_weights(ANALYSES, {"states": self.analyses})
            else:
                self.folder.remove_weights(ANALYSES)
            trained = any(trainer.epochs_done for trainer in self.hybrid.trainers.values())
            # a user who interrupts a run does not want to wait for figures
            if trained and summary["status"] != "interrupted":
                self._draw(summary, self.parts)
        self.report.tell("artifact", self.folder.write_summary(summary))

    def _draw(self, summary: Mapping[str, Any], parts: Parts) -> None:
        from hyco_engine.report.run_figures import draw

        try:
            for path in (self.draw or draw)(self.folder.path, summary, parts.task, parts.models):
                self.report.tell("artifact", path)
        except Exception as error:
            # a failed figure must not cost the run's results
            self.report.warn(f"the figures could not be drawn: {type(error).__name__}: {error}")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _physics(model: PhysicalModel) -> dict[str, Any]:
    """Return how the physics ran, and how it was solved where its equations are known."""
    found: dict[str, Any] = dict(zip(("compile", "reason"), model.execution, strict=True))
    if equations := list(model.equations):
        found |= {"equations": equations, "statements": list(model.statements), "steps": dict(model.steps)}
    return found
