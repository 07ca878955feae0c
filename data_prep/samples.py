"""From a planned recording to its samples: the views side by side, people numbered, meta.json.

In two steps: a recording is read clip by clip into a temporary file, then its samples are made of that. Person ids are
given in the order in which people appear, so that they are the same whatever else is built. Who is a participant of the
manifest is known by seat, or where a view shows one participant and one person.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.clips import Window
from data_prep.config import BuildConfig
from data_prep.given import Arrays
from data_prep.manifest import Participant, Recording, Region, View, member_name
from data_prep.shards import SCHEMA, decode_npz, encode_npz, sample_key
from data_prep.spill import Spill
from data_prep.views import PlannedView, ViewReader

STREAMS = "streams.json"
"""In the temporary file: what meta.json says of a view's streams in a clip."""


@dataclass(frozen=True)
class PlannedRecording:
    """A recording whose views, clips and keys are settled."""

    recording: Recording
    key_base: str
    views: tuple[PlannedView, ...]
    clips: tuple[Window, ...]

    @property
    def load(self) -> float:
        """Seconds of views in its clips: what its shards' size and the time it takes follow from."""
        return len(self.views) * sum(clip.end - clip.start for clip in self.clips)


class Sample(NamedTuple):
    """A clip as it goes into a shard, with what the index says of it."""

    key: str
    members: dict[str, bytes]
    row: dict[str, Any]


