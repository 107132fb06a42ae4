"""Physical models: declare fields and parameters, write one step in plain PhiFlow or torch.

This package and the modules of the physical models are the only places that import PhiFlow. Names are imported when
they are first used, so that importing the package imports neither torch nor phi.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyco_engine.physics.fields_view import FieldSamples, FieldView
    from hyco_engine.physics.initial import noise_field, smooth_noise
    from hyco_engine.physics.layout import Converter, to_fields, to_tensor
    from hyco_engine.physics.model import FlowModel, FlowPhysics, TorchModel, TorchPhysics
    from hyco_engine.physics.parameters import Learnables, ParameterDeclaration

_HOME = {
    "Converter": "layout",
    "FieldSamples": "fields_view",
    "FieldView": "fields_view",
    "FlowModel": "model",
    "FlowPhysics": "model",
    "Learnables": "parameters",
    "ParameterDeclaration": "parameters",
    "TorchModel": "model",
    "TorchPhysics": "model",
    "noise_field": "initial",
    "smooth_noise": "initial",
    "to_fields": "layout",
    "to_tensor": "layout",
}

__all__ = [
    "Converter",
    "FieldSamples",
    "FieldView",
    "FlowModel",
    "FlowPhysics",
    "Learnables",
    "ParameterDeclaration",
    "TorchModel",
    "TorchPhysics",
    "noise_field",
    "smooth_noise",
    "to_fields",
    "to_tensor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
