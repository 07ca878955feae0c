"""``manifest noxi``: from MultiMediate's folders to a manifest and frame-wise labels. Traps have the word in their name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.data_sets.config import ManifestNoxiConfig
from data_prep.data_sets.multimediate import read_frames, read_language
from data_prep.data_sets.noxi import noxi
from data_prep.manifest import read_manifest
from finetune.labels import read_labels
from tests.data_sets.mpii_tree import write_engagement
from tests.data_sets.noxi_tree import write_noxi


@pytest.fixture(scope="module")
def root(dyads: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noxi(tmp_path_factory.mktemp("noxi") / "multimediate", dyads)


def copied(root: Path, to: Path) -> Path:
    """Links to the same files: a test may take some away, or put others in their place."""
    return Path(shutil.copytree(root, to / "tree", copy_function=lambda a, b: Path(b).symlink_to(a)))


def replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def test_from_the_folders_to_manifest_and_labels(root: Path, tmp_path: Path) -> None:
    manifest, labels = tmp_path / "noxi.csv", tmp_path / "noxi.parquet"
    assert main(["manifest", "noxi", str(root), str(manifest), "--labels", str(labels)]) == 0
    recordings, failures = read_manifest(manifest)
    assert not failures
    assert {r.name: r.split for r in recordings} == {
        "noxi-001": "train", "noxi-008": "train", "noxi-004": "test_val", "noxi-026": "test_base",
        "noxi-079": "test_additional", "noxi-j-086": "train", "noxi-j-121": "test_val",
    }  # fmt: skip
    for recording in recordings:
        assert {view.name: [p.id for p in view.participants] for view in recording.views} == {
            view: [f"{recording.name}.{view.removesuffix('_audio')}"]
            for view in ("expert", "novice", "expert_audio", "novice_audio")
        }
        assert all(source.offset == 0 for view in recording.views for source in view.sources)
    first = next(r for r in recordings if r.name == "noxi-001").views[1]
    assert first.sources[0].path.samefile(root / "noxi" / "train" / "001" / "expert.video.mp4")
    table = pd.read_parquet(labels)
    assert not table["split"].isin(["test_base", "test_additional"]).any()  # their labels are the organisers'
    assert set(table["set"]) == {"NoXi", "NoXi-J"}


def test_engagement_is_25_a_second_of_each_role(root: Path, tmp_path: Path) -> None:
    noxi(ManifestNoxiConfig(root, tmp_path / "m.csv", tmp_path / "labels.parquet"))
    table = pd.read_parquet(tmp_path / "labels.parquet")
    novice = table[table["participant"] == "noxi-004.novice"]
    lines = read_frames(root / "noxi" / "val" / "004" / "novice.engagement.annotation.csv")
    assert novice["engagement"].to_numpy() == pytest.approx(lines)
    assert novice["start"].to_numpy() == pytest.approx(np.arange(200) / 25)
    assert novice["end"].to_numpy() == pytest.approx(np.arange(1, 201) / 25)
    assert not np.allclose(lines, read_frames(root / "noxi" / "val" / "004" / "expert.engagement.annotation.csv"))
    read = read_labels(tmp_path / "labels.parquet", "engagement")  # the table is what finetune reads
    assert len(read) == len(table)


def test_trap_a_label_line_may_be_no_number_and_time_goes_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = copied(root, tmp_path)
    lines = ["0.5", "", "nan", "-nan(ind)", "0.75", "rubbish", "0.25"]
    replaced(tree / "noxi" / "val" / "004" / "expert.engagement.annotation.csv", "\r\n".join(lines).encode())
    noxi(ManifestNoxiConfig(tree, tmp_path / "m.csv", tmp_path / "labels.parquet"))
    table = pd.read_parquet(tmp_path / "labels.parquet")
    expert = table[table["participant"] == "noxi-004.expert"]
    assert expert[["frame", "engagement"]].to_numpy().tolist() == [[0, 0.5], [4, 0.75], [6, 0.25]]
    assert expert["start"].tolist() == [0.0, 0.16, 0.24]
    said = " ".join(capsys.readouterr().out.split())
    assert "1 label files have lines without a number: expert.engagement.annotation.csv of noxi-004" in said


def test_trap_files_may_be_latin_1(root: Path, tmp_path: Path) -> None:
    assert read_language(root / "noxi" / "train" / "008" / "language.annotation.csv") == "Français"
    noxi(ManifestNoxiConfig(root, tmp_path / "m.csv"))
    recordings, _ = read_manifest(tmp_path / "m.csv")
    languages = {r.name: r.extra["language"] for r in recordings}
    assert languages["noxi-008"] == "Français"
    assert languages["noxi-j-121"] == "Chinese"
    file = tmp_path / "labels.csv"
    file.write_bytes("0.5\ncaf\xe9\n0.25\n".encode("latin-1"))
    assert np.nan_to_num(read_frames(file), nan=-1).tolist() == [0.5, -1, 0.25]


def test_what_is_missing_is_absent_and_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = copied(root, tmp_path)
    (tree / "noxi" / "train" / "001" / "novice.video.mp4").unlink()
    (tree / "noxi" / "train" / "001" / "language.annotation.csv").unlink()
    shutil.copy(
        tree / "noxi" / "train" / "001" / "expert.video.mp4", tree / "noxi" / "train" / "001" / "room.video.mp4"
    )
    for file in (tree / "noxi" / "train" / "008").glob("*.video.mp4"):
        file.unlink()
    for file in (tree / "noxi" / "train" / "008").glob("*.wav"):
        file.unlink()
    noxi(ManifestNoxiConfig(tree, tmp_path / "m.csv"))
    recordings, _ = read_manifest(tmp_path / "m.csv")
    by_name = {r.name: [view.name for view in r.views] for r in recordings}
    assert by_name["noxi-001"] == ["expert_audio", "expert", "novice_audio"]
    assert "noxi-008" not in by_name
    said = " ".join(capsys.readouterr().out.split())
    assert "media files of none of the roles expert, novice: train/001/room.video.mp4" in said
    assert "1 sessions have neither pictures nor sound: noxi-008" in said


def test_one_set_alone_and_no_set(root: Path, tmp_path: Path) -> None:
    noxi(ManifestNoxiConfig(root / "noxi-j", tmp_path / "m.csv"))
    assert {r.name for r in read_manifest(tmp_path / "m.csv")[0]} == {"noxi-j-086", "noxi-j-121"}
    with pytest.raises(UserError, match="neither a folder noxi or noxi-j"):
        noxi(ManifestNoxiConfig(root / "noxi" / "val", tmp_path / "n.csv"))
    with pytest.raises(ValueError, match="features: give --streams"):
        ManifestNoxiConfig(root, features=("openface2",))


def test_groups_beside_dyads_and_streams_on_request(
    root: Path, groups: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MPIIGI has no training labels: NoXi's command takes it in as a further test set."""
    mpii = write_engagement(tmp_path / "mpiigi", groups[0])
    wanted = ("audio_egemapsv2", "dino")
    noxi(ManifestNoxiConfig(root, tmp_path / "m.csv", tmp_path / "l.parquet", mpii, tmp_path / "streams", wanted))
    table = pd.read_parquet(tmp_path / "l.parquet")
    assert set(table[table["set"] == "MPIIGI"]["participant"]) == {f"mpiigi-008.subjectPos{seat}" for seat in (2, 3, 4)}
    assert not (table["split"][table["set"] == "MPIIGI"] == "train").any()
    assert sorted(path.name for path in (tmp_path / "streams").iterdir()) == ["audio_egemapsv2", "streams.yaml"]
    assert "streams that were asked for are nowhere: dino" in " ".join(capsys.readouterr().out.split())
