"""``manifest mpii-group``: three layouts of MultiMediate -> manifest and labels. Traps have the word in their name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from configs import UserError
from data_prep.__main__ import main
from data_prep.data_sets.config import ManifestMpiiGroupConfig
from data_prep.data_sets.mpii_clips import BEHAVIOURS
from data_prep.data_sets.mpii_group import apart, mpii_group
from data_prep.manifest import Recording, read_manifest
from finetune.labels import infer_task, read_labels
from tests.data_sets.mpii_tree import seats_of, write_2021, write_clips, write_engagement


@pytest.fixture(scope="module")
def root(groups: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_2021(tmp_path_factory.mktemp("mpii") / "mpii", groups[:2], groups[2])


def copied(root: Path, to: Path) -> Path:
    """Links to the same media files, so that a test may change lists and take files away."""
    tree = Path(shutil.copytree(root, to / "tree", copy_function=lambda a, b: Path(b).symlink_to(a)))
    for file in (tree / "sample_lists").glob("*.csv") if (tree / "sample_lists").is_dir() else ():
        text = file.read_text()
        file.unlink()
        file.write_text(text)
    return tree


def by_name(manifest: Path) -> dict[str, Recording]:
    recordings, failures = read_manifest(manifest)
    assert not failures
    return {recording.name: recording for recording in recordings}


def read(root: Path, tmp_path: Path, **settings: object) -> tuple[dict[str, Recording], pd.DataFrame]:
    config = ManifestMpiiGroupConfig(
        root, tmp_path / "m.csv", tmp_path / "l.parquet", **settings
    )  # pyrefly: ignore[bad-argument-type]
    assert mpii_group(config) == 0
    return by_name(tmp_path / "m.csv"), pd.read_parquet(tmp_path / "l.parquet")


def test_samples_are_the_official_windows_and_each_is_a_clip_of_its_own(root: Path, tmp_path: Path) -> None:
    manifest, labels = tmp_path / "mpii.csv", tmp_path / "mpii.parquet"
    assert main(["manifest", "mpii-group", str(root), str(manifest), "--labels", str(labels)]) == 0
    recordings = by_name(manifest)
    assert {name: r.split for name, r in recordings.items()} == {
        "recording07": "train", "recording07.2": "train", "recording09": "test_val", "recording09.2": "test_val",
        "recording11": "train", "recording11.2": "train",
    }  # fmt: skip
    assert recordings["recording07"].windows == ((0, 4), (4, 8))
    assert recordings["recording07.2"].windows == ((2, 6),)  # overlaps both
    table = pd.read_parquet(labels)
    eye, nxt = table[table["eye_contact"].notna()], table[table["next_speaker"].notna()]
    assert len(eye) == 3 * 3 * 2
    assert len(nxt) == 3 * 3 * 4
    windows = {(name, w) for name, r in recordings.items() for w in r.windows}
    assert {(r, (s, e)) for r, s, e in table[["recording", "start", "end"]].itertuples(index=False)} == windows
    first = pd.read_csv(root / "sample_lists" / "val_eye_contact.csv", dtype=str).iloc[2]
    mine = eye[(eye["split"] == "test_val") & (eye["index"] == first["index"])].iloc[0]
    assert mine["recording"] == "recording09.2"
    assert mine["participant"] == f"recording09.{first['subject']}"
    assert mine["eye_contact"] == first["label"]
    for target in ("eye_contact", "next_speaker"):
        assert infer_task(read_labels(labels, target)["value"]) == "classification"


def test_trap_an_empty_seat_differs_by_recording_and_is_told_by_the_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings, labels = read(root, tmp_path)
    for name in ("recording07", "recording09", "recording11"):
        seats = [f"subjectPos{seat}" for seat in seats_of(name)]
        views = {view.name: [person.id for person in view.participants] for view in recordings[name].views}
        assert views == {"audio": [f"{name}.{seat}" for seat in seats], **{s: [f"{name}.{s}"] for s in seats}}
    said = " ".join(capsys.readouterr().out.split())
    assert "2 recordings have empty seats: recording07 (subjectPos3), recording09 (subjectPos1)" in said
    empty = labels[labels["participant"] == "recording07.subjectPos3"]
    assert len(empty) == 3  # the official figure pools the empty seat's zeros
    assert (empty["next_speaker"] == "0").all()


def test_whole_discussions_for_pretraining(root: Path, tmp_path: Path) -> None:
    recordings, labels = read(root, tmp_path, whole=True)
    assert {name: r.windows for name, r in recordings.items()} == dict.fromkeys(
        ("recording07", "recording09", "recording11"), ()
    )
    assert recordings["recording09"].split == "test_val"
    assert set(labels["recording"]) == set(recordings)


def test_layers_hold_windows_that_do_not_overlap() -> None:
    assert apart([(0, 10), (5, 15), (10, 20), (5, 15), (12, 22)]) == [[(0, 10), (10, 20)], [(5, 15)], [(12, 22)]]
    assert apart([]) == []


def test_lists_of_other_tasks_and_without_labels(root: Path, tmp_path: Path) -> None:
    """Names of the lists of 2022 are not known: any <part>_<task>.csv of these columns is read."""
    tree = copied(root, tmp_path)
    lists = tree / "sample_lists"
    about = "index,recording,start_time,end_time,subject"
    (lists / "train_backchannel.csv").write_text(f"{about},label\n0,recording07,0.0,4.0,subjectPos1,1\n")
    (lists / "train_agreement.csv").write_text(f"{about},label\n0,recording07,0.0,4.0,subjectPos1,0.25\n")
    (lists / "test_eye_contact.csv").write_text(f"{about}\n000,recording13,0.0,4.0,subjectPos2\n")
    (lists / "test_next_speaker.csv").write_text("index,recording,start_time,end_time\n0,recording13,0.0,4.0\n")
    shutil.copytree(tree / "data" / "recording11", tree / "data" / "recording13")
    recordings, labels = read(tree, tmp_path)
    assert recordings["recording13"].split == "test"
    hidden = labels[labels["recording"] == "recording13"]
    assert len(hidden) == 1 + 4
    assert hidden["eye_contact"].isna().all()
    assert "000" in set(hidden["index"])
    assert labels["backchannel"].dropna().tolist() == ["1"]
    assert labels["agreement"].dropna().tolist() == [0.25]
    _, labels = read(tree, tmp_path / "one", lists=("backchannel",))
    assert len(labels) == 1


def test_lists_that_contradict_one_another_or_are_missing_are_one_line(root: Path, tmp_path: Path) -> None:
    tree = copied(root, tmp_path)
    lists = tree / "sample_lists"
    text = (lists / "train_next_speaker.csv").read_text()
    (lists / "val_next_speaker.csv").write_text(text)
    config = ManifestMpiiGroupConfig(tree, tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"recording07 is in train for .* and in val for next_speaker: read one task"):
        mpii_group(config)
    with pytest.raises(UserError, match=r"--lists: no sample_lists/train_gaze\.csv; there are: eye_contact, next_sp"):
        mpii_group(ManifestMpiiGroupConfig(root, tmp_path / "m.csv", lists=("gaze",)))
    (lists / "val_next_speaker.csv").write_text("index,recording,start_time,end_time,label\n0,recording09,0,4,1\n")
    with pytest.raises(UserError, match="neither a column 'subject' nor label_1"):
        mpii_group(config)
    (lists / "val_next_speaker.csv").write_text("index,recording,start_time,end_time,subject\n0,recording09,now,4,x\n")
    with pytest.raises(UserError, match="must be seconds"):
        mpii_group(config)
    with pytest.raises(UserError, match="no recording in it"):
        mpii_group(ManifestMpiiGroupConfig(root / "sample_lists", tmp_path / "n.csv"))


def test_clips_of_bodily_behaviour_have_three_views(
    dyads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_clips(tmp_path / "bbsi", dyads)
    text = (root / "val.csv").read_text().replace("00002,", "2,")  # read as numbers once, and written again
    (root / "val.csv").write_text(text + f"00099{',0' * 14}\n")
    recordings, labels = read(root, tmp_path)
    assert {r.split for r in recordings.values()} == {"train", "test_val"}
    clip = recordings["val-00002"]
    files = {view.name: view.sources[0].path.name for view in clip.views}
    assert files == {"frontal": "00002-video.mp4", "left": "00002-video1.mp4", "right": "00002-video2.mp4"}
    assert "clips_train/clips_train" in recordings["train-00001"].views[0].sources[0].name  # nested twice
    of = labels.set_index("recording")
    assert list(of[of["split"] == "test_val"]["sample_id"]) == ["00001", "2", "00003", "00004"]
    written = pd.read_csv(root / "train.csv").iloc[1]
    assert of.loc["train-00002", list(BEHAVIOURS)].tolist() == written[list(BEHAVIOURS)].tolist()
    assert "labels are of clips that are not there: 1 of val.csv" in " ".join(capsys.readouterr().out.split())
    shutil.move(root / "val.csv", root / "labels.csv")
    read(root, tmp_path / "again")
    assert "whose name tells no part (train, val, test): labels.csv" in " ".join(capsys.readouterr().out.split())


def test_engagement_lies_in_folders_by_what_is_in_them(groups: list[Path], tmp_path: Path) -> None:
    root = write_engagement(tmp_path / "mpiigi", groups[0])
    recordings, labels = read(root, tmp_path)
    assert list(recordings) == ["mpiigi-008"]
    assert recordings["mpiigi-008"].split == "test_val"
    assert len(recordings["mpiigi-008"].views) == 6  # seat 1 is empty
    assert set(labels["role"]) == {"subjectPos2", "subjectPos3", "subjectPos4"}
    assert len(labels) == 3 * 200
    assert set(labels["session"]) == {"008"}
