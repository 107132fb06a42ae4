"""The form of option classes: `@options` on the class, `option(...)` for each field. See `hyco_engine.settings`."""

from hyco_engine.settings import option, options

__all__ = ["option", "options"]
