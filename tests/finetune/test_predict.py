"""``finetune predict``: a tuned model on new videos, from the command line to the table and the pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.shards import read_index, read_sample
from finetune.__main__ import main
from finetune.data import open_encoder
from finetune.tuned import load_tuned
from pretrain.clips import read_clip
from tests.finetune.conftest import small_encoder
from tests.finetune.release_for_tests import release_of

QUICK = ["--method", "linear", "--seeds", "1", "--baselines", "false", "--folds", "2", "--workers", "0"]


def tune(release: Path, shards: Path, labels: str, target: str, out: Path, *more: str) -> Path:
    arguments = ["run", "--encoder", release, "--data", shards, "--labels", shards / labels, "--target", target]
    assert main([str(argument) for argument in (*arguments, "--out", out, *QUICK, *more)]) == 0
    return out


def predict(tuned: Path, video: Path, out: Path, *more: str | Path) -> int:
    return main([str(argument) for argument in ("predict", tuned, video, "--out", out, "--workers", "0", *more)])


@pytest.fixture(scope="module")
def of_scenes(small_release: Path, square_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned to tell which way the square moves."""
    folder = tmp_path_factory.mktemp("of_scenes")
    return tune(small_release, square_shards, "scene.csv", "moves", folder, "--group_by", "recording")


@pytest.fixture(scope="module")
def of_people(small_release: Path, square_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned to tell how much a person shakes, from the pose."""
    folder = tmp_path_factory.mktemp("of_people")
    return tune(small_release, square_shards, "person.csv", "level", folder, "--streams", "[pose]")


def test_classes_of_scenes_and_a_picture_of_each(
    of_scenes: Path, small_release: Path, square_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "said.parquet"
    assert predict(of_scenes, square_shards, out, "--pictures", "2") == 0
    table = pd.read_parquet(out)
    names = ["recording", "start", "end", "person", "participant", "prediction", "p(right)", "p(still)"]
    assert list(table.columns) == names
    assert len(table) == 48
    assert table["person"].isna().all()
    best = table[["p(right)", "p(still)"]].idxmax(axis=1).str[2:-1]
    assert (best == table["prediction"]).all()
    labels = pd.read_csv(square_shards / "scene.csv")
    both = table.merge(labels, on=["recording", "start", "end"], validate="1:1")
    assert (both["prediction"] == both["moves"]).mean() > 0.9  # it was trained on these

    tuned = load_tuned(of_scenes, open_encoder(small_release, "cpu"))
    row = read_index(square_shards).iloc[9]
    said = tuned.predict([read_clip(read_sample(square_shards, row), tuned.streams)])
    line = table[(table["recording"] == row["recording"]) & (table["start"] == row["start"])]
    np.testing.assert_allclose(line[["p(right)", "p(still)"]], said, atol=1e-5)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["said.parquet", "said.pictures"]
    assert sorted(file.name for file in (tmp_path / "said.pictures").iterdir()) == ["r0.png", "r1.png"]
    from matplotlib.image import imread

    picture = imread(tmp_path / "said.pictures" / "r0.png")
    top = picture[: len(picture) // 3, :, :3]
    assert (top.max(axis=(1, 2)) > 0).all()
    assert (np.ptp(top, axis=2) < 0.02).mean() < 1  # frames are there: of coloured noise, axes are grey and blue below
    assert ((top < 0.3).all(axis=2)).mean() > 0.2  # and they are dark


def test_values_of_people_as_csv(of_people: Path, square_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.csv"
    assert predict(of_people, square_shards, out, "--pictures", "0", "--batch_size", "3") == 0
    table = pd.read_csv(out)
    assert list(table.columns) == ["recording", "start", "end", "person", "participant", "prediction"]
    assert len(table) == 96
    assert set(table["person"]) == {1, 2}
    labels = pd.read_csv(square_shards / "person.csv")
    both = table.merge(labels, on=["recording", "participant", "start", "end"], validate="1:1")
    assert np.corrcoef(both["prediction"], both["level"])[0, 1] > 0.9
    assert [file.name for file in tmp_path.iterdir()] == ["said.csv"]


def test_windows_of_a_clip_have_rows_of_their_own(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    """A model of windows says something of each; as much of a clip as it was trained on."""
    labels = pd.read_csv(square_shards / "scene.csv")
    labels["pace"] = labels["start"] % 7 + (labels["moves"] == "right")
    labels.to_csv(tmp_path / "pace.csv", index=False)
    more = ("--window_seconds", "0.75", "--group_by", "recording", "--task", "regression")
    tuned = tune(small_release, square_shards, str(tmp_path / "pace.csv"), "pace", tmp_path / "tuned", *more)
    assert predict(tuned, square_shards, tmp_path / "said.parquet", "--pictures", "0") == 0
    table = pd.read_parquet(tmp_path / "said.parquet")
    of_one = table[table["recording"] == "r3"]
    assert of_one["start"].tolist()[:4] == [0, 0.75, 1.5, 2]
    assert of_one["end"].tolist()[:4] == [0.75, 1.5, 2, 2.75]
    assert len(table) == 3 * 48
    assert of_one["prediction"].nunique() > 4  # not the clip's over again


def test_a_folder_of_videos_of_which_one_is_broken(
    of_scenes: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The release asks for poses, which these videos have beside them; the broken one is a line and exit code 3."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(3):
        sample = read_sample(square_shards, read_index(square_shards).iloc[number])
        (videos / f"v{number}.mp4").write_bytes(sample["main.video.mp4"])
        (videos / f"v{number}.mp4.pose.npz").write_bytes(sample["main.pose.npz"])
    (videos / "v1.mp4").write_bytes(b"no video")
    assert predict(of_scenes, videos, tmp_path / "said.parquet") == 3
    table = pd.read_parquet(tmp_path / "said.parquet")
    assert table[["recording", "start"]].to_numpy().tolist() == [["v0", 0.0], ["v2", 0.0]]
    lines = [line for line in capsys.readouterr().err.splitlines() if "v1.mp4" in line]
    assert len(lines) == 1
    assert lines[0].startswith("left out: v1.mp4: ")
    assert sorted(file.name for file in (tmp_path / "said.pictures").iterdir()) == ["v0.png", "v2.png"]
    with av.open(str(tmp_path / "said.pictures" / "v0.png")) as picture:
        assert picture.streams.video[0].width == 1300


def test_the_encoder_is_the_one_it_was_trained_on(
    of_scenes: Path, small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(of_scenes, tmp_path / "moved")
    about = json.loads((moved / "config.json").read_text())
    assert Path(about["encoder"]) == small_release
    (moved / "config.json").write_text(json.dumps(about | {"encoder": str(tmp_path / "gone")}))
    out = tmp_path / "said.csv"
    assert predict(moved, square_shards, out) == 2
    assert "which is not there: name it by --encoder" in capsys.readouterr().err
    assert predict(moved, square_shards, out, "--encoder", small_release, "--pictures", "0") == 0
    capsys.readouterr()

    encoder = small_encoder()
    with torch.no_grad():
        next(encoder.trunk.parameters()).view(-1)[0] += 1e-3
    other = release_of(encoder, tmp_path / "run", tmp_path / "other")
    assert predict(of_scenes, square_shards, tmp_path / "no.csv", "--encoder", other) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "trained on another encoder" in error[0]
    assert predict(tmp_path, square_shards, out) == 2
    assert "no config.json" in capsys.readouterr().err
    assert predict(of_scenes, square_shards, tmp_path / "said.txt") == 2
    assert ".parquet or .csv" in capsys.readouterr().err
