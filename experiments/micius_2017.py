"""The pass of 19 December 2016 of Liao et al., Nature 549, 43 (2017), arXiv:1707.00542: loss, sifted rate, key.

Run with `python experiments/micius_2017.py [FIGURE.png]`. Two losses that the paper does not print are fitted, here again,
to the two sifted rates of its text and to the loss that a third party digitized from its Fig. 3 (Baidu QNET, Apache-2.0;
detectors left out), so that either source weighs as much as the other; at both ends of the pass they disagree by 1 dB, in
opposite directions. The counts of the whole pass and its key are not fitted.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import photonmc as pm
from photonmc.channel.geometry import EARTH_RADIUS_M
from photonmc.channel.recorded import Samples

DIGITIZED_KM = np.arange(650.0, 1201.0, 50.0)
DIGITIZED_DB = np.array([29.89, 30.82, 31.2, 31.18, 32.16, 32.9, 33.02, 34.33, 35.45, 36.3, 37.51, 39.04])
"""Fig. 3, digitized by a third party: range, loss without the detectors."""
RATES_HZ = {645.0: 12e3, 1200.0: 1e3}
"""Text: sifted key rate by range [km], "about"."""
BUDGET_1200_DB = {"diffraction": (22.0, 22.0), "air, pointing and excess": (3.0, 11.0)}
"""Text: losses at 1200 km; 3 to 8 dB of the atmosphere and up to 3 dB of pointing."""
DETECTIONS, SIFTED, QBER, KEY = 3_551_136, 1_671_072, 0.011, 300_939
"""Text: of the whole pass; sifted are the signal's in both bases, the key is at a failure probability of 1e-9."""
UNPUBLISHED = (
    "excess_loss_db, excess_loss_per_airmass_db (fitted to rates and loss), misalignment_error (fitted to the QBER)",
    "extinction (MODTRAN's clear air), turbulence (HV 5/7), background (none but dark counts), obscured telescopes (none),",
    "efficiency of error correction (1.16), analysis (Lim et al. 2014 with Chernoff bounds) and how it spends the 1e-9",
)


def elevation_deg(study: pm.Study, range_km: float) -> float:
    """Elevation at a range, that of culmination where the pass never comes so near."""
    channel: Any = study.link.channel
    ground, orbit = EARTH_RADIUS_M + channel.station_altitude_m, EARTH_RADIUS_M + 1e3 * channel.altitude_km
    distance = 1e3 * range_km
    sine = (orbit**2 - ground**2 - distance**2) / (2.0 * ground * distance)
    return min(float(np.degrees(np.arcsin(sine))), channel.max_elevation_deg)


def losses_db(study: pm.Study, range_km: float) -> tuple[dict[str, float], float]:
    """Terms of the budget at a range, and the airmass."""
    budget = pm.link_budget(study.link, elevation_deg(study, range_km))
    return {term["name"]: term["db"] for term in budget["terms"]}, budget["airmass"]


def sifted_hz(study: pm.Study, loss_db: float) -> float:
    """Sifted rate of the signal in both bases, behind a loss that includes the receiver's optics."""
    receiver = dataclasses.replace(study.link.receiver, optics_transmittance=1.0)
    link = dataclasses.replace(study.link, channel=pm.FixedLoss(loss_db), receiver=receiver)
    counts = pm.expected_counts(dataclasses.replace(study, link=link, run=pm.Run(duration_s=1.0)))
    return float(counts.detections[:, 0].sum())


def loss_of_rate(study: pm.Study, rate_hz: float) -> float:
    """Loss without the detectors behind a sifted rate of the signal."""
    source, receiver = study.link.source, study.link.receiver
    detected = rate_hz / (0.5 * source.pulse_rate_hz * source.intensity_probabilities[0])
    return float(-10.0 * np.log10(-np.log1p(-detected) / source.intensities[0] / receiver.efficiency))


def fitted(study: pm.Study) -> tuple[float, float]:
    """Excess loss, and that for each airmass, by least squares: 12 points of the figure, and 2 of the text 6 times each."""
    ranges = np.array([*DIGITIZED_KM, *RATES_HZ])
    published = np.array([*DIGITIZED_DB, *(loss_of_rate(study, rate) for rate in RATES_HZ.values())])
    known, air = [], []
    for range_km in ranges:
        terms, airmass = losses_db(study, range_km)
        known.append(sum(terms.values()) - terms["excess"] - terms["detector"])
        air.append(airmass)
    weight = np.sqrt(np.where(np.arange(ranges.size) < DIGITIZED_KM.size, 1.0, DIGITIZED_KM.size / len(RATES_HZ)))
    design = np.column_stack([np.ones_like(weight), air])
    solution = np.linalg.lstsq(weight[:, None] * design, weight * (published - known), rcond=None)[0]
    return float(solution[0]), float(solution[1])


def digitized_pass(study: pm.Study) -> pm.Study:
    """The pass with the digitized loss instead of a link budget."""
    channel: Any = study.link.channel
    time = np.arange(study.run.duration_s)
    with jax.enable_x64(True):
        elevation = channel.orbit().elevation(time + 0.5 - 0.5 * study.run.duration_s)
        distance = 1e-3 * np.asarray(channel.orbit().range_m(elevation))
    loss = np.interp(distance, DIGITIZED_KM, DIGITIZED_DB)
    receiver = dataclasses.replace(study.link.receiver, optics_transmittance=1.0)
    record = pm.Recorded("Fig. 3", samples=Samples(time, loss, 0.0 * time))
    return dataclasses.replace(study, link=dataclasses.replace(study.link, channel=record, receiver=receiver))