@cache
def tool_versions() -> dict[str, str]:
    """Versions of what decides about the bytes of a sample."""
    versions = {}
    for package in ("kinesic", "av", "numpy", "soundfile", "mediapipe"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


class Samples:
    """The samples of one recording: ``read`` its clips one after another into the spill, then take the samples out.

    ``readers`` tell afterwards what was damaged.
    """

    def __init__(self, planned: PlannedRecording, config: BuildConfig, models: Path | None, spill: Spill) -> None:
        self._planned, self._config = planned, config
        clips = list(planned.clips)
        self.readers = [ViewReader(view, clips, config, models) for view in planned.views]
        self._spill = spill
        self._people: dict[tuple[int, int], int] = {}  # (view, person there) -> person of the recording
        self._participants: dict[int, str] = {}
        if config.landmarks == "given":
            self._participants = dict(enumerate(planned.recording.participants))

    def read(self, index: int) -> None:
        """Decodes a clip and looks at it. Clips are read in order."""
        for view, reader in enumerate(self.readers):
            parts = reader.parts(index)
            self._meet(view, parts[0].landmarks)
            for number, (part, landmarks) in enumerate(parts):
                for stream, arrays in landmarks.items():
                    part.members[f"{stream}.npz"] = encode_npz(arrays)
                    part.streams[stream] = {"start": round(float(arrays["times"][0]), 6), "rate": self._rate(arrays)}
                if part.members:
                    for member, content in part.members.items():
                        self._spill.put(index, f"{view}-{number}.{member}", content)
                    self._spill.put(index, f"{view}-{number}.{STREAMS}", json.dumps(part.streams).encode())

    def clip(self, index: int) -> Sample | None:
        """The sample of a clip, None where no view has anything in it. All that can be read has been read before."""
        clip = self._planned.clips[index]
        members: dict[str, bytes] = {}
        views: dict[str, dict[str, Any]] = {}
        seen: set[int] = set()
        for key, content in self._spill.get(index).items():
            where, _, member = key.partition(".")
            number, part = (int(digits) for digits in where.split("-"))
            planned = self._planned.views[number]
            region = planned.view.regions[part - 1] if part else None
            name = member_name(planned.view.region_view(region) if region else planned.view.name)
            if member == STREAMS:
                views[name] = self._about_view(planned, json.loads(content), clip) | _about_region(planned.view, region)
                continue
            if member.endswith(".npz") and "person" in (arrays := decode_npz(content)):
                arrays["person"] = self._numbered(number, arrays["person"])
                seen |= set(arrays["person"].tolist())
                content = encode_npz(arrays)
            members[f"{name}.{member}"] = content
        if not members:
            return None
        people = [
            {"id": person, "participant": self._participants.get(person)} for person in sorted(seen | self._known())
        ]
        return self._sample(clip, members, views, people)

    def _known(self) -> set[int]:
        """People who are there whether they are seen or not: with given landmarks the manifest's participants."""
        return set(self._participants) if self._config.landmarks == "given" else set()

    def _meet(self, view: int, landmarks: dict[str, Arrays]) -> None:
        """Takes note of the people of a view in a clip; and who they are, where their seat or being alone tells."""
        if self._config.landmarks == "given":
            return
        there = sorted({int(person) for arrays in landmarks.values() for person in np.unique(arrays.get("person", []))})
        for person in there:
            self._people.setdefault((view, person), len(self._people))
        self._identify(view, landmarks, there)

    def _numbered(self, view: int, persons: np.ndarray) -> np.ndarray:
        """Person ids [row] of a view -> of the recording."""
        if self._config.landmarks == "given":
            return persons
        return np.array([self._people[view, person] for person in persons.tolist()], np.int32)

    def _identify(self, view: int, landmarks: dict[str, Arrays], there: list[int]) -> None:
        participants = self._planned.views[view].view.participants
        seats = [participant for participant in participants if participant.seat]
        for person in there:
            number = self._people[view, person]
            if number in self._participants:
                continue
            if seats:
                name = _seat_of(_centres(landmarks, person), seats)
            else:
                name = participants[0].id if len(participants) == len(there) == 1 else None
            if name is not None:
                self._participants[number] = name

    def _rate(self, arrays: Arrays) -> float:
        """Instants a second, as they lie in the clip."""
        times = arrays["times"]
        return round(float(1 / np.median(np.diff(times))), 3) if len(times) > 1 else self._config.landmark_rate

    def _about_view(self, planned: PlannedView, streams: dict[str, Any], clip: Window) -> dict[str, Any]:
        """What meta.json says of a view: of several chapter files, the last one that has begun when the clip begins."""
        begun = [file for file in planned.files if file.offset <= clip.start]
        file = begun[-1] if begun else planned.files[0]
        measured = any(stream in streams for stream in ("face", "pose", "regions"))
        source = {"mediapipe": f"mediapipe {tool_versions()['mediapipe']}", "given": "given"}.get(
            self._config.landmarks
        )
        return {
            "source": file.source.name,
            "sha256": file.probed.sha256,
            "offset": round(file.offset, 6),
            "drift": 0.0,
            "confidence": None,
            "participants": [participant.id for participant in planned.view.participants],
            "landmarks": source if measured else None,
            "streams": streams,
        }

    def _sample(self, clip: Window, members: dict[str, bytes], views: dict[str, Any], people: list[dict]) -> Sample:
        recording = self._planned.recording
        key = sample_key(self._planned.key_base, clip.start)
        meta = {
            "schema": SCHEMA,
            "key": key,
            "recording": recording.name,
            "start": clip.start,
            "end": clip.end,
            "split": recording.split,
            "people": people,
            "extra": recording.extra,
            "views": views,
            "versions": tool_versions(),
        }
        members["meta.json"] = json.dumps(meta, ensure_ascii=False, default=str).encode()
        row = {
            "recording": recording.name,
            "start": clip.start,
            "end": clip.end,
            "split": recording.split,
            "people": [person["participant"] or str(person["id"]) for person in people],
        }
        return Sample(key, members, row)

    def close(self) -> None:
        """Gives back what the readers hold: all that can be read has been read."""
        for reader in self.readers:
            reader.close()


def _about_region(view: View, region: Region | None) -> dict[str, Any]:
    """What meta.json says besides of a view that is a region of another: whose participants are those with a seat in it."""
    if region is None:
        return {}
    x0, y0, x1, y1 = region.box
    seated = [
        person.id
        for person in view.participants
        if person.seat
        and x0 <= (person.seat[0] + person.seat[2]) / 2 < x1
        and y0 <= (person.seat[1] + person.seat[3]) / 2 < y1
    ]
    about = {"view": member_name(view.name), "name": region.name, "box": list(region.box)}
    return {"region": about, "participants": seated}


def _centres(landmarks: dict[str, Arrays], person: int) -> np.ndarray:
    """Where a person's face is, [row, 2]; without a face, the nose of the pose."""
    face, pose = landmarks.get("face"), landmarks.get("pose")
    if face is not None and (rows := face["person"] == person).any():
        box = face["box"][rows]
        return (box[:, :2] + box[:, 2:]) / 2
    if pose is not None:
        return pose["keypoints"][pose["person"] == person, 0, :2]
    return np.empty((0, 2))


def _seat_of(centres: np.ndarray, seats: list[Participant]) -> str | None:
    """The participant in whose seat most of the points [row, 2] lie, if it is more than half of them."""
    for participant in seats:
        x0, y0, x1, y1 = participant.seat or (0, 0, 0, 0)
        inside = (centres >= [x0, y0]).all(axis=1) & (centres <= [x1, y1]).all(axis=1)
        if len(centres) and inside.mean() > 0.5:
            return participant.id
    return None
