"""Media files whose every picture and sound tells when it belongs: what the tests of cutting and aligning read back."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BASE = 16000


def level(time: float) -> float:
    """How bright the picture is that appears at a time: it changes by 10 of 255 with every tenth of a second."""
    return 30.0 + 10.0 * (round(time * 10) % 20)


def write_media(
    path: Path,
    seconds: float = 4.0,
    times: Iterable[float] | None = None,
    size: tuple[int, int] = (64, 48),
    audio: int = 1,
    video: bool = True,
    audio_start: float = 0.0,
    rate: int = 48000,
    rotation: int = 0,
) -> Path:
    """A file with a picture at each of ``times`` (else ten a second) and ``audio`` channels of sound (0 = none).

    A picture that appears at t has the grey level(t), its upper left quarter is white. Channel c is silent but for a tone
    of 10 ms at every whole second of the file's clock + 0.1 c.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [k / 10 for k in range(round(seconds * 10))] if times is None else list(times)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10, options={"crf": "10"}) if video else None
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = *size, "yuv420p"
            pictures.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                pictures.set_display_rotation(rotation)
        layout = {1: "mono", 2: "stereo"}.get(audio)
        # FLAC has no priming: its first sample is at its time stamp in every container
        sound = container.add_stream("flac", rate=rate, layout=layout) if layout else None
        if sound is not None:
            container.mux(
                [packet for frame in _sound(seconds, audio, audio_start, rate) for packet in sound.encode(frame)]
            )
            container.mux(sound.encode(None))
        if pictures is not None:
            for time in times:
                frame = av.VideoFrame.from_ndarray(_picture(time, size), "rgb24")
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
    return path


def _picture(time: float, size: tuple[int, int]) -> np.ndarray:
    picture = np.full((size[1], size[0], 3), round(level(time)), np.uint8)
    picture[: size[1] // 2, : size[0] // 2] = 255
    return picture


def tone_times(seconds: float, channel: int) -> np.ndarray:
    """When the tones of a channel begin, on the file's clock."""
    times = np.arange(0, seconds) + 0.1 * channel
    return times[times < seconds]


def _sound(seconds: float, channels: int, start: float, rate: int) -> Iterable[av.AudioFrame]:
    clock = np.arange(round(start * rate), round(seconds * rate)) / rate
    wave = np.zeros((channels, len(clock)))
    for channel in range(channels):
        on = (clock - 0.1 * channel) % 1.0 < 0.01
        on &= clock >= 0.1 * channel
        wave[channel, on] = 0.5 * np.sin(2 * np.pi * 1000 * clock[on])
    packed = np.ascontiguousarray((wave * 32767).astype(np.int16).T).reshape(1, -1)
    for first in range(0, len(clock), 1024):
        chunk = np.ascontiguousarray(packed[:, first * channels : (first + 1024) * channels])
        frame = av.AudioFrame.from_ndarray(chunk, format="s16", layout={1: "mono", 2: "stereo"}[channels])
        frame.sample_rate, frame.pts, frame.time_base = rate, round(start * rate) + first, Fraction(1, rate)
        yield frame


def onsets(sound: np.ndarray, rate: int = BASE) -> np.ndarray:
    """When tones begin in a sound [sample], in seconds from its first sample."""
    loud = np.abs(sound) > 0.05
    quiet_before = np.convolve(loud, np.ones(rate // 20), "full")[: len(loud)] - loud == 0
    return np.flatnonzero(loud & quiet_before) / rate
