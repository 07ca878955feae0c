"""A parametric face of 478 points, numbered as MediaPipe's face landmarker numbers them.

The named contours (oval, lips, eyes, brows, irises, nose) lie where that model has them, so that code which asks for
"the inner lips" (13 and 14) finds lips; the remaining points cover the face evenly. Local axes in metres: x to the
right of the picture, y down, z away from the camera, origin in the middle of the head.
"""

from __future__ import annotations

import numpy as np

POINTS = 478
OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]
OVAL += [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
LIPS_UPPER, LIPS_LOWER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291], [146, 91, 181, 84, 17, 314, 405, 321, 375]
MOUTH_UPPER, MOUTH_LOWER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308], [95, 88, 178, 87, 14, 317, 402, 318, 324]
EYES_UPPER = ([33, 246, 161, 160, 159, 158, 157, 173, 133], [362, 398, 384, 385, 386, 387, 388, 466, 263])
EYES_LOWER = ([7, 163, 144, 145, 153, 154, 155], [382, 381, 380, 374, 373, 390, 249])
BROWS = ([70, 63, 105, 66, 107, 55, 65, 52, 53, 46], [336, 296, 334, 293, 300, 276, 283, 282, 295, 285])
IRISES = ([468, 469, 470, 471, 472], [473, 474, 475, 476, 477])
NOSE = [168, 6, 197, 195, 5, 4, 1, 2]
NOSTRILS = [98, 327]

LIPS = LIPS_UPPER + LIPS_LOWER[::-1]
MOUTH = MOUTH_UPPER + MOUTH_LOWER[::-1]
EYES = tuple(upper + lower[::-1] for upper, lower in zip(EYES_UPPER, EYES_LOWER, strict=True))

HALF_WIDTH, HALF_HEIGHT, DEPTH = 0.115, 0.15, 0.12
EYE_X, EYE_Y, EYE_HALF_WIDTH, EYE_HALF_HEIGHT = 0.048, -0.02, 0.027, 0.015
MOUTH_Y, MOUTH_HALF_WIDTH = 0.078, 0.042

BLENDSHAPES = [
    "_neutral",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "eyeLookDownLeft",
    "eyeLookDownRight",
    "eyeLookInLeft",
    "eyeLookInRight",
    "eyeLookOutLeft",
    "eyeLookOutRight",
    "eyeLookUpLeft",
    "eyeLookUpRight",
    "eyeSquintLeft",
    "eyeSquintRight",
    "eyeWideLeft",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawOpen",
    "jawRight",
    "mouthClose",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthFunnel",
    "mouthLeft",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthPucker",
    "mouthRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "noseSneerLeft",
    "noseSneerRight",
]
"""MediaPipe's 52 names in MediaPipe's order."""


def _arc(count: int, depth: float) -> np.ndarray:
    """A flat arch of ``count`` heights: 0 at both ends, ``depth`` in the middle."""
    return depth * np.sin(np.linspace(0, np.pi, count))


def _surface(xy: np.ndarray) -> np.ndarray:
    """z of points on the face's front: half an ellipsoid."""
    share = (xy[..., 0] / HALF_WIDTH) ** 2 + (xy[..., 1] / HALF_HEIGHT) ** 2
    return -0.03 - (DEPTH - 0.03) * np.sqrt(np.clip(1 - share, 0, 1))


