"""The assembly of a run's parts from a spec: task, models, trainers, strategy, cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.cache_choice import CacheDecision, choose_cache
from hyco_engine.data.conversion import converted
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.form import DataForm
from hyco_engine.data.noise import is_noisy
from hyco_engine.data.precision import DTYPES
from hyco_engine.data.table import with_files
from hyco_engine.ensemble import members_of
from hyco_engine.errors import SpecError
from hyco_engine.hooks.attribution import attributed
from hyco_engine.hooks.records import ModelRecord
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import (
    CacheBackend,
    CacheContext,
    LossNormalizer,
    NormalizerContext,
    PartContext,
    Phase,
    PhysicalModel,
    PhysicsContext,
    Player,
    SampleSource,
    SourceContext,
    Strategy,
    StrategyContext,
    SurrogateContext,
    Tracker,
    TrackerContext,
    TrajectorySource,
)
from hyco_engine.physics.settings import index_of
from hyco_engine.randomness import own_random_numbers
from hyco_engine.ranks.runtime import Runtime, Single, device_of
from hyco_engine.ranks.shards import Shards, shards_for
from hyco_engine.settings import Choice
from hyco_engine.spec.choices import CacheChoice, NormalizerChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.resolving import replaced
from hyco_engine.tasks import Task, task_for
from hyco_engine.threads import threads_for
from hyco_engine.training.bootstrap import check_members
from hyco_engine.training.budget import Budget
from hyco_engine.training.candidates import candidates_of, check_strategy
from hyco_engine.training.curriculum import check_stages
from hyco_engine.training.cycle import planned_phases
from hyco_engine.training.informed import build_surrogate
from hyco_engine.training.linearized import GRADIENTS_OF_PRODUCTS, may_take_products
from hyco_engine.training.losses import Objective, WeightedSum
from hyco_engine.training.noisy import meet_noise, told
from hyco_engine.training.planning import Size, most_in_epoch, operations, plan
from hyco_engine.training.point_losses import check_parts
from hyco_engine.training.precision import check_precision
from hyco_engine.training.reporter import Guarded
from hyco_engine.training.settings import TRAINED, PhysicsTraining, SurrogateTraining, TrainingSettings
from hyco_engine.training.solver.choosing import FULL_BATCH, optimizer_name
from hyco_engine.training.trainer import Trainer
from hyco_engine.training.unknowns import Unknowns

PLAYERS: tuple[Player, ...] = ("physical", "synthetic")
C = TypeVar("C", bound=PartContext)


@attrs.frozen(kw_only=True, eq=False)
class Parts:
    """The parts of a run, which a plan describes."""

    task: Task
    device: torch.device
    physical: PhysicalModel | None
    trainers: dict[Player, Trainer]
    strategy: Strategy | None
    """The strategy; None if one model trains alone."""
    cache: CacheDecision | None
    """The decision how to hold generated samples; None if none are generated."""
    physics_on: Callable[[StateLayout, float | None], PhysicalModel]
    """Builds the physics for another layout and with an internal step; see `training.refinement`."""

    @property
    def models(self) -> dict[Player, nn.Module]:
        """The models that the spec names."""
        return {player: trainer.model for player, trainer in self.trainers.items()}

    def start_states(self) -> Tensor | None:
        """Return a full batch of start states for the physics; None without a physics, or if the data has no states."""
        if self.physical is None:
            return None
        states = self.task.start_states(self.trainers["physical"].settings)
        return None if states is None else states.to(self.device)


class Assembler:
    """Builds the parts that a spec names.

    `task` makes the task, whose data a run reads and a plan does not; `prepare` builds all other parts for it. The
    single parts can be built by themselves as well. Each process of `runtime` assembles the same parts.
    """

    def __init__(self, spec: Spec, registry: Registry, runtime: Runtime | None = None) -> None:
        self.spec = spec
        self.registry = registry
        self.runtime = runtime or Single()
        self.device = device_of(self.runtime, spec.run.device) or pick_device(spec.run.device)
        self.players: tuple[Player, ...] = tuple(player for player in PLAYERS if getattr(spec, player) is not None)
        self.notes: list[str] = []
        """Messages to the user about what may be wrong."""
        self.chosen: dict[str, Any] = {}
        """The values that the assembler chose for keys that the spec leaves to it; `spec` has them too."""
        self.reasons: list[str] = []
        """Sentences that say what was chosen, and why."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of all tensors; float32 as long as it is not chosen."""
        return DTYPES.get(self.spec.run.precision, torch.float32)

    # --- all parts ---

    def source(self) -> TrajectorySource | SampleSource:
        """Build the data source, in the units that the spec asks for, without reading anything."""
        choice = with_files(self.spec.data)
        frames = None if choice.num_frames is None else (choice.num_frames - 1) * choice.every + 1
        context = self._context(SourceContext, physical=self.spec.physical, num_frames=frames)
        made = self._build(choice, (TrajectorySource, SampleSource), context)
        return converted(cast("TrajectorySource | SampleSource", made), choice)

    def task(self, *, writes: bool = True) -> Task:
        """Make the task of the data source without reading its data; `writes` says whether the cache may change."""
        spec = self.spec
        parameters = {} if spec.physical is None else spec.physical.parameters
        return task_for(
            self.source(),
            spec.data,
            spec.paths.cache,
            writes=writes,
            runtime=self.runtime,
            dtype=DTYPES.get(spec.run.precision),
            seed=spec.run.seed,
            spare=self.players == ("physical",),  # only a surrogate needs data that it has not seen
            given={f"physical.parameters.{name}.from": own.from_ for name, own in parameters.items() if own.from_},
            found={name: index for name, own in parameters.items() if (index := index_of(own)) is not None},
            time=self._uses_time(),
        )

    def _uses_time(self) -> bool:
        """Return whether the physics depends on time."""
        choice = self.spec.physical
        if choice is None:
            return False
        record = cast("ModelRecord", self.registry.get(choice.hook, choice.kind, role="physical"))
        along = any(setting.along for setting in choice.parameters.values())
        # physics that takes no formulas at sides refuses them when it is built
        is_timed = getattr(choice.options, "is_timed", None)
        along = along or (is_timed is not None and any(is_timed(text) for _, text in self.spec.formulas))
        if record.uses_time is None:
            return along
        with attributed(self._named(choice), "its use of time"):
            return along or record.uses_time(choice.options)

    def choose_threads(self, task: Task) -> int:
        """Return the number of threads to compute with, which is then part of `spec`.

        If the spec leaves it open, it is what pays for the sizes of `task` on the machine of rank 0.
        """
        threads = self.spec.run.threads
        if threads == "auto":
            threads = max(self._threads_for(player, task) for player in self.players)
            threads = int(self.runtime.broadcast(str(threads).encode()))
            self.spec = replaced(self.spec, {"run.threads": threads})
        return threads

    def choose_shards(self) -> None:
        """Choose the number of shards if the spec leaves it open. Raises SpecError if the processes cannot share it.

        Fast sums follow the number of processes, which may change with every resume, so there it stays open.
        """
        if self.spec.run.reduction == "exact":
            self.spec = replaced(self.spec, {"run.shards": shards_for(self.spec.run.shards, self.runtime)})

    @property
    def shards(self) -> Shards:
        """The parts into which samples are divided among the processes."""
        if self.spec.run.reduction == "fast":
            return Shards(self.runtime.size, self.runtime, exact=False)
        return Shards(shards_for(self.spec.run.shards, self.runtime), self.runtime)

    def _threads_for(self, player: Player, task: Task) -> int:
        settings, layout = self._settings(player), task.form.layout
        cells = task.sample_bytes(settings) // self.dtype.itemsize if layout is None else math.prod(layout.spatial)
        return threads_for(cells, task.count(settings))

    def prepare(self, task: Task, cache: CacheDecision | None = None) -> Parts:
        """Build all parts for a task, before or after its data is read; `cache` is an earlier decision, if any.

        Adds messages to the user to `notes`, and what the spec leaves to the engine to `chosen`. Raises HycoError if
        the spec, the data and the parts do not fit each other.
        """
        self.notes.extend(task.precision.warnings)
        self.chosen = {}
        self._settle(self._choose_precision(task))
        self._settle(self._choose_epoch(task))
        strategy = self.strategy()
        self._settle(self._choose_size(task, strategy))
        planned = self._planned_steps(task)
        models = {player: self.model(player, task.form, planned) for player in self.players}
        self._settle(self._choose(task, models, strategy))
        physical = cast("PhysicalModel | None", models.get("physical"))
        if physical is not None and self.spec.physical is not None:
            task.check_physics(physical, self.spec.physical.kind)
            self.reasons += physical.statements
        trainers = {player: self.trainer(player, model, task) for player, model in models.items()}
        warning = task.scale_warning({player: trainer.objective.specs for player, trainer in trainers.items()})
        if warning is not None:
            self.notes.append(warning)
        if strategy is not None:
            alpha = self.spec.augmentation.alpha
            most = max(task.count(trainer.settings) for trainer in trainers.values())
            check_strategy(strategy, models, most, alpha, heldout=task.validates)
            cache = cache or self._decide_cache(task, strategy)
        return Parts(
            task=task,
            device=self.device,
            physical=physical,
            trainers=trainers,
            strategy=strategy,
            cache=cache,
            physics_on=lambda layout, dt: self.physics_on(task.form, layout, dt),
        )

    def _settle(self, chosen: Mapping[str, Any]) -> None:
        """Take values for keys that the spec leaves open; what is chosen later may depend on them."""
        self.chosen |= chosen
        self.spec = replaced(self.spec, chosen)

    def _choose_precision(self, task: Task) -> dict[str, Any]:
        """Choose the precision if the spec leaves it open and the data is known, and say why in `reasons`."""
        found = task.precision
        if self.spec.run.precision != "auto" or not (task.is_read or found.reason):
            return {}
        if found.reason is not None:
            if self.device.type == "mps":
                raise SpecError(
                    f'{found.reason}; the device "mps" has no float64: set run.device = "cpu", take the offset off '
                    'by data.scale, or accept the loss of digits with run.precision = "float32"',
                    key="run.device",
                )
            self.reasons.append(found.reason)
        return {"run.precision": found.name}

    def _choose_epoch(self, task: Task) -> dict[str, Any]:
        """Choose how many samples an epoch of a surrogate that may be taught has, if the engine chooses its epochs."""
        wanted, layout = self.spec.training.synthetic, task.form.layout
        planned = {"epochs_per_cycle", "epoch_samples"} <= wanted.open and wanted.optimizer not in FULL_BATCH
        if len(self.players) < 2 or layout is None or not planned:
            return {}
        return {"training.synthetic.epoch_samples": self._samples(task, self.strategy(most_in_epoch(layout)))}

    def _choose_size(self, task: Task, strategy: Strategy | None) -> dict[str, Any]:
        """Choose options of the surrogate that are left open, by the size of the data and the budget."""
        choice = self.spec.synthetic
        if choice is None:
            return {}
        record = cast("ModelRecord", self.registry.get(choice.hook, choice.kind, role="synthetic"))
        if record.settled is None:
            return {}
        wanted, limit = self.spec.training.synthetic, None
        if wanted.epochs_per_cycle == "auto":
            limit = operations(wanted, Budget.parse(self.spec.run.budget), self._samples(task, strategy))
            limit /= choice.members
        with attributed(self._named(choice), "its choice of options"):
            found = attrs.asdict(
                record.settled(choice.options, self._surrogate_context(task.form, limit)), recurse=False
            )
        new = {name: value for name, value in found.items() if getattr(choice.options, name) != value}
        if new:
            told = " and ".join(f"{name} = {value}" for name, value in new.items())
            self.reasons.append(f"the surrogate has {told}, by the size of the data and run.budget")
        return {f"synthetic.{name}": value for name, value in new.items()}

    def _samples(self, task: Task, strategy: Strategy | None) -> int:
        """Return the most samples in an epoch of the surrogate."""
        real = task.count(self._settings("synthetic"))
        return real + (0 if strategy is None else strategy.max_generated(real, self.spec.augmentation.alpha))

    def _choose(self, task: Task, models: Mapping[Player, nn.Module], strategy: Strategy | None) -> dict[str, Any]:
        """Choose values for keys of the spec that are left to the engine, and say why in `reasons`."""
        chosen: dict[str, Any] = {}
        if "physical" in models:
            # the start of a steady state is no observation
            starts_noisy = is_noisy(task.noise) and not cast("PhysicalModel", models["physical"]).steady
            found = self._meet_noise(task, models["physical"]) if starts_noisy else {}
            own = replaced(self.spec.training.physical, found)
            found |= {name: getattr(own.settled(), name) for name in TRAINED if name in own.open}
            chosen |= {f"training.physical.{name}": value for name, value in found.items()}
        if "synthetic" in models:
            settings = self._plan_surrogate(task, models["synthetic"], strategy)
            open_ = self.spec.training.synthetic.open
            chosen |= {f"training.synthetic.{name}": getattr(settings, name) for name in TRAINED if name in open_}
        return chosen

    def _meet_noise(self, task: Task, model: nn.Module) -> dict[str, Any]:
        """Choose how the physics learns from noisy data."""
        settings = self._settings("physical")
        objective = self.objective("physical", model, task)
        if not objective.rolls_out:
            return {}
        optimizer = optimizer_name(Unknowns(model), "physical", settings, objective)
        chosen = meet_noise(settings, optimizer, task.longest_windows())
        self.reasons.append(told(task.noise, chosen))
        if chosen.get("initial_states", settings.initial_states) != "learned":
            self.notes.append(
                "the physics trains from observed, noisy start states, which biases parameters that damp the noise: "
                'training.physical.initial_states = "learned" avoids that, with gauss-newton or lbfgs and starts = 1'
            )
        return chosen

    def _plan_surrogate(self, task: Task, model: nn.Module, strategy: Strategy | None) -> TrainingSettings:
        """Choose what is left open of the surrogate's training."""
        spec, wanted, layout = self.spec, self.spec.training.synthetic, task.form.layout
        settings, objective = wanted.settled(), self.objective("synthetic", model, task)
        # how to train whatever else a surrogate may be, only the user knows
        steps = objective.rolls_out and not objective.takes_parts and wanted.optimizer not in FULL_BATCH
        if wanted.epochs_per_cycle != "auto" and spec.run.budget != "auto":
            self.notes.append(
                f"run.budget = {spec.run.budget!r} has no meaning beside training.synthetic.epochs_per_cycle = "
                f"{wanted.epochs_per_cycle}: leave one of them out"
            )
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        if wanted.epochs_per_cycle != "auto" or layout is None or not steps or not trainable:
            return settings
        first = candidates_of(strategy)[0].strategy
        every = [phase for cycle in range(spec.run.cycles) for phase in planned_phases(first, self.players, cycle)]
        size = Size(
            layout=layout,
            samples=self._samples(task, strategy),
            horizon=task.horizon(settings),
            phases=max(1.0, sum(own.part for own in every if own.player == "synthetic" and own.epochs is None)),
            validates=task.validates,
            hidden=spec.data.observe.mask is not None,
            noisy=is_noisy(task.noise),
        )
        chosen = plan(wanted, Budget.parse(spec.run.budget), size, model, objective)
        self.reasons.append(f"the surrogate trains {chosen.text}")
        return chosen.settings

    # --- models ---

    def model(self, player: Player, form: DataForm, planned_steps: int = 0) -> nn.Module:
        """Build one model with its initial weights on the run's device; `planned_steps` is that of `PhysicsContext`."""
        physical = self.spec.physical
        with own_random_numbers(self.device, self.spec.run.seed, "weights", player):
            model: nn.Module
            if player == "physical" and physical is not None:
                context = self._context(
                    PhysicsContext,
                    layout=form.layout,
                    dt=form.dt,
                    statistics=form.statistics,
                    inner_dt=physical.dt,
                    compile=physical.compile,
                    parameters=physical.parameters,
                    times=form.times,
                    planned_steps=planned_steps,
                )
                model = self._build(physical, PhysicalModel, context)
            else:
                choice = getattr(self.spec, player)
                surrogate = self._surrogate_context(form)
                model = build_surrogate(lambda own: self._build(choice, nn.Module, own), surrogate, choice.members)
        return model.to(self.device)

    def physics_on(self, form: DataForm, layout: StateLayout, inner_dt: float | None) -> PhysicalModel:
        """Build the physics of the spec on another layout of the same fields, and with another internal step."""
        assert self.spec.physical is not None
        # so few rollouts never repay a compilation
        runs = "eager" if self.spec.physical.compile == "eager" else "auto"
        changed = {"physical.dt": inner_dt, "physical.compile": runs}
        other = Assembler(replaced(self.spec, changed), self.registry)
        return cast("PhysicalModel", other.model("physical", attrs.evolve(form, layout=layout)))

    def _surrogate_context(self, form: DataForm, operations: float | None = None) -> SurrogateContext:
        return self._context(
            SurrogateContext,
            layout=form.layout,
            dt=form.dt,
            statistics=form.statistics,
            physical=self.spec.physical,
            operations=operations,
        )

    def _planned_steps(self, task: Task) -> int:
        """Return how many frames of one sample the physics is going to be trained through, forward and backward."""
        spec, layout = self.spec, task.form.layout
        if spec.physical is None:
            return 0
        training = self._settings("physical")
        epochs = training.epochs_per_cycle
        fields = any(setting.field for setting in spec.physical.parameters.values())
        newton = training.optimizer == "gauss-newton" or (training.optimizer == "auto" and not fields)
        if newton:
            # Gauss-Newton ends when it has converged, and compiles its derivatives separately
            epochs = min(epochs, 5)
            states = training.initial_states
            learned = states == "learned" or (states == "auto" and is_noisy(task.noise))
            if learned and layout is not None and may_take_products(layout, task.n_real):
                return spec.run.cycles * epochs * task.n_real * GRADIENTS_OF_PRODUCTS
        samples = task.n_real * (1 + spec.augmentation.alpha if spec.synthetic else 1)
        return int(spec.run.cycles * epochs * samples * spec.data.num_predict_steps)

    # --- trainers ---

    def objective(self, player: Player, model: nn.Module, task: Task) -> Objective:
        """Make the objective of a model, with the terms that `[loss]` declares."""
        one = members_of(model)[0]
        return task.objective(one, task.terms(player, one, self.spec.loss))

    def trainer(self, player: Player, model: nn.Module, task: Task) -> Trainer:
        """Build a trainer with the player's settings, loss terms and normalizer."""
        settings = self._settings(player)
        objective = self.objective(player, model, task)
        if task.is_read:
            check_stages(player, objective, settings.curriculum, task.samples(settings))
        check_parts(player, objective, settings.points_per_sample)
        unknowns = Unknowns(model)
        optimizer = optimizer_name(unknowns, player, settings, objective)
        check_members(len(members_of(model)), optimizer, objective)
        if (warning := check_precision(settings, optimizer, unknowns, self.device)) is not None:
            self.notes.append(warning)
        normalizer, name = self._normalizer(player, model, objective, task)
        return Trainer(
            model,
            player=player,
            layout=task.form.layout,
            settings=settings,
            objective=objective,
            normalizer=normalizer,
            model_name=self._named(getattr(self.spec, player)),
            normalizer_name=name,
            seed=self.spec.run.seed,
            total_epochs=self._total_epochs(player),
            error=self._error(player, objective, task) if settings.patience else None,
            shards=self.shards,
        )

    def _error(self, player: Player, objective: Objective, task: Task) -> Callable[[nn.Module], float] | None:
        """Return a function that measures a model on validation data; None if there is none, or it is not read."""
        if not task.is_read or not task.validates:
            return None
        who = f"the {player} model {self._named(getattr(self.spec, player))}"

        def error(model: nn.Module) -> float:
            with attributed(who, "rollouts on held-out data"):
                return task.score(model, objective, self.shards, self.device)

        return error

    def planned(self, strategy: Strategy | None, cycle: int) -> list[tuple[Phase, int]]:
        """List the phases of a cycle of one strategy, each with its epochs; the last cycle's with those that follow."""
        phases = planned_phases(strategy, self.players, cycle)
        if strategy is not None and cycle == self.spec.run.cycles - 1:
            phases += [attrs.evolve(phase, taught=False) for phase in strategy.last_phases()]
        return [(phase, phase.length(self._settings(phase.player).epochs_per_cycle)) for phase in phases]

    def _total_epochs(self, player: Player) -> int:
        return max(
            sum(
                epochs
                for cycle in range(self.spec.run.cycles)
                for phase, epochs in self.planned(candidate.strategy, cycle)
                if phase.player == player
            )
            for candidate in candidates_of(self.strategy())
        )

    def _settings(self, player: Player) -> TrainingSettings:
        settings: PhysicsTraining | SurrogateTraining = getattr(self.spec.training, player)
        return settings.settled()

    def _normalizer(
        self, player: Player, model: nn.Module, objective: Objective, task: Task
    ) -> tuple[LossNormalizer, str]:
        """Build the player's normalizer, and return it with its name in messages."""
        own: NormalizerChoice | None = getattr(self.spec.loss, player).normalizer
        choice = own or self.spec.loss.normalizer
        normalizer: LossNormalizer = self._build(
            choice, LossNormalizer, self._context(NormalizerContext, layout=task.form.layout)
        )
        name = self._named(choice)
        optimizer = optimizer_name(Unknowns(model), player, self._settings(player), objective)
        if not normalizer.learnable or optimizer not in FULL_BATCH:
            return normalizer, name
        why = f"the normalizer {name} learns its weights step by step, and {optimizer} needs an objective that stays"
        if own is not None:
            raise SpecError(
                f'{why}: choose another normalizer for the {player} model, or optimizer = "adam"',
                key=f"loss.{player}.normalizer",
            )
        self.notes.append(f"{why}: the {player} model's terms are weighted as 'manual' does, by weight and scale alone")
        return WeightedSum(), "'manual'"

    # --- strategy and cache ---

    def strategy(self, epoch_samples: int | None = None) -> Strategy | None:
        """Build the augmentation strategy; None if one model trains alone.

        `epoch_samples` is that of `StrategyContext`, else what the spec says.
        """
        if len(self.players) < 2:
            return None
        samples = self._settings("synthetic").epoch_samples if epoch_samples is None else epoch_samples
        context = self._context(StrategyContext, epoch_samples=samples)
        return cast("Strategy", self._build(self.spec.augmentation, Strategy, context))

    def _decide_cache(self, task: Task, strategy: Strategy) -> CacheDecision:
        """Decide from sizes alone how the run holds generated samples."""
        augmentation = self.spec.augmentation
        sizes = [
            (task.sample_bytes(own), strategy.max_generated(task.count(own), augmentation.alpha))
            for own in map(self._settings, self.players)
        ]
        return choose_cache(
            augmentation.cache.kind,
            *max(sizes, key=math.prod),
            augmentation.cache.memory_budget_gb,
            augmentation.cache.directory != "",
            self.registry.kinds("hyco_caches"),
        )

    def cache(self, decision: CacheDecision) -> CacheBackend:
        """Build the cache backend of a decision."""
        choice = self.spec.augmentation.cache
        if choice.kind != decision.kind:
            record = self.registry.get(choice.hook, decision.kind)
            choice = CacheChoice(kind=decision.kind, options=record.options())
        return cast("CacheBackend", self._build(choice, CacheBackend, self._context(CacheContext)))

    @property
    def generated_root(self) -> Path | str | None:
        """Return the folder for generated samples; None stands for one in `paths.cache`, and "" for none at all."""
        directory = self.spec.augmentation.cache.directory
        return Path(directory) if directory else directory

    # --- trackers, and who offers what ---

    def trackers(self) -> list[Guarded]:
        """Build the trackers of `[trackers]`."""
        return [
            Guarded(tracker=self._build(choice, Tracker, self._context(TrackerContext)), name=self._named(choice))
            for choice in self.spec.trackers.values()
        ]

    def origins(self, cache: CacheDecision | None) -> dict[str, dict[str, str]]:
        """Return the kind of each part, and the distribution from which it comes."""
        spec = self.spec
        choices: dict[str, Choice | None] = {
            "data": spec.data,
            "physical": spec.physical,
            "synthetic": spec.synthetic,
            "augmentation": spec.augmentation if len(self.players) == 2 else None,
            "cache": None if cache is None else CacheChoice(kind=cache.kind),
            "normalizer": spec.loss.normalizer,
            "normalizer.physical": spec.loss.physical.normalizer,
            "normalizer.synthetic": spec.loss.synthetic.normalizer,
            **{f"trackers.{name}": choice for name, choice in spec.trackers.items()},
        }
        found = {}
        for name, choice in choices.items():
            if choice is not None:
                origin = self.registry.origin(choice.hook, choice.kind)
                found[name] = {"kind": choice.kind, "distribution": origin.distribution, "version": origin.version}
        return found

    # --- one part ---

    def _context(self, kind: type[C], **more: Any) -> C:
        """Return the context of one hook: what every factory receives, and `more`."""
        return kind(seed=self.spec.run.seed, registry=self.registry, device=self.device, dtype=self.dtype, **more)

    def _build(self, choice: Choice, expected: type[Any] | tuple[type[Any], ...], context: PartContext) -> Any:
        """Build the part that `choice` names. Raises PluginError if its factory returns an object of another type."""
        return self.registry.build(choice.hook, choice.kind, choice.options, context, expected)

    def _named(self, choice: Choice) -> str:
        """Return the name in messages of the part that `choice` names."""
        return f"{choice.kind!r} of {self.registry.origin(choice.hook, choice.kind)}"


def pick_device(name: str) -> torch.device:
    """Return the device `name`; "auto" is the first GPU, or the CPU if there is none.

    Raises SpecError for a device that does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        message = f'the device {name!r} cannot be used: {reason}; use "auto" or "cpu"'
        raise SpecError(message, key="run.device") from None
    return device
