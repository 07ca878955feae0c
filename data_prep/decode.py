"""Reading a media file by its presentation time stamps, in one pass.

- A file's clock starts with its first picture or sound, as a player shows it: MPEG files that start at 1.4 s start at 0,
  a sound that starts 0.5 s after the picture starts at 0.5. Nothing is taken from headers.
- One picture and one sound stream a file are read: those that FFmpeg holds for the best. Cover art is no picture.
- A damaged packet is left out and counted; what follows is read as far as it can be.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.container
from av.stream import Disposition

TOLERANCE = 1e-3
"""Seconds: Matroska and others round time stamps to milliseconds, so a frame counts from a millisecond before its time."""

LEAP = 600.0
"""Seconds without any picture or sound after which a time stamp is taken for damaged, not for a pause."""
BLOCK = 1 << 24
"""Bytes that are read between two signs of life."""


class UnreadableError(Exception):
    """A file that gives nothing: (reason, remedy)."""


@dataclass(frozen=True)
class Probe:
    """What a file holds. ``zero``: the time stamp at which its clock starts; times in seconds from there."""

    sha256: str
    zero: Fraction
    duration: float
    video: bool
    audio: bool
    aspect: float | None
    """width of the picture by its height, as it is shown; None where there is none"""
    pixel_aspect: Fraction = Fraction(1)
    """width of a pixel by its height"""
    rotation: int = 0
    """degrees, a multiple of 90, by which the picture has to be turned counter-clockwise to stand upright"""
    missing: float = 0.0
    """seconds that the header announces and the file does not hold: a copy that was cut short"""
    strays: int = 0
    """packets left out because their time stamps leap ahead of all that came before"""
    stray: float = 0.0
    """seconds before the first of them"""


@dataclass
class Damage:
    """What was wrong with a file on the way through it."""

    packets: int = 0
    """that could not be decoded"""
    pictures: int = 0
    """that were decoded in part; the decoder made up the rest"""
    stamps: int = 0
    """pictures and pieces of sound whose time was not after that of the one before, left out"""
    first: float = 0.0
    """seconds of the first of all these"""
    reason: str = ""
    """what FFmpeg said of the first packet"""

    def at(self, time: float) -> None:
        """Notes when something was wrong, before it is counted."""
        if not (self.packets or self.pictures or self.stamps):
            self.first = time

    def add(self, time: float, error: Exception) -> None:
        """Counts a packet at ``time`` seconds."""
        self.at(time)
        self.packets += 1
        self.reason = self.reason or _short(error)


class Event(NamedTuple):
    """A decoded frame: from when to when it is seen or heard, in seconds on the file's clock."""

    frame: av.VideoFrame | av.AudioFrame
    time: float
    end: float


def _short(error: Exception) -> str:
    """FFmpeg's message without the number and the file."""
    return str(getattr(error, "strerror", None) or error).split(": '")[0]


def _streams(container: av.container.InputContainer) -> list[av.VideoStream | av.AudioStream]:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video = container.streams.best("video")
    if video is not None and video not in pictures:
        video = pictures[0] if pictures else None
    return [stream for stream in (video, container.streams.best("audio")) if stream is not None]  # pyrefly: ignore


def check(path: Path) -> None:
    """Raises UnreadableError where there is no file to read: known without opening it."""
    remedy = "correct the path (it is relative to the manifest), or take the row out"
    try:
        about = path.stat()
    except PermissionError:
        raise UnreadableError("its folder may not be read", "give yourself the right to read it") from None
    except FileNotFoundError:
        why = "a broken link" if path.is_symlink() else "no such file"
        raise UnreadableError(why, remedy) from None
    except (OSError, ValueError) as error:  # a link to itself, a name too long or with a zero byte
        raise UnreadableError(f"no such file ({getattr(error, 'strerror', error)})", remedy) from None
    if stat.S_ISDIR(about.st_mode):
        raise UnreadableError("a folder, not a file", "name the files in it")
    if not stat.S_ISREG(about.st_mode):
        raise UnreadableError("a pipe or a device, not a file", "write what comes from it into a file")
    if not about.st_size:
        raise UnreadableError("the file is empty", "copy it again")


def _open(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path.absolute()))  # "a:b.mp4" would be a protocol
    except PermissionError:
        raise UnreadableError("may not be read", "give yourself the right to read it") from None
    except (av.FFmpegError, OSError) as error:
        reason = f"not a media file that FFmpeg reads ({_short(error)})"
        raise UnreadableError(reason, "copy it again, or convert it with ffmpeg") from None


def probe(path: Path, alive: Callable[[], object] = lambda: None) -> Probe:
    """Streams, clock and duration of a file from the time stamps of all its packets, and its sha256.

    ``alive`` is called as reading goes on. Raises UnreadableError where no picture and no sound can be decoded.
    """
    first = _first_frames(path)
    if not first:
        raise UnreadableError(
            "neither picture nor sound in it can be decoded", "copy it again, or convert it with ffmpeg"
        )
    zero = min(frame.pts * frame.time_base for frame in first.values())
    clock = _Clock(zero)
    with _open(path) as container:
        streams = [stream for stream in _streams(container) if stream.type in first]
        announced = _announced(container, streams)
        pixel_aspect = next(
            (s.sample_aspect_ratio for s in streams if isinstance(s, av.VideoStream)), None
        ) or Fraction(1)
        place = 0
        try:
            for packet in container.demux(streams):
                if packet.pts is not None and packet.time_base is not None and not packet.is_discard:
                    clock.hear(packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base)
                if (packet.pos or 0) > place + BLOCK:
                    place = packet.pos or 0
                    alive()
        except av.FFmpegError:
            pass  # the part before the fault counts; reading it will report the fault
    duration = float(clock.end - zero)
    missing = announced - duration
    picture, rotation, shown = first.get("video"), 0, None
    if isinstance(picture, av.VideoFrame):
        rotation = round(picture.rotation / 90) * 90 % 360
        shown = float(picture.width * pixel_aspect / picture.height)
        shown = 1 / shown if rotation % 180 else shown
    return Probe(
        sha256=_sha256(path, alive),
        zero=zero,
        duration=duration,
        video="video" in first,
        audio="audio" in first,
        aspect=shown,
        pixel_aspect=pixel_aspect,
        rotation=rotation,
        missing=missing if missing > 1 else 0.0,
        strays=clock.strays,
        stray=float(clock.stray - zero),
    )


