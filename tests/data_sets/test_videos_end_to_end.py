"""Something-Something v2, Kinetics and Seamless Interaction the whole way by their recipes, on trees of their layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data_prep.__main__
import finetune.__main__
import pretrain.__main__
from data_prep.shards import read_index, read_sample
from tests.data_sets.kinetics_tree import write_kinetics
from tests.data_sets.seamless_tree import THIRD, write_seamless
from tests.data_sets.ssv2_tree import write_ssv2
from tests.data_sets.words import SMALL, STEPS, words


def manifest(name: str, root: Path, folder: Path, *more: str) -> None:
    """m.csv and labels.parquet of a set in a folder."""
    line = ["manifest", name, str(root), str(folder / "m.csv"), "--labels", str(folder / "labels.parquet"), *more]
    assert data_prep.__main__.main(line) == 0


def build_and_pretrain(name: str, folder: Path, **of_build: object) -> None:
    """Shards and release in the same folder."""
    given = {"fps": 8, "short_side": 48, "workers": 1} | of_build
    line = ["build", str(folder / "m.csv"), str(folder / "shards"), "--config", name, *words(**given)]
    assert data_prep.__main__.main(line) == 0
    settings = STEPS | {f"model.{key}": value for key, value in SMALL.items()} | {"data.shards": folder / "shards"}
    line = ["run", "--config", name, "--out", str(folder / "run"), *words(**settings, zero_stage=0)]
    assert pretrain.__main__.main(line) == 0
    assert pretrain.__main__.main(["release", str(folder / "run"), str(folder / "release")]) == 0


def run(name: str, folder: Path, target: str, **more: object) -> None:
    given = {"encoder": folder / "release", "data": folder / "shards", "labels": folder / "labels.parquet"}
    given |= {"target": target, "out": folder / "tuned", "workers": 0, "training.epochs": 1} | more
    assert finetune.__main__.main(["run", "--config", name, *words(**given)]) == 0


@pytest.mark.parametrize(("name", "write"), [("ssv2", write_ssv2), ("kinetics", write_kinetics)])
def test_classes_of_videos_from_the_folders_to_the_official_figures(name: str, write, tmp_path: Path) -> None:
    manifest(name, write(tmp_path / "data"), tmp_path)
    build_and_pretrain(name, tmp_path)
    run(name, tmp_path, "action")
    predictions = pd.read_csv(tmp_path / "tuned" / "predictions.csv", dtype={"recording": str})
    assert set(predictions["split"]) == {"test_validation"}
    score = ["score", name, str(tmp_path / "tuned"), "--out", str(tmp_path / "score")]
    assert finetune.__main__.main(score) == 0
    table = pd.read_csv(tmp_path / "score" / "scores.csv").set_index(["row", "metric"])["value"]
    method = "adapter" if name == "ssv2" else "attentive"
    assert table[method, "videos"] == 2
    right = (predictions["prediction"] == predictions["target"]).mean()
    assert table[method, "top-1"] == pytest.approx(100 * right)
    assert table["majority", "top-5"] == 100  # of three classes the right one is always among five
    assert table["majority", "top-1"] == 50  # two classes are the largest of train, one of each is tested
    assert "VideoMAE ViT-S, no extra data" in (tmp_path / "score" / "score.html").read_text()


def write_poses(files: Path) -> None:
    """VIDEO.mp4.pose.npz beside every video: its one person, numbered as the manifest names the two of a recording."""
    for file in files.rglob("*.mp4"):
        both = sorted(other.name for other in files.rglob(f"{file.name.rsplit('_', 1)[0]}_*.mp4"))
        rows = {"window": np.arange(32), "person": np.full(32, both.index(file.name))}
        rows |= {"keypoints": np.full((32, 33, 4), 0.5, np.float32), "world": np.zeros((32, 33, 3), np.float32)}
        np.savez(f"{file}.pose.npz", times=np.arange(32) / 8, score=np.ones(32, np.float32), **rows)


def test_who_speaks_in_seamless_interaction(tmp_path: Path) -> None:
    """Each window of each person has the own label: times and ids of the archives stay with whom they are about."""
    root = write_seamless(tmp_path / "data", tmp_path / "scratch")
    manifest("seamless", root, tmp_path, "--unpacked", str(tmp_path / "files"))
    write_poses(tmp_path / "files")  # drawn pictures show nobody
    build_and_pretrain("seamless", tmp_path, landmarks="given", speech="false", clip_seconds=4)
    index = read_index(tmp_path / "shards")
    assert sorted(index["split"]) == ["test", "train", "val"]
    row = index[index["recording"] == THIRD].iloc[0]
    meta = json.loads(read_sample(tmp_path / "shards", row)["meta.json"])
    assert [person["participant"] for person in meta["people"]] == ["P0003", "P0004"]
    run("seamless", tmp_path, "speaks", method="linear", streams="[video,audio,pose]", baselines="false")
    table = pd.read_csv(tmp_path / "tuned" / "predictions.csv")
    assert set(table["recording"]) == {THIRD}
    said = table.set_index(["participant", "start"])["target"]
    assert [said["P0003", second] for second in (0.0, 1.0, 2.0, 3.0)] == ["yes", "yes", "no", "no"]
    assert [said["P0004", second] for second in (0.0, 1.0, 2.0, 3.0)] == ["no", "no", "yes", "yes"]
