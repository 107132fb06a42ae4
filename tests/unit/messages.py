"""What a test asks of a message: the kind of the error, its place, and the values that matter. The words are free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hyco_engine.errors import HycoError


def lacking(message: object, *values: object) -> list[str]:
    """Those of `values` that a message does not name. Each stands alone: 2 is neither in 12 nor in 2.5 nor in 2e-3."""
    text = " ".join(str(message).split())
    return [str(value) for value in values if not re.search(rf"(?<![\w.]){re.escape(str(value))}(?!\.?\w)", text)]


@contextmanager
def error_naming(
    kind: type[BaseException] | tuple[type[BaseException], ...], *values: object, key: str | None = None
) -> Iterator[Any]:
    """`pytest.raises` for an error that names `values` and, where `key` is given, is located there."""
    with pytest.raises(kind) as caught:
        yield caught
    assert lacking(caught.value, *values) == [], str(caught.value)
    if key is not None:
        assert isinstance(caught.value, HycoError)
        assert {problem.key for problem in caught.value.problems} == {key}
