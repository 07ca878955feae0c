"""Faces in one picture: MediaPipe's face landmarker, with the full-range detector in its bundle.

Every picture is looked at on its own (image mode). Measured on seven talking clips at every frame: image and video mode
find the same faces in the same time, and without a memory the same picture gives the same numbers wherever work starts.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mediapipe import Image, ImageFormat
from mediapipe.tasks.python import BaseOptions, vision
from numpy.typing import NDArray

from data_prep.clips import cropped
from data_prep.landmark_models import FACE
from data_prep.manifest import Box

LANDMARKS, BLENDSHAPES = 478, 52


@dataclass(frozen=True)
class Face:
    """One face in one picture.

    box [4]: x0 y0 x1 y1, hull of the landmarks. landmarks [478, 3]: x, y in fractions of the picture, z in the same
    unit as x, smaller is nearer. blendshapes [52] in [0, 1]. head [4, 4]: from the canonical face (centimetres) to the
    camera. score: the detector's confidence in [0, 1].
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    head: NDArray[np.float32]
    score: float


class FaceFinder:
    """Finds up to ``max_people`` faces in a picture."""

    def __init__(self, models: Path, max_people: int) -> None:
        bundle = models / FACE
        # The landmark task does not tell its detector's scores: the same detector is asked by itself as well (5 ms),
        # which also spares the landmark task where there is no face.
        with zipfile.ZipFile(bundle) as members:
            detector = BaseOptions(model_asset_buffer=members.read("face_detector.tflite"))
        with quiet():
            self.detector = vision.FaceDetector.create_from_options(vision.FaceDetectorOptions(base_options=detector))
            self.landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(bundle)),
                    num_faces=max_people,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            blank = picture(np.zeros((64, 64, 3), np.uint8))
            self.detector.detect(blank), self.landmarker.detect(blank)  # their first call prints as well

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        """The faces in an RGB picture [height, width, 3], from left to right."""
        image = picture(frame)
        detections = self.detector.detect(image).detections
        if not detections:
            return []
        result = self.landmarker.detect(image)
        faces = []
        for points, shapes, head in zip(
            result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
        ):
            landmarks = np.array([(p.x, p.y, p.z) for p in points], np.float32)
            box = np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)])
            weights = np.array([s.score for s in shapes], np.float32)
            score = _score(box * np.tile([frame.shape[1], frame.shape[0]], 2), detections)
            faces.append(Face(box, landmarks, weights, np.asarray(head, np.float32), score))
        return sorted(faces, key=lambda face: float(face.box[0]))

    def find_closer(self, frame: NDArray[np.uint8], regions: Sequence[Box]) -> list[Face]:
        """The faces in an RGB picture [height, width, 3]; where a region of it shows none, that region is looked at alone.

        The detector sees a picture in 192 x 192 points: a face of 50 pixels in 1280 is lost in it.
        """
        faces = self.find(frame)
        for x0, y0, x1, y1 in regions:
            centres = [(face.box[:2] + face.box[2:]) / 2 for face in faces]
            if not any(x0 <= x < x1 and y0 <= y < y1 for x, y in centres):
                faces += [_outward(face, (x0, y0, x1, y1)) for face in self.find(cropped(frame, (x0, y0, x1, y1)))]
        return sorted(faces, key=lambda face: float(face.box[0]))

    def close(self) -> None:
        self.detector.close()
        self.landmarker.close()


def _outward(face: Face, region: Box) -> Face:
    """A face in fractions of a region -> in fractions of the whole picture."""
    corner, size = np.array(region[:2], np.float32), np.array(region[2:], np.float32) - np.array(region[:2], np.float32)
    landmarks = face.landmarks * np.append(size, size[0]) + np.append(corner, np.float32(0))
    box = (face.box.reshape(2, 2) * size + corner).reshape(4)
    return replace(face, landmarks=landmarks.astype(np.float32), box=box.astype(np.float32))


def _score(box: NDArray[np.float32], detections: list) -> float:
    """The score of the detection whose centre is nearest to the centre of a box (x0 y0 x1 y1, pixels)."""

    def distance(detection) -> float:
        d = detection.bounding_box
        return float(np.hypot(d.origin_x + d.width / 2 - box[::2].mean(), d.origin_y + d.height / 2 - box[1::2].mean()))

    return float(min(detections, key=distance).categories[0].score)


def picture(frame: NDArray[np.uint8]) -> Image:
    """An RGB array as MediaPipe takes it: without the copy a frame whose rows are padded is silently read askew."""
    return Image(image_format=ImageFormat.SRGB, data=np.ascontiguousarray(frame))


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keeps the notes that MediaPipe's C++ side prints at start off the screen; its errors are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
