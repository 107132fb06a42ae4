"""Small problems for the built-in physics: a model on a grid, its trajectories, and a fit of its parameters to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor

from hyco_engine.data.fields import Grid
from hyco_engine.data.windows import WindowDataset
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, PhysicalModel, Trajectory
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.rollout import rollout
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer

REGISTRY = Registry.discover()


@attrs.frozen(kw_only=True)
class Case:
    """A kind on a grid."""

    kind: str
    resolution: tuple[int, ...] = (24,)
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None
    dt: float = 0.01
    options: Mapping[str, Any] = attrs.Factory(dict)
    boundary: Any = None
    parameters: Mapping[str, Any] = attrs.Factory(dict)

    def grid(self) -> Grid:
        n = len(self.resolution)
        return Grid(
            axes=("x", "y", "z")[:n],
            resolution=self.resolution,
            lower=self.lower or (0.0,) * n,
            upper=self.upper or (1.0,) * n,
        )

    def model(
        self,
        *,
        dtype: torch.dtype = torch.float64,
        compile: Any = "graph",
        inner_dt: float | None = None,
        **changes: Any,
    ) -> Any:
        """Build the model. `parameters` may map to start values, or to settings."""
        case = attrs.evolve(self, **changes)
        settings = {
            name: value if isinstance(value, ParameterSetting) else ParameterSetting(init=value)
            for name, value in case.parameters.items()
        }
        context = BuildContext(
            seed=0,
            registry=REGISTRY,
            dtype=dtype,
            grid=case.grid(),
            boundary=case.boundary,
            dt=case.dt,
            inner_dt=inner_dt,
            parameters=settings,
            compile=compile,
        )
        record = REGISTRY.get("hyco_models", case.kind, "physical")
        return REGISTRY.build("hyco_models", case.kind, record.options(**case.options), context)


def states(model: PhysicalModel, count: int = 2, seed: int = 0) -> Tensor:
    return model.initial_states(count, torch.Generator().manual_seed(seed))


def run(model: PhysicalModel, state: Tensor, steps: int) -> Tensor:
    """Return the rollout `[B, T + 1, C_dyn, *S]`, the start first, without gradients."""
    with torch.no_grad():
        first = state[:, None, : model.layout.n_dynamic]
        return torch.cat([first, rollout(model, state, steps)], dim=1)


def windows(model: PhysicalModel, count: int = 2, frames: int = 6, horizon: int = 2) -> WindowDataset:
    """Windows of trajectories of a model, from initial states of its own."""
    first = states(model, count)
    made = run(model, first, frames - 1)
    static = first[:, model.layout.n_dynamic :]
    return WindowDataset([Trajectory(dynamic=d, static=s) for d, s in zip(made, static, strict=True)], horizon=horizon)


def fit(model: PhysicalModel, data: WindowDataset, iterations: int) -> dict[str, Tensor]:
    """Return the parameters after L-BFGS over all windows."""
    settings = TrainingSettings(epochs_per_cycle=iterations, optimizer="lbfgs", batch_size=len(data))
    trainer = Trainer(model, player="physical", layout=model.layout, settings=settings)
    trainer.train(data, iterations)
    return {name: value.detach() for name, value in model.learnables.values().items()}


def slope(errors: Sequence[float], ratio: float = 2.0) -> float:
    """Return the order of convergence that the last two errors of a series show."""
    return math.log(errors[-2] / errors[-1]) / math.log(ratio)


def centers(grid: Grid) -> list[Tensor]:
    """Coordinates of the cell centres, each of the grid's shape."""
    axes = [torch.tensor(grid.centers(axis), dtype=torch.float64) for axis in grid.axes]
    return list(torch.meshgrid(*axes, indexing="ij"))


def time_order(case: Case, state: Tensor, dt: float, inner: Sequence[float], **changes: Any) -> float:
    """Return the order in time, from the results with three internal steps, each half of the one before."""
    results = [case.model(dt=dt, inner_dt=step, compile="eager", **changes)(state).detach() for step in inner]
    errors = [float((a - b).abs().max()) for a, b in pairwise(results)]
    return slope(errors)


def space_order(
    case: Case, cells: Sequence[int], exact: Callable[[Any], tuple[Tensor, Tensor]], **changes: Any
) -> float:
    """Return the order in space; `exact(model)` gives a state and its exact dynamic fields one step later."""
    errors = []
    for n in cells:
        model = case.model(resolution=(n,) * len(case.resolution), compile="eager", **changes)
        state, wanted = exact(model)
        errors.append(float((model(state).detach() - wanted).square().mean().sqrt()))
    return slope(errors, cells[-1] / cells[-2])
