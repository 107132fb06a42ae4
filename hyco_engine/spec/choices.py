"""Tables `{kind = ...}`: each picks a kind from the registry and gives the options of its record.

Each class names its hook and adds the keys that belong to the core and fit every kind. When a table is structured, the
class takes the core keys, and the record's option class takes all other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

from hyco_engine.data.fields import Boundary
from hyco_engine.errors import SpecError
from hyco_engine.spec.checks import check_folder_name, check_interval, check_range, overlaps
from hyco_engine.spec.options import option, options


@options
class Profile:
    """A field given by a formula: `offset + scale * prod_axes sin^2(pi * waves * (x - lower) / (upper - lower))`."""

    profile: Literal["sin-squared"] = option("sin-squared", help="the formula")
    offset: float = option(0.0, help="value that is added everywhere")
    scale: float = option(1.0, help="amplitude")
    waves: int = option(1, help="number of humps along each axis", ge=1)


@options
class ArrayFile:
    """A field read from a `.npy` file."""

    file: Path = option(help="a .npy file whose shape is the grid's resolution")


@options
class ParameterSetting:
    """`[physical.parameters.<name>]`: the start and the limits of a parameter of the physics.

    A key that is left out takes its value from the model's declaration.
    """

    init: float | Profile | ArrayFile | None = option(None, help="start value: a number, a profile or a file")
    bounds: tuple[float, float] | None = option(
        None,
        help="open interval in which a smooth transform keeps the value; inf is allowed",
        inf=True,
        check=check_interval,
    )
    learn: bool = option(True, help="false: the value is known and stays fixed")
    field: bool = option(False, help="true: the parameter has a value at each grid point; false: it is one number")
    transform: Literal["auto", "linear", "log"] = option(
        "auto", help="scale on which the optimizer steps; auto takes log if the lower bound is >= 0, else linear"
    )
    smoothness: float = option(
        0.0,
        help="weight of a smoothness prior on a field: it adds the mean of the squared gradient to the loss",
        ge=0.0,
    )

    def __attrs_post_init__(self) -> None:
        if self.smoothness and not (self.field and self.learn):
            raise SpecError(
                "only a learned field can be kept smooth: set field = true and learn = true", key="smoothness"
            )
        if self.init is None or isinstance(self.init, ArrayFile) or self.bounds is None:
            return
        start = self.init
        lower, upper = self.bounds
        reached = (start.offset, start.offset + start.scale) if isinstance(start, Profile) else (start,)
        for number in reached:
            if not lower < number < upper:
                raise SpecError(
                    f"{number:g} is not between the bounds {lower:g} and {upper:g}, which are open; "
                    f"start strictly between them or widen the bounds",
                    key="init",
                )


@options
class Choice:
    """A kind with its options; `options` is an instance of the record's option class."""

    hook: ClassVar[str]
    role: ClassVar[Literal["physical", "synthetic"] | None] = None
    default_kind: ClassVar[str | None] = None
    core_kind: ClassVar[str | None] = None
    """A kind that belongs to the core: it has no record and no options."""

    kind: str
    options: Any = attrs.field(default=None, metadata={"core": False})


@options
class PhysicalChoice(Choice):
    """`[physical]`."""

    hook = "hyco_models"
    role = "physical"

    dt: float | None = option(
        None,
        help="internal time step, which must divide the time between two frames; none: the physics chooses it",
        gt=0.0,
    )
    compile: Literal["auto", "eager", "graph", "inductor"] = option(
        "auto",
        help="execution of the step: eager runs it as written, graph captures it, inductor also compiles it; auto "
        "estimates which one is fastest",
    )
    parameters: Mapping[str, ParameterSetting] = option(attrs.Factory(dict), help="settings of each parameter, by name")


@options
class SyntheticChoice(Choice):
    """`[synthetic]`."""

    hook = "hyco_models"
    role = "synthetic"


@options
class NormalizerChoice(Choice):
    """`[loss] normalizer = {...}`."""

    hook = "hyco_normalizers"
    default_kind = "manual"


@options
class CacheChoice(Choice):
    """`[augmentation.cache]`. The kind `auto` belongs to the core: it picks memory, disk or on-the-fly by size."""

    hook = "hyco_caches"
    default_kind = "auto"
    core_kind = "auto"

    memory_budget_gb: float = option(
        2.0,
        help="budget of auto: samples below half of it go to memory, below it to disk, and larger sets are made on "
        "the fly",
        unit="GB",
        gt=0.0,
        inf=True,
    )
    directory: str | None = option(
        None, help='folder for generated samples; none: a folder in paths.cache; "": no folder, so auto skips disk'
    )


@options
class FieldsScheme:
    """The predicted fields and the fields that are inputs only; their order is the channel order."""

    dynamic: tuple[str, ...] = option((), help="predicted fields; empty: all fields that the source calls dynamic")
    static: tuple[str, ...] = option((), help="fields that are inputs only")

    def __attrs_post_init__(self) -> None:
        names = self.dynamic + self.static
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a field must be listed once, as dynamic or as static: {', '.join(twice)}")


