"""The hooks of plugins, the records that hook functions return, and the registry of all kinds."""

from hyco_engine.hooks.checking import HOOKS
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.loading import PluginInfo
from hyco_engine.hooks.records import ModelRecord, Record, imported
from hyco_engine.hooks.registry import Registry, disabled_names

__all__ = ["HOOKS", "ModelRecord", "PluginInfo", "Record", "Registry", "disabled_names", "hookimpl", "imported"]
