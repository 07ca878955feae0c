"""Hands in one picture: MediaPipe's hand landmarker, and whose hands they are.

Every picture is looked at on its own, as faces are. The detector sees a picture in 192 x 192 points: hands in a wide room
are found in a region of it that shows them larger, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray

from data_prep.clips import cropped
from data_prep.faces import picture, quiet
from data_prep.landmark_models import HANDS
from data_prep.manifest import Box
from data_prep.poses import VISIBLE, WRISTS

if TYPE_CHECKING:
    from data_prep.people import Body

KEYPOINTS = 21
WRIST, KNUCKLE = 0, 9  # of the 21: between them lies the palm
LEFT, RIGHT = 0, 1
REACH = 1.5  # palms: how far a body's wrist may be from a hand that is its own


@dataclass(frozen=True)
class Hand:
    """One hand in one picture.

    keypoints [21, 3]: x, y in fractions of the picture, z in the same unit as x, from the wrist, smaller is nearer.
    handedness: 0 a left hand, 1 a right one, in a picture that is not mirrored. score: of that, in [0.5, 1] (the task
    does not tell its detector's score). body: whose it is; None where no body's wrist is near.
    """

    keypoints: NDArray[np.float32]
    handedness: int
    score: float
    body: Body | None = None


class HandFinder:
    """Finds up to ``most`` hands in a picture."""

    def __init__(self, models: Path, most: int) -> None:
        with quiet():
            self.landmarker = vision.HandLandmarker.create_from_options(
                vision.HandLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(models / HANDS)), num_hands=most
                )
            )
            self.landmarker.detect(picture(np.zeros((64, 64, 3), np.uint8)))  # its first call prints as well

    def find(self, frame: NDArray[np.uint8], bodies: Sequence[Body] = (), regions: Sequence[Box] = ()) -> list[Hand]:
        """The hands in an RGB picture [height, width, 3], and whose of some bodies they are, from left to right.

        Where a region of the picture shows none, that region is looked at alone.
        """
        hands = self._find(frame)
        for box in regions:
            if not any(_within(box, hand) for hand in hands):
                hands += [_outward(hand, box) for hand in self._find(cropped(frame, box))]
        size = np.array([frame.shape[1], frame.shape[0]], np.float32)
        hands = [replace(hand, body=_owner(hand, bodies, size)) for hand in hands]
        return sorted(hands, key=lambda hand: float(hand.keypoints[WRIST, 0]))

    def _find(self, frame: NDArray[np.uint8]) -> list[Hand]:
        result = self.landmarker.detect(picture(frame))
        return [
            Hand(
                np.array([(p.x, p.y, p.z) for p in points], np.float32),
                int(side[0].category_name == "Right"),
                side[0].score,
            )
            for points, side in zip(result.hand_landmarks, result.handedness, strict=True)
        ]

    def close(self) -> None:
        self.landmarker.close()


def _owner(hand: Hand, bodies: Sequence[Body], size: NDArray[np.float32]) -> Body | None:
    """The body whose wrist is nearest to the hand's, if it is near. size: (width, height) of the picture."""
    wrist, knuckle = hand.keypoints[[WRIST, KNUCKLE], :2] * size
    nearest, owner = REACH * float(np.linalg.norm(knuckle - wrist)), None
    for body in bodies:
        for x, y, _, visibility in () if body.pose is None else body.pose.keypoints[WRISTS]:
            apart = float(np.linalg.norm(np.array([x, y]) * size - wrist))
            if visibility >= VISIBLE and apart <= nearest:
                nearest, owner = apart, body
    return owner


def _within(box: Box, hand: Hand) -> bool:
    x, y = hand.keypoints[WRIST, :2]
    return bool(box[0] <= x < box[2] and box[1] <= y < box[3])


def _outward(hand: Hand, box: Box) -> Hand:
    """A hand in fractions of a region -> in fractions of the whole picture."""
    x0, y0, x1, y1 = box
    scale, shift = np.array([x1 - x0, y1 - y0, x1 - x0], np.float32), np.array([x0, y0, 0], np.float32)
    return replace(hand, keypoints=hand.keypoints * scale + shift)
