"""The commands ``finetune run`` and ``finetune extract``, from the command line to the files they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.shards import read_index, read_sample
from finetune.__main__ import main
from finetune.data import open_encoder
from finetune.tuned import load_tuned
from pretrain import processes
from pretrain.clips import read_clip
from tests.finetune.scenes_for_tests import with_a_damaged_clip


def run(release: Path, shards: Path, labels: str, target: str, out: Path, *more: str) -> int:
    arguments = ["run", "--encoder", release, "--data", shards, "--labels", shards / labels, "--target", target]
    quick = ["--out", out, "--workers", "0", "--training.epochs", "1"]
    return main([str(argument) for argument in (*arguments, *quick, *more)])


def test_an_adapter_on_splits_of_the_manifest(small_release: Path, split_shards: Path, tmp_path: Path) -> None:
    before = (small_release / "model.safetensors").read_bytes()
    assert run(small_release, split_shards, "scene.csv", "moves", tmp_path, "--config", "adapter", "--seeds", "2") == 0
    assert (small_release / "model.safetensors").read_bytes() == before
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert files == {
        "adapter.safetensors",
        ".lock",
        "head.safetensors",
        "config.json",
        "config.yaml",
        "versions.json",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "report.md",
    }
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = metrics["rows"]
    assert list(rows) == [
        "majority",
        "metadata",
        "mean picture",
        "motion only",
        "raw streams",
        "hand-made features",
        "linear",
        "adapter",
    ]
    assert rows["adapter"].keys() == {"test", "test_reversed"}
    assert rows["adapter"]["test"]["examples"] == 8  # two recordings of four clips
    assert rows["motion only"]["test"]["accuracy"]["mean"] >= 0.8  # what moves and what does not
    assert rows["majority"]["test"]["accuracy"]["mean"] == 0.5
    predictions = pd.read_csv(tmp_path / "predictions.csv", dtype={"recording": str})
    assert len(predictions) == 2 * (8 + 4)
    assert set(predictions["recording"][predictions["split"] == "test_reversed"]) == {"r5"}
    np.testing.assert_allclose(predictions[["p(right)", "p(still)"]].sum(axis=1), 1, atol=1e-5)
    accuracy = (predictions["target"] == predictions["prediction"])[predictions["split"] == "test"].mean()
    assert accuracy == pytest.approx(rows["adapter"]["test"]["accuracy"]["mean"])
    assert "% of its" in metrics["trained"]

    encoder = open_encoder(small_release, "cpu")
    tuned = load_tuned(tmp_path, encoder)
    index = read_index(split_shards)
    row = index[index["recording"] == "r4"].iloc[1]
    said = tuned.predict([read_clip(read_sample(split_shards, row), tuned.streams)])[0]
    line = predictions[
        (predictions["recording"] == "r4") & (predictions["start"] == row["start"]) & (predictions["seed"] == 0)
    ]
    np.testing.assert_allclose(said, line[["p(right)", "p(still)"]].to_numpy()[0], atol=1e-4)


def test_a_label_of_a_participant_is_read_from_that_person(
    small_release: Path, square_shards: Path, tmp_path: Path
) -> None:
    """In every clip one of two people shakes: nothing about the whole clip says which, the person's own pose does."""
    assert (
        run(small_release, square_shards, "person.csv", "shakes", tmp_path, "--method", "linear", "--seeds", "1") == 0
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["classes"] == ["False", "True"]
    accuracy = {name: row["folds"]["accuracy"]["mean"] for name, row in metrics["rows"].items()}
    assert accuracy["linear"] > 0.9
    assert accuracy["motion only"] < 0.7
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert len(predictions) == 96
    assert predictions["split"].nunique() == 5
    assert predictions.groupby("recording")["split"].nunique().max() == 1


def test_numbers_are_a_regression(small_release: Path, square_shards: Path, tmp_path: Path) -> None:
    more = ("--method", "linear", "--seeds", "1", "--baselines", "false", "--streams", "[pose]")
    assert run(small_release, square_shards, "person.csv", "level", tmp_path, *more) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["task"] == "regression"
    assert metrics["streams"] == ["pose"]
    assert metrics["rows"].keys() == {"linear"}
    assert metrics["rows"]["linear"]["folds"]["ccc"]["mean"] > 0.7
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert 0 < predictions["prediction"].mean() < 3  # in the target's unit


def test_a_damaged_sample_costs_its_clip_and_no_more(
    small_release: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, row = with_a_damaged_clip(square_shards, tmp_path / "shards")
    more = ("--method", "linear", "--seeds", "1", "--group_by", "recording")
    assert run(small_release, shards, "scene.csv", "moves", tmp_path / "out", *more) == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 47
    assert f"{row['key']}: left out" in capsys.readouterr().err
    assert "1 of 48 examples are left out" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("target", "more", "says"),
    [
        ("moves", (), "--group_by recording"),
        ("move", (), "did you mean moves"),
        ("moves", ("--streams", "[vido]"), "did you mean video"),
        ("moves", ("--encoder", "nowhere"), "no such folder"),
        ("moves", ("--methd", "linear"), "method"),
    ],
)
def test_mistakes_are_one_line(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    more: tuple[str, ...],
    says: str,
) -> None:
    assert run(small_release, square_shards, "scene.csv", target, tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_two_runs_do_not_write_into_one_folder(
    small_release: Path,
    square_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "LOCK_SECONDS", 1)
    with processes.only_run_in(tmp_path):
        assert run(small_release, square_shards, "scene.csv", "moves", tmp_path, "--group_by", "recording") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}: another run writes there; waiting 1 s for its end" in error
    assert f"{tmp_path}: another run writes there; stop it first" in error
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_participants_on_both_sides_stop_the_run(
    small_release: Path, split_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = shutil.copytree(split_shards, tmp_path / "shards")
    labels = pd.read_csv(shards / "scene.csv")
    labels["participant"] = labels["recording"].replace({"r0": "anna", "r4": "anna"})
    labels.to_csv(shards / "again.csv", index=False)
    assert run(small_release, shards, "again.csv", "moves", tmp_path / "out") == 2
    assert "participants stand in training and in test: anna" in capsys.readouterr().err


def test_one_example_without_a_participant_is_told(
    small_release: Path, split_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Groups and intervals are then of recordings."""
    shards = shutil.copytree(split_shards, tmp_path / "shards")
    labels = pd.read_csv(shards / "scene.csv")
    labels["participant"] = labels["recording"].where(labels["recording"] != "r0", "")
    labels.to_csv(shards / "again.csv", index=False)
    more = ("--method", "linear", "--baselines", "false", "--seeds", "1")
    assert run(small_release, shards, "again.csv", "moves", tmp_path / "out", *more) == 0
    assert "examples name no participant: recordings are kept together" in capsys.readouterr().out
    assert "examples name no participant" in (tmp_path / "out" / "report.md").read_text()


def test_extract_has_a_row_for_the_scene_and_for_each_person(
    small_release: Path, square_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features.parquet"
    assert (
        main(["extract", "--encoder", str(small_release), str(square_shards), "--out", str(out), "--workers", "0"]) == 0
    )
    table = pd.read_parquet(out)
    assert list(table.columns) == ["recording", "time", "end", "view", "person", "stream", "feature"]
    assert len(table) == 48 * 3  # video of the scene, pose of two people
    scene = table[table["person"].isna()]
    assert set(scene["stream"]) == {"video"}
    assert set(table["person"].dropna()) == {1, 2}
    assert sorted(scene["time"][scene["recording"] == "r3"]) == [0, 2, 4, 6]

    encoder = open_encoder(small_release, "cpu")
    row = read_index(square_shards).iloc[7]
    clip = read_clip(read_sample(square_shards, row), ("video", "pose"))
    with torch.inference_mode():
        encoded = encoder.encode_clips([clip])
    mine = encoded.tokens[(encoded.modality == 1) & (encoded.person == 2)].mean(0)
    here = table[(table["recording"] == row["recording"]) & (table["time"] == row["start"]) & (table["person"] == 2)]
    np.testing.assert_allclose(here["feature"].iloc[0], mine, atol=1e-5)


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VideoMAE as Hugging Face's transformers writes it."""
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    folder = tmp_path_factory.mktemp("videomae")
    VideoMAEModel(VideoMAEConfig(image_size=32, num_frames=16, **sizes)).save_pretrained(folder)
    return folder


def test_a_folder_of_videos_a_table_and_a_videomae(
    videomae: Path, square_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a collaborator has: the videos are prepared for the encoder, once, and kept."""
    videos = tmp_path / "videos"
    videos.mkdir()
    index = read_index(square_shards)
    lines = ["recording,moves"]
    for number in range(12):
        row = index.iloc[4 * number + number // 2 % 4]
        (videos / f"v{number:02d}.mp4").write_bytes(read_sample(square_shards, row)["main.video.mp4"])
        lines.append(f"v{number:02d},{'right' if (number + number // 2) % 2 else 'still'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "tuned"
    arguments = [
        "run",
        "--encoder",
        videomae,
        "--data",
        videos,
        "--labels",
        tmp_path / "labels.csv",
        "--target",
        "moves",
    ]
    more = [
        "--out",
        out,
        "--method",
        "linear",
        "--group_by",
        "recording",
        "--folds",
        "3",
        "--seeds",
        "1",
        "--workers",
        "0",
    ]
    assert main([str(argument) for argument in (*arguments, *more)]) == 0
    assert "no pretrained weights of kinesic are published" in capsys.readouterr().out
    assert len(read_index(out / "shards")) == 12
    assert len(pd.read_csv(out / "predictions.csv")) == 12
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["streams"] == ["video"]
    assert not {"raw streams", "hand-made features"} & set(metrics["rows"])  # there are none

    features = tmp_path / "one.parquet"
    assert (
        main(["extract", "--encoder", str(videomae), str(videos / "v03.mp4"), "--out", str(features), "--workers", "0"])
        == 0
    )
    table = pd.read_parquet(features)
    assert table[["recording", "time", "end", "view", "stream"]].to_numpy().tolist() == [
        ["v03", 0.0, 2.0, "main", "video"]
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.csv", "one.parquet", "tuned", "videos"]
    again = tmp_path / "shards.parquet"
    assert (
        main(["extract", "--encoder", str(videomae), str(out / "shards"), "--out", str(again), "--workers", "0"]) == 0
    )
    from_shards = pd.read_parquet(again).set_index("recording").loc["v03"]
    np.testing.assert_allclose(np.stack(table["feature"])[0], from_shards["feature"], atol=1e-3)
