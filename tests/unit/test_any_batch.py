"""Steps as graphs for batches of any size, which is what exported programs hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.data.fields import Grid
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.any_batch import for_any_batch
from hyco_engine.physics.capture import capture
from hyco_engine.physics.equality import CaptureError
from hyco_engine.physics.model import DeclaredModel


@pytest.mark.parametrize(
    ("kind", "options", "axes"),
    [
        ("burgers", {}, "xy"),
        ("burgers", {"scheme": "semi-lagrangian"}, "x"),
        ("heat", {}, "x"),
        ("kuramoto-sivashinsky", {}, "x"),
        ("smoke", {}, "xy"),
    ],
)
def test_one_graph_serves_batches_of_all_sizes(kind: str, options: dict[str, str], axes: str) -> None:
    registry = hyco.Registry.discover()
    n = len(axes)
    grid = Grid(axes=tuple(axes), resolution=(8,) * n, lower=(0.0,) * n, upper=(1.0,) * n)
    record = registry.get("hyco_models", kind)
    model = record.factory(record.options(**options), BuildContext(seed=0, registry=registry, grid=grid, dt=0.01))
    assert isinstance(model, DeclaredModel)
    states = model.initial_states(9, torch.Generator().manual_seed(0))
    values = list(model.learnables.values().values())

    def captured(batch: Tensor) -> torch.fx.GraphModule:
        with model._tracing():
            return capture(model._step, batch, [value.detach() for value in values])

    graph = for_any_batch(captured, states[:1])
    for size in (1, 2, 9):
        with torch.no_grad():
            torch.testing.assert_close(
                graph(states[:size], *values), model._eager(states[:size], *values), rtol=1e-6, atol=1e-6
            )


def graph_of(step: object) -> torch.fx.GraphModule:
    return for_any_batch(partial(capture, step, parameters=[]), torch.ones(1, 1, 4))  # type: ignore[arg-type]


def multiplied(state: Tensor) -> Tensor:
    row = torch.arange(4.0).expand(len(state), 1, 4)
    return (torch.cat([state, row], dim=2) * (2 * len(state) + 1)).reshape(2 * len(state), 4)


def counted(state: Tensor) -> Tensor:
    return state + (torch.arange(len(state))[:, None, None] + torch.arange(4))


@pytest.mark.parametrize("step", [multiplied, counted])
def test_numbers_and_constants_that_follow_from_the_size_are_computed_from_it(step: Callable[[Tensor], Tensor]) -> None:
    graph = graph_of(step)
    for size in (1, 3, 5, 8):
        state = torch.rand(size, 1, 4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(graph(state), step(state))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda state: state + 1 if len(state) > 6 else state, "its graph differs between batch sizes"),
        (
            lambda state: state + 1.5 if len(state) > 6 else state + 2.5,
            "is computed with 2.5 or 1.5, depending on the batch size",
        ),
        (lambda state: state + torch.arange(len(state))[:, None, None] ** 2, "differs from sample to sample"),
        (lambda state: state / torch.tensor(float(len(state))), "or with the batch size"),
        (lambda state: state + torch.full((len(state), 1, 1), 1 / len(state)), "or with the batch size"),
        (lambda state: state + (torch.arange(len(state)) + len(state))[:, None, None], "or with the batch size"),
    ],
)
def test_what_depends_on_the_size_otherwise_is_refused(step: object, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        graph_of(step)
