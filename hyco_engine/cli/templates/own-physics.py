# Your own physics in one file: write its step in PhiFlow, then find its parameters and train a surrogate with it.
#
#   python own-physics.py
#
# As it stands it simulates its own data. Go through the lines marked with "<-". To share the physics with others, make
# it a plugin: docs/extending.md.

import math

from phi import math as phimath
from phi.physics import diffuse

import hyco_engine as hyco
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.physics import FlowModel, FlowPhysics, ParameterDeclaration, noise_field


@hyco.options
class Options:
    """`[physical] kind = "my-physics"`."""

    source: float = hyco.option(0.0, help="heating everywhere", unit="K/s")  # <- known numbers that a spec may set


class MyPhysics(FlowPhysics):
    """Diffusion with losses: du/dt = kappa lap(u) - k u + source."""

    parameters = (  # <- what may be learned: name, start, open interval, unit
        ParameterDeclaration(name="kappa", init=0.05, bounds=(0.0, math.inf), unit="m^2/s"),
        ParameterDeclaration(name="k", init=0.1, bounds=(0.0, math.inf), unit="1/s"),
    )

    def __init__(self, options):
        self.options = options

    def fields(self, axes):
        """(fields that are predicted, fields that are inputs only); the data's boundary counts where it has one."""
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes), unit="K")], []  # <-

    def step(self, fields, parameters, dt):
        """One internal step, pure, in PhiFlow's own words."""
        u = diffuse.explicit(fields["u"], parameters["kappa"], dt)  # <-
        return {"u": u * phimath.exp(-parameters["k"] * dt) + self.options.source * dt}

    def internal_steps(self, layout, size, parameters, dt):
        """How many of them make a frame: here what explicit diffusion is stable with."""
        rate = float(parameters["kappa"]) * sum(dx**-2 for dx in layout.grid.spacing)
        return max(1, math.ceil(dt * rate / 0.25))

    def initial_states(self, layout, count, generator):
        """Only for data that is simulated: states to start from."""
        (u,) = layout.dynamic
        return noise_field(u, layout.grid, layout.spatial, count, generator, scale=0.25)


RECORD = hyco.ModelRecord(
    kind="my-physics",
    role="physical",
    summary="diffusion with losses",
    options=Options,
    factory=lambda options, context: FlowModel(MyPhysics(options), context),
)

SPEC = {
    "run": {"name": "own-physics", "cycles": 2},
    "data": {  # <- or {"kind": "arrays", "path": "data.npz", ...}: `hyco-engine inspect data.npz` writes it
        "kind": "simulate",
        "name": "own-physics",
        "truth": {"kappa": 0.02, "k": 0.5},
        "num_simulations": 6,
        "num_frames": 16,
        "resolution": {"x": 32},
        "dt": 0.05,
        "split": {"train": "0:4", "val": "4:5", "test": "5:6"},
    },
    "physical": {"kind": "my-physics"},
    "synthetic": {"kind": "resnet", "width": 16, "blocks": 2},
    "training": {"synthetic": {"epochs_per_cycle": 40}, "physical": {"epochs_per_cycle": 5}},
}

if __name__ == "__main__":
    registry = hyco.Registry.discover()
    registry.register(RECORD, distribution="own-physics", version="0", hook="hyco_models")
    result = hyco.run(SPEC, registry=registry)
    print(result)
    print(f"open {result.folder / 'report.html'} in a browser")
