"""From the streams of a shard to a vector every ``cell_seconds``: what the tokens of audio, face, pose and hands hold.

Poses, hands and the shift of a head are described relative to their own mean place and size over the PLACE_SECONDS before:
movement stays, the seat in the picture does not. Nothing later is used, so that a stream can be read as it comes. (Where people
sit relative to each other is not told to the model.) A face's points are told as the head sees them, apart from how it turns and
moves: else they are nearly all head, and a mouth is half a hundredth of their variance, which no model found (docs/decisions.md).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pretrain.config import StreamConfig

WINDOW_SECONDS = 0.025  # of the short-time Fourier transform
PLACE_SECONDS = 16.0
FLIP = np.array([1, -1, -1])  # picture: y down, z away; the head's matrix: y up, z to the viewer
WRIST, KNUCKLE, RIGHT = 0, 9, 1  # of a hand's 21 points (between them lies the palm), and of handedness


@functools.cache
def mel_filters(bins: int, rate: int) -> Tensor:
    """HTK mel filters, float32 [frequency, bin]."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(_fft_size(rate) // 2 + 1, 20.0, rate / 2, bins, rate)


def _fft_size(rate: int) -> int:
    return 2 ** int(np.ceil(np.log2(WINDOW_SECONDS * rate)))


def audio_cells(channel: np.ndarray, start: float, rate: int, stream: StreamConfig) -> tuple[np.ndarray, np.ndarray]:
    """Log-mel power of one channel: vectors float32 [cell, bin] and their cell numbers int64 [cell].

    channel: float32 [sample] in [-1, 1] at ``rate`` Hz, its first sample ``start`` seconds after the clip's start.
    """
    hop = round(stream.cell_seconds * rate)
    window = torch.hann_window(round(WINDOW_SECONDS * rate))
    size = _fft_size(rate)
    sound = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(channel)), (0, max(size - len(channel), 0)))
    spectrum = torch.stft(sound, size, hop, len(window), window, center=True, pad_mode="constant", return_complex=True)
    with torch.autocast("cpu", enabled=False):  # the logarithm of a sum rounded to bfloat16 is no mel
        power = rearrange(spectrum.abs().square(), "frequency cell -> cell frequency") @ mel_filters(
            stream.features, rate
        )
    cells = np.round((start + np.arange(len(power)) * hop / rate) / stream.cell_seconds).astype(np.int64)
    real = (cells >= 0) & (np.arange(len(power)) * hop < len(channel))
    return torch.log(power + 1e-6).numpy()[real], cells[real]  # 1e-6: silence is a number


def person_cells(
    name: str, rows: dict[str, np.ndarray], cell_seconds: float, aspect: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(person, vectors float32 [cell, feature], cell numbers int64 [cell]) for everyone in a stream.

    ``rows`` holds the arrays of a shard's face, pose, hands or user stream; ``aspect`` = width / height of the picture.
    A number that is not there is nan.
    """
    detections = "window" in rows  # else a user's stream, whatever its name
    if detections:
        rows = _both_hands(rows) if name == "hands" else rows
        times = rows["times"][rows["window"]]
        people = rows["person"]
    else:
        times = rows["times"]
        people = rows.get("person", np.full(len(times), -1))
    cells = np.floor(times / cell_seconds + 1e-6).astype(np.int64)
    for person in np.unique(people):
        mine = np.flatnonzero((people == person) & (cells >= 0))
        mine = mine[np.unique(cells[mine], return_index=True)[1]]  # the first row of a cell
        if len(mine):
            theirs = {k: v[mine] for k, v in rows.items() if len(v) == len(people)}
            vectors = (_VECTORS[name] if detections else _values)(theirs | {"times": times[mine]}, aspect)
            yield int(person), vectors.astype(np.float32), cells[mine]


def recent(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean of values [row, ...] over the PLACE_SECONDS up to each row; times [row] in seconds, growing."""
    sums = np.concatenate([np.zeros_like(values[:1], np.float64), np.cumsum(values, 0, np.float64)])
    first = np.searchsorted(times, times - PLACE_SECONDS + 1e-6)
    count = np.arange(1, len(times) + 1) - first
    return (sums[1:] - sums[first]) / count.reshape(-1, *[1] * (values.ndim - 1))


def _face(rows: dict[str, np.ndarray], aspect: float) -> np.ndarray:
    """478 points in the head's own frame (turned back by its rotation, around their mean, their size one; axes of the picture), 52
    blendshapes, head turn (two columns of the rotation) and shift."""
    points = (rows["landmarks"] * np.array([aspect, 1, aspect])).astype(np.float64)
    points -= points.mean(1, keepdims=True)
    points /= np.maximum(np.sqrt(np.square(points).sum(-1).mean(1)), 1e-6)[:, None, None]
    axes = rows["head"][:, :3, :3]
    axes = axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-6)
    points = points @ (FLIP[:, None] * axes * FLIP)  # by the inverse rotation
    turn = rearrange(rows["head"][:, :3, :2], "row xyz column -> row (column xyz)")
    shift = rows["head"][:, :3, 3] - recent(rows["head"][:, :3, 3], rows["times"])
    return np.concatenate([points.reshape(len(points), -1), rows["blendshapes"], turn, shift], 1)


