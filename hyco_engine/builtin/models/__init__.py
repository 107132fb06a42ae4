"""Built-in models. Factories import torch and PhiFlow; this module must not."""

from __future__ import annotations

from typing import Any

from hyco_engine.builtin.models.options_physical import BurgersOptions
from hyco_engine.builtin.models.options_synthetic import ResNetOptions, UNetOptions
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import ModelRecord


def _burgers(options: BurgersOptions, context: Any) -> Any:
    from hyco_engine.builtin.models.burgers import build

    return build(options, context)


def _resnet(options: ResNetOptions, context: Any) -> Any:
    from hyco_engine.builtin.models.resnet import build

    return build(options, context)


def _unet(options: UNetOptions, context: Any) -> Any:
    from hyco_engine.builtin.models.unet import build

    return build(options, context)


@hookimpl
def hyco_models() -> list[ModelRecord]:
    return [
        ModelRecord(
            kind="burgers",
            role="physical",
            summary="viscous Burgers equation in 1 to 3 dimensions; viscosity as a number or a field",
            options=BurgersOptions,
            factory=_burgers,
        ),
        ModelRecord(
            kind="resnet",
            role="synthetic",
            summary="residual convolutional network at full resolution; predicts the change of one step",
            options=ResNetOptions,
            factory=_resnet,
        ),
        ModelRecord(
            kind="unet",
            role="synthetic",
            summary="convolutions on halved resolutions, with skips; predicts the change of one step",
            options=UNetOptions,
            factory=_unet,
        ),
    ]
