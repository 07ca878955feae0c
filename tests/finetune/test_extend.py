"""The benchmark of extended weights, scaled down: step 0 is the trunk's, tables and picture are there, nothing runs twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import extend


def test_the_step_that_reached_a_level() -> None:
    assert extend.reached(np.array([np.nan, 3.0, 2.0, 1.0, 2.0]), 2.0) == 3
    assert extend.reached(np.array([np.nan, 3.0]), 2.0) is None


def test_the_command_leaves_tables_and_a_picture(
    tiny_recipe: Path,
    scenes: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(extend, "MODES", ("full", "frozen"))
    given = {"shards": shards, "labels": scenes / "labels.csv", "out": tmp_path, "recipe": tiny_recipe}
    given |= {"steps": 4, "trunk_steps": 2, "clips": 3, "held_out": 2, "seeds": 1, "processes": 1}
    monkeypatch.setattr(sys, "argv", ["extend", *(word for name, v in given.items() for word in (f"--{name}", str(v)))])
    extend.main()
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["step 0"]["alone"]["difference"] < 1e-5  # float32: means over tokens are summed in another order
    assert table["step 0"]["beside"]["difference"] < 1e-5
    assert table["step 0"]["beside"]["changed"] == 0 < table["step 0"]["beside"]["predictions"]
    assert table["steps"] == {"scratch": 4, "full": 2, "frozen": 2}
    assert table["losses"]["scratch"]["total"]["reached"] == [4]
    assert set(table["probes"]["rows"]["scratch, all streams"]) == {"test", "test_reversed"}
    assert {"raw streams", "untrained, video alone", "untrained, all streams"} < set(table["probes"]["rows"])
    assert "| frozen, all streams - scratch |" in (tmp_path / "table.md").read_text()
    assert "| frozen, video alone - full |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "extend.png").stat().st_size > 5000
    capsys.readouterr()
    before = (tmp_path / "full-0" / "metrics.csv").stat().st_mtime_ns
    extend.main()
    assert capsys.readouterr().out.count("nothing to do") == 4
    assert (tmp_path / "full-0" / "metrics.csv").stat().st_mtime_ns == before


def test_a_prediction_is_changed_where_another_class_scores_most() -> None:
    before = np.array([[[0.9, 0.1], [0.2, 0.8]]])
    assert extend.changed(before, np.array([[[0.6, 0.4], [0.1, 0.9]]])) == 0
    assert extend.changed(before, np.array([[[0.4, 0.6], [0.1, 0.9]]])) == 1
