"""Cutting what is decoded into clips: H.264 video of constant frame rate, FLAC sound, and the instants to look at.

All cutting is by time on the recording's clock. A picture is shown until the next one comes; a sound sample lies at its
own time. Nothing is made up: before the first picture or sound there is none, and `start` says when it begins.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import av
import numpy as np
import soundfile
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from data_prep.decode import TOLERANCE, Probe
from data_prep.manifest import WHOLE, Box
from data_prep.quality import PictureMeter, sound_quality
from data_prep.sound import Piece, SoundLine

if TYPE_CHECKING:
    from data_prep.blur import FaceBlur
    from data_prep.config import BuildConfig

SAMPLE_RATE = 16000
SHORTEST = 1.0
"""Seconds that the last clip of a window must last to be kept."""


class Window(NamedTuple):
    """From when to when a clip lasts, in seconds on the recording's clock."""

    start: float
    end: float


def clip_windows(windows: tuple[tuple[float, float], ...], end: float, clip_seconds: float) -> list[Window]:
    """The clips of a recording that ends at ``end``: one after another within each window to use (none = all of it)."""
    clips = []
    for first, last in windows or ((0.0, math.inf),):
        last = min(last, end)
        for k in range(math.ceil(max(0.0, last - first) / clip_seconds)):
            clip = Window(round(first + k * clip_seconds, 6), round(min(first + (k + 1) * clip_seconds, last), 6))
            if clip.end - clip.start >= SHORTEST - TOLERANCE:
                clips.append(clip)
    return clips


class Instant(NamedTuple):
    """A time at which the picture is wanted: the clip it belongs to, and seconds on the recording's clock."""

    clip: int
    time: float


def frame_instants(clips: list[Window], fps: Fraction) -> Iterator[Instant]:
    """The middles of the frames to write, one every 1/fps from each clip's start.

    What is on the screen in the middle is at most half a frame early or late; at its start it would be up to a whole one late.
    """
    for index, clip in enumerate(clips):
        for k in range(math.ceil((clip.end - clip.start - TOLERANCE) * fps - Fraction(1, 2))):
            yield Instant(index, clip.start + float((k + Fraction(1, 2)) / fps))


def grid_instants(clips: list[Window], rate: float) -> Iterator[Instant]:
    """The times to look at: every 1/rate on the recording's clock, wherever clips start."""
    for index, clip in enumerate(clips):
        for k in range(math.ceil((clip.start - TOLERANCE) * rate), math.ceil((clip.end - TOLERANCE) * rate)):
            yield Instant(index, k / rate)


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame and the file that it comes from."""

    frame: av.VideoFrame
    probed: Probe

    @cached_property
    def upright(self) -> NDArray[np.uint8]:
        """The frame as it is shown in the source's resolution: RGB [height, width, 3]."""
        return pixels(self, picture_size(self), "rgb24")


class Held:
    """Picks the frame that is on the screen at each instant: the last one whose time is not after it."""

    def __init__(self, instants: Iterator[Instant]) -> None:
        self._instants = instants
        self._next = next(instants, None)
        self._shown: Shown | None = None

    @property
    def complete(self) -> float:
        """Clips before this one have all their instants."""
        return math.inf if self._next is None else self._next.clip

    def push(self, time: float, shown: Shown) -> Iterator[tuple[Instant, Shown]]:
        """Takes a frame that appears at ``time``; gives the instants before it with the frame seen then."""
        yield from self._until(time)
        self._shown = shown

    def pause(self, end: float) -> Iterator[tuple[Instant, Shown]]:
        """The file is over, its last frame is seen until ``end``; another file may follow."""
        yield from self._until(end)
        self._shown = None

    def _until(self, time: float) -> Iterator[tuple[Instant, Shown]]:
        while self._next is not None and self._next.time < time - TOLERANCE:
            if self._shown is not None:
                yield self._next, self._shown
            self._next = next(self._instants, None)


