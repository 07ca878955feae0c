"""A tiny recipe, shards in which clips lack streams, and one uninterrupted run on two processes for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from clips_for_tests import tiny_model
from runs_for_tests import STEPS, start

from configs import plain
from data_prep.shards import ShardWriter, read_index, read_sample, write_index


@pytest.fixture(scope="session")
def patchy(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated clips, but a third has video alone and a third sound alone."""
    folder = tmp_path_factory.mktemp("patchy")
    index = read_index(shards).to_dict("records")
    rows = []
    for part in range(2):
        writer = ShardWriter(folder / f"shard-{part}.tar", folder / ".shard.tmp")
        for number, row in enumerate(index):
            if number % 2 == part:
                kept = {0: ".mp4", 1: ".flac", 2: ""}[number % 3]
                sample = read_sample(shards, row)
                members = {name: data for name, data in sample.items() if name.endswith(kept) and name != "__key__"}
                about = {name: row[name] for name in ("recording", "start", "end", "split", "people")}
                writer.write(row["key"], {**members, "meta.json": sample["meta.json"]}, about)
        writer.publish()
        rows += writer.rows
    write_index(folder, rows)
    return folder


@pytest.fixture(scope="session")
def recipe(patchy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on these shards that takes seconds: 12 steps of 2 clips, a checkpoint every other step."""
    model = plain(tiny_model())
    settings = {
        "batch": 2, "steps": STEPS, "checkpoint_every": 2, "log_every": 4, "seed": 3,
        "data": {"shards": str(patchy), "workers": 0, "statistics_clips": 6},
        "mask": {"kinds": {"random": 1.0, "stream": 1.0, "partner": 1.0, "future": 1.0}},
        "weights": {"partner": 3.0, "face": 0.5, "future/pose": 2.0},
        "optimizer": {"warmup_steps": 3, "lr": 0.003},
        "model": {name: value for name, value in model.items() if name != "streams"} | {"streams": model["streams"]},
    }  # fmt: skip
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture(scope="session")
def two_processes(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run on two processes, ZeRO 2."""
    out = tmp_path_factory.mktemp("two") / "run"
    assert start(recipe, out, "--zero_stage", "2").wait(300) == 0, out.with_suffix(".log").read_text()
    return out
