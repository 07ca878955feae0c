"""``data_prep manifest udiva`` on a tree of the documented layout; each trap of the corpus is a test of its own."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.__main__ import main
from data_prep.data_sets.udiva_streams import spoken
from data_prep.manifest import read_manifest
from finetune.added_streams import read_added
from finetune.labels import read_labels
from tests.data_sets.udiva_tree import RATE, SESSIONS, SPLIT_OF, TRAITS, traits_of, write_hdf5, write_table

RECORDINGS = {f"{recording}_talk" for recording in SPLIT_OF} | {"002003_lego"}


def manifest(root: Path, out: Path, *more: str, code: int = 0) -> list[dict[str, str]]:
    """The rows of the manifest that the command writes."""
    assert main(["manifest", "udiva", str(root), str(out / "udiva.csv"), *more]) == code
    if code:
        return []
    with (out / "udiva.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def changed(udiva_root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(udiva_root, tmp_path / "copy")


def labels(out: Path) -> dict[tuple[str, str], list[float]]:
    table = pd.read_parquet(out)
    traits = table[list(TRAITS)].to_numpy().tolist()
    return dict(zip(zip(table["recording"], table["participant"], strict=True), traits, strict=True))


def test_trap_recording_ids_keep_their_leading_zeros(
    udiva_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trap: 002003 read as a number is 2003."""
    rows = manifest(udiva_root, tmp_path, "--labels", str(tmp_path / "labels.csv"))
    assert {row["recording"] for row in rows} == RECORDINGS
    assert "leading zeros" not in capsys.readouterr().out  # nothing had to be matched by number
    read = read_labels(tmp_path / "labels.csv", "EXTRAVERSION_Z")
    assert set(read["recording"]) == RECORDINGS
    assert set(read["participant"]) == {person for of in SESSIONS.values() for parts in of.values() for person in parts}


