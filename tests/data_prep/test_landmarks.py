"""Faces, bodies and people on real video, with the real models."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from data_prep.config import LandmarkConfig
from data_prep.faces import Face
from data_prep.landmarks import Look, ViewAnalyzer, pack
from data_prep.people import Body, Tracker

RATE, WRITTEN = 8.0, (176, 144)
EMPTY = {"face": {"box": (0, 4), "landmarks": (0, 478, 3), "blendshapes": (0, 52), "head": (0, 4, 4), "score": (0,)}}
EMPTY["pose"] = {"keypoints": (0, 33, 4), "world": (0, 33, 3), "score": (0,)}


def frames(path: Path, rate: float = RATE) -> list[tuple[float, np.ndarray]]:
    """(seconds, RGB [height, width, 3]) of a video at a lower rate."""
    shown: list[tuple[float, np.ndarray]] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            if frame.time >= len(shown) / rate - 1e-6:
                shown.append((frame.time, frame.to_ndarray(format="rgb24")))
    return shown


@pytest.fixture(scope="module")
def person(videos) -> list[tuple[float, np.ndarray]]:
    return frames(videos["carphone_pristine.mp4"])


def look_at(models: Path, shown: list, written: tuple[int, int] = WRITTEN) -> tuple[list[Look], int]:
    with ViewAnalyzer(LandmarkConfig(face_identity=False), models, RATE, written) as analyzer:
        looks = [analyzer.look(time, frame) for time, frame in shown]
        return looks, analyzer.people


@pytest.fixture(scope="module")
def looks(models, person) -> list[Look]:
    return look_at(models, person)[0]


def test_one_person_keeps_one_id_in_face_and_pose(looks):
    packed = pack(looks, 0.0)
    rows = {
        stream: set(zip(*(packed[stream][m].tolist() for m in ("window", "person")), strict=True)) for stream in EMPTY
    }
    assert {person for _, person in rows["face"] | rows["pose"]} == {0}
    assert len(rows["face"] & rows["pose"]) >= 0.95 * len(looks)  # 32 of 32 when this was written
    assert len(packed["face"]["window"]) == len(rows["face"])  # one row a person and window


def test_what_is_written_of_a_clip(looks):
    packed = pack(looks[8:16], looks[8].time - 0.5, first_person=7)
    face, pose, regions = packed["face"], packed["pose"], packed["regions"]
    for arrays in packed.values():
        np.testing.assert_allclose(arrays["times"], [look.time - looks[8].time + 0.5 for look in looks[8:16]])
        assert arrays["times"].dtype == np.float64
    for stream in ("face", "pose"):
        assert set(packed[stream]["person"].tolist()) == {7}
        assert packed[stream]["window"].tolist() == list(range(8))
        for name, shape in EMPTY[stream].items():
            assert packed[stream][name].shape == (8, *shape[1:])
            assert packed[stream][name].dtype == np.float32
    np.testing.assert_allclose(face["box"][:, :2], face["landmarks"][:, :, :2].min(1))
    assert ((face["score"] > 0.5) & (face["score"] <= 1)).all()
    assert np.abs(face["head"][:, :3, :3] @ face["head"][:, :3, :3].transpose(0, 2, 1) - np.eye(3)).max() < 0.01
    nose = pose["keypoints"][:, 0, :2]
    assert ((nose > face["box"][:, :2]) & (nose < face["box"][:, 2:])).all()
    assert regions["people"].shape == regions["motion"].shape == (8, 9, 11)


def test_the_outline_covers_the_face_and_not_the_window_of_the_car(looks):
    people = np.stack([look.cells[0].people for look in looks])
    assert people.min() >= 0
    assert people.max() <= 1
    cells = [(int(y * 9), int(x * 11)) for x, y in pack(looks, 0.0)["pose"]["keypoints"][:, 0, :2]]
    assert np.mean([look[cell] for look, cell in zip(people, cells, strict=True)]) > 0.95  # where the nose is
    assert people[:, :4, :2].mean() < 0.1  # the upper left corner


def test_same_frames_same_rows(models, person, looks):
    again, _ = look_at(models, person[:10])
    for stream, arrays in pack(again, 0.0).items():
        for name, values in pack(looks[:10], 0.0)[stream].items():
            np.testing.assert_array_equal(arrays[name], values, err_msg=f"{stream} {name}")


def test_two_people_side_by_side_stay_two(models, person):
    shown = [(time, np.concatenate([frame, frame[:, ::-1]], axis=1)) for time, frame in person[:10]]
    looks, people = look_at(models, shown, (352, 144))
    assert people == 2
    face, pose = (pack(looks, 0.0)[stream] for stream in ("face", "pose"))
    left = {p for p, box in zip(face["person"].tolist(), face["box"], strict=True) if box[2] < 0.5}
    right = {p for p, box in zip(face["person"].tolist(), face["box"], strict=True) if box[0] > 0.5}
    assert len(left) == len(right) == 1
    assert left != right
    noses = pose["keypoints"][:, 0, 0]
    assert {p for p, x in zip(pose["person"].tolist(), noses, strict=True) if x < 0.5} == left
    assert {p for p, x in zip(pose["person"].tolist(), noses, strict=True) if x > 0.5} == right


def test_an_animated_film_without_people_gives_no_rows(models, videos):
    shown = frames(videos["bigbuckbunny.mp4"], 4.0)
    packed = pack(look_at(models, shown, (256, 144))[0], 0.0)
    for stream, shapes in EMPTY.items():
        assert len(packed[stream]["times"]) == len(shown) > 10  # looked at, and nobody there
        assert packed[stream]["window"].shape == packed[stream]["person"].shape == (0,)
        assert {name: packed[stream][name].shape for name in shapes} == shapes
    assert not packed["regions"]["people"].any()


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_pictures_of_odd_width(models, person, cut):
    # MediaPipe ends the process over outlines whose rows are not aligned.
    looks, people = look_at(models, [(time, frame[:-cut, cut:]) for time, frame in person[:2]])
    assert people == 1
    assert all(look.bodies[0].pose is not None for look in looks)


def body(x: float) -> Body:
    landmarks = np.zeros((478, 3), np.float32)
    box = np.array([x, 0.4, x + 0.1, 0.5], np.float32)
    return Body(Face(box, landmarks, np.zeros(52, np.float32), np.eye(4, dtype=np.float32), 1.0), None)


def test_a_person_is_known_from_the_first_look_on_and_an_error_of_one_look_is_nobody():
    tracker = Tracker(rate=8, remember_seconds=2)
    looks = [[body(0.2)], [body(0.21), body(0.7)], [body(0.22)], [body(0.23), body(0.5)], [body(0.24), body(0.51)]]
    for index, bodies in enumerate(looks):
        tracker.assign(index / 8, bodies, 100, 100)
    assert [[b.person for b in bodies] for bodies in looks] == [[0], [0, None], [0], [0, 1], [0, 1]]
    assert tracker.people == 2


def test_the_id_outlives_a_second_out_of_sight():
    tracker = Tracker(rate=8, remember_seconds=2)
    looks = [[body(0.3)] if not 6 <= index < 14 else [] for index in range(20)]
    for index, bodies in enumerate(looks):
        tracker.assign(index / 8, bodies, 100, 100)
    assert {b.person for bodies in looks for b in bodies} == {0}
