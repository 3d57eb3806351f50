"""Passes of SatQuMA: Sidhu et al., npj Quantum Information 8, 18 (2022), arXiv:2012.07829; geometry, loss and finite key.

Run with `python experiments/satquma_500km.py [FIGURE.png]`. Reference values come from SatQuMA 2.0.0
(github.com/cnqo-qcomms/SatQuMA, MIT), run with its settings of the protocol fixed; its key basis X is our Z. Nothing is
fitted in the first table. For the second one, SatQuMA reads the loss from a file; only that at zenith is taken over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import photonmc as pm
from photonmc.timeline import timeline

REFERENCE = {
    "min_loss_db": 19.7158549,
    "secret_key_bits": 21431168.2,
    "qber_z": 0.00553094868,
    "phase_error_z": 0.00951887732,
    "sifted_z": 63981223.2,
    "sifted_x": 6303785.03,
    "single_photon_detections_z": 27209556.8,
}
"""SatQuMA with its loss computed: pass through zenith, 200 s to either side."""
FILE_DB = {90.0: 26.99, 46.7: 29.55, 31.1: 32.15, 21.5: 34.40, 15.0: 36.29}
"""Loss in FS_loss_XI0.csv, which SatQuMA ships, by elevation [deg]."""
FILE_KEYS = {(210, 0.0): 4652997.7, (220, 0.0): 4700176.4, (210, 1.0): 3682006.1, (220, 1.0): 3719368.9}
"""Keys behind that file, by half window [s] and added loss [dB]."""
FILE_SETTINGS = {"receiver.dark_count_probability": 1e-8, "receiver.misalignment_error": 1e-3}
COLORS = ("#0072B2", "#D55E00", "#009E73")


def line(name: str, ours: float, theirs: float) -> str:
    return f"  {name:<28} {ours:>14.8g} {theirs:>14.8g}  {ours / theirs - 1:+.1e}"


def zenith_db(study: pm.Study) -> float:
    return float(pm.link_budget(study.link, 90.0)["total_db"])


def computed_loss(study: pm.Study) -> None:
    point = pm.simulate(study).point()
    ours = {**point, **point["terms"], "min_loss_db": zenith_db(study)}
    print(f"pass through zenith, loss computed\n  {'':<28} {'ours':>14} {'SatQuMA':>14}  residual")
    for name, theirs in REFERENCE.items():
        print(line(name, ours[name], theirs))
    print("  SatQuMA shares errors out over the intensities by clicks, which moves the phase error and hence the key.")


def loss_from_file(study: pm.Study) -> None:
    shift = FILE_DB[90.0] - zenith_db(study)
    excess = study.link.channel.excess_loss_db + shift
    shifted = study.replace({"channel.excess_loss_db": excess, **FILE_SETTINGS})
    print("\nloss read from a file; ours shifted to its loss at zenith [dB]\n  deg      ours     file  residual")
    for elevation, theirs in FILE_DB.items():
        loss = pm.link_budget(shifted.link, elevation)["total_db"]
        print(f"  {elevation:4.1f} {loss:8.2f} {theirs:8.2f}  {loss - theirs:+.2f}")
    print(f"  {'key, half window, added loss':<28} {'ours':>14} {'SatQuMA':>14}  residual")
    for (half, added), theirs in FILE_KEYS.items():
        values = {"channel.excess_loss_db": excess + added, "run.duration_s": 2.0 * half + 1.0}
        point = pm.simulate(shifted.replace(values)).point()
        print(line(f"+- {half} s, {added:g} dB", point["secret_key_bits"], theirs))


def draw(study: pm.Study, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    fig = Figure(figsize=(9.6, 4.2), dpi=160, layout="constrained")
    left, right = fig.subplots(1, 2)
    print("\nthis pass, and lower ones above 10 degrees\n  culmination [deg]  duration [s]  least loss [dB]  key [bit]")
    for color, culmination in zip(COLORS, (90.0, 60.0, 30.0), strict=True):
        lower = {"channel.max_elevation_deg": culmination, "run.duration_s": None}
        one = study if culmination == study.link.channel.max_elevation_deg else study.replace(lower)
        passed = timeline(one)
        assert passed.secret_key_bits is not None
        duration, key = passed.time_s[-1] - passed.time_s[0], passed.secret_key_bits[-1]
        print(f"  {culmination:17.0f} {duration:13.0f} {passed.loss_db.min():16.2f} {key:10,.0f}")
        left.plot(passed.time_s, passed.loss_db, color=color)
        right.plot(passed.time_s, passed.secret_key_bits, color=color, label=f"culmination at {culmination:g} deg")
    left.plot(0.0, REFERENCE["min_loss_db"], "o", color="#000000", markersize=5)
    key = REFERENCE["secret_key_bits"]
    right.plot(200.5, key, "o", color="#000000", markersize=5, label="SatQuMA, 90 deg")
    left.set_ylabel("Loss [dB]")
    right.set_ylabel("Key of a block that ends here [bit]")
    right.yaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
    for axes in (left, right):
        axes.set_xlabel("Time from culmination [s]")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8.5, loc="upper left")
    fig.suptitle("Passes at 500 km as in Sidhu et al., npj Quantum Information 8, 18 (2022)", fontsize=11)
    fig.savefig(path)


def main() -> None:
    study = pm.preset("satquma_500km")
    computed_loss(study)
    loss_from_file(study)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "satquma_500km.png"
    draw(study, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
