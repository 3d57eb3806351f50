"""Protocols: settings, outcomes, sifting. `PROTOCOLS` maps the word `kind` of a TOML file to the record."""

from photonmc.protocol.bb84 import BB84

PROTOCOLS = {"bb84": BB84}

__all__ = ["BB84", "PROTOCOLS"]
