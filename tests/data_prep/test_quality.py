"""What is told of a clip's pictures and sound, and which clips the filters leave out."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from data_prep.build import build
from data_prep.config import BuildConfig, FilterConfig
from data_prep.quality import PictureMeter, of_clip, reasons_to_drop, sound_quality, speech_share
from data_prep.shards import read_index, read_sample
from tests.data_prep.rooms import frames, write_video
from tests.data_prep.test_build import write_manifest


def measured(pictures: list[np.ndarray], rate: float = 8) -> dict[str, float]:
    meter = PictureMeter()
    for number, picture in enumerate(pictures):
        meter.add(number / rate, picture)
    return meter.result()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(16, 236, (48, 64)).astype(np.uint8)


def test_a_blurred_picture_is_less_sharp():
    sharp, soft = noise(0), np.asarray(cv2.GaussianBlur(noise(0), (0, 0), 2), np.uint8)
    assert measured([sharp])["sharpness"] > 100 * measured([soft])["sharpness"]
    laplacian = cv2.Laplacian(sharp, cv2.CV_64F)[1:-1, 1:-1]
    assert measured([sharp])["sharpness"] == pytest.approx(laplacian.var(), abs=0.01)


def test_exposure_goes_from_0_to_1_in_studio_range():
    grey = [np.full((48, 64), level, np.uint8) for level in (0, 16, 126, 235, 255)]
    assert [measured([picture])["exposure"] for picture in grey] == [0, 0, pytest.approx(0.5, abs=0.01), 1, 1]


def test_black_pictures_are_dark_nearly_everywhere():
    dark = np.full((48, 64), 20, np.uint8)
    lamp = dark.copy()
    lamp[:8, :8] = 200  # a fiftieth of it
    assert measured([dark, lamp, noise(0), noise(1)])["black"] == 0.25


def test_what_stands_still_for_a_second_is_frozen_and_what_changes_twice_a_second_is_not():
    still = [noise(0)] * 12 + [noise(seed) for seed in range(1, 5)]
    assert measured(still)["frozen"] == 12 / 16
    assert measured([noise(k // 4) for k in range(16)])["frozen"] == 0  # a camera of two pictures a second
    assert measured([noise(0)])["frozen"] == 0


def test_sound_that_is_silent_or_cut_off():
    rate = 16000
    clock = np.arange(2 * rate) / rate
    tone = np.stack([np.sin(2 * np.pi * 440 * clock) * 8000, np.zeros(2 * rate)]).astype(np.int16)
    assert sound_quality(tone, rate) == {"clipping": 0, "silence": 0}  # one channel speaks
    half = tone.copy()
    half[:, rate:] = np.random.default_rng(0).integers(-20, 20, (2, rate))  # noise of a good sound card
    assert sound_quality(half, rate)["silence"] == 0.5
    loud = np.clip(np.sin(2 * np.pi * 440 * clock) * 65536, -32768, 32767).astype(np.int16)[None]
    assert sound_quality(loud, rate)["clipping"] == pytest.approx(2 / 3, abs=0.01)
    assert sound_quality(tone[:, :50], rate)["silence"] == 0  # less than a tenth of a second


def test_speech_of_several_channels_counts_once():
    speech = [
        {"start": 1.0, "end": 3.0},
        {"start": 0.0, "end": 0.5},
        {"start": 1.5, "end": 2.0},
        {"start": 2.5, "end": 4.0},
    ]
    assert speech_share(speech, 5.0) == {"speech": 0.7}
    assert speech_share([], 5.0) == {"speech": 0}


def test_a_clip_has_the_best_of_its_views_and_what_was_not_measured_drops_nothing():
    views = [{"sharpness": 3.0, "black": 0.0, "faces": 0.1}, {"sharpness": 9.0, "black": 1.0, "faces": 0.4}]
    clip = of_clip([*views, {"silence": 0.2, "clipping": 0.0}])
    assert clip == {
        "sharpness": 9,
        "black": 0,
        "faces": 0.4,
        "silence": 0.2,
        "clipping": 0,
        "frozen": None,
        "speech": None,
    }
    filters = FilterConfig(min_faces=0.5, min_sharpness=9, max_silence=0.1, max_frozen=0, max_black=0)
    assert reasons_to_drop(filters, clip) == ["faces 0.4, min_faces 0.5", "silence 0.2, max_silence 0.1"]
    assert reasons_to_drop(FilterConfig(), clip) == []


@pytest.fixture(scope="module")
def mixed(videos, tmp_path_factory) -> Path:
    """A manifest: a man who talks for 4 s (no sound); 2 s of black and then 2 s of a cartoon with sound."""
    folder = tmp_path_factory.mktemp("mixed")
    write_video(folder / "man.mp4", frames(videos["carphone_pristine.mp4"]))
    cartoon = frames(videos["bigbuckbunny.mp4"], 90)[40:]
    pictures = [np.zeros_like(cartoon[0])] * 50 + cartoon
    write_video(folder / "dark.mp4", [np.asarray(cv2.resize(picture, (160, 90))) for picture in pictures])
    with av.open(str(folder / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        wave = (np.sin(np.arange(64000) / 16) * 9000 * (np.arange(64000) < 32000)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return write_manifest(
        folder,
        {"path": "man.mp4", "recording": "man", "view": "", "offset": ""},
        {"path": "dark.mp4", "recording": "dark", "view": "picture", "offset": "0"},
        {"path": "tone.wav", "recording": "dark", "view": "sound", "offset": "0"},
    )


def built(manifest: Path, out: Path, models: Path, **settings: Any) -> Path:
    config = BuildConfig(manifest, out, clip_seconds=2, short_side=96, models=models, workers=1, **settings)
    assert build(config) == 0  # what filters leave out is no failure
    return out


def dropped(out: Path) -> list[dict[str, str]]:
    with (out / "dropped.csv").open() as file:
        return list(csv.DictReader(file))


def test_meta_tells_each_view_and_the_index_the_clip(mixed, models, tmp_path):
    out = built(mixed, tmp_path / "out", models, streams=("video", "audio", "face"))
    index = read_index(out).set_index("key")
    assert index.loc["man-000000000", "faces"] == 1
    assert np.isnan(index.loc["man-000000000", "silence"])
    assert index.loc["dark-000000000", "black"] == index.loc["dark-000000000", "frozen"] == 1
    assert index.loc["dark-000000000", "silence"] == index.loc["dark-000000000", "speech"] == 0  # a tone
    assert index.loc["dark-000002000", "black"] == 0
    assert index.loc["dark-000002000", "silence"] == 1
    views = json.loads(read_sample(out, read_index(out).iloc[-1])["meta.json"])["views"]
    assert set(views["picture"]["quality"]) == {"sharpness", "exposure", "black", "frozen", "faces"}
    assert set(views["sound"]["quality"]) == {"clipping", "silence", "speech"}
    assert dropped(out) == []


def test_filters_leave_out_clips_and_say_why(mixed, models, tmp_path, capsys):
    filters = FilterConfig(max_black=0.5, min_faces=0.5)
    out = built(mixed, tmp_path / "out", models, streams=("video", "audio", "face"), filters=filters)
    assert read_index(out)["key"].tolist() == ["man-000000000", "man-000002000"]
    assert [(clip["recording"], clip["start"], clip["end"]) for clip in dropped(out)] == [
        ("dark", "0.0", "2.0"),
        ("dark", "2.0", "4.0"),
    ]
    assert [clip["reason"] for clip in dropped(out)] == [
        "faces 0, min_faces 0.5; black 1, max_black 0.5",
        "faces 0, min_faces 0.5",
    ]
    assert "2 clips left out by the filters (faces 2, black 1)" in capsys.readouterr().out


def test_face_and_pose_alone_for_release(mixed, models, tmp_path):
    out = built(mixed, tmp_path / "out", models, streams=("face", "pose"))
    members = [set(names) for names in read_index(out)["members"]]
    assert members[0] == {"main.face.npz", "main.pose.npz", "meta.json"}
    assert members[2] == {"picture.face.npz", "picture.pose.npz", "meta.json"}
    for _, row in read_index(out).iterrows():
        for view in json.loads(read_sample(out, row)["meta.json"])["views"].values():
            assert set(view["streams"]) == {"face", "pose"}
            assert set(view["quality"]) == {"faces"}
