"""The engine, which plans and runs one spec."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from hyco_engine.assembly import Assembler, Parts
from hyco_engine.errors import HycoError, RunError, SpecError
from hyco_engine.execution import Execution
from hyco_engine.hooks.attribution import naming_plugins
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, Tracker
from hyco_engine.physics.within import internal_steps
from hyco_engine.ranks.runtime import RankFailed, Runtime, Single, exit_code_of
from hyco_engine.report.result import RunResult, run_result
from hyco_engine.runs.checkpoint import packed, unpacked
from hyco_engine.runs.environment import running_on
from hyco_engine.runs.folder import FolderElsewhere, RunFolder
from hyco_engine.runs.loading import LoadedRun
from hyco_engine.runs.lock import RunLock
from hyco_engine.runs.reading import RunFiles
from hyco_engine.runs.resuming import Earlier, completed, find_earlier, is_run_folder, with_choices
from hyco_engine.simulating import write_simulations
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import LoadedSpec, dump_spec, load_spec, spec_from_dict
from hyco_engine.training.candidates import candidates_of, label
from hyco_engine.training.memory import Room
from hyco_engine.training.reporter import Guarded, PhaseWatch
from hyco_engine.training.sharing import sharing


class Engine:
    """Runs one spec, given as a file, as a dictionary of its tables, as a `Spec`, or loaded with its overrides.

    An engine has no global state: several engines, each with its own registry and callbacks, can live in one process.
    Without `registry` it uses the installed plugins, except those that `disabled` names. `draw` makes the figures and
    the report at the end of a run; None stands for `hyco_engine.report.run_figures.draw`. Several processes of one
    `runtime` make one run, of which rank 0 has the folder, the callbacks and the trackers. Raises SpecError with all
    mistakes at once.
    """

    def __init__(
        self,
        spec: Path | str | Mapping[str, Any] | Spec | LoadedSpec,
        *,
        registry: Registry | None = None,
        callbacks: Sequence[Tracker] = (),
        overrides: Sequence[str] | Mapping[str, Any] = (),
        disabled: Collection[str] = (),
        draw: Callable[..., Iterable[Path]] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.registry = registry or Registry.installed(disabled)
        self._loaded = spec if isinstance(spec, LoadedSpec) else _load(spec, self.registry, overrides)
        self.spec = self._loaded.spec
        self._callbacks = tuple(callbacks)
        self._draw = draw
        self._runtime = runtime or Single()

    def plan(self) -> dict[str, Any]:
        """Return what a run would do, from sizes alone, without simulations and training."""
        with self._located():
            return self._plan(Assembler(self.spec, self.registry, self._runtime))

    def equations(self) -> dict[str, Any]:
        """Return the `equations` of the physics, `statements` on how it solves them, and its `steps`."""
        with self._located():
            assembler = Assembler(self.spec, self.registry)
            model = cast("PhysicalModel", assembler.model("physical", assembler.task().form))
            return {
                "equations": list(model.equations),
                "statements": list(model.statements),
                "steps": dict(model.steps),
            }

    def run(
        self,
        run_dir: Path | str | None = None,
        *,
        resume: bool = False,
        stop: Callable[[], str | None] = lambda: None,
    ) -> RunResult:
        """Run the spec in a new folder, or in `run_dir`, which must be new or empty.

        With `resume`, the run in `run_dir` continues, to the last bit as if it had never ended. Without a checkpoint it
        starts from its beginning, and a completed run stays as it is. The engine calls `stop` after every step; once
        `stop` returns a reason, the run writes a checkpoint and ends with a KeyboardInterrupt.

        Raises HycoError. Once training has begun, the folder's summary.json says what happened, even after a
        KeyboardInterrupt; a mistake that is found earlier leaves no new folder behind.
        """
        own = None if run_dir is None else Path(run_dir)
        if resume and own is None:
            raise SpecError("name the run folder to resume; `hyco-engine runs list` shows them", key="--run-dir")
        phase = PhaseWatch()
        try:
            with self._located():
                if self._runtime.size > 1:
                    self._runtime.agree("the spec", dump_spec(self.spec).encode())
                if self._runtime.rank > 0:
                    return self._follow(phase, stop)
                return self._lead(own, phase, resume=resume, stop=stop)
        except RankFailed as error:
            if error.silent and phase.place:
                raise error.during(phase.place) from error
            raise
        except BaseException as error:
            self._runtime.tell(error, exit_code_of(error), phase.place)
            raise

    def _lead(self, own: Path | None, phase: PhaseWatch, *, resume: bool, stop: Callable[[], str | None]) -> RunResult:
        """Run in a folder of this process."""
        assembler = Assembler(self.spec, self.registry, self._runtime)
        trackers: list[Tracker | Guarded] = [phase, *self._callbacks, *assembler.trackers()]
        if resume and own is not None and own.is_dir() and any(own.iterdir()):
            return self._resume(assembler, own, trackers, stop)
        folder = RunFolder.create(self.spec.paths.runs, self.spec.run.name, own)
        note = f"there is no run in {own}: it starts from its beginning"
        earlier = Earlier(notes=(note,), empty=True) if resume else None
        with RunLock(folder.path) as lock:
            lock.acquire()
            return self._execute(assembler, folder, (folder, *trackers), earlier, stop)

    def _follow(self, phase: PhaseWatch, stop: Callable[[], str | None]) -> RunResult:
        """Take part in the run of rank 0, with what it has found in its folder."""
        told = unpacked(self._runtime.broadcast(b""))
        folder = FolderElsewhere(Path(told["folder"]))
        if "completed" in told:
            return run_result(folder.path, told["completed"], {}, resumed_completed=True)
        assembler = Assembler(self.spec, self.registry, self._runtime)
        assembler.spec = with_choices(self.spec, tomllib.loads(told["spec"]))
        return self._execute(assembler, folder, (phase,), None, stop)

    def _tell_others(self, folder: Path, **found: Any) -> None:
        """Tell the other ranks, which wait in `_follow`, what rank 0 has found in the run folder."""
        if self._runtime.size > 1 and self._runtime.rank == 0:
            self._runtime.broadcast(packed({"folder": str(folder), **found}))

    def _execute(
        self,
        assembler: Assembler,
        folder: RunFolder,
        trackers: Sequence[Tracker | Guarded],
        earlier: Earlier | None,
        stop: Callable[[], str | None],
    ) -> RunResult:
        self._tell_others(folder.path, spec=dump_spec(assembler.spec))
        return Execution(assembler, self._loaded, folder, trackers, earlier, stop, self._draw, self._runtime).execute()

    def simulate(self, out: Path | str, form: Literal["scene", "well", "csv"] = "scene") -> dict[str, Any]:
        """Write the simulations of `[data]` to a new folder: PhiFlow's Scenes, or files in the layout of The Well.

        The files contain neither noise nor masks. Returns `format`, `folder`, `simulations`, `dt`, `fields`, `files`.
        """
        with self._located():
            return write_simulations(Assembler(self.spec, self.registry), Path(out), form)

    def _resume(
        self, assembler: Assembler, path: Path, trackers: Sequence[Tracker | Guarded], stop: Callable[[], str | None]
    ) -> RunResult:
        if not is_run_folder(path):
            raise SpecError(f"{path} is not empty and no run folder: there is no spec.toml in it", key="--run-dir")
        RunFiles(path).refuse_others()
        with RunLock(path) as lock:
            gone = lock.acquire()
            summary = completed(path)
            facts = running_on(self.registry, assembler.device, self.spec.run.threads)
            earlier = find_earlier(path, self.spec, facts)
            if summary is not None and summary["cycles"] >= self.spec.run.cycles:
                run = LoadedRun(path, self.registry)
                models = {player: run.model(player) for player in assembler.players}
                self._tell_others(path, completed=summary)
                return run_result(path, summary, models, resumed_completed=True)
            if summary is not None and earlier.checkpoint is None:
                raise RunError(f"the run in {path} is completed, and has no checkpoint to go on from with more cycles")
            if earlier.checkpoint is not None:
                assembler.spec = with_choices(self.spec, tomllib.loads(earlier.checkpoint["run"]["spec"]))
            if gone is not None:
                earlier = attrs.evolve(earlier, notes=(gone, *earlier.notes))
            folder = RunFolder(path, made=False)
            return self._execute(assembler, folder, (folder, *trackers), earlier, stop)

    def _plan(self, assembler: Assembler) -> dict[str, Any]:
        task = assembler.task()
        assembler.choose_shards()
        threads = assembler.choose_threads(task)
        parts = assembler.prepare(task)
        spec, alpha = assembler.spec, assembler.spec.augmentation.alpha
        candidates = candidates_of(parts.strategy)
        count = {player: task.count(trainer.settings) for player, trainer in parts.trainers.items()}
        phases: list[dict[str, Any]] = [
            {
                "cycle": cycle,
                "phase": f"train_{phase.player}",
                **label(candidate, candidates),
                "epochs": epochs,
                "n_real": count[phase.player],
                "n_generated": candidate.max_generated(count[phase.player], alpha) if phase.taught else 0,
            }
            for cycle in range(spec.run.cycles)
            for candidate in candidates
            for phase, epochs in assembler.planned(candidate.strategy, cycle)
        ]
        return {
            "n_real": task.n_real,
            "n_generated": max((int(entry["n_generated"]) for entry in phases), default=0),
            "cache": None if parts.cache is None else attrs.asdict(parts.cache),
            "memory": _memory(parts),
            "precision": spec.run.precision,
            "threads": threads,
            "processes": sharing(parts.trainers, count, spec.data.num_predict_steps),
            "training": {key: value for key, value in assembler.chosen.items() if key != "run.precision"},
            "parts": assembler.origins(parts.cache),
            "data": task.sizes,
            "phases": phases,
            "notes": [*self._loaded.notes, *assembler.reasons, *assembler.notes],
        }

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Add to errors that name a key the file and line where the spec sets it."""
        try:
            with naming_plugins(self.registry):
                yield
        except HycoError as error:
            raise self._loaded.locate(error) from error.__cause__


def _memory(parts: Parts) -> dict[str, Any] | None:
    trainer = parts.trainers.get("physical")
    if trainer is None:
        return None
    room = Room.of(trainer.unknowns, trainer.settings, trainer.solver.passes)
    return parts.task.memory(trainer.settings, internal_steps(trainer.model), room)


def run(
    spec: Path | str | Mapping[str, Any] | Spec,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    run_dir: Path | str | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    callbacks: Sequence[Tracker] = (),
) -> RunResult:
    """Run a spec as the command `hyco-engine run` does: `run("spec.toml", overrides={"run.cycles": 2})`."""
    return Engine(spec, registry=registry, callbacks=callbacks, overrides=overrides).run(run_dir, resume=resume)


def _load(
    spec: Path | str | Mapping[str, Any] | Spec, registry: Registry, overrides: Sequence[str] | Mapping[str, Any]
) -> LoadedSpec:
    if isinstance(spec, Spec):
        spec = tomllib.loads(dump_spec(spec))
    if isinstance(spec, Mapping):
        return spec_from_dict(spec, registry, overrides)
    return load_spec(spec, registry, overrides)
