"""Finds the physics that a model contains."""

from __future__ import annotations

from torch import nn

from hyco_engine.interfaces import PhysicalModel


def physics_within(model: nn.Module) -> dict[str, PhysicalModel]:
    """Return the physical models within a model by their names in it; a physics has itself, under the empty name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, PhysicalModel)}