def neutral_face() -> np.ndarray:
    """The face at rest, float64 [478, 3] in metres."""
    xy = np.full((POINTS, 2), np.nan)
    angle = np.arange(len(OVAL)) / len(OVAL) * 2 * np.pi
    xy[OVAL] = np.stack([HALF_WIDTH * np.sin(angle), -HALF_HEIGHT * np.cos(angle)], axis=1)
    for indices, half, arch in (
        (LIPS_UPPER, MOUTH_HALF_WIDTH, -0.012),
        ([61, *LIPS_LOWER, 291], MOUTH_HALF_WIDTH, 0.015),
        (MOUTH_UPPER, MOUTH_HALF_WIDTH * 0.85, -0.002),
        ([78, *MOUTH_LOWER, 308], MOUTH_HALF_WIDTH * 0.85, 0.002),
    ):
        xy[indices] = np.stack([np.linspace(-half, half, len(indices)), MOUTH_Y + _arc(len(indices), arch)], axis=1)
    for eye, sign in ((0, -1), (1, 1)):
        x = sign * EYE_X + np.linspace(-EYE_HALF_WIDTH, EYE_HALF_WIDTH, 9)
        xy[EYES_UPPER[eye]] = np.stack([x, EYE_Y + _arc(9, -EYE_HALF_HEIGHT)], axis=1)
        xy[EYES_LOWER[eye]] = np.stack([x, EYE_Y + _arc(9, EYE_HALF_HEIGHT)], axis=1)[1:-1]
        brow = sign * EYE_X + np.linspace(-0.034, 0.034, 5)
        top = np.stack([brow, -0.058 + _arc(5, -0.008)], axis=1)
        xy[BROWS[eye]] = np.concatenate([top, (top + np.array([0, 0.009]))[::-1]])
        iris = 0.012 * np.array([(0, 0), (1, 0), (0, -1), (-1, 0), (0, 1)])
        xy[IRISES[eye]] = iris + np.array([sign * EYE_X, EYE_Y])
    xy[NOSE] = np.stack([np.zeros(8), [-0.03, -0.018, -0.005, 0.008, 0.02, 0.03, 0.036, 0.048]], axis=1)
    xy[NOSTRILS] = [(-0.022, 0.042), (0.022, 0.042)]
    rest = np.flatnonzero(np.isnan(xy[:, 0]))
    radius, turn = np.sqrt((np.arange(len(rest)) + 0.5) / len(rest)) * 0.95, np.arange(len(rest)) * np.pi * (3 - 5**0.5)
    xy[rest] = np.stack([HALF_WIDTH * radius * np.sin(turn), HALF_HEIGHT * radius * np.cos(turn)], axis=1)
    face = np.concatenate([xy, _surface(xy)[:, None]], axis=1)
    face[NOSE, 2] -= [0.0, 0.004, 0.01, 0.016, 0.024, 0.03, 0.032, 0.02]
    return face


def face_motions() -> dict[str, np.ndarray]:
    """What one unit of each expression adds to the neutral face, each float64 [478, 3]: open, blink, smile, brows."""
    face = neutral_face()
    open_, blink, smile, brows = (np.zeros_like(face) for _ in range(4))
    below = np.clip((face[:, 1] - MOUTH_Y) / (HALF_HEIGHT - MOUTH_Y), 0, 1)
    open_[:, 1] = 0.02 * below
    for indices, drop in ((LIPS_LOWER, 0.034), (MOUTH_LOWER, 0.045), (MOUTH_UPPER, -0.005), (LIPS_UPPER, -0.005)):
        inside = indices if len(indices) == 9 else indices[1:-1]
        open_[inside, 1] = drop * np.sin(np.linspace(0, np.pi, 11))[1:-1]
    for upper, lower in zip(EYES_UPPER, EYES_LOWER, strict=True):
        blink[upper[1:-1], 1] = face[lower, 1] - face[upper[1:-1], 1]
    corners = np.clip((np.abs(face[LIPS + MOUTH, 0]) - 0.02) / 0.022, 0, 1)
    smile[LIPS + MOUTH, 1] = -0.014 * corners
    smile[LIPS + MOUTH, 0] = 0.008 * corners * np.sign(face[LIPS + MOUTH, 0])
    for brow in BROWS:
        brows[brow, 1] = -0.015
    return {"open": open_, "blink": blink, "smile": smile, "brows": brows}


def rotation(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Head rotations [..., 3, 3] in the local axes: yaw > 0 to the picture's right, pitch > 0 down, roll > 0 clockwise."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*rows: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    turn = matrix([np.cos(yaw), zero, -np.sin(yaw)], [zero, one, zero], [np.sin(yaw), zero, np.cos(yaw)])
    bow = matrix([one, zero, zero], [zero, np.cos(pitch), -np.sin(pitch)], [zero, np.sin(pitch), np.cos(pitch)])
    tilt = matrix([np.cos(roll), -np.sin(roll), zero], [np.sin(roll), np.cos(roll), zero], [zero, zero, one])
    return turn @ bow @ tilt


def blendshapes(
    mouth: np.ndarray, blink: np.ndarray, smile: np.ndarray, brows: np.ndarray, gaze: np.ndarray
) -> np.ndarray:
    """MediaPipe's 52 scores in [0, 1], float64 [..., 52], from expressions of shape [...]; gaze > 0 to the right."""
    out = np.zeros((*mouth.shape, len(BLENDSHAPES)))
    right, left = np.clip(gaze, 0, 1), np.clip(-gaze, 0, 1)  # the person's left eye is the picture's right one
    for name, value in {
        "jawOpen": 0.7 * mouth,
        "mouthLowerDownLeft": 0.5 * mouth,
        "mouthLowerDownRight": 0.5 * mouth,
        "eyeBlinkLeft": blink,
        "eyeBlinkRight": blink,
        "mouthSmileLeft": smile,
        "mouthSmileRight": smile,
        "browInnerUp": brows,
        "eyeLookOutLeft": right,
        "eyeLookInRight": right,
        "eyeLookInLeft": left,
        "eyeLookOutRight": left,
    }.items():
        out[..., BLENDSHAPES.index(name)] = value
    return out
