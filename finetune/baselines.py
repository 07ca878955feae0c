"""What stands beside every result: predictors that know less, through the same classifier code.

- metadata: what the shards know of a clip without looking at it: its length and place in the recording, how many people and views,
  sizes and rates of the views, the manifest's columns of the setting (``x.<name>``); never the recording's name;
- mean picture: the average picture of a clip; it knows the room and the clothes, no movement;
- motion: how much the picture changes, where and when; no shape;
- raw streams: pose, face and sound as the encoder's tokenizers get them, without the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from data_prep.manifest import member_name
from finetune.features import Features, Rows
from finetune.labels import SCENE
from finetune.windows import cut
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
NAMES = {
    "metadata": "metadata",
    "picture": "mean picture",
    "motion": "motion only",
    "raw": "raw streams",
    "handmade": "hand-made features",
}


def describe(clips: list[Clip], rows: Rows) -> Mapping[str, np.ndarray]:
    """For ``features.map_clips``: "picture", "motion" and "raw", float32 [row, feature]."""
    pieces = {part: cut(clips[part[0]], *part[1:]) for part in zip(rows.clip, rows.start, rows.end, strict=True)}
    pictures = {part: _views(piece, _mean_picture) for part, piece in pieces.items()}
    motions = {part: _views(piece, _motion) for part, piece in pieces.items()}
    which = list(zip(rows.clip, rows.start, rows.end, strict=True))
    return {
        "picture": np.stack([pictures[part] for part in which]),
        "motion": np.stack([motions[part] for part in which]),
        "raw": np.stack([_raw_streams(pieces[part], person) for part, person in zip(which, rows.person, strict=True)]),
    }


def metadata(metas: Sequence[Mapping[str, Any]], examples: pd.DataFrame) -> np.ndarray:
    """float32 [example, feature]; metas: meta.json of the clips that ``row`` of the examples counts.

    Words become a column for each that several recordings have: one that stands in a single recording would be its name.
    """
    about = pd.DataFrame([_known(meta) for meta in metas]).iloc[examples["row"]].reset_index(drop=True)
    about["seconds"] = (examples["end"] - examples["start"]).to_numpy()
    about["start"] = examples["start"].to_numpy()
    about = pd.concat([about, _own(metas, examples)], axis=1)
    columns = []
    for name in about:
        numbers = pd.to_numeric(about[name], errors="coerce")
        if numbers[about[name].notna()].notna().all():
            columns.append(numbers.fillna(numbers.mean() if numbers.notna().any() else 0.0).to_numpy(float))
            continue
        recordings = examples["recording"].groupby(about[name].astype(str).to_numpy()).nunique()
        columns += [(about[name].astype(str) == word).to_numpy(float) for word, n in recordings.items() if n > 1]
    return np.stack(columns, 1).astype(np.float32)


def _known(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a meta.json says of its clip, by name; a number, a word or nothing each."""
    streams = [view["streams"] for view in meta["views"].values()]
    video = [s["video"] for s in streams if "video" in s]
    known: dict[str, Any] = {
        "people": len(meta["people"]),
        "views": len(streams),
        "cameras": len(video),
        "channels": sum(s["audio"].get("channels", 1) for s in streams if "audio" in s),
    }
    for name in ("width", "height", "rate"):
        values = [view[name] for view in video if view.get(name) is not None]
        known[name] = float(np.mean(values)) if values else None
    for name, value in meta["extra"].items():
        of_views = value.items() if isinstance(value, dict) else [("", value)]  # where the views of a recording differ
        known |= {f"x.{name} {view}": None if v in {"", None} else str(v) for view, v in of_views}
    return known


def _own(metas: Sequence[Mapping[str, Any]], examples: pd.DataFrame) -> pd.DataFrame:
    """What the manifest says of the view that shows an example's participant alone, where views differ in it: their age."""
    names = {name for meta in metas for name, value in meta["extra"].items() if isinstance(value, dict)}
    own: dict[str, list[str | None]] = {f"own x.{name}": [] for name in sorted(names)}
    for row, participant in examples[["row", "participant"]].itertuples(index=False) if names else ():
        shown = [view for view, about in metas[row]["views"].items() if about.get("participants") == [participant]]
        for name in sorted(names):
            value = metas[row]["extra"].get(name)
            if isinstance(value, dict):
                of_view = {member_name(view): v for view, v in value.items()}
                value = next((of_view[view] for view in shown if view in of_view), None)
            own[f"own x.{name}"].append(None if value is None else str(value))
    return pd.DataFrame(own, index=range(len(examples)))


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
