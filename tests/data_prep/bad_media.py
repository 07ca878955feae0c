"""The files that recorders, disks, copies and people make of recordings: one writer a kind, for test_bad_input.py.

Pictures of a good part have the grey level that media.level tells of their time, so that a test sees where they went.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

from tests.data_prep.media import level, write_media

Size = tuple[int, int]


@dataclass(frozen=True)
class Sound:
    """Sound to write: a tone of 440 Hz at ``peak`` of full scale."""

    rate: int = 16000
    layout: str = "mono"
    codec: str = "pcm_s16le"
    peak: float = 0.5
    seconds: float = 4.0


def frames(times: Iterable[float], size: Size, pixels: str) -> Iterable[av.VideoFrame]:
    """A picture of grey level(t) for each time, its time stamp in ms."""
    for time in times:
        array = np.full((size[1], size[0], 3), round(level(time)), np.uint8)
        frame = av.VideoFrame.from_ndarray(array, "rgb24").reformat(format=pixels, dst_colorspace=Colorspace.ITU601)
        if pixels == "gray":  # studio range, as all that is not marked otherwise
            frame = av.VideoFrame.from_ndarray((16 + array[:, :, 0] * (219 / 255)).round().astype(np.uint8), "gray")
        frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
        yield frame


def tone(sound: Sound) -> Iterable[av.AudioFrame]:
    """The sound in pieces of 1024 samples."""
    clock = np.arange(round(sound.seconds * sound.rate)) / sound.rate
    wave = np.clip(sound.peak * np.sin(2 * np.pi * 440 * clock), -1, 1)
    channels = av.AudioLayout(sound.layout).nb_channels
    for first in range(0, len(wave), 1024):
        part = (np.repeat(wave[first : first + 1024, None], channels, axis=1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="s16", layout=sound.layout)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, first, Fraction(1, sound.rate)
        yield frame


def film(
    path: Path,
    times: Iterable[float] | None = None,
    size: Size = (64, 48),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sounds: tuple[Sound, ...] = (),
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    file_options: dict[str, str] | None = None,
) -> Path:
    """A file with a picture at each of ``times`` (else ten a second for 4 s; none = no picture stream) and sounds."""
    times = [k / 10 for k in range(40)] if times is None else list(times)
    with av.open(str(path), "w", options=file_options or {}) as container:
        video = None
        if times:
            video = container.add_stream(codec, rate=10, options=options or {})
            video.width, video.height, video.pix_fmt = *size, pixels
            video.codec_context.time_base = Fraction(1, 1000)
            if aspect:
                video.sample_aspect_ratio = aspect
        heard = [container.add_stream(sound.codec, rate=sound.rate, layout=sound.layout) for sound in sounds]
        for sound, stream in zip(sounds, heard, strict=True):
            container.mux([packet for frame in tone(sound) for packet in stream.encode(frame)])
            container.mux(stream.encode(None))
        if video is not None:
            container.mux([packet for frame in frames(times, size, pixels) for packet in video.encode(frame)])
            container.mux(video.encode(None))
    return path


def cut(path: Path, share: float, **film_settings: Any) -> Path:
    """A copy that stopped on the way."""
    content = film(path, **film_settings).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def repacked(path: Path, keep: Callable[[int], bool], shift: Callable[[int], float] = lambda number: 0.0) -> Path:
    """A film with sound whose picture packets are kept or left out by number, or stamped later by some seconds."""
    source = film(path.with_name(f".{path.name}"), sounds=(Sound(),), options={"g": "20", "bf": "0"})
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        number = 0
        for packet in old.demux():
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            is_picture = packet.stream.type == "video"
            packet.stream = streams[packet.stream.index]
            if is_picture:
                late = round(shift(number) / packet.time_base)
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
                number += 1
            if not is_picture or keep(number - 1):
                new.mux(packet)
    source.unlink()
    return path


def two_sizes(path: Path) -> Path:
    """A broadcast whose pictures change their size after 2 s, as when a sender changes over."""
    parts = []
    for times, size in (([k / 10 for k in range(20)], (64, 48)), ([2 + k / 10 for k in range(20)], (96, 72))):
        parts.append(film(path, times, size, options={"bf": "0"}, file_options={"mpegts_copyts": "1"}).read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def wrong_duration(path: Path, seconds: int) -> Path:
    """An MP4 whose headers name another duration than its time stamps do."""
    content = bytearray(film(path, sounds=(Sound(codec="aac"),)).read_bytes())
    for box, place in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = content.find(box)
        while at >= 0:
            scale = 1000 if box != b"mdhd" else struct.unpack_from(">I", content, at + 16)[0]
            struct.pack_into(">I", content, at + place, seconds * scale)
            at = content.find(box, at + 4)
    path.write_bytes(content)
    return path


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of 16-bit RGBA out of its compressed rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def black(width: int, height: int) -> bytes:
    """A black PNG of 8 bytes a pixel; the largest that FFmpeg opens takes 2 GB and packs into 9 MB."""
    row = bytes(1 + 8 * width)
    packer = zlib.compressobj(1, wbits=-15)
    packed_row = packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH)  # repeats as it is
    adler = (len(row) * height % 65521) << 16 | 1  # of nothing but zeros
    return png(width, height, b"\x78\x01" + packed_row * height + b"\x03\x00" + struct.pack(">I", adler))


def bomb(path: Path, side: int = 16000) -> Path:
    """A film of small pictures in which two are side x side pixels large."""
    small, large = black(64, 48), black(side, side)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba64be"
        for k in range(40):
            packet = av.Packet(large if k in (20, 21) else small)
            packet.stream, packet.pts, packet.dts, packet.duration = stream, k, k, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            container.mux(packet)
    return path


def hanging(path: Path) -> Path:
    """A list of files, as FFmpeg reads them, one of which is a pipe that nobody writes to: reading it waits for ever."""
    pipe = path.with_name("pipe.mkv")
    os.mkfifo(pipe)
    path.write_text(f"ffconcat version 1.0\nfile {pipe.name}\n")
    return path


def noise(path: Path) -> Path:
    """Bytes that mean nothing."""
    path.write_bytes(random.Random(0).randbytes(20_000))
    return path


def flipped(path: Path) -> Path:
    """A film in which a bit of every 37th byte is wrong, but for its first quarter."""
    content = bytearray(film(path).read_bytes())
    for at in range(len(content) // 4, len(content) - 200, 37):
        content[at] ^= 16
    path.write_bytes(content)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def good(path: Path) -> Path:
    """4 s of picture and sound: what every bad file stands beside."""
    return write_media(path, 4.0)
