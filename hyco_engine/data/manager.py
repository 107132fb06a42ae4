"""From a source to what training and evaluation read: cached tensors, windows, held-out rollouts, statistics."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.data.carrying import groups_of
from hyco_engine.data.checks import check_shapes, check_values, warn_of_likely_gaps
from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Trajectory, TrajectorySource
from hyco_engine.data.fields import TIME, StateLayout
from hyco_engine.data.heldout import HeldOutStretches, Measure, heldout_trajectories
from hyco_engine.data.keeping import Shelf, shelf
from hyco_engine.data.masks import sample_mask
from hyco_engine.data.noise import estimate_noise, is_noisy
from hyco_engine.data.observation import Observer, observed_share, to_start_from
from hyco_engine.data.points import PointWindows, cut_points, points_of, warn_of_shared_places
from hyco_engine.data.precision import DTYPES, Precision, choose_precision
from hyco_engine.data.scheme import Selection
from hyco_engine.data.settings import Mask, SourceChoice, Split
from hyco_engine.data.splits import NAMES, Segment, SplitName, check_lengths, resolve_split, split_of_labels
from hyco_engine.data.statistics import Statistics, field_sizes, some_states
from hyco_engine.data.store import Entry
from hyco_engine.data.windows import WindowDataset, count_windows
from hyco_engine.errors import DataError
from hyco_engine.ranks.runtime import Runtime, Single
from hyco_engine.untrusted import refuse_large

log = logging.getLogger("hyco_engine")

_LOADED, _TRAINED = 12, 16
"""The bytes of memory for each value of a simulation while it is loaded, and for each value of a window in training."""
_MOST_FRAMES = 0.9
"""The longest windows use at least this share of the training frames."""


class DataManager:
    """The simulations of a source: each is loaded and checked once, and then read from the cache.

    `cache` is the cache root (`paths.cache`). Below it, `tensors/<data.name>/sim_000000-<digest>.safetensors` keeps a
    simulation with the fields that `[data.fields]` chooses. The digest covers data, fields, dtype and number of frames,
    so that several specs may share a name. The file is memory-mapped, so the data may be larger than memory; only a
    single simulation must fit into memory while it is loaded. A damaged entry is noticed and rebuilt. If `cache` is
    None, everything is held in memory; without `writes`, so is what the cache does not hold, and the cache stays as it
    is. Several runs may share a cache: one builds an entry, the others wait. The ranks of a `runtime` load simulations
    in turn and read what the others stored, so all of them load at the same time.

    `[data.observe]` changes what was loaded; the result is a second entry, `observed_000000-<digest>.safetensors`.
    `seed` seeds the random numbers of noise and masks. `spare` allows that short series leave nothing to validate on.

    Mistakes raise DataError before any model trains: an unknown field at once; a split that does not fit, or a window
    that is longer than the data, as soon as the numbers of frames are known; a value that is not finite in `prepare`.
    """

    def __init__(
        self,
        source: TrajectorySource,
        choice: SourceChoice,
        cache: Path | None,
        *,
        writes: bool = True,
        runtime: Runtime | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        spare: bool = False,
    ) -> None:
        if source.num_simulations < 1:
            raise DataError("the data holds no simulation", key="data")
        self.source = source
        self.choice = choice = _with_marks(choice, source)
        self._asked = next((name for name, known in DTYPES.items() if known == dtype), None)
        self._precision: Precision | None = None
        self._first: Trajectory | None = None
        self.dt: float = source.dt
        self.num_simulations: int = source.num_simulations
        self._selection = Selection.of(source.layout, choice.fields)
        self.layout: StateLayout = self._selection.layout
        self._guessed = int(source.guesses_start)
        self._observer = Observer(observe=choice.observe, layout=self.layout, seed=seed, guessed=self._guessed)
        self._cache, self._writes, self._runtime = cache, writes, runtime or Single()
        self._spare = spare
        self._loaded: tuple[Trajectory, ...] | None = None
        self._windows: dict[tuple[int, int], WindowDataset | PointWindows] = {}
        self._begun: Mapping[Literal["val", "test"], HeldOutStretches] | None = None
        known = [source.frames(i) for i in range(source.num_simulations)]
        frames = self._known_frames = [
            _frames_used(count, i, choice) for i, count in enumerate(known) if count is not None
        ]
        # with known numbers of frames, mistakes in the split are reported before the source simulates anything
        self._planned = self._segment(frames) if len(frames) == len(known) else None

    @property
    def planned_windows(self) -> int | None:
        """The number of training windows, if it is known before the data is loaded, else None."""
        return self.count_windows(self.choice.num_predict_steps, self.choice.stride)

    def count_windows(self, horizon: int, stride: int) -> int | None:
        """Return the number of such windows of the train split, if it is known before the data is loaded, else None."""
        mask = self.choice.observe.mask
        if self._planned is None or self._has_points or (mask is not None and mask.value is not None):
            return None
        if mask is None:
            return sum(count_windows(len(part), horizon, stride) for part in self._planned["train"])
        seen = {part.simulation for part in self._planned["train"]}
        masks = {i: self._observer.visible(self._known_frames[i], i) for i in seen}
        parts = [
            attrs.evolve(masks[part.simulation], dynamic=masks[part.simulation].dynamic[part.start : part.stop])
            for part in self._planned["train"]
        ]
        own = sample_mask(self.layout)[: self.layout.n_dynamic]
        return len(WindowDataset(parts, horizon=horizon, stride=stride, samples=own))

    @property
    def precision(self) -> Precision:
        """The precision of all tensors; unless it was given, the first simulation decides.

        Before the data is loaded, it is that of a simulation that can be read quickly, if there is one.
        """
        return self._precision or choose_precision(self._glimpse(), self.layout, self._asked)

    @property
    def dtype(self) -> torch.dtype:
        """The type of all tensors."""
        return DTYPES[self.precision.name]

    def _glimpse(self) -> Trajectory | None:
        """Return the chosen fields of a simulation that can be read quickly, if there is one."""
        seen = self.source.glimpse()
        return None if seen is None else self._chosen(seen, 0)

    def prepare(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Load all simulations, from the cache if possible, and call `progress(done, total)` after each one.

        It loads once; if nobody calls it, the first use of the data does.
        """
        if self._loaded is None:
            self._loaded = self._load(progress)
            self._log_sizes()

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """All simulations as they are observed, with the chosen fields."""
        self.prepare()
        assert self._loaded is not None  # because prepare() has set it
        return self._loaded

    @property
    def validates(self) -> bool:
        """True if there is validation data, which only series without a frame to spare may lack."""
        planned = self._planned or (self._segments if self._loaded else None)
        return planned is None or bool(planned["val"])

    def simulations_by_split(self) -> dict[SplitName, list[int]]:
        """Return the simulations of each split; if the split is not by simulation, all of them train."""
        if self.choice.split.by in ("time", "sensor"):
            return {"train": list(range(self.num_simulations)), "val": [], "test": []}
        planned = self._planned or self._segments
        return {name: [part.simulation for part in planned[name]] for name in NAMES}

    def scalars(self, split: SplitName | None = None) -> dict[str, Tensor]:
        """Return the known numbers of the simulations of a split (None: of all) by name, `[simulations]` in float64.

        In a split by time, a simulation has an entry for each of its stretches, in the order of `heldout`.
        """
        total = self.num_simulations
        chosen = range(total) if split is None else [part.simulation for part in self._segments[split]]
        found = [self.source.scalars(index) for index in chosen]
        names = found[0] if found else ()
        return {name: torch.tensor([own[name] for own in found], dtype=torch.float64) for name in names}

    def times(self) -> dict[str, Tensor]:
        """Return the first and the last time of the frames that are known before the data is loaded, as `scalars`."""
        if not self.layout.has_time or len(self._known_frames) < self.num_simulations:
            return {}
        starts = [self.source.start(index) for index in range(self.num_simulations)]
        ends = [start + self.dt * (frames - 1) for start, frames in zip(starts, self._known_frames, strict=True)]
        return {TIME: torch.tensor([min(starts), max(ends)], dtype=torch.float64)}

    def groups(self, index: str) -> list[str]:
        """Return the name of the group of each simulation for an index of the layout."""
        return groups_of(self.source, index)

    def clean(self, index: int) -> Trajectory:
        """Return simulation `index` without noise or mask: all fields of the source, the frames that the spec takes."""
        loaded = self._known(index, self.source.load(index))
        return attrs.evolve(loaded, dynamic=loaded.dynamic[: _frames_used(len(loaded.dynamic), index, self.choice)])

    def _known(self, index: int, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with all that is known of the whole simulation."""
        return attrs.evolve(
            trajectory, scalars=self.source.scalars(index), labels=self.source.labels(index), simulation=index
        )

    @cached_property
    def _has_points(self) -> bool:
        """True if sensors observed the simulations at points, instead of frames on the grid."""
        return self.source.points(0) is not None

    @cached_property
    def _segments(self) -> dict[SplitName, tuple[Segment, ...]]:
        return self._segment([len(t.dynamic) for t in self.trajectories])

    def _segment(self, frames: list[int]) -> dict[SplitName, tuple[Segment, ...]]:
        source, horizon = self.source, self.choice.num_predict_steps
        known: list[dict[str, float | str]] = [
            {**source.labels(index), **source.scalars(index)} for index in range(self.num_simulations)
        ]
        own = (source.split or split_of_labels(known)) if self.choice.split == Split() else None
        split = own or self.choice.split
        segments = resolve_split(split, frames, known, horizon=horizon, spare=self._spare)
        check_lengths(segments, horizon, split)
        return segments

    @property
    def truth(self) -> Mapping[str, Tensor]:
        """The known true values of the physics' parameters: 0-d, or `[*S]` for a field."""
        return self.source.truth

    @property
    def train(self) -> WindowDataset | PointWindows:
        """The windows of the train split, as `[data]` cuts them."""
        return self.windows(self.choice.num_predict_steps, self.choice.stride)

    def windows(self, horizon: int, stride: int) -> WindowDataset | PointWindows:
        """Return the windows of the train split that start from a complete state and have an observed target.

        Raises DataError if a mask leaves no window.
        """
        if (horizon, stride) not in self._windows:
            # ranks meet while they load, and Python 3.11 locks a cached property for the threads of all ranks
            self.prepare()
            self._windows[horizon, stride] = self._cut_windows(horizon, stride)
        return self._windows[horizon, stride]

    def longest_windows(self) -> tuple[int, int] | None:
        """Return (horizon, stride) of the longest windows that share no frame and leave out few training frames.

        None if a window may begin at few frames only, or if nothing is known about their number yet.
        """
        if self.choice.observe.mask is not None or self._has_points:
            return None
        planned = self._planned if self._loaded is None else self._segments
        if planned is None:
            return None
        lengths = [len(part) for part in planned["train"]]
        for length in sorted(set(lengths), reverse=True):
            used = sum(own // length * length for own in lengths)
            if length > 1 and used >= _MOST_FRAMES * sum(lengths):
                return length - 1, length
        return None

    @cached_property
    def noise(self) -> Mapping[str, float]:
        """The standard deviation of each dynamic field's noise in the train split, in the field's own ones."""
        own = {} if self._has_points else self._relative_noise(self._cut("train"), self.layout)
        added = self._declared_noise(field_sizes(self.layout, self.statistics))
        return {name: max(own.get(name, 0.0), level) for name, level in added.items()}

    @property
    def heldout_noise(self) -> Mapping[str, float]:
        """The standard deviation of each dynamic field's noise in held-out data, in its own unit; {} without any."""
        declared = self.choice.observe.noise
        if declared is not None and not declared.heldout:
            return {}
        spreads = field_sizes(self.layout, self.statistics)
        return {name: level * spreads[name] for name, level in self.noise.items()} if is_noisy(self.noise) else {}

    def glimpsed_noise(self) -> Mapping[str, float]:
        """Return what `noise` is expected to be, without loading all data.

        It is the noise of a simulation that can be read quickly, if there is one, and what `[data.observe]` adds.
        """
        seen = self.source.glimpse()
        own = {} if seen is None else self._relative_noise([seen], self.source.layout)
        spreads = (
            {} if seen is None else field_sizes(self.source.layout, self._statistics_of([seen], self.source.layout))
        )
        added = self._declared_noise(spreads)
        return {name: math.hypot(own.get(name, 0.0), level) for name, level in added.items()}

    def glimpsed_states(self) -> Tensor | None:
        """Return states `[n, C_all]` of a simulation that can be read quickly; None where there is none, or space."""
        seen = None if self.layout.n_axes else self._glimpse()
        return None if seen is None else some_states([seen], self.layout)

    def _declared_noise(self, spreads: Mapping[str, float]) -> dict[str, float]:
        """Return the noise that `[data.observe]` adds; 0 for one in the unit of a field whose spread is not known."""
        noise, names = self.choice.observe.noise, [field.name for field in self.layout.dynamic]
        if noise is None or noise.relative:
            return dict.fromkeys(names, 0.0 if noise is None else noise.level)
        return {name: noise.level / spreads.get(name, math.inf) for name in names}

    def _relative_noise(self, trajectories: Sequence[Trajectory], layout: StateLayout) -> dict[str, float]:
        spreads = field_sizes(layout, self._statistics_of(trajectories, layout))
        observed = [attrs.evolve(own, dynamic=own.dynamic[self._guessed :]) for own in trajectories]
        return {name: level / spreads[name] for name, level in estimate_noise(observed, layout).items()}

    def _statistics_of(self, trajectories: Sequence[Trajectory], layout: StateLayout) -> Statistics:
        return Statistics.of(trajectories, layout, self._guessed)

    def _cut_windows(self, horizon: int, stride: int) -> WindowDataset | PointWindows:
        if self._has_points:
            return self._point_windows(horizon, stride)
        mask = self.choice.observe.mask
        windows = WindowDataset(
            self._cut("train"),
            horizon=horizon,
            stride=stride,
            complete=mask is None,
            samples=sample_mask(self.layout)[: self.layout.n_dynamic],
            advances=self.layout.advances,
        )
        if mask is not None and not len(windows):
            raise DataError(
                f"the mask leaves nothing to train on: of {windows.skipped} windows of "
                f"{horizon} steps, {windows.without_start} start from a state that is not "
                f"observed completely, and {windows.skipped - windows.without_start} have no observed target; "
                f"{self._remedy(windows)}",
                key="data.observe.mask",
            )
        if windows.unreached:
            log.warning(
                "%d observed training frames lie in no window of num_predict_steps = %d, so training does not use "
                "them; set a larger num_predict_steps",
                windows.unreached,
                horizon,
            )
        return windows

    def _remedy(self, windows: WindowDataset) -> str:
        """Say what the user can do if no window is left."""
        if windows.without_start < windows.skipped:
            return "set num_predict_steps so large that a window contains the next observed frame"
        simulation = self._segments["train"][0].simulation
        return to_start_from(
            self.choice.observe.mask,
            self.trajectories[simulation].dynamic,
            simulation,
            "set observe.mask.first_frame = true, or hide less",
        )

    def _point_windows(self, steps: int, stride: int) -> PointWindows:
        windows = PointWindows(self._cut("train"), horizon=steps, stride=stride, advances=self.layout.advances)
        if not len(windows):
            raise DataError(
                f"no sensor observed anything within num_predict_steps = {steps} frames after a complete training "
                f"frame; set a larger num_predict_steps",
                key="data.num_predict_steps",
            )
        if windows.unreached:
            log.warning(
                "%d observations lie in no window of num_predict_steps = %d, so training does not use them; "
                "set a larger num_predict_steps",
                windows.unreached,
                steps,
            )
        return windows

    @cached_property
    def measure(self) -> dict[Literal["val", "test"], Measure]:
        """The measure of each held-out split; see `hyco_engine.data.heldout`."""
        return {split: stretches.measure for split, stretches in self._heldout.items()}

    def heldout(self, split: Literal["val", "test"]) -> tuple[Trajectory, ...]:
        """Return the trajectories that models are rolled out against, each from its first frame; test may have none."""
        return self._heldout[split].trajectories

    def last_known(self, split: Literal["val", "test"]) -> tuple[Tensor, ...]:
        """Return the last complete frame `[C_dyn, *S]` before each of the trajectories of `heldout`."""
        return self._heldout[split].last_known

    def begin_from_observed(self) -> None:
        """Begin continuations from observed frames, as they do at first."""
        self._begun = None

    def windows_before_heldout(self, horizon: int, stride: int) -> dict[int, tuple[int, int]]:
        """Return the training windows that end last before what continuations measure, in order.

        They are the indices of windows, with the simulation and the frame at which each ends.
        """
        windows = self.windows(horizon, stride)
        ends = defaultdict[int, dict[int, int]](dict)
        for index in range(len(windows)):
            # samples of fields on a grid
            assert isinstance(windows, WindowDataset)
            position, start = windows.window(index)
            part = self._segments["train"][position]
            ends[part.simulation][part.start + start + horizon] = index
        found = {}
        for own in self._observed_heldout.values():
            for simulation, frames in own.passed():
                if inside := [end for end in ends[simulation] if end in frames]:
                    found[ends[simulation][max(inside)]] = simulation, max(inside)
        return dict(sorted(found.items()))

    def begin_from(self, analyses: Tensor, windows: Mapping[int, tuple[int, int]]) -> None:
        """Begin continuations from states `[n, C_dyn, *S]` that are known at the ends of `windows_before_heldout`.

        Raises DataError if the states do not fit the windows.
        """
        wanted = (len(windows), self.layout.n_dynamic, *self.layout.spatial)
        if analyses.shape != wanted or not analyses.is_floating_point():
            raise DataError(
                f"the states from which held-out rollouts begin have the shape {list(analyses.shape)}, and the "
                f"windows of this data need {list(wanted)}: they belong to other data",
                key="data",
            )
        known = defaultdict[int, list[tuple[int, Tensor]]](list)
        for (simulation, end), state in zip(windows.values(), analyses, strict=True):
            known[simulation].append((end, state))
        advances = self.layout.advances
        self._begun = {split: own.begin_from(known, advances) for split, own in self._observed_heldout.items()}

    @property
    def _heldout(self) -> Mapping[Literal["val", "test"], HeldOutStretches]:
        return self._observed_heldout if self._begun is None else self._begun

    @cached_property
    def _observed_heldout(self) -> dict[Literal["val", "test"], HeldOutStretches]:
        splits: tuple[Literal["val", "test"], ...] = ("val", "test")
        advances, noisy = self.layout.advances, any(self.heldout_noise.values())
        return {
            split: heldout_trajectories(
                self.trajectories, self._segments, split, self.choice, advances=advances, noisy=noisy
            )
            for split in splits
        }

    def _cut(self, split: SplitName) -> tuple[Trajectory, ...]:
        return tuple(
            attrs.evolve(
                t,
                dynamic=t.dynamic[part.start : part.stop],
                static=later(t.static, self.layout.advances, part.start, self.layout.n_axes),
                points=points_of(t.points, split, self.choice.split.by, part.start, part.stop - 1),
            )
            for part in self._segments[split]
            for t in [self.trajectories[part.simulation]]
        )

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the train split alone. Raises DataError if a value is too large for them."""
        statistics = self._statistics_of(self._cut("train"), self.layout)
        for field in self.layout.fields:
            own = self.layout.channels(field.name)
            scale = torch.cat([statistics.mean[own], statistics.std[own], statistics.change_std[own]])
            if not bool((scale.isfinite() & (scale.abs() < torch.finfo(self.dtype).max)).all()):
                raise DataError(
                    f"the mean or spread of the field {field.name!r} is {float(scale.abs().max()):g}, too large for "
                    f"{str(self.dtype).removeprefix('torch.')}; give the data in other units, or set run.precision",
                    key="data",
                )
        return statistics

    def summary(self) -> dict[str, Any]:
        """Return sizes: `simulations`, `frames` by split, `n_windows`, `skipped_windows`, `bytes`, and more.

        `observed` is the share of the dynamic fields' values that is observed, and `points` the number of values that
        sensors observed, by split.
        """
        return {
            "simulations": self.num_simulations,
            "dt": self.dt,
            "fields": [field.name for field in self.layout.fields],
            "resolution": list(self.layout.grid.resolution),
            "frames": {name: sum(map(len, self._segments[name])) for name in NAMES},
            "observed": {name: self._observed(name) for name in NAMES},
            "points": {name: self._n_points(name) for name in NAMES},
            "measure": dict(self.measure),
            "rollouts": {name: len(self._segments[name]) for name in ("val", "test")},
            "n_windows": len(self.train),
            "skipped_windows": self.train.skipped,
            "sample_bytes": self.train.sample_bytes,
            "bytes": sum(t.dynamic.nbytes + t.static.nbytes for t in self.trajectories),
        }

    def _observed(self, split: SplitName) -> float:
        if self.choice.observe.mask is None or self._has_points:
            return 1.0
        counts = [observed_share(t.dynamic, self.layout) for t in self._cut(split)]
        return sum(seen for seen, _ in counts) / max(1, sum(total for _, total in counts))

    def _n_points(self, split: SplitName) -> int:
        return sum(0 if t.points is None else int((~t.points.value.isnan()).sum()) for t in self._cut(split))

    def _log_sizes(self) -> None:
        numbers = self.summary()
        shown = ", ".join(f"{name} {count}" for name, count in numbers["frames"].items())
        sizes = (numbers["simulations"], shown, numbers["n_windows"], numbers["bytes"] / 1e6)
        log.info("data: %d simulation(s), frames: %s, %d training windows, %.3g MB", *sizes)
        if not self.validates:
            log.warning("the series are too short to hold out a frame: all train, and nothing validates")

    # --- loading ---

    def _load(self, progress: Callable[[int, int], None]) -> tuple[Trajectory, ...]:
        total = self.num_simulations
        with shelf(self._cache, self.choice.name, writes=self._writes, runtime=self._runtime) as kept:
            fingerprint = self.source.fingerprint()
            self._precision = self._choose_precision(kept, fingerprint)
            entries = [self._entry(index, fingerprint) for index in range(total)]
            together = groupby(entries, lambda entry: self.source.together(entry.index))
            found = kept.all(
                "sim",
                [list(group) for _, group in together],
                lambda entry: self._build(entry.index),
                lambda done: progress(done, total),
            )
            if self._observer.acts and not self._has_points:
                found = self._observe_all(kept, entries, found)
        if self._has_points:
            segments = self._segment([len(trajectory.dynamic) for trajectory in found])
            found = [self._with_points(index, trajectory, segments) for index, trajectory in enumerate(found)]
            if self.choice.split.by == "sensor":
                warn_of_shared_places([trajectory.points for trajectory in found if trajectory.points is not None])
        return tuple(self._known(index, trajectory) for index, trajectory in enumerate(found))

    def _with_points(
        self, index: int, trajectory: Trajectory, segments: Mapping[SplitName, Sequence[Segment]]
    ) -> Trajectory:
        """Add to a trajectory what sensors observed of its chosen fields."""
        points = self.source.points(index)
        if points is None:
            return trajectory
        if index == 0 and (self.choice.observe.mask is None or self.choice.observe.mask.value is None):
            for name in (field.name for field in self.source.layout.dynamic):
                warn_of_likely_gaps(points.value[:, self.source.layout.channels(name)], f"the field {name!r}")
        chosen = attrs.evolve(points, value=self._selection.of_points(points.value).to(self.dtype))
        chosen = cut_points(chosen, 0, len(trajectory.dynamic) - 1)
        out = chosen.heldout
        if self.choice.split.by != "sensor":
            out = torch.zeros_like(out)
            for part in _held_out(segments, index):
                out |= (chosen.frame >= part.start) & (chosen.frame <= part.stop - 1)
        return attrs.evolve(trajectory, points=self._observer.points(chosen, index, out))

    def _choose_precision(self, kept: Shelf, fingerprint: str) -> Precision:
        """Return the precision that rank 0 chooses for all, which alone loads a simulation if it must."""
        runtime, told = self._runtime, b""
        if runtime.rank == 0:
            chosen = choose_precision(self._look(kept, fingerprint), self.layout, self._asked)
            if runtime.size == 1:
                return chosen
            told = json.dumps([chosen.name, chosen.reason, chosen.warnings]).encode()
        name, reason, warnings = json.loads(runtime.broadcast(told))
        return Precision(name=name, reason=reason, warnings=tuple(warnings))

    def _look(self, shelf: Shelf, fingerprint: str) -> Trajectory | None:
        """Return the chosen fields of the first simulation, from which the precision is chosen."""
        if (seen := self._glimpse()) is not None:
            return seen
        for dtype in (torch.float64, torch.float32):
            kept = shelf.held("sim", self._entry(0, fingerprint, dtype))
            # what was rounded for an earlier run cannot say how many digits the source gives
            rounded = dtype == torch.float32
            if kept is not None and not (rounded and choose_precision(kept, self.layout, "float32").warnings):
                break
        else:
            # a source may take long to give a simulation, so it is not asked twice
            self._first = self._load_source(0)
            check_shapes(self._first, self.source.layout, 0, self.choice.kind)
            kept = self._chosen(self._first, 0)
        points = self.source.points(0)
        if points is None:
            return kept
        return attrs.evolve(kept, points=attrs.evolve(points, value=self._selection.of_points(points.value)))

    def _load_source(self, index: int) -> Trajectory:
        """Load a simulation, unless what its source declares cannot fit into memory, which is said before reading."""
        declared = self.source.frames(index)
        if declared is not None:
            layout = self.source.layout
            cells = layout.n_all * math.prod(layout.spatial)
            window = min(declared, self.choice.num_predict_steps + 1)
            whole = self.source.read_whole(index)
            try:
                refuse_large(whole + (_LOADED * declared + _TRAINED * window) * cells)
            except ValueError as error:
                shape = " x ".join(map(str, (layout.n_all, *layout.spatial)))
                file = (
                    f"; {whole / 1e9:.3g} GB are for its file, which is read as a whole, as .npy and .h5 files are not"
                )
                raise DataError(
                    f"simulation {index} of the data has {declared} frames of {shape} values, and to load it and train "
                    f"on one of its windows {error}. Take fewer frames (num_frames), fewer fields or a coarser grid"
                    f"{file if whole else ''}",
                    key="data",
                ) from None
        return self.source.load(index)

    def _chosen(self, loaded: Trajectory, index: int) -> Trajectory:
        frames = _frames_used(len(loaded.dynamic), index, self.choice)
        return self._selection.apply(attrs.evolve(loaded, dynamic=loaded.dynamic[:frames]), index)

    def _entry(self, index: int, fingerprint: str, dtype: torch.dtype | None = None) -> Entry:
        return Entry(
            layout=self.layout,
            dt=self.dt,
            dtype=dtype or self.dtype,
            fingerprint=fingerprint,
            index=index,
            num_frames=self.choice.num_frames,
        )

    def _build(self, index: int) -> Trajectory:
        """Load and check a simulation; return its chosen fields, `[T, C_dyn, *S]` and `[C_static, *S]`, zero padded."""
        loaded = self._first if index == 0 and self._first is not None else self._load_source(index)
        self._first = None
        check_shapes(loaded, self.source.layout, index, self.choice.kind)
        frames = _frames_used(len(loaded.dynamic), index, self.choice)
        loaded = attrs.evolve(loaded, dynamic=loaded.dynamic[:frames])
        mask = self.choice.observe.mask
        missing = self._has_points or (mask is not None and mask.value == "nan")
        check_values(loaded, self.source, index, allow_missing=missing)
        if index == 0 and (mask is None or mask.value is None):
            for name in (field.name for field in self.source.layout.dynamic):
                where = f"the field {name!r} of simulation 0"
                warn_of_likely_gaps(loaded.dynamic[:, self.source.layout.channels(name)], where)
        chosen = self._selection.apply(loaded, index)
        own, fixed = sample_mask(self.layout).tensor_split([self.layout.n_dynamic])
        dynamic, static = (
            torch.where(mask, values.detach().to("cpu", self.dtype), 0.0).contiguous()
            for mask, values in ((own, chosen.dynamic), (fixed, chosen.static))
        )
        if bool(dynamic.isinf().any()) or bool(static.isinf().any()):
            precision = str(self.dtype).removeprefix("torch.")
            raise DataError(
                f"simulation {index} holds values too large for {precision}; give the data in other units, "
                f"or set run.precision",
                key="data",
            )
        return Trajectory(dynamic=dynamic, static=static)

    def _observe_all(self, kept: Shelf, entries: Sequence[Entry], found: Sequence[Trajectory]) -> list[Trajectory]:
        """Return the simulations as they are observed, which depends on what is held out."""
        segments = self._segment([len(trajectory.dynamic) for trajectory in found])
        observed = []
        for entry in entries:
            described = f"{entry.fingerprint} {self._observer.fingerprint(_held_out(segments, entry.index))}"
            own = attrs.evolve(entry, fingerprint=hashlib.sha256(described.encode()).hexdigest())
            observed.append([own])

        def observe(entry: Entry) -> Trajectory:
            return self._observer(found[entry.index], entry.index, _held_out(segments, entry.index))

        return kept.all("observed", observed, observe)


def _with_marks(choice: SourceChoice, source: TrajectorySource) -> SourceChoice:
    """Return the choice, with the mask that data have which mark what was not observed."""
    mask = choice.observe.mask or Mask()
    if not source.marks_missing or mask.value is not None:
        return choice
    marked = attrs.evolve(cast("Any", mask), value="nan")
    observe = attrs.evolve(cast("Any", choice.observe), mask=marked)
    return cast("SourceChoice", attrs.evolve(cast("Any", choice), observe=observe))


def _held_out(segments: Mapping[SplitName, Sequence[Segment]], index: int) -> list[Segment]:
    """Return the segments of simulation `index` that validate or test."""
    return [part for name in ("val", "test") for part in segments[name] if part.simulation == index]


def _frames_used(frames: int, index: int, choice: SourceChoice) -> int:
    """Return how many frames of a simulation the spec takes. Raises DataError if it has fewer."""
    if choice.num_frames is None:
        return frames
    if frames < choice.num_frames:
        raise DataError(
            f"simulation {index} has {frames} frames, but the spec asks for {choice.num_frames}; lower num_frames",
            key="data.num_frames",
        )
    return choice.num_frames
