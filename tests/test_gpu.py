"""What needs a GPU: the same results as on the CPU. Runs with jax, numpy, optax, chex and pytest alone:

python -m pytest --noconftest -p no:xdist -o addopts= -m gpu tests/test_gpu.py
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from photonmc.channel import Fiber
from photonmc.detector import ActiveBasis
from photonmc.link import Link
from photonmc.protocol import BB84
from photonmc.sampling.clicks import sample_clicks
from photonmc.sampling.counts import sample_counts
from photonmc.sampling.pulses import sample_pulses
from photonmc.source import WeakCoherent

PROTOCOL = BB84(0.9)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]


def link(**receiver: Any) -> Link:
    """A short link of three intensities."""
    source = WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1))
    receiver = {"efficiency": 0.25, "misalignment_error": 0.01, "dark_count_probability": 1e-5} | receiver
    return Link(source, Fiber(length_km=30.0, attenuation_db_per_km=0.2), ActiveBasis(**receiver))


def both(sample: Any, *arguments: Any) -> tuple[Any, Any]:
    """Realizations drawn on the GPU, and on the CPU of the same machine."""
    drawn = []
    for device in ("gpu", "cpu"):
        with jax.enable_x64(True), jax.default_device(jax.devices(device)[0]):
            drawn.append(list(sample(jax.random.key(3), *arguments)))
    return drawn[0], drawn[1]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last count."""
    for ours, theirs in zip(one, other, strict=True):
        for mine, yours in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(yours))


@pytest.mark.parametrize(
    ("pulses", "block_size_z"),
    [
        (3_500_000, None),
        (1 << 20, None),
        (1 << 21, None),
        (1_048_577, None),
        (4097, None),
        (None, 20_000),
        (9_000_000, 30_000),
    ],
)
def test_pulses(pulses: int | None, block_size_z: int | None) -> None:
    """Many chunks at once, parts of chunks, and blocks that end inside."""
    assert_same(*both(sample_pulses, link(), PROTOCOL, 2, pulses, block_size_z))


def test_pulses_of_several_groups_of_chunks() -> None:
    """More pulses than are played together: against the mean, with a false-alarm rate of 1e-6 a count, 0.3 % of bias."""
    pulses = (1 << 29) + 12345
    with jax.enable_x64(True):
        (drawn,) = sample_pulses(jax.random.key(4), link(), PROTOCOL, 1, pulses, None)
        (other,) = sample_counts(jax.random.key(5), link(), PROTOCOL, 1, pulses, None, 0.0)
    assert int(drawn.pulses[0]) == pulses
    ours, theirs = (np.asarray(one.tally, np.float64).sum(axis=3).ravel() for one in (drawn, other))  # over photon numbers
    usable = ours + theirs > 60
    z = (ours - theirs)[usable] / np.sqrt((ours + theirs)[usable])
    assert np.abs(z).max() < 4.9


def test_clicks() -> None:
    """With and without detector memory."""
    memory = {
        "dead_time_ns": 100.0,
        "dead_time_policy": "individual",
        "afterpulse_probability": 0.02,
        "afterpulse_time_ns": 200.0,
    }
    for receiver in ({}, memory):
        assert_same(*both(sample_clicks, link(**receiver), PROTOCOL, 1, 50_000_000, None))
