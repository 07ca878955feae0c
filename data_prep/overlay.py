"""Pictures of a clip: frames with faces, skeletons and person ids drawn on them, who is seen when, and the sound below.

Everything is laid on one time axis: the clip's length is the picture's width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_prep.shards import decode_npz

FRAMES, WIDTH, GAP = 5, 1200, 6  # frames across a picture, pixels
TALLEST = 300  # pixels: a frame's height, for upright videos
STRIP, SOUND = 12, 64  # pixels: heights of a person's strip and of a channel's wave
VISIBLE = 0.5  # keypoints below are extrapolated and not drawn
FINE = 2  # drawn this many times larger, then scaled down: smooth lines
INK, PAPER, FAINT = "#1f2933", "#ffffff", "#e4e7eb"
PALETTE = ("#e69f00", "#56b4e9", "#f0529c", "#2fc48d", "#f0e442", "#d55e00", "#9b8cff", "#c0c0c0")  # told apart by most

Arrays = dict[str, np.ndarray]


def colour(person: int) -> str:
    """A person's colour, everywhere the same."""
    return PALETTE[person % len(PALETTE)]


def clip_picture(sample: Mapping[str, bytes]) -> Image.Image:
    """A sample as one picture, WIDTH pixels wide: view under view, each with frames, strips of who is seen, and sound."""
    meta = json.loads(sample["meta.json"])
    seconds = meta["end"] - meta["start"]
    parts: list[Image.Image] = [_title(meta)]
    for name, view in meta["views"].items():
        arrays = {
            stream: decode_npz(sample[f"{name}.{stream}.npz"])
            for stream in ("face", "pose")
            if f"{name}.{stream}.npz" in sample
        }
        if len(meta["views"]) > 1:
            parts.append(_line(name, "", 12))
        if video := sample.get(f"{name}.video.mp4"):
            parts.append(_frames(video, view["streams"]["video"], arrays, seconds))
        parts += [_strip(person, arrays, seconds) for person in _people(arrays)]
        if audio := sample.get(f"{name}.audio.flac"):
            parts += _sound(audio, view["streams"]["audio"]["start"], seconds)
    return stack(parts)


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
    draw = ImageDraw.Draw(picture)
    contours, bones = connections()
    for person, keypoints in poses:
        points = keypoints[:, :2] * fine
        seen = keypoints[:, 3] >= VISIBLE
        if any(person == other for other, _ in faces):
            seen[:11] = False  # the face itself is drawn in more detail
        for a, b in bones:
            if seen[a] and seen[b]:
                draw.line([*points[a], *points[b]], fill=colour(person), width=2 * FINE)
        for x, y in points[seen]:
            draw.ellipse([x - 2 * FINE, y - 2 * FINE, x + 2 * FINE, y + 2 * FINE], fill=colour(person), outline=INK)
    for person, landmarks in faces:
        points = landmarks[:, :2] * fine
        for x, y in points:
            draw.point([x, y], fill=colour(person))
        for a, b in contours:
            draw.line([*points[a], *points[b]], fill=colour(person), width=FINE)
    for person, (x, y) in _heads(faces, poses).items():
        place = np.clip((x * fine[0], y * fine[1] - 6 * FINE), 12 * FINE, np.array(fine) - 12 * FINE)
        _label(draw, place, str(person), colour(person))
    return picture.resize(size, Image.Resampling.LANCZOS)


@cache
def connections() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of points that lines join: a face's contours, a body's bones below the head."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections, PoseLandmarksConnections

    contours = [(c.start, c.end) for c in FaceLandmarksConnections.FACE_LANDMARKS_CONTOURS]
    bones = [(c.start, c.end) for c in PoseLandmarksConnections.POSE_LANDMARKS if min(c.start, c.end) > 10]
    return contours, bones


def _heads(faces: list, poses: list) -> dict[int, tuple[float, float]]:
    """Where a person's id is written: above the face, else above the body's head."""
    tops = {}
    for person, points in [*((person, keypoints[:11]) for person, keypoints in poses), *faces]:
        tops[person] = (float(points[:, 0].mean()), float(points[:, 1].min()))
    return tops


