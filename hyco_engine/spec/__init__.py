"""The spec: attrs classes, TOML in and out, located errors, JSON schema."""
