"""The environment variables that say which plugins there are; light, since every command's options name one."""

DISABLE_VARIABLE = "HYCO_ENGINE_DISABLE_PLUGINS"
FILES_VARIABLE = "HYCO_ENGINE_PLUGINS"
