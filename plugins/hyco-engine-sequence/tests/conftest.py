"""Tests run against the installed plugin, or against the checkout where it is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]

if find_spec("hyco_engine_sequence") is None:
    sys.path.insert(0, str(ROOT))
# benchmark.py is no part of the package
sys.path.append(str(ROOT))
