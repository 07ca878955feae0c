"""A user's own streams, declared in a recipe and nowhere else: shards -> pretraining -> release -> features, by the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import data_prep.__main__
import finetune.__main__
import pretrain.__main__
from data_prep.shards import ShardWriter, encode_npz, read_index, read_sample, write_index
from pretrain.tracking import read_metrics

STREAMS = {
    "audio": {"features": 16, "cell_seconds": 0.01, "cells_per_token": 50},
    "gaze": {"features": 3, "cell_seconds": 0.1, "cells_per_token": 5},  # of each person
    "room": {"features": 1, "cell_seconds": 0.5, "cells_per_token": 2},  # of the scene
}
MODEL = {
    "dim": 48, "layers": 2, "heads": 3, "mlp_dim": 96, "image_height": 32, "image_width": 32, "frame_rate": 8.0,
    "decoder_dim": 24, "decoder_layers": 1, "decoder_heads": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def own_shards(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated clips with two more streams, of which one lacks now and then."""
    folder = tmp_path_factory.mktemp("own")
    writer = ShardWriter(folder / "shard-0.tar", folder / ".shard.tmp")
    rng = np.random.default_rng(0)
    for number, row in enumerate(read_index(shards).to_dict("records")):
        sample = {name: data for name, data in read_sample(shards, row).items() if name != "__key__"}
        times = np.repeat(np.arange(0, 4, 0.1), 2)
        people = np.tile([0, 1], len(times) // 2)
        sample["gaze.npz"] = encode_npz({"times": times, "values": rng.normal(0, 1, (len(times), 3)), "person": people})
        if number % 3:
            times = np.arange(0, 4, 0.5)
            sample["room.npz"] = encode_npz({"times": times, "values": rng.normal(20, 1, (len(times), 1))})
        about = {name: row[name] for name in ("recording", "start", "end", "split", "people")}
        writer.write(row["key"], sample, about)
    writer.publish()
    write_index(folder, writer.rows)
    return folder


def recipe(shards: Path, folder: Path, **streams: dict) -> Path:
    settings = {
        "batch": 4, "steps": 3, "log_every": 1,
        "data": {"shards": str(shards), "workers": 0, "statistics_clips": 6},
        "mask": {"kinds": {"random": 1.0, "stream": 1.0, "partner": 1.0, "future": 1.0}},
        "weights": {"gaze": 2.0, "stream/room": 3.0},
        "optimizer": {"warmup_steps": 1},
        "model": MODEL | {"streams": STREAMS | streams},
    }  # fmt: skip
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_streams_of_a_recipe_are_learnt_and_give_features(own_shards: Path, tmp_path: Path) -> None:
    assert data_prep.__main__.main(["check", str(own_shards)]) == 0
    run, release, table = tmp_path / "run", tmp_path / "release", tmp_path / "features.parquet"
    assert pretrain.__main__.main(["run", "--config", str(recipe(own_shards, tmp_path)), "--out", str(run)]) == 0
    rows = read_metrics(run / "metrics.csv")
    for name in ("gaze", "room"):
        losses = [float(row[f"loss_{name}"]) for row in rows if row[f"loss_{name}"]]
        assert losses
        assert np.isfinite(losses).all()
    assert any(row["loss_partner/gaze"] or row["loss_future/gaze"] or row["loss_stream/gaze"] for row in rows)
    assert (run / "reconstructions.png").stat().st_size > 0
    assert pretrain.__main__.main(["release", str(run), str(release)]) == 0
    extract = ["extract", "--encoder", str(release), str(own_shards), "--out", str(table)]
    assert finetune.__main__.main(extract) == 0
    found = pd.read_parquet(table)
    assert set(found["stream"]) == {"video", *STREAMS}
    gaze, room = (found[found["stream"] == name] for name in ("gaze", "room"))
    assert set(gaze["person"]) == {0, 1}
    assert room["person"].isna().all()
    assert len(gaze) == 2 * found["recording"].nunique() * 4
    assert len(room) < len(gaze) / 2  # absent where the clip lacks it
    assert np.isfinite(np.stack(found["feature"])).all()


def test_a_stream_of_other_numbers_is_one_line(
    own_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single number a row would else be taken for all of them."""
    wrong = recipe(own_shards, tmp_path, room={"features": 2, "cell_seconds": 0.5, "cells_per_token": 2})
    assert pretrain.__main__.main(["run", "--config", str(wrong), "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "room" in line]
    assert "values of room.npz are [8, 1], not [row, 2] as model.streams.room says" in line
