"""Channels: the state between Alice and the receiver. `CHANNELS` maps the word `kind` of a TOML file to the record."""

from photonmc.channel.constant import Fiber, FixedLoss

CHANNELS = {"fiber": Fiber, "fixed_loss": FixedLoss}

__all__ = ["CHANNELS", "Fiber", "FixedLoss"]
