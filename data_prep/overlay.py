"""Pictures of a clip: frames of its views side by side, with faces, skeletons and person ids drawn on them.

What is laid below them (report_card.py) has the same time axis: the clip's length is the picture's width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FRAMES, WIDTH, GAP, SEAM = 6, 1680, 8, 3  # frames across a picture; pixels, between instants and between views
TALLEST = 420  # pixels: a frame's height at most
APART = 0.3  # seconds between a frame and the look whose people are drawn on it
VISIBLE = 0.5  # keypoints below are extrapolated and not drawn
MESH = 140  # pixels of a face's width, FINE times enlarged, from which its mesh is drawn and not its contours alone
FINE = 2  # drawn this many times larger, then scaled down: smooth lines
INK, PAPER, NOT_YET = "#1f2933", "#ffffff", "#e4e7eb"
PALETTE = ("#e69f00", "#56b4e9", "#f0529c", "#2fc48d", "#d9c510", "#d55e00", "#9b8cff", "#c0c0c0")  # told apart by most

Arrays = dict[str, np.ndarray]
View = tuple[bytes, dict[str, Any], dict[str, Arrays]]
"""An mp4, what meta.json says of it, and the arrays of face and pose where they are there."""


def colour(person: int) -> str:
    """A person's colour, everywhere the same."""
    return PALETTE[person % len(PALETTE)]


