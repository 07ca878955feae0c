"""Do picture and sound of awkward files stay together? ``python -m benchmarks.alignment --minutes 120``

Writes a file of each kind in which the picture flashes and a tone begins at the same moment (near the start, in the middle,
near the end), builds shards from it with the default frame rate, and prints how far flash and tone lie apart in the clips,
and how far they lie from the moment on the file's clock. No ffmpeg program is needed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from data_prep.build import build
from data_prep.config import BuildConfig
from data_prep.shards import read_index, read_sample

TICK = Fraction(1, 90000)
NTSC = Fraction(30000, 1001)
SHOWN = 0.2
"""Seconds that a flash is seen; the tone lasts 50 ms."""


@dataclass(frozen=True)
class Kind:
    """How a file is awkward; times in seconds."""

    suffix: str
    fps: Fraction | None = Fraction(25)
    """None: the frame rate varies"""
    sound: str = "flac"
    rate: int = 8000
    shift: float = 0.0
    """added to all time stamps; what comes before 0 is cut off by MP4's edit list"""
    picture_start: float = 0.0
    sound_start: float = 0.0
    stamps: float = 0.0
    """share by which the sound's time stamps grow faster than its samples are many"""
    lost: bool = False
    """a second of the sound is missing after the first flash"""
    cut: tuple[float, float] | None = None
    """what a second entry of MP4's edit list leaves out"""
    options: dict[str, str] = field(default_factory=dict)


KINDS = {
    "B-frames and AAC in MP4": Kind(".mp4", sound="aac", rate=48000, options={"bf": "2"}),
    "29.97 frames a second": Kind(".mp4", fps=NTSC),
    "29.97 frames a second, sound 0.476 s late": Kind(".mkv", fps=NTSC, sound_start=0.476),
    "sound 0.476 s late, empty edit": Kind(".mp4", sound="aac", rate=48000, sound_start=0.476),
    "picture 0.7 s late, empty edit": Kind(".mp4", picture_start=0.72),
    "first 1.31 s cut off by an edit list": Kind(".mp4", sound="aac", rate=48000, shift=-1.31, options={"g": "250"}),
    "a second in it cut out by an edit list": Kind(".mp4", sound="aac", rate=48000, cut=(3.0, 4.0)),
    "variable frame rate": Kind(".mkv", fps=None),
    "variable frame rate in MP4": Kind(".mp4", fps=None, sound="aac", rate=44100, options={"bf": "2"}),
    "MPEG transport stream from hour 5 on": Kind(".ts", sound="mp2", rate=44100, shift=18000.0),
    "transport stream over the 26.5 h wrap": Kind(".ts", sound="aac", rate=48000, shift=95443.7 - 3),
    "negative time stamps": Kind(".ts", sound="mp2", rate=44100, shift=-0.51),
    "time stamps run 50 ppm from the samples": Kind(".mkv", stamps=50e-6),
    "a second of sound lost": Kind(".mkv", sound="aac", rate=16000, lost=True),
    "Opus in Matroska": Kind(".mkv", sound="libopus", rate=48000, sound_start=0.1),
}


def flash_times(seconds: float) -> list[float]:
    """Where flashes are wanted: near the start, in the middle, near the end."""
    return [1.9, seconds / 2, seconds - 1.1]


def frame_ticks(kind: Kind, seconds: float) -> list[int]:
    """When the pictures appear, in 1/90000 s."""
    if kind.fps is not None:
        first = int(Fraction(kind.picture_start) * kind.fps)
        return [round(k / kind.fps / TICK) for k in range(first, int(Fraction(seconds) * kind.fps))]
    random_gaps, ticks = random.Random(0), [round(kind.picture_start / TICK)]
    while ticks[-1] * TICK < seconds:
        ticks.append(ticks[-1] + round(random_gaps.choice((0.011, 0.04, 0.1, 0.35)) / TICK))
    return ticks


