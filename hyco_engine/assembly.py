"""From a spec to the parts of a run: data, models, trainers, strategy, cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.augment.cache_choice import CacheDecision, choose_cache
from hyco_engine.data.checks import check_for_samples
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import (
    Batch,
    CacheBackend,
    CacheContext,
    LossNormalizer,
    NormalizerContext,
    PartContext,
    Phase,
    PhysicalModel,
    PhysicsContext,
    Player,
    Samples,
    SampleSource,
    SourceContext,
    Strategy,
    StrategyContext,
    SurrogateContext,
    TermSpec,
    Tracker,
    TrackerContext,
    Trajectory,
    TrajectorySource,
)
from hyco_engine.loss_terms import declared_terms, field_sizes, sample_sizes, scale_warning
from hyco_engine.physics.settings import PhysicalChoice
from hyco_engine.randomness import own_random_numbers
from hyco_engine.settings import Choice
from hyco_engine.spec.choices import CacheChoice, NormalizerChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.training.arms import arms_of
from hyco_engine.training.curriculum import check_stages
from hyco_engine.training.evaluation import HeldOut, HeldOutRollouts, HeldOutSamples
from hyco_engine.training.hybrid import planned_phases
from hyco_engine.training.losses import Objective, WeightedSum, objective_for
from hyco_engine.training.optimizers import FULL_BATCH, optimizer_name
from hyco_engine.training.point_losses import PointObjective, check_parts
from hyco_engine.training.reporter import Guarded
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

DTYPES = {"float32": torch.float32, "float64": torch.float64}
PLAYERS: tuple[Player, ...] = ("physical", "synthetic")
Models = dict[Player, nn.Module]
C = TypeVar("C", bound=PartContext)


@attrs.frozen(kw_only=True, eq=False)
class Data:
    """The real data of a run. What concerns fields alone is None for data that is no field."""

    train: Samples
    val: Sequence[Trajectory] | Samples
    test: Sequence[Trajectory] | Samples
    manager: DataManager | None = None
    layout: StateLayout | None = None
    dt: float | None = None
    statistics: Statistics | None = None
    truth: Mapping[str, Tensor] = attrs.Factory(dict)


class _Nothing(Samples):
    """Data that is not read yet."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Tensor) -> Batch:
        raise IndexError("this data is not read yet")


