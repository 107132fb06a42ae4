"""A description of a data file or folder from headers and a few values, with the spec section that reads it."""

from hyco_engine.inspection.describing import Found, describe

__all__ = ["Found", "describe"]
