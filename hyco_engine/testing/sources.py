"""The contracts of data sources, as test suites: one for trajectories, one for samples.

    class TestMine(TrajectoryContract):
        def make(self, context: SourceContext) -> TrajectorySource:
            return build(MyOptions(path=...), context)

pytest collects the tests of the subclass.
"""

from __future__ import annotations

import math
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from hyco_engine.data.checks import check_shapes, check_values
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import SourceChoice, Split
from hyco_engine.interfaces import Points, Samples, SampleSource, SourceContext, Trajectory, TrajectorySource
from hyco_engine.testing.contexts import tiny_context
from hyco_engine.testing.measuring import difference, equal, global_generators

SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


class _SourceContract:
    """The tests that both contracts share."""

    def context(self) -> SourceContext:
        """Return the context for `make`."""
        return tiny_context()

    def changed(self) -> Any:
        """Return a source of other data than `make`, such as a changed file, or None if the data never changes."""
        return None

    def test_the_fingerprint_is_the_datas(self) -> None:
        with global_generators("fingerprint"):
            first, again = self._made().fingerprint(), self._made().fingerprint()  # type: ignore[attr-defined]
        assert isinstance(first, str), f"the fingerprint is a {type(first).__name__}, not a text"
        assert 0 < len(first) <= 10_000, f"the fingerprint has {len(first)} characters; it must have 1 to 10,000"
        assert again == first, f"two sources of the same data have the fingerprints {first!r} and {again!r}"
        other = self.changed()
        assert other is None or other.fingerprint() != first, "other data has the same fingerprint"


