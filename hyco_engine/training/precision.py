"""Whether a model can train with products in bfloat16, and whether that is faster.

Source: P. Micikevicius et al. (2018), Mixed precision training; bfloat16 has float32's exponents, so losses need no
scaling.
"""

from __future__ import annotations

from typing import Any

import torch

from hyco_engine.errors import SpecError
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.choosing import FULL_BATCH
from hyco_engine.training.unknowns import Unknowns

_KEY = "training.synthetic.precision"


def check_precision(settings: TrainingSettings, optimizer: str, unknowns: Unknowns, device: torch.device) -> str | None:
    """Return a warning where reduced precision would be slower than full. Raises SpecError where it cannot be."""
    if settings.precision == "full":
        return None
    if optimizer in FULL_BATCH:
        raise SpecError(f"{optimizer} needs exact losses: use adam, adamw or sgd with bf16", key=_KEY)
    if unknowns.dtype != torch.float32:
        name = str(unknowns.dtype).removeprefix("torch.")
        raise SpecError(f"bf16 stands in for float32, and run.precision is {name}: leave one out", key=_KEY)
    if device.type not in ("cpu", "cuda"):
        raise SpecError(f"the device {device.type!r} has no bf16: leave it out", key=_KEY)
    if _is_fast(device):
        return None
    return (
        f'{_KEY} = "bf16": no instructions of this {"GPU" if device.type == "cuda" else "processor"} for it are known '
        "(AMX or AVX512-BF16 on x86), so training may be slower than in full precision"
    )


def _is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # older versions of torch cannot say it
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
