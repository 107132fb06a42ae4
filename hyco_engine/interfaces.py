"""The contracts between the core and what the factories of plugins return, and the contexts that factories receive.

A state is a tensor `[B, C_all, *S]`, a rollout `[B, T, C_dyn, *S]`; `hyco_engine.data.fields` defines the channels. NaN
in a target means "not observed": such entries enter no loss and no metric.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import attrs
import torch
from attrs import validators
from torch import Tensor, nn

from hyco_engine.data.contracts import Batch, Points, Samples, SampleSource, Trajectory, TrajectorySource, Values
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.randomness import derive_generator

if TYPE_CHECKING:
    from hyco_engine.data.statistics import Statistics
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.physics.parameters import Learnables
    from hyco_engine.physics.settings import ParameterSetting, PhysicalChoice

__all__ = [
    "Arm",
    "Augmentation",
    "Batch",
    "BuildContext",
    "CacheBackend",
    "CacheContext",
    "Correction",
    "CycleContext",
    "ExtraTerm",
    "GeneratedSamples",
    "LossNormalizer",
    "LossTerm",
    "NormalizedLoss",
    "NormalizerContext",
    "PartContext",
    "Phase",
    "PhysicalModel",
    "PhysicsContext",
    "Player",
    "Points",
    "Predictor",
    "Recipe",
    "SampleSource",
    "Samples",
    "SourceContext",
    "StepContext",
    "StepExecution",
    "Strategy",
    "StrategyContext",
    "SurrogateContext",
    "TermSpec",
    "Tracker",
    "TrackerContext",
    "Trajectory",
    "TrajectorySource",
    "Values",
]

Player = Literal["physical", "synthetic"]
StepExecution = Literal["eager", "graph", "inductor"]
"""How a physics runs its step: as written, captured as a graph, or captured and compiled."""


C = TypeVar("C", bound="PartContext")


@attrs.frozen(kw_only=True, slots=False)
class PartContext:
    """The values that every factory receives. The context of each hook adds those that concern its parts."""

    seed: int
    registry: Registry
    device: torch.device = attrs.Factory(lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a generator; each purpose has a stream of its own."""
        return derive_generator(self.seed, *purpose)

    def derive(self, kind: type[C], **more: Any) -> C:
        """Return the context for another part that this part builds: the fields that both contexts have, and `more`."""
        shared = attrs.fields_dict(kind).keys() & attrs.fields_dict(type(self)).keys()
        return kind(**({name: getattr(self, name) for name in shared} | more))

    if not TYPE_CHECKING:  # so that a type checker names what a context does not have

        def __new__(cls, **given: Any) -> PartContext:
            """`attrs.evolve(context, ...)` with what concerns another hook gives a `BuildContext`, as in 0.1."""
            foreign = sorted(given.keys() - attrs.fields_dict(cls).keys())
            if foreign and given.keys() <= attrs.fields_dict(BuildContext).keys():
                what = f"a {cls.__name__} takes no {', '.join(foreign)}"
                # the frame above this one is that of attrs.evolve
                _deprecated(what, "derive the context of the other part", stacklevel=4)
                return object.__new__(BuildContext)
            return object.__new__(cls)

        def __getattr__(self, name: str) -> Any:
            """Return an attribute of another hook's context as 0.1 had it: None, empty, or a method."""
            if name.startswith("_") or not (name in attrs.fields_dict(BuildContext) or hasattr(BuildContext, name)):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            what = f"a {type(self).__name__} has no {name!r}"
            _deprecated(what, "do not use it, because it does not concern this hook", stacklevel=3)
            return getattr(self.derive(BuildContext), name)


class ContextDeprecation(DeprecationWarning):
    """A plugin uses an attribute that its context no longer has."""


def _deprecated(what: str, instead: str, stacklevel: int) -> None:
    text = f"{what}: {instead}. Until hyco-engine 0.3 it works as it did in 0.1"
    warnings.warn(text, ContextDeprecation, stacklevel=stacklevel)


@attrs.frozen(kw_only=True, slots=False)
class SourceContext(PartContext):
    """The context of a data source."""

    physical: PhysicalChoice | None = None
    """The spec's `[physical]`, where there is one."""
    num_frames: int | None = None
    """The number of frames of each simulation; None means all."""


