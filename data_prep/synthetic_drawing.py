"""Draws a generated scene through a camera: wall, table, people, hands and what they hold.

- All lengths are fractions of the scene, so a picture of 64 pixels and one of 512 are drawn by the same code.
- Frames are drawn with anti-aliasing at twice their size and averaged down.
- A fourth channel marks the people's pixels; the regions stream is made from it.
- Face parts are polygons through the face's landmarks, so that stream and picture cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.synthetic_body import SIDES, TABLE, Motion
from data_prep.synthetic_face import BROWS, EYES, IRISES, LIPS, MOUTH, NOSE, OVAL
from data_prep.synthetic_script import Script

OVERSAMPLE = 2
SHIFT = 4
"""Bits of a pixel's fraction in OpenCV's integer coordinates."""
WALLS = ((214, 134, 124), (204, 192, 112), (118, 188, 146), (132, 152, 214))
SHIRTS = ((28, 110, 150), (130, 50, 150), (190, 30, 40), (215, 120, 20))
"""RGB of the nuisance's four colours: a class's shirt stands out before the same class's wall."""
TABLE_RGB, ITEM_RGB, LINE_RGB = (120, 84, 56), (250, 246, 225), (45, 35, 40)

TORSO = np.array([(-0.06, -0.09), (0.06, -0.09), (0.21, -0.01), (0.25, 0.1), (0.23, 0.8), (-0.23, 0.8), (-0.25, 0.1)])
TORSO = np.concatenate([TORSO, [(-0.21, -0.01)]])
STRIPES = {1: np.array([(-0.21, 0.2), (0.21, 0.2), (0.21, 0.29), (-0.21, 0.29)])}
STRIPES[2] = np.array([(-0.05, 0.02), (0.05, 0.02), (0.05, 0.8), (-0.05, 0.8)])
ARM, HAND_RADIUS, SKULL = 0.105, 0.062, (0.132, 0.165)
FRINGE = OVAL[30:] + OVAL[:7]


