"""From a planned recording to its samples: the views side by side, people numbered, meta.json.

In two steps: a recording is read clip by clip into a temporary file; when it is known who is who, its samples are made of
that. Person ids are given in the order in which people appear, so that they are the same whatever else is built.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_prep.clips import Window
from data_prep.config import BuildConfig
from data_prep.given import LANDMARKS, Arrays
from data_prep.manifest import Recording, Region, View, member_name
from data_prep.quality import face_share, of_clip, speech_share
from data_prep.shards import SCHEMA, decode_npz, encode_npz, sample_key
from data_prep.spill import Spill
from data_prep.views import PlannedView, ViewReader
from data_prep.who_is_who import Place, join_tracks, seats_taken

if TYPE_CHECKING:
    from data_prep.speakers import Speakers

ABOUT = "about.json"
"""In the temporary file: what meta.json says of a view's streams in a clip, and of its quality."""


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
    for package in ("kinesic", "av", "numpy", "soundfile", "mediapipe", "trackers", "dlib-bin", "silero-vad"):
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
        self._at = 0  # number of the view that is being read
        self._seats: dict[Place, Counter[str]] = {}
        self._people: dict[Place, int] = {}
        self._participants: dict[int, str] = {}
        self._ids = 0
        if config.landmarks == "given":
            self._participants = dict(enumerate(planned.recording.participants))
            self._ids = len(self._participants)
        self._speakers: Speakers | None = None
        sound = any(file.probed.audio for view in planned.views for file in view.files)
        if config.speech and sound and "audio" in config.streams:
            from data_prep.speakers import Speakers  # here: it needs torch

            pictures = [any(file.probed.video for file in view.files) for view in planned.views]
            self._speakers = Speakers([view.view for view in planned.views], pictures)

    def read(self, index: int) -> None:
        """Decodes a clip, looks at it and listens to it. Clips are read in order."""
        clip = self._planned.clips[index]
        for view, reader in enumerate(self.readers):
            self._at = view
            parts = reader.parts(index)
            if self._config.landmarks == "mediapipe":
                self._note_seats(view, parts[0].landmarks)
            if self._speakers is not None and (flac := parts[0].part.members.get("audio.flac")):
                self._speakers.hear(view, clip.start + parts[0].part.streams["audio"]["start"], flac)
            for number, (part, landmarks) in enumerate(parts):
                for stream, arrays in landmarks.items():
                    part.members[f"{stream}.npz"] = encode_npz(arrays)
                    part.streams[stream] = {"start": round(float(arrays["times"][0]), 6), "rate": self._rate(arrays)}
                if "face" in landmarks:
                    part.quality |= face_share(landmarks["face"])
                if part.members:
                    for member, content in part.members.items():
                        self._spill.put(index, f"{view}-{number}.{member}", content)
                    about = {"streams": part.streams, "quality": part.quality}
                    self._spill.put(index, f"{view}-{number}.{ABOUT}", json.dumps(about).encode())

    def _note_seats(self, view: int, landmarks: dict[str, Arrays]) -> None:
        participants = self._planned.views[view].view.participants
        seats = seats_taken(landmarks, participants)
        if self._config.people.wearer and len(participants) == 1 and participants[0].seat is None:
            wearer = self.readers[view].wearer  # a head camera's one participant wears it
            looks = np.count_nonzero(landmarks["hands"]["person"] == wearer) if "hands" in landmarks else 0
            seats = {} if wearer is None else {wearer: Counter({participants[0].id: looks})}
        for person, taken in seats.items():
            self._seats[view, person] = self._seats.get((view, person), Counter()) + taken

    def close(self) -> None:
        """All that can be read has been read: finds out who is who, and gives back what the readers hold."""
        if self._config.landmarks == "mediapipe":
            tracks = [reader.tracks for reader in self.readers]
            persons, self._participants = join_tracks(tracks, self._seats, self._config.people.face_distance)
            self._people = {place: number for number, places in enumerate(persons) for place in places}
            self._ids = len(persons)
        if self._speakers is not None:
            self._speakers.settle()
            for name in self._speakers.owners().values():  # who is only heard is a person too
                if name not in self._participants.values():
                    self._participants[self._ids] = name
                    self._ids += 1
        for reader in self.readers:
            reader.close()

    @property
    def place(self) -> tuple[str, str]:
        """(view, file) that is being read."""
        return self._planned.views[self._at].view.name, self.readers[self._at].file.source.name

    def clip(self, index: int) -> Sample | None:
        """The sample of a clip, None where no view has anything in it. All that can be read has been read before."""
        clip = self._planned.clips[index]
        members: dict[str, bytes] = {}
        views: dict[str, dict[str, Any]] = {}
        seen: set[int] = set()
        rows: list[Arrays] = []
        for key, content in self._spill.get(index).items():
            where, _, member = key.partition(".")
            number, part = (int(digits) for digits in where.split("-"))
            planned = self._planned.views[number]
            region = planned.view.regions[part - 1] if part else None
            name = member_name(planned.view.region_view(region) if region else planned.view.name)
            if member == ABOUT:
                about = self._about_view(planned, json.loads(content), clip)
                views[name] = about | _about_region(planned.view, region, about)
                continue
            if member.endswith(".npz") and "person" in (arrays := decode_npz(content)):
                arrays["person"] = self._numbered(number, arrays["person"])
                seen |= set(arrays["person"].tolist())
                content = encode_npz(arrays)
                rows += [arrays] if not part else []
            members[f"{name}.{member}"] = content
        if not members:
            return None
        speech = None
        if self._speakers is not None:
            speech = self._speakers.of_clip(clip, rows, {name: number for number, name in self._participants.items()})
            seen |= {entry["person"] for entry in speech if entry["person"] is not None}
            for name, about in views.items():
                if "audio" in about["streams"]:
                    heard = [entry for entry in speech if entry["view"] == name]
                    about["quality"] |= speech_share(heard, clip.end - clip.start)
        people = [
            {"id": person, "participant": self._participants.get(person)} for person in sorted(seen | self._known())
        ]
        return self._sample(clip, members, views, people, speech)

    def _known(self) -> set[int]:
        """People who are there whether they are seen or not: with given landmarks the manifest's participants."""
        return set(self._participants) if self._config.landmarks == "given" else set()

    def _numbered(self, view: int, persons: np.ndarray) -> np.ndarray:
        """Person ids [row] of a view -> of the recording."""
        if self._config.landmarks == "given":
            return persons
        return np.array([self._people[view, person] for person in persons.tolist()], np.int32)

    def _rate(self, arrays: Arrays) -> float:
        """Instants a second, as they lie in the clip."""
        times = arrays["times"]
        return round(float(1 / np.median(np.diff(times))), 3) if len(times) > 1 else self._config.landmark_rate

    def _about_view(self, planned: PlannedView, about: dict[str, Any], clip: Window) -> dict[str, Any]:
        """What meta.json says of a view: of several chapter files, the last one that has begun when the clip begins."""
        begun = [file for file in planned.files if file.offset <= clip.start]
        file = begun[-1] if begun else planned.files[0]
        measured = any(stream in about["streams"] for stream in LANDMARKS)
        source = {"mediapipe": f"mediapipe {tool_versions()['mediapipe']}", "given": "given"}.get(
            self._config.landmarks
        )
        return {
            "source": file.source.name,
            "sha256": file.probed.sha256,
            "offset": round(file.offset, 6),
            "drift": file.drift,
            "confidence": file.confidence,
            "participants": [participant.id for participant in planned.view.participants],
            "landmarks": source if measured else None,
            **({"aspect": round(file.probed.aspect, 6)} if file.probed.aspect else {}),
            **about,
        }

    def _sample(
        self,
        clip: Window,
        members: dict[str, bytes],
        views: dict[str, Any],
        people: list[dict],
        speech: list[dict] | None,
    ) -> Sample:
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
            **({} if speech is None else {"speech": speech}),
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
            **of_clip(view["quality"] for view in views.values()),
        }
        return Sample(key, members, row)


def _about_region(view: View, region: Region | None, whole: dict[str, Any]) -> dict[str, Any]:
    """What meta.json says otherwise of a view that is a region of another, ``whole``: its participants have a seat in it."""
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
    shape = {"aspect": round(whole["aspect"] * (x1 - x0) / (y1 - y0), 6)} if "aspect" in whole else {}
    return {"region": about, "participants": seated, **shape}
