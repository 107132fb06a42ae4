"""What factories are told: a context for each hook, and what plugins did with the one context of 0.1."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import attrs
import pytest
import torch

import hyco_engine as hyco
from hyco_engine.interfaces import (
    BuildContext,
    CacheContext,
    NormalizerContext,
    PartContext,
    PhysicsContext,
    SourceContext,
    StrategyContext,
    SurrogateContext,
    TrackerContext,
)
from hyco_engine.testing.contexts import tiny_context, tiny_grid, tiny_layout

KINDS: list[type[Any]] = [
    SourceContext,
    PhysicsContext,
    SurrogateContext,
    StrategyContext,
    NormalizerContext,
    CacheContext,
    TrackerContext,
]
FIELDS = attrs.fields_dict(BuildContext)
WHOLE = BuildContext(seed=0, registry=hyco.Registry())


def told(kind: type[PartContext]) -> Any:
    return kind(seed=3, registry=hyco.Registry(), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_holds_less_than_that_of_all_hooks_which_serves_in_its_place(kind: type[PartContext]) -> None:
    assert issubclass(BuildContext, kind)
    assert set(attrs.fields_dict(kind)) < set(FIELDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_concerns_a_hook_is_read_without_a_warning(kind: type[PartContext]) -> None:
    context = told(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in attrs.fields_dict(kind):
            assert name in ("seed", "registry", "dtype") or getattr(context, name) == getattr(WHOLE, name)
        assert context.generator("a", 1).initial_seed() == WHOLE.derive(kind, seed=3).generator("a", 1).initial_seed()


@pytest.mark.parametrize("kind", KINDS)
def test_what_concerns_another_hook_is_as_it_was_and_warns(kind: type[PartContext]) -> None:
    context = told(kind)
    for name in FIELDS.keys() - attrs.fields_dict(kind).keys():
        with pytest.warns(DeprecationWarning, match=name):
            assert getattr(context, name) == getattr(WHOLE, name)


def test_methods_of_other_hooks_work_on_what_the_context_has() -> None:
    layout = tiny_layout(8)
    surrogate = tiny_context(layout).derive(SurrogateContext)
    with pytest.warns(DeprecationWarning, match="layout_for"):
        assert surrogate.layout_for(layout.dynamic) is layout  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="physics"), pytest.raises(hyco.SpecError, match=r"no \[physical\]"):
        told(SourceContext).physics()


def test_what_no_context_ever_had_is_an_error() -> None:
    for name in ("layuot", "_private", "__foreign__"):
        with pytest.raises(AttributeError, match=name):
            getattr(told(SourceContext), name)
    with pytest.raises(TypeError, match="layuot"):
        SourceContext(seed=0, registry=hyco.Registry(), layuot=None)  # type: ignore[call-arg]


def test_a_context_evolved_by_its_own_fields_stays_of_its_kind() -> None:
    changed = attrs.evolve(told(SourceContext), num_frames=5)
    assert (type(changed), changed.num_frames, changed.seed) == (SourceContext, 5, 3)


def test_a_context_evolved_by_other_hooks_fields_serves_every_hook() -> None:
    grid = tiny_grid(8)
    with pytest.warns(DeprecationWarning, match="grid, inner_dt"):
        changed = attrs.evolve(told(SourceContext), grid=grid, inner_dt=0.1, num_frames=None)
    assert type(changed) is BuildContext
    assert (changed.grid, changed.inner_dt, changed.seed, changed.dtype) == (grid, 0.1, 3, torch.float64)


def test_the_context_of_all_hooks_is_built_and_evolved_as_before() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = attrs.evolve(
            BuildContext(seed=1, registry=hyco.Registry(), dt=0.1), grid=tiny_grid(4), compile="eager"
        )
        assert context.layout_for(tiny_layout(4).dynamic).grid == tiny_grid(4)
    assert (type(context), context.dt, context.compile, context.num_frames) == (BuildContext, 0.1, "eager", None)


def test_a_derived_context_has_what_both_have() -> None:
    layout = tiny_layout(8)
    physics = tiny_context(layout, seed=7).derive(SurrogateContext).derive(PhysicsContext, inner_dt=0.01)
    assert (type(physics), physics.layout, physics.dt, physics.seed) == (PhysicsContext, layout, 0.02, 7)
    assert physics.statistics is not None
    assert physics.inner_dt == 0.01


def test_a_context_is_copied_as_it_is() -> None:
    context = told(NormalizerContext)
    assert copy.copy(context) == context
    assert copy.deepcopy(attrs.evolve(context, registry=None)) == attrs.evolve(context, registry=None)
