"""A tiny recipe, shards in which clips lack streams, one uninterrupted run on two processes, and a release of drawn weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from clips_for_tests import tiny_mask, tiny_model
from runs_for_tests import STEPS, start
from safetensors.torch import save_file

from configs import plain
from data_prep.shards import ShardWriter, read_index, read_sample, write_index
from pretrain.checkpoint import consolidated
from pretrain.config import DataConfig, ReleaseConfig, RunConfig
from pretrain.objective import MaskedAutoencoder
from pretrain.release import release
from pretrain.schema import SCHEMA


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


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MaskedAutoencoder]:
    """What a run leaves behind, as far as a release reads it, with weights drawn at random."""
    folder = tmp_path_factory.mktemp("secret_hospital") / "run"
    mask = tiny_mask()
    mask.target, mask.teacher = "teacher", Path("/data/secret_hospital/teacher")
    config = RunConfig(folder, DataConfig(Path("/data/secret_hospital/shards")), tiny_model(), mask)
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.model, tiny_mask())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    written = folder / "checkpoints" / "step-00000040"
    written.mkdir(parents=True)
    save_file(consolidated(model), written / "weights.safetensors")
    (written / "config.json").write_text(json.dumps({"schema": SCHEMA, "state": {"step": 40}, "config": plain(config)}))
    summary = {"clips": 24, "recordings": 6, "hours": 0.0267, "people": 5, "streams": {"video": 24, "audio": 20}}
    summary["shards"] = {"shard-0.tar": "0" * 64, "shard-1.tar": "1" * 64}
    prepared = {"manifest": "/data/secret_hospital/list.csv", "clip_seconds": 4.0, "streams": ["video", "audio"]}
    (folder / "data.json").write_text(json.dumps({"summary": summary, "preprocessing": prepared}))
    (folder / "versions.json").write_text(json.dumps({"packages": {"torch": "2.14.1"}, "command": ["secret_hospital"]}))
    (folder / "metrics.csv").write_text(
        "step,loss_video,loss_audio,loss_face,loss_pose\n1,1.5,2.5,,\n40,0.5,1.25,,\n41,99,99,,\n"
    )
    return folder, model


@pytest.fixture
def released(drawn_run: tuple[Path, MaskedAutoencoder], tmp_path: Path) -> Path:
    """Its release, anew for every test."""
    release(ReleaseConfig(drawn_run[0], tmp_path / "release"))
    return tmp_path / "release"
