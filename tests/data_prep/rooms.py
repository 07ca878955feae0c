"""Rooms composed of real footage: the talking man of the sample, at any size, at several places of a wide picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class Place(NamedTuple):
    """Where a person sits: upper left corner in pixels, times the sample's size (176x144), mirrored or not."""

    x: int
    y: int
    scale: float
    mirrored: bool = False


def frames(path: Path, most: int | None = None) -> list[Picture]:
    """The pictures of a video, RGB [height, width, 3]."""
    shown: list[Any] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            shown.append(frame.to_ndarray(format="rgb24"))
            if len(shown) == most:
                break
    return shown


def wall(width: int, height: int) -> Picture:
    """A wall with soft blotches."""
    rough = np.random.default_rng(0).integers(90, 150, (9, 16, 3)).astype(np.uint8)
    smooth: Any = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth


def room(person: list[Picture], places: list[Place], width: int = 1280, height: int = 720) -> list[Picture]:
    """The same pictures of a person at every place of a room."""
    shown = []
    for frame in person:
        picture = wall(width, height)
        for place in places:
            part: Any = cv2.resize(frame, None, fx=place.scale, fy=place.scale, interpolation=cv2.INTER_AREA)
            part = part[:, ::-1] if place.mirrored else part
            picture[place.y : place.y + part.shape[0], place.x : place.x + part.shape[1]] = part
        shown.append(picture)
    return shown


def write_video(path: Path, pictures: list[Picture], fps: int = 25) -> Path:
    """H.264 of high quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
