"""The spec: attrs classes, reading and writing of TOML, located errors, JSON schema."""
