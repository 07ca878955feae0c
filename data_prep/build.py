"""``kinesic data_prep build MANIFEST OUT``: recordings -> shards, index.parquet, failures.csv.

Read the manifest, probe every file, plan, build the units that are not whole in several processes, write the index.
Stopped at any moment, the same command goes on with what is left and ends in the same bytes.
With ``--array K/N`` it does so for a share of the recordings; ``data_prep merge`` then writes index and failures.
"""

from __future__ import annotations

import csv
import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs import plain, write_run_record
from data_prep.clocks import pairs
from data_prep.config import BuildConfig
from data_prep.decode import UnreadableError, probe
from data_prep.given import LANDMARKS
from data_prep.locks import locked
from data_prep.manifest import Failure, Recording, read_manifest
from data_prep.memory import PROBES, ClockMemory, ProbeMemory
from data_prep.plan import Unit, plan
from data_prep.pool import KILLED, News, Pool, Report
from data_prep.quality import Dropped
from data_prep.ranges import Range, cut, share
from data_prep.shards import INDEX, write_index
from data_prep.sync import Clock, Pair, SyncTask, measure
from data_prep.units import STATE, UnitTask, build_unit, whole, workplace

FAILURES, DROPPED = "failures.csv", "dropped.csv"
ARRAY = "array.yaml"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors of writing, whichever task meets them."""


def build(config: BuildConfig) -> int:
    """Runs the command; returns 0, or 3 where anything is in failures.csv. Raises UserError where nothing can be done."""
    recordings, failures = read_manifest(config.manifest, config.out)
    ranges = cut(recordings)
    if config.task:
        ranges = share(ranges, *config.task)
    with locked(config):
        if config.task:
            _note_array(config)
        models = _models(config)
        workers = config.workers or len(os.sched_getaffinity(0))
        silence = config.deadline_seconds * max(1.0, config.clip_seconds / 10)
        memory = round(config.memory_gb * 1e9)
        with Pool(_do, workers, silence, ["data_prep.units", "webdataset"], memory) as pool, _progress() as progress:
            ours = [recording for part in ranges for recording in part.recordings]
            probes = _probe_all(ours, config, pool, progress)
            clocks = _compare_all(pairs(ours, probes), config, pool, progress)
            units, faults = plan(recordings, probes, clocks, config, ranges)
            clear(config, units, ranges)
            records = _build_all(units, config, models, pool, progress)
        if config.task:
            _summarize_task(config, units, faults, records)
            return 0  # done; what failed is for merge to say
        return publish(config, units, records, failures + faults)


def publish(config: BuildConfig, units: list[Unit], records: dict[str, dict[str, Any]], failures: list[Failure]) -> int:
    """Writes index, failures and settings of a build whose units are all whole; returns 0, or 3 where there are failures."""
    failures = failures + [Failure(**failure) for unit in units for failure in records[unit.name]["failures"]]
    rows = [row for unit in units for row in records[unit.name]["rows"]]
    dropped = [Dropped(**clip) for unit in units for clip in records[unit.name]["dropped"]]
    _write_table(config.out / FAILURES, Failure, failures)
    _write_table(config.out / DROPPED, Dropped, dropped)
    write_run_record(config.out, config)
    write_index(config.out, rows)
    _summarize(config.out, rows, failures, dropped)
    return 3 if failures else 0


def _note_array(config: BuildConfig) -> None:
    """Writes down what merge has to know: the settings of the build, and how many tasks share it."""
    noted = replace(config, manifest=config.manifest.absolute(), out=config.out.absolute())
    temporary = workplace(config) / f"{ARRAY}.tmp"
    temporary.write_text(yaml.safe_dump(plain(noted), sort_keys=False))
    temporary.replace(config.out / STATE / ARRAY)


def _models(config: BuildConfig) -> Path | None:
    """The folder of the landmark models, fetched before the workers start; None where they are not needed."""
    if config.landmarks != "mediapipe" or not (config.blur_faces or set(LANDMARKS) & set(config.streams)):
        return None
    from data_prep.landmark_models import find

    return find(config.models, hands="hands" in config.streams)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def _do(task: Any, report: Report) -> Any:
    """What a worker does with a task: a path is probed, two views are compared, a unit is built."""
    if isinstance(task, UnitTask):
        return build_unit(task, report)
    try:
        return measure(task, report) if isinstance(task, SyncTask) else probe(task, lambda: report("alive"))
    except UnreadableError as error:
        return error.args


def _probe_all(recordings: list[Recording], config: BuildConfig, pool: Pool, progress: Progress) -> dict[Path, Any]:
    """What each file holds, or (why it cannot be read, what to do); files that have not changed are not read again."""
    memory = ProbeMemory(config)
    paths = source_paths(recordings)
    probes = {path: known for path in paths if (known := memory.get(path)) is not None}
    bar = progress.add_task("reading files", total=len(paths), unit="files")
    progress.advance(bar, len(probes))
    for news in pool.run(path for path in paths if path not in probes):
        if news.kind == "note":
            continue
        probes[news.task] = _outcome(news)
        memory.put(news.task, probes[news.task])
        progress.advance(bar)
    return probes


def source_paths(recordings: Iterable[Recording]) -> list[Path]:
    """The files of recordings, each once."""
    return list(dict.fromkeys(source.path for r in recordings for view in r.views for source in view.sources))


def _compare_all(found: list[Pair], config: BuildConfig, pool: Pool, progress: Progress) -> dict[Pair, Clock | str]:
    """The clocks of the views that the manifest gives no offset; files that have not changed are not compared again."""
    memory = ClockMemory(config)
    clocks = {one: known for one in found if (known := memory.get(one)) is not None}
    bar = progress.add_task("comparing sound", total=len(found), unit="views", visible=bool(found))
    progress.advance(bar, len(clocks))
    for news in pool.run(SyncTask(one, workplace(config)) for one in found if one not in clocks):
        if news.kind == "note":
            continue
        outcome = _outcome(news)
        clocks[news.task.pair] = outcome if isinstance(outcome, Clock) else outcome[0]
        memory.put(news.task.pair, clocks[news.task.pair])
        progress.advance(bar)
    return clocks


def _outcome(news: News) -> Any:
    """The result of a task, or (reason, remedy)."""
    if news.kind == "died":
        remedy = f"convert it with ffmpeg, or raise deadline_seconds or memory_gb and delete {STATE}/{PROBES}"
        return f"a process that read it was lost: {news.value}", remedy
    if isinstance(news.value, MemoryError):
        remedy = f"make its pictures smaller with ffmpeg, or raise memory_gb and delete {STATE}/{PROBES}"
        return "it needs more memory than memory_gb", remedy
    if isinstance(news.value, OSError) and news.value.errno in FULL:
        raise news.value
    if news.kind == "error":
        return f"{type(news.value).__name__}: {news.value}", "convert it with ffmpeg"
    return news.value


def clear(config: BuildConfig, units: list[Unit], ranges: Sequence[Range]) -> None:
    """Removes shards and records that are not of this plan, temporary files, and an index that will not hold any more.

    A task of an array does so among the shards that begin with a recording of its own.
    """
    out, names = config.out, {unit.name for unit in units}
    ours = {part.first + k for part in ranges for k in range(len(part.recordings))}
    stale = [
        path
        for path in (*out.glob("shard-*.tar"), *(out / STATE).glob("shard-*.json"))
        if (match := re.match(r"shard-(\d+)-[0-9a-f]{8}", path.name))
        and match[0] not in names
        and (config.task is None or int(match[1]) in ours)
    ]
    if stale or any(whole(out, unit) is None for unit in units):
        (out / INDEX).unlink(missing_ok=True)
    for path in (*stale, *workplace(config).rglob("*.tmp")):
        path.unlink(missing_ok=True)


def _build_all(
    units: list[Unit], config: BuildConfig, models: Path | None, pool: Pool, progress: Progress
) -> dict[str, dict[str, Any]]:
    """The records of all units; those that are not whole are built."""
    records = {unit.name: record for unit in units if (record := whole(config.out, unit)) is not None}
    loads = {unit.name: sum(recording.load for recording in unit.recordings) for unit in units}
    done = sum(loads[name] for name in records)
    bar = progress.add_task("building", total=sum(loads.values()) / 60, unit="min of views")
    progress.advance(bar, done / 60)
    again: set[tuple[str, str]] = set()  # (unit, recording) whose worker was killed once
    at: dict[str, tuple[str, float]] = {}  # unit -> the recording that its worker is at, seconds done
    for news in pool.run(UnitTask(unit, config, models) for unit in units if unit.name not in records):
        unit = news.task.unit
        name, seconds = at.get(unit.name, ("", 0.0))
        if news.kind == "note":
            at[unit.name] = news.value[0], seconds + news.value[1]
            progress.advance(bar, news.value[1] / 60)
            continue
        at.pop(unit.name, None)
        if news.kind == "done":
            records[unit.name] = news.value
            progress.advance(bar, (loads[unit.name] - seconds) / 60)
        else:
            progress.advance(bar, -seconds / 60)
            if news.kind == "error":
                raise news.value  # the disk is full, or a mistake of ours; not one of a file
            if news.value == KILLED and (unit.name, name) not in again:
                # by somebody, or by want of memory: the recording may have had no part in it
                again.add((unit.name, name))
                pool.add(news.task)
            else:
                reason = f"the process that worked on it was lost: {news.value}"
                pool.add(replace(news.task, unit=_without(unit, name, reason)))
    return records


def _without(unit: Unit, name: str, reason: str) -> Unit:
    """The unit to build instead when a worker died of one of its recordings (of all, where it is not known which)."""
    skipped = {failure.recording for failure in unit.skip}
    culprits = [r for r in unit.recordings if r.recording.name not in skipped and name in ("", r.recording.name)]
    remedy = f"convert it with ffmpeg, or raise memory_gb or deadline_seconds and delete {STATE}/{unit.name}.json"
    lines = [Failure(r.recording.name, "", r.views[0].files[0].source.name, None, reason, remedy) for r in culprits]
    return replace(unit, skip=(*unit.skip, *lines))


def _write_table(path: Path, kind: type, lines: Sequence[Any]) -> None:
    """A CSV file with a line each of a dataclass."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(kind))
        writer.writerows(astuple(line) for line in lines)
    temporary.replace(path)


