"""Tracks: each face and body found at an instant in a view is given to the track of somebody who was there before.

A track is one person's for as long as nothing speaks against it; which tracks are one person's, in all views of the
recording, is found out when all of it has been read (data_prep/who_is_who.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from trackers import ByteTrackTracker

from data_prep.faces import Face
from data_prep.poses import HEAD, NOSE, SHOULDERS, Pose

FIRST_WAIT = 0.5  # seconds between the first two embeddings of a track
HEAD_SIDES = 3.0  # what is followed: a square of 3 head sizes, large enough to overlap itself from look to look


@dataclass
class Body:
    """What was found of one person at one instant: a face, a pose or both.

    person: its track, 0, 1, ... in the order of appearance; None until a second look has confirmed that somebody is there.
    """

    face: Face | None
    pose: Pose | None
    person: int | None = None

    def square(self, width: int, height: int) -> NDArray[np.float64]:
        """Square [4] (x0 y0 x1 y1, pixels) of HEAD_SIDES head sizes around the head."""
        size = np.array([width, height])
        if self.face is not None:
            corners = self.face.box.reshape(2, 2) * size
            centre, side = corners.mean(0), float((corners[1] - corners[0]).max())
        else:
            assert self.pose is not None
            points = self.pose.keypoints[:, :2] * size
            # From the nose to between the shoulders it is about 1.25 face heights, from whichever side one looks.
            neck = float(np.linalg.norm(points[NOSE] - points[SHOULDERS].mean(0)))
            centre, side = points[HEAD].mean(0), max(0.8 * neck, 1.0)
        half = HEAD_SIDES * side / 2
        return np.concatenate([centre - half, centre + half])


@dataclass
class Track:
    """A stretch of a view in which nothing speaks against one person.

    first, last: seconds, when somebody was seen first and last; before: the look before the last. follows: the track
    before it, where the tracker takes both for one person and the face does not. The rest is data_prep/face_identity.py's:
    patch, the face as it was last seen; faces, embeddings [128]; known, those of the track before it; looked, when
    (seconds) the last of them was made; wait, seconds until the next one.
    """

    first: float
    last: float
    before: float
    follows: int | None = None
    patch: NDArray[np.float32] | None = None
    faces: list[NDArray[np.float32]] = field(default_factory=list)
    known: list[NDArray[np.float32]] = field(default_factory=list)
    looked: float = -math.inf
    wait: float = FIRST_WAIT

    def see(self, time: float) -> None:
        """Takes note of another look."""
        self.before, self.last = self.last, time


class Tracker:
    """Gives people their tracks, look after look, with ByteTrack on their heads' boxes.

    ByteTrack confirms a track at its second look; the body of the look before is then given to it as well. Somebody who
    was seen in one look only is taken for an error and stays without.
    """

    def __init__(self, rate: float, remember_seconds: float) -> None:
        # Its buffer is counted in frames of 30 a second. No scores are given: the models dropped what they doubt, and
        # the scores of faces and of poses are not on one scale.
        self.tracker = ByteTrackTracker(lost_track_buffer=round(30 * remember_seconds), frame_rate=rate)
        self.tracks: list[Track] = []
        self.numbers: dict[int, int] = {}  # the tracker's id -> the track of ours that it is at
        self.waiting: list[tuple[Body, NDArray[np.float64], float]] = []  # of the look before, without a track
        self.wearer: int | None = None  # the track of the camera's wearer, where one has shown hands

    @property
    def people(self) -> int:
        """How many tracks there are."""
        return len(self.tracks)

    def see_wearer(self, time: float) -> int:
        """The track of the wearer of the camera, of whom nothing but the hands is seen at a time (seconds, growing)."""
        if self.wearer is None:
            self.wearer = self.people
            self.tracks.append(Track(time, time, time))
        self.tracks[self.wearer].see(time)
        return self.wearer

    def assign(self, time: float, bodies: list[Body], width: int, height: int) -> None:
        """Sets ``person`` of the bodies found at a time (seconds, growing) in a picture of width x height pixels."""
        squares = np.array([body.square(width, height) for body in bodies]).reshape(-1, 4)
        found = sv.Detections(xyxy=squares, data={"row": np.arange(len(bodies))})
        tracked = self.tracker.update(found, timestamp=time)
        for row, track in zip(tracked.data.get("row", []), np.array(tracked.tracker_id).reshape(-1), strict=True):
            if track < 0:  # not confirmed yet
                continue
            if int(track) not in self.numbers:
                self.numbers[int(track)] = self.people
                self.tracks.append(Track(time, time, time))
                self._confirm(squares[row], self.numbers[int(track)])
            bodies[row].person = self.numbers[int(track)]
            self.track_of(bodies[row]).see(time)
        self.waiting = [
            (body, square, time) for body, square in zip(bodies, squares, strict=True) if body.person is None
        ]

    def track_of(self, body: Body) -> Track:
        """The track that a body was given to."""
        assert body.person is not None
        return self.tracks[body.person]

    def split(self, body: Body, time: float) -> Track:
        """Begins a new track with a body, of this look: its face says that it is another person."""
        old, number = self.track_of(body), body.person
        assert number is not None
        old.last = old.before
        known = old.faces or old.known
        self.tracks.append(Track(time, time, time, number, known=known, looked=old.looked, wait=old.wait))
        body.person = self.people - 1
        self.numbers = {theirs: body.person if ours == number else ours for theirs, ours in self.numbers.items()}
        return self.tracks[-1]

    def _confirm(self, square: NDArray[np.float64], number: int) -> None:
        """Gives to a new track the body of the look before that overlaps this square most."""
        if not self.waiting:
            return
        body, before, time = max(self.waiting, key=lambda waiting: overlap(waiting[1], square))
        if body.person is None and overlap(before, square) > 0:
            body.person, self.tracks[number].first = number, time


def overlap(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes (x0 y0 x1 y1)."""
    sides = np.clip(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0, None)
    both = float(sides.prod())
    return both / (float((one[2:] - one[:2]).prod()) + float((two[2:] - two[:2]).prod()) - both)
