"""A model that is no PDE: a multi-head sequence model, and records of events to train it on."""

from __future__ import annotations

from typing import Any

from hyco_engine import ModelRecord, Record, hookimpl
from hyco_engine_sequence.options import EventRecordsOptions, MultiHeadLSTMOptions


def _model(options: MultiHeadLSTMOptions, context: Any) -> Any:
    from hyco_engine_sequence.model import build

    return build(options, context)


def _source(options: EventRecordsOptions, context: Any) -> Any:
    from hyco_engine_sequence.data import EventRecords

    return EventRecords(options, context.seed, context.dtype)


@hookimpl
def hyco_models() -> list[ModelRecord]:
    return [
        ModelRecord(
            kind="multi-head-lstm",
            role="synthetic",
            summary="bidirectional LSTM with the heads type, pointer, binary and countdown",
            options=MultiHeadLSTMOptions,
            factory=_model,
        )
    ]


@hookimpl
def hyco_sources() -> list[Record]:
    return [
        Record(
            kind="event-records",
            summary="generated windows of 105 bars with one event each",
            options=EventRecordsOptions,
            factory=_source,
        )
    ]
