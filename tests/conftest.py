"""Settings of all tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from hypothesis import settings

# a test never judges by the clock: on a busy machine an example takes as long as it takes
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _draw() -> Iterator[Any]:
    """Runs in this process draw neither figures nor a report, which would take half of a tiny run's time."""
    # the oldest matplotlib is told by the newest of its own dependencies that names have changed
    with warnings.catch_warnings(action="ignore"):
        from hyco_engine.report import run_figures

    with pytest.MonkeyPatch.context() as patch:
        draw = run_figures.draw
        patch.setattr(run_figures, "draw", lambda *drawn: ())
        yield draw


@pytest.fixture(scope="session", autouse=True)
def measuring() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Runs in this process find neither error bars, and so no budget of errors, nor chaos: more than half of the rest.

    What fails in them is a warning of the run, so that a run whose results are not looked at tells nothing of them.
    Gives a context in which runs find them.
    """
    from hyco_engine import results

    whole = {name: getattr(results, name) for name in ("measure", "largest_exponent")}
    with pytest.MonkeyPatch.context() as patch:
        for name in whole:
            patch.setattr(results, name, lambda *given: None)

        @contextmanager
        def found() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as inner:
                for name, function in whole.items():
                    inner.setattr(results, name, function)
                yield

        yield found


@pytest.fixture(scope="module")
def measured(measuring: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """For a module that looks at error bars, budgets, the verdict or chaos: its runs find them."""
    with measuring():
        yield


@pytest.fixture(scope="module")
def drawn(_draw: Any) -> Iterator[None]:
    """For a module that looks at figures or reports: its runs draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyco_engine.report.run_figures.draw", _draw)
        yield
