"""Clocks of views found from their sound: generated cameras whose true clocks are known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.sync import RATE, conversation, error_ms, write_camera
from data_prep.build import build
from data_prep.clocks import pairs
from data_prep.config import BuildConfig, MergeConfig, SyncConfig
from data_prep.decode import probe
from data_prep.manifest import Source, read_manifest
from data_prep.merge import merge
from data_prep.shards import decode_npz, read_index, read_sample
from data_prep.sync import Clock, Match, Pair, SyncTask, fit, measure
from data_prep.views import PlannedFile
from tests.data_prep.media import write_media
from tests.data_prep.test_build import SMALL, failures, write_manifest

MINUTES = 6


@pytest.fixture(scope="module")
def world() -> np.ndarray:
    """What can be heard in a room, int16 [sample] at 16 kHz."""
    return conversation(np.random.default_rng(7), 60 * MINUTES)


def chain(*paths: Path) -> tuple[PlannedFile, ...]:
    files: list[PlannedFile] = []
    for path in paths:
        files.append(PlannedFile(Source(path, path.name, None), probe(path), files[-1].end if files else 0.0))
    return tuple(files)


@pytest.mark.parametrize(
    ("true", "snr"),
    [
        (Clock(2.5, 50e-6), 10),
        (Clock(157.123, 50e-6), 0),
        (Clock(-91.7, -50e-6), 0),
        (Clock(30.0, 200e-6), 10),
    ],
)
def test_offset_and_drift_are_found(tmp_path: Path, world: np.ndarray, true: Clock, snr: float) -> None:
    rng = np.random.default_rng(1)
    seconds = 60.0 * MINUTES
    one = write_camera(tmp_path / "one.wav", world, Clock(0.0), seconds, rng, 20)
    other = write_camera(tmp_path / "other.wav", world, true, seconds, rng, snr)
    found = measure(SyncTask(Pair(chain(one), chain(other)), tmp_path), lambda _: None)
    first, last = max(0.0, -true.offset), min(seconds, seconds - true.offset)
    assert max(error_ms(found, true, (first, (first + last) / 2, last))) <= 20
    assert found.confidence is not None
    assert found.confidence > 0.6
    assert not list(tmp_path.glob("tmp*"))


def test_chapters_and_late_sound_are_one_clock(tmp_path: Path, world: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    one = write_camera(tmp_path / "one.wav", world, Clock(0.0), 120.0, rng, 20)
    whole, rate = soundfile.read(write_camera(tmp_path / "whole.wav", world, Clock(15.0), 90.0, rng, 20))
    soundfile.write(tmp_path / "1.wav", whole[: 40 * rate], rate)
    soundfile.write(tmp_path / "2.wav", whole[40 * rate :], rate)
    parts = chain(tmp_path / "1.wav", tmp_path / "2.wav")
    found = measure(SyncTask(Pair(chain(one), parts), tmp_path), lambda _: None)
    assert max(error_ms(found, Clock(15.0), (0, 45, 90))) <= 10


def test_the_line_that_most_agree_with() -> None:
    times = np.arange(0, 3600, 60.0)
    delays = 12.0 + 50e-6 * times
    delays[::3] = np.random.default_rng(0).uniform(13, 16, len(delays[::3]))
    found = fit([Match(*match) for match in zip(times, delays, strict=True)], 60)
    assert found.offset == pytest.approx(12.0, abs=1e-3)
    assert found.drift == pytest.approx(50e-6, abs=5e-7)
    assert found.confidence == pytest.approx(40 / 60, abs=1e-3)
    # a walk of 5 ms from one microphone to the other in 20 s does not make a drift of 250 ppm
    short = fit([Match(t, 1.0 + 250e-6 * t) for t in (2.0, 7.0, 12.0, 17.0, 22.0)], 5)
    assert abs(short.drift) < 20e-6


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory, world: np.ndarray) -> BuildConfig:
    """A recording of three cameras that were started by hand, one microphone of another room, one camera without sound."""
    folder, rng = tmp_path_factory.mktemp("meeting"), np.random.default_rng(3)
    write_camera(folder / "a.wav", world, Clock(0.0), 240.0, rng, 20)
    write_camera(folder / "b.wav", world, Clock(21.4, 150e-6), 200.0, rng, 5)
    write_camera(folder / "c.wav", world, Clock(-14.25, -50e-6), 240.0, rng, 5)
    write_camera(folder / "other.wav", conversation(rng, 90), Clock(0.0), 90.0, rng, 20)
    write_media(folder / "silent.mkv", 3.0, audio=0)
    times = np.arange(0, 180, 0.5)
    window = np.arange(len(times), dtype=np.int32)
    np.savez(folder / "b.wav.face.npz", times=times, window=window, person=0 * window, box=np.zeros((len(times), 4)))
    rows = [{"path": f, "recording": "r", "view": f.split(".")[0]} for f in ("silent.mkv", "a.wav", "b.wav", "c.wav")]
    manifest = write_manifest(folder, *rows, {"path": "other.wav", "recording": "r", "view": "other"})
    config = BuildConfig(manifest, folder / "out", **SMALL | {"clip_seconds": 60.0, "landmarks": "given"})
    assert build(config) == 3
    return config


def test_a_view_whose_clock_is_unknown_is_one_line(meeting: BuildConfig) -> None:
    lines = {line["view"]: line for line in failures(meeting.out)}
    assert set(lines) == {"silent", "other"}
    assert lines["other"]["path"] == "other.wav"
    assert "confidence 0.00, less than 0.3, when compared with a.wav" in lines["other"]["reason"]
    assert "no sound" in lines["silent"]["reason"]
    assert all("`offset`" in line["remedy"] for line in lines.values())


def delay(one: np.ndarray, other: np.ndarray) -> float:
    """By how many seconds, up to half a second, something is heard later in one sound than in another one [sample]."""
    product = np.fft.rfft(one, 2 * len(one)) * np.fft.rfft(other, 2 * len(one)).conj()
    product[6 * len(product) // 16 :] = 0  # hiss above 3 kHz
    near = np.roll(np.fft.irfft(product / np.maximum(np.abs(product), 1e-9)), RATE // 2)[: RATE + 1]
    return (int(near.argmax()) - RATE // 2) / RATE


def test_views_are_built_on_one_clock(meeting: BuildConfig) -> None:
    samples = [read_sample(meeting.out, row) for _, row in read_index(meeting.out).iterrows()]
    assert len(samples) == 4
    for index, sample in enumerate(samples):
        views = json.loads(sample["meta.json"])["views"]
        assert set(views) == {"a", "b", "c"}
        assert (views["a"]["offset"], views["a"]["drift"], views["a"]["confidence"]) == (0.0, 0.0, None)
        assert views["b"]["confidence"] > 0.6
        found = Clock(views["b"]["offset"], views["b"]["drift"])
        assert max(error_ms(found, Clock(21.4, 150e-6), (0.0, 100.0, 200.0))) <= 20
        sounds = {view: soundfile.read(io.BytesIO(sample[f"{view}.audio.flac"]))[0] for view in views}
        for view in "bc":
            starts = [round(RATE * views[name]["streams"]["audio"]["start"]) for name in ("a", view)]
            begin, end = max(starts), min(len(sounds["a"]) + starts[0], len(sounds[view]) + starts[1])
            one, other = (
                sounds[name][begin - start : end - start] for name, start in zip(("a", view), starts, strict=True)
            )
            for piece in (slice(8 * RATE), slice(-8 * RATE, None)):
                assert abs(delay(one[piece], other[piece])) <= 0.02, (index, view)
    times = decode_npz(samples[2]["b.face.npz"])["times"] + 120.0
    clock = json.loads(samples[2]["meta.json"])["views"]["b"]
    own = (times - clock["offset"]) / (1 + clock["drift"])
    np.testing.assert_allclose(own, np.round(own * 2) / 2, atol=1e-6)


def test_what_was_measured_is_remembered(meeting: BuildConfig) -> None:
    memory = meeting.out / ".build" / "clocks.jsonl"
    before, index = memory.read_text(), (meeting.out / "index.parquet").read_bytes()
    assert before.count("b.wav") == 1
    memory.write_text(before[: before.rindex("[")])  # killed while it wrote the last one
    assert build(meeting) == 3
    after = [json.loads(line)[1] for line in memory.read_text().splitlines() if line.endswith("]]")]
    assert after == [json.loads(line)[1] for line in before.splitlines() if line]
    once_more = memory.read_text()
    assert build(meeting) == 3
    assert memory.read_text() == once_more
    assert (meeting.out / "index.parquet").read_bytes() == index


def test_the_reference_is_a_view_whose_place_is_known(tmp_path: Path) -> None:
    write_media(tmp_path / "a.mkv", 2.0)
    write_media(tmp_path / "b.mkv", 2.0, audio=0)
    rows = [
        {"path": "a.mkv", "recording": "r", "view": "one"},
        {"path": "b.mkv", "recording": "r", "view": "two", "offset": "1"},
        {"path": "a.mkv", "recording": "r", "view": "three", "offset": "5"},
        {"path": "a.mkv", "recording": "s", "view": "only sound"},
        {"path": "b.mkv", "recording": "s", "view": "only place", "offset": "5"},
        {"path": "b.mkv", "recording": "t", "view": "first"},
        {"path": "b.mkv", "recording": "t", "view": "second"},
    ]
    manifest = write_manifest(tmp_path, *rows)
    recordings, _ = read_manifest(manifest)
    (one,) = pairs(recordings, {tmp_path / name: probe(tmp_path / name) for name in ("a.mkv", "b.mkv")})
    assert (one.reference[0].offset, one.view[0].offset) == (5.0, 0.0)
    config = BuildConfig(manifest, tmp_path / "out", **SMALL, sync=SyncConfig(min_confidence=1.0))
    assert build(config) == 3
    lines = {(line["recording"], line["view"]): line["reason"] for line in failures(config.out)}
    assert set(lines) == {("r", "one"), ("s", "only sound"), ("t", "second")}
    assert "no view with a known offset has sound" in lines["s", "only sound"]
    shares = replace(config, out=tmp_path / "shares")
    assert [build(replace(shares, array=f"{number}/2")) for number in range(2)] == [0, 0]
    assert merge(MergeConfig(shares.out)) == 3
    assert (shares.out / "failures.csv").read_bytes() == (config.out / "failures.csv").read_bytes()
    assert (shares.out / "index.parquet").read_bytes() == (config.out / "index.parquet").read_bytes()
