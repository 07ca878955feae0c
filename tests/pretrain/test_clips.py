"""Reading a clip out of a shard's bytes, against what was written."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from data_prep.shards import encode_npz, read_index, read_sample
from pretrain.clips import read_clip
from pretrain.config import ModelConfig
from pretrain.tokens import tokenize
from tests.pretrain.clips_for_tests import person_rows

MODALITIES = ("video", "audio", "face", "pose")


def mp4(frames: np.ndarray, rate: int) -> bytes:
    """frames uint8 [time, height, width, 3], coded without loss."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(rate), options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def sample(**members: bytes) -> dict[str, bytes]:
    """A sample with two views; members by name with "_" for the first dot."""
    streams = {"video": {"start": 0.25, "rate": 8.0}, "audio": {"start": 0.5, "rate": 16000}}
    meta = {"schema": 1, "key": "a-000000000", "recording": "a", "start": 4.0, "end": 8.0, "people": [{"id": 3}]}
    meta["views"] = {"cam": {"streams": streams}, "mic": {"streams": {"audio": {"start": 0.0, "rate": 16000}}}}
    return {
        "meta.json": json.dumps(meta).encode(),
        **{name.replace("_", ".", 1): data for name, data in members.items()},
    }


def test_every_pixel_and_sample_comes_back() -> None:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (20, 34, 50, 3), dtype=np.uint8)  # rows are padded in memory at this width
    sound = random.integers(-(2**15), 2**15, (5000, 2), dtype=np.int16)
    flac = io.BytesIO()
    soundfile.write(flac, sound, 16000, format="FLAC", subtype="PCM_16")
    clip = read_clip(sample(**{"cam_video.mp4": mp4(frames, 8), "mic_audio.flac": flac.getvalue()}), MODALITIES)
    cam, mic = clip.views["cam"], clip.views["mic"]
    assert (clip.key, clip.recording, clip.start, clip.end, clip.people) == ("a-000000000", "a", 4.0, 8.0, [{"id": 3}])
    assert cam.frames is not None
    np.testing.assert_array_equal(cam.frames, frames)
    assert (cam.frame_start, cam.frame_rate, cam.audio, cam.face) == (0.25, 8.0, None, None)
    assert mic.audio is not None
    np.testing.assert_array_equal(mic.audio, sound.T.astype(np.float32) / 2**15)
    assert (mic.audio_start, mic.audio_rate, mic.frames) == (0.0, 16000, None)


def test_only_what_is_asked_for_is_decoded() -> None:
    gaze = encode_npz({"times": np.arange(3.0), "values": np.ones((3, 2), np.float32)})
    members = sample(**{"cam_video.mp4": b"no video", "gaze_npz": gaze})
    clip = read_clip(members, ["audio"])
    assert clip.views["cam"].frames is None
    assert clip.streams == {}
    np.testing.assert_array_equal(read_clip(members, ["gaze"]).streams["gaze"]["values"], 1)


def test_a_damaged_member_is_named() -> None:
    with pytest.raises(ValueError, match=r"a-000000000: cannot read cam\.video\.mp4"):
        read_clip(sample(**{"cam_video.mp4": b"no video"}), MODALITIES)


def test_pickled_arrays_are_refused() -> None:
    file = io.BytesIO()
    np.savez(file, times=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"cam\.face\.npz.*allow_pickle"):
        read_clip(sample(**{"cam_face.npz": file.getvalue()}), MODALITIES)


def test_a_newer_schema_is_refused() -> None:
    meta = json.loads(sample()["meta.json"]) | {"schema": 2}
    with pytest.raises(ValueError, match="newer"):
        read_clip({"meta.json": json.dumps(meta).encode()}, MODALITIES)


def test_landmarks_are_the_same_whether_the_picture_is_decoded_or_not() -> None:
    """They are fractions of it: a wide picture that nobody decodes is wide all the same."""
    members = sample(**{"cam_video.mp4": mp4(np.zeros((16, 32, 64, 3), np.uint8), 8)})
    for name, rows in zip(("face", "pose"), person_rows(np.random.default_rng(0), 2, 16, 8), strict=True):
        members[f"cam.{name}.npz"] = encode_npz(rows)
    meta = json.loads(members["meta.json"])
    meta["views"]["cam"]["streams"]["video"] |= {"width": 64, "height": 32}
    members["meta.json"] = json.dumps(meta).encode()
    model = ModelConfig(image_height=64, image_width=64)
    seen, unseen = (
        tokenize(read_clip(members, read), 0, model, ("face", "pose")) for read in (MODALITIES, ("face", "pose"))
    )
    for name in ("face", "pose"):
        torch.testing.assert_close(unseen[name].values, seen[name].values, rtol=0, atol=0)


def test_shards_without_an_aspect_are_as_wide_as_their_video() -> None:
    about = {"schema": 1, "key": "a", "recording": "a", "start": 0.0, "end": 1.0, "people": []}
    for view, expected in (
        ({"streams": {"video": {"start": 0.0, "rate": 8.0, "width": 320, "height": 256}}}, 1.25),
        ({"streams": {"face": {"start": 0.0, "rate": 8.0}}, "aspect": 1.5}, 1.5),
        ({"streams": {"face": {"start": 0.0, "rate": 8.0}}}, 1.0),
    ):
        clip = read_clip({"meta.json": json.dumps(about | {"views": {"cam": view}}).encode()}, ("face",))
        assert clip.views["cam"].picture_aspect == expected


def test_real_shards_hold_what_their_meta_says(shards: Path) -> None:
    index = read_index(shards)
    for _, row in index.iloc[:: len(index) // 4].iterrows():
        clip = read_clip(read_sample(shards, row), MODALITIES)
        assert clip.key == row["key"]
        for name, view in clip.views.items():
            about = clip.meta["views"][name]["streams"]
            assert view.frames is not None
            assert view.audio is not None
            assert view.face is not None
            assert view.frames.shape[1:] == (about["video"]["height"], about["video"]["width"], 3)
            assert abs(len(view.frames) / view.frame_rate - (clip.end - clip.start)) <= 1 / view.frame_rate
            assert abs(view.audio.shape[1] / view.audio_rate - (clip.end - clip.start)) < 0.1
            assert np.abs(view.audio).max() > 0.001
            assert view.face["landmarks"].shape[1:] == (478, 3)
