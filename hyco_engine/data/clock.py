"""Static channels that advance evenly from frame to frame: the time of a state."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def later(static: Tensor, advances: Sequence[float], frames: float | Tensor, n_axes: int) -> Tensor:
    """Return static channels `[..., C_static, *S]` so many `frames` later, a number or `[...]`.

    `advances` are those of the layout, and the channels themselves come back where none advances.
    """
    if not advances:
        return static
    step = static.new_tensor(advances)
    moved = step * frames.to(static)[..., None] if isinstance(frames, Tensor) else step * frames
    return static + moved.reshape(*moved.shape, *[1] * n_axes)
