"""Built-in models. Factories import torch and PhiFlow when called; this module must not."""

from __future__ import annotations

from typing import Any, Literal

from hyco_engine.builtin.models import options_physical as physical
from hyco_engine.builtin.models import options_synthetic as synthetic
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import ModelRecord, imported


def _record(
    kind: str,
    role: Literal["physical", "synthetic"],
    options: type,
    summary: str,
    *,
    settles: bool = False,
    **more: Any,
) -> ModelRecord:
    """Return the record of the kind `some-kind`, whose factory is `build` in the module `some_kind` of this package.

    If its options may be left open, the function `settled` of that module settles them. `more` belongs to the record.
    """
    module = f"{__name__}.{kind.replace('-', '_')}"
    settled = imported(module, "settled") if settles else None
    factory = imported(module, "build")
    return ModelRecord(kind=kind, role=role, summary=summary, options=options, factory=factory, settled=settled, **more)


@hookimpl
def hyco_models() -> list[ModelRecord]:
    return [
        _record(
            "advection",
            "physical",
            physical.AdvectionOptions,
            "advection of a scalar by a known velocity and one to be learned, a number or a field for each axis",
        ),
        _record(
            "burgers",
            "physical",
            physical.BurgersOptions,
            "viscous Burgers equation in 1 to 3 dimensions; viscosity as a number or a field",
        ),
        _record(
            "coordinate-mlp",
            "synthetic",
            synthetic.CoordinateMLPOptions,
            "a function of position and time, for observations at points of one simulation",
        ),
        _record(
            "corrected",
            "synthetic",
            synthetic.CorrectedOptions,
            "the physics of [physical] plus a learned correction, for a physics that lacks something",
        ),
        _record(
            "equation",
            "physical",
            physical.EquationOptions,
            "your own equations, written as text: rates of change of fields, with parameters found by their names",
            uses_time=physical.EquationOptions.uses_time,
            gives_start=physical.EquationOptions.gives_start,
        ),
        _record(
            "fisher-kpp",
            "physical",
            physical.FisherKppOptions,
            "Fisher-KPP growth and spreading of a population; diffusivity and growth rate as numbers or fields",
        ),
        _record(
            "gray-scott",
            "physical",
            physical.GrayScottOptions,
            "Gray-Scott reaction and diffusion of two substances; diffusivities, feed and kill rates",
        ),
        _record(
            "heat",
            "physical",
            physical.HeatOptions,
            "heat equation; conductivity as a number, a field, or a sum of Gaussians with few parameters",
        ),
        _record(
            "inviscid-burgers",
            "physical",
            physical.InviscidBurgersOptions,
            "inviscid Burgers equation in 1-D with shocks, in a potential to be learned",
        ),
        _record(
            "kuramoto-sivashinsky",
            "physical",
            physical.KuramotoSivashinskyOptions,
            "Kuramoto-Sivashinsky equation in 1-D, chaotic; anti-diffusion and hyperviscosity",
        ),
        _record(
            "mlp",
            "synthetic",
            synthetic.MlpOptions,
            "residual network of the fields of a system without space; predicts the change of one step",
        ),
        _record(
            "navier-stokes",
            "physical",
            physical.NavierStokesOptions,
            "incompressible flow in a periodic 2-D box; viscosity, drag, amplitude of a force",
        ),
        _record(
            "resnet",
            "synthetic",
            synthetic.ResNetOptions,
            "residual convolutional network at full resolution; predicts the change of one step",
        ),
        _record(
            "smoke",
            "physical",
            physical.SmokeOptions,
            "smoke rising in a closed box, on a staggered grid; buoyancy, viscosity, diffusivity",
        ),
        _record(
            "unet",
            "synthetic",
            synthetic.UNetOptions,
            "convolutions on halved resolutions, with skips; predicts the change of one step",
            settles=True,
        ),
    ]
