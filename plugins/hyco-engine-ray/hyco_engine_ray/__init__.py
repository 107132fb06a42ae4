"""Sweeps of hyco-engine, and runs of several processes, on a Ray cluster."""

from hyco_engine_ray.members import run_members
from hyco_engine_ray.workers import run_on_workers

__all__ = ["run_members", "run_on_workers"]
