"""Spec keys of the built-in surrogates."""

from __future__ import annotations

from typing import Literal

from hyco_engine.spec.options import option, options

Activation = Literal["gelu", "silu", "relu", "tanh"]
KernelSize = Literal[3, 5, 7, 9]
POSITIONS = "true: the network also receives the position of each cell, for laws that differ from place to place"


@options
class ResNetOptions:
    """`[synthetic] kind = "resnet"`."""

    width: int = option(
        32, help="number of feature channels; multiples of 16 suit a CPU's vector units best", ge=1, le=1024
    )
    blocks: int = option(4, help="number of residual blocks, each of two convolutions", ge=1, le=64)
    kernel_size: KernelSize = option(5, help="taps of each convolution along each axis")
    dilations: tuple[int, ...] = option(
        (1,),
        help="distance between taps in each block; with more blocks than entries, the list starts again",
        ge=1,
        le=256,
    )
    activation: Activation = option("gelu", help="nonlinearity")
    positions: bool = option(False, help=POSITIONS)

    def __attrs_post_init__(self) -> None:
        if not self.dilations:
            raise ValueError("dilations needs at least one number, e.g. [1] or [1, 2, 4]")


@options
class MlpOptions:
    """`[synthetic] kind = "mlp"`."""

    width: int = option(64, help="number of hidden units in each layer", ge=1, le=4096)
    blocks: int = option(2, help="number of residual blocks, each of two layers", ge=1, le=64)
    activation: Activation = option("gelu", help="nonlinearity")


@options
class UNetOptions:
    """`[synthetic] kind = "unet"`."""

    levels: int | Literal["auto"] = option(
        "auto",
        help="number of times that the network halves the resolution; the grid needs 2^(levels + 1) cells along each "
        "axis; auto: so many that about 128 cells are left along the shortest axis, 2 to 5; 1 for fewer than 8 cells",
        ge=1,
        le=8,
    )
    width: int | Literal["auto"] = option(
        "auto",
        help="number of feature channels at full resolution; each level doubles it; auto: 32 if run.budget allows so "
        "wide a network all its steps, else 16",
        ge=1,
        le=512,
    )
    kernel_size: KernelSize = option(3, help="taps of each convolution along each axis")
    activation: Activation = option("gelu", help="nonlinearity")
    positions: bool = option(False, help=POSITIONS)


@options
class CoordinateMLPOptions:
    """`[synthetic] kind = "coordinate-mlp"`."""

    duration: float = option(help="time that the data spans; the network scales its inputs by it", unit="time", gt=0.0)
    width: int = option(64, help="number of hidden units in each layer", ge=1, le=4096)
    depth: int = option(3, help="number of hidden layers", ge=1, le=32)


@options
class CorrectedOptions:
    """`[synthetic] kind = "corrected"`."""

    width: int = option(16, help="number of feature channels of the correction", ge=1, le=1024)
    depth: int = option(2, help="number of hidden layers of the correction", ge=1, le=32)
    kernel_size: Literal[1, 3, 5, 7, 9] = option(
        1,
        help="taps of each layer along each axis; 1: the correction at a point depends on the state at that point "
        "alone",
    )
    activation: Activation = option("tanh", help="nonlinearity")
    positions: bool = option(True, help="true: the correction also receives the position of each cell")
