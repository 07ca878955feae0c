"""``manifest epic-kitchens``: from the downloader's folders and the authors' lists to a manifest and labels."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.data_sets.config import ManifestEpicKitchensConfig
from data_prep.data_sets.epic_kitchens import epic_kitchens, read_segments
from data_prep.manifest import read_manifest
from tests.data_sets.epic_tree import VIDEOS, write_epic


@pytest.fixture(scope="module")
def epic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_epic(tmp_path_factory.mktemp("epic") / "EPIC-KITCHENS")


def lists(epic: Path) -> Path:
    return epic / "epic-kitchens-100-annotations"


def test_from_the_folders_to_manifest_and_labels(
    epic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, labels = tmp_path / "epic.csv", tmp_path / "epic.parquet"
    assert main(["manifest", "epic-kitchens", str(epic), str(manifest), "--labels", str(labels)]) == 0
    assert "0:00:08" in capsys.readouterr().out
    recordings = {recording.name: recording for recording in read_manifest(manifest)[0]}
    assert set(recordings) == set(VIDEOS)
    splits = {name: recording.split for name, recording in recordings.items()}
    assert {splits[name] for name in ("P01_01", "P01_101", "P02_01")} == {"train"}
    assert (splits["P01_11"], splits["P18_02"], splits["P33_101"]) == ("test_validation", "test_validation", "test")
    assert {name: recording.participants for name, recording in recordings.items()} == {
        name: [name.split("_")[0]] for name in VIDEOS
    }
    assert [view.name for view in recordings["P01_01"].views] == ["head"]

    table = pd.read_parquet(labels)
    first = table[table["narration_id"] == "P01_01_1"].iloc[0]
    about = ["recording", "participant", "start", "end", "verb", "verb_class", "noun", "noun_class", "split"]
    assert first[about].tolist() == ["P01_01", "P01", 2.0, 3.97, "put", 1, "plate", 2, "train"]
    challenge = table[table["split"] == "test"]
    assert len(challenge) == 3
    assert challenge[["verb", "verb_class", "noun", "noun_class"]].isna().all(axis=None)


def test_trap_frame_numbers_are_not_the_videos_own(epic: Path) -> None:
    """P01_01's second segment is said to start at frame 121; the video has 8 pictures a second: 15 s, after its end."""
    with (lists(epic) / "EPIC_100_train.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert int(row["start_frame"]) / 8 > VIDEOS["P01_01"][1]
    segment = read_segments(lists(epic)).set_index("narration_id").loc[row["narration_id"]]
    assert (segment["start"], segment["end"]) == (2.0, 3.97)


def test_trap_unseen_participants_of_validation_are_not_those_of_test(epic: Path) -> None:
    segments = read_segments(lists(epic))
    unseen = segments[segments["unseen"]]
    assert set(zip(unseen["split"], unseen["participant"], strict=True)) == {
        ("test_validation", "P18"),
        ("test", "P33"),
    }
    assert not segments["unseen"][segments["split"] == "train"].any()


def test_trap_nouns_of_visor_are_not_the_benchmarks(epic: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lists(epic), tmp_path / "lists"))
    (folder / "EPIC_100_noun_classes_v2.csv").rename(folder / "EPIC_100_noun_classes.csv")
    with pytest.raises(UserError, match=r"305 classes, not the benchmark's 300"):
        read_segments(folder)


def test_rare_classes_and_class_names(epic: Path) -> None:
    segments = read_segments(lists(epic)).set_index("narration_id")
    assert segments.loc["P01_11_2", ["verb", "tail_verb", "tail_noun"]].tolist() == ["throw", True, False]
    assert segments.loc["P18_02_1", ["verb", "noun", "tail_verb", "tail_noun"]].tolist() == ["fall", "foil", True, True]
    assert not segments["tail_verb"]["P33_101_0"]  # nobody knows


def test_what_is_missing_or_there_twice_is_told(epic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(epic, tmp_path / "epic"))
    (root / "P33" / "videos" / "P33_101.MP4").unlink()
    (root / "P02" / "videos" / "P02_01.MP4").rename(root / "P02" / "videos" / "P02_77.MP4")
    shutil.copy(root / "P01" / "videos" / "P01_01.MP4", root / "P01_01.MP4")
    assert epic_kitchens(ManifestEpicKitchensConfig(root, tmp_path / "m.csv")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 videos of the lists are not there: P02_01, P33_101" in said
    assert "1 videos stand in none of the lists, so that they have no split: P02_77" in said
    assert "1 files are there a second time" in said
    assert [r.split for r in read_manifest(tmp_path / "m.csv")[0] if r.name == "P02_77"] == [None]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: shutil.rmtree(lists(root)), "epic-kitchens-100-annotations"),
        (lambda root: [file.unlink() for file in root.rglob("*.MP4")], "no video in it"),
        (lambda root: _replace(lists(root) / "EPIC_100_train.csv", "00:00:03.97", "4 s"), "'4 s' is no time"),
        (
            lambda root: _replace(lists(root) / "EPIC_100_train.csv", "00:00:03.97", "00:00:01.00"),
            "ends before it starts",
        ),
        (
            lambda root: _replace(lists(root) / "EPIC_100_train.csv", "stop_timestamp", "stop"),
            "no column 'stop_timestamp'",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(epic: Path, tmp_path: Path, break_it, words: str) -> None:
    root = Path(shutil.copytree(epic, tmp_path / "epic"))
    break_it(root)
    with pytest.raises(UserError) as caught:
        epic_kitchens(ManifestEpicKitchensConfig(root, tmp_path / "m.csv", tmp_path / "l.csv"))
    assert words in str(caught.value)
    assert not (tmp_path / "m.csv").exists()
    assert not (tmp_path / "l.csv").exists()


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
