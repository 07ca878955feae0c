"""Builds whose worker processes crash on a recording, or are killed from outside."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from data_prep.build import _build_all, _progress
from data_prep.config import BuildConfig
from data_prep.decode import probe
from data_prep.manifest import read_manifest
from data_prep.plan import Unit, plan
from data_prep.pool import Pool, Report
from data_prep.units import build_unit
from tests.data_prep.media import write_media
from tests.data_prep.test_build import SMALL


def build_or_crash(task: Any, report: Report) -> dict[str, Any]:
    """A unit's work on a machine where the recording b kills whatever decodes it."""
    for planned in task.unit.recordings:
        report((planned.recording.name, 0.0))
        if planned.recording.name == "b" and not task.unit.skip:
            os.kill(os.getpid(), signal.SIGSEGV)
    return build_unit(task, report)


def planned_units(tmp_path: Path) -> tuple[BuildConfig, list[Unit]]:
    """Three recordings in one unit."""
    for name in "abc":
        write_media(tmp_path / "in" / f"{name}.mkv", 2.0, audio=0)
    config = BuildConfig(tmp_path / "in", tmp_path / "out", **SMALL)
    (config.out / ".build").mkdir(parents=True)
    recordings, _ = read_manifest(config.manifest)
    files = [source.path for recording in recordings for view in recording.views for source in view.sources]
    units, _ = plan(recordings, {path: probe(path) for path in files}, {}, config)
    return config, units


def test_a_crash_costs_its_recording_only(tmp_path: Path) -> None:
    config, units = planned_units(tmp_path)
    with Pool(build_or_crash, 1, 60.0, []) as pool, _progress() as progress:
        (record,) = _build_all(units, config, None, pool, progress).values()
    assert [row["recording"] for row in record["rows"]] == ["a", "c"]
    (line,) = record["failures"]
    assert line["recording"] == "b"
    assert "SIGSEGV" in line["reason"]


def build_or_be_killed(task: Any, report: Report) -> dict[str, Any]:
    """A unit's work, whose process somebody kills once while it is at the recording b."""
    mark = task.config.out / "killed"
    for planned in task.unit.recordings:
        report((planned.recording.name, 0.0))
        if planned.recording.name == "b" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return build_unit(task, report)


def test_who_is_killed_from_outside_is_tried_again(tmp_path: Path) -> None:
    config, units = planned_units(tmp_path)
    with Pool(build_or_be_killed, 1, 60.0, []) as pool, _progress() as progress:
        (record,) = _build_all(units, config, None, pool, progress).values()
    assert [row["recording"] for row in record["rows"]] == ["a", "b", "c"]
    assert record["failures"] == []
