"""A fine-tuning that was stopped goes on with the next fold, and comes to what it would have come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from finetune import training
from tests.finetune.test_run import main


def test_what_was_trained_before_a_stop_is_not_trained_again(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[str] = []
    train, stop = training.train, ""

    def counted(encoder: Any, problem: Any, split: Any, config: Any, seed: int) -> Any:
        trained.append(f"{split.name}, seed {seed}")
        if trained[-1] == stop:
            raise KeyboardInterrupt
        return train(encoder, problem, split, config, seed)

    def run(out: Path, *more: str) -> int:
        words = [
            "--encoder",
            small_release,
            "--data",
            square_shards,
            "--labels",
            square_shards / "scene.csv",
            "--out",
            out,
        ]
        words += ["--target", "moves", "--method", "adapter", "--folds", "3", "--seeds", "2", "--group_by", "recording"]
        words += ["--training.epochs", "2", "--workers", "0", "--baselines", "false", *more]
        trained.clear()
        return main(["run", *(str(word) for word in words)])

    monkeypatch.setattr(training, "train", counted)
    assert run(tmp_path / "whole") == 0
    asked = list(trained)
    assert len(asked) == len(set(asked)) == 7  # folds and seeds, and all of them for the model that is kept
    stop = asked[4]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    stop, _ = "", capsys.readouterr()
    assert run(tmp_path / "stopped", "--clips_gb", "0") == 0
    assert trained == asked[4:]
    assert "4 trainings are there; going on" in capsys.readouterr().out
    whole, gone_on = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "stopped"))
    assert gone_on["rows"]["adapter"] == whole["rows"]["adapter"]
    assert gone_on["left_out"] == whole["left_out"]
    assert gone_on["notes"] == whole["notes"]
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("whole", "stopped")]
    assert tables[0].equals(tables[1])
    assert not (tmp_path / "stopped" / "fits").exists()

    stop = asked[1]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    stop = ""
    assert run(tmp_path / "stopped", "--training.lr", "0.002") == 0
    assert trained == asked  # another rate: nothing of before counts
