"""What torch needs before its first derivative in forward mode."""

from __future__ import annotations

import importlib
import warnings
from functools import cache


@cache
def load_rules() -> None:
    """Load rules of forward mode that torch loads at their first use, and what torch warns of its own code there.

    The category of that warning depends on torch's version, and no warning may cost a derivative.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")
