"""A Fourier neural operator for hyco-engine. It imports torch only when it is built."""

from __future__ import annotations

from typing import Literal

from hyco_engine import ModelRecord, hookimpl, imported, option, options


@options
class FNOOptions:
    """`[synthetic] kind = "fno"`."""

    modes: tuple[int, ...] = option(
        (12,),
        help="frequencies kept along each axis, 0 among them: one number for all axes, or one for each; an axis needs "
        "2 * modes - 1 cells",
        ge=1,
    )
    width: int = option(24, help="feature channels", ge=1, le=1024)
    layers: int = option(4, help="Fourier layers", ge=1, le=64)
    activation: Literal["gelu", "silu", "relu", "tanh"] = option("gelu", help="nonlinearity")
    padding: float = option(
        0.25,
        help="how far states are continued beyond each side of a non-periodic axis, by their boundary condition, as a "
        "share of the axis",
        ge=0.0,
        le=1.0,
    )
    positions: bool = option(
        False, help="true: the network is told where each cell is; for laws that differ from place to place"
    )

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.modes) <= 3:
            raise ValueError("modes is one number for all axes or one for each, e.g. [12] or [12, 8]")


@hookimpl
def hyco_models() -> list[ModelRecord]:
    return [
        ModelRecord(
            kind="fno",
            role="synthetic",
            summary="Fourier neural operator: learned filters of low frequencies; predicts the change of one step",
            options=FNOOptions,
            factory=imported("hyco_engine_fno.model"),
        )
    ]
