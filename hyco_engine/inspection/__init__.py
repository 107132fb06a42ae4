"""What a data file or folder holds, told from headers and a few values, and the section of a spec that reads it."""

from hyco_engine.inspection.describing import Found, describe

__all__ = ["Found", "describe"]