@attrs.frozen(kw_only=True, slots=False)
class PhysicsContext(PartContext):
    """The context of a physical model."""

    layout: StateLayout | None = None
    """The layout of the data. None while data is being simulated, and for data without fields."""
    grid: Grid | None = None
    """The grid for the declared fields, only if the model is built to simulate data."""
    boundary: Any = None
    """The boundary that replaces the model's own on `grid`, in the form that `Boundary.parse` reads, or None."""
    dt: float | None = None
    """Time between two frames."""
    inner_dt: float | None = None
    """The internal time step of the spec, which divides `dt`."""
    statistics: Statistics | None = None
    """Mean and spread of the train split."""
    parameters: Mapping[str, ParameterSetting] = attrs.Factory(dict)
    """The spec's settings by parameter name."""
    compile: Literal["auto", "eager", "graph", "inductor"] = "auto"
    times: tuple[float, float] | None = None
    """The first and the last time at which the training data are known; None where states hold no time."""
    planned_steps: int = 0
    """The number of frames of one sample that training will step; it decides whether compiling pays."""

    def layout_for(self, dynamic: Sequence[FieldInfo], static: Sequence[FieldInfo] = ()) -> StateLayout:
        """Return the layout on which the model works, given the fields that it declares.

        It is the layout of the data, after a check that it holds these fields; while data is being simulated, it is
        `grid` with these fields. Raises DataError if data and model do not fit.
        """
        if self.layout is not None:
            _check_fields(self.layout, dynamic, static)
            return self.layout
        if self.grid is None:
            raise DataError("a physical model needs data on a grid, and this data has none")
        if self.boundary is not None:
            rule = Boundary.parse(self.boundary, self.grid.axes)
            dynamic = [attrs.evolve(field, boundary=rule) for field in dynamic]
        return StateLayout(grid=self.grid, dynamic=tuple(dynamic), static=tuple(static))


@attrs.frozen(kw_only=True, slots=False)
class SurrogateContext(PartContext):
    """The context of a surrogate."""

    layout: StateLayout | None = None
    """The layout of the data. None for data without fields."""
    dt: float | None = None
    """Time between two frames."""
    statistics: Statistics | None = None
    """Mean and spread of the train split."""
    physical: PhysicalChoice | None = None
    """The spec's `[physical]`, where there is one."""
    operations: float | None = None
    """The number of operations that training can spend on one sample, forward and backward, if all its steps are to fit
    into `run.budget`. None where no budget limits the training."""

    def physics(self) -> PhysicalModel:
        """Build a physical model as `[physical]` says, for a surrogate that contains one. Raises SpecError."""
        choice = self.physical
        if choice is None:
            raise SpecError("there is no [physical] whose physics could be a part of it", key="synthetic.kind")
        if own := [name for name, setting in choice.parameters.items() if setting.scope != "shared"]:
            raise SpecError(
                "a surrogate that contains the physics has one value of each parameter for all simulations, and "
                f"simulations differ in {' and '.join(own)}: take a surrogate without a physics, or leave scope out",
                key="synthetic.kind",
            )
        context = self.derive(PhysicsContext, inner_dt=choice.dt, compile=choice.compile, parameters=choice.parameters)
        return cast(
            "PhysicalModel",
            self.registry.build("hyco_models", choice.kind, choice.options, context, expected=PhysicalModel),
        )


@attrs.frozen(kw_only=True, slots=False)
class StrategyContext(PartContext):
    """The context of a strategy, which receives what it decides on later, in a `CycleContext`."""

    epoch_samples: int = 0
    """The number of samples up to which generated ones do not lengthen an epoch of the surrogate."""


@attrs.frozen(kw_only=True, slots=False)
class NormalizerContext(PartContext):
    """The context of a normalizer, which receives its terms later, in `setup`."""

    layout: StateLayout | None = None
    """The layout of the data. None for data without fields."""


@attrs.frozen(kw_only=True, slots=False)
class CacheContext(PartContext):
    """The context of a cache backend, which receives recipe and folder later, in `hold`."""


@attrs.frozen(kw_only=True, slots=False)
class TrackerContext(PartContext):
    """The context of a tracker, which learns about the run later, in `started`."""