def test_zeros_that_a_table_has_lost_are_matched_by_number_and_said(
    changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {recording: [str(int(person)) for person in people] for recording, people in SESSIONS["train"].items()}
    rows = [[str(int(recording)), *people] for recording, people in parts.items()]
    write_table(changed / "train" / "metadata" / "sessions_train.csv", ["ID", "PART.1", "PART.2"], rows)
    found = manifest(changed, tmp_path, "--labels", str(tmp_path / "labels.parquet"))
    assert {row["recording"] for row in found} == RECORDINGS
    assert {row["split"] for row in found if row["recording"] == "002003_talk"} == {"train"}
    assert labels(tmp_path / "labels.parquet")["002003_talk", "003"] == traits_of("003")
    assert "lost their leading zeros in a table; they are matched by number: 001004" in " ".join(
        capsys.readouterr().out.split()
    )


def test_trap_fc1_films_part_1_and_traits_are_looked_up_by_id(udiva_root: Path, tmp_path: Path) -> None:
    """Trap: parts_*.csv is in order of ID; in 002003 PART.1 is 003, whom its second row describes."""
    rows = manifest(udiva_root, tmp_path, "--labels", str(tmp_path / "labels.parquet"))
    filmed = {(row["recording"], row["view"]): row["participants"] for row in rows}
    assert filmed["002003_talk", "FC1"] == filmed["002003_lego", "FC1"] == "003"
    assert filmed["002003_talk", "FC2"] == filmed["002003_lego", "FC2"] == "002"
    found = labels(tmp_path / "labels.parquet")
    assert found["002003_talk", "003"] == traits_of("003") != traits_of("002")
    for recording, split in SPLIT_OF.items():
        for person in SESSIONS[split][recording]:
            assert found[f"{recording}_talk", person] == traits_of(person)
    assert len(found) == 2 * len(RECORDINGS)


def test_what_is_known_of_a_person_stands_with_the_own_view(udiva_root: Path, tmp_path: Path) -> None:
    rows = {(row["recording"], row["view"]): row for row in manifest(udiva_root, tmp_path)}
    one, two = rows["002003_talk", "FC1"], rows["002003_talk", "FC2"]
    assert [one[f"x.{name}"] for name in ("gender", "age", "country", "fatigue_before")] == ["M", "23", "España", "3"]
    assert [two[f"x.{name}"] for name in ("gender", "age", "country", "fatigue_before")] == ["F", "22", "España", "2"]
    assert {one["x.task"], rows["002003_lego", "FC1"]["x.task"]} == {"talk", "lego"}
    assert one["x.language"] == two["x.language"] == "Spanish"
    assert not any(
        trait.lower() in column for column in one for trait in TRAITS
    )  # the metadata must not tell the label


def test_the_splits_are_those_of_the_sessions_tables(udiva_root: Path, tmp_path: Path) -> None:
    rows = manifest(udiva_root, tmp_path)
    assert {row["recording"].split("_")[0]: row["split"] for row in rows} == SPLIT_OF


def test_a_recording_that_no_table_names_has_its_folders_split_and_nobody(
    changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two halves of a recording's name look like ids of participants: nothing is made of that."""
    rows = [[recording, *people] for recording, people in SESSIONS["val"].items() if recording != "009010"]
    write_table(changed / "val" / "metadata_val" / "sessions_val.csv", ["ID", "PART.1", "PART.2"], rows)
    found = [row for row in manifest(changed, tmp_path) if row["recording"] == "009010_talk"]
    assert [(row["participants"], row["split"]) for row in found] == [("", "val")] * 2
    assert "in no sessions_<split>.csv" in capsys.readouterr().out


def test_task_limits_say_what_of_a_video_is_used(
    udiva_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(udiva_root, tmp_path)
    windows = {recording.name: recording.windows for recording in read_manifest(tmp_path / "udiva.csv")[0]}
    assert windows["002003_talk"] == ((1.0, 7.0),)
    assert windows["005013_talk"] == windows["002003_lego"] == ()
    assert "no entry in task_limits.json; all of them is taken: 002003 L" in " ".join(capsys.readouterr().out.split())


def test_two_limits_are_two_windows(changed: Path, tmp_path: Path) -> None:
    (changed / "train" / "metadata" / "task_limits.json").write_text('{"002003": {"talk": [[0, 2.5], [4, 6]]}}')
    manifest(changed, tmp_path)
    windows = {recording.name: recording.windows for recording in read_manifest(tmp_path / "udiva.csv")[0]}
    assert windows["002003_talk"] == ((0.0, 2.5), (4.0, 6.0))


def test_a_missing_camera_leaves_the_other(udiva_root: Path, tmp_path: Path) -> None:
    found = [row for row in manifest(udiva_root, tmp_path) if row["recording"] == "055128_talk"]
    assert [(row["view"], row["participants"]) for row in found] == [("FC1", "055")]


def test_masked_labels_of_val_and_test_are_not_taken_unasked(
    changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """parts_val.csv holds zeros here; whether real copies hold masked or true values, nobody says."""
    for split, folder in (("val", "metadata_val"), ("test", "metadata")):
        (changed / split / folder / f"parts_{split}_unmasked.csv").unlink()
    manifest(changed, tmp_path, "--labels", str(tmp_path / "labels.parquet"))
    assert {SPLIT_OF[recording[:6]] for recording, _ in labels(tmp_path / "labels.parquet")} == {"train"}
    said = " ".join(capsys.readouterr().out.split())
    assert "2 splits have no labels, as parts_<split>_unmasked.csv is missing (--masked_labels true): test, val" in said
    (tmp_path / "asked").mkdir()
    more = ("--labels", str(tmp_path / "asked" / "labels.parquet"), "--masked_labels", "true")
    manifest(changed, tmp_path / "asked", *more)
    assert labels(tmp_path / "asked" / "labels.parquet")["009010_talk", "009"] == [0.0] * 5


def test_the_offset_is_measured_from_sound_unless_told(
    changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all("offset" not in row for row in manifest(changed, tmp_path))
    (tmp_path / "told").mkdir()
    assert {row["offset"] for row in manifest(changed, tmp_path / "told", "--synchronised", "true")} == {"0"}


def test_other_copies_of_a_video_are_said_and_left_out(
    changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = changed / "train" / "recordings" / "talk_recordings_train" / "001004"
    shutil.copytree(first, changed / "train" / "recordings" / "talk_recordings_train_img" / "001004")
    shutil.copy(first / "FC1_T.mp4", first / "HC1_T.mp4")
    rows = manifest(changed, tmp_path)
    assert len([row for row in rows if row["recording"] == "001004_talk"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "2 videos are there twice; the first is taken" in said
    assert "1 media files are no frontal camera's video" in said


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("train/metadata/sessions_train.csv", "ID,PART1\n002003,002\n", "no column 'PART.1'"),
        ("train/metadata/parts_train.csv", "ID,AGE\n002,20\n", "no column 'OPENMINDEDNESS_Z'"),
        ("train/metadata/task_limits.json", "[1", "not readable as JSON"),
        ("train/metadata/task_limits.json", '{"002003": {"talk": [3, 4]}}', "is no [[start, end], ...]"),
        ("val/sessions_test.csv", "ID,PART.1,PART.2\n009010,009,010\n", "recording 009010 is in split"),
        ("train/metadata/parts_train.csv", f"ID,{','.join(TRAITS)}\n002,a,0,0,0,0\n", "a trait is no number"),
    ],
)
def test_a_table_that_makes_no_sense_is_one_line(
    file: str, text: str, words: str, changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (changed / file).write_text(text)
    manifest(changed, tmp_path, "--labels", str(tmp_path / "labels.parquet"), code=2)
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_folder_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").touch()
    manifest(tmp_path, tmp_path, code=2)
    assert "no video of UDIVA in it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def streams(udiva_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streams")
    manifest(udiva_root, out, "--streams", str(out / "streams"))
    return out / "streams"


def numbers(rows: dict[str, np.ndarray], participant: str) -> list[int]:
    """The frames that somebody has a row of: every number in a row is its frame's."""
    of = rows["participant"] == participant
    values = rows["values"][of]
    assert (rows["times"][of] == values[:, 0] / RATE).all()
    return values[:, 0].astype(int).tolist()


def test_trap_landmarks_that_are_not_there_or_not_valid_have_no_row(streams: Path) -> None:
    """Trap: a frame, a part or a hand may lack landmarks; 7's body has some that are not valid, 5's left hand is unseen."""
    read = read_added(streams / "streams.yaml")
    assert read.streams["face68"].features == 204
    of = {name: numbers(rows["002003_talk"], "003") for name, rows in read.rows.items() if name != "speaking"}
    everything = set(range(12)) - {3}
    assert set(of["face68"]) == everything - {4}
    assert set(of["gaze"]) == everything
    assert set(of["body24"]) == everything - {7}
    assert set(of["left_hand"]) == everything - {5, 6}
    assert set(of["right_hand"]) == everything - {6}


def test_trap_frames_are_sorted_as_numbers(streams: Path) -> None:
    """Trap: as text, frame 10 comes before frame 2."""
    rows = read_added(streams / "streams.yaml").rows["body24"]["002003_talk"]
    assert (np.diff(rows["times"]) >= 0).all()
    assert numbers(rows, "002") == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]


def test_frames_that_are_counted_from_one_begin_at_zero_seconds(changed: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(next(changed.glob("train/**/002003/FC1_T/annotations_raw.hdf5")), "r+") as file:
        del file["0"]
    manifest(changed, tmp_path, "--streams", str(tmp_path / "s"))
    rows = read_added(tmp_path / "s" / "streams.yaml").rows["body24"]["002003_talk"]
    of = rows["participant"] == "003"
    assert rows["values"][of][0, 0] == 1
    assert rows["times"][of][0] == 0


def test_zips_are_read_and_what_is_unmasked_comes_first(streams: Path) -> None:
    read = read_added(streams / "streams.yaml").rows["face68"]
    assert len(numbers(read["009010_talk"], "010")) == 10  # annotations_raw.zip
    assert len(numbers(read["191192_talk"], "192")) == 10  # not the 2 frames of annotations_cleaned.hdf5


def test_landmarks_of_a_video_are_of_who_is_filmed(streams: Path) -> None:
    read = read_added(streams / "streams.yaml").rows["face68"]
    assert set(read["002003_talk"]["participant"]) == {"002", "003"}
    assert set(read["055128_talk"]["participant"]) == {"055"}


def test_who_speaks_is_read_of_both_and_not_of_the_supervisor(udiva_root: Path, streams: Path) -> None:
    cues = spoken(udiva_root / "train" / "transcriptions" / "002003" / "002003_talk.srt")
    assert [who for _, _, who in cues] == ["PART.1", "PART.2", "PART.1", "PART.2"]
    rows = read_added(streams / "streams.yaml").rows["speaking"]
    assert set(rows) == {"002003_talk"}
    rows = rows["002003_talk"]
    speaks = {
        who: set(np.round(rows["times"][(rows["participant"] == who) & (rows["values"][:, 0] == 1)], 1))
        for who in ("003", "002")
    }
    tenths = {
        name: {round(k / 10, 1) for k in range(*ends)}
        for name, ends in {"a": (10, 25), "b": (20, 30), "c": (55, 60)}.items()
    }
    assert speaks["003"] == tenths["a"] | tenths["c"]  # PART.1
    assert speaks["002"] == tenths["b"] | tenths["c"]
    assert rows["times"].min() == 1.0
    assert rows["times"].max() == pytest.approx(5.9)


def test_damaged_landmarks_are_one_line(changed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(changed.glob("train/**/001004/FC1_T/annotations_raw.hdf5"))
    file.write_bytes(file.read_bytes()[:100])
    manifest(changed, tmp_path, "--streams", str(tmp_path / "s"), code=2)
    assert "not readable as HDF5" in capsys.readouterr().err
    write_hdf5(file)
