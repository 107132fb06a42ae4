"""Records of a process in which one event happens, in windows of 105 bars.

An event starts at bar `a` (30 to 74, uniform), lasts `d` bars (6 to 18, uniform) and is of one of three types c:

* channel 0, position: 0 before the event, then a ramp over its bars to -1 (c = 0), 0 (c = 1) or +1 (c = 2), where it
  stays
* channel 1, activity: 1 during the event, else 0
* channel 2, state: -0.3 before bar a, +0.3 from then on

all with independent normal noise. The targets of each window are:

* type: c
* pointer: (a, a + d) / 105
* binary, for each bar t: whether a <= t < a + d
* countdown, for each bar t: a - t bars, cut off at +-20
"""

from __future__ import annotations

import hashlib
from typing import Literal

import attrs
import torch
from torch import Tensor

from hyco_engine.interfaces import Batch, Samples, SampleSource
from hyco_engine.randomness import derive_generator
from hyco_engine_sequence.options import REACH, STEPS, EventRecordsOptions

FIRST_BARS = (30, 75)
DURATIONS = (6, 19)
STATE = 0.3
HEADS = ("type", "pointer", "binary", "countdown")


@attrs.frozen(kw_only=True, eq=False)
class Events:
    """The events of N windows, `[N]` each: type 0, 1 or 2, first bar, number of bars."""

    kind: Tensor
    first: Tensor
    duration: Tensor

    def targets(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the targets of the heads."""
        bars = torch.arange(STEPS)
        first, end = self.first[:, None], (self.first + self.duration)[:, None]
        return {
            "type": self.kind,
            "pointer": torch.cat([first, end], dim=1).to(dtype) / STEPS,
            "binary": ((bars >= first) & (bars < end)).to(dtype),
            "countdown": (first - bars).clamp(-REACH, REACH).to(dtype),
        }

    def record(self) -> Tensor:
        """Return the windows without noise, `[N, 105, 3]`, float64."""
        bars = torch.arange(STEPS, dtype=torch.float64)
        progress = (bars - self.first[:, None]) / self.duration[:, None]
        position = (self.kind[:, None] - 1) * progress.clamp(0.0, 1.0)
        activity = ((progress >= 0) & (progress < 1)).to(torch.float64)
        state = torch.where(progress >= 0, STATE, -STATE).to(torch.float64)
        return torch.stack([position, activity, state], dim=-1)


def draw_events(count: int, generator: torch.Generator) -> Events:
    """Draw `count` independent events."""

    def uniform(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    return Events(kind=uniform(0, 3), first=uniform(*FIRST_BARS), duration=uniform(*DURATIONS))


class EventSamples(Samples):
    """Windows in memory: inputs `[N, 105, 3]`, targets by head."""

    def __init__(self, inputs: Tensor, targets: dict[str, Tensor]) -> None:
        self._inputs = inputs
        self._targets = targets

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(self, indices: Tensor) -> Batch:
        return self._inputs[indices], {name: target[indices] for name, target in self._targets.items()}


class EventRecords(SampleSource):
    """The source `event-records`. Splits are independent draws that follow from the seed."""

    def __init__(self, options: EventRecordsOptions, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self._options = options
        self._seed = seed
        self._dtype = dtype

    def samples(self, split: Literal["train", "val", "test"]) -> EventSamples:
        sizes = {"train": self._options.num_train, "val": self._options.num_val, "test": self._options.num_test}
        generator = derive_generator(self._seed, "event-records", split)
        events = draw_events(sizes[split], generator)
        record = events.record()
        noise = torch.randn(record.shape, generator=generator, dtype=record.dtype)
        return EventSamples((record + self._options.noise * noise).to(self._dtype), events.targets(self._dtype))

    def fingerprint(self) -> str:
        described = repr((1, self._seed, self._dtype, self._options))
        return hashlib.sha256(described.encode()).hexdigest()


def constant_floors(samples: Samples) -> dict[str, float]:
    """Return the mean absolute errors, in bars, of two constant countdowns: 0, and the median of each bar."""
    targets = samples.batch(torch.arange(len(samples)))[1]
    assert isinstance(targets, dict)
    countdown = targets["countdown"]
    median = countdown.median(dim=0).values
    return {"zero": float(countdown.abs().mean()), "median": float((countdown - median).abs().mean())}
