"""The physics that a model contains, and what they need."""

from __future__ import annotations

from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.interfaces import PhysicalModel, Values


def physics_within(model: nn.Module) -> dict[str, PhysicalModel]:
    """Return the physical models within a model by their names in it; a physics has itself, under the empty name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, PhysicalModel)}


def known_parameters(model: nn.Module, layout: StateLayout) -> tuple[str, ...]:
    """Return the numbers of a simulation that a physical model takes as parameters; a surrogate takes none."""
    physics = physics_within(model).get("")
    if physics is None:
        return ()
    taken = {*physics.learnables.given.values(), *physics.learnables.index}
    return tuple(name for name in layout.scalars if name in taken)


def internal_steps(model: nn.Module) -> int:
    """Return the largest number of internal steps in a frame of a physics within `model`; 1 if there is none."""
    return max((int(getattr(physics, "substeps", 1)) for physics in physics_within(model).values()), default=1)


def instability(model: nn.Module, states: Values) -> str | None:
    """Return the first warning of a physics within `model` that its steps from `states [B, C_all, *S]` are too long."""
    if not isinstance(states, Tensor):
        return None
    states = fitted(states, model)
    told = (physics.stability(states) for physics in physics_within(model).values())
    return next((text for text in told if text is not None), None)


def fitted(states: Tensor, model: nn.Module) -> Tensor:
    """Return states on the device and of the type of a model's numbers; as they are if it has none."""
    own = [*model.parameters(), *model.buffers()]
    return states.to(next((tensor for tensor in own if tensor.is_floating_point()), states))