def _label(draw: ImageDraw.ImageDraw, place: NDArray, text: str, fill: str) -> None:
    x, y = place
    font = _font(13 * FINE)
    left, top, right, bottom = draw.textbbox((x, y), text, font=font, anchor="ms")
    draw.rounded_rectangle([left - 4 * FINE, top - 3 * FINE, right + 4 * FINE, bottom + 3 * FINE], 3 * FINE, fill=fill)
    draw.text((x, y), text, font=font, anchor="ms", fill=INK)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _title(meta: dict[str, Any]) -> Image.Image:
    marks = {view.get("landmarks") for view in meta["views"].values()} - {None}
    marked = f"landmarks: {', '.join(sorted(marks))}" if marks else "no landmarks"
    return _line(f"{meta['recording']}   {meta['start']:g} to {meta['end']:g} s", marked, 15)


def _line(left: str, right: str, size: int) -> Image.Image:
    """A line of text, and a fainter one at its end."""
    picture = Image.new("RGB", (WIDTH, round(1.5 * size)), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((2, 1.1 * size), left, font=_font(size), anchor="ls", fill=INK)
    draw.text((WIDTH - 2, 1.1 * size), right, font=_font(12), anchor="rs", fill="#7b8794")
    return picture


def _people(arrays: dict[str, Arrays]) -> list[int]:
    """The ids of everybody seen."""
    return sorted({int(person) for stream in arrays.values() for person in stream["person"]})


def _frames(video: bytes, stream: dict[str, Any], arrays: dict[str, Arrays], seconds: float) -> Image.Image:
    """Frames side by side, each from the middle of its share of the clip, at an instant that was looked at."""
    times = next((stream["times"] for stream in arrays.values() if len(stream["times"])), None)
    middles = (np.arange(FRAMES) + 0.5) * seconds / FRAMES
    wanted = middles if times is None else times[np.abs(times[None] - middles[:, None]).argmin(1)]
    frames = decode(video, [round((time - stream["start"]) * stream["rate"]) for time in wanted])
    width = (WIDTH - (FRAMES - 1) * GAP) // FRAMES
    shape = frames[0].shape
    height = min(round(width * shape[0] / shape[1]), TALLEST)
    size = round(height * shape[1] / shape[0]), height
    row = Image.new("RGB", (WIDTH, height), PAPER)
    for index, (time, frame) in enumerate(zip(wanted, frames, strict=True)):
        faces = _rows(arrays.get("face"), "landmarks", time)
        poses = _rows(arrays.get("pose"), "keypoints", time)
        row.paste(draw_people(frame, faces, poses, size), (index * (width + GAP) + (width - size[0]) // 2, 0))
    return row


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
    rows = np.flatnonzero(arrays["window"] == np.abs(arrays["times"] - time).argmin())
    return [(int(arrays["person"][row]), arrays[member][row]) for row in rows]


def _strip(person: int, arrays: dict[str, Arrays], seconds: float) -> Image.Image:
    """When a person is seen: a full bar where there is a face, a thin one where there is a pose only."""
    strip = Image.new("RGB", (WIDTH, STRIP), FAINT)
    draw = ImageDraw.Draw(strip)
    for stream, inset in (("pose", STRIP // 2 - 1), ("face", 0)):
        if stream not in arrays:
            continue
        times = arrays[stream]["times"]
        ends = np.append(times[1:], seconds)
        for window in arrays[stream]["window"][arrays[stream]["person"] == person]:
            left, right = (WIDTH * value / seconds for value in (times[window], ends[window]))
            draw.rectangle([left, inset, right, STRIP - 1 - inset], fill=colour(person))
    draw.text((3, STRIP - 2), str(person), font=_font(10), anchor="ls", fill=INK)
    return strip


def _sound(audio: bytes, start: float, seconds: float) -> list[Image.Image]:
    """A wave a channel: lowest and highest sample of each column of pixels."""
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)
    loudest = max(float(np.abs(samples).max(initial=0)), 0.05)  # a silent channel stays a line
    waves = []
    for channel in samples.T:
        wave = Image.new("RGB", (WIDTH, SOUND), "#f5f7fa")
        draw = ImageDraw.Draw(wave)
        edges = ((np.arange(WIDTH + 1) * seconds / WIDTH - start) * rate).astype(int).clip(0, len(channel))
        for x, (first, last) in enumerate(pairwise(edges)):
            if last > first:
                low, high = channel[first:last].min() / loudest, channel[first:last].max() / loudest
                draw.line([x, SOUND / 2 * (1 - high), x, SOUND / 2 * (1 - low)], fill="#486581")
        waves.append(wave)
    return waves
