"""One run, from the parts of a spec to its end, which is saved and told to the trackers even after an error."""

from __future__ import annotations

import json
import logging
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from hyco_engine.assembly import Assembler, Parts
from hyco_engine.augment.cache_choice import CacheDecision
from hyco_engine.errors import HycoError, RunError, SpecError
from hyco_engine.hooks.attribution import naming_plugins
from hyco_engine.interfaces import PhysicalModel, Player, Samples, StepExecution, Tracker
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.report.result import RunResult, run_result
from hyco_engine.results import Results
from hyco_engine.runs.cache_manager import CacheManager
from hyco_engine.runs.checkpoint import Checkpoints, packed, unpacked
from hyco_engine.runs.environment import describe_environment, running_on
from hyco_engine.runs.files import dump_json
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.inputs import check_inputs, copy_of, digests, input_files
from hyco_engine.runs.keeper import Keeper
from hyco_engine.runs.resuming import CHECKPOINTS, Earlier, with_choices
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import LoadedSpec, dump_spec
from hyco_engine.threads import compute_with, own_threads
from hyco_engine.training.cycle import REST, Event
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.reporter import Guarded, Reporter

logger = logging.getLogger("hyco_engine")


class Execution:
    """One execution of a run. At its end, even after an error, it tells the trackers and writes the summary.

    `earlier` is the run from which this one continues, and None for a new one. `stop` returns the signal that asks the
    run to end, or None. Every process of `runtime` executes the run, and rank 0 alone writes the run folder: the others
    read the data with it, and then continue from what it has prepared.
    """

    def __init__(
        self,
        assembler: Assembler,
        loaded: LoadedSpec,
        folder: RunFolder,
        trackers: Sequence[Tracker | Guarded],
        earlier: Earlier | None = None,
        stop: Callable[[], str | None] = lambda: None,
        draw: Callable[..., Iterable[Path]] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.assembler = assembler
        self.loaded = loaded
        self.folder = folder
        self.earlier = earlier
        self.runtime = runtime or Single()
        self._report = Reporter(trackers=trackers)
        self._facts = self._current_facts()
        self._digest = ""
        self._inputs: dict[str, str] = {}
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS)
        self._keeper = Keeper(
            self._checkpoint, minutes=assembler.spec.run.checkpoint_minutes, stop=stop, runtime=runtime
        )
        self._start = time.perf_counter()
        if self._kept is not None:
            self._start -= self._kept["elapsed"]
            self._report.seconds.update(self._kept["seconds"])
        self.results = Results(draw=draw, spec=assembler.spec, folder=folder, report=self._report)

    @property
    def _kept(self) -> Mapping[str, Any] | None:
        """The content of the checkpoint from which the run continues."""
        return None if self.earlier is None else self.earlier.checkpoint

    @property
    def spec(self) -> Spec:
        """The spec, in which the assembler settles what is left open."""
        return self.assembler.spec

    def _current_facts(self) -> dict[str, Any]:
        """Return the spec as far as it is settled, and all else on which the last digits depend."""
        running = running_on(self.assembler.registry, self.assembler.device, self.spec.run.threads)
        return {"spec": dump_spec(self.spec), **running}

    def execute(self) -> RunResult:
        with own_threads():
            return self._execute()

    def _execute(self) -> RunResult:
        status, message = "failed", None
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
            for note in self.loaded.notes:
                self._report.warn(note)
            with naming_plugins(self.assembler.registry):
                self._train(self._prepare())
                self.results.measure(self._keeper.between)
            if self.runtime.size > 1:
                self.runtime.agree("the results", dump_json(self.results.metrics).encode())
            status = "completed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except BaseException as error:
            message = str(error) or type(error).__name__
            new = self.results.hybrid is None and (self.earlier is None or self.earlier.empty)
            if new and isinstance(error, HycoError) and error.exit_code == 2:
                # nothing has started, so a mistake in the spec or the data leaves no run behind
                self.folder.discard()
            raise
        finally:
            summary = self._end(status, message) if self.runtime.rank == 0 else {}
        summary = json.loads(self.runtime.broadcast(dump_json(summary).encode())) if self.runtime.size > 1 else summary
        return run_result(self.folder.path, summary, self.results.models)

    def _end(self, status: str, message: str | None) -> dict[str, Any]:
        """Save the results, tell the trackers, and return the summary."""
        self._report.seconds["total_s"] = time.perf_counter() - self._start
        summary = self.results.summary(status, message)
        try:
            if self.folder.path.exists():
                self.results.save(summary)
        finally:
            self._report.tell("finished", summary)
        return summary

    def _prepare(self) -> Parts:
        """Read the data, build all parts for it, and compile the physics."""
        assembler = self.assembler
        with self._report.timed("prepare_data"):
            task = assembler.task()
            assembler.choose_shards()
            compute_with(assembler.choose_threads(task))
            self.folder.write_environment(describe_environment(assembler.registry, assembler.device))
            task.read(self._progress)
            self._digest = task.digest()
            files = input_files(self.spec)
            self._inputs = digests(files)
        if self.runtime.rank > 0:
            self._continue_from_rank_0()
        if self._kept is not None and self._kept["data"] != self._digest:
            raise RunError("the data has changed since the run began: restore it, or start again with a new run folder")
        if self._kept is None:
            for key, path in files.items():
                self.folder.keep(copy_of(key, path), path)
        else:
            check_inputs(files, self._inputs, self._kept.get("inputs", {}), self.folder.path)
        decided = None if self._kept is None or self._kept["cache"] is None else CacheDecision(**self._kept["cache"])
        parts = assembler.prepare(task, decided)
        self._facts = self._current_facts()
        self.folder.write_spec(self._facts["spec"])
        for reason in assembler.reasons:
            self._report.tell("noted", reason)
        self.results.begin(parts, self.spec)
        if (physical := parts.physical) is not None:
            if self._kept is not None and self._kept["execution"] is not None:
                physical.keep_execution(*self._kept["execution"])
            self._compile(physical, parts)
        self._keeper.between()
        for note in assembler.notes:
            self._report.warn(note)
        if parts.cache is not None:
            logger.info("generated samples: %s", parts.cache.reason)
        if self.runtime.size > 1 and self.runtime.rank == 0:
            # the others choose nothing by themselves, since some choices are timed
            training = None if self._kept is None else self._kept["training"]
            analyses = None if self._kept is None else self._kept.get("analyses")
            self.runtime.broadcast(packed({**self._content(training), "analyses": analyses}))
        return parts

    def _continue_from_rank_0(self) -> None:
        """Take what rank 0 has prepared as the state of an earlier run."""
        told = unpacked(self.runtime.broadcast(b""))
        self.earlier = Earlier(checkpoint=told)
        self.assembler.spec = with_choices(self.spec, tomllib.loads(told["run"]["spec"]))

    def _train(self, parts: Parts) -> None:
        assembler, spec, task = self.assembler, self.spec, parts.task
        folders = CacheManager(
            spec.paths.cache,
            # the folder's name is the user's, and may be none for a cache
            run_id=f"run-{uuid.uuid4().hex[:12]}",
            dset=spec.data.name,
            generated_root=assembler.generated_root,
        )
        with folders:
            cache = None if parts.cache is None else assembler.cache(parts.cache)
            if cache is not None and cache.uses_folder:
                self._try_folder(folders)
            swept = folders.sweep()
            for path in swept.removed:
                logger.info("removed what a run that was killed had generated: %s", path)
            for note in swept.failed:
                self._report.warn(note)
            hybrid = self.results.hybrid = HybridTrainer(
                **parts.trainers,
                strategy=parts.strategy,
                cache=cache,
                alpha=spec.augmentation.alpha,
                seed=spec.run.seed,
                heldout=self.results.heldout("val"),
                folders=folders,
                trackers=self._report.trackers,
                strict=True,
            )
            if self._kept is not None and self._kept["training"] is not None:
                self._restore(hybrid, self._kept)
            own = {name: task.samples(t.settings) for name, t in parts.trainers.items()}
            self._cycles(hybrid, task.train, own)
            self._polish(hybrid, task.train, own)
            logger.info("caches: %s", folders.summary())

    def _cycles(self, hybrid: HybridTrainer, real: Samples, own: Mapping[Player, Samples]) -> None:
        """Train, tell the trackers of every event, write checkpoints, and end on request."""
        during = partial(self._during, hybrid)
        cycles = self.spec.run.cycles - hybrid.history.cycles
        with closing(hybrid.events(real, cycles, during, own)) as events:
            for event in events:
                hybrid.tell(event)
                if event.kind == REST:
                    if event.record:
                        self.results.begin_heldout()
                        if self.runtime.size > 1:
                            self.runtime.agree("the weights at the end of a phase", packed(hybrid.weights()))
                    self._keeper.at_rest(hybrid.state_dict, phase_ended=event.record)

    def _polish(self, hybrid: HybridTrainer, real: Samples, own: Mapping[Player, Samples]) -> None:
        """Train what follows the last cycle. Checkpoints hold the state before, from which more cycles can follow."""
        during = partial(self._during, hybrid)
        for event in hybrid.polish(real, during, own):
            during(event)

    def _during(self, hybrid: HybridTrainer, event: Event) -> None:
        """Tell the trackers of an event where no checkpoint can be written, and end on request."""
        hybrid.tell(event)
        self._keeper.between()

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
        if kept.get("analyses") is not None:
            self.results.begin_heldout_from(kept["analyses"])
        now, before = self._execution, kept["execution"]
        if now is not None and before is not None and now[0] != before[0]:
            self._report.warn(
                f"the physics ran as {before[0]!r} when the checkpoint was written, and runs as {now[0]!r} now "
                f"({now[1]}): results may differ in their last digits"
            )

    @property
    def _execution(self) -> tuple[StepExecution, str] | None:
        parts = self.results.parts
        return None if parts is None or parts.physical is None else parts.physical.execution

    def _content(self, training: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the content of a checkpoint with this state of training."""
        parts = self.results.parts
        return {
            "run": self._facts,
            "data": self._digest,
            "inputs": self._inputs,
            "cache": None if parts is None or parts.cache is None else attrs.asdict(parts.cache),
            "execution": self._execution,
            "training": training,
            "analyses": self.results.analyses,
            "metrics": self.folder.metrics_position(),
            "seconds": dict(self._report.seconds),
            "elapsed": time.perf_counter() - self._start,
        }

    def _checkpoint(self, training: Mapping[str, Any]) -> None:
        if self.runtime.rank > 0:
            return
        start = time.perf_counter()
        path = self._checkpoints.save(self._content(training))
        seconds = time.perf_counter() - start
        self._report.seconds["checkpoint"] = self._report.seconds.get("checkpoint", 0.0) + seconds
        self.folder.log(logging.INFO, f"checkpoint {path.name}: {seconds:.3g} s")

    @staticmethod
    def _try_folder(folders: CacheManager) -> None:
        """Refuse an unusable folder before the first phase, since it is a mistake of the spec."""
        try:
            with folders.generated("physical", 0):
                pass
        except RunError as error:
            raise SpecError(str(error), key="augmentation.cache.directory") from error

    def _compile(self, physical: PhysicalModel, parts: Parts) -> None:
        """Compile the step for full batches, and warn if it is not stable from the start states of the data."""
        states = parts.start_states()
        if states is None:
            return
        with self._report.timed("compile"):
            physical.prepare(states)
        if (warning := physical.stability(states)) is not None:
            self._report.warn(warning)

    def _progress(self, done: int, total: int) -> None:
        self._report.tell("progress", {"cycle": None, "phase": "prepare_data", "done": done, "total": total})
        self._keeper.between()
