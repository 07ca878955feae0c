"""The same manifest and settings give the same bytes: with landmarks, in any order, killed at random; and damage is no excuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kills, mutations
from data_prep.build import build
from data_prep.config import BuildConfig
from tests.data_prep.media import write_media

SMALL: dict[str, Any] = {"clip_seconds": 2.0, "fps": 10.0, "short_side": 96, "shard_minutes": 3 / 60}


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def test_landmarks_come_out_in_the_same_bytes(videos: dict[str, Path], models: Path, tmp_path: Path) -> None:
    """Real people, measured in one process and in two, which finish in another order."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        shutil.copy(videos["carphone_pristine.mp4"], tmp_path / "in" / f"{name}.mp4")
    one = BuildConfig(tmp_path / "in", tmp_path / "one", **SMALL, workers=1, models=models, landmark_rate=4.0)
    two = BuildConfig(tmp_path / "in", tmp_path / "two", **SMALL, workers=2, models=models, landmark_rate=4.0)
    assert build(one) == build(two) == 0
    assert len(tars(one.out)) >= 3
    assert tars(one.out) == tars(two.out)
    assert (one.out / "index.parquet").read_bytes() == (two.out / "index.parquet").read_bytes()


def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    for number in range(6):
        write_media(tmp_path / f"{number}.mkv", 4.0 + number, audio=number % 3)
    settings = ["--landmarks=none", "--clip_seconds=2", "--fps=10", "--short_side=48", "--shard_minutes=0.2"]
    assert kills.main([str(tmp_path), "--kills=3", "--workers=2", *settings]) == 0


def test_damaged_copies_of_a_real_file(videos: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty of the six hundred of docs/data.md."""
    assert mutations.main([str(videos["carphone_pristine.mp4"]), "--count=30", "--seed=1"]) == 0, capsys.readouterr()


def test_a_change_costs_the_shards_that_hold_it(tmp_path: Path) -> None:
    """Recording c in the middle of the second of three shards."""
    for name in "abcdefgh":
        write_media(tmp_path / "in" / f"{name}.mkv", 4.0, audio=0)
    settings = SMALL | {"landmarks": "none", "workers": 1, "shard_minutes": 12 / 60}
    config = BuildConfig(tmp_path / "in", tmp_path / "out", **settings)
    assert build(config) == 0
    before = {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}
    assert len(before) == 3
    (tmp_path / "in" / "labels.csv").write_text("recording,start,end,mood\na,0,2,glad\n")
    assert build(config) == 0
    assert {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")} == before

    write_media(tmp_path / "in" / "e.mkv", 4.0, audio=1)
    assert build(config) == 0
    after = {path.name: path.stat().st_mtime_ns for path in config.out.glob("*.tar")}
    kept = set(before.items()) & set(after.items())
    assert {name.split("-")[1] for name, _ in kept} == {"00000", "00006"}
    assert len(after) == 3