def of_the_pass(study: pm.Study) -> dict[str, float]:
    """Detections, sifted bits of the signal, their QBER, and keys, in expectation."""
    result = pm.simulate(study, sampler="expected")
    counts = pm.expected_counts(study)
    swapped = pm.Counts(counts.pulses, counts.sent[::-1], counts.detections[::-1], counts.errors[::-1])
    keys = [float(pm.key_length(one, study).secret_key_bits) for one in (counts, swapped)]
    sifted, errors = (float(array[:, 0].sum()) for array in (counts.detections, counts.errors))
    return {
        "detections": float(result.detector_clicks[0].sum()),
        "sifted": sifted,
        "qber": errors / sifted,
        "key of basis Z": keys[0],
        "key of both": sum(keys),
    }


def draw(study: pm.Study, path: Path) -> None:
    from matplotlib.figure import Figure

    ranges = np.linspace(646.5, 1200.0, 60)
    loss = []
    for range_km in ranges:
        terms, _ = losses_db(study, range_km)
        loss.append(sum(terms.values()) - terms["detector"])
    fig = Figure(figsize=(9.6, 4.2), dpi=160, layout="constrained")
    left, right = fig.subplots(1, 2)
    left.plot(ranges, loss, color="#0072B2", label="link budget, excess loss fitted")
    left.plot(DIGITIZED_KM, DIGITIZED_DB, "o", color="#D55E00", markersize=4, label="Fig. 3, digitized by a third party")
    from_text = [loss_of_rate(study, rate) for rate in RATES_HZ.values()]
    left.plot(list(RATES_HZ), from_text, "s", color="#000000", markersize=5, label="from the sifted rates of the text")
    left.set_ylabel("Loss without the detectors [dB]")
    right.plot(ranges, [1e-3 * sifted_hz(study, one) for one in loss], color="#0072B2", label="expected")
    right.plot(
        DIGITIZED_KM, [1e-3 * sifted_hz(study, one) for one in DIGITIZED_DB], "o", color="#D55E00", markersize=4,
        label="behind the digitized loss",
    )  # fmt: skip
    right.plot(list(RATES_HZ), [1e-3 * rate for rate in RATES_HZ.values()], "s", color="#000000", markersize=5, label="text")
    right.set_yscale("log")
    right.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    right.set_ylabel("Sifted rate of the signal [kbit/s]")
    for axes in (left, right):
        axes.set_xlabel("Range [km]")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    fig.suptitle("Micius, 19 December 2016: Liao et al., Nature 549, 43 (2017)", fontsize=11)
    fig.savefig(path)


def main() -> None:
    study = pm.preset("micius_2017")
    channel: Any = study.link.channel
    print("not published:")
    print("\n".join(f"  {line}" for line in UNPUBLISHED))
    constant, each = fitted(study)
    kept = channel.excess_loss_db, channel.excess_loss_per_airmass_db
    print(f"\nexcess loss fitted: {constant:.3f} dB + {each:.3f} dB per airmass; in the preset: {kept[0]:g} and {kept[1]:g}")

    terms, _ = losses_db(study, 1200.0)
    rest = terms["atmosphere"] + terms["pointing"] + terms["excess"]
    ours = dict(zip(BUDGET_1200_DB, (terms["diffraction"], rest), strict=True))
    print("\nlosses at 1200 km [dB]")
    for name, (low, high) in BUDGET_1200_DB.items():
        outside = ours[name] - np.clip(ours[name], low, high)
        text = f"{low:g} to {high:g}" if low < high else f"{low:g}"
        print(f"  {name:<24} {ours[name]:6.2f}, text {text}, residual {outside:+.2f}")

    print("\nloss without the detectors against Fig. 3 [dB]\n  km      ours  digitized  residual")
    residuals = []
    for range_km, published in zip(DIGITIZED_KM, DIGITIZED_DB, strict=True):
        terms, _ = losses_db(study, range_km)
        loss = sum(terms.values()) - terms["detector"]
        residuals.append(loss - published)
        print(f"  {range_km:4.0f} {loss:8.2f}  {published:9.2f}  {residuals[-1]:+8.2f}")
    print(f"  r.m.s. {np.sqrt(np.mean(np.square(residuals))):.2f}")

    print("\nsifted rate of the signal [kbit/s]\n  km      ours   text  residual")
    for range_km, published in RATES_HZ.items():
        terms, _ = losses_db(study, range_km)
        rate = sifted_hz(study, sum(terms.values()) - terms["detector"])
        decibels = 10.0 * np.log10(rate / published)
        print(
            f"  {range_km:4.0f} {1e-3 * rate:8.2f} {1e-3 * published:6.0f}  {decibels:+.2f} dB, {rate / published - 1:+.0%}"
        )

    print("\nof the whole pass, not fitted but for the QBER")
    published = {"detections": DETECTIONS, "sifted": SIFTED, "qber": QBER, "key of basis Z": KEY, "key of both": KEY}
    print(f"  {'':<14} {'text':>10} {'ours':>12}  residual  {'digitized loss':>15}  residual")
    budget, figure = of_the_pass(study), of_the_pass(digitized_pass(study))
    for name, wanted in published.items():
        one, other = budget[name], figure[name]
        shown = "{:.4f}" if name == "qber" else "{:,.0f}"
        print(
            f"  {name:<14} {shown.format(wanted):>10} {shown.format(one):>12}  {one / wanted - 1:+8.1%}"
            f"  {shown.format(other):>15}  {other / wanted - 1:+8.1%}"
        )
    print("The key of both bases spends its epsilons twice; the paper does not say how its own is composed.")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "micius_2017.png"
    draw(study, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
