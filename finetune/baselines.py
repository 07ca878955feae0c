"""What stands beside every result: predictors that know less, through the same classifier code.

- mean picture: the average picture of a clip; it knows the room and the clothes, no movement;
- motion: how much the picture changes, where and when; no shape;
- raw streams: pose, face and sound as the encoder's tokenizers get them, without the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from finetune.features import Features
from finetune.labels import SCENE
from pretrain.clips import Clip, View
from pretrain.config import StreamConfig, default_streams
from pretrain.stream_vectors import audio_cells, person_cells

MOST_VIEWS = 4
PICTURE = 16  # side of the mean picture
CELLS, TIMES = 8, 8  # motion: cells a side; motion and streams: time steps a clip
FACE_KEPT = slice(-61, None)  # 52 blendshapes, head turn and shift; 478 points say the same at length
POSE_KEPT = np.array([point * 3 + axis for point in range(33) for axis in (0, 1)])  # x and y
RAW_SIZE = {"pose": len(POSE_KEPT), "face": 61}
MODALITIES = ("video", "audio", "face", "pose")
NAMES = {"picture": "mean picture", "motion": "motion only", "raw": "raw streams"}


def describe(clips: list[Clip], clip: np.ndarray, person: np.ndarray) -> Mapping[str, np.ndarray]:
    """For ``features.map_clips``: "picture", "motion" and "raw", float32 [row, feature]."""
    pictures = [_views(c, _mean_picture) for c in clips]
    motions = [_views(c, _motion) for c in clips]
    raws = [_raw_streams(clips[number], who) for number, who in zip(clip, person, strict=True)]
    return {
        "picture": np.stack(pictures)[clip],
        "motion": np.stack(motions)[clip],
        "raw": np.stack(raws),
    }


def _views(clip: Clip, function) -> np.ndarray:
    """A function of each of the first views in order of name, one after the other; zeros where there is no picture."""
    views = [clip.views[name] for name in sorted(clip.views)][:MOST_VIEWS]
    parts = [function(view.frames) for view in views if view.frames is not None and len(view.frames)]
    size = len(function(np.zeros((1, CELLS, CELLS, 3), np.uint8)))
    return np.concatenate([*parts, np.zeros(size * (MOST_VIEWS - len(parts)))]).astype(np.float32)


def _mean_picture(frames: np.ndarray) -> np.ndarray:
    mean = frames.mean(0, dtype=np.float32)
    return cv2.resize(mean, (PICTURE, PICTURE), interpolation=cv2.INTER_AREA).ravel()


def _motion(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of successive frames in CELLS x CELLS places and TIMES stretches of the clip."""
    small = np.stack([cv2.resize(frame, (4 * CELLS, 4 * CELLS), interpolation=cv2.INTER_AREA) for frame in frames])
    change = np.abs(np.diff(small.astype(np.float32).mean(-1), axis=0))
    if not len(change):
        return np.zeros(TIMES * CELLS * CELLS)
    cells = change.reshape(len(change), CELLS, 4, CELLS, 4).mean((2, 4))
    when = np.arange(len(cells)) * TIMES // len(cells)
    sums = np.zeros((TIMES, CELLS * CELLS))
    np.add.at(sums, when, cells.reshape(len(cells), -1))
    return (sums / np.maximum(np.bincount(when, minlength=TIMES), 1)[:, None]).ravel()


def _raw_streams(clip: Clip, person: int) -> np.ndarray:
    """Pose, face and log-mel of a clip: resampled over time, and their mean and deviation, averaged over people and views."""
    seconds = max(clip.end - clip.start, 1e-3)
    parts = []
    for name in ("pose", "face"):
        found = []
        for view in clip.views.values():
            found += _people(view, name, person, seconds)
        size = (TIMES + 2) * RAW_SIZE[name]
        both = (np.mean(found, 0), np.std(found, 0)) if found else (np.zeros(size), np.zeros(size))
        parts += [*both, np.array([len(found) > 0])]
    sound = [_sound(view, channel) for view in clip.views.values() if view.audio is not None for channel in view.audio]
    mels = 2 * default_streams()["audio"].features
    parts += [np.mean(sound, 0) if sound else np.zeros(mels), np.array([len(sound) > 0])]
    return np.concatenate(parts).astype(np.float32)


def raw_streams(raw: np.ndarray) -> Features:
    """ "raw" of ``describe`` [row, feature], with the stream of each column: pose, face, sound."""
    sizes = [2 * (TIMES + 2) * RAW_SIZE[name] + 1 for name in ("pose", "face")]
    return Features(raw, np.repeat(np.arange(3), [*sizes, raw.shape[1] - sum(sizes)]))


def _people(view: View, name: str, person: int, seconds: float) -> list[np.ndarray]:
    """One vector for everyone (or the one) in a view's pose or face."""
    rows = getattr(view, name)
    if rows is None or not len(rows["person"]):
        return []
    stream: StreamConfig = default_streams()[name]
    found = []
    for who, vectors, cells in person_cells(name, rows, stream.cell_seconds, view.picture_aspect):
        if person in (SCENE, who):
            kept = vectors[:, FACE_KEPT if name == "face" else POSE_KEPT]
            when = (np.arange(TIMES) + 0.5) * seconds / TIMES / stream.cell_seconds - 0.5
            resampled = np.stack([np.interp(when, cells, column) for column in kept.T], 1)
            found.append(np.concatenate([resampled.ravel(), kept.mean(0), kept.std(0)]))
    return found


def _sound(view: View, channel: np.ndarray) -> np.ndarray:
    """Mean and deviation of the log-mel bins of one channel."""
    vectors, _ = audio_cells(channel, view.audio_start, view.audio_rate, default_streams()["audio"])
    if not len(vectors):
        return np.zeros(2 * default_streams()["audio"].features)
    return np.concatenate([vectors.mean(0), vectors.std(0)])
