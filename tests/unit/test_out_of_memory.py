"""Where memory ends, the phase and the limit are named."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest
import torch

from hyco_engine.errors import RunError
from hyco_engine.training.reporter import Reporter


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
)
def test_the_phase_is_named(error: Exception) -> None:
    reporter = Reporter(trackers=())
    with pytest.raises(RunError) as caught, reporter.timed("train_physical", 3):
        raise error
    text = r"out of memory in train_physical of cycle 3; [0-9.]+ GB of [0-9.]+ GB free.*\. Take smaller batches "
    assert re.match(text, str(caught.value))
    assert caught.value.__cause__ is error
    assert "train_physical" in reporter.seconds


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), Reporter(trackers=()).timed("compile"):
        raise RuntimeError("another")


def test_under_a_real_limit() -> None:
    script = """
        import resource, torch
        from hyco_engine.training.reporter import Reporter
        resource.setrlimit(resource.RLIMIT_AS, (20 * 10**9, resource.RLIM_INFINITY))
        with Reporter(trackers=()).timed("generate_physical", 0):
            torch.empty(10**10)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert "RunError: out of memory in generate_physical of cycle 0; " in ended.stderr
    assert "GB of 20.0 GB free (limited by ulimit -v)" in ended.stderr
