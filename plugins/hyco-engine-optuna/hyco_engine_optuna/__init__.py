"""Searches for settings of hyco-engine with the least error, by Optuna."""

from hyco_engine_optuna.search import Search
from hyco_engine_optuna.space import parse_space

__all__ = ["Search", "parse_space"]
