"""The frames of each simulation that train, validate and test. The module needs only numbers, no data and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from hyco_engine.data.settings import Split, parse_range
from hyco_engine.errors import DataError

SplitName = Literal["train", "val", "test"]
NAMES: tuple[SplitName, ...] = ("train", "val", "test")
TENTH = 10


@attrs.frozen
class Segment:
    """The frames `start:stop` of one simulation."""

    simulation: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def resolve_split(split: Split, frames: Sequence[int]) -> dict[SplitName, tuple[Segment, ...]]:
    """Return the segments of each split, given the number of frames of each simulation.

    By simulation, a segment is a whole simulation. By time, the ranges cut every simulation alike; a negative number
    counts from the end of each. The training frames may then be two segments of a simulation, before and after the
    held-out frames, and no window crosses from one to the other. By sensor, every simulation trains and validates, on
    different sensors. Raises DataError with the key of the wrong range.
    """
    if split.by == "sensor":
        whole = tuple(Segment(simulation, 0, count) for simulation, count in enumerate(frames))
        return {"train": whole, "val": whole, "test": ()}
    if split.by == "time":
        found: dict[SplitName, list[Segment]] = {name: [] for name in NAMES}
        for simulation, count in enumerate(frames):
            for name, parts in _divide(split, count, "frame", least=2).items():
                found[name] += [attrs.evolve(part, simulation=simulation) for part in parts]
        return {name: tuple(found[name]) for name in NAMES}
    if len(frames) == 1 and not (split.train and split.val):
        raise DataError(
            "the data has 1 simulation, so no simulation is left to validate on; split it in time: "
            'split = {by = "time"} trains on the first frames and validates on the last',
            key="data.split",
        )
    return {
        name: tuple(Segment(i, 0, frames[i]) for part in parts for i in range(part.start, part.stop))
        for name, parts in _divide(split, len(frames), "simulation", least=1).items()
    }


def _divide(split: Split, total: int, unit: str, least: int) -> dict[SplitName, tuple[Segment, ...]]:
    """Divide `range(total)`, in units of simulations or frames; a val range that is not given has at least `least`."""
    given = {name: _range(getattr(split, name), name, total, unit) for name in NAMES if getattr(split, name)}
    _refuse_overlaps(given, unit)
    parts: dict[SplitName, tuple[Segment, ...]] = {name: (part,) for name, part in given.items()}
    parts.setdefault("test", ())
    if not split.val:
        free = _gaps(parts, total)
        if not free:
            raise DataError(
                f"train and test leave no {unit} of {total} to validate on; shorten one of them, or set val",
                key="data.split.val",
            )
        last = free[-1]
        parts["val"] = (Segment(0, max(last.start, last.stop - max(least, total // TENTH)), last.stop),)
    if not split.train:
        parts["train"] = tuple(_gaps(parts, total))
        if not parts["train"]:
            taken = " and ".join(f"{name} {part[0]}" for name, part in parts.items() if part)
            raise DataError(
                f"the train split is empty: {taken} take all {_count(total, unit)}; shorten one of them",
                key="data.split.train",
            )
    return parts


def _range(text: str, name: SplitName, total: int, unit: str) -> Segment:
    key = f"data.split.{name}"
    try:
        where = parse_range(text)
    except ValueError as error:
        raise DataError(str(error), key=key) from None
    start = 0 if where.start is None else where.start
    stop = total if where.stop is None else where.stop
    bounds = [edge + total if edge < 0 else edge for edge in (start, stop)]
    if not all(0 <= edge <= total for edge in bounds):
        raise DataError(f"the range {text!r} reaches beyond the data, which has {_count(total, unit)}", key=key)
    if bounds[0] >= bounds[1]:
        raise DataError(f"the range {text!r} is empty: the data has {_count(total, unit)}", key=key)
    return Segment(0, *bounds)


def _refuse_overlaps(given: dict[SplitName, Segment], unit: str) -> None:
    names = list(given)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            start = max(given[first].start, given[second].start)
            stop = min(given[first].stop, given[second].stop)
            if start < stop:
                raise DataError(
                    f"{first} {given[first]} and {second} {given[second]} share the {unit}s {start}:{stop}; "
                    f"held-out data must not train",
                    key=f"data.split.{second}",
                )


def _gaps(parts: dict[SplitName, tuple[Segment, ...]], total: int) -> list[Segment]:
    """Return the ranges that no split has taken, in order."""
    taken = sorted((s.start, s.stop) for part in parts.values() for s in part)
    edges = [0, *(edge for pair in taken for edge in pair), total]
    return [Segment(0, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _count(total: int, unit: str) -> str:
    return f"{total} {unit}{'' if total == 1 else 's'}"


def check_lengths(
    segments: dict[SplitName, tuple[Segment, ...]], horizon: int, by: Literal["simulation", "time", "sensor"]
) -> None:
    """Raise DataError unless train holds at least one window, and val and test hold rollouts of at least one step."""
    longest = max(segments["train"], key=len)
    if len(longest) <= horizon:
        remedy = f"set num_predict_steps to at most {len(longest) - 1}" if len(longest) > 1 else "train on more frames"
        raise DataError(
            f"a window of {horizon} predicted steps needs {horizon + 1} frames, but the train split has only "
            f"{_count(len(longest), 'frame')} in a row; {remedy}",
            key="data.num_predict_steps",
        )
    for name in ("val", "test"):
        for segment in segments[name]:
            if len(segment) < 2:
                key = f"data.split.{name}" if by == "time" else "data.num_frames"
                raise DataError(
                    f"{name} has {_count(len(segment), 'frame')} of simulation {segment.simulation}, but a rollout "
                    f"needs at least 2: a start and a step",
                    key=key,
                )
