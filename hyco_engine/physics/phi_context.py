"""The context of every PhiFlow call: precision, backend, device and warnings."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from phiml.backend.torch import TORCH
from phiml.math import precision
from torch import Tensor
from torch.autograd.function import once_differentiable

# samples may be generated in a separate thread
_ALONE = threading.RLock()


@contextmanager
def phi_context(state: Tensor) -> Iterator[None]:
    """Make PhiFlow compute in the state's precision and create torch tensors on the state's device.

    PhiML's precision, backend and device are global; they are restored afterwards, and one thread is inside at a time.
    PhiFlow's own CFL warnings are silenced, because `FlowPhysics.stability` warns once and with a remedy; PhiFlow's
    deprecation warnings are silenced, because they concern only PhiFlow.
    """
    with _ALONE:
        yield from _in_context(state)


def _in_context(state: Tensor) -> Iterator[None]:
    before = TORCH.get_default_device()
    native_sample = TORCH.grid_sample

    def grid_sample(grid: Tensor, coordinates: Tensor, extrapolation: str) -> Any:
        # torch reads NaN as some valid place, and its gradient may crash the interpreter; here NaN stays NaN
        finite = torch.where(coordinates.isfinite(), coordinates, torch.zeros_like(coordinates))
        result = native_sample(grid, finite, extrapolation)
        return result if result is NotImplemented else result + ((coordinates - finite) * 0).sum(-1, keepdim=True)

    with TORCH, precision(torch.finfo(state.dtype).bits), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CFL condition violated.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"phi(ml)?\.")
        # torch's category for this depends on its version
        warnings.filterwarnings("ignore", message="`torch.jit.*` is deprecated")
        TORCH.set_default_device(_device_of(state))
        # None if the method is that of the class, else the method that the surrounding context has set
        outer = vars(TORCH).get("grid_sample")
        TORCH.grid_sample = grid_sample
        try:
            yield
        finally:
            if outer is None:
                del TORCH.grid_sample
            else:
                TORCH.grid_sample = outer
            TORCH.set_default_device(before)


def run_in_context(step: Callable[..., Tensor], state: Tensor, *parameters: Tensor) -> Tensor:
    """Return `step(state, *parameters)` such that its gradient is computed in `phi_context` too.

    A step that solves equations solves them again in its gradient, in the precision and on the device of that moment.
    """
    return cast(Tensor, _InContext.apply(step, state, *parameters))  # type: ignore[no-untyped-call]


class _InContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        held = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):
            output = step(*held)
        ctx.held, ctx.output = held, output
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [tensor for tensor in ctx.held if tensor.requires_grad]
        with phi_context(ctx.held[0]):
            found = iter(torch.autograd.grad(ctx.output, wanted, grad, retain_graph=True, allow_unused=True))
        return None, *(next(found) if tensor.requires_grad else None for tensor in ctx.held)


def _device_of(state: Tensor) -> object:
    index = state.device.index or 0
    kind = "GPU" if state.device.type == "cuda" else "CPU"
    devices = TORCH.list_devices(kind)
    return devices[index] if kind == "GPU" else devices[0]


@contextmanager
def phi_tracing() -> Iterator[None]:
    """Set how PhiML behaves while a graph is captured.

    PhiML asks whether a tensor's values can be read before it checks them; here they cannot. Torch's own periodic
    padding writes into a new tensor, and the graph would keep that write; PhiML's general padding, a concatenation,
    gives the same values.
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