def _summarize_task(
    config: BuildConfig, units: list[Unit], faults: list[Failure], records: dict[str, dict[str, Any]]
) -> None:
    rows = sum(len(records[unit.name]["rows"]) for unit in units)
    failures = len(faults) + sum(len(records[unit.name]["failures"]) for unit in units)
    print(f"{config.out}: task {config.array} is done: {rows} clips, {failures} failures")
    print(f"when all tasks are: kinesic data_prep merge {config.out}")


def _summarize(out: Path, rows: list[dict[str, Any]], failures: list[Failure], dropped: list[Dropped]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    hours = sum(row["end"] - row["start"] for row in rows) / 3600
    megabytes = sum(row["length"] for row in rows) / 1e6
    recordings = len({row["recording"] for row in rows})
    shards = len({row["shard"] for row in rows})
    console.print(
        f"{out}: {recordings} recordings, {len(rows)} clips, {hours:.2f} h, {shards} shards, {megabytes:.0f} MB"
    )
    if dropped:
        why = Counter(reason.split()[0] for clip in dropped for reason in clip.reason.split("; "))
        listed = ", ".join(f"{name} {count}" for name, count in why.most_common())
        console.print(f"{len(dropped)} clips left out by the filters ({listed}): {out / DROPPED}")
    for failure in failures[:20]:
        where = " ".join(
            filter(None, [failure.recording, failure.view if failure.view != "main" else "", failure.path])
        )
        start = "" if failure.start is None else f" from {failure.start:g} s"
        line = f"{where}{start}: {failure.reason}; {failure.remedy}"
        console.print("  " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in line))  # names may hold newlines
    if failures:
        more = f" ({len(failures) - 20} more there)" if len(failures) > 20 else ""
        console.print(f"{len(failures)} failures in {out / FAILURES}{more}")
