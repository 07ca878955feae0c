"""Hiding faces in the written video, whatever was measured of them before.

Looked at twice. Every look's faces, and those that the detector finds in small squares of the source's picture, are hidden
from the look before to the look after a frame, at all places between their boxes there: a face moves between two looks,
and the detector may miss it in one frame of them. And every written frame is shown to the detector again, whole and in
larger squares, until it finds nothing. A face that the detector does not find at all stays: in a picture of 16:9 that is
one below a 70th of its width.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray

from data_prep.clips import as_written, cropped
from data_prep.decode import TOLERANCE
from data_prep.faces import picture, quiet
from data_prep.landmark_models import FACE
from data_prep.manifest import WHOLE, Box

if TYPE_CHECKING:
    from data_prep.landmarks import Look

MARGIN = 0.35  # sides of a face's box that are hidden beyond it: forehead, ears and chin
SURE = 0.4  # the detector's confidence that is enough to hide something; its own measure for a face is 0.5
GRAIN = 4  # what is left of a face: so many blotches in each direction
FARTHEST = 3.0  # widths that a face may move between two looks and be taken for the same
ROUNDS = 4  # looks at a frame; after the last one what is found is painted over


class FaceBlur:
    """Hides the faces of one view and of its regions. ``note`` the looks, in their order; ``hide`` frames when ``ready``."""

    def __init__(self, models: Path) -> None:
        with zipfile.ZipFile(models / FACE) as members, quiet():
            detector = BaseOptions(model_asset_buffer=members.read("face_detector.tflite"))
            options = vision.FaceDetectorOptions(base_options=detector, min_detection_confidence=SURE)
            self._detector = vision.FaceDetector.create_from_options(options)
            self._detector.detect(picture(np.zeros((64, 64, 3), np.uint8)))  # its first call prints
        self._looks: list[tuple[float, list[Box]]] = []

    def note(self, look: Look, frame: NDArray[np.uint8]) -> None:
        """Takes what was seen at an instant in an RGB picture [height, width, 3]."""
        faces = [_box(*body.face.box.tolist()) for body in look.bodies if body.face is not None]
        self._looks.append((look.time, faces + self._detect(frame, squares=2)))

    def ready(self, time: float) -> bool:
        """Whether the look after a time is known."""
        return bool(self._looks) and self._looks[-1][0] >= time - TOLERANCE

    def forget(self, time: float) -> None:
        """No frame before a time will be asked for any more."""
        before = [number for number, (at, _) in enumerate(self._looks) if at <= time]
        self._looks = self._looks[before[-1] if before else 0 :]

    def hide(self, time: float, frame: av.VideoFrame, region: Box = WHOLE) -> av.VideoFrame:
        """A written frame (yuv420p) of the view, or of a region of it, without its faces."""
        array: Any = frame.to_ndarray(format="rgb24")
        shown = np.ascontiguousarray(array)
        known = self._boxes(time)
        for box in known:
            _blot(shown, _inside(box, region), GRAIN)
        for turn in range(ROUNDS):
            found = self._detect(shown, squares=1)
            if not found:
                break
            for box in found:
                _blot(shown, box, GRAIN if turn < ROUNDS - 1 else 1)
            known += found
        return as_written(av.VideoFrame.from_ndarray(shown, "rgb24"), (frame.width, frame.height)) if known else frame

    def _boxes(self, time: float) -> list[Box]:
        """Boxes of the faces at a time: hulls over each face of the look before and the nearest one of the look after."""
        after = next((n for n, (at, _) in enumerate(self._looks) if at >= time - TOLERANCE), len(self._looks))
        looks = [boxes for _, boxes in self._looks[max(after - 1, 0) : after + 1]]
        if len(looks) < 2:
            return [box for boxes in looks for box in boxes]
        first, last = looks
        hulls = [_hull(box, min(last, key=lambda other: _apart(box, other))) for box in first if last]
        return [*first, *last, *(hull for hull in hulls if hull is not None)]

    def _detect(self, shown: NDArray[np.uint8], squares: int) -> list[Box]:
        """Boxes of the faces in a picture, and in squares of it that are as many times smaller than its short side."""
        height, width = shown.shape[:2]
        found = []
        for left, top, right, bottom in ((0, 0, width, height), *_squares(width, height, squares)):
            for detection in self._detector.detect(picture(shown[top:bottom, left:right])).detections:
                b = detection.bounding_box
                x, y = left + b.origin_x, top + b.origin_y
                found.append(_box(x / width, y / height, (x + b.width) / width, (y + b.height) / height))
        return found

    def close(self) -> None:
        """Ends MediaPipe's threads."""
        self._detector.close()


def _squares(width: int, height: int, smaller: int) -> Iterator[tuple[int, int, int, int]]:
    """x0 y0 x1 y1 (pixels) of squares that cover a picture and overlap by half."""
    side = min(width, height) // smaller

    def starts(length: int) -> list[int]:
        count = math.ceil(2 * (length - side) / side)
        return [round(at * (length - side) / count) for at in range(count + 1)] if count else [0]

    for top in starts(height):
        for left in starts(width):
            if (side, side) != (width, height):
                yield left, top, left + side, top + side


def _box(x0: float, y0: float, x1: float, y1: float) -> Box:
    return x0, y0, x1, y1


def _apart(one: Box, two: Box) -> float:
    """Between the middles of two boxes, in widths of the first."""
    return math.hypot(one[0] + one[2] - two[0] - two[2], one[1] + one[3] - two[1] - two[3]) / 2 / (one[2] - one[0])


def _hull(one: Box, two: Box) -> Box | None:
    """The box around both, where they are near enough for one face that has moved."""
    if _apart(one, two) > FARTHEST:
        return None
    return min(one[0], two[0]), min(one[1], two[1]), max(one[2], two[2]), max(one[3], two[3])


def _inside(box: Box, region: Box) -> Box:
    """A box in fractions of the whole picture -> of a region."""
    width, height = region[2] - region[0], region[3] - region[1]
    x0, x1 = ((x - region[0]) / width for x in box[::2])
    y0, y1 = ((y - region[1]) / height for y in box[1::2])
    return x0, y0, x1, y1


def _blot(shown: NDArray[np.uint8], box: Box, grain: int) -> None:
    """Leaves of a box and its margin ``grain`` x ``grain`` blotches; what lies outside the picture does not matter."""
    x0, y0, x1, y1 = box
    beside, above = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    x0, y0, x1, y1 = x0 - beside, y0 - above, x1 + beside, y1 + above
    if x1 <= 0 or y1 <= 0 or x0 >= 1 or y0 >= 1:
        return
    part = cropped(shown, (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)))
    few = cv2.resize(part, (grain, grain), interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(few, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
