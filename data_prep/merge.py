"""``kinesic data_prep merge OUT``: what the tasks of an array have built -> one index.parquet and failures.csv.

Nothing is built here. The plan is made again from the manifest, the noted settings and what the tasks have read of the files;
so the result is that of a build in one piece, or a list of the tasks that are not finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import configs
from configs import Command, UserError
from data_prep.build import ARRAY, clear, publish, source_paths
from data_prep.clocks import Clocks, Probes, pairs
from data_prep.config import BuildConfig, MergeConfig
from data_prep.locks import locked
from data_prep.manifest import Recording, read_manifest
from data_prep.memory import ClockMemory, ProbeMemory
from data_prep.plan import plan
from data_prep.ranges import Range, cut, share
from data_prep.units import STATE, whole


def merge(config: MergeConfig) -> int:
    """Runs the command; returns 0, or 3 where tasks are not finished or anything is in failures.csv. Raises UserError."""
    task, settings = _noted(config.out)
    _, count = task
    recordings, failures = read_manifest(settings.manifest, settings.out)
    ranges = cut(recordings)
    probes = _known_probes(settings, recordings)
    clocks = _known_clocks(settings, recordings, probes)
    shares = [share(ranges, number, count) for number in range(count)]
    unfinished = [
        number for number in range(count) if not _finished(settings, recordings, probes, clocks, shares[number])
    ]
    if unfinished:
        _print_unfinished(settings, unfinished, count)
        return 3
    with locked(settings):
        units, faults = plan(recordings, probes, clocks, settings, ranges)
        records = {unit.name: record for unit in units if (record := whole(settings.out, unit)) is not None}
        clear(settings, units, ranges)
        return publish(settings, units, records, failures + faults)


def _noted(out: Path) -> tuple[tuple[int, int], BuildConfig]:
    """A task of the array, and the settings of the whole build as the tasks have noted them."""
    path = out / STATE / ARRAY
    if not path.is_file():
        raise UserError(f"{out}: no data_prep build --array K/N has been at work there")
    command = Command("", BuildConfig, "")
    noted: BuildConfig = configs.parse("data_prep", "merge", command, ["--config", str(path)])
    if noted.task is None:
        raise UserError(f"{path}: no array in it; run a task of the array again")
    return noted.task, replace(noted, out=out, array=None)


def _known_probes(config: BuildConfig, recordings: Sequence[Recording]) -> Probes:
    memory = ProbeMemory(config)
    return {path: known for path in source_paths(recordings) if (known := memory.get(path)) is not None}


def _known_clocks(config: BuildConfig, recordings: Sequence[Recording], probes: Probes) -> Clocks:
    memory = ClockMemory(config)
    read = [recording for recording in recordings if all(path in probes for path in source_paths([recording]))]
    return {one: known for one in pairs(read, probes) if (known := memory.get(one)) is not None}


def _finished(
    config: BuildConfig, recordings: list[Recording], probes: Probes, clocks: Clocks, ranges: Sequence[Range]
) -> bool:
    """Whether all files of the ranges have been read and compared, and all units that follow from that are whole."""
    ours = [recording for part in ranges for recording in part.recordings]
    if any(path not in probes for path in source_paths(ours)) or any(one not in clocks for one in pairs(ours, probes)):
        return False
    units, _ = plan(recordings, probes, clocks, config, ranges)
    return all(whole(config.out, unit) is not None for unit in units)


def _print_unfinished(config: BuildConfig, unfinished: list[int], count: int) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    numbers = " ".join(map(str, unfinished))
    console.print(f"{config.out}: {len(unfinished)} of {count} tasks are not finished: {numbers}")
    command = f"kinesic data_prep build {config.manifest} {config.out} --array {unfinished[0]}/{count}"
    console.print(f"run each again with the settings it had, and goes on where it stopped: {command}")
