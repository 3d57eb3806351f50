"""Time tags: exact times, sorted streams, files that others read, and what stays after Ctrl-C or a failure."""

from __future__ import annotations

import itertools
import json
import signal
import tempfile
import tracemalloc
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import ptufile
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photonmc import ptu, timetags
from photonmc.clock import LATEST_PS, Clock
from photonmc.errors import ConfigError
from photonmc.parquet import COLUMNS, ROW_GROUP
from photonmc.ptu import MOST_WRAPS, PtuFile, records
from photonmc.timetags import Clicks, TagFile, unusable_tags

SENT = [{"basis": "Z", "intensity": 0.5, "sent": 7}]
RATES = st.sampled_from([1.0, 7e8, 1e9, 1e12 / 3, 1e13, 123456789.123]) | st.floats(1.0, 1e13)


def clicks_of(pulse, jitter_ps=None, seed=0) -> Clicks:
    """Clicks of given gates and jitter, everything else at random."""
    rng = np.random.default_rng(seed)
    pulse = np.asarray(pulse, dtype=np.int64)
    bits = [rng.integers(0, 2, pulse.size) for _ in range(6)]
    return Clicks(
        pulse, *bits, rng.integers(0, 4, pulse.size), np.zeros(pulse.size) if jitter_ps is None else np.asarray(jitter_ps)
    )


def write(path, clock, batches, sent=SENT, **more) -> None:
    with TagFile(path, clock, seed=3, version="1.2", **more) as tags:
        for batch in batches:
            tags.write(batch)
        tags.close(sent)