def picture_size(shown: Shown, short_side: int | None = None, box: Box = WHOLE) -> tuple[int, int]:
    """(width, height) of a frame as it is shown (square pixels, upright), scaled to a short side with both sides even.

    box: of which part of the frame.
    """
    width, height = shown.frame.width * shown.probed.pixel_aspect, Fraction(shown.frame.height)
    if shown.probed.rotation % 180:
        width, height = height, width
    width, height = width * Fraction(box[2] - box[0]), height * Fraction(box[3] - box[1])
    if short_side is None:
        return round(width), round(height)
    scale = short_side / min(width, height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def pixels(shown: Shown, size: tuple[int, int], form: Literal["rgb24", "gray"]) -> NDArray[np.uint8]:
    """A frame as it is shown, scaled to (width, height): RGB [height, width, 3] or grey [height, width]."""
    array: Any = np.ascontiguousarray(picture(shown, size, form).to_ndarray())  # else with padded rows: OpenCV refuses
    return array


def cropped(array: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The part of a picture [height, width, ...] within a box, at least one pixel."""
    (height, width), (x0, y0, x1, y1) = array.shape[:2], box
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    return array[top : max(round(y1 * height), top + 1), left : max(round(x1 * width), left + 1)]


def picture(
    shown: Shown, size: tuple[int, int], form: Literal["yuv420p", "rgb24", "gray"], box: Box = WHOLE
) -> av.VideoFrame:
    """A frame as it is shown, or what of it is within a box, in a size and pixel format.

    YUV comes out as BT.601 in studio range, whatever came in.
    """
    frame, turns = shown.frame, shown.probed.rotation // 90
    if box != WHOLE:
        part: Any = np.ascontiguousarray(cropped(shown.upright, box))
        frame = av.VideoFrame.from_ndarray(part, "rgb24")
    elif turns:
        width, height = size[::-1] if turns % 2 else size
        array = frame.reformat(width, height, "rgb24", interpolation=Interpolation.AREA, threads=1).to_ndarray()
        upright: Any = np.ascontiguousarray(np.rot90(array, turns))
        frame = av.VideoFrame.from_ndarray(upright, "rgb24")
    if form != "yuv420p":
        return frame.reformat(*size, form, interpolation=Interpolation.AREA, threads=1)
    return as_written(frame, size)


def as_written(frame: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
    """A frame in a size as yuv420p, BT.601 in studio range."""
    space, levels = Colorspace.ITU601, ColorRange.MPEG
    return frame.reformat(
        *size, "yuv420p", interpolation=Interpolation.AREA, dst_colorspace=space, dst_color_range=levels, threads=1
    )


def luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The brightness [height, width] of a yuv420p frame."""
    plane = frame.planes[0]
    return np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


class ClipVideo:
    """H.264 in MP4 of one clip: closed GOPs of two seconds, no audio track, frame k at k / fps."""

    def __init__(self, size: tuple[int, int], fps: Fraction, crf: int) -> None:
        self.size, self.frames = size, 0
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        gop = str(max(1, round(2 * fps)))
        # with x264's macroblock tree 1 in 300 encodings of the same small pictures came out with other bytes; without, 0 of 5,000
        options = {"preset": "veryfast", "crf": str(crf), "g": gop, "x264-params": "open-gop=0:mbtree=0"}
        self._stream = self._container.add_stream("libx264", rate=fps, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the same bytes on every machine
        self._stream.codec_context.time_base = 1 / fps

    def add(self, frame: av.VideoFrame) -> None:
        """Encodes the next frame, yuv420p of the clip's size."""
        frame.pts, frame.time_base = self.frames, self._stream.codec_context.time_base
        frame.pict_type = 0  # else x264 repeats the key frames of the source
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> bytes:
        """The bytes of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._buffer.getvalue()


@dataclass
class Part:
    """What one view gives to one clip: members without the view's name, and what meta.json says of each stream and of all."""

    members: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, dict[str, float]] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)


class VideoCutter:
    """Frames in, one MP4 a clip out.

    box: what of the picture is written. blur: hides the faces in it, as soon as it knows the look after each frame.
    """

    def __init__(
        self, clips: list[Window], config: BuildConfig, box: Box = WHOLE, blur: FaceBlur | None = None
    ) -> None:
        self._clips, self._short_side, self._crf, self._box = clips, config.short_side, config.crf, box
        self._fps = Fraction(config.fps).limit_denominator(1001)
        self._measured_every = max(1, round(config.fps / config.landmark_rate))
        self._blur = blur
        self._waiting: deque[tuple[Instant, av.VideoFrame]] = deque()  # for the look after
        self._held = Held(frame_instants(clips, self._fps))
        self._size: tuple[int, int] | None = None
        self._scaled: tuple[Shown, av.VideoFrame] | None = None
        self._clip, self._start = -1, 0.0
        self._video: ClipVideo | None = None
        self._meter = PictureMeter()
        self._parts: dict[int, Part] = {}

    @property
    def complete(self) -> float:
        """Clips before this one are complete."""
        return min(self._held.complete, self._waiting[0][0].clip if self._waiting else math.inf)

    def push(self, time: float, shown: Shown) -> None:
        """Takes a frame that appears at ``time`` on the recording's clock."""
        self._scale(self._held.push(time, shown))
        self._release()

    def pause(self, end: float) -> None:
        """The file is over, its last frame is seen until ``end``; another may follow."""
        self._scale(self._held.pause(end))
        self._release(all_of_it=True)

    def part(self, clip: int) -> Part:
        """Takes out a complete clip; without a picture in it, it is empty."""
        if self._clip == clip:
            self._close()
        return self._parts.pop(clip, Part())

    def _scale(self, frames: Iterator[tuple[Instant, Shown]]) -> None:
        for instant, shown in frames:
            self._size = self._size or picture_size(shown, self._short_side, self._box)
            if self._scaled is None or self._scaled[0] is not shown:  # a frame that is held is scaled once
                self._scaled = shown, picture(shown, self._size, "yuv420p", self._box)
            self._waiting.append((instant, self._scaled[1]))

    def _release(self, all_of_it: bool = False) -> None:
        while self._waiting and (all_of_it or self._blur is None or self._blur.ready(self._waiting[0][0].time)):
            instant, frame = self._waiting.popleft()
            since = instant.time - self._clips[instant.clip].start - float(1 / (2 * self._fps))
            if instant.clip != self._clip or self._video is None:
                self._close()
                self._clip, self._start = instant.clip, since
                self._video, self._meter = ClipVideo((frame.width, frame.height), self._fps, self._crf), PictureMeter()
            if self._video.frames % self._measured_every == 0:
                self._meter.add(instant.time, luma(frame))
            if self._blur is not None:
                frame = self._blur.hide(instant.time, frame, self._box)
            while self._video.frames <= round((since - self._start) * self._fps):
                self._video.add(frame)  # more than once only after a hole between two files of a view

    def _close(self) -> None:
        if self._video is not None:
            (width, height), start = self._video.size, round(self._start, 6)
            about = {"start": start, "rate": float(self._fps), "width": width, "height": height}
            if self._blur is not None:
                about["blurred"] = True
            self._parts[self._clip] = Part({"video.mp4": self._video.close()}, {"video": about}, self._meter.result())
            self._video = None


class AudioCutter:
    """Sound in, one FLAC a clip out: 16 kHz, 16 bit, each sample at its time; silence only where sound is missing inside."""

    complete: float = 0
    """Clips before this one are complete."""

    def __init__(self, clips: list[Window], people: int) -> None:
        self._clips = clips
        self._line = SoundLine(SAMPLE_RATE, people)
        self._pieces: list[Piece] = []

    def push(self, time: float, frame: av.AudioFrame, drift: float) -> None:
        """Takes sound that begins at ``time`` on the recording's clock, to which its own clock drifts."""
        self._take(self._line.push(time, frame, drift))

    def pause(self) -> None:
        """The file is over, another may follow."""
        self._take(self._line.pause())

    def _take(self, pieces: Iterator[Piece]) -> None:
        self._pieces += pieces
        until = self._line.begin + self._line.end / SAMPLE_RATE
        while self.complete < len(self._clips) and self._clips[int(self.complete)].end <= until:
            self.complete += 1

    def part(self, clip: int) -> Part:
        """Takes out a complete clip; without sound in it, it is empty. Clips are asked for in their order."""
        first, last = (math.ceil((t - self._line.begin) * SAMPLE_RATE - 1e-6) for t in self._clips[clip])
        inside = [
            (max(at, first), samples[:, max(0, first - at) : last - at])
            for at, samples in self._pieces
            if at < last and at + samples.shape[1] > first
        ]
        self._pieces = [piece for piece in self._pieces if piece[0] + piece[1].shape[1] > last]
        if not inside:
            return Part()
        start, end = inside[0][0], inside[-1][0] + inside[-1][1].shape[1]
        sound = np.zeros((inside[0][1].shape[0], end - start), np.float32)
        for at, samples in inside:
            sound[:, at - start : at - start + samples.shape[1]] = samples
        integers = np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)
        buffer = io.BytesIO()
        soundfile.write(buffer, integers.T, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        begins = self._line.begin + start / SAMPLE_RATE - self._clips[clip].start
        about = {"start": round(max(0.0, begins), 6), "rate": SAMPLE_RATE, "channels": len(sound)}
        quality = sound_quality(integers, SAMPLE_RATE)
        return Part({"audio.flac": buffer.getvalue()}, {"audio": about}, quality)
