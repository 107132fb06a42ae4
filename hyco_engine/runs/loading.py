"""Finished runs for further use: their models, and measurements of these on their data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from hyco_engine.assembly import Assembler
from hyco_engine.data.fields import SIMULATION, StateLayout
from hyco_engine.data.form import DataForm
from hyco_engine.data.scalars import with_scalars
from hyco_engine.ensemble import calibrated
from hyco_engine.errors import DataError, HycoError, PluginError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Player
from hyco_engine.physics.settings import ArrayFile
from hyco_engine.runs.environment import asking_for_files
from hyco_engine.runs.inputs import copy_of, is_input
from hyco_engine.runs.metrics import find_summary
from hyco_engine.runs.reading import SPEC, RunFiles
from hyco_engine.runs.weights import Weights, analyses_of_run
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.loading import LoadedSpec, spec_from_text, with_paths
from hyco_engine.spec.resolving import replaced
from hyco_engine.tasks.base import Task
from hyco_engine.threads import own_threads

log = logging.getLogger("hyco_engine")

Which = Literal["best", "final"]


class LoadedRun:
    """A run folder with its spec; each model is built when it is first needed."""

    def __init__(
        self,
        run_dir: Path | str,
        registry: Registry | None = None,
        device: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """Read the run's spec; `overrides` change its keys, such as `data.path`, as `--set` does."""
        self.folder = Path(run_dir)
        self._files = RunFiles(self.folder)
        self._overrides = tuple(overrides)
        registry = registry or Registry.installed()
        if (text := self._files.text(SPEC)) is None:
            raise DataError(f"{self.folder} is no run folder: it holds no {SPEC}")
        more = [] if device is None else [f'run.device="{device}"']
        with asking_for_files(self.folder, registry):
            self._loaded = spec_from_text(text, self.folder / SPEC, registry, [*overrides, *more])
        self.spec = with_paths(self._with_own_starts(self._loaded), self._own_input)
        self.assembler = Assembler(self.spec, registry)

    def _with_own_starts(self, loaded: LoadedSpec) -> Spec:
        """Return the spec with the run's own copies in place of the files that its parameters started from."""
        settings = {} if loaded.spec.physical is None else loaded.spec.physical.parameters
        own = {}
        for name, setting in settings.items():
            key, copy = f"physical.parameters.{name}.init", f"parameters/{name}-initial.npy"
            if not isinstance(setting.init, ArrayFile) or loaded.places.is_overridden(key):
                continue
            if self._files.read(copy) is None:
                raise DataError(f"{self.folder} holds no {copy}, which {name} started from")
            own[name] = replaced(setting, {"init": ArrayFile(file=self.folder / copy)})
        return replaced(loaded.spec, {"physical.parameters": {**settings, **own}}) if own else loaded.spec

    def _own_input(self, key: str, path: Path) -> Path:
        """Return the run's own copy in place of a file that its physics reads."""
        if not is_input(key) or self._loaded.places.is_overridden(key):
            return path
        if self._files.read(copy := copy_of(key, path)) is None:
            raise DataError(f"{self.folder} holds no {copy}, which the physics reads")
        return self.folder / copy

    @property
    def status(self) -> str:
        """Return how the run ended: "completed", "failed", "interrupted", or "unfinished" where it left no summary."""
        summary = find_summary(self.folder)
        return "unfinished" if summary is None else str(summary.get("status"))

    def model(self, player: Player, which: Which = "final") -> nn.Module:
        """Return a trained model in eval mode. Raise DataError where the run lacks it, or its weights are damaged."""
        return self.model_and_weights(player, which)[0]

    def weights(self, player: Player, which: Which = "final") -> Weights:
        """Return a model's weights file. Raise DataError where there is none, or it is damaged."""
        return Weights.of_run(self._files, f"{player}-{which}")

    def model_and_weights(self, player: Player, which: Which) -> tuple[nn.Module, Weights]:
        """Return a trained model in eval mode, and its weights file."""
        choice = getattr(self.spec, player)
        if choice is None:
            raise DataError(f"the run {self.folder} has no {player} model: its spec has no [{player}]")
        weights = self.weights(player, which)
        model = self.assembler.model(player, weights.form)
        try:
            model.load_state_dict(weights.state)
        except RuntimeError as error:
            raise PluginError(
                f"the weights of {self.folder} do not fit the installed {player} model {choice.kind!r}: {error}"
            ) from error
        calibrated(model, weights.bands)
        return model.eval(), weights

    def evaluate(self, split: Literal["val", "test"], which: Which = "final") -> dict[str, Any]:
        """Measure all models and persistence on the spec's data; return `dt` and `metrics`.

        The latter are `{player: {split: metrics}}`. A stepper has all those of `RolloutMetrics`. Raise DataError where
        the data does not fit the models.
        """
        try:
            with own_threads(self.spec.run.threads):
                return self._evaluate(split, which)
        except HycoError as error:
            raise self._loaded.locate(error) from error.__cause__

    def read(self, task: Task) -> None:
        """Read the data of a task, whose held-out rollouts begin as in the run, unless it has other data or windows."""
        task.read()
        if any(text.startswith(("data.", "training.physical.")) for text in self._overrides):
            return
        if (analyses := analyses_of_run(self._files)) is not None:
            task.begin_from(analyses, self.spec.training.physical.settled())

    def _check_own_data(self, form: DataForm) -> None:
        """Raise DataError if the model found a value for each simulation, and these are others."""
        others = [text for text in self._overrides if text.startswith("data.") and not text.startswith("data.split.")]
        if others and form.layout is not None and SIMULATION in form.layout.indices:
            raise DataError(
                f"this run found parameters of each of its own simulations, and {others[0].partition('=')[0].strip()} "
                "asks for others; hyco-engine identify finds the parameters of new simulations",
                key="data",
            )

    def _evaluate(self, split: Literal["val", "test"], which: Which) -> dict[str, Any]:
        cache = self.spec.paths.cache / "tensors" / self.spec.data.name
        if not cache.is_dir():
            log.warning("the cache %s does not exist: the data is read or simulated again", cache)
        assembler = self.assembler
        # a run folder may come from somebody else, whose spec must not say where to write
        task = assembler.task(writes=self._loaded.places.is_overridden("paths.cache"))
        self.read(task)
        metrics: dict[str, Any] = {}
        heldout, dt = None, None
        for player in assembler.players:
            model, weights = self.model_and_weights(player, which)
            dt = weights.dt
            task.check_fit(weights.form, player)
            self._check_own_data(weights.form)
            heldout = task.heldout(split, assembler.objective(player, model, task), assembler.device)
            if heldout is None:
                raise DataError(f"the {split} split is empty; name it under data.split", key=f"data.split.{split}")
            heldout = heldout.in_detail()
            metrics[player] = {split: heldout.measure(model)}
            if (told := heldout.instability(model)) is not None:
                log.warning("on the %s data, %s", split, told)
        floor = None if heldout is None else heldout.persistence()
        return {"dt": dt, "metrics": metrics if floor is None else {**metrics, "persistence": {split: floor}}}