def frames_picture(views: Mapping[str, View], seconds: float) -> Image.Image:
    """Frames of a clip that lasts ``seconds``, WIDTH pixels wide: at each of a few instants those of all views side by side.

    FRAMES frames are shown in all, of more than FRAMES views one each. An instant lies where it would on a time axis that
    is as wide as the picture, and is one that was looked at.
    """
    instants = max(1, FRAMES // len(views))
    times = _instants(views, seconds, instants)
    share = WIDTH / instants
    room = share - 2 * GAP - (len(views) - 1) * SEAM
    height = round(min(TALLEST, room / sum(stream["width"] / stream["height"] for _, stream, _ in views.values())))
    rows = {name: _frames(view, times, height) for name, view in views.items()}
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    for column, time in enumerate(times):
        wide = sum(frames[column].width + SEAM for frames in rows.values()) - SEAM
        left = round((column + 0.5) * share - wide / 2)
        for name, frames in rows.items():
            _caption(frames[column], f"{time:.1f} s", name if len(views) > 1 else "")
            picture.paste(frames[column], (left, 0))
            left += frames[column].width + SEAM
    return picture


def _instants(views: Mapping[str, View], seconds: float, number: int) -> NDArray:
    """The middles of equal parts of the clip, moved to the nearest time that was looked at."""
    middles = (np.arange(number) + 0.5) * seconds / number
    looks = [stream["times"] for _, _, arrays in views.values() for stream in arrays.values() if len(stream["times"])]
    return looks[0][np.abs(looks[0][None] - middles[:, None]).argmin(1)] if looks else middles


def _frames(view: View, times: NDArray, height: int) -> list[Image.Image]:
    """The frames of a view at some times in a height, with people on them."""
    video, stream, arrays = view
    frames = decode(video, [round((time - stream["start"]) * stream["rate"]) for time in times])
    size = max(1, round(height * stream["width"] / stream["height"])), height
    pictures = []
    for frame, time in zip(frames, times, strict=True):
        faces, poses = _rows(arrays.get("face"), "landmarks", time), _rows(arrays.get("pose"), "keypoints", time)
        begun = time >= stream["start"] - 0.5 / stream["rate"]
        pictures.append(draw_people(frame, faces, poses, size) if begun else Image.new("RGB", size, NOT_YET))
    return pictures


def _caption(frame: Image.Image, left: str, right: str) -> None:
    """Writes into the lower corners of a frame."""
    draw = ImageDraw.Draw(frame, "RGBA")
    for text, x, anchor in ((left, 6, "ls"), (right, frame.width - 6, "rs")):
        if text:
            place, font = (x, frame.height - 7), _font(17)
            x0, y0, x1, y1 = draw.textbbox(place, text, font=font, anchor=anchor)
            draw.rectangle([x0 - 5, y0 - 4, x1 + 5, y1 + 4], fill=(255, 255, 255, 190))
            draw.text(place, text, font=font, anchor=anchor, fill=INK)


def stack(parts: list[Image.Image]) -> Image.Image:
    """Pictures of one width, one below the other."""
    sheet = Image.new("RGB", (WIDTH, sum(part.height + GAP for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + GAP
    return sheet


def draw_people(frame: NDArray[np.uint8], faces: list, poses: list, size: tuple[int, int]) -> Image.Image:
    """An RGB frame [height, width, 3] in a size (width, height), with people on it.

    faces: (person, landmarks [478, 3]); poses: (person, keypoints [33, 4]); x and y in fractions of the frame.
    """
    fine = size[0] * FINE, size[1] * FINE
    picture = Image.fromarray(frame).resize(fine, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture, "RGBA")
    mesh, contours, bones = connections()
    for person, keypoints in poses:
        points = keypoints[:, :2] * fine
        seen = keypoints[:, 3] >= VISIBLE
        if any(person == other for other, _ in faces):
            seen[:11] = False  # the face itself is drawn in more detail
        for a, b in bones:
            if seen[a] and seen[b]:
                draw.line([*points[a], *points[b]], fill=colour(person), width=3 * FINE)
        for x, y in points[seen]:
            draw.ellipse([x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE], fill=colour(person), outline=INK)
    for person, landmarks in faces:
        points = landmarks[:, :2] * fine
        if np.ptp(points[:, 0]) >= MESH:  # on a small face it would hide the face
            for a, b in mesh:
                draw.line([*points[a], *points[b]], fill=f"{colour(person)}58", width=1)
        for a, b in contours:
            draw.line([*points[a], *points[b]], fill=colour(person), width=FINE)
    for person, (x, y) in _heads(faces, poses).items():
        place = np.clip((x * fine[0], y * fine[1] - 6 * FINE), 12 * FINE, np.array(fine) - 12 * FINE)
        _label(draw, place, str(person), colour(person))
    return picture.resize(size, Image.Resampling.LANCZOS)


@cache
def connections() -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of points that lines join: a face's mesh, its contours, and a body's bones below the head."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections, PoseLandmarksConnections

    mesh = [(c.start, c.end) for c in FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION]
    contours = [(c.start, c.end) for c in FaceLandmarksConnections.FACE_LANDMARKS_CONTOURS]
    bones = [(c.start, c.end) for c in PoseLandmarksConnections.POSE_LANDMARKS if min(c.start, c.end) > 10]
    return mesh, contours, bones


def _heads(faces: list, poses: list) -> dict[int, tuple[float, float]]:
    """Where a person's id is written: above the face, else above the body's head."""
    tops = {}
    for person, points in [*((person, keypoints[:11]) for person, keypoints in poses), *faces]:
        tops[person] = (float(points[:, 0].mean()), float(points[:, 1].min()))
    return tops


def _label(draw: ImageDraw.ImageDraw, place: NDArray, text: str, fill: str) -> None:
    x, y = place
    font = _font(18 * FINE)
    left, top, right, bottom = draw.textbbox((x, y), text, font=font, anchor="ms")
    draw.rounded_rectangle([left - 4 * FINE, top - 3 * FINE, right + 4 * FINE, bottom + 3 * FINE], 3 * FINE, fill=fill)
    draw.text((x, y), text, font=font, anchor="ms", fill=INK)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def decode(video: bytes, indices: list[int]) -> list[NDArray[np.uint8]]:
    """Frames of an mp4 by their numbers, each RGB [height, width, 3]; beyond the end the last one."""
    found: dict[int, NDArray[np.uint8]] = {}
    number, last = 0, None
    with av.open(io.BytesIO(video), "r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            last = frame
            if number in indices or number == 0:
                found[number] = _pixels(frame)
            if number >= max(indices):
                break
    if last is not None:
        found[number] = _pixels(last)
    return [found[min(found, key=lambda number: abs(number - index))] for index in indices]


def _pixels(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _rows(arrays: Arrays | None, member: str, time: float) -> list[tuple[int, np.ndarray]]:
    """(person, values) of the rows of the window at a time."""
    if arrays is None or not len(arrays["times"]):
        return []
    window = np.abs(arrays["times"] - time).argmin()
    if abs(arrays["times"][window] - time) > APART:
        return []
    rows = np.flatnonzero(arrays["window"] == window)
    return [(int(arrays["person"][row]), arrays[member][row]) for row in rows]