def write_flashes(path: Path, kind: Kind, seconds: float) -> list[float]:
    """Writes a file; returns when it flashes and sounds, in seconds on the clock that starts with its first content."""
    ticks = frame_ticks(kind, seconds)
    flashes = [next(tick for tick in ticks if tick * TICK >= wanted) for wanted in flash_times(seconds)]
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        pictures = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", **kind.options})
        pictures.width = pictures.height = 32
        pictures.pix_fmt, pictures.codec_context.time_base = "yuv420p", TICK
        pictures.codec_context.thread_count = 1
        sound = container.add_stream(kind.sound, rate=kind.rate, layout="mono")
        assert isinstance(sound, av.AudioStream)
        packets = _interleaved(_pictures(pictures, ticks, flashes, kind), _sound(sound, flashes, kind, seconds))
        for packet in packets:
            container.mux(packet)
    begin = -kind.shift if path.suffix == ".mp4" and kind.shift else min(ticks[0] * TICK, Fraction(kind.sound_start))
    times = [float(flash * TICK - begin) for flash in flashes]
    if kind.cut is None:
        return times
    _cut_out(path, *kind.cut)
    return [time if time < kind.cut[0] else time - (kind.cut[1] - kind.cut[0]) for time in times]


def _cut_out(path: Path, first: float, last: float) -> None:
    """Gives both streams of an MP4 file an edit list that leaves out the time from ``first`` to ``last``."""
    data = path.read_bytes()
    moov = data.rindex(b"moov") - 4
    path.write_bytes(data[:moov] + _edited(data[moov:], first, last, {}))


def _edited(boxes: bytes, first: float, last: float, clocks: dict[bytes, int]) -> bytes:
    out, at = b"", 0
    while at < len(boxes):
        size, name = struct.unpack_from(">I4s", boxes, at)
        body = boxes[at + 8 : at + size]
        for header in (b"mvhd", b"mdhd"):  # ticks a second of the whole, and of the stream
            if name in (b"moov", b"trak") and header in body:
                clocks[header] = struct.unpack_from(">I", body, body.index(header) + 16)[0]
        if name in (b"moov", b"trak", b"edts"):
            body = _edited(body, first, last, clocks)
        if name == b"elst":
            length, begin, _ = struct.unpack_from(">Iii", body, 8)
            whole, own = clocks[b"mvhd"], clocks[b"mdhd"]
            entries = (round(first * whole), begin), (length - round(last * whole), begin + round(last * own))
            body = struct.pack(">II", 0, 2) + b"".join(struct.pack(">Iii", *entry, 65536) for entry in entries)
        out, at = out + struct.pack(">I4s", 8 + len(body), name) + body, at + size
    return out


def _interleaved(*streams: Iterator[av.Packet]) -> Iterator[av.Packet]:
    heads = {stream: next(stream, None) for stream in streams}
    while left := {stream: head for stream, head in heads.items() if head is not None}:
        stream = min(left, key=lambda stream: (left[stream].dts or 0) * left[stream].time_base)
        yield left[stream]
        heads[stream] = next(stream, None)


