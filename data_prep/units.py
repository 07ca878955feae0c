"""Building one unit of the plan in a worker process: its shards, and a record of them when they are whole.

The record is written last. A unit is whole when its record is there and each shard has the size that the record names;
whatever is interrupted before leaves temporary files only.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import av

from data_prep.config import BuildConfig
from data_prep.decode import LEAP, UnreadableError
from data_prep.given import GivenError
from data_prep.manifest import Failure
from data_prep.plan import Unit
from data_prep.pool import Report
from data_prep.quality import Dropped, reasons_to_drop
from data_prep.samples import PlannedRecording, Samples
from data_prep.shards import ShardWriter
from data_prep.spill import Spill

STATE = ".build"
"""Folder of the records, probes and temporary files of a build."""


@dataclass(frozen=True)
class UnitTask:
    """A unit with all that a worker needs."""

    unit: Unit
    config: BuildConfig
    models: Path | None


def workplace(config: BuildConfig) -> Path:
    """Where lock, probes and temporary files of a build lie. Tasks of an array run at the same time: each has its own."""
    state = config.out / STATE
    return state if config.task is None else state / "task-{}-of-{}".format(*config.task)


def record_path(out: Path, unit: Unit) -> Path:
    """The file that says that a unit is whole."""
    return out / STATE / f"{unit.name}.json"


def whole(out: Path, unit: Unit) -> dict[str, Any] | None:
    """The record of a unit whose shards are all there; None where it has to be built."""
    try:
        record = json.loads(record_path(out, unit).read_text())
        if all((out / name).stat().st_size == size for name, size in record["shards"].items()):
            return record
    except (OSError, ValueError):
        pass
    return None


def build_unit(task: UnitTask, report: Report) -> dict[str, Any]:
    """Writes the shards of a unit and its record, which it returns.

    Reports (recording, seconds of views done) as it goes on. What goes wrong with a recording is a failure in the record.
    """
    unit, out = task.unit, task.config.out
    shards, rows = {}, []
    failures, dropped = list(unit.skip), []
    skipped = {failure.recording for failure in unit.skip}
    shelf = _Shelf(unit, task.config)
    try:
        for planned in unit.recordings:
            if planned.recording.name not in skipped:
                faults, clips = _build_recording(planned, task, shelf, report)
                failures += faults
                dropped += clips
        shards, rows = shelf.close()
    finally:
        shelf.discard()
    record = {"shards": shards, "rows": rows}
    record |= {"failures": [asdict(failure) for failure in failures], "dropped": [asdict(clip) for clip in dropped]}
    temporary = workplace(task.config) / f"{unit.name}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(record, ensure_ascii=False))
    temporary.replace(record_path(out, unit))
    return record


class _Shelf:
    """The shards of a unit that are being written; they get their names only when all of them are complete."""

    def __init__(self, unit: Unit, config: BuildConfig) -> None:
        self._unit, self._config = unit, config
        self._writers: dict[int, ShardWriter] = {}

    def writer(self, number: int) -> ShardWriter:
        """The shard ``number`` of the unit."""
        if number not in self._writers:
            for writer in self._writers.values():
                writer.finish()
            name = self._unit.shard_name(number)
            temporary = workplace(self._config) / f"{name}.{os.getpid()}.tmp"
            self._writers[number] = ShardWriter(self._config.out / name, temporary)
        return self._writers[number]

    def close(self) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """Names the shards; returns their sizes by name and the rows of the index."""
        sizes = {writer.path.name: writer.publish() for writer in self._writers.values() if writer.rows}
        return sizes, [row for writer in self._writers.values() for row in writer.rows]

    def discard(self) -> None:
        """Removes what has no name yet."""
        for writer in self._writers.values():
            writer.discard()


def _build_recording(
    planned: PlannedRecording, task: UnitTask, shelf: _Shelf, report: Report
) -> tuple[list[Failure], list[Dropped]]:
    """Writes the samples of a recording as far as it goes; says what was wrong with it and what the filters left out."""
    dropped = []
    report((planned.recording.name, 0.0))
    with closing(Spill(workplace(task.config))) as spill:
        samples, read, failures = _read_recording(planned, task, spill, report)
        for index in range(read):
            assert samples is not None
            sample = samples.clip(index)
            if sample is not None and (reasons := reasons_to_drop(task.config.filters, sample.row)):
                row = sample.row
                dropped.append(Dropped(row["recording"], row["start"], row["end"], "; ".join(reasons)))
            elif sample is not None:
                shelf.writer(index // task.unit.shard_clips if task.unit.shard_clips else 0).write(*sample)
            report((planned.recording.name, 0.0))
    return failures, dropped


def _read_recording(
    planned: PlannedRecording, task: UnitTask, spill: Spill, report: Report
) -> tuple[Samples | None, int, list[Failure]]:
    """Reads the clips of a recording as far as it goes: its samples, how many clips were read, and what was wrong."""
    name = planned.recording.name
    done, samples = 0, None
    try:
        samples = Samples(planned, task.config, task.models, spill)
        for clip in planned.clips:
            samples.read(done)
            done += 1
            report((name, (clip.end - clip.start) * len(planned.views)))
        return samples, done, _damage(planned, samples)
    except Exception as error:  # any library below may raise anything on a damaged file: it costs this recording only
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise  # the disk is full or not ours: nothing to do with this recording
        view, file = samples.place if samples is not None else ("", planned.views[0].files[0].source.name)
        failure = Failure(name, view, file, planned.clips[done].start, *_why(error, task))
        if isinstance(error, GivenError):
            failure = replace(failure, path=error.args[0])
    finally:
        if samples is not None:
            samples.close()
    return samples, done, [failure]


def _why(error: Exception, task: UnitTask) -> tuple[str, str]:
    """The reason and the remedy that failures.csv gives for what ended the reading of a recording."""
    if isinstance(error, GivenError):
        return error.args[1], "write the file again, or take it away"
    if isinstance(error, UnreadableError):  # it changed since it was probed
        return error.args[0], error.args[1]
    if isinstance(error, MemoryError):
        remedy = f"make its pictures smaller with ffmpeg, or raise memory_gb and delete {STATE}/{task.unit.name}.json"
        return f"it needs more memory than memory_gb: {task.config.memory_gb:g}", remedy
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return reason, "convert it with ffmpeg; clips before are kept"


def _damage(planned: PlannedRecording, samples: Samples) -> list[Failure]:
    """What could not be decoded on the way: the clips are there, but what was seen before stands still in them."""
    failures = []
    for view, reader in zip(planned.views, samples.readers, strict=True):
        for file in view.files:
            damage = reader.damage[file.source.name]
            missing = f"it ends at {file.probed.duration:.1f} s, {file.probed.missing:.1f} s before its header says"
            reasons = [f"packets that cannot be decoded: {damage.packets} ({damage.reason})"] if damage.packets else []
            reasons += [f"pictures that are damaged: {damage.pictures}"] if damage.pictures else []
            reasons += [f"time stamps that do not grow: {damage.stamps}, left out"] if damage.stamps else []
            wrong = bool(reasons)
            reasons += [missing] if file.probed.missing else []
            if file.probed.strays:
                at, strays = file.probed.stray, file.probed.strays
                reasons.append(f"{strays} packets whose time stamps leap by more than {LEAP:g} s, from {at:.1f} s on")
            if reasons:
                start = file.at(damage.first) if wrong else file.end
                failures.append(
                    Failure(
                        planned.recording.name,
                        view.view.name,
                        file.source.name,
                        round(start, 3),
                        "; ".join(reasons),
                        "copy it again; what could be read is in the shards",
                    )
                )
    return failures
