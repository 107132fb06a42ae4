"""Tests run against the installed plugin, or against the checkout where it is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("hyco_engine_fabric") is None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
