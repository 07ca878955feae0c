"""The face, pose and regions streams of a generated view: what a landmark model with a little noise would have found."""

from __future__ import annotations

import numpy as np

from data_prep.synthetic_body import TABLE, Motion
from data_prep.synthetic_drawing import Camera

Stream = dict[str, np.ndarray]
FACE_NOISE, POSE_NOISE = 0.0012, 0.006
"""Metres."""
MISSED = 0.01
"""Share of the looks at which a person is not found."""

LEGS = np.array([(0.12, 0.56), (0.14, 0.6), (0.14, 1.0), (0.14, 1.04), (0.15, 1.07)])
"""Hip, knee, ankle, heel, toe of one side from the point between the shoulders, metres; all hidden by the table."""
FACE_IN_POSE = (1, 362, 473, 263, 133, 468, 33)
"""Landmarks that are the pose's nose and eyes: left inner, centre, outer; right inner, centre, outer."""


def face_stream(rng: np.random.Generator, motion: Motion, camera: Camera) -> Stream:
    """The members of face.npz, as in a shard, for one view; x and y in fractions of the picture, z in its widths."""
    people = list(camera.people)
    landmarks = motion.face[:, people]
    landmarks += np.float32(FACE_NOISE) * rng.standard_normal(landmarks.shape, dtype=np.float32)
    landmarks[..., :2] = camera.project(landmarks[..., :2])
    landmarks[..., 2] *= camera.scale / camera.width
    low, high = landmarks[..., :2].min(axis=2), landmarks[..., :2].max(axis=2)
    shapes = motion.shapes[:, people] + 0.01 * np.abs(rng.standard_normal(motion.shapes[:, people].shape))
    head = np.zeros((*low.shape[:2], 4, 4), np.float32)
    flip = np.array([1, -1, -1], np.float32)  # MediaPipe's axes: y up, z to the viewer; centimetres from the camera
    head[..., :3, :3] = flip[:, None] * motion.turn[:, people] * flip
    middle = np.array(camera.origin) + np.array([camera.width, camera.height]) / camera.scale / 2
    head[..., :2, 3] = (motion.head[:, people] - middle) * (100, -100)
    head[..., 2, 3] = -100 * camera.width / camera.scale
    head[..., 3, 3] = 1
    return _rows(
        rng,
        motion,
        camera,
        box=np.concatenate([low, high], axis=-1),
        landmarks=landmarks,
        blendshapes=np.clip(shapes, 0, 1).astype(np.float32),
        head=head,
    )


def pose_stream(rng: np.random.Generator, motion: Motion, camera: Camera) -> Stream:
    """The members of pose.npz, as in a shard, for one view: MediaPipe's 33 points."""
    people = list(camera.people)
    points = _skeleton(motion)[:, people]
    points += POSE_NOISE * rng.standard_normal(points.shape)
    flat = camera.project(points[..., :2])
    inside = ((flat > 0) & (flat < 1)).all(axis=-1, keepdims=True)
    seen = np.where(inside, 0.97, 0.3)
    seen[:, :, 23:] *= 0.1  # hips and legs are under the table
    keypoints = np.concatenate([flat, points[..., 2:] * (camera.scale / camera.width), seen], axis=-1)
    hips = points[:, :, 23:25].mean(axis=2, keepdims=True)
    return _rows(rng, motion, camera, keypoints=keypoints.astype(np.float32), world=(points - hips).astype(np.float32))


def regions_stream(motion: Motion, people: np.ndarray, cell: int) -> Stream:
    """``times`` and ``people`` of regions.npz from the people's pixels, uint8 [time, height, width], 255 = person."""
    rows, columns = np.arange(0, people.shape[1], cell), np.arange(0, people.shape[2], cell)
    sums = np.add.reduceat(np.add.reduceat(people, rows, axis=1, dtype=np.uint32), columns, axis=2)
    sizes = np.outer(np.diff(rows, append=people.shape[1]), np.diff(columns, append=people.shape[2]))
    return {"times": motion.times, "people": (sums / (255 * sizes)).astype(np.float32)}


def _skeleton(motion: Motion) -> np.ndarray:
    """The 33 points in the scene, float64 [time, person, 33, 3]; z is 0 at the shoulders, less nearer to the camera."""
    out = np.zeros((*motion.head.shape[:2], 33, 3))
    out[:, :, 0:7] = motion.face[:, :, FACE_IN_POSE]
    ears = np.array([(0.125, 0.0, 0.01), (-0.125, 0.0, 0.01)])  # the person's left ear is the picture's right one
    out[:, :, 7:9] = ears @ np.swapaxes(motion.turn, -1, -2)
    out[:, :, 7:9, :2] += motion.head[:, :, None]
    out[:, :, 9:11] = motion.face[:, :, (291, 61)]
    for side, first in ((1, 0), (0, 1)):  # left points before right ones
        along = (motion.finger - motion.wrist)[:, :, side]
        across = along[..., ::-1] * (1.0, -1.0) * (1 if side else -1)
        arm = (motion.shoulder, motion.elbow, motion.wrist)
        for point, place in zip((11, 13, 15), arm, strict=True):
            out[:, :, point + first, :2] = place[:, :, side]
        for point, share in ((17, -0.35), (19, 0.1), (21, 0.45)):
            out[:, :, point + first, :2] = motion.wrist[:, :, side] + along * (1 - abs(share)) + across * share
        lifted = np.clip((motion.wrist[:, :, side, 1] - motion.chest[..., 1]) / TABLE, -1, 1)
        for point, depth in ((13, 0.5), (15, 1.0), (17, 1.1), (19, 1.1), (21, 1.1)):
            out[:, :, point + first, 2] = -0.1 - 0.15 * depth * (1 - np.abs(lifted))
        for point, place, depth in zip((23, 25, 27, 29, 31), LEGS, (0, -0.35, -0.3, -0.28, -0.4), strict=True):
            out[:, :, point + first, :2] = motion.chest + place * (1 if side else -1, 1)
            out[:, :, point + first, 2] = depth
    return out


def _rows(rng: np.random.Generator, motion: Motion, camera: Camera, **arrays: np.ndarray) -> Stream:
    """Lays arrays of [time, person, ...] out as one row a detection, in order of time; some looks find nobody."""
    times, people = len(motion.times), len(camera.people)
    found = (rng.random((times, people)) >= MISSED).ravel()
    fixed = {
        "window": np.repeat(np.arange(times), people).astype(np.int32),
        "person": np.tile(np.array(camera.people, np.int32), times),
        "score": rng.uniform(0.85, 0.99, times * people).astype(np.float32),
    }
    flat = {name: array.reshape(times * people, *array.shape[2:]) for name, array in arrays.items()}
    return {"times": motion.times, **{name: array[found] for name, array in (fixed | flat).items()}}
