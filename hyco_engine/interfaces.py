"""The contracts between the core and what the factories of plugins return, and the context that factories receive.

A state is a tensor `[B, C_all, *S]`, a rollout `[B, T, C_dyn, *S]`; `hyco_engine.data.fields` defines the channels. NaN
in a target means "not observed": such entries enter no loss and no metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.randomness import derive_generator

if TYPE_CHECKING:
    from hyco_engine.data.statistics import Statistics
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.physics.parameters import Learnables
    from hyco_engine.spec.choices import ParameterSetting, PhysicalChoice, Split

Player = Literal["physical", "synthetic"]
StepExecution = Literal["eager", "graph", "inductor"]
"""How a physics runs its step: as written, captured as a graph, or captured and compiled."""
Values = Tensor | Mapping[str, Tensor]
Batch = tuple[Values, Values]
"""(inputs, targets): states `[B, C_all, *S]` and rollouts for steppers, tensors by name for predictors."""


@attrs.frozen(kw_only=True)
class BuildContext:
    """What the core tells a factory. What does not concern a kind of part is None or empty."""

    seed: int
    registry: Registry
    device: torch.device = attrs.Factory(lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    layout: StateLayout | None = None
    """Of the data. None for data that is no field, and while a source is being built."""
    grid: Grid | None = None
    """Only where a physical model is built to make data: the grid it is to declare its fields on."""
    boundary: Any = None
    """Beside `grid`: the boundary to use in place of the model's own; what `Boundary.parse` reads, or None."""
    dt: float | None = None
    """Time between two frames."""
    inner_dt: float | None = None
    """Physics: the internal time step asked for, which divides `dt`."""
    statistics: Statistics | None = None
    """Mean and spread of the train split."""
    parameters: Mapping[str, ParameterSetting] = attrs.Factory(dict)
    """Physics: the spec's settings by parameter name."""
    compile: Literal["auto", "eager", "graph", "inductor"] = "auto"
    planned_steps: int = 0
    """Physics: how many frames of one sample training is going to step, which decides whether compiling pays."""
    physical: PhysicalChoice | None = None
    """Sources and surrogates: the spec's `[physical]`, where there is one."""
    num_frames: int | None = None
    """Sources: frames wanted of each simulation; None means all there are."""

    def generator(self, *purpose: str | int) -> torch.Generator:
        """A generator of its own for each purpose."""
        return derive_generator(self.seed, *purpose)

    def physics(self) -> PhysicalModel:
        """A physical model of its own as `[physical]` says, for a surrogate that contains one. Raises SpecError."""
        choice = self.physical
        if choice is None:
            raise SpecError("there is no [physical] whose physics could be a part of it", key="synthetic.kind")
        context = attrs.evolve(
            self, inner_dt=choice.dt, compile=choice.compile, parameters=choice.parameters, physical=None
        )
        model = self.registry.build("hyco_models", choice.kind, choice.options, context)
        if not isinstance(model, PhysicalModel):
            raise PluginError(f"the physical model {choice.kind!r} is a {type(model).__name__}, no PhysicalModel")
        return model

    def layout_for(self, dynamic: Sequence[FieldInfo], static: Sequence[FieldInfo] = ()) -> StateLayout:
        """The layout a physical model works on, given the fields it declares.

        That of the data, once it is checked to hold these fields; while data is being made, `grid` with these fields.
        Raises DataError where data and model do not fit.
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


def _check_fields(layout: StateLayout, dynamic: Sequence[FieldInfo], static: Sequence[FieldInfo]) -> None:
    declared = {field.name: field for field in (*dynamic, *static)}
    given = {field.name: field for field in layout.fields}
    listed = ", ".join(given)
    for field in declared.values():
        if field.name not in given:
            sort = "static field" if field in static else "field"
            raise DataError(
                f"the physical model needs the {sort} {field.name!r}; the data has {listed}. Name the data's fields as "
                f"the physics does (arrays: data.variables)",
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


# --- data ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, eq=False)
class Points:
    """The observations of one simulation by sensors: N observations, in any order."""

    frame: Tensor
    """`[N]`, float64: the time in frames since the first frame of the trajectory; it may lie between two frames."""
    time: Tensor
    """`[N]`, float64: the time since the first frame of the whole simulation."""
    position: Tensor
    """`[N, n_axes]`, float64: the place of the sensor."""
    value: Tensor
    """`[N, C_dyn]`: the observed values; NaN means "not observed"."""
    heldout: Tensor
    """`[N]`, bool: the observations that validate in a split by sensor."""


@attrs.frozen(kw_only=True, eq=False)
class Trajectory:
    """One simulation: `dynamic [T, C_dyn, *S]` and `static [C_static, *S]`, channels as in the source's layout.

    With `points`, all frames but the first are NaN: rollouts start from the first frame and are read at the sensors.
    """

    dynamic: Tensor
    static: Tensor
    points: Points | None = None


class TrajectorySource(ABC):
    """Simulations of fields on one grid. The core divides them into windows and splits, and caches them."""

    layout: StateLayout
    dt: float
    num_simulations: int

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """The known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return {}

    @property
    def split(self) -> Split | None:
        """The split of the data's authors, which holds if the spec gives none; None if the authors gave none."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever the result of `load` would; it is cheap compared with loading."""

    @abstractmethod
    def load(self, index: int) -> Trajectory:
        """Return simulation `index` as float64 or float32. Raises DataError that names file and key."""

    def points(self, index: int) -> Points | None:
        """Return the observations of simulation `index`, small enough for memory; None for data on the grid alone."""
        return None

    def frames(self, index: int) -> int | None:
        """Return the number of frames of simulation `index` if it is known without loading, else None."""
        return None

    def glimpse(self) -> Trajectory | None:
        """Return a simulation from which field scales are judged before a run, or None if none can be read quickly."""
        return None

    def origin(self, field: str, index: int) -> str:
        """Return where a field of a simulation comes from, for messages: "waves.mat, variable 'usol'". May be empty."""
        return ""


