"""Receivers: photons to clicks. `RECEIVERS` maps the word `kind` of a TOML file to the record."""

from photonmc.detector.active_basis import ActiveBasis

RECEIVERS = {"active_basis": ActiveBasis}

__all__ = ["RECEIVERS", "ActiveBasis"]
