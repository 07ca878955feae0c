"""Decoded clips in memory: what is kept, in which order it comes, and that a training reads a clip once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.shards import read_index
from finetune import features
from finetune.kept_clips import KeptClips, size
from pretrain.clips import Clip, View, read_clip
from tests.finetune.test_run import main


def clip(number: int) -> Clip:
    """100 bytes of picture, 40 of sound, 8 of a face."""
    view = View(np.full((1, 5, 20, 1), number, np.uint8), audio=np.zeros((1, 10), np.float32))
    view.face = {"person": np.zeros(1)}
    return Clip(str(number), "r", 0.0, 1.0, [], {"main": view}, {}, {})


def test_clips_are_kept_while_there_is_room_and_come_in_the_order_asked_for() -> None:
    kept, made = KeptClips(), {number: None if number == 1 else clip(number) for number in range(5)}
    assert size(clip(0)) == 148
    for numbers, missing in (([0, 1, 2, 3], [0, 1, 2, 3]), ([3, 4, 1, 0, 2], [3, 4, 1]), ([4, 2, 1], [4, 1])):
        assert kept.missing(numbers) == missing
        found = list(kept.fill(numbers, iter([made[number] for number in missing]), 3 * 148 - 1))
        assert [None if one is None else one.key for one in found] == [None if n == 1 else str(n) for n in numbers]
    assert (kept.bytes, set(kept.clips)) == (2 * 148, {0, 2})


def test_a_training_decodes_a_clip_once_and_finds_the_same(
    small_release: Path, square_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    read_sample = features.read_sample
    monkeypatch.setattr(
        features, "read_sample", lambda shards, row: (decoded.append(row["key"]), read_sample(shards, row))[1]
    )
    found = {}
    index = read_index(square_shards)
    ten = 10 * size(read_clip(read_sample(square_shards, index.iloc[0]), ("video", "pose"))) / 1e9
    for name, room in (("kept", "1"), ("some", f"{ten:.9f}"), ("again", "0")):
        words = ["--encoder", small_release, "--data", square_shards, "--labels", square_shards / "scene.csv"]
        words += ["--target", "moves", "--out", tmp_path / name, "--method", "adapter", "--folds", "2", "--seeds", "1"]
        words += ["--group_by", "recording"]
        words += ["--training.epochs", "2", "--workers", "0", "--baselines", "false", "--clips_gb", room]
        decoded.clear()
        assert main(["run", *(str(word) for word in words)]) == 0
        record = json.loads((tmp_path / name / "metrics.json").read_text())
        found[name] = (record["rows"]["adapter"]["folds"], max(decoded.count(key) for key in set(decoded)))
    assert found["kept"][0] == found["some"][0] == found["again"][0]  # what is read goes to whom it was read for
    assert found["kept"][1] == 2  # for the features of the probe, and to train
    assert min(found["some"][1], found["again"][1]) > 5
