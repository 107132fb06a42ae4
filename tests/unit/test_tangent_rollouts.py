"""Derivatives of captured rollouts by their start states, in blocks of a fixed number."""

from __future__ import annotations

import pytest
import torch
from gallery_cases import Case

from hyco_engine.rollout import rollout
from hyco_engine.training import tangents
from hyco_engine.training.tangents import LEAST_BLOCK, TangentRollout

CELLS = 48
FISHER = Case(kind="fisher-kpp", resolution=(CELLS,), upper=(10.0,), dt=0.1, options={"length_scale": 0.1})
SIZES = (3, LEAST_BLOCK + 5)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangents, "BLOCK_VALUES", 1)


@pytest.mark.parametrize("size", SIZES)
def test_derivatives_along_changes_of_the_start_are_those_of_differences(size: int) -> None:
    model = FISHER.model(parameters={"D": 0.2, "r": 1.0}, compile="graph").double()
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(2, 1, CELLS, generator=generator, dtype=torch.float64)
    basis = torch.randn(size, 1, CELLS, generator=generator, dtype=torch.float64)
    point = torch.cat([raw.detach().flatten() for raw in model.learnables.raw.values()])[None]
    predictions, derivatives = TangentRollout(model)(state, 3, point, True, basis)
    assert derivatives is not None
    numbers = point.shape[1]
    assert derivatives.shape == (1, numbers + size, 2, 3, 1, CELLS)
    torch.testing.assert_close(predictions[0], rollout(model, state, 3).detach())
    h = 1e-5
    for index in (0, size // 2, size - 1):
        moved = [rollout(model, state + sign * h * basis[index], 3).detach() for sign in (1, -1)]
        torch.testing.assert_close(
            derivatives[0, numbers + index], (moved[0] - moved[1]) / (2 * h), rtol=1e-6, atol=1e-7
        )


def test_more_waves_need_no_new_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = []
    capture = tangents._captured
    monkeypatch.setattr(tangents, "_captured", lambda *given: captured.append(given[-1]) or capture(*given))
    model = FISHER.model(parameters={"D": 0.2, "r": 1.0}, compile="graph").double()
    point = torch.cat([raw.detach().flatten() for raw in model.learnables.raw.values()])[None]
    state = torch.rand(2, 1, CELLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    roll_out = TangentRollout(model)
    for size in (LEAST_BLOCK - 5, LEAST_BLOCK - 2, LEAST_BLOCK + 5, CELLS):
        roll_out(state, 2, point, True, torch.eye(CELLS, dtype=torch.float64)[:size, None])
    assert captured == [LEAST_BLOCK]
