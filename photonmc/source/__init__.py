"""Light sources: what leaves Alice. `SOURCES` maps the word `kind` of a TOML file to the record."""

from photonmc.source.weak_coherent import WeakCoherent

SOURCES = {"weak_coherent": WeakCoherent}

__all__ = ["SOURCES", "WeakCoherent"]