@dataclass(frozen=True)
class Camera:
    """A view. origin: the scene's point at the picture's upper left corner, metres; scale: pixels a metre;
    people: the persons it is meant for, whose streams it carries."""

    view: str
    width: int
    height: int
    origin: tuple[float, float]
    scale: float
    people: tuple[int, ...]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Scene metres [..., 2] -> fractions of the picture [..., 2]."""
        fractions = np.array([self.scale / self.width, self.scale / self.height], points.dtype)
        return (points - np.array(self.origin, points.dtype)) * fractions


def place_cameras(rng: np.random.Generator, script: Script, width: int, height: int, together: bool) -> list[Camera]:
    """One camera for everybody (view ``main``), or one a person (views ``seat1`` from the left on), none just alike."""
    if together:
        span = (1.85 if len(script.people) == 2 else 2.05) * rng.uniform(0.94, 1.14)
        middle, bottom = rng.uniform((-0.07, 0.62), (0.07, 0.74))
        return [_camera("main", width, height, middle, bottom, span, tuple(range(len(script.people))))]
    return [
        _camera(
            f"seat{person + 1}", width, height, x + rng.uniform(-0.05, 0.05), y + 0.68, rng.uniform(1.3, 1.5), (person,)
        )
        for person, (x, y) in enumerate(script.seats)
    ]


def _camera(
    view: str, width: int, height: int, middle: float, bottom: float, span: float, people: tuple[int, ...]
) -> Camera:
    scale = min(width, height) / span
    return Camera(view, width, height, (middle - width / scale / 2, bottom - height / scale), scale, people)


def seat_box(camera: Camera, script: Script, person: int) -> tuple[float, float, float, float]:
    """Where in the picture a person sits: x0, y0, x1, y1 in fractions."""
    corners = camera.project(script.seats[person] + np.array([(-0.38, -0.5), (0.38, 0.68)]))
    x0, y0, x1, y1 = np.clip(corners, 0, 1).flatten().round(3)
    return float(x0), float(y0), float(x1), float(y1)


def render(rng: np.random.Generator, script: Script, motion: Motion, camera: Camera) -> Iterator[np.ndarray]:
    """Draws every frame: uint8 [height, width, 4], RGB and a fourth channel that is 255 inside a person."""
    painter = _Painter(rng, script, motion, camera)
    for number in range(len(motion.times)):
        yield cv2.resize(painter.frame(number), (camera.width, camera.height), interpolation=cv2.INTER_AREA)


class _Painter:
    """Draws one view. All points are turned into OpenCV's integers beforehand; a frame then costs drawing calls only."""

    def __init__(self, rng: np.random.Generator, script: Script, motion: Motion, camera: Camera) -> None:
        self.script, self.motion = script, motion
        self.unit = camera.scale * OVERSAMPLE
        self.origin = np.array(camera.origin)
        alone = len(camera.people) == 1
        height, bottom = camera.height, script.seats[:, 1].max() if not alone else script.seats[camera.people[0], 1]
        self.table = round((bottom + TABLE - camera.origin[1]) * self.unit)
        texture = _wall_texture(rng, camera.width * OVERSAMPLE, height * OVERSAMPLE)
        self.backgrounds = [self._background(rng, texture, slot.wall) for slot in script.slots]
        light = rng.integers(-12, 13, size=(len(script.slots), len(script.people), 3))
        self.shirts = np.clip(
            np.array([[SHIRTS[c] for c in slot.shirts] for slot in script.slots]) + light, 0, 255
        ).tolist()
        self.slot = np.searchsorted([s.start for s in script.slots], motion.times + 1e-9, side="right") - 1
        back = [p for p in camera.people if script.seats[p, 1] < bottom - 0.3]
        self.back, self.front = back, [p for p in camera.people if p not in back]
        self.guests = _guests(script, motion.times, camera)
        self._prepare()

    def _points(self, metres: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.round((metres - self.origin) * (self.unit * (1 << SHIFT))), dtype=np.int32)

    def _prepare(self) -> None:
        motion = self.motion
        head, flat = motion.head[:, :, None], motion.face[..., :2]
        self.parts = {name: self._points(flat[:, :, indices]) for name, indices in _FACE_PARTS.items()}
        self.parts["fringe"] = self._points(head + (flat[:, :, FRINGE] - head) * 1.1)
        chest = motion.chest[:, :, None]
        self.parts["torso"] = self._points(chest + TORSO)
        self.parts["neck"] = self._points(np.concatenate([chest, head + np.array([0.0, 0.06])], axis=2))
        for number, stripe in STRIPES.items():
            self.parts[f"stripe{number}"] = self._points(chest + stripe)
        self.awake = np.ptp(flat[:, :, EYES[0], 1], axis=-1) > 0.012
        self.parts["head"] = self._points(motion.head)
        self.arms = self._points(np.stack([motion.shoulder, motion.elbow, motion.wrist], axis=3))
        self.hands = self._points((motion.wrist + motion.finger) / 2)
        tip = motion.finger + (motion.finger - motion.wrist) * 0.9
        self.fingers = self._points(np.stack([motion.finger, tip], axis=3))

    def _background(self, rng: np.random.Generator, texture: np.ndarray, wall: int) -> np.ndarray:
        colour = np.array(WALLS[wall]) + rng.integers(-10, 11, size=3)
        out = np.zeros((*texture.shape[:2], 4), np.uint8)
        out[:, :, :3] = np.clip(texture * colour, 0, 255)
        return out

    def _width(self, metres: float) -> int:
        return max(1, round(metres * self.unit))

    def frame(self, number: int) -> np.ndarray:
        """One frame at twice the size, uint8 [height, width, 4]."""
        canvas = self.backgrounds[self.slot[number]].copy()
        shirts = self.shirts[self.slot[number]]
        for person in self.back:
            self._person(canvas, number, person, shirts[person])
            self._both_arms(canvas, number, person, shirts[person])
        for person in self.front:
            self._person(canvas, number, person, shirts[person])
        canvas[max(self.table, 0) :] = (*TABLE_RGB, 0)
        canvas[max(self.table, 0) : max(self.table + self._width(0.025), 0)] = (160, 120, 84, 0)
        for person in self.front:
            self._both_arms(canvas, number, person, shirts[person])
        for person, side in zip(*self.guests[number].nonzero(), strict=True):
            self._arm(canvas, number, int(person), int(side), shirts[person])
        return canvas

    def _fill(self, canvas: np.ndarray, part: str, number: int, person: int, rgb: tuple[int, int, int]) -> None:
        cv2.fillPoly(canvas, [self.parts[part][number, person]], (*rgb, 255), cv2.LINE_AA, SHIFT)

    def _person(self, canvas: np.ndarray, number: int, person: int, shirt: list[int]) -> None:
        """Hair, neck, torso and face; the arms come later, over the table."""
        look = self.script.people[person]
        centre = self.parts["head"][number, person]
        skull = np.array(SKULL) * look.size * (1.16 if look.long_hair else 1.0)
        drop = round((0.04 if look.long_hair else -0.01) * self.unit * (1 << SHIFT))
        axes = (round(skull[0] * self.unit * (1 << SHIFT)), round(skull[1] * self.unit * (1 << SHIFT)))
        middle = (int(centre[0]), int(centre[1]) + drop)
        cv2.ellipse(canvas, middle, axes, 0, 0, 360, (*look.hair, 255), -1, cv2.LINE_AA, SHIFT)
        neck = self.parts["neck"][number, person]
        dark = (int(look.skin[0] * 0.8), int(look.skin[1] * 0.8), int(look.skin[2] * 0.8))
        cv2.line(canvas, neck[0].tolist(), neck[1].tolist(), (*dark, 255), self._width(0.1), cv2.LINE_AA, SHIFT)
        self._fill(canvas, "torso", number, person, (shirt[0], shirt[1], shirt[2]))
        if look.stripes:
            light = tuple(min(255, c // 2 + 110) for c in shirt)
            self._fill(canvas, f"stripe{look.stripes}", number, person, (light[0], light[1], light[2]))
        self._fill(canvas, "oval", number, person, look.skin)
        self._fill(canvas, "fringe", number, person, look.hair)
        for side in (0, 1):
            self._fill(canvas, f"eye{side}", number, person, (250, 250, 250))
            iris = self.parts[f"iris{side}"][number, person, 0]
            if self.awake[number, person]:
                radius = round(0.012 * self.unit * (1 << SHIFT))
                cv2.circle(canvas, iris.tolist(), radius, (*LINE_RGB, 255), -1, cv2.LINE_AA, SHIFT)
            self._fill(canvas, f"brow{side}", number, person, look.hair)
        nose = self.parts["nose"][number, person][4:7]
        cv2.polylines(canvas, [nose], False, (*dark, 255), self._width(0.014), cv2.LINE_AA, SHIFT)
        self._fill(canvas, "lips", number, person, (170, 60, 65))
        self._fill(canvas, "mouth", number, person, (70, 15, 25))

    def _both_arms(self, canvas: np.ndarray, number: int, person: int, shirt: list[int]) -> None:
        for side in range(len(SIDES)):
            self._arm(canvas, number, person, side, shirt)

    def _arm(self, canvas: np.ndarray, number: int, person: int, side: int, shirt: list[int]) -> None:
        """A sleeve with a dark outline, the thing that the hand holds, a pointing finger, the hand."""
        skin = (*self.script.people[person].skin, 255)
        arm = [self.arms[number, person, side]]
        outline, sleeve = [*(int(c * 0.4) for c in shirt), 255], [*(int(c * 0.9) for c in shirt), 255]
        cv2.polylines(canvas, arm, False, outline, self._width(ARM * 1.3), cv2.LINE_AA, SHIFT)
        cv2.polylines(canvas, arm, False, sleeve, self._width(ARM), cv2.LINE_AA, SHIFT)
        hand = self.hands[number, person, side].tolist()
        if self.motion.item[number, person, side]:
            half = round(0.055 * self.unit * (1 << SHIFT))
            low, high = (hand[0] - half, hand[1] - 2 * half), (hand[0] + half, hand[1] + half // 2)
            cv2.rectangle(canvas, low, high, (*ITEM_RGB, 255), -1, cv2.LINE_AA, SHIFT)
            cv2.rectangle(canvas, low, high, (*LINE_RGB, 255), self._width(0.012), cv2.LINE_AA, SHIFT)
        if self.motion.pointing[number, person, side]:
            start, end = self.fingers[number, person, side].tolist()
            cv2.line(canvas, start, end, skin, self._width(0.04), cv2.LINE_AA, SHIFT)
        radius = round(HAND_RADIUS * self.unit * (1 << SHIFT))
        cv2.circle(canvas, hand, radius, skin, -1, cv2.LINE_AA, SHIFT)


def _guests(script: Script, times: np.ndarray, camera: Camera) -> np.ndarray:
    """Arms of people outside the view that reach into it to hand over or take: bool [time, person, side]."""
    out = np.zeros((len(times), len(script.people), len(SIDES)), dtype=bool)
    for event in script.events:
        if event.kind in {"hand_over", "take"} and event.target in camera.people and event.person not in camera.people:
            inside = (times >= event.start) & (times < event.end)
            out[inside, event.person, SIDES.index(event.side)] = True
    return out


_FACE_PARTS: dict[str, list[int]] = {"oval": OVAL, "nose": NOSE, "lips": LIPS, "mouth": MOUTH}
_FACE_PARTS |= {
    f"{name}{side}": parts[side]
    for side in (0, 1)
    for name, parts in (("eye", EYES), ("brow", BROWS), ("iris", IRISES))
}


def _wall_texture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Light and dark of a papered wall with pictures on it, about 1 on average: float32 [height, width, 1 or 3]."""
    coarse = cv2.resize(
        rng.uniform(0.88, 1.08, (5, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    y, x = np.mgrid[:height, :width] / min(width, height)
    period = rng.uniform(0.06, 0.14)
    bands = [
        np.sin(2 * np.pi * x / period),
        np.sin(2 * np.pi * y / period),
        np.sign(np.sin(2 * np.pi * (x + y) / period)),
    ]
    bands.append(np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period))
    texture = coarse + rng.uniform(0.03, 0.09) * bands[rng.integers(4)]
    texture += cv2.resize(rng.normal(0, 0.03, (height // 2, width // 2)), (width, height))
    out = np.repeat(texture[:, :, None], 3, axis=2)
    for _ in range(rng.integers(1, 4)):
        left, top, across, down = rng.uniform((0, 0, 0.08, 0.08), (0.9, 0.3, 0.2, 0.2)) * min(width, height)
        low, high = (int(left), int(top)), (int(left + across), int(top + down))
        cv2.rectangle(out, low, high, rng.uniform(0.3, 1.2, 3).tolist(), -1)
        cv2.rectangle(out, low, high, (0.35, 0.3, 0.3), max(1, min(width, height) // 64))
    return out.astype(np.float32)
