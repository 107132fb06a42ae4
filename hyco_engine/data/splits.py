"""The frames of each simulation that train, validate and test. The module needs only numbers, no data and no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from hyco_engine.data.settings import Split, parse_range
from hyco_engine.errors import DataError
from hyco_engine.hooks.checking import did_you_mean

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


def resolve_split(
    split: Split,
    frames: Sequence[int],
    known: Sequence[Mapping[str, float | str]] = (),
    *,
    horizon: int = 1,
    spare: bool = False,
) -> dict[SplitName, tuple[Segment, ...]]:
    """Return the segments of each split, given the number of frames of each simulation and what is `known` of each.

    By simulation and by value, a segment is a whole simulation. By time, the ranges cut every simulation alike; a
    negative number counts from the end of each. The training frames may then be two segments of a simulation, before
    and after the held-out frames, and no window crosses from one to the other; where the spec gives no range, a window
    of `horizon` steps is left to train on, and if `spare` is true, a simulation that has no more validates nothing. By
    sensor, every simulation trains and validates, on different sensors. Raises DataError with the key of the wrong
    range.
    """
    if split.by == "sensor":
        whole = tuple(Segment(simulation, 0, count) for simulation, count in enumerate(frames))
        return {"train": whole, "val": whole, "test": ()}
    if split.by == "time":
        found: dict[SplitName, list[Segment]] = {name: [] for name in NAMES}
        for simulation, count in enumerate(frames):
            for name, parts in _divide_time(split, count, horizon, spare).items():
                found[name] += [attrs.evolve(part, simulation=simulation) for part in parts]
        return {name: tuple(found[name]) for name in NAMES}
    if split.by == "value":
        members = _by_value(split, known)
        return {name: tuple(Segment(i, 0, frames[i]) for i in members[name]) for name in NAMES}
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


def split_of_labels(known: Sequence[Mapping[str, float | str]]) -> Split | None:
    """Return the split that the label "split" of the simulations gives, None if some have none, or none trains."""
    given = {own.get("split") for own in known}
    if not {"train", "val"} <= given or not given <= {*NAMES, ""}:
        return None
    return Split(by="value", name="split", train="train", val="val", test="test" if "test" in given else "")


def _by_value(split: Split, known: Sequence[Mapping[str, float | str]]) -> dict[SplitName, list[int]]:
    """Return the simulations of each split by what is known of them under the name that the split gives."""
    names = sorted({name for own in known for name in own})
    if any(split.name not in own for own in known):
        raise DataError(
            f"no number or group {split.name!r} is known of each simulation{did_you_mean(split.name, names)} "
            f"(known: {', '.join(names) or 'nothing'})",
            key="data.split.name",
        )
    values = [own[split.name] for own in known]
    members = {name: _chosen(getattr(split, name), name, values, split.name) for name in NAMES if getattr(split, name)}
    for (first, some), (second, others) in itertools.combinations(members.items(), 2):
        if both := set(some) & set(others):
            raise DataError(
                f"{first} {getattr(split, first)!r} and {second} {getattr(split, second)!r} share simulation "
                f"{min(both)}, whose {split.name} is {_shown(values[min(both)])}; held-out data must not train",
                key=f"data.split.{second}",
            )
    members.setdefault("test", [])
    free = [i for i in range(len(values)) if not any(i in part for part in members.values())]
    if not split.val:
        distinct = sorted({values[i] for i in free}, key=lambda value: (isinstance(value, str), value))
        if len(distinct) < (1 if split.train else 2):
            raise DataError(
                f"there are not enough values of {split.name} left to validate on; shorten train or test, or set val",
                key="data.split.val",
            )
        # from amid the others, so that the models are measured where they interpolate
        count = max(1, len(distinct) // TENTH)
        held = {distinct[int((k + 0.5) * len(distinct) / count)] for k in range(count)}
        members["val"] = [i for i in free if values[i] in held]
        free = [i for i in free if values[i] not in held]
    members.setdefault("train", free)
    if not members["train"]:
        raise DataError(
            f"the train split is empty: val and test take all values of {split.name}; shorten one of them",
            key="data.split.train",
        )
    return members


def _chosen(text: str, name: SplitName, values: Sequence[float | str], of: str) -> list[int]:
    """Return the places of the values that a split's text names: values and ranges, with commas between them."""
    found: set[int] = set()
    for part in (entry.strip() for entry in text.split(",")):
        own = [i for i, value in enumerate(values) if _fits(value, part)]
        if not own:
            listed = [_shown(value) for value in sorted(set(values), key=str)]
            raise DataError(
                f"no simulation has {of} = {part!r}; its values are {', '.join(listed[:12])}"
                f"{', ...' if len(listed) > 12 else ''}",
                key=f"data.split.{name}",
            )
        found.update(own)
    return sorted(found)


def _fits(value: float | str, part: str) -> bool:
    """Return whether a value is the named one, or a number in the named range."""
    if isinstance(value, str):
        return value == part
    ends = [end.strip() for end in part.split(":")]
    try:
        numbers = [float(end) if end else None for end in ends]
    except ValueError:
        return False
    if len(numbers) == 1:
        return numbers[0] is not None and math.isclose(value, numbers[0], rel_tol=1e-6)
    lower, upper = numbers[0], numbers[-1]
    return len(numbers) == 2 and (lower is None or value >= lower) and (upper is None or value < upper)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _divide_time(split: Split, total: int, horizon: int, spare: bool) -> dict[SplitName, tuple[Segment, ...]]:
    """Divide the frames of one simulation; without ranges, at least a window is left to train on."""
    room = total - (horizon + 1)
    if split.train or split.val or split.test or room >= 2:
        return _divide(split, total, "frame", least=2)
    if room < 1 and spare:
        return {"train": (Segment(0, 0, total),), "val": (), "test": ()}
    return _divide(split, total, "frame", least=1)


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


def check_lengths(segments: dict[SplitName, tuple[Segment, ...]], horizon: int, split: Split) -> None:
    """Raise DataError unless train holds at least one window, and val and test hold a step to compare with.

    A continuation starts from training frames, and then one held-out frame is enough.
    """
    longest = max(segments["train"], key=len)
    if len(longest) <= horizon:
        remedy = f"set num_predict_steps to at most {len(longest) - 1}" if len(longest) > 1 else "train on more frames"
        raise DataError(
            f"a window of {horizon} predicted steps needs {horizon + 1} frames, but the train split has only "
            f"{_count(len(longest), 'frame')} in a row; {remedy}",
            key="data.num_predict_steps",
        )
    if split.by == "time" and split.measure != "rollout":
        return
    for name in ("val", "test"):
        for segment in segments[name]:
            if len(segment) < 2:
                by_time = split.by == "time"
                more = '; measure = "continuation" starts from the training frames' if by_time else ""
                raise DataError(
                    f"{name} has {_count(len(segment), 'frame')} of simulation {segment.simulation}, but a rollout "
                    f"needs at least 2: a start and a step{more}",
                    key=f"data.split.{name}" if by_time else "data.num_frames",
                )