def _pose(rows: dict[str, np.ndarray], aspect: float) -> np.ndarray:
    """33 points (x, y, z, visibility) relative to their recent place and height, and 33 world points in metres."""
    points = rows["keypoints"].astype(np.float64)
    centre = recent(points[..., :2].mean(1), rows["times"])[:, None]
    size = np.maximum(recent(np.ptp(points[..., 1], 1), rows["times"]), 1e-3)[:, None, None]
    place = points[..., :3] - np.concatenate([centre, np.zeros_like(centre[..., :1])], -1)
    place = place * np.array([aspect, 1, aspect]) / size
    visibility = points[..., 3]
    return np.concatenate([place.reshape(len(place), -1), visibility, rows["world"].reshape(len(place), -1)], 1)


def _both_hands(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of one hand each -> of the hands that a person shows at an instant: keypoints [row, 2, 21, 3], left and right, nan
    where there is none. Of several left or right ones the surest counts."""
    order = np.argsort(rows.get("score", np.zeros(len(rows["person"]))), kind="stable")
    who = np.stack([rows["window"], rows["person"]], 1)
    who, row = np.unique(who, axis=0, return_inverse=True)
    keypoints = np.full((len(who), 2, 21, 3), np.nan)
    side = (rows["handedness"] == RIGHT).astype(int)
    keypoints[row.ravel()[order], side[order]] = rows["keypoints"][order]  # where two meet, the last one stays
    return {"times": rows["times"], "window": who[:, 0], "person": who[:, 1], "keypoints": keypoints}


def _hands(rows: dict[str, np.ndarray], aspect: float) -> np.ndarray:
    """Left, then right: 21 points in palms, the wrist from where the hands were lately, the others from the wrist; nan for a hand
    that is not there. Then whether each of the two is there, so that nothing has to be guessed from nan."""
    points = rows["keypoints"] * np.array([aspect, 1, aspect])
    wrist = points[:, :, WRIST]
    palm = np.linalg.norm(points[:, :, KNUCKLE] - wrist, axis=-1)
    size = np.maximum(recent(np.nanmean(palm, 1), rows["times"]), 1e-3)[:, None, None]
    centre = recent(np.nanmean(wrist, 1), rows["times"])[:, None]
    shape = (points - wrist[:, :, None]) / size[..., None]
    shape[:, :, WRIST] = (wrist - centre) / size
    return np.concatenate([shape.reshape(len(shape), -1), ~np.isnan(palm)], 1)


def _values(rows: dict[str, np.ndarray], aspect: float) -> np.ndarray:
    return rows["values"]


_VECTORS = {"face": _face, "pose": _pose, "hands": _hands}