def read_parquet(path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_ptu(path) -> tuple[np.ndarray, np.ndarray]:
    with ptufile.PtuFile(path) as file:
        decoded = file.decode_records()
    usable = decoded["channel"] >= 0
    return decoded["time"][usable], decoded["channel"][usable]


def exact(clock, pulse, jitter) -> int:
    return clock.offset_ps + round(int(pulse) * 10**12 / Fraction(clock.pulse_rate_hz) + Fraction(float(jitter)))


# Clock -----------------------------------------------------------------------------------------------------------------


@given(st.data(), RATES, st.floats(-1e5, 0), st.floats(0, 1e5))
@settings(max_examples=300, deadline=None)
def test_times_are_exact_to_the_last_gate(data, rate, low, high):
    clock = Clock(rate, low, high)
    gates = st.integers(0, clock.last_gate) | st.integers(max(0, clock.last_gate - 10), clock.last_gate)
    pulse = np.array(data.draw(st.lists(gates, min_size=1, max_size=20)), dtype=np.int64)
    jitter = np.array([data.draw(st.floats(low, high) | st.sampled_from([low, high])) for _ in pulse])
    times = clock.times(pulse, jitter)
    assert times.min() >= 0
    for gate, shift, time in zip(pulse, jitter, times, strict=True):
        true = clock.offset_ps + int(gate) * clock.period_ps + Fraction(float(shift))
        assert abs(int(time) - true) <= Fraction(1, 2) + Fraction(1, 10**5)
        assert time >= clock.earliest(int(gate))
    if clock.last_gate < LATEST_PS:  # one more gate might not fit
        assert clock.offset_ps + (clock.last_gate + 1) * clock.period_ps + Fraction(high) > LATEST_PS - 1
        assert list(clock.too_long(clock.last_gate + 10)) and not list(clock.too_long(clock.last_gate))


@pytest.mark.parametrize("rate", [1e9, 7e8, 1.25e9, 999_999_937.0, 2.5e6 + 1 / 3])
def test_a_day_keeps_single_picoseconds(rate):
    clock = Clock(rate, -300.0, 300.0)
    rng = np.random.default_rng(1)
    pulse = np.sort(rng.integers(0, int(86400 * rate), 2000))
    pulse[-1] = int(86400 * rate) - 1
    jitter = np.round(rng.normal(0, 30, pulse.size).clip(-300, 300), 2)
    times = clock.times(pulse, jitter)
    assert times[-1] > 2**53
    assert [exact(clock, *click) for click in zip(pulse, jitter, strict=True)] == times.tolist()


def test_ties_go_to_the_even_number():
    assert Clock(4e11).times(np.arange(8), np.zeros(8)).tolist() == [round(2.5 * gate) for gate in range(8)]
    assert Clock(1e9, -9.0, 9.0).times(np.arange(4), np.array([0.5, 1.5, -0.5, -1.5])).tolist() == [9, 1011, 2009, 3007]


@pytest.mark.parametrize(("low", "high", "offset"), [(0, 0, 0), (-0.4, 3, 1), (-250.0, 250.0, 250), (5.0, 9.0, 0)])
def test_offset_is_the_time_of_gate_0(low, high, offset):
    clock = Clock(1e9, low, high)
    assert clock.offset_ps == offset
    assert clock.times(np.array([0]), np.array([float(low)]))[0] >= 0


# Sorting ---------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=8),
    st.sampled_from([1e9, 7e8, 1e12, 3.3e12]),
    st.sampled_from([0.0, 30.0, 5000.0, 1e6]),
    st.sampled_from([1, 7, 2**16]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_streams_come_out_sorted_and_complete(gaps, rate, spread, batch, seed, told):
    rng = np.random.default_rng(seed)
    clock, gate, batches, ends = Clock(rate, -spread, spread / 2), 0, [], []
    for number, steps in enumerate(gaps):
        pulse = gate + np.cumsum(np.array(steps, dtype=np.int64))  # a gate may click twice
        batches.append(clicks_of(pulse, rng.uniform(-spread, spread / 2, pulse.size), seed=seed + number))
        gate = int(pulse[-1] if pulse.size else gate) + 1 + int(rng.integers(0, 3))
        ends.append(gate)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(timetags, "BATCH", batch):
        for suffix in (".parquet", ".ptu"):
            with TagFile(Path(folder) / f"tags{suffix}", clock, 0, "", force=True) as tags:
                for clicks, until in zip(batches, ends, strict=True):
                    tags.write(clicks, until if told else None)
                tags.close([])
        rows = read_parquet(Path(folder) / "tags.parquet")
        time, channel = read_ptu(Path(folder) / "tags.ptu")
    if batches:
        whole = Clicks(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
        times = np.array([exact(clock, *c) for c in zip(whole.pulse, whole.jitter_ps, strict=True)], dtype=np.int64)
        order = np.lexsort((whole.detector, whole.pulse, times))
        assert np.array_equal(rows["time_ps"], times[order])
        key = np.stack([rows[name] for name in ("time_ps", "pulse", "detector")])
        assert all(a <= b for a, b in itertools.pairwise(map(tuple, key.T.tolist())))
        together = np.stack([times, *(getattr(whole, name).astype(np.int64) for name in list(COLUMNS)[1:])])
        got = np.stack([rows[name].astype(np.int64) for name in COLUMNS])
        assert sorted(together.T.tolist()) == sorted(got.T.tolist())
    np.testing.assert_array_equal(time, rows["time_ps"])
    np.testing.assert_array_equal(channel, rows["detector"] + 2 * rows["basis"])


def test_memory_does_not_grow_with_the_run(tmp_path):
    def peak(batches: int) -> float:
        tracemalloc.start()
        with TagFile(tmp_path / "a.ptu", Clock(1e9, -1e5, 1e5), 0, "", force=True) as tags:
            for number in range(batches):
                pulse = number * 100_000 + np.arange(0, 100_000, 10)
                tags.write(clicks_of(pulse, np.random.default_rng(number).uniform(-1e5, 1e5, pulse.size)))
            tags.close([])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(200) < 1.3 * peak(20)


def test_row_groups_are_bounded(tmp_path):
    pulse = np.arange(ROW_GROUP + 5)
    write(tmp_path / "a.parquet", Clock(1e9), [clicks_of(pulse), clicks_of(pulse + pulse.size)])
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(group).num_rows for group in range(3)] == [ROW_GROUP, ROW_GROUP, 10]
    assert np.array_equal(read_parquet(tmp_path / "a.parquet")["pulse"], np.arange(2 * pulse.size))


def test_a_broken_order_is_refused(tmp_path):
    with TagFile(tmp_path / "a.ptu", Clock(1e9, -5.0, 5.0), 0, "") as tags:
        tags.write(clicks_of([3, 8]), until=10)
        for clicks, until in ((clicks_of([9]), None), (clicks_of([12]), 12), (clicks_of([12], [5.1]), None)):
            with pytest.raises(ValueError, match=r"order|bounds"):
                tags.write(clicks, until)
        with pytest.raises(ConfigError, match=r"106\.8 days"):
            tags.write(clicks_of([10**16]))
        tags.write(clicks_of([10]))
        tags.close([])
    assert read_ptu(tmp_path / "a.ptu")[0].tolist() == [3005, 8005, 10005]


# Files -----------------------------------------------------------------------------------------------------------------


def test_parquet_says_what_it_holds(tmp_path):
    write(tmp_path / "run.a.parquet", Clock(7e8, -20.5, 30.0), [clicks_of([0, 5, 5], [-20.5, 0.0, 30.0])])
    schema = pq.read_schema(tmp_path / "run.a.parquet")
    types = dict(zip(schema.names, map(str, schema.types), strict=True))
    assert types == {name: "bool" if kind is np.bool_ else np.dtype(kind).name for name, kind in COLUMNS.items()}
    notes = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    wanted = {"offset_ps": "21", "seed": "3", "version": "1.2", "pulse_rate_hz": "700000000.0", "resolution_ps": "1"}
    assert notes.items() >= wanted.items() and "2 * basis" in notes["channels"]
    assert read_parquet(tmp_path / "run.a.parquet")["time_ps"].tolist() == [1, 7164, 7194]
    beside = json.loads((tmp_path / "run.a.json").read_text())
    assert beside == {"sent": SENT, "offset_ps": 21, "seed": 3, "version": "1.2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.a.json", "run.a.parquet"]


def test_an_empty_run_is_a_valid_file(tmp_path):
    for suffix in (".parquet", ".ptu"):
        write(tmp_path / f"a{suffix}", Clock(1e9), [clicks_of([])], force=True)
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 0
    assert ptufile.PtuFile(tmp_path / "a.ptu").tags["TTResult_NumberOfRecords"] == 0


def test_ptu_words():
    words = records(np.array([5, 33554433, 134217735]), np.array([0, 3, 1]))
    assert [f"{word:#010x}" for word in words] == ["0x00000005", "0xfe000001", "0x06000001", "0xfe000003", "0x02000007"]


def test_ptu_header(tmp_path):
    with TagFile(tmp_path / "a.ptu", Clock(7e8), 3, "1.2") as tags:
        tags.write(clicks_of([1, 2, 700_000]), until=7_000_000)
        tags.close([])
    with ptufile.PtuFile(tmp_path / "a.ptu") as file:
        assert not file.is_t3 and file.tags["TTResultFormat_TTTRRecType"] == 0x01010204
        assert (
            file.tags["TTResult_NumberOfRecords"] == 4 == (tmp_path / "a.ptu").stat().st_size // 4 - file._data_offset // 4
        )
        assert file.tags["MeasDesc_AcquisitionTime"] == 10 and file.tags["MeasDesc_GlobalResolution"] == 1e-12
        assert file.tags["TTResult_SyncRate"] == 700_000_000 and "offset_ps = 0" in file.tags["File_Comment"]


GAPS = st.integers(0, 100) | st.integers(0, 2**35) | st.integers(0, 2**14).map(lambda wraps: abs(wraps * 2**25 - 1))


@given(st.lists(GAPS, min_size=1, max_size=15), st.integers(1, 4), st.sampled_from([1, 5, 2**20]))
@settings(max_examples=150, deadline=None)
def test_ptu_of_any_gaps(gaps, pieces, piece):
    time_ps = np.cumsum(np.array(gaps, dtype=np.int64))
    rows = {
        "time_ps": time_ps,
        "detector": (time_ps % 2).astype(np.uint8),
        "basis": (time_ps // 2 % 2).astype(np.uint8),
    }
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(ptu, "PIECE", piece):
        file = PtuFile(Path(folder) / "a.ptu", 1e9, "", "")
        for part in np.array_split(np.arange(time_ps.size), pieces):
            file.write({name: column[part] for name, column in rows.items()})
        file.close(0)
        time, channel = read_ptu(Path(folder) / "a.ptu")
    np.testing.assert_array_equal(time, time_ps)
    np.testing.assert_array_equal(channel, time_ps % 4)


@pytest.mark.parametrize("wraps", [1, 126, 127, 128, 254, 255, 100_001])
def test_ptu_counts_wraps_in_as_few_records_as_every_reader_allows(wraps):
    words = records(np.array([3, wraps * 2**25 + 7]), np.array([2, 1]))
    assert words[0] == (2 << 25 | 3) and words[-1] == (1 << 25 | 7)
    counts = words[1:-1].astype(np.int64) - 0xFE000000
    assert counts.min() > 0 and counts.max() <= MOST_WRAPS and counts.sum() == wraps and counts.size == -(-wraps // 127)


def test_hours_of_silence_beyond_float64(tmp_path):
    hour = 3600 * 10**9
    gates, jitter = [0, 1, hour + 1, 3 * hour, 3 * hour + 1], [3.0, 0.0, 7.0, 1.0, 2.0]
    for suffix in (".ptu", ".parquet"):
        write(tmp_path / f"a{suffix}", Clock(1e9, 0.0, 10.0), [clicks_of(gates, jitter)], force=True)
    times = [1000 * gate + int(shift) for gate, shift in zip(gates, jitter, strict=True)]
    assert times[-1] > 2**53
    assert read_ptu(tmp_path / "a.ptu")[0].tolist() == read_parquet(tmp_path / "a.parquet")["time_ps"].tolist() == times


# Ctrl-C, failures, bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".ptu"])
def test_ctrl_c_leaves_a_readable_file(tmp_path, suffix, monkeypatch, request):
    path = tmp_path / f"a{suffix}"
    monkeypatch.setattr(timetags, "BATCH", 1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background may ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with TagFile(path, Clock(1e9, -2000.0, 0.0), 0, "") as tags:
        tags.write(clicks_of([0, 1]))
        inner = tags._sink.write

        def interrupted(rows):
            signal.raise_signal(signal.SIGINT)
            inner(rows)

        tags._sink.write = interrupted
        with pytest.raises(KeyboardInterrupt):
            tags.write(clicks_of([2, 3, 4]))
        with pytest.raises(KeyboardInterrupt):
            tags.close(SENT)
        tags.close(SENT)
    time = read_parquet(path)["time_ps"] if suffix == ".parquet" else read_ptu(path)[0]
    assert time.tolist() == [2000, 3000, 4000, 5000, 6000]
    assert json.loads((tmp_path / "a.json").read_text())["sent"] == SENT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("suffix", [".parquet", ".ptu"])
def test_a_failure_leaves_what_was_there(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("before")
    with TagFile(path, Clock(1e9), 0, "", force=True) as tags:
        tags.write(clicks_of([1]))
    with TagFile(path, Clock(1e9), 0, "", force=True) as tags:
        tags.write(clicks_of([1]))
        with mock.patch.object(tags._sink, "close", side_effect=OSError("disk full")), pytest.raises(OSError, match="full"):
            tags.close([])
    with TagFile(path, Clock(1e9), 0, "", force=True) as tags, pytest.raises(ValueError, match="JSON"):
        tags.close([{"sent": float("nan")}])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "before")]


def test_bad_input_is_said_at_once_and_nothing_written(tmp_path, monkeypatch):
    def said(name, force=False, others=()):
        return [str(mistake).removeprefix("--time-tags ") for mistake in unusable_tags(tmp_path / name, force, others)]

    for name in ("a.ptu", "a.json", "b.json"):
        (tmp_path / name).touch()
    (tmp_path / "c.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert said("a.csv") == [f"{tmp_path}/a.csv: must end in one of .parquet .ptu"]
    assert said("a.ptu") == [f"{tmp_path}/a.{end}: exists; --force replaces it" for end in ("ptu", "json")]
    assert said("b.ptu") == [f"{tmp_path}/b.json: exists; --force replaces it"]
    assert said("c.ptu", force=True) == [f"{tmp_path}/c.json: is a folder"]
    assert said("a.ptu", force=True) == said("new.parquet") == []
    assert said("no/a.ptu") == [f"{tmp_path}/no/a.ptu: its folder {tmp_path}/no does not exist"]
    assert len(said("\0.ptu")) == 1
    assert "another file" in said("new.ptu", others=[tmp_path / "new.csv", tmp_path / "." / "new.json"])[0]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert said("no/a.parquet")[0].endswith('needs pyarrow: pip install "photonmc[tags]"') and len(said("no/a.parquet")) == 2
    with pytest.raises(ConfigError, match="exists"):
        TagFile(tmp_path / "a.ptu", Clock(1e9), 0, "")
    assert sorted(tmp_path.rglob("*")) == before
