"""Ready links as TOML files, package data: `preset:NAME` works from any directory."""
