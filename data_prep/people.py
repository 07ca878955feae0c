"""People through time: each face and body found at an instant gets the id of the person it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from trackers import ByteTrackTracker

from data_prep.faces import Face
from data_prep.poses import HEAD, NOSE, SHOULDERS, Pose

HEAD_SIDES = 3.0  # what is followed: a square of 3 head sizes, large enough to overlap itself from look to look


@dataclass
class Body:
    """What was found of one person at one instant: a face, a pose or both.

    person: 0, 1, ... in the order of appearance; None until a second look has confirmed that somebody is there.
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


class Tracker:
    """Gives people their ids, look after look, with ByteTrack on their heads' boxes.

    ByteTrack confirms a track at its second look; the body of the look before is then given the id as well. Somebody who
    was seen in one look only is taken for an error and stays without.
    """

    def __init__(self, rate: float, remember_seconds: float) -> None:
        # Its buffer is counted in frames of 30 a second. No scores are given: the models dropped what they doubt, and
        # the scores of faces and of poses are not on one scale.
        self.tracker = ByteTrackTracker(lost_track_buffer=round(30 * remember_seconds), frame_rate=rate)
        self.persons: dict[int, int] = {}  # the tracker's id -> ours
        self.waiting: list[tuple[Body, NDArray[np.float64]]] = []  # of the look before, without an id

    @property
    def people(self) -> int:
        """How many ids have been given."""
        return len(self.persons)

    def assign(self, time: float, bodies: list[Body], width: int, height: int) -> None:
        """Sets ``person`` of the bodies found at a time (seconds, growing) in a picture of width x height pixels."""
        squares = np.array([body.square(width, height) for body in bodies]).reshape(-1, 4)
        found = sv.Detections(xyxy=squares, data={"row": np.arange(len(bodies))})
        tracked = self.tracker.update(found, timestamp=time)
        for row, track in zip(tracked.data.get("row", []), np.array(tracked.tracker_id).reshape(-1), strict=True):
            if track < 0:  # not confirmed yet
                continue
            if int(track) not in self.persons:
                self.persons[int(track)] = self.people
                self._confirm(squares[row], self.persons[int(track)])
            bodies[row].person = self.persons[int(track)]
        self.waiting = [(body, square) for body, square in zip(bodies, squares, strict=True) if body.person is None]

    def _confirm(self, square: NDArray[np.float64], person: int) -> None:
        """Gives a new id to the body of the look before that overlaps this square most."""
        if not self.waiting:
            return
        body, before = max(self.waiting, key=lambda waiting: overlap(waiting[1], square))
        if body.person is None and overlap(before, square) > 0:
            body.person = person


def overlap(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes (x0 y0 x1 y1)."""
    sides = np.clip(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0, None)
    both = float(sides.prod())
    return both / (float((one[2:] - one[:2]).prod()) + float((two[2:] - two[:2]).prod()) - both)
