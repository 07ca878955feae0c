"""A fine-tuning that was stopped goes on with the next fold, and comes to what it would have come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from finetune import training
from tests.finetune.test_run import main


class Stopped:
    """``finetune run`` with an adapter, two seeds. trained: "fold 0, seed 0" and so on, of the last run; stop: where it is killed;
    unreadable: whose clips cannot be read any more when it comes to predictions."""

    def __init__(self, release: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
        self.release, self.shards = release, shards
        self.trained: list[str] = []
        self.stop = self.unreadable = ""
        train, predict = training.train, training.predict

        def counted(encoder: Any, problem: Any, split: Any, config: Any, seed: int) -> Any:
            self.trained.append(f"{split.name}, seed {seed}")
            if self.trained[-1] == self.stop:
                raise KeyboardInterrupt
            return train(encoder, problem, split, config, seed)

        def predicted(*given: Any) -> np.ndarray:
            found = predict(*given)
            return np.full_like(found, np.nan) if self.trained[-1] == self.unreadable else found

        monkeypatch.setattr(training, "train", counted)
        monkeypatch.setattr(training, "predict", predicted)

    def run(self, out: Path, *more: str) -> int:
        self.trained.clear()
        given = {"encoder": self.release, "data": self.shards, "labels": self.shards / "scene.csv", "out": out}
        given |= {"target": "moves", "method": "adapter", "folds": 3, "seeds": 2, "group_by": "recording", "workers": 0}
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        return main(["run", *words, "--training.epochs", "2", "--baselines", "false", *more])

    def killed(self, out: Path, stop: str) -> None:
        self.stop = stop
        with pytest.raises(KeyboardInterrupt):
            self.run(out)
        self.stop = ""


@pytest.fixture
def tuning(small_release: Path, square_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    return Stopped(small_release, square_shards, monkeypatch)


def kept(out: Path) -> list[Path]:
    return list((out / "cache").glob("fit-*.npz"))


def test_what_was_trained_before_a_stop_is_not_trained_again(
    tuning: Stopped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuning.run(tmp_path / "whole") == 0
    asked = list(tuning.trained)
    assert len(asked) == len(set(asked)) == 7  # folds and seeds, and all of them for the model that is kept
    out = tmp_path / "stopped"
    tuning.killed(out, asked[4])
    capsys.readouterr()
    torn = min(kept(out))
    torn.write_bytes(torn.read_bytes()[:100])
    assert tuning.run(out, "--clips_gb", "0") == 0
    assert len(tuning.trained) == 4
    assert tuning.trained[1:] == asked[4:]
    assert "4 trainings are there; going on" in capsys.readouterr().out
    whole, gone_on = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "stopped"))
    for part in ("left_out", "notes"):
        assert gone_on[part] == whole[part]
    assert gone_on["rows"]["adapter"] == whole["rows"]["adapter"]
    assert gone_on["costs"]["adapter"]["fits"] == whole["costs"]["adapter"]["fits"] == 6
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("whole", "stopped")]
    assert tables[0].equals(tables[1])
    assert not kept(out)

    tuning.killed(out, asked[1])
    assert tuning.run(out, "--training.lr", "0.002") == 0
    assert tuning.trained == asked  # another rate: nothing of before counts
    assert len(kept(out)) == 1  # nor is it thrown away


def test_the_model_that_is_saved_is_trained_again(
    small_release: Path, split_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT may hold another one by now."""
    tuning = Stopped(small_release, split_shards, monkeypatch)
    tuning.killed(tmp_path, "given, seed 1")
    assert not kept(tmp_path)
    assert tuning.run(tmp_path) == 0
    assert tuning.trained == ["given, seed 0", "given, seed 1"]


def test_clips_that_cannot_be_read_any_more_stop_the_run_and_cost_nothing_that_is_done(
    tuning: Stopped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning.unreadable = "fold 1, seed 0"
    assert tuning.run(tmp_path) == 2
    assert "fold 1: the clips of 16 examples cannot be read any more" in capsys.readouterr().err
    assert len(kept(tmp_path)) == 1
    tuning.unreadable = ""
    assert tuning.run(tmp_path) == 0
    assert "fold 0, seed 0" not in tuning.trained
