"""Faces are hidden in every written frame of real footage, and what was measured of them stays."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_prep.build import build
from data_prep.config import BuildConfig
from data_prep.faces import FaceFinder, picture
from data_prep.shards import decode_npz, read_index, read_sample
from tests.data_prep.rooms import Picture, Place, frames, room, write_video
from tests.data_prep.test_build import write_manifest

LARGE, SMALL = Place(900, 200, 2.0, mirrored=True), Place(560, 300, 0.75)
SEAT = "0.4375,0.416667,0.540625,0.566667"


def swaying(person: list[Picture]) -> list[Picture]:
    """A room whose camera sways: faces move by half their width between two looks."""
    pictures = []
    for number, still in enumerate(room(person, [LARGE, SMALL], width=1280)):
        shift = round(100 * np.sin(number / 3))
        pictures.append(np.roll(still, shift, axis=1) if number >= 20 else still)
    return pictures


@pytest.fixture(scope="module")
def built(videos, models, tmp_path_factory) -> dict[bool, dict[str, dict[str, bytes]]]:
    """The samples of three recordings, with faces hidden or not: a man as he was filmed; a room; the room, swaying."""
    folder = tmp_path_factory.mktemp("faces")
    person = frames(videos["carphone_pristine.mp4"], 40)
    write_video(folder / "man.mp4", frames(videos["carphone_pristine.mp4"]))
    write_video(folder / "room.mp4", swaying(person))
    manifest = write_manifest(folder, {"path": "man.mp4"}, {"path": "room.mp4", "region": f"small@{SEAT}"})
    samples = {}
    for blur in (False, True):
        out = folder / f"out-{blur}"
        streams = ("video", "face") if blur else ("video", "face", "audio")
        assert build(BuildConfig(manifest, out, models=models, workers=1, streams=streams, blur_faces=blur)) == 0
        samples[blur] = {row["recording"]: read_sample(out, row) for _, row in read_index(out).iterrows()}
    return samples


def pictures(video: bytes) -> list[Picture]:
    with av.open(io.BytesIO(video)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return shown  # pyrefly: ignore[bad-return]


def detections(models: Path, shown: list[Picture]) -> list[int]:
    """How many faces the detector finds in each picture."""
    finder = FaceFinder(models, 6)
    counts = [len(finder.detector.detect(picture(one)).detections) for one in shown]
    finder.close()
    return counts


@pytest.mark.parametrize(
    ("recording", "view", "before"), [("man", "main", 0.95), ("room", "main", 0.5), ("room", "main_small", 0.5)]
)
def test_the_detector_finds_no_face_in_any_frame_afterwards(built, models, recording, view, before):
    seen, hidden = (pictures(built[blur][recording][f"{view}.video.mp4"]) for blur in (False, True))
    assert len(seen) == len(hidden)
    assert np.mean(np.array(detections(models, seen)) > 0) >= before  # there was something to hide
    assert detections(models, hidden) == [0] * len(hidden)
    about = json.loads(built[True][recording]["meta.json"])["views"][view]["streams"]["video"]
    assert about["blurred"] is True


def test_measured_faces_are_hidden_in_the_frames_between_two_looks_as_well(built):
    face = decode_npz(built[True]["man"]["main.face.npz"])
    seen, hidden = (pictures(built[blur]["man"]["main.video.mp4"]) for blur in (False, True))
    height, width = seen[0].shape[:2]
    for number, (was, now) in enumerate(zip(seen, hidden, strict=True)):
        row = int(np.abs(face["times"][face["window"]] - (number + 0.5) / 25).argmin())
        x0, y0, x1, y1 = (face["box"][row] * [width, height, width, height]).astype(int)
        there = slice(y0, y1), slice(x0, x1)
        details = [np.abs(cv2.Laplacian(picture[there], cv2.CV_32F)).mean() for picture in (was, now)]
        assert details[1] < 0.5 * details[0]
        assert np.abs(was[:, :20].astype(int) - now[:, :20]).mean() < 4  # the window of the car stays


def test_landmarks_are_measured_before(built):
    for recording in ("man", "room"):
        seen, hidden = (decode_npz(built[blur][recording]["main.face.npz"]) for blur in (False, True))
        for name, values in seen.items():
            np.testing.assert_array_equal(values, hidden[name])


def test_given_landmarks_do_not_go_with_hidden_faces(tmp_path):
    with pytest.raises(ValueError, match="blur_faces finds the faces itself"):
        BuildConfig(tmp_path, tmp_path, landmarks="given", blur_faces=True)
