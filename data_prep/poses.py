"""Body poses in one picture: MediaPipe's pose landmarker, asked once around each face and once for everybody else.

The whole picture with several people in it puts several skeletons on one person; a crop around a face does not, and it
ties face and body together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray

from data_prep.faces import Face, picture, quiet
from data_prep.landmark_models import POSE

KEYPOINTS = 33
NOSE, HEAD, SHOULDERS, WRISTS = 0, slice(0, 11), [11, 12], [15, 16]  # indices of the 33 keypoints

# The crops around a face, in sides of its box beyond the box: (left and right, above, below). The first shows the whole
# body, and was right for everybody in photos of two to six people; the next ones leave out what confuses it there.
CROPS = ((3.0, 1.5, 8.0), (1.5, 1.0, 4.0), (1.0, 1.0, 2.0))
NOSE_WITHIN = 0.6  # sides of the face's box between its centre and the nose of its body
# A body without a face has to be surer: at 0.5 a cartoon rabbit is a person in half of its pictures, at 0.8 in none.
SURE_WITH_FACE, SURE_WITHOUT = 0.5, 0.8
ALIGNED = 4  # pixels: crops are widened to a multiple
VISIBLE = 0.5  # keypoints below are extrapolated


@dataclass
class Pose:
    """One body in one picture.

    keypoints [33, 4]: x, y in fractions of the picture, z in the same unit as x, visibility in [0, 1]; points of low
    visibility are extrapolated. world [33, 3]: metres, from the middle of the hips. score: mean visibility (the task
    does not tell its detector's score). outline: (mask [height, width] in [0, 1], x, y of its corner in the picture, pixels);
    None once the cells are measured, for it is as large as the picture.
    """

    keypoints: NDArray[np.float32]
    world: NDArray[np.float32]
    score: float
    outline: tuple[NDArray[np.float32], int, int] | None


class PoseFinder:
    """Finds the bodies that belong to faces, and those of people whose face is not seen."""

    def __init__(self, models: Path, max_people: int) -> None:
        with quiet():
            self.near_face = _landmarker(models / POSE, 3, SURE_WITH_FACE)
            self.elsewhere = _landmarker(models / POSE, max_people, SURE_WITHOUT)

    def of_face(self, frame: NDArray[np.uint8], face: Face) -> Pose | None:
        """The body of a face in an RGB picture [height, width, 3]; None where none is found at its place."""
        height, width = frame.shape[:2]
        corners = face.box.reshape(2, 2) * [width, height]
        centre, side = corners.mean(0), float((corners[1] - corners[0]).max())

        def distance(pose: Pose) -> float:
            return float(np.linalg.norm(pose.keypoints[NOSE, :2] * [width, height] - centre))

        for beside, above, below in CROPS:
            left, top = np.maximum(corners[0] - [beside * side, above * side], 0).astype(int)
            right, bottom = np.maximum(corners[1] + [beside * side, below * side], 0).astype(int)
            crop = frame[top:bottom, left:right]
            poses = _poses(self.near_face, crop, left, top, width, height) if crop.size else []
            nearest = min(poses, key=distance, default=None)
            if nearest is not None and distance(nearest) <= NOSE_WITHIN * side:
                return nearest
        return None

    def of_others(self, frame: NDArray[np.uint8], taken: list[NDArray[np.float32]]) -> list[Pose]:
        """The bodies of people without a visible face in an RGB picture [height, width, 3], from left to right.

        taken: boxes (x0 y0 x1 y1, fractions) of those already found, greyed out first: they are neither found a second
        time nor mixed with their neighbours.
        """
        height, width = frame.shape[:2]
        if taken:
            frame = frame.copy()
        for x0, y0, x1, y1 in taken:
            frame[max(int(y0 * height), 0) : int(y1 * height) + 1, max(int(x0 * width), 0) : int(x1 * width) + 1] = 127
        poses = []
        for pose in _poses(self.elsewhere, frame, 0, 0, width, height):
            x, y = pose.keypoints[NOSE, :2]
            boxes = [*taken, *(body_box(other) for other in poses)]
            if not any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes):
                poses.append(pose)
        return sorted(poses, key=lambda pose: float(pose.keypoints[NOSE, 0]))

    def close(self) -> None:
        self.near_face.close()
        self.elsewhere.close()


def body_box(pose: Pose) -> NDArray[np.float32]:
    """Box [4] (x0 y0 x1 y1, fractions) of the keypoints that are seen, a tenth larger on each side."""
    points = pose.keypoints[pose.keypoints[:, 3] >= VISIBLE, :2]
    points = points if len(points) else pose.keypoints[:, :2]
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low)
    return np.concatenate([low - margin, high + margin])


def _landmarker(model: Path, people: int, sure: float) -> vision.PoseLandmarker:
    landmarker = vision.PoseLandmarker.create_from_options(
        vision.PoseLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)),
            num_poses=people,
            min_pose_detection_confidence=sure,
            output_segmentation_masks=True,
        )
    )
    landmarker.detect(picture(np.zeros((64, 64, 3), np.uint8)))  # its first call prints as well
    return landmarker


def _poses(
    landmarker: vision.PoseLandmarker, crop: NDArray[np.uint8], left: int, top: int, width: int, height: int
) -> list[Pose]:
    """The poses in a crop at (left, top) of a picture of width x height pixels, in fractions of that picture."""
    shown = crop.shape[:2]
    # Outlines whose rows are not a multiple of 16 bytes long end the whole process (mediapipe 0.10.33, numpy_view).
    crop = np.pad(crop, ((0, 0), (0, -shown[1] % ALIGNED), (0, 0)), mode="edge")
    result = landmarker.detect(picture(crop))
    scale = np.array([crop.shape[1] / width, crop.shape[0] / height, crop.shape[1] / width, 1], np.float32)
    shift = np.array([left / width, top / height, 0, 0], np.float32)
    poses = []
    for points, world, mask in zip(
        result.pose_landmarks, result.pose_world_landmarks, result.segmentation_masks or [], strict=True
    ):
        keypoints = np.array([(p.x, p.y, p.z, p.visibility) for p in points], np.float32) * scale + shift
        metres = np.array([(p.x, p.y, p.z) for p in world], np.float32)
        outline = mask.numpy_view().reshape(crop.shape[:2])[:, : shown[1]].astype(np.float32)
        poses.append(Pose(keypoints, metres, float(keypoints[:, 3].mean()), (outline, left, top)))
    return poses
