"""Runs of hyco-engine on the processes that Lightning Fabric starts."""

from hyco_engine_fabric.runtime import FabricRuntime

__all__ = ["FabricRuntime"]
