"""The contracts between the core and what plugins' factories return, and the context that factories receive.

Tensors: a state is `[B, C_all, *S]`, a rollout `[B, T, C_dyn, *S]`; `hyco_engine.data.fields` says what the channels
mean. In targets NaN means "not observed": such entries enter no loss and no metric.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.randomness import derive_generator

if TYPE_CHECKING:
    from hyco_engine.data.statistics import Statistics
    from hyco_engine.hooks.registry import Registry
    from hyco_engine.physics.parameters import Learnables
    from hyco_engine.spec.choices import ParameterSetting, PhysicalChoice, Split

Player = Literal["physical", "synthetic"]
StepExecution = Literal["eager", "graph", "inductor"]
"""How a physics runs its step: as written, captured as a graph, captured and compiled."""
Values = Tensor | Mapping[str, Tensor]
Batch = tuple[Values, Values]
"""(inputs, targets). Steppers: states `[B, C_all, *S]`, rollouts `[B, T, C_dyn, *S]`. Predictors: tensors by name."""


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
        return cast(
            "PhysicalModel",
            self.registry.build("hyco_models", choice.kind, choice.options, context, expected=PhysicalModel),
        )

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
    """What sensors saw of one simulation, wherever they were: N observations, in any order."""

    frame: Tensor
    """`[N]`, float64: when, in frames since the first frame of the trajectory; between two frames as well."""
    time: Tensor
    """`[N]`, float64: when, since the first frame of the whole simulation."""
    position: Tensor
    """`[N, n_axes]`, float64."""
    value: Tensor
    """`[N, C_dyn]`; NaN where not observed."""
    heldout: Tensor
    """`[N]`, bool: what validates in a split by sensor."""


@attrs.frozen(kw_only=True, eq=False)
class Trajectory:
    """One simulation: `dynamic [T, C_dyn, *S]` and `static [C_static, *S]`, channels as in the source's layout.

    With `points`, frames are NaN but for the first, from which the fields are rolled out to where the sensors are.
    """

    dynamic: Tensor
    static: Tensor
    points: Points | None = None


class TrajectorySource(ABC):
    """Simulations of fields on one grid. The core windows, splits and caches them."""

    layout: StateLayout
    dt: float
    num_simulations: int

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """Known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return {}

    @property
    def split(self) -> Split | None:
        """How the data's makers divided it, which holds where the spec divides nothing; None: they did not."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever what `load` returns would; cheap compared with loading."""

    @abstractmethod
    def load(self, index: int) -> Trajectory:
        """Simulation `index`, as float64 or float32. Raises DataError naming file and key."""

    def points(self, index: int) -> Points | None:
        """What sensors saw of simulation `index`, small enough for memory; None: data on the grid alone."""
        return None

    def frames(self, index: int) -> int | None:
        """Frames of simulation `index`, where known without loading it; None: load it to know."""
        return None

    def glimpse(self) -> Trajectory | None:
        """A simulation to judge the fields' sizes by before a run; None where it is not there to be read quickly."""
        return None

    def origin(self, field: str, index: int) -> str:
        """Where a field of a simulation comes from, for messages: "waves.mat, variable 'usol'". May be empty."""
        return ""


class Samples(ABC):
    """A data set of (input, target) pairs, read in batches."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The samples at `indices` (int64, `[B]`, any order, repeats allowed), in that order."""

    observed_share: float = 1.0
    """The mean over all samples of the share of their targets that was observed."""

    horizon: int | None = None
    """Steps of the rollouts that targets by name belong to; None: there are none."""

    def inputs(self, indices: Tensor) -> Values:
        """The inputs alone, where that is cheaper."""
        return self.batch(indices)[0]

    def __getitem__(self, index: int) -> Batch:
        """One sample, without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        inputs, targets = self.batch(torch.tensor([index % len(self)]))
        return _first(inputs), _first(targets)


def _first(values: Values) -> Values:
    return values[0] if isinstance(values, Tensor) else {name: value[0] for name, value in values.items()}


class SampleSource(ABC):
    """Data that is no trajectory of fields: samples of (inputs by name, targets by name)."""

    @abstractmethod
    def samples(self, split: Literal["train", "val", "test"]) -> Samples:
        """The samples of one split; may be empty for val and test."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the samples would."""


# --- models -------------------------------------------------------------------------------------------------------


