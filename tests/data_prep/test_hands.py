"""Hands: found by the real model in a drawn hand (no real one can be fetched here), and whose they are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.config import LandmarkConfig
from data_prep.hands import LEFT, RIGHT, Hand, HandFinder, _owner
from data_prep.landmarks import ViewAnalyzer, pack
from data_prep.people import Body
from data_prep.poses import Pose
from data_prep.shards import decode_npz, read_index, read_sample
from tests.data_prep.rooms import Picture, frames, wall, write_video
from tests.data_prep.test_build import write_manifest

FINGERS = [
    ([(112, 165), (96, 110), (90, 60)], 15, 11),
    ([(140, 160), (134, 95), (132, 40)], 16, 12),
    ([(166, 162), (172, 100), (176, 50)], 15, 11),
    ([(190, 172), (206, 125), (215, 85)], 13, 9),
    ([(105, 215), (70, 185), (45, 150)], 19, 12),  # the thumb: on the left of a left hand that shows its palm
]
ARM = [([(150, 300), (150, 230)], 34, 38), ([(112, 190), (188, 190)], 30, 30), ([(125, 225), (170, 225)], 30, 30)]
SIDE = 300


def left_hand() -> Picture:
    """A left hand that shows its palm, RGB [300, 300, 3]: limbs as thick lines, darker towards their edges."""
    picture: Any = wall(SIDE, SIDE).astype(np.float32)
    for points, thick, thin in ARM + FINGERS:
        limb = np.zeros((SIDE, SIDE), np.uint8)
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            for part in np.linspace(0, 1, 40):
                centre = (int(x0 + (x1 - x0) * part), int(y0 + (y1 - y0) * part))
                cv2.circle(limb, centre, int(thick + (thin - thick) * part), 1, -1)
        deep = np.clip(np.asarray(cv2.distanceTransform(limb, cv2.DIST_L2, 5)) / thick, 0, 1) ** 0.5
        skin = np.array([205, 150, 125]) * (0.55 + 0.45 * deep[..., None])
        picture = np.where(limb[..., None] > 0, skin, picture)
    return np.clip(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.2), 0, 255).astype(np.uint8)


def kitchen(*corners: tuple[int, int]) -> Picture:
    """A wide picture with a left hand at each corner (x, y)."""
    picture = wall(640, 480)
    for x, y in corners:
        picture[y : y + SIDE, x : x + SIDE] = left_hand()
    return picture


def test_a_hand_is_found_where_it_is_drawn_and_which_one(models):
    finder = HandFinder(models, 4)
    (hand,) = finder.find(kitchen((200, 150)))
    (mirrored,) = finder.find(np.ascontiguousarray(kitchen((200, 150))[:, ::-1]))
    assert finder.find(wall(640, 480)) == []
    finder.close()
    assert (hand.handedness, mirrored.handedness) == (LEFT, RIGHT)
    assert hand.score > 0.5
    points = hand.keypoints[:, :2] * [640, 480] - [200, 150]
    tips = {8: (90, 60), 12: (132, 40), 16: (176, 50), 20: (215, 85), 4: (45, 150)}
    for keypoint, tip in tips.items():
        assert np.abs(points[keypoint] - tip).max() < 25
    np.testing.assert_allclose(mirrored.keypoints[:, 0], 1 - hand.keypoints[:, 0], atol=0.05)


def body(wrist: tuple[float, float], visibility: float = 0.9) -> Body:
    keypoints = np.zeros((33, 4), np.float32)
    keypoints[16] = [*wrist, 0, visibility]
    return Body(None, Pose(keypoints, np.zeros((33, 3), np.float32), 0.9, None))


def test_a_hand_is_of_the_body_whose_wrist_is_nearest_and_near():
    keypoints = np.zeros((21, 3), np.float32)
    keypoints[0, :2], keypoints[9, :2] = (0.5, 0.5), (0.5, 0.4)  # a palm of 48 pixels in 640x480
    hand, size = Hand(keypoints, LEFT, 1.0), np.array([640, 480], np.float32)
    near, nearer, far, guessed = body((0.58, 0.5)), body((0.52, 0.5)), body((0.7, 0.5)), body((0.5, 0.5), 0.2)
    assert _owner(hand, [near, nearer, far, guessed], size) is nearer
    assert _owner(hand, [far, near], size) is near
    assert _owner(hand, [far, guessed, Body(None, None)], size) is None


def test_hands_of_nobody_seen_are_the_wearers_or_left_out(models):
    shown = [(k / 8, kitchen((20 + 4 * k, 150))) for k in range(4)]
    for wearer, people in ((True, {0}), (False, set())):
        with ViewAnalyzer(LandmarkConfig(wearer=wearer), models, 8, (340, 256), hands=True) as analyzer:
            hands = pack([analyzer.look(time, frame) for time, frame in shown], 0.0)["hands"]
        assert set(hands["person"].tolist()) == people
        assert hands["times"].tolist() == [0, 0.125, 0.25, 0.375]
        assert hands["window"].tolist() == ([0, 1, 2, 3] if wearer else [])
        assert hands["keypoints"].shape == (4 * wearer, 21, 3)
        assert hands["handedness"].dtype == np.int8


def test_a_head_cameras_recording_tells_its_wearers_hands(models, videos, tmp_path: Path):
    talking = frames(videos["carphone_pristine.mp4"], 30)
    pictures = [kitchen((20 + k, 150)) for k in range(30)]
    for picture, frame in zip(pictures, talking, strict=True):
        picture[:216, -264:] = cv2.resize(frame, (264, 216))  # somebody whose hands are not seen
    write_video(tmp_path / "head.mp4", pictures)
    manifest = write_manifest(tmp_path, {"path": "head.mp4", "participants": "cook"})
    command = ["build", f"{manifest}", f"{tmp_path}/out", "--config", "egocentric", "--models", f"{models}"]
    assert main([*command, "--workers", "1"]) == 0
    assert main(["check", f"{tmp_path}/out"]) == 0

    (sample,) = [read_sample(tmp_path / "out", row) for _, row in read_index(tmp_path / "out").iterrows()]
    face, hands = (decode_npz(sample[f"main.{stream}.npz"]) for stream in ("face", "hands"))
    assert len(hands["window"]) == len(hands["times"]) == 10
    (wearer,), (talker,) = set(hands["person"].tolist()), set(face["person"].tolist())
    assert wearer != talker
    meta = json.loads(sample["meta.json"])
    assert {person["id"]: person["participant"] for person in meta["people"]} == {wearer: "cook", talker: None}
    assert meta["views"]["main"]["streams"]["hands"] == {"start": 0.0, "rate": 8.0}
    moved = np.diff(hands["keypoints"][:, 0, 0]).sum() * 640
    assert moved == pytest.approx(28, abs=10)  # 9 looks of an eighth of a second, a pixel a frame
