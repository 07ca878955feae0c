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
from data_prep.build import ARRAY, ProbeMemory, clear, publish, source_paths
from data_prep.config import BuildConfig, MergeConfig
from data_prep.locks import locked
from data_prep.manifest import Recording, read_manifest
from data_prep.plan import Probes, plan
from data_prep.ranges import Range, cut, share
from data_prep.units import STATE, whole


def merge(config: MergeConfig) -> int:
    """Runs the command; returns 0, or 3 where tasks are not finished or anything is in failures.csv. Raises UserError."""
    task, settings = _noted(config.out)
    _, count = task
    recordings, failures = read_manifest(settings.manifest, settings.out)
    ranges = cut(recordings)
    probes = _known_probes(settings, recordings)
    shares = [share(ranges, number, count) for number in range(count)]
    unfinished = [number for number in range(count) if not _finished(settings, recordings, probes, shares[number])]
    if unfinished:
        _print_unfinished(settings, unfinished, count)
        return 3
    with locked(settings):
        units, faults = plan(recordings, probes, settings, ranges)
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


def _finished(config: BuildConfig, recordings: list[Recording], probes: Probes, ranges: Sequence[Range]) -> bool:
    """Whether all files of the ranges have been read, and all units that follow from that are whole."""
    if any(path not in probes for part in ranges for path in source_paths(part.recordings)):
        return False
    units, _ = plan(recordings, probes, config, ranges)
    return all(whole(config.out, unit) is not None for unit in units)


def _print_unfinished(config: BuildConfig, unfinished: list[int], count: int) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    numbers = " ".join(map(str, unfinished))
    console.print(f"{config.out}: {len(unfinished)} of {count} tasks are not finished: {numbers}")
    command = f"kinesic data_prep build {config.manifest} {config.out} --array {unfinished[0]}/{count}"
    console.print(f"run each again with the settings it had, and goes on where it stopped: {command}")
