"""A clip on the report's contact sheet: frames of its views side by side, and on the same time axis who is seen, who
speaks, and of each channel of sound its wave and its mel spectrogram.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_prep.overlay import frames_picture
from data_prep.report_timelines import Timeline, drawing
from data_prep.shards import decode_npz

COLUMNS, WAVE = 1400, 72  # pixels of a picture of sound
MOST_VIEWS, MOST_CHANNELS = 6, 8  # shown of a clip
MELS, WINDOW, HOP, LOUDNESS = 64, 400, 160, 70.0  # bands, samples, samples, decibels from white to dark
QUIET, LOUD = "#ffffff", "#102a43"


@dataclass
class Card:
    """A clip as the page shows it."""

    title: str
    note: str
    start: float
    end: float
    frames: Image.Image | None
    alt: str
    lanes: list[dict[str, Any]]
    sounds: list[tuple[str, Image.Image, Image.Image]]
    """(name, wave, mel)"""
    ticks: list[float]


def card(sample: Mapping[str, bytes]) -> Card:
    """The card of a sample out of a shard."""
    meta = json.loads(sample["meta.json"])
    seconds = meta["end"] - meta["start"]
    arrays = {
        (view, stream): decode_npz(sample[f"{view}.{stream}.npz"])
        for view in meta["views"]
        for stream in ("face", "pose")
        if f"{view}.{stream}.npz" in sample
    }
    pictured = [view for view in meta["views"] if f"{view}.video.mp4" in sample][:MOST_VIEWS]
    views = {
        view: (
            sample[f"{view}.video.mp4"],
            meta["views"][view]["streams"]["video"],
            {stream: values for (other, stream), values in arrays.items() if other == view},
        )
        for view in pictured
    }
    timeline = Timeline()
    timeline.add(meta, arrays)
    people = {int(person["id"]): person["participant"] for person in meta["people"]}
    lanes = [lane for lane in drawing("", (meta["start"], meta["end"]), timeline, people)["lanes"] if not lane["thin"]]
    return Card(
        title=f"{meta['recording']}, {meta['start']:g} to {meta['end']:g} s",
        note=_note(meta, pictured),
        start=meta["start"],
        end=meta["end"],
        frames=frames_picture(views, seconds) if views else None,
        alt=_alt(meta, pictured, lanes),
        lanes=lanes,
        sounds=list(_sounds(sample, meta))[:MOST_CHANNELS],
        ticks=ticks(seconds),
    )


def _note(meta: dict[str, Any], pictured: list[str]) -> str:
    sources = sorted({view["landmarks"] for view in meta["views"].values() if view.get("landmarks")})
    hidden = sum("video" in view["streams"] for view in meta["views"].values()) - len(pictured)
    more = f"; {hidden} more views are not shown" if hidden else ""
    return (f"landmarks: {', '.join(sources)}" if sources else "no landmarks") + more


def _alt(meta: dict[str, Any], pictured: list[str], lanes: list[dict[str, Any]]) -> str:
    """The frames in words."""
    seen = sorted({lane["name"].partition(" in ")[0] for lane in lanes if lane["name"].startswith("person")})
    who = f"face meshes and skeletons of {', '.join(seen)}" if seen else "nobody found in them"
    return f"Frames of {meta['recording']} from {meta['start']:g} s, views {', '.join(pictured)}: {who}"


def ticks(seconds: float) -> list[float]:
    """Round times from 0 to ``seconds``, five to ten of them."""
    rough = seconds / 8
    power = 10 ** np.floor(np.log10(rough))
    steps = power * np.array([1, 2, 5, 10])
    step = float(steps[np.abs(steps - rough).argmin()])
    return [round(k * step, 6) for k in range(int(seconds / step + 1e-6) + 1)]


def _sounds(sample: Mapping[str, bytes], meta: dict[str, Any]) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """(name, wave, mel) of each channel of each view."""
    import soundfile

    seconds = meta["end"] - meta["start"]
    for view, about in meta["views"].items():
        if f"{view}.audio.flac" not in sample:
            continue
        sound, rate = soundfile.read(io.BytesIO(sample[f"{view}.audio.flac"]), dtype="float32", always_2d=True)
        start = about["streams"]["audio"]["start"]
        for number, channel in enumerate(sound.T):
            name = f"{view}, channel {number}" if sound.shape[1] > 1 else view
            yield name, wave_picture(channel, rate, start, seconds), mel_picture(channel, rate, start, seconds)


def wave_picture(samples: NDArray, rate: int, start: float, seconds: float) -> Image.Image:
    """Lowest and highest of the samples [sample] of each column; the picture is ``seconds`` long, the sound begins at ``start``."""
    loudest = max(float(np.abs(samples).max(initial=0)), 0.05)  # a silent channel stays a line
    picture = Image.new("L", (COLUMNS, WAVE), 0)
    draw = ImageDraw.Draw(picture)
    edges = ((np.arange(COLUMNS + 1) * seconds / COLUMNS - start) * rate).astype(int).clip(0, len(samples))
    for x, (first, last) in enumerate(pairwise(edges)):
        if last > first:
            low, high = samples[first:last].min() / loudest, samples[first:last].max() / loudest
            draw.line([x, WAVE / 2 * (1 - high), x, WAVE / 2 * (1 - low)], fill=200)
    return shaded(np.asarray(picture, np.float32) / 255)


def mel_picture(samples: NDArray, rate: int, start: float, seconds: float) -> Image.Image:
    """The mel spectrogram of the samples [sample], low tones below; laid as the wave is. White is LOUDNESS below the loudest."""
    hop = max(HOP, round(seconds * rate / COLUMNS))  # of long clips only a window a column is looked at
    canvas = np.zeros((MELS, max(1, round(seconds * rate / hop))), np.float32)
    padded = np.pad(samples, WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(samples) : hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), 512)) ** 2
    decibels = 10 * np.log10(power @ mel_bands(rate, 512).T + 1e-10).T
    first = round(start * rate / hop)
    wide = min(decibels.shape[1], canvas.shape[1] - first)
    loudest = max(float(decibels.max(initial=-60)), -20.0)  # silence stays white
    canvas[:, first : first + wide] = (decibels[:, :wide] - loudest + LOUDNESS) / LOUDNESS
    return shaded(canvas[::-1].clip(0, 1))


def mel_bands(rate: int, size: int) -> NDArray[np.float32]:
    """Triangles [MELS, size // 2 + 1] evenly spaced on the mel scale (2595 log10(1 + f / 700)), for an FFT of ``size``."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    tones = np.arange(size // 2 + 1) * rate / size
    rising = (tones - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - tones) / np.diff(edges)[1:, None]
    return np.minimum(rising, falling).clip(0, None).astype(np.float32)


def shaded(values: NDArray) -> Image.Image:
    """Values [row, column] from 0 (QUIET) to 1 (LOUD) as a picture of 32 colours."""
    quiet, loud = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (QUIET, LOUD))
    palette = np.rint(quiet + np.linspace(0, 1, 32)[:, None] * (loud - quiet)).astype(np.uint8)
    picture = Image.fromarray(np.rint(values * 31).astype(np.uint8)).convert("P")
    picture.putpalette(palette.tobytes())
    return picture


def address(picture: Image.Image, form: str) -> str:
    """A picture (form png or jpeg) as a data address."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 85} if form == "jpeg" else {"optimize": True}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
