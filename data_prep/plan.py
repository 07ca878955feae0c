"""What a build is going to do, settled before it starts: clips, keys, and which recordings share a shard.

The plan follows from the manifest, the files' contents and the settings alone, never from the number of workers or from
what was built before; so any number of interruptions ends in the same shards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from configs import plain
from data_prep.clips import clip_windows
from data_prep.clocks import Clocks, NoClockError, Probes, clock_of, place, readable
from data_prep.config import BuildConfig
from data_prep.decode import Probe
from data_prep.given import LANDMARKS, sidecar
from data_prep.manifest import Failure, Recording, Source
from data_prep.ranges import Range, cut
from data_prep.samples import PlannedRecording, tool_versions
from data_prep.shards import SCHEMA, key_bases
from data_prep.views import PlannedView

NO_BYTES = {
    *("manifest", "out", "workers", "array", "models", "shard_minutes", "sync"),
    *("memory_gb", "deadline_seconds"),
}
"""Settings that do not change a shard's bytes, or, as shard_minutes, by what it holds only."""


@dataclass(frozen=True)
class Unit:
    """What one worker does at a time: short recordings that share a shard, or a long one with shards of its own.

    ``shard_clips``: how many clips of a long recording go into a shard; 0 = all into one.
    """

    name: str
    recordings: tuple[PlannedRecording, ...]
    shard_clips: int
    skip: tuple[Failure, ...] = ()
    """recordings that a worker died of, as the lines of failures.csv that they are by now"""

    def shard_name(self, number: int) -> str:
        """The file name of its shard ``number``."""
        return f"{self.name}-{number:04d}.tar"


def plan(
    recordings: list[Recording],
    probes: Probes,
    clocks: Clocks,
    config: BuildConfig,
    ranges: Sequence[Range] | None = None,
) -> tuple[list[Unit], list[Failure]]:
    """The units of a build in manifest order, and a failure for each file or recording that cannot be used.

    ``ranges``: which part of the recordings; None = all. Of the others no file has to be probed or compared.
    """
    bases = key_bases(recording.name for recording in recordings)
    units: list[Unit] = []
    failures: list[Failure] = []
    for part in cut(recordings) if ranges is None else ranges:
        planned, faults = _plan_range(part, probes, clocks, bases, config)
        units += _units(planned, config)
        failures += faults
    return units, failures


def _plan_range(
    part: Range, probes: Probes, clocks: Clocks, bases: Mapping[str, str], config: BuildConfig
) -> tuple[list[tuple[int, PlannedRecording]], list[Failure]]:
    """The recordings of a range that give clips, each with its number in the manifest."""
    planned, failures = [], []
    for number, recording in enumerate(part.recordings, part.first):
        views, faults = _plan_views(recording, probes, clocks, config)
        failures += faults
        if not views:
            continue
        end = max(view.files[-1].end for view in views)
        clips = clip_windows(recording.windows, end, config.clip_seconds)
        if clips:
            planned.append((number, PlannedRecording(recording, bases[recording.name], tuple(views), tuple(clips))))
        else:
            reason = f"no clip of 1 s or more in it: it ends at {end:.2f} s"
            file = views[0].files[0].source.name
            failures.append(Failure(recording.name, "", file, None, reason, "correct start and end, or take it out"))
    return planned, failures


def _plan_views(
    recording: Recording, probes: Probes, clocks: Clocks, config: BuildConfig
) -> tuple[list[PlannedView], list[Failure]]:
    """The views that can be read and placed on the recording's clock; the others are left out and reported."""
    failures = [
        Failure(recording.name, view.name, source.name, None, *probed)
        for view in recording.views
        for source in view.sources
        if not isinstance(probed := probes[source.path], Probe)
    ]
    planned, views = [], readable(recording, probes)
    for view in views:
        try:
            clock = clock_of(view, views, probes, clocks, config.sync.min_confidence)
            planned.append(PlannedView(view, place(view, probes, clock)))
        except NoClockError as error:
            remedy = "give `offset` in the manifest: seconds from its clock to the recording's"
            failures.append(Failure(recording.name, view.name, view.sources[0].name, None, str(error), remedy))
    return planned, failures


def _units(planned: Iterable[tuple[int, PlannedRecording]], config: BuildConfig) -> list[Unit]:
    """Recordings in their order, as many to a shard as fit; one that is longer than a shard goes alone.

    A unit is named after the number of its first recording in the manifest: it depends on no other range.
    """
    room = 60 * config.shard_minutes
    groups: list[tuple[int, list[PlannedRecording]]] = []
    filled = math.inf
    for number, recording in planned:
        if filled + recording.load > room:
            groups.append((number, []))
            filled = 0.0
        groups[-1][1].append(recording)
        filled += recording.load
    units = []
    for number, group in groups:
        clips_a_shard = max(1, int(room / (config.clip_seconds * len(group[0].views)))) if group[0].load > room else 0
        name = f"shard-{number:05d}-{_digest(group, clips_a_shard, config)}"
        units.append(Unit(name, tuple(group), clips_a_shard))
    return units


def _digest(group: list[PlannedRecording], shard_clips: int, config: BuildConfig) -> str:
    """8 hexadecimal digits over everything that decides about the bytes of a unit's shards."""
    settings = {
        field.name: plain(getattr(config, field.name)) for field in fields(config) if field.name not in NO_BYTES
    }
    content = [
        {
            "recording": _without_paths(recording.recording),
            "key": recording.key_base,
            "clips": recording.clips,
            "files": [
                [
                    file.source.name,
                    file.probed.sha256,
                    file.offset,
                    file.drift,
                    file.confidence,
                    _given(file.source, config),
                ]
                for view in recording.views
                for file in view.files
            ],
        }
        for recording in group
    ]
    text = json.dumps([SCHEMA, tool_versions(), settings, shard_clips, content], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_paths(recording: Recording) -> list:
    """What the manifest says of a recording; where its files lie does not matter."""
    views = [
        [view.name, [source.name for source in view.sources], view.participants, view.regions]
        for view in recording.views
    ]
    return [recording.name, views, recording.split, recording.extra]


def _given(source: Source, config: BuildConfig) -> list[str]:
    """sha256 of the landmarks beside a file, where they are used."""
    if config.landmarks != "given":
        return []
    paths = [sidecar(source.path, stream) for stream in LANDMARKS]
    return [_sha256(path) for path in paths]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # not there, or not to be read: building it will say so
        return ""
