"""The held-out trajectories that models are rolled out against, and the frame that each rollout starts from.

There are two measures:

* `rollout` runs from the first complete frame of a held-out stretch to its end.
* `continuation` runs from the first complete training frame of the same simulation, through the training frames, which
  do not count, into the held-out stretch. It exists only in a split by time.

A rollout that starts from a noisy frame inherits the noise of its start, so its error can rank models in the wrong
order (errors in variables). `auto` therefore takes the continuation if a split by time has noise in its held-out
frames, or if a held-out stretch has no complete frame to start from, or a single frame; otherwise it takes the rollout.

A physics that learns its start states knows the last training frame better than its noisy observation: a continuation
may begin from such an analysis, as forecasts of the weather do.

"Nothing changes" holds the last complete frame before what it predicts. In a continuation, that is a training frame
long after the start of the models: their own start would be a floor that every model beats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from hyco_engine.data.clock import later
from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.observation import complete_frames, to_start_from
from hyco_engine.data.points import points_of
from hyco_engine.data.settings import SourceChoice
from hyco_engine.data.splits import Segment, SplitName
from hyco_engine.errors import DataError

Measure = Literal["rollout", "continuation"]


@attrs.frozen(kw_only=True, eq=False)
class HeldOutStretches:
    """The `trajectories` of a split for rollouts from their first frames, and the last known state before each.

    `first` are the frames of the simulations at which these begin. `last_known` are dynamic fields `[C_dyn, *S]`, and
    `known_at` their frames.
    """

    measure: Measure
    trajectories: tuple[Trajectory, ...]
    first: tuple[int, ...]
    last_known: tuple[Tensor, ...]
    known_at: tuple[int, ...]

    def passed(self) -> list[tuple[int, range]]:
        """Return for each stretch its simulation, and the frames after the first that a continuation passes through.

        A simulation is -1 where the trajectory has none; a rollout passes through no frames.
        """
        found: list[tuple[int, range]] = []
        if self.measure == "rollout":
            return found
        for trajectory, first in zip(self.trajectories, self.first, strict=True):
            hidden = int(trajectory.dynamic[1:].isnan().flatten(1).all(1).int().cumprod(0).sum())
            simulation = -1 if trajectory.simulation is None else trajectory.simulation
            found.append((simulation, range(first + 1, first + 1 + hidden)))
        return found

    def begin_from(
        self, analyses: Mapping[int, Sequence[tuple[int, Tensor]]], advances: Sequence[float] = ()
    ) -> HeldOutStretches:
        """Return the stretches with continuations that begin later, from states which are known there.

        `analyses` are frames of each simulation with their states `[C_dyn, *S]`; the last one before a stretch counts.
        """
        if self.measure != "continuation":
            return self
        found, first, known = [], list(self.first), list(self.last_known)
        for index, (trajectory, (simulation, frames_passed)) in enumerate(
            zip(self.trajectories, self.passed(), strict=True)
        ):
            usable = [one for one in analyses.get(simulation, ()) if one[0] in frames_passed]
            if usable:
                frame, state = max(usable, key=lambda one: one[0])
                frames = frame - first[index]
                dynamic = torch.cat([state[None].to(trajectory.dynamic), trajectory.dynamic[frames + 1 :]])
                static = later(trajectory.static, advances, frames, trajectory.static.dim() - 1)
                trajectory = attrs.evolve(trajectory, dynamic=dynamic, static=static)
                first[index] += frames
                # persistence holds the last frame that is known at all
                known[index] = dynamic[0] if first[index] >= self.known_at[index] else known[index]
            found.append(trajectory)
        return attrs.evolve(self, trajectories=tuple(found), first=tuple(first), last_known=tuple(known))


def heldout_trajectories(
    trajectories: Sequence[Trajectory],
    segments: Mapping[SplitName, Sequence[Segment]],
    split: Literal["val", "test"],
    choice: SourceChoice,
    advances: Sequence[float] = (),
    *,
    noisy: bool = False,
) -> HeldOutStretches:
    """Return for each stretch of the split a complete first frame with the frames that follow it.

    Values are NaN where nothing was observed, and on training frames that a continuation passes through. Raises
    DataError if a stretch has no frame to start from, or no observation to compare with. `advances` are those of the
    layout, and `noisy` says that held-out frames have noise.
    """
    masked = choice.observe.mask is not None or any(t.points is not None for t in trajectories)
    parts = segments[split]
    starts = [_first(trajectories[part.simulation], part) if masked else part.start for part in parts]
    measure = _measure(choice, starts, min(map(len, parts), default=2), noisy)
    found, first, known, known_at = [], [], [], []
    for part, own in zip(parts, starts, strict=True):
        trajectory, last = trajectories[part.simulation], None
        if measure == "continuation":
            earlier = [s for s in segments["train"] if s.simulation == part.simulation and s.stop <= part.start]
            own, last = _before(trajectory, earlier, masked)
        if own is None:
            raise _no_start(part, split, measure, choice, trajectory)
        first.append(own)
        known_at.append(own if last is None else last)
        known.append(trajectory.dynamic[known_at[-1]])
        points = points_of(trajectory.points, split, choice.split.by, own, part.stop - 1, after=max(own, part.start))
        dynamic = trajectory.dynamic[own : part.stop]
        if own < part.start:
            dynamic = torch.cat([dynamic[:1], _hidden(dynamic[1 : part.start - own]), dynamic[part.start - own :]])
        if masked and points is None and bool(dynamic[1:].isnan().all()):
            raise DataError(
                f"{split} observes none of the frames {part} of simulation {part.simulation} that a rollout could "
                f"be compared with; hide less, or set observe.mask.heldout = false",
                key="data.observe.mask",
            )
        if points is not None and bool(points.value[points.frame > 0].isnan().all()):
            raise DataError(
                f"{split} has no observation of a sensor in the frames {part} of simulation {part.simulation}; "
                f"change the split",
                key="data.split",
            )
        static = later(trajectory.static, advances, own, trajectory.static.dim() - 1)
        found.append(attrs.evolve(trajectory, dynamic=dynamic, static=static, points=points))
    return HeldOutStretches(
        measure=measure,
        trajectories=tuple(found),
        first=tuple(first),
        last_known=tuple(known),
        known_at=tuple(known_at),
    )


def _measure(choice: SourceChoice, starts: Sequence[int | None], frames: int, noisy: bool) -> Measure:
    """Return how the stretches are measured, of which the shortest has so many `frames`."""
    if choice.split.measure != "auto":
        return choice.split.measure
    return "continuation" if choice.split.by == "time" and (noisy or None in starts or frames < 2) else "rollout"


def _first(trajectory: Trajectory, part: Segment) -> int | None:
    """Return the first complete frame of a stretch if anything after it is observed, else None."""
    frames = trajectory.dynamic[part.start : part.stop]
    for frame in complete_frames(frames[:-1]).nonzero()[:, 0].tolist():
        if trajectory.points is not None or not bool(frames[frame + 1 :].isnan().all()):
            return part.start + int(frame)
        break
    return None


def _before(trajectory: Trajectory, earlier: Sequence[Segment], masked: bool) -> tuple[int | None, int | None]:
    """Return the first and the last complete training frame before a stretch, or None if there is none."""
    complete: list[int] = []
    for part in earlier:
        frames = trajectory.dynamic[part.start : part.stop]
        seen = complete_frames(frames) if masked else torch.ones(len(frames), dtype=torch.bool)
        complete += [part.start + frame for frame in seen.nonzero()[:, 0].tolist()]
    return (complete[0], complete[-1]) if complete else (None, None)


def _hidden(frames: Tensor) -> Tensor:
    return torch.full_like(frames, torch.nan)


def _no_start(part: Segment, split: str, measure: Measure, choice: SourceChoice, trajectory: Trajectory) -> DataError:
    first = "set observe.mask.first_frame = true"

    def remedy(otherwise: str) -> str:
        return to_start_from(choice.observe.mask, trajectory.dynamic, part.simulation, otherwise)

    if measure == "continuation":
        return DataError(
            f"{split} continues simulation {part.simulation} into its frames {part}, but no training frame before "
            f"them is observed completely; {remedy(f'{first}, or train on the frames before')}",
            key="data.split.measure",
        )
    advice = remedy(f"{first} for whole simulations, or observe.mask.heldout = false")
    if choice.split.by == "time" and choice.split.measure == "rollout":
        advice += '; split.measure = "continuation" starts from the first frame'
    return DataError(
        f"{split} cannot roll out the frames {part} of simulation {part.simulation}: no frame is observed completely "
        f"and followed by an observation; {advice}",
        key="data.observe.mask",
    )
