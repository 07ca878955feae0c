"""Faces, poses, regions and hands that are known already: VIDEO.mp4.face.npz, .pose.npz, ... beside VIDEO.mp4.

They hold the members of face.npz, pose.npz, regions.npz and hands.npz with times on the file's own clock, for the whole file.
Motion in regions is measured where the file does not hold it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.clips import Window
from data_prep.decode import TOLERANCE

Arrays = dict[str, np.ndarray]
LANDMARKS = ("face", "pose", "regions", "hands")


class GivenError(Exception):
    """A file of landmarks that cannot be read: (path, reason)."""


def sidecar(video: Path, stream: str) -> Path:
    """The file that holds a stream of a video."""
    return video.with_name(f"{video.name}.{stream}.npz")


class GivenLandmarks:
    """The landmarks of one file; ``at`` puts times of its clock on the recording's. Raises GivenError where it is damaged."""

    def __init__(self, video: Path, at: Callable[[Any], Any], streams: tuple[str, ...]) -> None:
        self._streams: dict[str, Arrays] = {}
        for stream in LANDMARKS:
            path = sidecar(video, stream)
            if stream in streams and path.is_file():
                self._streams[stream] = _load(path, at)

    def cut(self, clip: Window) -> dict[str, Arrays]:
        """What lies in a clip: times in seconds from its start, ``window`` counted from its first instant."""
        return {stream: part for stream, arrays in self._streams.items() if len((part := _cut(arrays, clip))["times"])}

    @property
    def lacks_motion(self) -> bool:
        """Whether regions are given without their motion."""
        return "regions" in self._streams and "motion" not in self._streams["regions"]

    def region_times(self, clip: Window) -> list[float]:
        """The instants of regions in a clip, on the recording's clock."""
        times = self._streams["regions"]["times"] if "regions" in self._streams else np.empty(0)
        first, last = _bounds(times, clip)
        return times[first:last].tolist()


def with_motion(regions: Arrays, clip: Window, seen: list[tuple[float, np.ndarray]], name: str) -> Arrays:
    """Regions of a clip with the motion [rows, columns] measured at (time, motion); instants without a picture go.

    Raises GivenError where the people's cells are not those of the written picture.
    """
    there = np.isin(regions["times"], np.maximum(np.array([time for time, _ in seen]) - clip.start, 0.0))
    motion = np.stack([look for _, look in seen])
    if motion.shape[1:] != regions["people"].shape[1:]:
        given, written = ("x".join(map(str, array.shape[1:])) for array in (regions["people"], motion))
        raise GivenError(f"{name}.regions.npz", f"`people` has {given} cells, the written picture {written}")
    return {name: array[there] for name, array in regions.items()} | {"motion": motion}


def _bounds(times: np.ndarray, clip: Window) -> tuple[int, int]:
    first, last = np.searchsorted(times, [clip.start - TOLERANCE, clip.end - TOLERANCE])
    return int(first), int(last)


def _load(path: Path, at: Callable[[Any], Any]) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GivenError(path.name, f"not an .npz file of arrays ({error})") from None
    if "times" not in arrays or arrays["times"].ndim != 1:
        raise GivenError(path.name, "no member `times [window]`")
    arrays["times"] = at(arrays["times"].astype(np.float64))
    if np.any(np.diff(arrays["times"]) <= 0):
        raise GivenError(path.name, "`times` do not grow")
    rows = "window" in arrays
    length = len(arrays["window"] if rows else arrays["times"])
    if wrong := [
        name for name, array in arrays.items() if name != "times" and (not array.ndim or len(array) != length)
    ]:
        raise GivenError(path.name, f"`{wrong[0]}` has not one row a {'detection' if rows else 'window'}")
    if rows:
        order = np.argsort(arrays["window"], kind="stable")
        arrays |= {name: array[order] for name, array in arrays.items() if name != "times"}
    return arrays


def _cut(arrays: Arrays, clip: Window) -> Arrays:
    first, last = _bounds(arrays["times"], clip)
    times = arrays["times"][first:last] - clip.start
    if "window" in arrays:
        rows = slice(*np.searchsorted(arrays["window"], [first, last]))
        part = {name: array[rows] for name, array in arrays.items() if name != "times"}
        part["window"] = part["window"] - first
    else:
        part = {name: array[first:last] for name, array in arrays.items() if name != "times"}
    return {"times": np.maximum(times, 0.0), **part}