def load_surrogate(
    run_dir: Path | str, which: Which = "final", *, registry: Registry | None = None, device: str | None = None
) -> nn.Module:
    """Return a run's surrogate: `model(state [B, C_all, *S]) -> [B, C_dyn, *S]`, one step of dt, scaling included.

    A surrogate that knows scalars of a simulation also takes them by name, and then states without their channels:
    `model(state, nu=0.03)`. `run_dir` may also be a file that `hyco-engine export --format safetensors` wrote. The
    model is on the CPU, or on the `device` that you name, as its states must be.
    """
    if Path(run_dir).is_file():
        from hyco_engine.runs.export import read_exported

        model, weights = read_exported(Path(run_dir), registry, device)
    else:
        model, weights = LoadedRun(run_dir, registry, device or "cpu").model_and_weights("synthetic", which)
    layout = weights.layout
    return model if layout is None or not layout.scalars else KnowingScalars(model, layout)


class KnowingScalars(nn.Module):
    """A stepper that takes the scalars of its layout by name: `forward(state [B, C, *S], nu=...) -> [B, C_dyn, *S]`."""

    def __init__(self, model: nn.Module, layout: StateLayout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self.advances = layout.advances

    def forward(self, state: Tensor, **scalars: float | Tensor) -> Tensor:
        """Step states with all channels, or without those of the scalars; then all are given. Raises DataError."""
        stepped: Tensor = self.model(with_scalars(state, self.layout, scalars))
        return stepped


def load_physics(
    run_dir: Path | str, which: Which = "final", *, registry: Registry | None = None, device: str | None = None
) -> nn.Module:
    """Return a run's physical model with the identified parameters, on the CPU or on the `device` that you name."""
    return LoadedRun(run_dir, registry, device or "cpu").model("physical", which)


def evaluate(
    run_dir: Path | str,
    split: Literal["val", "test"],
    registry: Registry | None = None,
    *,
    which: Which = "final",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the result that `hyco-engine evaluate` prints.

    `overrides` may name other data: `data.path="other.npz"`.
    """
    run = LoadedRun(run_dir, registry, overrides=overrides)
    about = {"run": str(run_dir), "split": split, "weights": which, "status": run.status}
    return {**about, **run.evaluate(split, which)}