def _pictures(stream: av.VideoStream, ticks: list[int], flashes: list[int], kind: Kind) -> Iterator[av.Packet]:
    dark, light = (
        av.VideoFrame.from_ndarray(np.full((32, 32), level, np.uint8), "gray").reformat(format="yuv420p")
        for level in (0, 255)
    )
    for tick in ticks:
        lit = any(flash <= tick < flash + SHOWN / TICK for flash in flashes)
        frame = light if lit else dark
        frame.pts, frame.time_base, frame.pict_type = tick + round(kind.shift / TICK), TICK, 0
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sound(stream: av.AudioStream, flashes: list[int], kind: Kind, seconds: float) -> Iterator[av.Packet]:
    rate, lost = kind.rate, (float(flashes[0] * TICK) + 1.0, float(flashes[0] * TICK) + 2.0)
    tone = (16000 * np.sin(2 * np.pi * 1000 * np.arange(rate // 20) / rate)).astype(np.int16)
    begins = [round(float(flash * TICK) * rate / (1 + kind.stamps)) for flash in flashes]
    for first in range(round(kind.sound_start * rate), round(seconds * rate / (1 + kind.stamps)), 4096):
        samples = np.zeros((1, 4096), np.int16)
        for begin in begins:
            at = np.arange(max(begin, first), min(begin + len(tone), first + 4096))
            samples[0, at - first] = tone[at - begin]
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = first + round(kind.shift * rate)
        yield from _stamped(stream.encode(frame), kind, lost)
    yield from _stamped(stream.encode(None), kind, lost)


def _stamped(packets: list[av.Packet], kind: Kind, lost: tuple[float, float]) -> Iterator[av.Packet]:
    for packet in packets:
        if packet.pts is None or packet.dts is None:
            continue
        if kind.lost and lost[0] <= packet.pts * packet.time_base < lost[1]:
            continue
        packet.pts, packet.dts = round(packet.pts * (1 + kind.stamps)), round(packet.dts * (1 + kind.stamps))
        yield packet


@dataclass(frozen=True)
class Seen:
    """When a flash and its tone begin in the written clips, in seconds on the recording's clock."""

    flash: float
    tone: float


def build_flashes(folder: Path, seconds: float, kinds: dict[str, Kind]) -> dict[str, list[tuple[float, Seen]]]:
    """Of each kind, for each flash of a file of it: when it should be seen, and what is found in the shards."""
    wanted = {
        name: write_flashes(folder / f"{n}{kind.suffix}", kind, seconds) for n, (name, kind) in enumerate(kinds.items())
    }
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "recording", "start", "end"))
        for n, (name, kind) in enumerate(kinds.items()):
            windows = [(max(0.0, flash - 5.0), flash + 5.0) for flash in wanted[name]] if seconds > 30 else [("", "")]
            writer.writerows((f"{n}{kind.suffix}", name, *window) for window in windows)
    config = BuildConfig(folder / "manifest.csv", folder / "out", landmarks="none", short_side=32, crf=10)
    if build(config):
        raise RuntimeError((config.out / "failures.csv").read_text())
    return {name: [(flash, _seen(config.out, name, flash)) for flash in wanted[name]] for name in kinds}


def _seen(out: Path, recording: str, around: float) -> Seen:
    index = read_index(out)
    rows = index[(index.recording == recording) & (index.start <= around) & (index.end > around)]
    sample = read_sample(out, rows.iloc[0])
    about = json.loads(sample["meta.json"])
    streams = about["views"]["main"]["streams"]
    with av.open(io.BytesIO(sample["main.video.mp4"]), "r") as container:
        light = np.array([frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)])
    samples, rate = soundfile.read(io.BytesIO(sample["main.audio.flac"]))
    near = [
        _nearest(np.flatnonzero((light[1:] > 128) & (light[:-1] <= 128)) + 1, streams["video"], around - about["start"])
    ]
    loud = np.abs(samples) > 0.1
    quiet = np.convolve(loud, np.ones(rate // 10), "full")[: len(loud)] - loud == 0
    near.append(_nearest(np.flatnonzero(loud & quiet), streams["audio"], around - about["start"]))
    return Seen(*(about["start"] + time for time in near))


def _nearest(indices: np.ndarray, stream: dict[str, float], time: float) -> float:
    times = stream["start"] + indices / stream["rate"]
    return float(times[np.abs(times - time).argmin()]) if len(times) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.2, help="how long each file is")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="which kinds")
    arguments = parser.parse_args()
    print(f"Files of {arguments.minutes:g} minutes; ms at start, middle and end.\n")
    print("| kind | sound after picture | picture late | sound late | seconds to build |\n|---|---|---|---|---|")
    for name in arguments.kind:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            (found,) = build_flashes(Path(folder), 60 * arguments.minutes, {name: KINDS[name]}).values()
            took = time.perf_counter() - start
        columns = (
            [seen.tone - seen.flash for _, seen in found],
            [seen.flash - wanted for wanted, seen in found],
            [seen.tone - wanted for wanted, seen in found],
        )
        cells = (", ".join(f"{1000 * error:+.1f}" for error in column) for column in columns)
        print(f"| {name} | {' | '.join(cells)} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