@options
class Split:
    """The simulations (or frames) that train, validate and test. Ranges are `start:stop`, as in Python."""

    by: Literal["simulation", "time", "sensor"] = option(
        "simulation",
        help="simulation: split the set of simulations; time: split each simulation in time; sensor: the source "
        "chooses the points that validate",
    )
    train: str = option("", help='range, such as "0:30"; empty: all that val and test leave', check=check_range)
    val: str = option(
        "", help="range; empty: the last tenth of the simulations (at least one), or of the frames", check=check_range
    )
    test: str = option("", help="range; empty: nothing", check=check_range)
    measure: Literal["auto", "rollout", "continuation"] = option(
        "auto",
        help="start of the rollouts that measure held-out data; rollout: its own first complete frame; continuation: "
        "the first complete training frame before it; auto takes continuation if a split in time has noise or no "
        "complete frame, else rollout",
    )

    def __attrs_post_init__(self) -> None:
        if pairs := overlaps({"train": self.train, "val": self.val, "test": self.test}):
            raise ValueError(f"the ranges of a split must not overlap: {', '.join(pairs)}")
        if self.by == "sensor" and (self.train or self.val or self.test):
            raise SpecError('by = "sensor" takes no ranges: the source says which sensors train', key="by")
        if self.measure == "continuation" and self.by != "time":
            raise SpecError('only a split by = "time" has training frames to continue from', key="measure")


@options
class Noise:
    """`[data.observe.noise]`: Gaussian noise, independent for each value of the dynamic fields."""

    level: float = option(help="standard deviation of the noise", ge=0.0)
    relative: bool = option(
        True,
        help="unit of level; true: the standard deviation of the field in its simulation; false: the field's own unit",
    )
    heldout: bool = option(True, help="false: the frames that validate and test stay free of noise")


@options
class Mask:
    """`[data.observe.mask]`: the observed values. If several keys are set, all of them must hold."""

    every: int | None = option(None, help="k: only the frames 0, k, 2k, ... of each simulation are observed", ge=1)
    frames: tuple[int, ...] = option(
        (), help="only these frames of each simulation are observed; [0, -1]: the first and the last; empty: all"
    )
    region: Mapping[str, tuple[float, float]] = option(
        attrs.Factory(dict), help="only cells whose centre lies in this interval are observed, such as {x = [0.0, 0.5]}"
    )
    points: int | None = option(
        None, help="only so many cells are observed, drawn at random, the same in all frames", ge=1
    )
    scattered: int | None = option(
        None, help="only so many values of each field and simulation are observed, drawn at random", ge=1
    )
    file: Path | None = option(
        None,
        help="a .npy file with an entry for each cell, or for each frame and cell; values whose entry is not 0 are "
        "observed",
    )
    value: float | Literal["nan"] | None = option(
        None, help='value in the data that means "not observed"; none: there is none, and the engine refuses NaN'
    )
    first_frame: bool = option(False, help="true: the first frame of each simulation is complete, except for `value`")
    heldout: bool = option(True, help="false: the frames that validate and test are complete, except for `value`")

    def __attrs_post_init__(self) -> None:
        if self.every is not None and self.frames:
            raise SpecError("every and frames both choose frames; keep only one of them", key="frames")
        for axis, (lower, upper) in self.region.items():
            if not lower < upper:
                raise SpecError(
                    f"the lower end must be below the upper one, not {lower:g} and {upper:g}", key=f"region.{axis}"
                )


@options
class Observe:
    """`[data.observe]`: the observations that are made of the data."""

    noise: Noise | None = option(None, help="noise that the engine adds to the data")
    mask: Mask | None = option(None, help="observation mask; none: all values are observed")


@options
class SourceChoice(Choice):
    """`[data]`."""

    hook = "hyco_sources"

    name: str = option("data", help="name of the data set and of its cache folder", check=check_folder_name)
    fields: FieldsScheme = option(attrs.Factory(FieldsScheme), help="dynamic and static fields")
    num_frames: int | None = option(None, help="number of frames to use of each simulation; none: all", ge=2)
    num_predict_steps: int = option(3, help="horizon: the number of steps that a training rollout predicts", ge=1)
    stride: int = option(1, help="number of frames between the starts of neighbouring windows", ge=1)
    split: Split = option(attrs.Factory(Split), help="data that trains, validates and tests")
    observe: Observe = option(attrs.Factory(Observe), help="noise and observation mask")

    def __attrs_post_init__(self) -> None:
        if self.num_frames is not None and self.num_predict_steps >= self.num_frames:
            raise SpecError(
                f"a window of {self.num_predict_steps} steps needs {self.num_predict_steps + 1} frames, but num_frames "
                f"is {self.num_frames}; predict fewer steps or use more frames",
                key="num_predict_steps",
            )


@options
class StrategyChoice(Choice):
    """`[augmentation]`."""

    hook = "hyco_strategies"
    default_kind = "trust"

    alpha: float = option(
        0.1, help="number of generated samples for each real one; a strategy may use it as a weight", ge=0.0
    )
    cache: CacheChoice = option(
        attrs.Factory(lambda: CacheChoice(kind="auto")), help="cache backend: it holds generated samples"
    )


@options
class ArmChoice(Choice):
    """A candidate: a strategy within a strategy that compares several."""

    hook = "hyco_strategies"

    alpha: float | None = option(None, help="alpha of this strategy; none: that of [augmentation]", ge=0.0)


@options
class TrackerChoice(Choice):
    """A table of `[trackers]`; the name of the table is the kind."""

    hook = "hyco_trackers"


@attrs.frozen
class BoundarySetting:
    """A boundary condition as it is written in a spec; `value` is what `Boundary.parse` reads."""

    value: Any

    @classmethod
    def from_data(cls, data: Any) -> BoundarySetting:
        """Read one rule for all sides, or a table by axis and side. Raises ValueError."""
        if isinstance(data, BoundarySetting):
            return data
        axes = tuple(data) if isinstance(data, Mapping) and set(data) != {"normal", "tangential"} else ("x",)
        if not axes or not set(axes) <= set("xyz"):
            raise ValueError(f"a boundary by axis must name x, y or z, not {', '.join(axes) or 'nothing'}")
        Boundary.parse(data, axes)
        return cls(data)

    def to_data(self) -> Any:
        """Return the form that `from_data` reads."""
        return self.value
