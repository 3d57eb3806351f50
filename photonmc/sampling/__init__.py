"""Expectation and samplers: they know the contracts and no concrete model."""

from photonmc.sampling.run import Run

__all__ = ["Run"]
