"""What the report counts: clip by clip out of the shards, added up by recording.

Of a clip only meta.json and the small arrays of its faces and poses are read (3 ms); pictures, sound and landmarks stay
where they are. Where a folder holds more than MOST_READ clips, some recordings are read whole and the others here and there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from data_prep.report_timelines import FACE_WIDTH, FACES, Timeline, view_and_stream
from data_prep.shards import open_sample

if TYPE_CHECKING:
    import pandas

MOST_READ = 10_000  # clips; half of them of recordings that are read whole, the rest evenly spread
ENCODER_SIDE = 224  # pixels: the short side that VideoMAE reads
SMALL_FACE = 16.0  # encoder pixels: a face narrower than a patch is one token with its surroundings
SMALL_ARRAYS = {"face": ("times", "window", "person", "box"), "pose": ("times", "window", "person")}
NOTHING = {"times": np.zeros(0), "window": np.zeros(0, np.int32), "person": np.zeros(0, np.int32)}

Arrays = dict[str, np.ndarray]


@dataclass
class Clip:
    """What is read of a clip: meta.json, and of each view the small arrays of face and pose."""

    meta: dict[str, Any]
    arrays: dict[tuple[str, str], Arrays]
    """by (view, stream)"""

    def of(self, view: str, stream: str) -> Arrays:
        """A stream's arrays; one that is absent was looked at at no instant."""
        return self.arrays.get((view, stream), NOTHING)


@dataclass
class Recording:
    """What the index says of a recording, and what was counted in those of its clips that were read."""

    name: str
    clips: int
    start: float
    end: float
    timeline: Timeline
    read: int = 0
    views: set[str] = field(default_factory=set)
    people: dict[int, str | None] = field(default_factory=dict)  # id -> participant
    source: str = "none"  # of its landmarks
    looked: int = 0  # instants looked at, views and clips summed
    with_face: int = 0
    with_pose: int = 0
    same_person: int = 0  # instants at which a face and a pose bear the same id
    face_widths: list[float] = field(default_factory=list)  # in pixels as the encoder reads the picture
    faces: Counter[int] = field(default_factory=Counter)  # faces at an instant -> instants
    numbers: dict[str, list[float]] = field(default_factory=dict)  # quality: one of each clip and view
    best: dict[int, tuple[int, int]] = field(default_factory=dict)  # half -> (face rows, row of the index) to show

    def share(self, count: int) -> float | None:
        """Of the instants looked at; None where none was."""
        return count / self.looked if self.looked else None

    @property
    def same_person_share(self) -> float | None:
        """Told for recordings that show one person: 1 where face and pose are always found and tied to each other."""
        return self.share(self.same_person) if len(self.people) == 1 else None

    @property
    def face_width(self) -> float | None:
        """Median over the faces, in encoder pixels."""
        return float(np.median(self.face_widths)) if self.face_widths else None

    @property
    def small_faces(self) -> bool:
        """Whether its faces are too small for the encoder."""
        return self.face_width is not None and self.face_width < SMALL_FACE


def read_recordings(folder: Path, index: pandas.DataFrame) -> dict[str, Recording]:
    """Every recording of the index, in its order, with what the clips that are read hold."""
    recordings: dict[str, Recording] = {}
    for name, rows in index.groupby("recording", sort=False):
        timeline = Timeline.of_index(rows)
        recordings[str(name)] = Recording(str(name), len(rows), rows["start"].min(), rows["end"].max(), timeline)
    rows = rows_to_read(index)
    table: list[Any] = index.iloc[rows].to_dict("records")
    steps = zip(rows, table, strict=True)
    for row, fields in track(steps, "reading clips", len(rows), console=Console(stderr=True), transient=True):
        count(recordings[fields["recording"]], int(row), read_clip(folder, fields))
    return recordings