class TrajectoryContract(_SourceContract, ABC):
    """The tests of every source of trajectories."""

    missing: ClassVar[bool] = False
    """Whether values may be NaN, which means "not observed"."""

    @abstractmethod
    def make(self, context: SourceContext) -> TrajectorySource:
        """Return a new source of small data, because every simulation is loaded several times."""

    def test_what_it_says_of_its_data_is_there(self) -> None:
        source = self._made()
        assert isinstance(source.layout, StateLayout), "layout must be a hyco_engine.data.fields.StateLayout"
        positive = math.isfinite(source.dt) and source.dt > 0
        assert positive, f"dt is {source.dt!r}; it must be a positive number"
        assert source.num_simulations > 0, "there is no simulation"
        assert source.split is None or isinstance(source.split, Split), "split must be a Split or None"
        for name, value in source.truth.items():
            right = isinstance(value, Tensor) and value.shape in ((), source.layout.grid.resolution)
            assert right, f"the truth of {name!r} must be a tensor, 0-d or of the grid's shape"
            assert bool(value.isfinite().all()), f"the truth of {name!r} is not finite"

    def test_simulations_are_as_the_layout_says(self) -> None:
        source = self._made()
        for index in range(source.num_simulations):
            trajectory = source.load(index)
            assert isinstance(trajectory, Trajectory), f"load({index}) returns a {type(trajectory).__name__}"
            check_shapes(trajectory, source.layout, index, "under test")
            points = source.points(index)
            check_values(trajectory, source, index, allow_missing=self.missing or points is not None)
            told, there = source.frames(index), len(trajectory.dynamic)
            assert told in (None, there), f"frames({index}) is {told}, but load({index}) gives {there} frames"
            if points is not None:
                _check_points(points, source.layout, there)

    def test_loading_is_the_same_in_any_order(self) -> None:
        source, other = self._made(), self._made()
        with global_generators("load"):
            forward = {index: source.load(index) for index in range(source.num_simulations)}
            backward = {index: other.load(index) for index in reversed(range(source.num_simulations))}
            repeated = source.load(0)
        for index, first in [*forward.items(), (0, repeated)]:
            same = equal((first.dynamic, first.static), (backward[index].dynamic, backward[index].static))
            assert same, f"load({index}) gives other values when the simulations are loaded in another order"

    def test_what_is_loaded_together_is_known_before(self) -> None:
        source = self._made()
        told = [source.together(index) for index in range(source.num_simulations)]
        for index, group in enumerate(told):
            whole = isinstance(group, range) and index in group and group.step == 1
            assert whole, f"together({index}) is {group!r}; it must be a range of neighbours that holds {index}"
            assert all(own == group for own in told[group.start : group.stop]), f"together({index}) overlaps another"
        source.load(0)
        assert source.together(0) == told[0], "together(0) is another one after load(0)"

    def test_simulations_are_apart(self) -> None:
        source = self._made()
        kept = source.load(0).dynamic.clone()
        source.load(0).dynamic.zero_()
        assert equal(source.load(0).dynamic, kept), "load returns a tensor that an earlier caller has changed"

    def test_the_engine_reads_and_keeps_it(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            read = []
            for _ in range(2):
                source = self._made()
                choice = SourceChoice(kind="under-test", split=_split(source))
                manager = DataManager(source, choice, Path(folder), seed=0)
                manager.prepare()
                read.append(manager.train.batch(torch.arange(len(manager.train))))
            assert len(manager.train), "no window of the train split can be used"
            found = difference(tuple(read[1]), tuple(read[0]), 0.0)
            assert not found, f"the engine's cache gives other data than the source: {found}"

    def _made(self) -> TrajectorySource:
        with global_generators("building the source"):
            source = self.make(self.context().derive(SourceContext))
        right = isinstance(source, TrajectorySource)
        assert right, f"the factory returns a {type(source).__name__}, not a TrajectorySource"
        return source


class SamplesContract(_SourceContract, ABC):
    """The tests of every source of samples."""

    @abstractmethod
    def make(self, context: SourceContext) -> SampleSource:
        """Return a new source of small data."""

    def test_there_is_something_to_train_on(self) -> None:
        source = self._made()
        for split in SPLITS:
            samples = source.samples(split)
            right = isinstance(samples, Samples)
            assert right, f"samples({split!r}) returns a {type(samples).__name__}, not Samples"
            share = samples.observed_share
            assert 0 <= share <= 1, f"the observed share of {split!r} is {share}; it must be from 0 to 1"
        assert len(source.samples("train")), "the train split is empty"

    def test_samples_are_the_same_in_any_batch(self) -> None:
        for split in SPLITS:
            samples, other = (self._made().samples(split) for _ in range(2))
            count = min(len(samples), 7)
            if not count:
                continue
            order = torch.tensor([count - 1, 0, count - 1])
            with global_generators("batch"):
                whole, picked = samples.batch(torch.arange(count)), other.batch(order)
            wanted = tuple(_rows(part, order) for part in whole)
            assert equal(tuple(picked), wanted), f"a sample of {split!r} is another one in another batch"
            assert equal(samples.inputs(order), wanted[0]), f"inputs() of {split!r} are not those of batch()"
            for name, part in zip(("inputs", "targets"), whole, strict=True):
                for key, value in [(name, part)] if isinstance(part, Tensor) else list(part.items()):
                    assert len(value) == count, f"{key} of {split!r} has {len(value)} rows for {count} samples"
                    fits = not value.is_floating_point() or not bool(value.isinf().any())
                    assert fits, f"{key} of {split!r} is infinite; use NaN for a target that was not observed"

    def _made(self) -> SampleSource:
        with global_generators("building the source"):
            source = self.make(self.context().derive(SourceContext))
        assert isinstance(source, SampleSource), f"the factory returns a {type(source).__name__}, not a SampleSource"
        return source


def _split(source: TrajectorySource) -> Split:
    """Return a split that leaves something to train on."""
    if source.points(0) is not None:
        return Split(by="sensor")
    return source.split or Split(by="simulation" if source.num_simulations > 1 else "time")


def _rows(values: Any, order: Tensor) -> Any:
    return values[order] if isinstance(values, Tensor) else {name: value[order] for name, value in values.items()}


def _check_points(points: Points, layout: StateLayout, frames: int) -> None:
    count = len(points.frame)
    wanted = {"position": (count, layout.n_axes), "value": (count, layout.n_dynamic)}
    for field in attrs.fields(Points):
        shape, right = tuple(getattr(points, field.name).shape), wanted.get(field.name, (count,))
        assert shape == right, f"{field.name} of the points is {list(shape)}; it must be {list(right)}"
    assert count, "there is no observation"
    within = bool(((points.frame >= 0) & (points.frame <= frames - 1)).all())
    assert within, f"observations lie outside of the {frames} frames"
