"""One row a model: the contract battery of `test_contracts.py` runs on each of them."""

from __future__ import annotations

from pathlib import Path

from photonmc import (
    BB84,
    ActiveBasis,
    Downlink,
    Fiber,
    FixedLoss,
    Lim2014,
    Ma2005,
    Recorded,
    Rusca2018,
    Uplink,
    WeakCoherent,
)

SOURCES = {"weak_coherent": WeakCoherent(1e9, (0.5, 0.1, 0.0), (0.7, 0.2, 0.1))}
CHANNELS = {
    "fiber": Fiber(length_km=20.0, attenuation_db_per_km=0.2, excess_loss_db=0.5),
    "fixed_loss": FixedLoss(loss_db=7.0),
    "recorded": Recorded(file="pass.csv").loaded(Path(__file__).parent / "reference"),
    "downlink": Downlink(  # the choices of configs/downlink.toml, so that tests of both share what they compile
        altitude_km=500.0, max_elevation_deg=80.0, receiver_aperture_m=2.0, min_elevation_deg=30.0, divergence_urad=10.0,
        divergence_kind="tophat_full", pointing_jitter_urad=1.2, coherence_time_ms=0.02, pointing_correlation_time_ms=0.04,
        atmosphere="table",
    ),
    "uplink": Uplink(
        altitude_km=400.0, max_elevation_deg=80.0, receiver_aperture_m=3.0, min_elevation_deg=30.0, divergence_urad=10.0,
        divergence_kind="half_1e2", pointing_jitter_urad=1.0, coherence_time_ms=0.02, excess_loss_db=5.0,
        polarization_rotation_deg=2.0, fading="none", cn2_profile_m=(0.0, 500.0, 15000.0), cn2_profile=(2e-14, 1e-16, 0.0),
    ),
}  # fmt: skip
RECEIVERS = {
    "active_basis": ActiveBasis(efficiency=0.25, misalignment_error=0.02, dark_count_probability=1e-4),
    "active_basis, rate and gate": ActiveBasis(
        efficiency=0.25, misalignment_error=0.02, dark_count_rate_hz=1e5, gate_width_ns=1.0, optics_transmittance=0.8
    ),
    "active_basis, unequal detectors": ActiveBasis(
        efficiency=(0.25, 0.2), misalignment_error=0.02, dark_count_probability=(1e-4, 3e-4)
    ),
}
PROTOCOLS = {"bb84": BB84(0.8), "bb84, Bob differs": BB84(0.8, 0.7)}
ANALYSES = {
    "lim2014": Lim2014(epsilon_correctness=1e-15, epsilon_secrecy=1e-9),
    "lim2014, per bit": Lim2014(epsilon_correctness=1e-15, epsilon_secrecy_per_bit=1e-15, concentration="kl", clamp=True),
    "rusca2018": Rusca2018(epsilon_correctness=1e-15, epsilon_secrecy=1e-9),
    "ma2005": Ma2005(),
}