@attrs.frozen(kw_only=True, slots=False)
class BuildContext(
    SourceContext,
    PhysicsContext,
    SurrogateContext,
    StrategyContext,
    NormalizerContext,
    CacheContext,
    TrackerContext,
):
    """The contexts of all hooks in one. It can replace each of them, for example in tests.

    Up to 0.1 every factory received it; the fields that did not concern its part were None or empty.
    """


def _check_fields(layout: StateLayout, dynamic: Sequence[FieldInfo], static: Sequence[FieldInfo]) -> None:
    declared = {field.name: field for field in (*dynamic, *static)}
    given = {field.name: field for field in layout.fields}
    listed = ", ".join(given)
    for field in declared.values():
        if field.name not in given:
            sort = "static field" if field in static else "field"
            alike = next((other for other in given if other.lower() == field.name.lower()), None)
            such = "" if alike is None else f', such as {{ {field.name} = "{alike}" }}'
            raise DataError(
                f"the physical model needs the {sort} {field.name!r}; the data has {listed}. Name the data's fields as "
                f"the physics does: data.variables does it for files{such}",
                key="data.fields",
            )
        other = given[field.name]
        if (other.channels, other.sampling) != (field.channels, field.sampling):
            raise DataError(
                f"the physical model needs {field.name!r} {field.sampling} with {field.channels} component(s); "
                f"the data has it {other.sampling} with {other.channels}",
                key="data.fields",
            )
    for name in (field.name for field in layout.dynamic):
        if name not in {field.name for field in dynamic}:
            raise DataError(
                f"the physical model does not predict {name!r}: list it under data.fields.static, or leave it out",
                key="data.fields",
            )


# --- models -------------------------------------------------------------------------------------------------------


class PhysicalModel(nn.Module, ABC):
    """A differentiable simulator with learnable parameters, which steps from one frame to the next.

    `forward(state [B, C_all, *S]) -> [B, C_dyn, *S]` advances the dynamic fields by `dt`.
    """

    layout: StateLayout
    dt: float
    steady: bool = False
    """Whether `forward` gives the state that does not change, from whatever state."""
    learnables: Learnables
    """The parameters of the physics by name. Everything that is to be learned is in here."""

    @abstractmethod
    def forward(self, state: Tensor) -> Tensor: ...

    def bound(self) -> Callable[[Tensor], Tensor]:
        """Return `forward` with the present parameters fixed, so that several calls compute shared quantities once."""
        return self

    def prepare(self, state: Tensor) -> None:
        """Do once what batches of this shape need, such as compiling, so that it costs no time later."""

    def prepare_export(self, state: Tensor) -> None:
        """Prepare to be part of a program that `torch.export` makes, for batches of states like these."""

    def stability(self, state: Tensor) -> str | None:
        """Return a warning with numbers and remedies if steps from these states are not stable, else None."""
        return None

    def step_load(self, raw: Mapping[str, Tensor] | None = None) -> float:
        """Return the needed number of internal steps over the present one; above 1, steps are too long to be stable.

        It is that for unconstrained parameters `raw`, or for the present ones; infinite if no affordable number is
        enough, and 0 for a model that does not choose its internal steps.
        """
        return 0.0

    def settle_steps(self, raw: Mapping[str, Tensor] | None = None) -> bool:
        """Choose another number of internal steps if these parameters need one; return true if it changed."""
        return False

    @property
    def advances(self) -> tuple[float, ...]:
        """By how much each static channel of a state grows from frame to frame; a rollout goes by it."""
        return self.layout.advances

    @property
    def starts_alike(self) -> bool:
        """Whether parameters alone determine its start states, so that those of `initial_states` do not differ."""
        return False

    @property
    def equations(self) -> Sequence[Mapping[str, Any]]:
        """What is known of the equation of each component, as `hyco-engine equation --json` gives it."""
        return ()

    @property
    def steps(self) -> Mapping[str, float]:
        """The time of a `frame`, the `count` of internal steps in it, the `internal` one, and the `longest` stable one.

        It is empty for a model that does not choose internal steps; what is not known, or without a limit, is left out.
        """
        return {}

    @property
    def statements(self) -> Sequence[str]:
        """Sentences on how the physics is solved, for the plan and the log of a run."""
        return ()

    @property
    def execution(self) -> tuple[StepExecution, str]:
        """The way in which the step runs, and the reason for it."""
        return "eager", "plain torch"

    def keep_execution(self, kind: StepExecution, reason: str) -> None:
        """Tell the model of a resumed run how its step ran when the run began and why, as `execution` gave it.

        It is called before the first step. A model that makes this choice by itself keeps to it.
        """

    def initial_states(self, count: int, generator: torch.Generator) -> Tensor:
        """Return start states `[count, C_all, *S]`, each different. Only the source `simulate` needs them."""
        raise DataError(f"{type(self).__name__} declares no initial states, so it cannot simulate data")


