from __future__ import annotations

import pytest
import torch
from cache_cases import layout
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.errors import RunError

STATES = torch.randn(30, 2, 8, generator=torch.Generator().manual_seed(0))


class Teacher(nn.Module):
    """Twice the dynamic field plus the static one; dropout that only eval mode silences."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(1).eval()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, state: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return self.dropout(self.scale * state[:, :1] + state[:, 1:])


def recipe(teacher: nn.Module, count: int = 30, **settings: object) -> RolloutRecipe:
    options: dict[str, object] = {"horizon": 3, "layout": layout(), "batch_size": 4} | settings
    return RolloutRecipe(teacher, lambda indices: STATES[indices], count, **options)  # type: ignore[arg-type]


def test_the_prediction_is_the_next_input_and_static_channels_are_carried_along() -> None:
    indices = torch.tensor([4, 0])
    inputs, targets = recipe(Teacher()).generate(indices)
    assert isinstance(targets, Tensor)
    u, k = STATES[indices, :1], STATES[indices, 1:]
    steps = [2 * u + k, 4 * u + 3 * k, 8 * u + 7 * k]
    assert torch.equal(torch.as_tensor(inputs), STATES[indices])
    torch.testing.assert_close(targets, torch.stack(steps, dim=1))


def test_sizes_are_exact() -> None:
    made = recipe(Teacher(), 11)
    inputs, targets = made.generate(torch.arange(5))
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    assert (len(made), made.batch_size) == (11, 4)
    assert made.sample_bytes * 5 == inputs.nbytes + targets.nbytes
    double = recipe(Teacher().double(), dtype=torch.float64)
    assert double.sample_bytes == 2 * made.sample_bytes
    assert torch.as_tensor(double.generate(torch.arange(2))[1]).dtype == torch.float64


def test_the_teacher_generates_in_eval_mode_without_gradients_and_is_left_as_it_was() -> None:
    teacher = Teacher()
    _, targets = recipe(teacher).generate(torch.arange(3))
    assert set(teacher.seen) == {(False, False)}
    assert not torch.as_tensor(targets).requires_grad
    assert teacher.training
    assert teacher.dropout.training
    assert not teacher.frozen.training
    assert torch.is_grad_enabled()


@settings(max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 29), min_size=1, max_size=20))
def test_a_sample_depends_on_its_index_alone(indices: list[int]) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv1d(8, 1, 3, padding=1))
    made = recipe(teacher)
    _, together = made.generate(torch.tensor(indices))
    for place, index in enumerate(indices):
        alone = torch.as_tensor(made.generate(torch.tensor([index]))[1])[0]
        torch.testing.assert_close(torch.as_tensor(together)[place], alone, rtol=1e-5, atol=1e-6)


def test_a_diverging_teacher_is_named_with_the_place() -> None:
    class Diverging(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return torch.where(state[:, :1] > 1.5, torch.inf, state[:, :1])

    bad = (STATES[:, 0] > 1.5).any(1)
    first = int(bad.nonzero()[0])
    with pytest.raises(RunError) as caught:
        recipe(Diverging(), where="cycle 2, by the physical model").generate(torch.arange(30))
    assert str(caught.value).startswith(
        f"cycle 2, by the physical model: Diverging generated non-finite values in {int(bad.sum())} of 30 samples "
        f"(first: sample {first}, step 1 of 3, field 'u')"
    )


def test_starts_that_are_not_finite_are_not_the_teacher_s_fault() -> None:
    states = STATES.clone()
    states[7, 1, 3] = torch.nan
    made = RolloutRecipe(Teacher(), lambda indices: states[indices], 30, horizon=2, layout=layout())
    with pytest.raises(RunError, match=r"starts for Teacher hold non-finite values in 1 of 9 .*sample 7, field 'k'"):
        made.generate(torch.arange(9))


def test_wrong_shapes_and_numbers() -> None:
    with pytest.raises(RunError, match=r"a start must be \[2, 9\], got \[2, 8\]"):
        recipe(Teacher(), layout=layout(9)).generate(torch.arange(3))
    with pytest.raises(RunError, match=r"rollout of 3 steps must be \[3, 1, 8\], got \[3, 2, 8\]"):
        recipe(nn.Identity()).generate(torch.arange(3))
    for wrong in ({"count": -1}, {"horizon": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="count must be >= 0"):
            recipe(Teacher(), **wrong)  # type: ignore[arg-type]
