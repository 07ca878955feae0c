"""Whole builds in small: what comes out is looked at through the reader, never through the builder's own state."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from configs import UserError
from data_prep.build import build
from data_prep.config import BuildConfig
from data_prep.decode import probe
from data_prep.manifest import read_manifest
from data_prep.plan import plan
from data_prep.shards import decode_npz, read_index, read_sample
from tests.data_prep.media import level, onsets, tone_times, write_media

SMALL: dict[str, Any] = {
    "clip_seconds": 2.0,
    "fps": 10.0,
    "short_side": 48,
    "landmarks": "none",
    "workers": 1,
    "crf": 10,
}


def write_manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def read_all(out: Path) -> dict[str, dict[str, bytes]]:
    return {row["key"]: read_sample(out, row) for _, row in read_index(out).iterrows()}


def failures(out: Path) -> list[dict[str, str]]:
    with (out / "failures.csv").open() as file:
        return list(csv.DictReader(file))


def greys(video: bytes) -> list[float]:
    """Mean brightness of the lower right quarter of each frame."""
    with av.open(io.BytesIO(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [float(p[p.shape[0] * 3 // 5 :, p.shape[1] * 3 // 5 :].mean()) for p in pictures]


def sound(data: bytes) -> np.ndarray:
    """[sample, channel]"""
    samples, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    assert rate == 16000
    return samples


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(manifest's folder, output) of one build of many kinds of recordings, good and bad."""
    root = tmp_path_factory.mktemp("mixed")
    uneven = [0, 0.1, 0.15, 0.2, 0.9, 1.0, 1.7, 2.0, 2.4, 3.2]  # variable frame rate
    write_media(root / "uneven.mkv", 3.5, uneven, audio=0)
    write_media(root / "late.mkv", 5.0, audio_start=0.476)
    write_media(root / "wide.mp4", 2.0, size=(160, 90), audio=0)
    write_media(root / "turned.mp4", 2.0, size=(64, 48), audio=0, rotation=90)
    write_media(root / "cam a.mkv", 6.0)
    write_media(root / "cam_b.mkv", 4.0)
    write_media(root / "two.wav.mkv", 4.0, audio=2, video=False, rate=44100)
    write_media(root / "ch1.mkv", 3.0)
    write_media(root / "ch2.mkv", 3.0)
    write_media(root / "moment.mkv", 0.5)
    (root / "text.mp4").write_text("not a film")
    (root / "empty.mp4").touch()
    whole = write_media(root / "whole.mkv", 4.0).read_bytes()
    (root / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    manifest = write_manifest(
        root,
        {"path": "uneven.mkv", "recording": "007", "split": "train", "x.site": "Bonn"},
        {"path": "late.mkv"},
        {"path": "wide.mp4"},
        {"path": "turned.mp4"},
        {"path": "cam a.mkv", "recording": "dyad", "view": "left", "offset": "0", "participants": "anna"},
        {"path": "cam_b.mkv", "recording": "dyad", "view": "right", "offset": "1.06", "participants": "ben"},
        {"path": "two.wav.mkv", "recording": "dyad", "view": "mics", "offset": "0", "participants": "anna;ben"},
        {"path": "two.wav.mkv", "recording": "mix"},
        {"path": "ch2.mkv", "recording": "chapters", "part": "2"},
        {"path": "ch1.mkv", "recording": "chapters", "part": "1"},
        {"path": "late.mkv", "recording": "part of it", "start": "1.5", "end": "4.5"},
        {"path": "late.mkv", "recording": "unknown offset", "view": "one", "offset": "0"},
        {"path": "ch1.mkv", "recording": "unknown offset", "view": "two"},
        {"path": "moment.mkv"},
        {"path": "text.mp4"},
        {"path": "empty.mp4"},
        {"path": "gone.mp4"},
        {"path": "cut.mkv"},
    )
    out = root / "out"
    assert build(BuildConfig(manifest, out, **SMALL)) == 3
    return root, out


@pytest.fixture(scope="module")
def samples(mixed: tuple[Path, Path]) -> dict[str, dict[str, bytes]]:
    return read_all(mixed[1])


def meta(sample: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(sample["meta.json"])


def test_each_frame_is_what_is_seen_in_its_middle(samples: dict[str, dict[str, bytes]]) -> None:
    shown = [0, 0.1, 0.15, 0.2, 0.9, 1.0, 1.7, 2.0, 2.4, 3.2]
    for start, frames in ((0, 20), (2, 14)):  # the last picture lasts as long as pictures do: 0.1 s
        sample = samples[f"007-{start * 1000:09d}"]
        got = greys(sample["main.video.mp4"])
        expected = [level(max(t for t in shown if t <= start + k / 10 + 0.05 + 1e-6)) for k in range(len(got))]
        np.testing.assert_allclose(got, expected, atol=3)
        assert abs(len(got) - frames) <= 1


def test_meta_says_what_the_manifest_said(samples: dict[str, dict[str, bytes]]) -> None:
    about = meta(samples["007-000002000"])
    assert about["recording"] == "007"
    assert about["split"] == "train"
    assert about["extra"] == {"site": "Bonn"}
    assert about["schema"] == 1
    assert about["key"] == "007-000002000"
    assert about["start"] == 2.0
    view = about["views"]["main"]
    assert view["source"] == "uneven.mkv"
    assert view["streams"] == {"video": {"start": 0.0, "rate": 10.0, "width": 64, "height": 48}}
    assert "main.audio.flac" not in samples["007-000002000"]


def test_sound_lies_at_its_time(samples: dict[str, dict[str, bytes]]) -> None:
    for start in (0, 2, 4):
        sample = samples[f"late-{start * 1000:09d}"]
        about = meta(sample)["views"]["main"]["streams"]["audio"]
        heard = sound(sample["main.audio.flac"])[:, 0]
        assert about["start"] == pytest.approx(0.476 if start == 0 else 0.0, abs=1e-3)
        assert about["channels"] == 1
        end = min(2.0, 5.0 - start)
        assert about["start"] + len(heard) / 16000 == pytest.approx(end, abs=1e-3)
        expected = [t - start for t in tone_times(5.0, 0) if start + about["start"] <= t < start + end]
        np.testing.assert_allclose(onsets(heard) + about["start"], expected, atol=2e-3)


def test_the_aspect_of_a_picture_is_told(samples: dict[str, dict[str, bytes]]) -> None:
    """Landmarks are fractions of it, whether anybody decodes it or not."""
    told = {
        name: meta(samples[f"{name}-000000000"])["views"]["main"].get("aspect") for name in ("wide", "turned", "mix")
    }
    assert told == {"wide": pytest.approx(16 / 9, abs=1e-5), "turned": pytest.approx(3 / 4, abs=1e-5), "mix": None}


def test_pictures_keep_their_aspect_and_stand_upright(samples: dict[str, dict[str, bytes]]) -> None:
    streams = meta(samples["wide-000000000"])["views"]["main"]["streams"]
    assert (streams["video"]["width"], streams["video"]["height"]) == (86, 48)
    sample = samples["turned-000000000"]
    video = meta(sample)["views"]["main"]["streams"]["video"]
    assert (video["width"], video["height"]) == (48, 64)
    with av.open(io.BytesIO(sample["main.video.mp4"])) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    # turned counter-clockwise by 90 degrees, the upper left quarter comes to lie lower left
    assert picture[40:60, 5:20].mean() > 240
    assert picture[5:25, 5:20].mean() < 60


def test_written_video_is_plain_h264(samples: dict[str, dict[str, bytes]]) -> None:
    with av.open(io.BytesIO(samples["late-000000000"]["main.video.mp4"])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].codec_context.name == "h264"
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(20) / 10)


def test_views_of_a_recording_share_samples_and_its_clock(samples: dict[str, dict[str, bytes]]) -> None:
    first, last = samples["dyad-000000000"], samples["dyad-000004000"]
    assert {name.split(".")[0] for name in first} == {"__key__", "left", "right", "mics", "meta"}
    right = meta(first)["views"]["right"]
    assert right["offset"] == 1.06
    assert right["streams"]["video"]["start"] == pytest.approx(1.1)  # the first frame time at which there is a picture
    assert right["streams"]["audio"]["start"] == pytest.approx(1.06, abs=1e-3)
    np.testing.assert_allclose(greys(first["right.video.mp4"]), [level(k / 10) for k in range(9)], atol=3)
    heard = sound(first["right.audio.flac"])[:, 0]
    np.testing.assert_allclose(onsets(heard) + 1.06, [1.06], atol=2e-3)
    assert "mics.audio.flac" not in last  # it is over by then
    assert len(greys(last["right.video.mp4"])) == 11


def test_a_channel_a_participant_else_mono(samples: dict[str, dict[str, bytes]]) -> None:
    apart = sound(samples["dyad-000002000"]["mics.audio.flac"])
    assert apart.shape[1] == 2
    np.testing.assert_allclose(onsets(apart[:, 0]), [0, 1], atol=2e-3)
    np.testing.assert_allclose(onsets(apart[:, 1]), [0.1, 1.1], atol=2e-3)
    mixed = sound(samples["mix-000002000"]["main.audio.flac"])
    assert mixed.shape[1] == 1
    np.testing.assert_allclose(onsets(mixed[:, 0]), [0, 0.1, 1, 1.1], atol=2e-3)
    assert "main.video.mp4" not in samples["mix-000002000"]


def test_chapter_files_follow_one_another(samples: dict[str, dict[str, bytes]]) -> None:
    got = greys(samples["chapters-000002000"]["main.video.mp4"])
    expected = [level(2 + k / 10) for k in range(10)] + [level(k / 10) for k in range(10)]
    np.testing.assert_allclose(got, expected, atol=3)
    heard = sound(samples["chapters-000002000"]["main.audio.flac"])[:, 0]
    np.testing.assert_allclose(onsets(heard), [0, 1], atol=2e-3)
    assert meta(samples["chapters-000004000"])["views"]["main"]["source"] == "ch2.mkv"


def test_a_window_begins_where_it_says(samples: dict[str, dict[str, bytes]]) -> None:
    keys = [key for key in samples if key.startswith("part_of_it")]
    assert keys == ["part_of_it-000001500", "part_of_it-000003500"]
    np.testing.assert_allclose(
        greys(samples[keys[0]]["main.video.mp4"]), [level(1.5 + k / 10) for k in range(20)], atol=3
    )
    assert len(greys(samples[keys[1]]["main.video.mp4"])) == 10


def test_what_fails_is_one_line_each_and_costs_nothing_else(mixed: tuple[Path, Path]) -> None:
    lines = {line["recording"]: line for line in failures(mixed[1])}
    assert set(lines) == {"moment", "text", "empty", "gone", "cut", "unknown offset"}
    assert lines["gone"]["reason"] == "no such file"
    assert lines["empty"]["reason"] == "the file is empty"
    assert "media file" in lines["text"]["reason"]
    assert "no clip of 1 s" in lines["moment"]["reason"]
    assert (lines["unknown offset"]["view"], lines["unknown offset"]["path"]) == ("two", "ch1.mkv")
    assert "offset" in lines["unknown offset"]["remedy"]
    assert all(line["remedy"] for line in lines.values())
    index = read_index(mixed[1])
    built = {"007", "late", "wide", "turned", "dyad", "mix", "chapters", "part of it", "unknown offset", "cut"}
    assert set(index.recording) == built
    assert "before its header says" in lines["cut"]["reason"]


def test_again_does_nothing_and_a_change_only_what_it_touches(tmp_path: Path) -> None:
    for name in "abc":
        write_media(tmp_path / "in" / f"{name}.mkv", 4.0, audio=0)
    config = BuildConfig(tmp_path / "in", tmp_path / "out", **SMALL, shard_minutes=4 / 60)
    assert build(config) == 0
    before = {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}
    assert len(before) == 3
    index = (config.out / "index.parquet").read_bytes()

    assert build(config) == 0
    assert {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")} == before
    assert (config.out / "index.parquet").read_bytes() == index

    write_media(tmp_path / "in" / "b.mkv", 4.0, audio=1)
    assert build(config) == 0
    after = {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}
    assert len(after) == 3
    assert len(set(after.items()) & set(before.items())) == 2
    assert sorted(read_all(config.out)) == [f"{name}-{start:09d}" for name in "abc" for start in (0, 2000)]

    (config.out / next(iter(after))).write_bytes(b"cut short")
    assert build(config) == 0
    assert len(read_all(config.out)) == 6


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for name in "abc":
        write_media(tmp_path / "in" / f"{name}.mkv", 5.0)
    contents = []
    for workers in (1, 2):
        config = BuildConfig(
            tmp_path / "in", tmp_path / f"out{workers}", **SMALL | {"workers": workers}, shard_minutes=3 / 60
        )
        assert build(config) == 0
        contents.append({path.name: path.read_bytes() for path in config.out.glob("*.tar")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 9  # longer than a shard: each recording in three shards of its own
    assert len(read_all(tmp_path / "out1")) == 9


def write_landmarks(video: Path, person: int, seconds: float = 4.0) -> None:
    """A face that moves to the right by 0.1 a second, 8 times a second, and nobody in the last second."""
    times = np.arange(0, seconds, 1 / 8)
    window = np.flatnonzero(times < seconds - 1).astype(np.int32)
    left = 0.1 * times[window]
    np.savez(
        video.with_name(f"{video.name}.face.npz"),
        times=times,
        window=window,
        person=np.full(len(window), person, np.int32),
        box=np.stack([left, left * 0, left + 0.2, left * 0 + 0.2], axis=1).astype(np.float32),
    )
    people = np.zeros((len(times), 3, 4), np.float32)
    np.savez(video.with_name(f"{video.name}.regions.npz"), times=times, people=people)


def test_given_landmarks_are_cut_by_time(tmp_path: Path) -> None:
    for person, (name, seconds) in enumerate((("a", 4.0), ("b", 4.0))):
        write_landmarks(write_media(tmp_path / f"{name}.mkv", seconds), person)
    manifest = write_manifest(
        tmp_path,
        {"path": "a.mkv", "recording": "r", "view": "Cam A", "offset": 0, "participants": "anna"},
        {"path": "b.mkv", "recording": "r", "view": "camb", "offset": 0.5, "participants": "ben"},
    )
    assert build(BuildConfig(manifest, tmp_path / "out", **SMALL | {"landmarks": "given"})) == 0
    samples = read_all(tmp_path / "out")
    assert list(samples) == ["r-000000000", "r-000002000"]  # the rest, 0.5 s, is too short for a clip
    about = meta(samples["r-000002000"])
    assert about["people"] == [{"id": 0, "participant": "anna"}, {"id": 1, "participant": "ben"}]
    assert about["views"]["cam_a"]["landmarks"] == "given"
    assert about["views"]["cam_a"]["streams"]["face"] == {"start": 0.0, "rate": 8.0}

    face = decode_npz(samples["r-000002000"]["camb.face.npz"])
    np.testing.assert_allclose(face["times"], np.arange(16) / 8)
    assert (face["person"] == 1).all()
    # on the recording's clock camb's faces are seen until 3.5 s, and each is where it was 0.5 s before
    np.testing.assert_allclose(face["times"][face["window"]], np.arange(12) / 8)
    np.testing.assert_allclose(face["box"][:, 0], 0.1 * (2 + face["times"][face["window"]] - 0.5), atol=1e-6)
    start = decode_npz(samples["r-000000000"]["camb.face.npz"])["times"]
    np.testing.assert_allclose(start, 0.5 + np.arange(12) / 8)

    regions = decode_npz(samples["r-000002000"]["cam_a.regions.npz"])
    assert regions["motion"].shape == regions["people"].shape == (16, 3, 4)
    assert "cam_a.pose.npz" not in samples["r-000002000"]


def test_damaged_landmarks_are_a_line(tmp_path: Path) -> None:
    write_media(tmp_path / "in" / "a.mkv", 2.0)
    write_media(tmp_path / "in" / "b.mkv", 2.0)
    np.savez(tmp_path / "in" / "a.mkv.face.npz", times=np.array([{}], dtype=object))
    assert build(BuildConfig(tmp_path / "in", tmp_path / "out", **SMALL | {"landmarks": "given"})) == 3
    (line,) = failures(tmp_path / "out")
    assert (line["recording"], line["path"]) == ("a", "a.mkv.face.npz")
    assert list(read_index(tmp_path / "out").recording) == ["b"]


def test_what_nobody_can_build_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no media file"):
        build(BuildConfig(tmp_path, tmp_path / "out", **SMALL))
    (tmp_path / "file").touch()
    write_media(tmp_path / "a.mkv", 1.0)
    with pytest.raises(UserError, match="cannot be written to"):
        build(BuildConfig(tmp_path, tmp_path / "file" / "out", **SMALL))
    with pytest.raises(UserError, match="no index"):
        read_index(tmp_path)


def test_settings_that_decide_about_bytes_name_other_shards(tmp_path: Path) -> None:
    video = write_media(tmp_path / "a.mkv", 2.0, audio=0)
    config = BuildConfig(tmp_path, tmp_path / "out", **SMALL)
    recordings, _ = read_manifest(tmp_path)

    def name(config: BuildConfig) -> str:
        return plan(recordings, {video: probe(video)}, {}, config)[0][0].name

    assert name(replace(config, crf=30)) != name(config)
    assert name(replace(config, workers=3, out=tmp_path / "other")) == name(config)
