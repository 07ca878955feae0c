"""``manifest ssv2``: from webm files and JSON lists to a manifest and labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.data_sets.config import ManifestSsv2Config
from data_prep.data_sets.ssv2 import ssv2
from data_prep.manifest import read_manifest
from tests.data_sets.ssv2_tree import VIDEOS, write_ssv2


@pytest.fixture(scope="module")
def something(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ssv2(tmp_path_factory.mktemp("ssv2") / "ssv2")


def test_from_the_folders_to_manifest_and_labels(something: Path, tmp_path: Path) -> None:
    manifest, labels = tmp_path / "ssv2.csv", tmp_path / "ssv2.parquet"
    assert main(["manifest", "ssv2", str(something), str(manifest), "--labels", str(labels)]) == 0
    recordings, _ = read_manifest(manifest)
    ours = {"train": "train", "validation": "test_validation", "test": "test"}
    assert {r.name: r.split for r in recordings} == {name: ours[split] for name, (split, _) in VIDEOS.items()}
    table = pd.read_parquet(labels)
    assert pd.api.types.is_string_dtype(table["recording"])
    assert len(table) == len(VIDEOS) - 1  # the test part has no labels


def test_trap_the_class_is_the_template_not_the_filled_in_sentence(something: Path, tmp_path: Path) -> None:
    ssv2(ManifestSsv2Config(something, tmp_path / "m.csv", tmp_path / "labels.csv"))
    table = pd.read_csv(tmp_path / "labels.csv", dtype={"recording": str}).set_index("recording")
    assert table.loc["100904", "action"] == "Putting something on something"
    assert table.loc["100904", "class_number"] == 137  # a string in labels.json
    assert not table["action"].str.contains("red cup").any()


def test_other_names_of_the_lists_and_what_is_missing(
    something: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(something, tmp_path / "ssv2"))
    for file in (root / "labels").iterdir():
        file.rename(file.with_name(file.name.removeprefix("something-something-v2-")))
    videos = root / "20bn-something-something-v2"
    (videos / "42.webm").unlink()
    (videos / "60322.webm").rename(videos / "999.webm")
    assert ssv2(ManifestSsv2Config(root, tmp_path / "m.csv")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 videos of the lists are not there: 60322, 42" in said
    assert "1 media files stand in none of the lists: 999.webm" in said


def test_a_class_without_a_number_or_no_list_is_one_line(something: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(something, tmp_path / "ssv2"))
    labels = root / "labels" / "something-something-v2-labels.json"
    labels.write_text(json.dumps({"Holding something": "0"}))
    with pytest.raises(UserError, match=r"which labels\.json does not name"):
        ssv2(ManifestSsv2Config(root, tmp_path / "m.csv"))
    labels.write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        ssv2(ManifestSsv2Config(root, tmp_path / "m.csv"))
    labels.unlink()
    with pytest.raises(UserError, match=r"no something-something-v2-labels\.json"):
        ssv2(ManifestSsv2Config(root, tmp_path / "m.csv"))
    with pytest.raises(ValueError, match=r"should end in \.parquet or \.csv"):
        ssv2(ManifestSsv2Config(root, tmp_path / "m.csv", tmp_path / "labels.txt"))