class Assembler:
    """Builds the parts that a spec names, each once and in the order in which they need each other."""

    def __init__(self, spec: Spec, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self.device = pick_device(spec.run.device)
        self.dtype = DTYPES[spec.run.precision]
        self.notes: list[str] = []
        """What the user should know of the choices made here."""

    def context(self, kind: type[C], **more: Any) -> C:
        """What the factories of one hook are told: what all are told, and `more`."""
        return kind(seed=self.spec.run.seed, registry=self.registry, device=self.device, dtype=self.dtype, **more)

    def build(self, choice: Choice, expected: type[Any] | tuple[type[Any], ...], context: PartContext) -> Any:
        """The part that `choice` names. Raises PluginError where its factory returns something else."""
        part = self.registry.build(choice.hook, choice.kind, choice.options, context)
        if not isinstance(part, expected):
            wanted = expected if isinstance(expected, tuple) else (expected,)
            raise PluginError(
                f"{choice.kind!r} of {self.registry.origin(choice.hook, choice.kind)} returned {type(part).__name__}: "
                f"expected {' or '.join(cls.__name__ for cls in wanted)}"
            )
        return part

    def source(self) -> TrajectorySource | SampleSource:
        """The data source, not yet read."""
        choice = self.spec.data
        context = self.context(SourceContext, physical=self.spec.physical, num_frames=choice.num_frames)
        source = cast("TrajectorySource | SampleSource", self.build(choice, (TrajectorySource, SampleSource), context))
        check_for_samples(source, choice)
        return source

    def manager(self, source: TrajectorySource) -> DataManager:
        """The keeper of the source's simulations."""
        return DataManager(source, self.spec.data, self.spec.paths.cache, dtype=self.dtype, seed=self.spec.run.seed)

    def data(
        self, source: TrajectorySource | SampleSource, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Data:
        """Read, check, split and window the data."""
        if isinstance(source, SampleSource):
            return self._sample_data(source)
        manager = self.manager(source)
        manager.prepare(progress)
        return Data(
            train=manager.train,
            val=manager.heldout("val"),
            test=manager.heldout("test"),
            manager=manager,
            layout=manager.layout,
            dt=manager.dt,
            statistics=manager.statistics,
            truth=manager.truth,
        )

    def _sample_data(self, source: SampleSource) -> Data:
        train = source.samples("train")
        if not len(train):
            raise DataError("the data has no sample to train on", key="data")
        return Data(train=train, val=source.samples("val"), test=source.samples("test"))

    def heldout(self, real: Sequence[Trajectory] | Samples, data: Data, objective: Objective) -> HeldOut | None:
        """How models are measured on held-out real data; None where there is none."""
        if not len(real):
            return None
        if isinstance(real, Samples):
            return HeldOutSamples(real, objective, self.device)
        assert data.layout is not None  # trajectories have one
        return HeldOutRollouts(real, data.layout, self.device)

    def models(self, data: Data) -> Models:
        """The models that the spec names."""
        players: list[Player] = [player for player in PLAYERS if getattr(self.spec, player) is not None]
        planned = self._planned_steps(len(data.train))
        return {player: self.model(player, data.layout, data.dt, data.statistics, planned) for player in players}

    def _planned_steps(self, n_real: int) -> int:
        """How many frames of one sample the physics is going to be trained through."""
        spec = self.spec
        if spec.physical is None:
            return 0
        training, epochs = spec.training.physical, spec.training.physical.epochs_per_cycle
        fields = any(setting.field for setting in spec.physical.parameters.values())
        if training.optimizer == "gauss-newton" or (training.optimizer == "auto" and not fields):
            # it ends when it has converged, and compiles what it differentiates apart
            epochs = min(epochs, 5)
        samples = n_real * (1 + spec.augmentation.alpha if spec.synthetic else 1)
        return int(spec.run.cycles * epochs * samples * spec.data.num_predict_steps)

    def model(
        self,
        player: Player,
        layout: StateLayout | None,
        dt: float | None,
        statistics: Statistics | None,
        planned_steps: int = 0,
    ) -> nn.Module:
        """One model with its initial weights, on the run's device; `planned_steps` as in `PhysicsContext`."""
        context: PartContext
        expected: type[Any] = nn.Module
        choice = getattr(self.spec, player)
        if isinstance(choice, PhysicalChoice):
            expected = PhysicalModel
            context = self.context(
                PhysicsContext,
                layout=layout,
                dt=dt,
                statistics=statistics,
                inner_dt=choice.dt,
                compile=choice.compile,
                parameters=choice.parameters,
                planned_steps=planned_steps,
            )
        else:
            context = self.context(
                SurrogateContext, layout=layout, dt=dt, statistics=statistics, physical=self.spec.physical
            )
        with own_random_numbers(self.device, self.spec.run.seed, "weights", player):
            model: nn.Module = self.build(choice, expected, context)
        return model.to(self.device)

    def check_truth(self, physical: PhysicalModel, truth: Mapping[str, Tensor]) -> None:
        """Raises SpecError where a true value is of no parameter that the physics has, or of another shape."""
        values = physical.learnables.values()
        for name, true in truth.items():
            if name in values and true.ndim and true.shape != values[name].shape:
                raise SpecError(
                    f"the truth of {name!r} has the shape {list(true.shape)}, the parameter "
                    f"{list(values[name].shape)}: compare like with like, or leave the truth out",
                    key=f"data.truth.{name}",
                )
            if name not in physical.learnables.names:
                known = ", ".join(physical.learnables.names) or "none"
                raise SpecError(
                    f"the physics {self.spec.physical and self.spec.physical.kind!r} has no parameter {name!r}; it has "
                    f"{known}{did_you_mean(name, physical.learnables.names)}",
                    key=f"data.truth.{name}",
                )

    def check_models(self, layout: StateLayout, dt: float, sizes: Mapping[str, float] | None = None) -> Models:
        """The models, built for data that is not read yet: what does not fit is told.

        `sizes`: the standard deviations of the dynamic fields, where they are known.
        """
        channels = layout.n_all
        unit = Statistics(mean=torch.zeros(channels), std=torch.ones(channels), change_std=torch.ones(layout.n_dynamic))
        data = Data(train=_Nothing(), val=(), test=(), layout=layout, dt=dt, statistics=unit)
        terms: dict[Player, Sequence[TermSpec]] = {}
        for player, model in (models := self.models(data)).items():
            terms[player] = declared_terms(player, model, self.spec.loss, layout, unit)
            self._normalizer(player, model, objective_for(model, layout, terms[player]), layout)
        self._note(scale_warning(terms, sizes, of_fields=True))
        return models

    def trainers(self, models: Mapping[Player, nn.Module], data: Data) -> dict[Player, Trainer]:
        """A trainer for each model. What the user should know is added to `notes`."""
        trainers = {player: self.trainer(player, model, data) for player, model in models.items()}
        terms = {player: trainer.objective.specs for player, trainer in trainers.items()}
        if data.layout is not None and data.statistics is not None:
            sizes = field_sizes(data.layout, data.statistics)
        else:
            sizes = sample_sizes(data.train, next(iter(terms.values()), ()))
        self._note(scale_warning(terms, sizes, of_fields=data.layout is not None))
        return trainers

    @staticmethod
    def _objective(model: nn.Module, data: Data, specs: Sequence[TermSpec]) -> Objective:
        if data.manager is not None and data.manager.has_points:
            return PointObjective(data.manager.layout, specs)
        return objective_for(model, data.layout, specs)

    def trainer(self, player: Player, model: nn.Module, data: Data) -> Trainer:
        """A trainer with the player's settings, loss terms and normalizer."""
        settings = getattr(self.spec.training, player)
        specs = declared_terms(player, model, self.spec.loss, data.layout, data.statistics)
        objective = self._objective(model, data, specs)
        check_stages(player, objective, settings.curriculum, data.train)
        check_parts(player, objective, model, settings.points_per_sample)
        normalizer, name = self._normalizer(player, model, objective, data.layout)
        choice = getattr(self.spec, player)
        return Trainer(
            model,
            player=player,
            layout=data.layout,
            settings=settings,
            objective=objective,
            normalizer=normalizer,
            model_name=f"{choice.kind!r} of {self.registry.origin(choice.hook, choice.kind)}",
            normalizer_name=name,
            seed=self.spec.run.seed,
            total_epochs=self._total_epochs(player),
        )

    def planned(self, strategy: Strategy | None, cycle: int) -> list[tuple[Phase, int]]:
        """Each phase of a cycle of one arm, and its epochs."""
        players: list[Player] = [player for player in PLAYERS if getattr(self.spec, player) is not None]
        return [
            (phase, self._settings(phase.player).epochs_per_cycle if phase.epochs is None else phase.epochs)
            for phase in planned_phases(strategy, players, cycle)
        ]

    def _total_epochs(self, player: Player) -> int:
        both = self.spec.physical is not None and self.spec.synthetic is not None
        return max(
            sum(
                epochs
                for cycle in range(self.spec.run.cycles)
                for phase, epochs in self.planned(arm.strategy, cycle)
                if phase.player == player
            )
            for arm in arms_of(self.strategy() if both else None)
        )

    def _settings(self, player: Player) -> TrainingSettings:
        return self.spec.training.physical if player == "physical" else self.spec.training.synthetic

    def _normalizer(
        self, player: Player, model: nn.Module, objective: Objective, layout: StateLayout | None
    ) -> tuple[LossNormalizer, str]:
        """The player's normalizer, and what messages call it."""
        own: NormalizerChoice | None = getattr(self.spec.loss, player).normalizer
        choice = own or self.spec.loss.normalizer
        normalizer: LossNormalizer = self.build(choice, LossNormalizer, self.context(NormalizerContext, layout=layout))
        name = f"{choice.kind!r} of {self.registry.origin(choice.hook, choice.kind)}"
        optimizer = optimizer_name(model, player, getattr(self.spec.training, player), objective)
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

    def _note(self, text: str | None) -> None:
        if text is not None:
            self.notes.append(text)

    def strategy(self) -> Strategy:
        """The augmentation strategy."""
        return cast("Strategy", self.build(self.spec.augmentation, Strategy, self.context(StrategyContext)))

    def cache_decision(self, n_real: int, sample_bytes: int, strategy: Strategy) -> CacheDecision:
        """How generated samples are held: decided once, from sizes alone."""
        augmentation = self.spec.augmentation
        return choose_cache(
            augmentation.cache.kind,
            sample_bytes,
            strategy.max_generated(n_real, augmentation.alpha),
            augmentation.cache.memory_budget_gb,
            augmentation.cache.directory != "",
            self.registry.kinds("hyco_caches"),
        )

    def cache(self, decision: CacheDecision) -> CacheBackend:
        """The backend that was decided on."""
        choice = self.spec.augmentation.cache
        if choice.kind != decision.kind:
            record = self.registry.get(choice.hook, decision.kind)
            choice = CacheChoice(kind=decision.kind, options=record.options())
        return cast("CacheBackend", self.build(choice, CacheBackend, self.context(CacheContext)))

    def trackers(self) -> list[Guarded]:
        """The trackers of `[trackers]`."""
        return [
            Guarded(
                tracker=self.build(choice, Tracker, self.context(TrackerContext)),
                name=f"{choice.kind!r} of {self.registry.origin(choice.hook, choice.kind)}",
            )
            for choice in self.spec.trackers.values()
        ]

    @property
    def generated_root(self) -> Path | str | None:
        """The folder for generated samples; None: in `paths.cache`, "": none at all."""
        directory = self.spec.augmentation.cache.directory
        return Path(directory) if directory else directory

    def parts(self, cache: CacheDecision | None) -> dict[str, dict[str, str]]:
        """Which kind serves as which part, and which distribution it comes from."""
        spec = self.spec
        choices: dict[str, Choice | None] = {
            "data": spec.data,
            "physical": spec.physical,
            "synthetic": spec.synthetic,
            "augmentation": spec.augmentation if spec.physical and spec.synthetic else None,
            "cache": None if cache is None else CacheChoice(kind=cache.kind),
            "normalizer": spec.loss.normalizer,
            "normalizer.physical": spec.loss.physical.normalizer,
            "normalizer.synthetic": spec.loss.synthetic.normalizer,
            **{f"trackers.{name}": choice for name, choice in spec.trackers.items()},
        }
        parts = {}
        for name, choice in choices.items():
            if choice is not None:
                origin = self.registry.origin(choice.hook, choice.kind)
                parts[name] = {"kind": choice.kind, "distribution": origin.distribution, "version": origin.version}
        return parts


def pick_device(name: str) -> torch.device:
    """ "auto" is the first GPU where there is one. Raises SpecError for a device that is not there."""
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


def sample_bytes(real: Samples) -> int:
    """Bytes of one real sample; a generated one is of the same kind."""
    parts = []
    for values in real.batch(torch.tensor([0])):
        parts += [values] if isinstance(values, Tensor) else list(values.values())
    return sum(part.nbytes for part in parts)
