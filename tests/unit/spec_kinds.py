"""Kinds for the tests of the spec: one of each shape that option classes can have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from hyco_engine.data.settings import BoundarySetting
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.hooks.registry import Registry
from hyco_engine.spec.choices import NormalizerChoice
from hyco_engine.spec.options import option, options


@options
class NoOptions:
    """Nothing to choose."""


@options
class BurgersOptions:
    """Options of the tests' physics."""

    scheme: Literal["euler", "rk4"] = option("rk4", help="time stepping")
    substeps: int = option(1, help="inner steps", ge=1)
    forcing: Path | None = option(None, help="a file with the forcing")


@options
class HeatOptions:
    """Options of the other physics, which shares one key."""

    substeps: int = option(1, help="inner steps", ge=1)
    implicit: bool = option(False, help="implicit diffusion")


@options
class Optimiser:
    """A nested table whose defaults depend on where it stands."""

    lr: float = option(1e-3, help="learning rate", gt=0.0)
    betas: tuple[float, float] = option((0.9, 0.999), help="decay rates", ge=0.0, lt=1.0)


@options
class UNetOptions:
    """Options of the tests' surrogate."""

    levels: int = option(3, help="resolution levels", ge=1, le=6)
    width: int = option(16, help="channels")
    activation: Literal["silu", "gelu"] = option("silu", help="nonlinearity")
    dilations: tuple[int, ...] = option((1,), help="taps", ge=1)
    dropout: float = option(0.0, help="share of channels left out", ge=0.0, lt=1.0)
    residual: bool = option(True, help="predict the change")
    heads: Mapping[str, Optimiser] = option(attrs.Factory(dict), help="by name")
    inner: Optimiser = option(attrs.Factory(lambda: Optimiser(lr=0.5)), help="of the inner loop")
    norm: NormalizerChoice = option(attrs.Factory(lambda: NormalizerChoice(kind="batch-stat")), help="own normalizer")


@options
class ArraysOptions:
    """Options of the tests' source."""

    path: Path = option(help="the file")
    also: tuple[Path, ...] = option((), help="more files")
    dt: float = option(0.1, help="time between frames", unit="s", gt=0.0)
    extent: Mapping[str, tuple[float, float]] = option(attrs.Factory(dict), help="by axis")
    boundary: BoundarySetting | None = option(None, help="boundary condition")


@options
class BatchStatOptions:
    """Options of a normalizer."""

    momentum: float = option(0.9, help="of the running statistics", ge=0.0, lt=1.0)


@options
class CsvOptions:
    """Options of a tracker."""

    file: Path = option(Path("metrics.csv"), help="the table", output=True)
    every: int = option(1, help="epochs", ge=1)


def _part(options: Any, context: Any) -> Any:
    return options


def make_registry() -> Registry:
    registry = Registry()
    models = [
        ("burgers", "physical", BurgersOptions),
        ("heat", "physical", HeatOptions),
        ("unet", "synthetic", UNetOptions),
    ]
    for kind, role, cls in models:
        _register(registry, ModelRecord(kind=kind, summary=f"the {kind}", options=cls, factory=_part, role=role))
    others = [
        ("arrays", "hyco_sources", ArraysOptions),
        ("trust", "hyco_strategies", NoOptions),
        ("manual", "hyco_normalizers", NoOptions),
        ("batch-stat", "hyco_normalizers", BatchStatOptions),
        ("memory", "hyco_caches", NoOptions),
        ("csv", "hyco_trackers", CsvOptions),
    ]
    for kind, hook, cls in others:
        _register(registry, Record(kind=kind, summary=f"the {kind}", options=cls, factory=_part), hook)
    return registry


def _register(registry: Registry, record: Record, hook: str | None = None) -> None:
    registry.register(record, distribution=f"test-{record.kind}", version="1", hook=hook)


GOOD = """\
[run]
cycles = 2

[data]
kind = "arrays"
path = "u.npy"

[physical]
kind = "burgers"
parameters.nu = {init = 0.05, bounds = [1e-5, inf]}

[synthetic]
kind = "unet"
"""
