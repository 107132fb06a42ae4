"""The base of tasks whose models roll out fields on a grid."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hyco_engine.data.fields import SIMULATION
from hyco_engine.data.form import DataForm
from hyco_engine.data.manager import DataManager
from hyco_engine.data.noise import is_noisy
from hyco_engine.data.precision import Precision
from hyco_engine.data.statistics import RANGE, Statistics, field_sizes
from hyco_engine.errors import SpecError
from hyco_engine.hooks.checking import did_you_mean
from hyco_engine.interfaces import PhysicalModel, Player, Samples, TermSpec, Trajectory
from hyco_engine.physics.parameters import span_text
from hyco_engine.tasks.base import Example, Task
from hyco_engine.training.memory import Room, expected_memory
from hyco_engine.training.settings import TrainingSettings

LEAST_SHARE = 0.03
"""The least noise of a field that a physics' loss allows for, as a share of the largest one."""


class FieldTask(Task, ABC):
    """States of fields on a grid, which models step forward from frame to frame.

    `manager` keeps the simulations.
    """

    def __init__(self, manager: DataManager) -> None:
        self.manager = manager
        self.layout = manager.layout
        self.dt = manager.dt
        self.statistics = Statistics.unknown(
            self.layout, manager.scalars() | manager.times(), manager.glimpsed_states()
        )
        self._is_read = False

    @property
    def form(self) -> DataForm:
        return DataForm(layout=self.layout, dt=self.dt, statistics=self.statistics)

    @property
    def precision(self) -> Precision:
        return self.manager.precision

    @property
    def is_read(self) -> bool:
        return self._is_read

    @property
    def train(self) -> Samples:
        return self.manager.train

    @property
    def validates(self) -> bool:
        return self.manager.validates

    def read(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.manager.prepare(progress)
        # each of these checks its result, so that a mistake shows before anything is built
        _ = self.manager.train, self.manager.measure
        self.statistics = self.manager.statistics
        self._is_read = True

    def samples(self, settings: TrainingSettings) -> Samples:
        return self.manager.windows(*self._window(settings))

    def _window(self, settings: TrainingSettings) -> tuple[int, int]:
        """Return the horizon and the stride of a model's windows."""
        choice = self.manager.choice
        horizon = choice.num_predict_steps if settings.horizon == "auto" else settings.horizon
        return horizon, choice.stride if settings.stride == "auto" else settings.stride

    def horizon(self, settings: TrainingSettings) -> int:
        return self._window(settings)[0]

    @property
    def noise(self) -> Mapping[str, float]:
        return self.manager.noise if self.is_read else self.manager.glimpsed_noise()

    def noise_summary(self) -> dict[str, dict[str, float]]:
        spread = field_sizes(self.layout, self.statistics)
        return {name: {"level": level * spread[name], "relative": level} for name, level in self.noise.items()}

    def longest_windows(self) -> tuple[int, int] | None:
        return self.manager.longest_windows()

    def start_states(self, settings: TrainingSettings) -> Tensor | None:
        samples = self.samples(settings)
        states = samples.inputs(torch.arange(min(settings.batch_size, len(samples))))
        assert isinstance(states, Tensor)
        return states

    def stepper_terms(self, player: Player) -> list[TermSpec]:
        return [
            TermSpec(name=field.name, n_elements=self.layout.n_samples(field.name), unit=field.unit)
            for field in self.layout.dynamic
        ]

    @property
    def declared_sizes(self) -> Mapping[str, float]:
        return field_sizes(self.layout, self.statistics)

    def usual_sizes(self, player: Player) -> Mapping[str, float]:
        """Return the fields' spreads; for a physics they differ as the fields' noise does (maximum likelihood)."""
        sizes, noise = self.declared_sizes, self.noise
        if player != "physical" or not is_noisy(noise):
            return sizes
        most = max(noise.values())
        # a field without noise would leave no weight for the others
        return {name: size * max(noise[name] / most, LEAST_SHARE) for name, size in sizes.items()}

    def rollouts(self, split: Literal["val", "test"]) -> Sequence[Trajectory]:
        return self.manager.heldout(split)

    def example(self) -> Example | None:
        splits: tuple[Literal["test", "val"], ...] = ("test", "val")
        for split in splits:
            if found := self.manager.heldout(split):
                return Example(split=split, trajectory=found[0], layout=self.layout, dt=self.dt)
        return None

    def whole_simulations(self) -> Sequence[Trajectory]:
        return self.manager.trajectories

    @property
    def truth(self) -> Mapping[str, Tensor]:
        return {**self.manager.truth, **self._own_truth()}

    def _own_truth(self) -> dict[str, Tensor]:
        """Return the true values of parameters that are found for each simulation, where the data have such scalars."""
        known = self.manager.scalars()
        return {
            name: known[name]
            for name in self.layout.scalars
            if self.layout.field(name).by == SIMULATION and name in known
        }

    def check_physics(self, physical: PhysicalModel, kind: str) -> None:
        if physical.steady and not self.manager.source.guesses_start:
            raise SpecError(
                "the physics gives steady states, and the data change in time: set data.steady = true where they do "
                "not, or write rates in place of steady",
                key="physical.kind",
            )
        if self.manager.source.guesses_start and not physical.steady:
            raise SpecError(
                "the data hold steady states, and this physics gives rates of change: write physical.steady in place "
                "of rates, or leave data.steady out",
                key="data.steady",
            )
        for name, index in physical.learnables.index.items():
            self._check_groups(name, index)
        self._check_truth(physical, kind)

    def _check_groups(self, name: str, index: str) -> None:
        """Raise SpecError if held-out simulations belong to groups of which none trains."""
        members = self.manager.simulations_by_split()
        groups = self.manager.groups(index)
        trained = {groups[k] for k in members["train"]}
        if lacking := [k for split in ("val", "test") for k in members[split] if groups[k] not in trained]:
            what = "" if index == SIMULATION else f" of the {index} {groups[lacking[0]]!r}"
            raise SpecError(
                f"simulation {lacking[0]}{what} only validates, so no {name} is found for it: split the data in time "
                '(data.split.by = "time"); hyco-engine identify finds the parameters of new simulations',
                key=f"physical.parameters.{name}.scope",
            )

    def _check_truth(self, physical: PhysicalModel, kind: str) -> None:
        values = physical.learnables.values()
        for name, true in self.truth.items():
            if name in values and true.ndim and true.shape != values[name].shape:
                raise SpecError(
                    f"the truth of {name!r} has the shape {list(true.shape)}, the parameter "
                    f"{list(values[name].shape)}: give both the same shape, or leave the truth out",
                    key=f"data.truth.{name}",
                )
            declared = physical.learnables.declarations.get(name)
            if name in physical.learnables.given:
                raise SpecError(
                    f"the data give {name} of each simulation, so it has no other truth: leave it out",
                    key=f"data.truth.{name}",
                )
            if declared is not None and name not in physical.learnables.names:
                raise SpecError(
                    f"the physics {kind!r} has the parameter {name!r} only where the spec names it: add "
                    f"physical.parameters.{name}.learn = true, or leave the truth out",
                    key=f"data.truth.{name}",
                )
            if declared is None:
                known = ", ".join(physical.learnables.names) or "none"
                raise SpecError(
                    f"the physics {kind!r} has no parameter {name!r}; it has "
                    f"{known}{did_you_mean(name, physical.learnables.names)}",
                    key=f"data.truth.{name}",
                )
            transform = physical.learnables.transform(name)
            low, high = float(true.min()), float(true.max())
            if name in physical.learnables.learned and not (transform.lower <= low and high <= transform.upper):
                raise SpecError(
                    f"the truth {span_text(low, high)} of {name!r} is outside of its bounds ({transform.lower:g}, "
                    f"{transform.upper:g}), so it cannot be found: set wider bounds "
                    f"(physical.parameters.{name}.bounds), or correct the truth",
                    key=f"data.truth.{name}",
                )

    @property
    def n_real(self) -> int:
        planned = None if self.is_read else self.manager.planned_windows
        return len(self.train) if planned is None else planned

    def count(self, settings: TrainingSettings) -> int:
        planned = None if self.is_read else self.manager.count_windows(*self._window(settings))
        return len(self.samples(settings)) if planned is None else planned

    def _bytes(self, channels: int) -> int:
        return channels * math.prod(self.layout.spatial) * self.manager.dtype.itemsize

    def sample_bytes(self, settings: TrainingSettings) -> int:
        """Return the bytes of a state and its rollout, the sample that models generate for any real samples."""
        return self._bytes(self.layout.n_all + self._window(settings)[0] * self.layout.n_dynamic)

    @property
    def sizes(self) -> dict[str, Any]:
        return {
            "simulations": self.manager.num_simulations,
            **({} if self.manager.source.guesses_start else {"dt": self.dt}),
            "fields": [f.name for f in self.layout.bare.fields],
            "scalars": list(self.layout.scalars),
            "resolution": list(self.layout.grid.resolution),
        }

    def memory(self, settings: TrainingSettings, internal: int, room: Room | None = None) -> dict[str, Any] | None:
        count, steps = self.count(settings), self.horizon(settings)
        state = torch.empty(self.layout.n_all, *self.layout.spatial, device="meta")
        together = min(count, settings.batch_size)
        if room is not None:
            together = room.together(count, state, steps, internal)
        return expected_memory(
            together * self._bytes(self.layout.n_all), steps=steps, internal=internal, budget_gb=settings.memory_gb
        )

    def summary(self) -> dict[str, Any] | None:
        return self.manager.summary()

    def digest(self) -> str:
        """Return a hash of the training data's statistics, all scalars, the groups in states, and all held-out data."""
        digest = hashlib.sha256(str(len(self.train)).encode())
        # the range was not among the statistics of earlier versions, whose runs can be resumed
        known = {name: values for name, values in self.statistics.to_data().items() if name not in RANGE}
        digest.update(json.dumps(known, sort_keys=True).encode())
        for name, values in sorted(self.manager.scalars().items()):
            digest.update(name.encode() + values.numpy().tobytes())
        for index in self.layout.indices:
            digest.update(json.dumps([index, self.manager.groups(index)]).encode())
        for trajectory in (*self.manager.heldout("val"), *self.manager.heldout("test")):
            for tensor in (trajectory.dynamic, trajectory.static):
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def text(self) -> str:
        manager, where = self.manager, self.layout.grid.text
        fields = ", ".join(f.name for f in self.layout.bare.fields)
        frames = manager.source.frames(0)
        each = "" if frames is None else f" of {frames} frames"
        windows = "" if manager.planned_windows is None else f"; {manager.planned_windows} windows to train on"
        simulations = f"{manager.num_simulations} simulation{'s' if manager.num_simulations > 1 else ''}"
        return f"read as {simulations}{each}, {self.dt:.6g} apart; {fields} {where}{windows}{self._scalars_text}"

    @property
    def _scalars_text(self) -> str:
        known = self.manager.scalars()
        told = [
            f"{name} from {float(known[name].min()):.4g} to {float(known[name].max()):.4g}"
            for name in self.layout.scalars
            if not self.layout.field(name).by
        ]
        return f"; models know, of each simulation, {', '.join(told)}" if told else ""