class _Clock:
    """When a file is over, by its packets; one whose time stamp leaps ahead of all before it is counted, not believed."""

    def __init__(self, zero: Fraction) -> None:
        self.end = self.stray = zero
        self.strays = 0

    def hear(self, time: Fraction, duration: Fraction) -> None:
        """Takes note of a packet."""
        if time - self.end > LEAP:
            self.stray = self.stray if self.strays else self.end
            self.strays += 1
        else:
            self.end = max(self.end, time + (duration if duration < LEAP else 0))


def _sha256(path: Path, alive: Callable[[], object]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                alive()
    except OSError as error:
        raise UnreadableError(f"cannot be read to its end ({error.strerror})", "copy it again") from None
    return digest.hexdigest()


def _announced(container: av.container.InputContainer, streams: list[av.VideoStream | av.AudioStream]) -> float:
    """The duration that the header names, 0 where it names none: most formats' is a guess."""
    if "mp4" in container.format.name:
        return max((float(s.duration * s.time_base) for s in streams if s.duration and s.time_base), default=0.0)
    if "matroska" in container.format.name and len(container.streams) == len(streams):
        return (container.duration or 0) / 1e6
    return 0.0


def _first_frames(path: Path) -> dict[str, Any]:
    """The first picture and the first sound that can be decoded and that carry a time stamp."""
    with _open(path) as container:
        streams = _streams(container)
        first: dict[str, Any] = {}
        try:
            for packet in container.demux(streams):
                if packet.stream.type in first:
                    continue
                try:
                    frames = [frame for frame in packet.decode() if getattr(frame, "pts", None) is not None]
                except av.FFmpegError:
                    continue
                if frames:
                    first[packet.stream.type] = frames[0]
                if len(first) == len(streams):
                    break
        except av.FFmpegError:
            pass
        return first


def read(path: Path, probed: Probe, damage: Damage, video: bool = True, audio: bool = True) -> Iterator[Event]:
    """Every picture and every piece of sound of a file, each kind in growing time, in one pass.

    Damaged packets are added to ``damage``. Frames whose time stamp does not grow are left out.
    """
    kinds = {kind for kind, on in (("video", video and probed.video), ("audio", audio and probed.audio)) if on}
    latest = {kind: _Latest() for kind in kinds}
    with _open(path) as container:
        streams = [stream for stream in _streams(container) if stream.type in latest]
        for stream in streams:
            stream.codec_context.thread_count = 1  # one file a process; also the same pictures on every machine
        if not streams:
            return
        packets = container.demux(streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                damage.add(max(one.end for one in latest.values()), error)
                return
            yield from _decode(packet, probed, damage, latest)


@dataclass
class _Latest:
    """Start and end of a stream's last frame, in seconds, and how far its time stamps are to be trusted."""

    time: float = -1.0
    end: float = 0.0
    pts: int = -(2**63)
    dts: int = -(2**63)
    faulty_pts: int = 0
    faulty_dts: int = 0

    def stamp(self, frame: av.AudioFrame | av.VideoFrame) -> int | None:
        """The time stamp of a frame: of the two that it has the one that has failed to grow less often.

        AVI knows no presentation times, and with B-frames those that FFmpeg makes up go back and forth: half of the frames
        would be lost. As ``guess_correct_pts`` of FFmpeg's libavcodec/decode.c, but for the last frames, which have no dts.
        """
        if frame.dts is not None:
            self.faulty_dts += frame.dts <= self.dts
            self.dts = frame.dts
        if frame.pts is not None:
            self.faulty_pts += frame.pts <= self.pts
            self.pts = frame.pts
        return frame.pts if self.faulty_pts <= self.faulty_dts else frame.dts


def _decode(packet: av.Packet, probed: Probe, damage: Damage, latest: dict[str, _Latest]) -> Iterator[Event]:
    stream, zero = packet.stream, float(probed.zero)
    last = latest[stream.type]
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        damage.add(last.end if packet.pts is None else max(0.0, float(packet.pts * packet.time_base) - zero), error)
        return
    for frame in frames:
        # a decoder's last frames may come without a time stamp: they follow what was before
        stamp = last.stamp(frame)
        base = frame.time_base
        time = last.end if stamp is None or base is None else float(stamp * base) - zero
        if time <= last.time or time > probed.duration + 1:
            if (
                0 <= time <= last.time
            ):  # else before an edit list's start, or a leap behind the end: the probe counted it
                damage.at(time)
                damage.stamps += 1
            continue
        if isinstance(frame, av.VideoFrame) and frame.is_corrupt:
            damage.at(time)
            damage.pictures += 1
        if isinstance(frame, av.AudioFrame):
            seconds = frame.samples / frame.sample_rate
        else:
            rate = stream.average_rate
            seconds = float((frame.duration or 0) * stream.time_base) or (float(1 / rate) if rate else 0.0)
        last.time, last.end = time, time + seconds
        yield Event(frame, last.time, last.end)
