"""The only source of random generators.

Every generator is derived from (seed, purpose...), so that each use has a stream of its own. The stream depends neither
on earlier draws elsewhere nor on global state, and it leaves global state untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `derive_seed(seed, "shuffle", "synthetic", cycle)`."""
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose. Draw on the CPU and move the numbers: they then fit every device."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def own_random_numbers(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators for one purpose within the context, and restore their state afterwards.

    This serves code that takes no generator: layers that draw their initial weights, and dropout.
    """
    import torch

    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive_seed(seed, *purpose))
        yield
