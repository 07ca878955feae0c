"""The benchmark of adaptation, scaled down: a row for each way on generated and on real clips, and nobody on both sides."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import adapt
from data_prep.shards import read_index
from tests.finetune.scenes_for_tests import video


def test_recovered_is_a_share_of_the_drop() -> None:
    found = {adapt.NONE: [0.3, 0.4], adapt.CEILING: [0.5, 0.8], adapt.ADAPTERS: [0.4, 0.7]}
    assert adapt.recovered(found, adapt.ADAPTERS) == "62 ± 18 %"  # 50 and 75
    assert adapt.recovered(found, adapt.NONE) == ""
    assert adapt.recovered(found | {adapt.CEILING: [0.5, 0.41]}, adapt.ADAPTERS) == "no drop"


def test_halves_share_nobody() -> None:
    """b and c show q: the cut in the middle would part them."""
    index = pd.DataFrame({"recording": list("abcd"), "people": [["p"], ["q"], ["q", "r"], ["s"]]})
    assert adapt._halves(index) in (({"a"}, {"b", "c", "d"}), ({"a", "b", "c"}, {"d"}))
    with pytest.raises(SystemExit, match="somebody on both sides"):
        adapt._halves(index.assign(people=[["p"]] * 4))


def test_the_command_leaves_a_row_for_each_way(
    small_release: Path, split_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talkers = tmp_path / "talkers"
    talkers.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        (talkers / f"{name}.mp4").write_bytes(video(rng.integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)))
    out = tmp_path / "out"
    given = {"release": small_release, "shards": split_shards, "labels": split_shards / "scene.csv", "out": out}
    given |= {"target": "moves", "real": talkers, "clips": 4, "steps": 2, "seeds": 2}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["adapt", *words])
    adapt.main()
    record = json.loads((out / "table.json").read_text())
    assert set(record) == {"generated, room", "real, room"}
    for rows in record.values():
        assert set(rows) == set(adapt.ROWS)
        assert all(len(values) == 2 and min(values) >= 0 for values in rows.values())
    assert "| ceiling: labels in the target |" in (out / "table.md").read_text()
    assert set(read_index(out / "generated-room" / "unlabelled")["recording"]) == {"r4"}
    assert set(read_index(out / "generated-room" / "test")["recording"]) == {"r9"}
    people = {who for names in read_index(out / "real-room" / "unlabelled-0")["people"] for who in names}
    assert people == {"c", "d"}  # a and b are tested
    written = (out / "generated-room" / "adapters-0" / "metrics.csv").stat().st_mtime_ns
    adapt.main()
    assert (out / "generated-room" / "adapters-0" / "metrics.csv").stat().st_mtime_ns == written