class Predictor(nn.Module, ABC):
    """A model that maps inputs to named outputs in one call: `forward(inputs) -> {name: Tensor}`."""

    @property
    @abstractmethod
    def terms(self) -> Sequence[TermSpec]:
        """One loss term per output name; its `kind` says how the output is compared with the target."""

    @abstractmethod
    def forward(self, inputs: Values) -> Mapping[str, Tensor]: ...


class Correction(nn.Module, ABC):
    """A stepper of a physics and a learned correction, which must prove on held-out data that it helps."""

    @abstractmethod
    def without(self, physics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict with which it equals the physics alone; `physics` is the state dict of the physics."""


# --- augmentation -------------------------------------------------------------------------------------------------


class Recipe(ABC):
    """The computation of generated samples: indices -> batch. It is pure: an index gives one sample in any batch."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """The bytes of one sample, input and target."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """The number of samples to generate at a time."""

    @abstractmethod
    def generate(self, indices: Tensor) -> Batch:
        """Return the samples at `indices` (int64 `[B]`), on the CPU, without gradients."""


class GeneratedSamples(Samples):
    """The samples of a recipe in a cache backend. `close` frees all that it holds and may be called twice."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The largest number of bytes that it holds, in memory or on disk."""

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """Announce the indices of the coming calls of `batch`, so that samples can be computed ahead."""

    def close(self) -> None:
        """Free memory and files."""


class CacheBackend(ABC):
    """Turns a recipe into a data set that holds its samples or computes them on demand."""

    uses_folder: bool = True
    """Whether `hold` needs a folder; if not, the core makes none."""

    @abstractmethod
    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """Return the samples of a recipe as a data set.

        `folder` belongs to this data set alone; it exists, is empty, and the core removes it afterwards. It is None if
        the run has no cache folder. `progress(made)` is called with the number of samples made so far.
        """


@attrs.frozen(kw_only=True)
class Phase:
    """One training phase of a cycle.

    `epochs=None` means the player's `epochs_per_cycle`, or that `part` of them. A phase that is not `taught` trains on
    real data alone.
    """

    player: Player
    epochs: int | None = None
    taught: bool = True
    part: float = attrs.field(default=1.0, validator=(validators.gt(0.0), validators.le(1.0)))

    def length(self, epochs_per_cycle: int) -> int:
        """Return the number of epochs, where the player usually has so many."""
        return math.ceil(self.part * epochs_per_cycle) if self.epochs is None else self.epochs

    @property
    def teacher(self) -> Player:
        return "synthetic" if self.player == "physical" else "physical"


@attrs.frozen(kw_only=True, eq=False)
class Augmentation:
    """The additions to the real samples in a phase: a `recipe` of generated samples, if any, and further loss terms.

    Every generated sample counts `weight` times a real one. `expected_ratio` is the ratio generated * weight / real
    that the strategy intends (alpha, or alpha * tau); the balance check compares it with what was generated. `record`
    goes into the cooperation table of the results (`e_teacher`, `e_pupil`, `tau`). For a strategy that `proposes`, the
    core adds `accepted`, and the pupil's error after the phase, `e_after`.
    """

    recipe: Recipe | None = None
    weight: float = 1.0
    expected_ratio: float = 0.0
    terms: Sequence[ExtraTerm] = ()
    record: Mapping[str, float | bool] = attrs.Factory(dict)


class ExtraTerm(ABC):
    """A further loss term of a phase, such as an interaction at ghost points."""

    @abstractmethod
    def term(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossTerm:
        """Return the term for one training batch."""


def _no_loss(player: Player, recipe: Recipe | None = None) -> float:
    raise RuntimeError("this context measures no losses: give it a `loss`")


@attrs.frozen(kw_only=True, eq=False)
class CycleContext:
    """The facts on which a strategy can base its decisions."""

    cycle: int
    alpha: float
    real: Samples
    """The train split."""
    errors: Callable[[], Mapping[Player, float]]
    """Measures the errors of both models on the same held-out real data (vrmse of full-length rollouts). What the noise
    of the data adds to them is subtracted."""
    rollout_recipe: Callable[..., Recipe]
    """`rollout_recipe(teacher, states, count, lead=None)`: rollouts of the teacher over the training horizon, from
    `states(indices) -> [B, C_all, *S]`, which must be pure. With a spin-up `lead [count]` (int64), a sample starts from
    the state that the teacher reaches after so many steps."""
    models: Mapping[Player, nn.Module]
    """Both models; a strategy must not change them."""
    terms: Mapping[Player, Sequence[TermSpec]]
    """The loss terms of each model, as declared."""
    layout: StateLayout | None = None
    """The layout of the states; None for data that is no field."""
    generator: Callable[..., torch.Generator]
    """`generator("starts")` returns a generator derived from (seed, cycle, phase, purpose)."""
    noisy_errors: Callable[[], Mapping[Player, float]] | None = None
    """Measures the same errors with the noise of the data; None where `errors` are all that is known."""
    loss: Callable[..., float] = _no_loss
    """`loss(player, recipe=None)` measures the loss of a model on samples of a recipe, or on real ones, in the units of
    `train/loss`: the sum over the terms of priority / scale times the mean of the term."""


@attrs.frozen(kw_only=True, eq=False)
class Arm:
    """A candidate: one of several strategies. `alpha=None` means the run's alpha, `strategy=None` no cooperation."""

    name: str
    strategy: Strategy | None
    alpha: float | None = None

    def max_generated(self, n_real: int, alpha: float) -> int:
        """Return the most samples that a phase may ask for; `alpha` is the run's."""
        if self.strategy is None:
            return 0
        return self.strategy.max_generated(n_real, alpha if self.alpha is None else self.alpha)


class Strategy(ABC):
    """Decides the phases of a cycle and what each trains on, without state: it decides by the context alone."""

    proposes: bool = True
    """If data is held out, each taught phase is a proposal: if it raises the pupil's error on these data by more than
    the uncertainty, it is undone, and repeated on real data alone. A strategy whose phases stay sets this to False."""

    def arms(self) -> Sequence[Arm]:
        """Return the candidates: strategies to compare in place of this one. If there are none, this one decides.

        Each candidate trains models of its own from the same start, cycle by cycle. Of each model, the one with the
        smallest error on held-out real data is kept. With candidates, `phases` and `augment` of this strategy itself
        are not called.
        """
        return ()

    def phases(self, cycle: int) -> Sequence[Phase]:
        """Return the phases of one cycle in order; the default is that of the documents: surrogate, then physics."""
        return (Phase(player="synthetic"), Phase(player="physical"))

    def last_phases(self) -> Sequence[Phase]:
        """Return phases on real data alone that follow the last cycle, for models that a worse one has taught.

        What they find is reported unless it is worse on held-out data, by more than the uncertainty, than the best that
        was found before.
        """
        return ()

    def max_generated(self, n_real: int, alpha: float) -> int:
        """Return the most samples that a phase may ask for; the cache is chosen by it before the first cycle."""
        return int(n_real * alpha)

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:  # noqa: B027 - most take all
        """Raise SpecError if it cannot generate with these models, or if it needs held-out data that is missing.

        It is called before anything trains, if `max_generated` is not 0.
        """

    @abstractmethod
    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        """Return what `phase.teacher` generates for `phase.player`; None means real data alone.

        It is called right before each phase that is `taught`.
        """


# --- losses -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class TermSpec:
    """One loss term with `n_elements` values per sample; `scale` is the loss that counts as 1 (None: not declared)."""

    name: str
    kind: Literal["gaussian", "laplace", "categorical", "bernoulli", "huber", "residual", "other"] = "residual"
    n_elements: int = 1
    unit: str = "1"
    scale: float | None = None
    priority: float = 1.0


@attrs.frozen(kw_only=True, eq=False)
class LossTerm:
    """The value of a term for one batch: `per_sample [B]`, weighted by `sample_weight [B]` (None: 1)."""

    spec: TermSpec
    per_sample: Tensor
    sample_weight: Tensor | None = None

    def mean(self) -> Tensor:
        """Return `sum(w * l) / sum(w)`, 0-d; it is 0 if no sample has a weight, that is, if no target was observed."""
        if self.sample_weight is None:
            return self.per_sample.mean()
        total = self.sample_weight.sum()
        return (self.sample_weight * self.per_sample).sum() / torch.where(total == 0, 1.0, total)


@attrs.frozen(kw_only=True, eq=False)
class StepContext:
    """The position in training of a loss. State changes once per optimizer step: at `micro_step == n_micro - 1`."""

    step: int
    micro_step: int = 0
    n_micro: int = 1
    training: bool = True
    player: Player = "synthetic"
    shared_parameters: Callable[[], Sequence[Tensor]] = tuple
    reduce_sum: Callable[[Tensor], Tensor] = lambda tensor: tensor
    generator: torch.Generator | None = None


@attrs.frozen(kw_only=True, eq=False)
class NormalizedLoss:
    """`total` is differentiated; `weights[name]` is d total / d L_name, detached; `shares` sum to 1."""

    total: Tensor
    weights: Mapping[str, float | Tensor]
    shares: Mapping[str, float | Tensor] = attrs.Factory(dict)
    regularizer: Tensor | None = None
    log: Mapping[str, float] = attrs.Factory(dict)
    skipped: bool = False


class LossNormalizer(ABC):
    """Combines named loss terms into one scalar. Each trained model has an instance; state is keyed by term name."""

    unit_invariant: bool = False
    """Whether a change of a term's unit leaves training unchanged."""
    learnable: bool = False
    """Whether it has parameters of its own, which then belong to the engine's own optimizer."""
    requires: tuple[str, ...] = ()
    """Inputs that it needs besides the terms: "shared_parameters"."""

    def setup(self, specs: Sequence[TermSpec]) -> None:
        """Learn of the terms. It is called once, before the first step."""
        for spec in specs:
            self.add_term(spec)

    @abstractmethod
    def add_term(self, spec: TermSpec) -> None:
        """Learn of a term that appears later."""

    @abstractmethod
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        """Return the total of the terms of one batch."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups for the engine's own optimizer of normalizer parameters."""
        return []

    def post_step(self, context: StepContext) -> None:  # noqa: B027 - most have nothing to do
        """Update state after an optimizer step. It is called after each one."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state, as tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises ValueError on the state of another class."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but was given {', '.join(state)}")


# --- observers ----------------------------------------------------------------------------------------------------


class Tracker:
    """An observer of the run. Every method may be left out. A tracker must not change the run."""

    def started(self, info: Mapping[str, Any]) -> None:
        """The run starts: `name`, `folder` (Path or None), `spec` (resolved, as TOML text or None).

        A resumed run also gives `records`, which `metrics` received before the checkpoint; all that it received
        afterwards is void and will be sent again. It also gives `notes`, which say from where the run continues.
        """

    def phase_started(self, record: Mapping[str, Any]) -> None:
        """A phase starts: `cycle`, `phase` ("train_synthetic", "generate_physical", …), `total` (epochs or samples)."""

    def progress(self, record: Mapping[str, Any]) -> None:
        """A phase advances; called often: `cycle`, `phase`, `done`, `total`."""

    def metrics(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl is written: `cycle`, `phase`, `epoch`, `step` and values such as `train/loss`."""

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        """A phase has ended: `cycle`, `phase`, `seconds`."""

    def noted(self, message: str) -> None:
        """The engine says what it found or chose: `message`. Nothing is wrong."""

    def warned(self, message: str) -> None:
        """The user should know something: `message`."""

    def artifact(self, path: Path) -> None:
        """A file was written that a person or a program may want: weights, figures, the summary."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run has ended, in whatever way; `summary` is the content of summary.json."""
