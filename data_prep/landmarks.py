"""What is seen of the people at each instant looked at, and how a clip's looks become the members of its sample.

analyzer = ViewAnalyzer(config, models, rate, (width, height))      # one a view of a recording, in one process
looks.append(analyzer.look(time, frame))                            # times growing
members = pack(looks_of_a_clip, clip_start, first_person)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.config import LandmarkConfig
from data_prep.faces import BLENDSHAPES, LANDMARKS, FaceFinder, quiet
from data_prep.hands import KEYPOINTS as HAND_KEYPOINTS
from data_prep.hands import Hand, HandFinder
from data_prep.manifest import WHOLE, Box
from data_prep.people import Body, Tracker
from data_prep.poses import KEYPOINTS, PoseFinder, body_box
from data_prep.regions import CellMeter, Cells

Members = dict[str, NDArray]


@dataclass
class Look:
    """One instant of a view: its time (seconds, the clock that ``look`` was given), who was found, and the cells.

    cells: of the view, then of each picture that a region of it becomes. wearer: the track of the person whose are the hands
    of nobody seen. A body's track may be set by the look after.
    """

    time: float
    bodies: list[Body]
    cells: list[Cells]
    hands: list[Hand]
    wearer: int | None


class ViewAnalyzer:
    """Follows the people of one view of a recording.

    models: folder from landmark_models.find. rate: looks a second. written: (width, height) of the written picture, whose
    cells are measured; the frames looked at may be larger. regions: (box, written size) of the pictures that regions of
    the view become. hands: whether to look for hands. ``close()`` it, or use it in a ``with``.
    """

    def __init__(
        self,
        config: LandmarkConfig,
        models: Path,
        rate: float,
        written: tuple[int, int],
        regions: Sequence[tuple[Box, tuple[int, int]]] = (),
        hands: bool = False,
    ) -> None:
        self.config, self.written = config, written
        self.boxes = [box for box, _ in regions]
        self.faces = FaceFinder(models, config.max_people)
        self.poses = PoseFinder(models, config.max_people)
        self.hands = HandFinder(models, 2 * config.max_people) if hands else None
        self.tracker = Tracker(rate, config.remember_seconds)
        self.cells = CellMeter([(WHOLE, written), *regions], config.cell)
        self.identity = None
        if config.face_identity:
            from data_prep.face_identity import FaceIdentity

            self.identity = FaceIdentity(config.face_distance)

    @property
    def people(self) -> int:
        """How many tracks there are: 0 to people - 1."""
        return self.tracker.people

    def look(self, time: float, frame: NDArray[np.uint8]) -> Look:
        """Who is seen, and what moves, at a time (seconds, growing) in an RGB picture [height, width, 3]."""
        with nullcontext() if self.people else quiet():  # MediaPipe's first face and body come with a note as well
            bodies = self._bodies(frame)
        self.tracker.assign(time, bodies, *self.written)  # in its pixels: chapter files may differ in size
        if self.identity is not None:
            self.identity.look(time, frame, bodies, self.tracker)
        cells = self.cells.measure(time, frame, bodies)
        for body in bodies:
            if body.pose is not None:
                body.pose.outline = None
        hands = self.hands.find(frame, bodies, self.boxes) if self.hands else []
        theirs = self.config.wearer and any(hand.body is None for hand in hands)
        return Look(time, bodies, cells, hands, self.tracker.see_wearer(time) if theirs else None)

    def _bodies(self, frame: NDArray[np.uint8]) -> list[Body]:
        """Everybody in a picture: first those with a face, then the others, each from left to right."""
        faces = self.faces.find_closer(frame, self.boxes)
        bodies = [Body(face, self.poses.of_face(frame, face)) for face in faces]
        taken = [box for body in bodies for box in _boxes(body)]
        return bodies + [Body(None, pose) for pose in self.poses.of_others(frame, taken)]

    def close(self) -> None:
        """Ends MediaPipe's threads; one that lives when Python ends prints tracebacks."""
        self.faces.close()
        self.poses.close()
        if self.hands:
            self.hands.close()

    def __enter__(self) -> ViewAnalyzer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _boxes(body: Body) -> list[NDArray[np.float32]]:
    """What a body covers: its pose's box and its head's. The face's box ends at the brow: hair was taken for a body."""
    boxes = [] if body.pose is None else [body_box(body.pose)]
    if body.face is not None:
        x0, y0, x1, y1 = body.face.box
        x, y = (x1 - x0) / 2, (y1 - y0) / 2
        boxes.append(np.array([x0 - x, y0 - 1.5 * y, x1 + x, y1 + y], np.float32))
    return boxes


def pack(looks: list[Look], clip_start: float, first_person: int = 0, region: int = 0) -> dict[str, Members]:
    """The members of face.npz, pose.npz, hands.npz and regions.npz of the clip that these looks (at least one) belong to.

    clip_start: seconds on the looks' clock; the times written count from there. first_person is added to every id, so
    that the ids of a recording's views do not meet. region: 0 for the view itself, else the number of the region whose
    cells are wanted (data_prep/virtual.py cuts out its faces and poses). Who was seen in one look only is left out:
    taken for an error.
    A person's first look is confirmed by the next one: where that one comes after the clip's end, look first, then pack.
    """
    times = np.array([look.time - clip_start for look in looks], np.float64)
    known = [(w, body) for w, look in enumerate(looks) for body in look.bodies if body.person is not None]
    faces = [(w, body, body.face) for w, body in known if body.face is not None]
    poses = [(w, body, body.pose) for w, body in known if body.pose is not None]

    hands = [
        (w, hand, person)
        for w, look in enumerate(looks)
        for hand in look.hands
        if (person := look.wearer if hand.body is None else hand.body.person) is not None
    ]

    def who(rows: list) -> Members:
        return whose([(w, body.person) for w, body, _ in rows])

    def whose(rows: list) -> Members:
        window, person = [w for w, _ in rows], [person + first_person for _, person in rows]
        return {"times": times, "window": np.array(window, np.int32), "person": np.array(person, np.int32)}

    def stack(values: list, *shape: int) -> NDArray[np.float32]:
        return np.array(values, np.float32).reshape(len(values), *shape)

    return {
        "face": who(faces)
        | {
            "box": stack([face.box for _, _, face in faces], 4),
            "landmarks": stack([face.landmarks for _, _, face in faces], LANDMARKS, 3),
            "blendshapes": stack([face.blendshapes for _, _, face in faces], BLENDSHAPES),
            "head": stack([face.head for _, _, face in faces], 4, 4),
            "score": stack([face.score for _, _, face in faces]),
        },
        "pose": who(poses)
        | {
            "keypoints": stack([pose.keypoints for _, _, pose in poses], KEYPOINTS, 4),
            "world": stack([pose.world for _, _, pose in poses], KEYPOINTS, 3),
            "score": stack([pose.score for _, _, pose in poses]),
        },
        "hands": whose([(w, person) for w, _, person in hands])
        | {
            "handedness": np.array([hand.handedness for _, hand, _ in hands], np.int8),
            "keypoints": stack([hand.keypoints for _, hand, _ in hands], HAND_KEYPOINTS, 3),
            "score": stack([hand.score for _, hand, _ in hands]),
        },
        "regions": {
            "times": times,
            "people": np.stack([look.cells[region].people for look in looks]),
            "motion": np.stack([look.cells[region].motion for look in looks]),
        },
    }