class PhysicalModel(nn.Module, ABC):
    """A differentiable simulator of one frame step with learnable parameters.

    `forward(state [B, C_all, *S]) -> [B, C_dyn, *S]` advances the dynamic fields by `dt`.
    """

    layout: StateLayout
    dt: float
    learnables: Learnables
    """The parameters of the physics by name; all that is to be learned is in here."""

    @abstractmethod
    def forward(self, state: Tensor) -> Tensor: ...

    def bound(self) -> Callable[[Tensor], Tensor]:
        """`forward` with the parameters' present values, for several calls: what they are made of is computed once."""
        return self

    def prepare(self, state: Tensor) -> None:
        """Do what is done once for batches of this shape, such as compiling, so that it costs no time later."""

    def prepare_export(self, state: Tensor) -> None:
        """Do what it takes to be a part of a program that `torch.export` makes, for batches of states like these."""

    def stability(self, state: Tensor) -> str | None:
        """A warning that quotes numbers and remedies where steps from these states are not stable, or None."""
        return None

    @property
    def execution(self) -> tuple[StepExecution, str]:
        """(how the step runs; why)."""
        return "eager", "plain torch"

    def keep_execution(self, kind: StepExecution, reason: str) -> None:
        """Before the first step of a resumed run: how the step ran when it began, and why, as `execution` gave it.

        A model that decides this by itself keeps to it.
        """

    def initial_states(self, count: int, generator: torch.Generator) -> Tensor:
        """`[count, C_all, *S]`: states to simulate from, each different. Needed by the source `simulate` only."""
        raise DataError(f"{type(self).__name__} declares no initial states, so it cannot make data")


class Predictor(nn.Module, ABC):
    """A model that maps inputs to named outputs in one go: `forward(inputs) -> {name: Tensor}`."""

    @property
    @abstractmethod
    def terms(self) -> Sequence[TermSpec]:
        """One loss term per output name; its `kind` says how output and target are compared."""

    @abstractmethod
    def forward(self, inputs: Values) -> Mapping[str, Tensor]: ...


