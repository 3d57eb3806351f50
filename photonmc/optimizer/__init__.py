"""Optimization of settings by gradient, through the finite-key length."""

from photonmc.optimizer.search import best_settings

__all__ = ["best_settings"]
