"""Windows of time: how a clip is cut into them, and what of a clip lies in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.clips import Clip, View


def windows(start: float, end: float, seconds: float | None) -> Iterator[tuple[float, float]]:
    """A clip cut into windows from its start; what is left at its end counts as one if it is at least half as long."""
    if seconds is None:
        yield start, end
        return
    for number in range(max(int((end - start) / seconds + 0.5 + 1e-6), 1)):
        yield start + number * seconds, min(start + (number + 1) * seconds, end)


def cut(clip: Clip, start: float, end: float) -> Clip:
    """What of a clip lies in [start, end), in seconds from its start; the whole of it for -inf to inf."""
    if start == -np.inf and end == np.inf:
        return clip
    views = {name: _view(view, start, end) for name, view in clip.views.items()}
    streams = {name: _rows(arrays, start, end) for name, arrays in clip.streams.items()}
    return replace(clip, start=clip.start + start, end=min(clip.start + end, clip.end), views=views, streams=streams)


def _view(view: View, start: float, end: float) -> View:
    kept: dict[str, Any] = {name: _rows(rows, start, end) for name, rows in view.detections().items()}
    if view.frames is not None:
        first, last = (max(int(np.ceil((t - view.frame_start) * view.frame_rate - 1e-6)), 0) for t in (start, end))
        kept["frames"] = view.frames[first:last]
        kept["frame_start"] = view.frame_start + first / view.frame_rate - start
    if view.audio is not None:
        first, last = (max(int(np.ceil((t - view.audio_start) * view.audio_rate - 1e-6)), 0) for t in (start, end))
        kept["audio"] = view.audio[:, first:last]
        kept["audio_start"] = view.audio_start + first / view.audio_rate - start
    return replace(view, **kept)


def _rows(arrays: dict[str, np.ndarray], start: float, end: float) -> dict[str, np.ndarray]:
    """A stream's arrays: with ``window`` a row is a detection at one of the times, else a row is a time."""
    times = arrays["times"]
    inside = (times >= start - 1e-6) & (times < end - 1e-6)
    if "window" not in arrays:
        return {name: values[inside] for name, values in arrays.items()} | {"times": times[inside] - start}
    rows = inside[arrays["window"]]
    number = np.cumsum(inside) - 1
    found = {name: values[rows] for name, values in arrays.items() if name != "times"}
    return found | {"times": times[inside] - start, "window": number[found["window"]]}