class Correction(nn.Module, ABC):
    """A stepper that is a physics and something learned beside it, which has to show on held-out data that it helps."""

    @abstractmethod
    def without(self, physics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with which it is the physics alone, whose state dict is given."""


# --- augmentation -------------------------------------------------------------------------------------------------


class Recipe(ABC):
    """How to make generated samples: indices -> batch. Pure: an index gives the same sample, whatever the batch."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """Bytes of one sample, input and target."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """How many samples to make at a time."""

    @abstractmethod
    def generate(self, indices: Tensor) -> Batch:
        """The samples at `indices` (int64 `[B]`), on the CPU, without gradients."""


class GeneratedSamples(Samples):
    """What a cache backend makes of a recipe. `close` frees all it holds and may be called twice."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held at most, in memory or on disk."""

    def upcoming(self, batches: Sequence[Tensor]) -> None:
        """The indices of the calls of `batch` to come, so that samples can be made ahead."""

    def close(self) -> None:
        """Free memory and files."""


class CacheBackend(ABC):
    """Turns a recipe into a data set."""

    uses_folder: bool = True
    """Whether `hold` wants a folder; where it does not, none is made."""

    @abstractmethod
    def hold(
        self, recipe: Recipe, folder: Path | None, progress: Callable[[int], None] = lambda made: None
    ) -> GeneratedSamples:
        """Make the samples available.

        `folder` is this data set's own, exists, is empty, and is removed by the core afterwards; None where the run has
        no cache folder. `progress(made)` is called with the number of samples made so far.
        """


@attrs.frozen(kw_only=True)
class Phase:
    """One training phase of a cycle. `epochs` None: the player's `epochs_per_cycle`; not `taught`: real data alone."""

    player: Player
    epochs: int | None = None
    taught: bool = True

    @property
    def teacher(self) -> Player:
        return "synthetic" if self.player == "physical" else "physical"


@attrs.frozen(kw_only=True, eq=False)
class Augmentation:
    """What a phase trains on beside the real samples: generated ones (`recipe` None: none), further loss terms.

    Every generated sample counts `weight` times a real one. `expected_ratio` is the ratio generated * weight / real
    that the strategy means to have (alpha, or alpha * tau); the balance check holds it against what was made. `record`
    goes into the results' cooperation table (`e_teacher`, `e_pupil`, `tau`, `accepted`).
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
        """The term for one training batch."""


@attrs.frozen(kw_only=True, eq=False)
class CycleContext:
    """What a strategy decides on."""

    cycle: int
    alpha: float
    real: Samples
    """The train split."""
    errors: Callable[[], Mapping[Player, float]]
    """Measures both models' errors on the same held-out real data (nrmse of full-length rollouts)."""
    rollout_recipe: Callable[..., Recipe]
    """`rollout_recipe(teacher, states, count, lead=None)`: rollouts of the teacher over the training horizon, from
    `states(indices) -> [B, C_all, *S]`, which must be pure; with `lead [count]` (int64) a sample starts where the
    teacher is after so many steps."""
    models: Mapping[Player, nn.Module]
    """Both models; not to be changed."""
    terms: Mapping[Player, Sequence[TermSpec]]
    """Loss terms of each model, as declared."""
    layout: StateLayout | None = None
    """Of the states; None for data that is no field."""
    generator: Callable[..., torch.Generator]
    """`generator("starts")`: derived from (seed, cycle, phase, purpose)."""


@attrs.frozen(kw_only=True, eq=False)
class Arm:
    """One of several strategies tried side by side; `alpha` None: the run's; `strategy` None: no cooperation."""

    name: str
    strategy: Strategy | None
    alpha: float | None = None

    def max_generated(self, n_real: int, alpha: float) -> int:
        """The most samples that a phase may ask for; `alpha` is the run's."""
        if self.strategy is None:
            return 0
        return self.strategy.max_generated(n_real, alpha if self.alpha is None else self.alpha)


class Strategy(ABC):
    """Decides the phases of a cycle and what each trains on. Holds no state: all it decides on is in the context."""

    def arms(self) -> Sequence[Arm]:
        """Strategies to try side by side in place of this one; none: this one decides.

        Each trains models of its own from the same start, cycle by cycle; of each model the one with the smallest error
        on held-out real data is kept. With arms, `phases` and `augment` of this strategy itself are not asked.
        """
        return ()

    def phases(self, cycle: int) -> Sequence[Phase]:
        """The phases of one cycle, in order. The documents' cycle: the surrogate, then the physics."""
        return (Phase(player="synthetic"), Phase(player="physical"))

    def max_generated(self, n_real: int, alpha: float) -> int:
        """The most samples that a phase may ask for; decides how they are held before the first cycle."""
        return int(n_real * alpha)

    def check(self, models: Mapping[Player, nn.Module], *, heldout: bool) -> None:  # noqa: B027 - most take all
        """Raises SpecError where it cannot generate with these models, or without held-out data.

        Asked before anything trains, where `max_generated` is not 0.
        """

    @abstractmethod
    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        """What `phase.teacher` generates for `phase.player`; None: real data alone.

        Asked right before each phase that is `taught`.
        """


# --- losses -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class TermSpec:
    """One loss term. `n_elements` values a sample; `scale` is the loss that counts as 1 (None: not declared)."""

    name: str
    kind: Literal["gaussian", "laplace", "categorical", "bernoulli", "huber", "residual", "other"] = "residual"
    n_elements: int = 1
    unit: str = "1"
    scale: float | None = None
    priority: float = 1.0


@attrs.frozen(kw_only=True, eq=False)
class LossTerm:
    """A term's value for one batch: `per_sample [B]`, weighted by `sample_weight [B]` (None: 1)."""

    spec: TermSpec
    per_sample: Tensor
    sample_weight: Tensor | None = None

    def mean(self) -> Tensor:
        """`sum(w * l) / sum(w)`, and 0 where no sample has a weight: nothing of the term was observed; 0-d."""
        if self.sample_weight is None:
            return self.per_sample.mean()
        total = self.sample_weight.sum()
        return (self.sample_weight * self.per_sample).sum() / torch.where(total == 0, 1.0, total)


@attrs.frozen(kw_only=True, eq=False)
class StepContext:
    """Where in training a loss is normalized. State commits once per optimizer step: at `micro_step == n_micro - 1`."""

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
    """`total` is what is differentiated; `weights[name]` is d total / d L_name, detached; `shares` sum to 1."""

    total: Tensor
    weights: Mapping[str, float | Tensor]
    shares: Mapping[str, float | Tensor] = attrs.Factory(dict)
    regularizer: Tensor | None = None
    log: Mapping[str, float] = attrs.Factory(dict)
    skipped: bool = False


class LossNormalizer(ABC):
    """Makes one scalar of named loss terms. One instance per trained model; state is keyed by term name."""

    unit_invariant: bool = False
    """Whether scaling a term's unit leaves training unchanged."""
    learnable: bool = False
    """Whether it has parameters of its own, which then live in the engine's own optimizer."""
    requires: tuple[str, ...] = ()
    """What it needs beyond the terms: "shared_parameters"."""

    def setup(self, specs: Sequence[TermSpec]) -> None:
        """Called once, before the first step."""
        for spec in specs:
            self.add_term(spec)

    @abstractmethod
    def add_term(self, spec: TermSpec) -> None:
        """A term that appears later."""

    @abstractmethod
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        """The total of the terms of one batch."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the engine's own optimizer of normalizer parameters."""
        return []

    def post_step(self, context: StepContext) -> None:  # noqa: B027 - most have nothing to do
        """After each optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        """All state, as tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError on foreign state."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but was given {', '.join(state)}")


# --- observers ----------------------------------------------------------------------------------------------------


class Tracker:
    """Is told what happens; every method may be left out. A tracker must not change the run."""

    def started(self, info: Mapping[str, Any]) -> None:
        """Before the first phase: `name`, `folder` (Path or None), `spec` (resolved, as TOML text or None).

        Of a run that goes on also `records`: what `metrics` was told up to there, while all it was told after that is
        void and will be told again; and `notes`, which say from where it goes on.
        """

    def phase_started(self, record: Mapping[str, Any]) -> None:
        """`cycle`, `phase` ("train_synthetic", "generate_physical", ...), `total` (epochs or samples)."""

    def progress(self, record: Mapping[str, Any]) -> None:
        """Within a phase, often: `cycle`, `phase`, `done`, `total`."""

    def metrics(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: `cycle`, `phase`, `epoch`, `step` and values such as `train/loss`."""

    def phase_ended(self, record: Mapping[str, Any]) -> None:
        """`cycle`, `phase`, `seconds`."""

    def warned(self, message: str) -> None:
        """Something the user should know."""

    def artifact(self, path: Path) -> None:
        """A file was written that a person or program may want: weights, figures, the summary."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """After the end, whatever the end was: what summary.json holds."""
