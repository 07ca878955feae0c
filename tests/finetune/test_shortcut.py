"""The benchmark of shortcuts: its savings change no number, its differences are paired, its command leaves its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import shortcut
from data_prep.shards import read_index, read_sample
from finetune.evaluation import Predictions
from finetune.problem import Problem
from finetune.tasks import Task
from pretrain.clips import read_clip
from pretrain.encoder import Encoder


def test_an_untrained_encoder_without_its_closed_branch_is_the_same(encoder: Encoder, square_shards: Path) -> None:
    """And its video tokens are the same with other streams beside them: one pass gives two rows of the table."""
    with torch.no_grad():
        encoder.get_buffer("streams.pose.mean").fill_(0.3)
    fresh = shortcut.untrained(encoder, 7)
    with torch.random.fork_rng():
        torch.manual_seed(1007)
        whole = Encoder(encoder.config)
    whole.get_buffer("streams.pose.mean").fill_(0.3)
    clip = read_clip(read_sample(square_shards, read_index(square_shards).iloc[0]), encoder.modalities)
    with torch.inference_mode():
        lean, full, alone = (
            fresh.encode_clips([clip]),
            whole.encode_clips([clip]),
            whole.encode_clips([clip], ("video",)),
        )
    assert torch.equal(lean.tokens, full.tokens)
    torch.testing.assert_close(full.tokens[full.modality == 0], alone.tokens, atol=1e-5, rtol=1e-5)


def test_differences_are_paired_by_recording() -> None:
    """a is right in 3 of 4 clips of every recording, b in 2: the difference never varies, whatever is drawn."""
    targets = np.zeros(40, np.int64)
    recordings = np.repeat(np.arange(10), 4)
    nothing = np.zeros((40, 1), np.float32)
    task = Task("classification", ("x", "y"))
    problem = Problem(Path(), None, None, task, ("video",), targets, recordings, nothing)  # pyrefly: ignore

    def right(share: int) -> Predictions:
        wrong = np.tile(np.arange(4) >= share, 10).astype(int)
        return Predictions(np.arange(40), np.stack([np.eye(2)[wrong]] * 3), [])

    found = shortcut.difference(problem, right(3), right(2))
    assert found["mean"] == pytest.approx(0.25)
    assert found["interval"] == pytest.approx((0.25, 0.25))
    assert len(found["seeds"]) == 3


def test_the_command_leaves_a_table_and_a_picture(
    small_release: Path, scenes: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"--release": small_release, "--shards": shards, "--labels": scenes / "labels.csv", "--out": tmp_path}
    options = ["--epochs", "1"]
    words = [str(word) for pair in arguments.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["shortcut", *words, *options])
    shortcut.main()
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table["rows"]["pretrained, video alone"]) == {"test", "test_reversed"}
    assert len(table["rows"]) == 9
    assert set(table["differences"]) == set(shortcut.PAIRS)
    text = (tmp_path / "table.md").read_text()
    assert "| raw streams |" in text
    assert (tmp_path / "shortcut.png").stat().st_size > 5000
