"""A bidirectional LSTM over the window, with four heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyco_engine.errors import DataError
from hyco_engine.interfaces import Predictor, TermSpec, Values
from hyco_engine_sequence.options import REACH, STEPS, MultiHeadLSTMOptions

if TYPE_CHECKING:
    from hyco_engine.interfaces import SurrogateContext

CHANNELS = 3


class MultiHeadLSTM(Predictor):
    """Maps `[B, 105, 3]` to type logits `[B, 3]`, pointer `[B, 2]`, binary logits and countdown in bars, `[B, 105]`.

    With h_t `[2 width]` the LSTM's output at bar t and z its last states in both directions, type and pointer are
    linear in z, binary and a per-step countdown linear in h_t. A scalar countdown is one number c, linear in z: the
    event's bar counted from the window's middle; the countdown at bar t is then 52 + c - t, cut off at +-20. The output
    of a countdown head is multiplied by `countdown_scale`.
    """

    def __init__(self, options: MultiHeadLSTMOptions, generator: torch.Generator) -> None:
        super().__init__()
        self._options = options
        features = 2 * options.width
        # on the meta device torch draws no weights, which would come from the global generator
        with torch.device("meta"):
            self.trunk = nn.LSTM(CHANNELS, options.width, batch_first=True, bidirectional=True)
            self.type_head = nn.Linear(features, 3)
            self.pointer_head = nn.Linear(features, 2)
            self.binary_head = nn.Linear(features, 1)
            self.countdown_head = nn.Linear(features, 1)
        self.to_empty(device="cpu")
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator) -> None:
        """Draw weights uniform in +-1/sqrt(width) (LSTM) and +-1/sqrt(2 width) (heads), torch's own choices."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan = self._options.width * (1 if name.startswith("trunk") else 2)
                values = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2.0 * values - 1.0) / math.sqrt(fan))

    @property
    def terms(self) -> Sequence[TermSpec]:
        """Return the terms of the heads. A cross-entropy is one number a sample, whatever the number of classes."""
        scalar = self._options.countdown == "scalar"
        scale = self._options.countdown_scale
        return (
            TermSpec(name="type", kind="categorical", n_elements=1),
            TermSpec(name="pointer", kind="gaussian", n_elements=2),
            TermSpec(name="binary", kind="bernoulli", n_elements=STEPS),
            TermSpec(name="countdown", kind="laplace", n_elements=1 if scalar else STEPS, unit="bar", scale=scale),
        )

    def forward(self, inputs: Values) -> Mapping[str, Tensor]:
        if not isinstance(inputs, Tensor):
            raise DataError(
                "multi-head-lstm reads one tensor [B, 105, 3], and this data has inputs by name",
                key="data",
            )
        states, (last, _) = self.trunk(inputs)
        summary = torch.cat([last[0], last[1]], dim=1)
        return {
            "type": self.type_head(summary),
            "pointer": self.pointer_head(summary),
            "binary": self.binary_head(states).squeeze(-1),
            "countdown": self._countdown(states, summary),
        }

    def _countdown(self, states: Tensor, summary: Tensor) -> Tensor:
        scalar = self._options.countdown == "scalar"
        out: Tensor = self.countdown_head(summary if scalar else states) * self._options.countdown_scale
        if not scalar:
            return out.squeeze(-1)
        bars = torch.arange(STEPS, dtype=out.dtype, device=out.device)
        return (STEPS // 2 + out - bars).clamp(-REACH, REACH)


def build(options: MultiHeadLSTMOptions, context: SurrogateContext) -> MultiHeadLSTM:
    """Build the model `multi-head-lstm` on the run's device. Raise DataError for data on a grid."""
    if context.layout is not None:
        raise DataError("multi-head-lstm reads windows of records, and this data is fields on a grid", key="data.kind")
    model = MultiHeadLSTM(options, context.generator("weights", "synthetic"))
    return model.to(device=context.device, dtype=context.dtype)
