"""Optimization of settings by gradient, through the finite-key length."""

from photonmc.optimizer.search import best_settings, effort_for

__all__ = ["best_settings", "effort_for"]
