"""Recordings composed of talking clips: who is where, when, is known because it was put there.

Each clip gives one person: a square around the face, shown for as long as wanted (forwards, backwards, forwards ...).
A recording is a list of what is shown in which view; later entries are drawn over earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from configs import UserError
from data_prep.faces import FaceFinder

SIDE = 192  # pixels of a person's square
AROUND = 2.4  # its side in sides of the face's box
FPS = 16
OCCLUDER = -1

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A person (or OCCLUDER, a grey board) in a view from ``start`` to ``end`` seconds.

    x: where the square's left side is, in squares from the picture's left side; ``x_end``: where it has gone by the end.
    """

    person: int
    view: str
    start: float
    end: float
    x: float
    x_end: float | None = None

    def at(self, time: float) -> float | None:
        """Where its left side is at a time, None where it is not shown."""
        if not self.start <= time < self.end:
            return None
        done = (time - self.start) / (self.end - self.start)
        return self.x + done * ((self.x if self.x_end is None else self.x_end) - self.x)


@dataclass(frozen=True)
class View:
    """A camera: how many squares its picture is wide, the side of a square in pixels, how bright it is."""

    name: str
    squares: int
    side: int = SIDE
    light: float = 1.0


def visible(shown: Sequence[Shown], view: str, time: float) -> list[tuple[int, float]]:
    """(person, centre in squares) of those whose face is not covered at a time."""
    found: list[tuple[int, float]] = []
    for one in shown:
        x = one.at(time) if one.view == view else None
        if x is not None:
            found = [(person, centre) for person, centre in found if abs(centre - x - 0.5) >= 0.75]
            if one.person != OCCLUDER:
                found.append((one.person, x + 0.5))
    return found


def covered(shown: Sequence[Shown], view: str, time: float) -> bool:
    """Whether anything covers anybody in part: what is found then is right or wrong by a matter of taste."""
    places = [x for one in shown if one.view == view and (x := one.at(time)) is not None]
    return any(0 < abs(a - b) < 1 for n, a in enumerate(places) for b in places[:n])


def read_person(path: Path, finder: FaceFinder, seconds: float = 3.0) -> Pictures:
    """Pictures [time, SIDE, SIDE, 3] of the face in a video, FPS a second; of a photograph, slightly swaying.

    Raises UserError where its first picture does not show exactly one face.
    """
    frames = _sway(path) if path.suffix in {".jpg", ".png"} else _frames(path, seconds)
    faces = finder.find(frames[0])
    if len(faces) != 1:
        raise UserError(f"{path}: {len(faces)} faces in its first picture; clips with one talking person are needed")
    height, width = frames[0].shape[:2]
    corners = faces[0].box.reshape(2, 2) * [width, height]
    half = AROUND * float((corners[1] - corners[0]).max()) / 2
    (x0, y0), (x1, y1) = (np.rint(corners.mean(0) + sign * half).astype(int) for sign in (-1, 1))
    edge = max(0, -x0, -y0, x1 - width, y1 - height)
    padded = [cv2.copyMakeBorder(frame, edge, edge, edge, edge, cv2.BORDER_REPLICATE) for frame in frames]
    squares = [frame[y0 + edge : y1 + edge, x0 + edge : x1 + edge] for frame in padded]
    small = [cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for square in squares]
    return np.stack(small).astype(np.uint8)


def _frames(path: Path, seconds: float) -> list[Pictures]:
    frames: list[Pictures] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if (frame.time or 0.0) >= len(frames) / FPS - 1e-6:
                frames.append(np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8))
            if len(frames) >= seconds * FPS:
                break
    return frames


def _sway(path: Path) -> list[Pictures]:
    photo = cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB)
    shifts = [0.01 * photo.shape[1] * np.sin(2 * np.pi * k / (2 * FPS)) for k in range(2 * FPS)]
    return [
        np.asarray(cv2.warpAffine(photo, np.array([[1, 0, dx], [0, 1, 0]]), photo.shape[1::-1], borderMode=1), np.uint8)
        for dx in shifts
    ]


def looped(pictures: Pictures, index: int) -> Pictures:
    """The picture at an index of one that is played forwards and backwards for ever: without a jump."""
    last = len(pictures) - 1
    return pictures[last - abs(last - index % (2 * last))]


def write_view(path: Path, view: View, people: Sequence[Pictures], shown: Sequence[Shown]) -> None:
    """Writes the video of a view, until nothing is shown in it any more."""
    end = max(one.end for one in shown if one.view == view.name)
    noise = np.random.default_rng(0).integers(90, 110, (view.side, view.side * view.squares, 3), np.uint8)
    with av.open(str(path), "w") as container:
        options = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}  # the same bytes each time
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.codec_context.thread_count = 1
        stream.width, stream.height, stream.pix_fmt = view.side * view.squares, view.side, "yuv420p"
        for index in range(round(end * FPS)):
            picture = noise.copy()
            for one in shown:
                x = one.at(index / FPS) if one.view == view.name else None
                if x is not None:
                    _paste(picture, _square(one, people, index, view), round(x * view.side))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def _square(one: Shown, people: Sequence[Pictures], index: int, view: View) -> Pictures:
    if one.person == OCCLUDER:
        return np.full((view.side, view.side, 3), 128, np.uint8)
    small = cv2.resize(looped(people[one.person], index), (view.side, view.side), interpolation=cv2.INTER_AREA)
    return (np.asarray(small) * view.light).astype(np.uint8)


def _paste(picture: Pictures, square: Pictures, left: int) -> None:
    x0, x1 = max(left, 0), min(left + square.shape[1], picture.shape[1])
    picture[:, x0:x1] = square[:, x0 - left : x1 - left]
