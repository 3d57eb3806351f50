"""Channels: the state between Alice and the receiver. `CHANNELS` maps the word `kind` of a TOML file to the record."""

from photonmc.channel.background import Background
from photonmc.channel.constant import Fiber, FixedLoss
from photonmc.channel.downlink import Downlink, Uplink
from photonmc.channel.recorded import Recorded
from photonmc.channel.selection import Selection

CHANNELS = {"fiber": Fiber, "fixed_loss": FixedLoss, "recorded": Recorded, "downlink": Downlink, "uplink": Uplink}

__all__ = ["CHANNELS", "Background", "Downlink", "Fiber", "FixedLoss", "Recorded", "Selection", "Uplink"]
