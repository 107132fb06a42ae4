"""One run, from the parts of a spec to the summary. Whatever happens, the end is told and written down."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.assembly import Assembler, Data, sample_bytes
from hyco_engine.augment.cache_choice import CacheDecision
from hyco_engine.errors import HycoError, RunError, SpecError
from hyco_engine.hooks.blaming import blaming, naming_plugins
from hyco_engine.interfaces import PhysicalModel, Player, StepExecution, Tracker
from hyco_engine.report.result import RunResult, run_result
from hyco_engine.runs.cache_manager import CacheManager
from hyco_engine.runs.checkpoint import Checkpoints
from hyco_engine.runs.environment import describe_environment, package_versions, running_on
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.keeper import Keeper
from hyco_engine.runs.resuming import CHECKPOINTS, Earlier, data_digest
from hyco_engine.runs.summary import balance_summary, parameter_values, parameters_summary, peak_rss_bytes
from hyco_engine.runs.weights import save_model
from hyco_engine.spec.loading import LoadedSpec, dump_spec
from hyco_engine.training.acceptance import accept_correction
from hyco_engine.training.arms import check_strategy
from hyco_engine.training.error_bars import ErrorBars, measure
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.history import History
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.reporter import Guarded, Reporter

logger = logging.getLogger("hyco_engine")


class Execution:
    """One execution: whatever happens, the trackers are told the end and the summary is written.

    `earlier`: what the run goes on from; None for a new one. `stop` gives the signal that asks the run to end, or None.
    """

    def __init__(
        self,
        assembler: Assembler,
        loaded: LoadedSpec,
        folder: RunFolder,
        trackers: Sequence[Tracker | Guarded],
        earlier: Earlier | None = None,
        stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.assembler = assembler
        self.spec = assembler.spec
        self.loaded = loaded
        self.folder = folder
        self.earlier = earlier
        self._report = Reporter(trackers=trackers)
        self._facts = {"spec": dump_spec(self.spec), **running_on(assembler.registry, assembler.device)}
        self._digest = ""
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS)
        self._keeper = Keeper(self._checkpoint, minutes=self.spec.run.checkpoint_minutes, stop=stop)
        self._start = time.perf_counter()
        if self._kept is not None:
            self._start -= self._kept["elapsed"]
            self._report.seconds.update(self._kept["seconds"])
        self.models: dict[Player, nn.Module] = {}
        self.initial: dict[str, Tensor] = {}
        self.data: Data | None = None
        self.hybrid: HybridTrainer | None = None
        self.decision: CacheDecision | None = None
        self.metrics: dict[str, Any] = {}
        self.error_bars: ErrorBars | None = None
        self.correction: dict[str, Any] | None = None

    @property
    def _kept(self) -> Mapping[str, Any] | None:
        """The content of the checkpoint that the run goes on from."""
        return None if self.earlier is None else self.earlier.checkpoint

    def execute(self) -> RunResult:
        status, told = "failed", None
        try:
            if self.earlier is not None:
                self.folder.rewind(self.earlier.metrics_bytes, 0.0 if self._kept is None else self._kept["elapsed"])
            told_first: dict[str, Any] = {"name": self.spec.run.name, "folder": self.folder.path}
            told_first["spec"] = self._facts["spec"]
            if self.earlier is not None:
                told_first |= {"records": self.earlier.records, "notes": self.earlier.notes}
            self._report.tell("started", told_first)
            for note in () if self.earlier is None else self.earlier.warnings:
                self._report.warn(note)
            self.folder.write_environment(describe_environment(self.assembler.registry, self.assembler.device))
            for note in self.loaded.notes:
                self._report.warn(note)
            with naming_plugins(self.assembler.registry):
                self._train()
                self._accept()
                self._evaluate()
                self._measure_parameters()
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except BaseException as error:
            told = str(error) or type(error).__name__
            new = self.hybrid is None and (self.earlier is None or self.earlier.empty)
            if new and isinstance(error, HycoError) and error.exit_code == 2:
                # nothing was started: a mistake in the spec or the data leaves no run behind
                self.folder.discard()
            raise
        finally:
            self._report.seconds["total_s"] = time.perf_counter() - self._start
            summary = self._summary(status, told)
            try:
                if self.folder.path.exists():
                    self._save(summary)
            finally:
                self._report.tell("finished", summary)
        return run_result(self.folder.path, summary, self.models)

    def _train(self) -> None:
        assembler, spec = self.assembler, self.spec
        with self._report.timed("prepare_data"):
            source = assembler.source()
            data = self.data = assembler.data(source, self._progress)
            self._digest = data_digest(data, source)
        if self._kept is not None and self._kept["data"] != self._digest:
            raise RunError(
                "the data is not what it was when the run began: bring it back, or start again with a new run folder"
            )
        self.models = assembler.models(data)
        if isinstance(physical := self.models.get("physical"), PhysicalModel):
            self.initial = parameter_values(physical)
            assembler.check_truth(physical, data.truth)
            if self._kept is not None and self._kept["execution"] is not None:
                physical.keep_execution(*self._kept["execution"])
            self._prepare(physical, data)
        self._keeper.between()
        trainers = assembler.trainers(self.models, data)
        for note in assembler.notes:
            self._report.warn(note)
        objective = next(iter(trainers.values())).objective
        cooperating = len(trainers) == 2
        strategy = assembler.strategy() if cooperating else None
        if strategy is not None:
            alpha = spec.augmentation.alpha
            check_strategy(strategy, self.models, len(data.train), alpha, heldout=len(data.val) > 0)
            if self._kept is not None and self._kept["cache"] is not None:
                self.decision = CacheDecision(**self._kept["cache"])
            else:
                self.decision = assembler.cache_decision(len(data.train), sample_bytes(data.train), strategy)
            logger.info("generated samples: %s", self.decision.reason)
        folders = CacheManager(
            spec.paths.cache,
            # the folder's name is the user's, and may be none for a cache
            run_id=f"run-{uuid.uuid4().hex[:12]}",
            dset=spec.data.name,
            generated_root=assembler.generated_root,
        )
        with folders:
            cache = None if self.decision is None else assembler.cache(self.decision)
            if cache is not None and cache.uses_folder:
                self._try_folder(folders)
            swept = folders.sweep()
            for path in swept.removed:
                logger.info("removed what a run that was killed had generated: %s", path)
            for note in swept.failed:
                self._report.warn(note)
            self.hybrid = HybridTrainer(
                **trainers,
                strategy=strategy,
                cache=cache,
                alpha=spec.augmentation.alpha,
                seed=spec.run.seed,
                heldout=assembler.heldout(data.val, data, objective),
                folders=folders,
                trackers=self._report.trackers,
                strict=True,
                watch=self._keeper,
            )
            if self._kept is not None:
                self._restore(self.hybrid, self._kept)
            self.hybrid.train(data.train, spec.run.cycles - self.hybrid.history.cycles)
            logger.info("caches: %s", folders.summary())

    def _restore(self, hybrid: HybridTrainer, kept: Mapping[str, Any]) -> None:
        try:
            hybrid.load_state_dict(kept["training"])
        except HycoError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise RunError(
                f"the checkpoint does not fit what the spec builds now ({type(error).__name__}: {error}): a plugin or "
                "the engine has changed since; install the versions in environment.json, or start again"
            ) from error
        now, before = self._execution, kept["execution"]
        if now is not None and before is not None and now[0] != before[0]:
            self._report.warn(
                f"the physics ran as {before[0]!r} when the checkpoint was written, and runs as {now[0]!r} now "
                f"({now[1]}): results may differ in their last digits"
            )

    @property
    def _execution(self) -> tuple[StepExecution, str] | None:
        physical = self.models.get("physical")
        return physical.execution if isinstance(physical, PhysicalModel) else None

    def _checkpoint(self, training: Mapping[str, Any]) -> None:
        start = time.perf_counter()
        content = {
            "run": self._facts,
            "data": self._digest,
            "cache": None if self.decision is None else attrs.asdict(self.decision),
            "execution": self._execution,
            "training": training,
            "metrics": self.folder.metrics_position(),
            "seconds": dict(self._report.seconds),
            "elapsed": start - self._start,
        }
        path = self._checkpoints.save(content)
        seconds = time.perf_counter() - start
        self._report.seconds["checkpoint"] = self._report.seconds.get("checkpoint", 0.0) + seconds
        self.folder.log(logging.INFO, f"checkpoint {path.name}: {seconds:.3g} s")

    @staticmethod
    def _try_folder(folders: CacheManager) -> None:
        """A folder that cannot be used is a mistake of the spec, and better told now than after the first phase."""
        try:
            with folders.generated("physical", 0):
                pass
        except RunError as error:
            raise SpecError(str(error), key="augmentation.cache.directory") from error

    def _prepare(self, physical: PhysicalModel, data: Data) -> None:
        """Compile the step for full batches, and look whether it is stable from where the data starts."""
        states = self._some_states(data)
        if states is None:
            return
        with self._report.timed("compile"):
            physical.prepare(states)
        if (warning := physical.stability(states)) is not None:
            self._report.warn(warning)

    def _some_states(self, data: Data) -> Tensor | None:
        """A full batch of the states that windows start from; None where the data has none."""
        size = min(self.spec.training.physical.batch_size, len(data.train))
        states = data.train.inputs(torch.arange(size))
        return states.to(self.assembler.device) if isinstance(states, Tensor) else None

    def _accept(self) -> None:
        """Whether a learned correction of the physics pays."""
        assert self.hybrid is not None
        self.correction = found = accept_correction(self.hybrid)
        if found is not None and not found["accepted"]:
            self._report.warn(
                f"the correction does not pay on held-out data: {found['error']:.4g} with it, "
                f"{found['error_without']:.4g} without, and it must take a fifth. The surrogate is the physics alone"
            )

    def _evaluate(self) -> None:
        """Full-length rollouts of both models on held-out real data, and the floor they must beat."""
        assert self.data is not None
        assert self.hybrid is not None
        data = self.data
        objective = next(iter(self.hybrid.trainers.values())).objective
        with self._report.timed("evaluate"):
            for split, real in (("val", data.val), ("test", data.test)):
                heldout = self.assembler.heldout(real, data, objective)
                if heldout is None:
                    continue
                for player, model in self.models.items():
                    self._keeper.between()
                    with blaming(self.hybrid.trainers[player].who, f"rollouts on the {split} data"):
                        self.metrics.setdefault(player, {})[split] = heldout.measure(model)
                if isinstance(heldout, HeldOutRollouts):
                    self.metrics.setdefault("persistence", {})[split] = heldout.persistence()

    def _measure_parameters(self) -> None:
        """Error bars of what the physics has learned, from the real training data."""
        assert self.data is not None
        assert self.hybrid is not None
        trainer = self.hybrid.trainers.get("physical")
        if trainer is None:
            return
        # internal steps were chosen for the start values: a search may have ended where they are too long
        states, model = self._some_states(self.data), trainer.model
        warning = model.stability(states) if isinstance(model, PhysicalModel) and states is not None else None
        if warning is not None:
            self._report.warn(f"with the parameters that were found, {warning}")
        try:
            with self._report.timed("evaluate"):
                self.error_bars = measure(trainer, self.data.train)
        except Exception as error:
            # what was learned is worth keeping without them
            self._report.warn(f"the parameters' error bars could not be computed: {error}")
        if self.error_bars is not None:
            for message in self.error_bars.warnings:
                self._report.warn(message)
            found = {f"standard_error/{name}": value for name, value in self.error_bars.standard_error.items()}
            at = {"cycle": self.spec.run.cycles - 1, "phase": "evaluate"}
            at |= {"epoch": trainer.epochs_done, "step": trainer.steps_done}
            self._report.tell("metrics", {**at, **{name: value for name, value in found.items() if value is not None}})

    def _identification(self) -> dict[str, Any]:
        """Error bars and minima found, as far as there are any."""
        trainer = None if self.hybrid is None else self.hybrid.trainers.get("physical")
        starts = None if trainer is None else trainer.multi_start
        return {
            "optimizer": None if trainer is None else trainer.optimizer_name,
            "error_bars": None if self.error_bars is None else self.error_bars.to_data(),
            "starts": None if starts is None else starts.to_data(),
        }

    def _save(self, summary: Mapping[str, Any]) -> None:
        """Weights, figures, summary; what is written last says that the rest is there."""
        completed = summary["status"] == "completed"
        if self.hybrid is not None and self.data is not None:
            for player, model in self.models.items():
                choice = getattr(self.spec, player)
                if self.hybrid.trainers[player].epochs_done == 0 and not completed:
                    continue  # weights that nobody trained look like results
                states = {"final": model.state_dict(), "best": self.hybrid.best[player].state or model.state_dict()}
                for which, state in states.items():
                    path = save_model(self.folder, f"{player}-{which}", state, choice.kind, self.data)
                    self._report.tell("artifact", path)
            trained = any(trainer.epochs_done for trainer in self.hybrid.trainers.values())
            # who interrupts a run is in a hurry
            if trained and summary["status"] != "interrupted":
                self._draw(summary)
        self._report.tell("artifact", self.folder.write_summary(summary))

    def _draw(self, summary: Mapping[str, Any]) -> None:
        from hyco_engine.report.run_figures import draw

        assert self.data is not None
        try:
            for path in draw(self.folder.path, summary, self.data, self.models):
                self._report.tell("artifact", path)
        except Exception as error:
            # a figure is not worth a run's results
            self._report.warn(f"the figures could not be drawn: {type(error).__name__}: {error}")

    def _summary(self, status: str, error: str | None) -> dict[str, Any]:
        history = History() if self.hybrid is None else self.hybrid.history
        physical = self.models.get("physical")
        parameters: dict[str, Any] = {}
        physics: dict[str, Any] = {}
        # before that nothing has changed, and the folder may be discarded
        if isinstance(physical, PhysicalModel) and self.data is not None and self.hybrid is not None:
            errors = None if self.error_bars is None else self.error_bars.standard_error
            parameters = parameters_summary(physical, self.initial, self.data.truth, self.folder.path, errors)
            physics = dict(zip(("compile", "reason"), physical.execution, strict=True))
        manager = None if self.hybrid is None or self.data is None else self.data.manager
        decision = self.decision
        names = (
            "prepare_data",
            "compile",
            "generate_physical",
            "train_synthetic",
            "generate_synthetic",
            "train_physical",
            "evaluate",
            "checkpoint",
        )
        phases = {n: self._report.seconds.get(n, 0.0) + history.seconds.get(n, 0.0) for n in names}
        return {
            "status": status,
            "error": error,
            "cycles": history.cycles,
            "data": None if manager is None else manager.summary(),
            "parameters": parameters,
            "metrics": self.metrics,
            "balance": [balance_summary(balance) for balance in history.balance],
            "cooperation": history.cooperation,
            "arms": history.arms,
            "correction": self.correction,
            "trained": history.trained,
            "cache": None if decision is None else {**attrs.asdict(decision), "peak_bytes": history.peak_bytes},
            "timings": {"total_s": self._report.seconds["total_s"], "phases": phases},
            "physics": physics,
            "identification": self._identification(),
            "warnings": [*self._report.warnings, *history.warnings],
            "peak_rss_bytes": peak_rss_bytes(),
            "seed": self.spec.run.seed,
            "versions": package_versions(),
        }

    def _progress(self, done: int, total: int) -> None:
        self._report.tell("progress", {"cycle": None, "phase": "prepare_data", "done": done, "total": total})
        self._keeper.between()
