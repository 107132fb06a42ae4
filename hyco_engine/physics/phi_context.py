"""What must hold around every PhiFlow call: precision, backend, device, silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from phiml.backend.torch import TORCH
from phiml.math import precision
from torch import Tensor


@contextmanager
def phi_context(state: Tensor) -> Iterator[None]:
    """PhiFlow computes in the state's precision, and what it creates itself is torch, on the state's device.

    PhiML's precision, backend and device are global; they are put back afterwards. PhiFlow's own CFL warnings are
    silenced, since `FlowPhysics.stability` says it once and better, and so are its deprecations, which are its business.
    """
    before = TORCH.get_default_device()
    with TORCH, precision(torch.finfo(state.dtype).bits), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CFL condition violated.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"phi(ml)?\.")
        TORCH.set_default_device(_device_of(state))
        try:
            yield
        finally:
            TORCH.set_default_device(before)


def _device_of(state: Tensor) -> object:
    index = state.device.index or 0
    kind = "GPU" if state.device.type == "cuda" else "CPU"
    devices = TORCH.list_devices(kind)
    return devices[index] if kind == "GPU" else devices[0]


@contextmanager
def phi_tracing() -> Iterator[None]:
    """How PhiML must behave while a graph is captured.

    It asks whether a tensor's values can be read before it checks them: they cannot. And torch's own periodic padding
    writes into a new tensor, which a graph keeps as it is; PhiML's general way, concatenation, gives the same values.
    """
    native_pad = TORCH.pad

    def pad(value: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
        return NotImplemented if mode == "periodic" else native_pad(value, pad_width, mode, constant_values)

    TORCH.is_available = lambda tensor: False
    TORCH.pad = pad
    try:
        yield
    finally:
        del TORCH.is_available
        del TORCH.pad