class Samples(ABC):
    """A data set of (input, target) pairs, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """Return the samples at `indices` (int64, `[B]`, any order, repeats allowed), in that order."""

    observed_share: float = 1.0
    """The mean over all samples of the observed share of their targets."""

    horizon: int | None = None
    """The number of steps of the rollouts that targets by name belong to; None if there are no rollouts."""

    def inputs(self, indices: Tensor) -> Values:
        """Return the inputs alone; override it if that is cheaper than `batch`."""
        return self.batch(indices)[0]

    def __getitem__(self, index: int) -> Batch:
        """Return one sample without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        inputs, targets = self.batch(torch.tensor([index % len(self)]))
        return _first(inputs), _first(targets)


def _first(values: Values) -> Values:
    return values[0] if isinstance(values, Tensor) else {name: value[0] for name, value in values.items()}


class SampleSource(ABC):
    """Data that is not a trajectory of fields: samples of (inputs by name, targets by name)."""

    @abstractmethod
    def samples(self, split: Literal["train", "val", "test"]) -> Samples:
        """Return the samples of one split; val and test may be empty."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever the samples would."""


# --- models -------------------------------------------------------------------------------------------------------


class PhysicalModel(nn.Module, ABC):
    """A differentiable simulator with learnable parameters, which steps from one frame to the next.

    `forward(state [B, C_all, *S]) -> [B, C_dyn, *S]` advances the dynamic fields by `dt`.
    """

    layout: StateLayout
    dt: float
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

    @property
    def execution(self) -> tuple[StepExecution, str]:
        """How the step runs, and why."""
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

    `epochs=None` means the player's `epochs_per_cycle`. A phase that is not `taught` trains on real data alone.
    """

    player: Player
    epochs: int | None = None
    taught: bool = True

    @property
    def teacher(self) -> Player:
        return "synthetic" if self.player == "physical" else "physical"


@attrs.frozen(kw_only=True, eq=False)
class Augmentation:
    """The additions to the real samples in a phase: a `recipe` of generated samples, if any, and further loss terms.

    Every generated sample counts `weight` times a real one. `expected_ratio` is the ratio generated * weight / real
    that the strategy intends (alpha, or alpha * tau); the balance check compares it with what was generated. `record`
    goes into the cooperation table of the results (`e_teacher`, `e_pupil`, `tau`, `accepted`).
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


@attrs.frozen(kw_only=True, eq=False)
class CycleContext:
    """The facts on which a strategy can base its decisions."""

    cycle: int
    alpha: float
    real: Samples
    """The train split."""
    errors: Callable[[], Mapping[Player, float]]
    """Measures the errors of both models on the same held-out real data (nrmse of full-length rollouts)."""
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

    def warned(self, message: str) -> None:
        """The user should know something: `message`."""

    def artifact(self, path: Path) -> None:
        """A file was written that a person or a program may want: weights, figures, the summary."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run has ended, in whatever way; `summary` is the content of summary.json."""
