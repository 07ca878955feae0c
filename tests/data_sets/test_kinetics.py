"""``manifest kinetics``: from clips and CSV lists to a manifest and labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.data_sets.config import ManifestKineticsConfig
from data_prep.data_sets.kinetics import kinetics
from data_prep.manifest import read_manifest
from tests.data_sets.kinetics_tree import CLIPS, write_kinetics


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinetics(tmp_path_factory.mktemp("kinetics") / "k400")


def splits(manifest: Path) -> dict[str, str | None]:
    return {recording.name: recording.split for recording in read_manifest(manifest)[0]}


def test_from_the_folders_to_manifest_and_labels(clips: Path, tmp_path: Path) -> None:
    manifest, labels = tmp_path / "k400.csv", tmp_path / "k400.parquet"
    assert main(["manifest", "kinetics", str(clips), str(manifest), "--labels", str(labels)]) == 0
    ours = {"train": "train", "val": "test_validation", "test": "test"}
    assert splits(manifest) == {f"{n}_{a:06d}_{b:06d}": ours[split] for n, (split, a, b, _, _) in CLIPS.items()}
    table = pd.read_parquet(labels).set_index("recording")
    assert len(table) == len(CLIPS) - 1
    numbers = table.groupby("action")["class_number"].unique().map(list).to_dict()
    assert numbers == {"abseiling": [0], "playing bass guitar": [1], "shooting goal (soccer)": [2]}


def test_ids_with_dashes_and_underscores_are_split_from_the_right(clips: Path, tmp_path: Path) -> None:
    kinetics(ManifestKineticsConfig(clips, tmp_path / "m.csv", tmp_path / "l.csv"))
    table = pd.read_csv(tmp_path / "l.csv").set_index("recording")
    assert table.loc["-0H3T2B9PH4_000025_000035", "youtube_id"] == "-0H3T2B9PH4"
    assert table.loc["_a_000001_0_000000_000010", "youtube_id"] == "_a_000001_0"
    paths = {r.name: r.views[0].sources[0].name for r in read_manifest(tmp_path / "m.csv")[0]}
    assert paths["_a_000001_0_000000_000010"].endswith("playing bass guitar/_a_000001_0_000000_000010.mp4")
    assert paths["ddddddddddd_000002_000012"].endswith("clips/ddddddddddd.mp4")  # some copies have the id alone


def test_class_numbers_sort_underscores_not_spaces(tmp_path: Path) -> None:
    """ "a b" comes before "a-b" with a space, and after it with _."""
    root = tmp_path / "k"
    write_kinetics(root)
    train = root / "annotations" / "train.csv"
    train.write_text(
        train.read_text()
        .replace("playing bass guitar", "abseiling-x")
        .replace('"shooting ""goal"" (soccer)"', "abseiling x")
    )
    (root / "annotations" / "val.csv").unlink()
    kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv", tmp_path / "l.csv"))
    numbers = pd.read_csv(tmp_path / "l.csv").set_index("action")["class_number"].to_dict()
    assert numbers == {"abseiling": 0, "abseiling-x": 1, "abseiling x": 2}


def test_trap_k400_validation_is_largely_inside_k700_train(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one Kinetics tests on never stays in the train part of another: by the YouTube video, whatever the seconds."""
    kinetics(ManifestKineticsConfig(clips, tmp_path / "k400.csv", tmp_path / "k400.parquet"))
    k700 = Path(shutil.copytree(clips, tmp_path / "k700"))
    train = k700 / "annotations" / "train.csv"
    train.write_text(train.read_text() + "abseiling,eeeeeeeeeee,50,60,train\nabseiling,hhhhhhhhhhh,1,11,train\n")
    val = k700 / "annotations" / "val.csv"
    val.write_text("\n".join(line for line in val.read_text().splitlines() if "eeeeeeeeeee" not in line))
    for youtube, start in (("eeeeeeeeeee", 50), ("hhhhhhhhhhh", 1)):
        shutil.copy(clips / "clips" / "ddddddddddd.mp4", k700 / "clips" / f"{youtube}_{start:06d}_{start + 10:06d}.mp4")
    kinetics(ManifestKineticsConfig(k700, tmp_path / "careless.csv"))
    assert splits(tmp_path / "careless.csv")["eeeeeeeeeee_000050_000060"] == "train"
    capsys.readouterr()
    kinetics(ManifestKineticsConfig(k700, tmp_path / "k700.csv", without=(tmp_path / "k400.parquet",)))
    assert "1 clips of train are left out, as k400.parquet tests on their YouTube video" in capsys.readouterr().out
    found = splits(tmp_path / "k700.csv")
    assert "eeeeeeeeeee_000050_000060" not in found
    assert found["hhhhhhhhhhh_000001_000011"] == "train"
    assert found["fffffffffff_000004_000014"] == "test_validation"  # what this one tests on stays


def test_a_video_in_train_and_validation_of_one_folder_leaves_train(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(clips, tmp_path / "k"))
    val = root / "annotations" / "val.csv"
    val.write_text(val.read_text() + "abseiling,ccccccccccc,80,90,val,0\n")
    kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv"))
    said = " ".join(capsys.readouterr().out.split())
    assert "clips of train are left out, as their YouTube video is tested on as well: ccccccccccc_000001_000011" in said
    assert "ccccccccccc_000001_000011" not in splits(tmp_path / "m.csv")


def test_a_list_that_is_there_as_txt_is_the_complete_one(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(clips, tmp_path / "k600"))
    train = root / "annotations" / "train.csv"
    whole = train.read_text()
    train.with_suffix(".txt").write_text(whole)
    train.write_text("\n".join(whole.splitlines()[:2]))
    (root / "annotations" / "readme.txt").write_text("nothing")
    kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv"))
    assert "1 lists are not read, as the .txt beside them is the complete one: train.csv" in capsys.readouterr().out
    assert len(splits(tmp_path / "m.csv")) == len(CLIPS)


def test_what_cannot_be_used_is_one_line(clips: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(clips, tmp_path / "k"))
    train = root / "annotations" / "train.csv"
    train.write_text(train.read_text().replace(",107,", ",soon,"))
    with pytest.raises(UserError, match="times must be seconds"):
        kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv"))
    train.write_text(train.read_text().replace(",soon,", ",107,").replace(",train", ",holdout"))
    with pytest.raises(UserError, match="'holdout' is none of train, val, test"):
        kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv"))
    shutil.rmtree(root / "annotations")
    with pytest.raises(UserError, match="no list of clips"):
        kinetics(ManifestKineticsConfig(root, tmp_path / "m.csv"))
