"""A clip in memory: what a sample of a shard holds, decoded. Needs numpy and PyAV only.

PyAV reads picture and sound: docs/decisions.md has the figures ("Reading frames out of shards").
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_prep.shards import SCHEMA, decode_npz

PERSON_STREAMS = ("face", "pose", "hands")


@dataclass
class View:
    """One camera or microphone of a clip. Times are seconds from the clip's start; what is absent is None.

    frames: uint8 [time, height, width, 3], frame k at frame_start + k / frame_rate. audio: float32 [channel, sample] in
    [-1, 1], sample k at audio_start + k / audio_rate. face, pose, hands: the members of face.npz, pose.npz, hands.npz by name.
    aspect: width / height of the picture that face, pose and hands were found in; they are fractions of it.
    """

    frames: np.ndarray | None = None
    frame_start: float = 0.0
    frame_rate: float = 0.0
    audio: np.ndarray | None = None
    audio_start: float = 0.0
    audio_rate: int = 0
    face: dict[str, np.ndarray] | None = None
    pose: dict[str, np.ndarray] | None = None
    hands: dict[str, np.ndarray] | None = None
    aspect: float | None = None

    @property
    def picture_aspect(self) -> float:
        """Width / height of the picture: ``aspect``, else that of the frames, else 1."""
        if self.aspect is None and self.frames is not None:
            return self.frames.shape[2] / self.frames.shape[1]
        return self.aspect or 1.0

    def detections(self) -> dict[str, dict[str, np.ndarray]]:
        """The streams of PERSON_STREAMS that there are, with a row a detection each."""
        found = {name: getattr(self, name) for name in PERSON_STREAMS}
        return {name: rows for name, rows in found.items() if rows is not None}


@dataclass
class Clip:
    """A window of a recording, from ``start`` to ``end`` (seconds on the recording's clock), with all its views.

    people: as in meta.json ({"id": int, "participant": str | None}). streams: what belongs to no view, by name.
    """

    key: str
    recording: str
    start: float
    end: float
    people: list[dict[str, Any]]
    views: dict[str, View]
    streams: dict[str, dict[str, np.ndarray]]
    meta: dict[str, Any]


def read_clip(sample: Mapping[str, bytes], modalities: Collection[str]) -> Clip:
    """Decodes a sample {member: bytes}; only ``modalities`` ("video", "audio", PERSON_STREAMS, names of other streams).

    Raises ValueError (which sample, what is wrong) for a damaged member or a newer schema.
    """
    key = sample.get("__key__", "?")
    try:
        meta = json.loads(sample["meta.json"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{key}: no meta.json that can be read ({error})") from None
    key = meta["key"]
    if meta["schema"] > SCHEMA:
        raise ValueError(f"{key}: schema {meta['schema']} of meta.json is newer than {SCHEMA}: update kinesic")
    views = {name: View(aspect=_aspect(about)) for name, about in meta["views"].items()}
    streams: dict[str, dict[str, np.ndarray]] = {}
    for member, data in sample.items():
        view, _, rest = member.partition(".")
        name = (rest or view).partition(".")[0]
        try:
            if view in views and name in modalities:
                _read_member(views[view], name, data, meta["views"][view]["streams"].get(name, {}))
            elif rest == "npz" and view in modalities:
                streams[view] = decode_npz(data)
        except (av.FFmpegError, KeyError, OSError, ValueError) as error:
            raise ValueError(f"{key}: cannot read {member}: {error}") from error
    return Clip(key, meta["recording"], meta["start"], meta["end"], meta["people"], views, streams, meta)


def _aspect(about: Mapping[str, Any]) -> float | None:
    """Width / height of a view's picture, from what meta.json says of it (older shards: of its video alone)."""
    video = about["streams"].get("video", {})
    return about.get("aspect") or (video["width"] / video["height"] if {"width", "height"} <= set(video) else None)


def _read_member(view: View, name: str, data: bytes, about: Mapping[str, Any]) -> None:
    """Decodes one member into its view; ``about`` is its entry under "streams" in meta.json."""
    if name == "video":
        view.frames, view.frame_start, view.frame_rate = read_frames(data), about["start"], about["rate"]
    elif name == "audio":
        view.audio, view.audio_rate = read_audio(data)
        view.audio_start = about["start"]
    elif name in PERSON_STREAMS:
        setattr(view, name, decode_npz(data))


def read_frames(data: bytes) -> np.ndarray:
    """All frames of a video file in memory: uint8 [time, height, width, 3]."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # clips are short and several processes read at once
        convert = VideoReformatter()  # frame.to_ndarray("rgb24") makes a new one for each frame: 2 to 5 times slower
        frames = (convert.reformat(frame, format="rgb24", threads=1) for frame in container.decode(stream))
        return np.stack([_pixels(frame) for frame in frames])


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """The picture of an RGB frame, uint8 [height, width, 3], without copying (rows are padded in memory)."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


def read_audio(data: bytes) -> tuple[np.ndarray, int]:
    """All sound of a file in memory: float32 [channel, sample] in [-1, 1], and its rate."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        return np.concatenate(list(_samples(container, stream)), axis=1), stream.rate


def _samples(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler(format="fltp")  # changes the number format only
    for frame in container.decode(stream):
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()
