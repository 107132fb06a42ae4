from __future__ import annotations

import pytest
import torch
from cache_cases import Numbered, equal
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming
from torch import Tensor

from hyco_engine.augment.dataset import AugmentedDataset
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.errors import RunError
from hyco_engine.interfaces import GeneratedSamples


def made(count: int, **options: object) -> GeneratedSamples:
    return Memory().hold(Numbered(count, **options), None)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    n_real=st.integers(0, 20),
    n_generated=st.integers(0, 20),
    batch_size=st.integers(1, 9),
    named=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batches_mix_both_kinds_in_the_order_that_is_asked_for(
    n_real: int, n_generated: int, batch_size: int, named: bool, seed: int
) -> None:
    # one recipe in two parts: real samples are its first, generated ones those that follow
    whole = Numbered(n_real + n_generated, named=False)
    real, generated = made(n_real), made(n_generated, offset=n_real)
    if named:
        whole = Numbered(n_real + n_generated, named=True)
        real, generated = made(n_real, named=True), _Shifted(n_generated, n_real)
    data = AugmentedDataset(real, generated, weight=0.25)
    assert (len(data), data.n_real, data.n_generated) == (n_real + n_generated, n_real, n_generated)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    data.upcoming(torch.split(order, batch_size))
    for indices in torch.split(order, batch_size):
        if len(indices):
            assert equal(data.batch(indices), whole.generate(indices))
            assert equal(data.inputs(indices), whole.generate(indices)[0])
            assert torch.equal(data.is_generated(indices), indices >= n_real)
            weight = data.sample_weight(indices)
            assert (weight is None) == (n_generated == 0)
            if weight is not None:
                assert weight.tolist() == [0.25 if i >= n_real else 1.0 for i in indices.tolist()]


class _Shifted(GeneratedSamples):
    """Samples of the named recipe from `offset` on; `label` counts them as well."""

    def __init__(self, count: int, offset: int) -> None:
        self.count, self.offset, self.recipe = count, offset, Numbered(count, named=True)

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        return 0

    def batch(self, indices: Tensor):  # type: ignore[no-untyped-def]
        return self.recipe.generate(indices + self.offset)


def test_real_samples_alone_are_passed_through() -> None:
    real = made(7)
    data = AugmentedDataset(real)
    indices = torch.tensor([3, 1])
    assert equal(data.batch(indices), real.batch(indices))
    assert data.sample_weight(indices) is None
    assert not data.is_generated(indices).any()
    data.upcoming([indices])
    assert data.n_generated == 0


def test_weight_one_is_no_weight() -> None:
    assert AugmentedDataset(made(3), made(3), weight=1.0).sample_weight(torch.arange(6)) is None


def test_every_batch_of_a_permutation_keeps_its_share_of_real_samples() -> None:
    data = AugmentedDataset(made(320), made(320))
    order = torch.randperm(640, generator=torch.Generator().manual_seed(0))
    shares = [float(data.is_generated(indices).float().mean()) for indices in torch.split(order, 64)]
    assert all(0.3 < share < 0.7 for share in shares)


def test_batches_are_contiguous_copies_whatever_the_cache_gives() -> None:
    generated = OnTheFly().hold(Numbered(40, batch_size=16), None)
    data = AugmentedDataset(made(2), generated)
    order = torch.split(torch.arange(2, 42), 4)
    data.upcoming(order)
    for indices in order:
        for part in data.batch(indices):
            assert isinstance(part, Tensor)
            assert part.is_contiguous()
            assert part.storage_offset() == 0
    generated.close()


@pytest.mark.parametrize(
    ("generated", "named"),
    [
        (Numbered(4, size=6), ["input", [5], [6], "float32"]),
        (Numbered(4, named=True), ["input", "tensor", "x", "label"]),
    ],
)
def test_samples_that_do_not_fit_together(generated: Numbered, named: list[object]) -> None:
    data = AugmentedDataset(made(4), Memory().hold(generated, None))
    with error_naming(RunError, *named):
        data.batch(torch.arange(8))
