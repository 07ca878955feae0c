"""EPIC-KITCHENS-100 the whole way by its recipes on a tree of its layout: manifest, shards, pretraining, verb and noun, the
official figures, the submission. Hands are given and pictures small; nothing else is other than with the real data."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data_prep.__main__
import finetune.__main__
import pretrain.__main__
from data_prep.shards import read_index, read_sample
from tests.data_sets.epic_tree import VIDEOS, write_epic
from tests.data_sets.words import SMALL, STEPS, words


def write_hands(root: Path) -> None:
    """VIDEO.MP4.hands.npz beside every video: the wearer's right hand, eight times a second."""
    for file in root.rglob("*.MP4"):
        count = round(8 * VIDEOS[file.stem][1])
        keypoints = np.tile(np.linspace(0.3, 0.7, count, dtype=np.float32)[:, None, None], (1, 21, 3))
        whose = {"window": np.arange(count), "person": np.zeros(count, np.int64), "handedness": np.ones(count, np.int8)}
        score = np.ones(count, np.float32)
        np.savez(f"{file}.hands.npz", times=np.arange(count) / 8, keypoints=keypoints, score=score, **whose)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with epic.csv, labels.parquet and shards."""
    folder = tmp_path_factory.mktemp("epic")
    write_hands(write_epic(folder / "EPIC-KITCHENS"))
    line = ["manifest", "epic-kitchens", str(folder / "EPIC-KITCHENS"), str(folder / "epic.csv")]
    assert data_prep.__main__.main([*line, "--labels", str(folder / "labels.parquet")]) == 0
    given = {"clip_seconds": 4, "fps": 8, "short_side": 48, "landmarks": "given", "workers": 1}
    line = ["build", str(folder / "epic.csv"), str(folder / "shards"), "--config", "epic-kitchens"]
    assert data_prep.__main__.main([*line, *words(**given)]) == 0
    return folder


def test_clips_have_the_wearers_hands_and_the_official_splits(shards: Path) -> None:
    index = read_index(shards / "shards")
    assert dict(zip(index["recording"], index["split"], strict=True)) == {
        "P01_01": "train",
        "P01_101": "train",
        "P02_01": "train",
        "P01_11": "test_validation",
        "P18_02": "test_validation",
        "P01_102": "test",
        "P33_101": "test",
    }
    clip = read_sample(shards / "shards", index.iloc[0])
    assert {"head.video.mp4", "head.hands.npz"} <= set(clip)
    assert json.loads(clip["meta.json"])["views"]["head"]["participants"] == ["P01"]


@pytest.fixture(scope="module")
def release(shards: Path) -> Path:
    """Pretrained for a few steps."""
    more = STEPS | {f"model.{name}": value for name, value in SMALL.items()} | {"data.shards": shards / "shards"}
    line = ["run", "--config", "epic-kitchens", "--out", str(shards / "run"), *words(**more)]
    assert pretrain.__main__.main(line) == 0
    assert pretrain.__main__.main(["release", str(shards / "run"), str(shards / "release")]) == 0
    return shards / "release"


def test_pretraining_reads_pictures_and_hands(release: Path) -> None:
    found = json.loads((release / "config.json").read_text())
    assert set(found["model"]["streams"]) == {"audio", "hands"}


@pytest.fixture(scope="module")
def done(shards: Path, release: Path) -> Path:
    """The same folder with the runs verb and noun."""
    for kind in ("verb", "noun"):
        given = {"encoder": release, "data": shards / "shards", "labels": shards / "labels.parquet"}
        given |= {"target": kind, "out": shards / kind, "workers": 0, "training.epochs": 2}
        assert finetune.__main__.main(["run", "--config", "epic-kitchens", *words(**given)]) == 0
        if kind == "verb":  # the same clips: the same features
            shutil.copytree(shards / "verb" / "cache", shards / "noun" / "cache")
    return shards


def test_predictions_are_of_windows_and_only_of_the_validation_part(done: Path) -> None:
    table = pd.read_csv(done / "verb" / "predictions.csv")
    assert set(table["split"]) == {"test_validation"}
    assert set((table["end"] - table["start"]).round(3)) == {2.0}
    assert set(table["recording"]) == {"P01_11", "P18_02"}
    assert {"p(take)", "p(put)", "p(throw)", "p(fall)"} <= set(table)


def test_from_the_folders_to_the_official_figures_and_the_submission(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ["score", "epic-kitchens", str(done / "verb"), str(done / "noun"), "--out", str(tmp_path / "score")]
    assert finetune.__main__.main(score) == 0
    assert "no submission: kinesic finetune predict" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "score" / "scores.csv").set_index(["row", "metric"])["value"]
    assert {"attentive", "majority", "metadata"} <= set(table.index.get_level_values(0))
    assert table["majority", "segments"] == 6  # 4 of P01_11, 2 of P18_02
    assert table["majority", "segments missing"] == 0
    # the training windows are of put (5), take (4) and throw (2): put is what the majority says; it is right in two of six
    assert table["majority", "all_verb_accuracy_at_1"] == pytest.approx(100 * 2 / 6)
    assert table["majority", "unseen_verb_accuracy_at_1"] == 0
    assert table["majority", "all_verb_accuracy_at_5"] >= 100 * 5 / 6  # fall is not in train
    assert "ViViT, single model" in (tmp_path / "score" / "score.html").read_text()

    for kind in ("verb", "noun"):
        predict = ["predict", str(done / kind), str(done / "shards"), "--out", str(done / kind / "challenge.parquet")]
        assert finetune.__main__.main([*predict, "--workers", "0", "--pictures", "0"]) == 0
    official = ["--annotations", str(done / "EPIC-KITCHENS" / "epic-kitchens-100-annotations")]
    assert finetune.__main__.main([*score, *official]) == 0
    with zipfile.ZipFile(tmp_path / "score" / "submission-test_validation" / "submission.zip") as file:
        content = json.loads(file.read("test.json"))
    assert list(content["results"]) == ["P01_102_0", "P01_102_1", "P33_101_0"]
    first = content["results"]["P01_102_0"]
    assert (len(first["verb"]), len(first["noun"])) == (97, 300)
    said = pd.read_parquet(done / "verb" / "challenge.parquet")
    window = said[(said["recording"] == "P01_102") & (said["start"] == 0)].iloc[0]  # 0.1 to 1.9 s lies in it
    assert first["verb"]["1"] == pytest.approx(np.log(max(window["p(put)"], 1e-8)), abs=1e-3)
