"""Comparisons and measurements that the contracts share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=nn.Module)


def declared(test: F) -> F:
    """Mark a test whose outcome depends on more than the plugin: on what the author's test class declares or gives.

    `hyco-engine plugins check` leaves such tests to the plugin's own test suite.
    """
    test.declared = True  # type: ignore[attr-defined]
    return test


def bits(values: Tensor) -> Tensor:
    """Return the bytes of a tensor, so that two NaN are equal and 0.0 and -0.0 are not."""
    return values.detach().contiguous().view(-1).view(torch.uint8)


def equal(ours: object, theirs: object) -> bool:
    """Return whether two batches, or parts of batches, are equal bit by bit."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return same and torch.equal(bits(ours), bits(theirs))
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return list(ours) == list(theirs) and all(equal(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return False


def difference(ours: object, theirs: object, tolerance: float) -> str:
    """Say how two batches, or parts of them, differ by more than `tolerance` of the largest entry; "" if they do not.

    NaN equals NaN.
    """
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            return f"{list(ours.shape)} of {ours.dtype} instead of {list(theirs.shape)} of {theirs.dtype}"
        if not theirs.numel() or equal(ours, theirs):
            return ""
        one, two = ours.detach().double(), theirs.detach().double()
        if not torch.equal(one.isnan(), two.isnan()):
            return "NaN in other places"
        off, size = float((one - two).nan_to_num().abs().max()), float(two.nan_to_num().abs().max())
        return "" if off <= tolerance * size else f"off by {off:.3g} where the largest value is {size:.3g}"
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if ours.keys() != theirs.keys():
            return f"the names {sorted(ours)} instead of {sorted(theirs)}"
        found = ((name, difference(ours[name], theirs[name], tolerance)) for name in ours)
        return "; ".join(f"{name!r}: {text}" for name, text in found if text)
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        parts = zip(("inputs", "targets"), ours, theirs, strict=True)
        found = ((name, difference(a, b, tolerance)) for name, a, b in parts)
        return "; ".join(f"{name}: {text}" for name, text in found if text)
    return f"a {type(ours).__name__} instead of a {type(theirs).__name__}"


@contextmanager
def global_generators(what: str, seed: int = 0) -> Iterator[None]:
    """Fail if the code within draws from the global generators of torch, numpy or Python.

    They are seeded with `seed` within, and restored afterwards. `what` names the code in the message.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        python, numpy, pytorch = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index] # noqa: NPY002
        yield
        drawn = {
            "Python's random": random.getstate() != python,
            "numpy.random": np.random.get_state()[1].tolist() != numpy,  # type: ignore[index] # noqa: NPY002
            "torch's global generator": not torch.equal(torch.get_rng_state(), pytorch),
        }
        used = [name for name, yes in drawn.items() if yes]
        assert not used, f"{what} draws from {' and '.join(used)}; draw from the generator that is passed instead"
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def stirred(model: M, seed: int = 2, size: float = 0.1) -> M:
    """Move the parameters of a model a little off their start values, where more of it shows, and return it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(size * noise.to(device=parameter.device, dtype=parameter.dtype))
    return model


def check_slopes(
    loss: Callable[[], Tensor], points: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], tolerance: float
) -> None:
    """Compare gradients of `loss`, a function of the float64 tensors `points`, with central differences.

    Each is compared along one random direction; the step makes truncation and rounding far smaller than `tolerance`.
    """
    for name, point in points.items():
        gradient = gradients[name]
        assert gradient is not None, f"no gradient reaches {name}: something between it and the result is detached"
        direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        direction = direction.to(point.device) / direction.norm().clamp(min=1e-30)
        start, sides, step = point.detach().clone(), [], 1e-5
        with torch.no_grad():
            for sign in (1, -1):
                point.copy_(start + sign * step * direction)
                sides.append(float(loss()))
            point.copy_(start)
            noise = 1e-9 * abs(float(loss()))
        slope, wanted = float((gradient * direction).sum()), (sides[0] - sides[1]) / (2 * step)
        assert abs(slope - wanted) <= max(tolerance * abs(wanted), noise, 1e-12), (
            f"the gradient by {name} is {slope:.8g} along a direction in which finite differences give {wanted:.8g}"
        )


def check_state(model: nn.Module) -> None:
    """Check that all state of a model can be saved: its tensors are registered, real, and share no memory."""
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            where = f"{place}.{name}" if place else name
            # nn.Module keeps parameters and buffers elsewhere
            assert not isinstance(value, Tensor), (
                f"the tensor {where} is neither a parameter nor a buffer, so it is neither moved nor saved with the "
                f"model; use register_buffer"
            )
    for name, value in model.state_dict().items():
        assert not value.is_complex(), f"{name} is complex, which weights files cannot hold; keep two real parts"
