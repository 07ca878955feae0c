"""The ablation over streams and kinds of masking, scaled down: a row for each, and nothing trained twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import ablation


def test_the_command_leaves_a_row_for_each_reading_and_trains_once(
    tiny_recipe: Path, scenes: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"shards": shards, "labels": scenes / "labels.csv", "out": tmp_path, "config": tiny_recipe}
    given |= {"steps": 2, "seeds": 2, "processes": 1}
    monkeypatch.setattr(
        sys, "argv", ["ablation", *(word for name, v in given.items() for word in (f"--{name}", str(v)))]
    )
    ablation.main()
    table = json.loads((tmp_path / "table.json").read_text())
    readings = {f"{kind}: {name}" for kind in ("untrained", *ablation.KINDS) for name in ablation.READ}
    assert set(table["rows"]) == readings | {"raw streams"}
    assert len(table["rows"]["all kinds: face"]["test"]["accuracy"]["seeds"]) == 2
    gain = table["differences"]["all kinds: all - random: all"]["test_reversed"]["mean"]
    of = [table["rows"][f"{kind}: all"]["test_reversed"]["accuracy"]["mean"] for kind in ("all kinds", "random")]
    assert gain == pytest.approx(of[0] - of[1])
    runs = [tmp_path / name / "metrics.csv" for name in ("random-0", "random-1", "all-kinds-0", "all-kinds-1")]
    kinds = ["loss_partner/face" in run.read_text().splitlines()[0] for run in runs]
    assert kinds == [False, False, True, True]
    before = [run.stat().st_mtime_ns for run in runs]
    ablation.main()
    assert [run.stat().st_mtime_ns for run in runs] == before