def rows_to_read(index: pandas.DataFrame, most: int = MOST_READ) -> list[int]:
    """The rows of all clips; of too many those of some recordings of every kind, and evenly spread ones."""
    if len(index) <= most:
        return list(range(len(index)))
    chosen: list[int] = []
    groups: Any = index.groupby("recording", sort=False).indices
    for name in in_turn(index):
        chosen += groups[name][: most // 2 - len(chosen)].tolist()
    return sorted({*chosen, *np.linspace(0, len(index) - 1, most - len(chosen)).round().astype(int).tolist()})


def in_turn(index: pandas.DataFrame) -> list[str]:
    """The recordings, those of every kind in turn: as many members and people a clip are a kind of their own."""
    kinds: dict[tuple[int, int], list[str]] = {}
    first = index.drop_duplicates("recording")
    for name, people, members in zip(first["recording"], first["people"], first["members"], strict=True):
        kinds.setdefault((len(people), len(members)), []).append(name)
    groups = [kinds[kind] for kind in sorted(kinds, reverse=True)]
    return [group[turn] for turn in range(max(map(len, groups))) for group in groups if turn < len(group)]


def read_clip(folder: Path, row: dict[str, Any]) -> Clip:
    """The small parts of the clip in a row of the index."""
    clip = Clip({}, {})
    for name, file in open_sample(folder, row):
        view, stream = view_and_stream(name)
        if name == "meta.json":
            clip.meta = json.loads(file.read())
        elif name.endswith(".npz") and stream in SMALL_ARRAYS:
            with np.load(file, allow_pickle=False) as arrays:
                clip.arrays[view, stream] = {key: arrays[key] for key in SMALL_ARRAYS[stream] if key in arrays}
    return clip


def count(recording: Recording, row: int, clip: Clip) -> None:
    """Adds the clip at a row of the index to its recording."""
    meta = clip.meta
    recording.read += 1
    recording.people |= {int(person["id"]): person["participant"] for person in meta["people"]}
    recording.timeline.add(clip.meta, clip.arrays)
    found = 0
    for name, view in meta["views"].items():
        recording.views.add(name)
        recording.source = view.get("landmarks") or recording.source
        face, pose = clip.of(name, "face"), clip.of(name, "pose")
        recording.looked += max(len(face["times"]), len(pose["times"]))
        face_ids, pose_ids = (set(zip(s["window"].tolist(), s["person"].tolist(), strict=True)) for s in (face, pose))
        recording.with_face += len({window for window, _ in face_ids})
        recording.with_pose += len({window for window, _ in pose_ids})
        recording.same_person += len({window for window, _ in face_ids & pose_ids})
        recording.faces.update(np.bincount(face["window"].astype(int), minlength=len(face["times"])).tolist())
        widths = face_widths(face, view)
        recording.face_widths += widths.tolist()
        if len(face["times"]):
            recording.timeline.add_number(FACES, name, meta["start"], len(face["window"]) / len(face["times"]))
        if len(widths):
            recording.timeline.add_number(FACE_WIDTH, name, meta["start"], float(np.median(widths)))
        for what, number in quality(view).items():
            recording.timeline.add_number(what, name, meta["start"], number)
            recording.numbers.setdefault(what, []).append(number)
        found += len(face["window"])
    half = int(meta["start"] >= (recording.start + recording.end) / 2)
    recording.best[half] = max(recording.best.get(half, (-1, 0)), (found, -row))


def face_widths(face: Arrays, view: dict[str, Any]) -> np.ndarray:
    """Widths [row] of a view's faces in pixels as the encoder reads the picture: short side ENCODER_SIDE, never enlarged."""
    video = view["streams"].get("video")
    if video is None or "box" not in face:
        return np.zeros(0)
    width = video["width"] * min(1.0, ENCODER_SIDE / min(video["width"], video["height"]))
    return (face["box"][:, 2] - face["box"][:, 0]) * width


def quality(view: dict[str, Any]) -> dict[str, float]:
    """The numbers that meta.json holds of a view's quality."""
    numbers = view.get("quality") or {}
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}
