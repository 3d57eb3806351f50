"""Channels: the state between Alice and the receiver. `CHANNELS` maps the word `kind` of a TOML file to the record."""

from photonmc.channel.constant import Fiber, FixedLoss
from photonmc.channel.recorded import Recorded

CHANNELS = {"fiber": Fiber, "fixed_loss": FixedLoss, "recorded": Recorded}

__all__ = ["CHANNELS", "Fiber", "FixedLoss", "Recorded"]
