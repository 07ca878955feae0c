"""The scripts of examples/, as a user would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.finetune.test_added_streams import write_gaze

ROOT = Path(__file__).parent.parent.parent


def script(name: str, *words: object) -> str:
    """Runs examples/NAME; its standard output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ratings_of_a_lab_become_labels_and_a_report(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    """Two raters, clocks in minutes and seconds, files for recordings; a rating that follows what the square does."""
    scene = pd.read_csv(square_shards / "scene.csv")
    rows = []
    for recording, start, end, moves in scene[["recording", "start", "end", "moves"]].itertuples(index=False):
        for rater, bias in (("AB", 0.0), ("CD", 1.0)):
            clock = [f"{int(second // 60)}:{second % 60:04.1f}" for second in (start, end)]
            rows.append((f"{recording}.mp4", rater, *clock, 3.0 + 2 * (moves == "right") + bias))
    ratings = tmp_path / "ratings.csv"
    pd.DataFrame(rows, columns=["file", "rater", "from", "to", "warmth"]).to_csv(ratings, index=False)
    script("my_own_csv.py", small_release, square_shards, ratings, tmp_path / "out")
    labels = pd.read_csv(tmp_path / "out" / "labels.csv")
    assert len(labels) == len(scene)
    assert set(labels["warmth"]) == {3.5, 5.5}  # means over raters
    assert labels["end"].max() == scene["end"].max()
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (test,) = found["rows"]["linear"].values()
    assert test["ccc"]["mean"] > 0.5
    assert (tmp_path / "out" / "report.html").is_file()


def test_features_go_into_scikit_learn(tmp_path: Path, square_shards: Path, small_release: Path) -> None:
    from finetune.__main__ import main

    table = tmp_path / "features.parquet"
    assert main(["extract", "--encoder", str(small_release), str(square_shards), "--out", str(table)]) == 0
    labels = pd.DataFrame({"recording": [f"r{k}" for k in range(12)], "kind": ["a", "b"] * 6})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    printed = script("features_into_scikit_learn.py", table, tmp_path / "labels.csv", "kind")
    assert "features: balanced accuracy" in printed
    assert "most frequent class: balanced accuracy 0.500" in printed
    labels["participant"] = [f"p{k // 4}" for k in range(12)]  # three people, both classes each
    labels.to_csv(tmp_path / "people.csv", index=False)
    assert "over 3 folds" in script("features_into_scikit_learn.py", table, tmp_path / "people.csv", "kind")


def test_a_sensor_is_read_beside_the_encoder(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    """Who looks up is in no other stream; a sensor of 20 rows a second, two numbers a row, in no order."""
    written = write_gaze(tmp_path / "gaze", square_shards).parent
    some = pd.read_csv(written / "person.csv").query("recording <= 'r3'")  # r0, r1, r10, r11, r2, r3
    some.to_csv(tmp_path / "labels.csv", index=False)
    given = (small_release, square_shards, tmp_path / "labels.csv", "looks", written / "gaze.csv")
    script("my_own_sensor.py", *given, tmp_path / "out")
    stream = yaml.safe_load((tmp_path / "out" / "sensor.yaml").read_text())["sensor"]
    assert (stream["features"], stream["cell_seconds"], stream["cells_per_token"]) == (2, 0.05, 10)
    found = pd.read_csv(tmp_path / "out" / "compare" / "compare.csv")
    accuracy = found[found["row"] == "adapter"].set_index("run")["accuracy"]
    assert accuracy["without"] < 0.7 < 0.9 < accuracy["with"]


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "examples").glob("*.py"))])
def test_every_example_says_how_it_is_called(name: str) -> None:
    assert f"python examples/{name}" in (ROOT / "examples" / name).read_text()
