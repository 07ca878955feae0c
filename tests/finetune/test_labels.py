"""The label table and its join to clips by time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs import UserError
from finetune.labels import SCENE, class_names, infer_task, join, people_of, read_labels, targets_of
from finetune.windows import windows


def table(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def clips(*rows: tuple[str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["recording", "start", "end"])


def test_names_are_text_and_keep_their_zeros(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,participant,mood\n007,01,glad\n010,2,sad\n"), "mood")
    assert labels["recording"].tolist() == ["007", "010"]
    assert labels["participant"].tolist() == ["01", "2"]


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"recording": ["007"], "start": [1.0], "end": [2.0], "score": [0.5]})
    frame.to_parquet(tmp_path / "labels.parquet")
    labels = read_labels(tmp_path / "labels.parquet", "score")
    assert labels.iloc[0, :5].tolist() == ["007", "", 1.0, 2.0, 0.5]


def test_a_row_without_times_holds_for_the_whole_recording(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,mood\na,glad\n"), "mood")
    examples, notes = join(labels, clips(("a", 0, 10), ("a", 10, 20)), "classification", [{}, {}])
    assert examples["value"].tolist() == ["glad", "glad"]
    assert notes == []


def test_the_value_that_covers_most_of_a_clip_is_its_class(tmp_path: Path) -> None:
    """nod covers 3 s in two rows, wave the longest single row of 2.5 s: nod."""
    text = "recording,start,end,act\na,0,1.5,nod\na,1.5,4,wave\na,4,5.5,nod\na,9,12,wave\n"
    labels = read_labels(table(tmp_path, text), "act")
    examples, _ = join(labels, clips(("a", 0, 6), ("a", 6, 12), ("a", 12, 18)), "classification", [{}] * 3)
    assert examples["value"].tolist() == ["nod", "wave"]  # nothing is said about the third clip
    assert examples["row"].tolist() == [0, 1]


def test_numbers_are_averaged_by_overlap(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,start,end,score\na,0,3,1\na,3,4,5\n"), "score")
    examples, _ = join(labels, clips(("a", 0, 4)), "regression", [{}])
    assert examples["value"].tolist() == [pytest.approx((3 * 1 + 1 * 5) / 4)]


def test_an_open_end_lasts_until_the_next_row(tmp_path: Path) -> None:
    """A row a frame: 0 from 0 s to 1 s, 4 from 1 s on."""
    labels = read_labels(table(tmp_path, "recording,start,level\na,1,4\na,0,0\n"), "level")
    examples, _ = join(labels, clips(("a", 0, 4)), "regression", [{}])
    assert examples["value"].tolist() == [3.0]


def test_a_label_of_a_participant_is_about_that_person_of_the_clip(tmp_path: Path) -> None:
    text = "recording,participant,act\na,p1,nod\na,p2,wave\nb,p3,nod\n"
    labels = read_labels(table(tmp_path, text), "act")
    people = [{"p1": 4, "p2": 2}, {}]
    examples, _ = join(labels, clips(("a", 0, 4), ("b", 0, 4)), "classification", people)
    found = set(zip(examples["recording"], examples["participant"], examples["person"], examples["value"], strict=True))
    # the shards do not name p3, but b's labels speak of nobody else: the whole clip stands for p3
    assert found == {("a", "p1", 4, "nod"), ("a", "p2", 2, "wave"), ("b", "p3", SCENE, "nod")}


def test_labels_of_two_people_whom_the_shards_do_not_name_are_refused(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,participant,act\na,p1,nod\na,p2,wave\n"), "act")
    with pytest.raises(UserError, match="manifest column participants"):
        join(labels, clips(("a", 0, 4)), "classification", [{}])


def test_people_without_a_name_are_nobodys(tmp_path: Path) -> None:
    assert people_of({"people": [{"id": 3, "participant": "x"}, {"id": 4, "participant": None}]}) == {"x": 3}


def test_labelled_recordings_without_data_are_one_line(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,act\na,nod\nb,nod\nc,wave\n"), "act")
    examples, notes = join(labels, clips(("a", 0, 4)), "classification", [{}])
    assert len(examples) == 1
    assert notes == ["2 recordings (b, c): labelled, but not in the data; ignored"]


def test_no_common_recording_stops_and_shows_both_sides(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,act\nsession_1.mp4,nod\n"), "act")
    with pytest.raises(UserError, match=r"'session_1.mp4', the data say 'session_1'"):
        join(labels, clips(("other", 0, 4), ("session_1", 0, 4)), "classification", [{}, {}])


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        ("recording,gesture\na,nod\n", "gestre", "did you mean gesture"),
        ("recordng,gesture\na,nod\n", "gesture", "did you mean recordng"),
        ("recording,gesture\na,\n", "gesture", "no value"),
        ("recording,start,gesture\na,soon,nod\n", "gesture", "'start' must hold seconds"),
        ("recording,score\na,1.5\nb,inf\n", "score", "'score' is infinite in 1 rows, the first of 'b'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, target: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_labels(table(tmp_path, text), target)


def test_task_and_class_names_follow_from_the_values() -> None:
    assert infer_task(pd.Series(np.linspace(0, 1, 30))) == "regression"
    assert infer_task(pd.Series([1, 2, 3] * 10)) == "classification"
    assert infer_task(pd.Series([1.0, 2.0, None])) == "classification"
    assert infer_task(pd.Series([1.5, 2.5, 4.0, None])) == "regression"  # nobody counts classes in halves
    assert infer_task(pd.Series(list("abcdefghijklm"))) == "classification"
    assert class_names(pd.Series([1.0, 2.0])).tolist() == ["1", "2"]  # a gap in the column makes whole numbers floats


def test_a_clip_is_cut_into_windows_from_its_start() -> None:
    assert list(windows(10, 13, None)) == [(10, 13)]
    assert list(windows(10, 13, 1.0)) == [(10, 11), (11, 12), (12, 13)]
    assert list(windows(0, 2.6, 1.0)) == [(0, 1), (1, 2), (2, 2.6)]  # more than half is left
    assert list(windows(0, 2.4, 1.0)) == [(0, 1), (1, 2)]
    assert list(windows(0, 0.4, 1.0)) == [(0, 0.4)]
    assert len(list(windows(0, 600, 0.1))) == 6000


def test_every_window_has_the_label_of_its_own_time(tmp_path: Path) -> None:
    text = "recording,participant,start,level\n" + "".join(f"a,p,{k / 4},{k // 4}\n" for k in range(16))
    labels = read_labels(table(tmp_path, text), "level")
    examples, _ = join(labels, clips(("a", 0, 2), ("a", 2, 4)), "regression", [{"p": 7}, {}], window_seconds=1.0)
    assert examples[["row", "person", "start", "end", "value"]].to_numpy().tolist() == [
        [0, 7, 0, 1, 0],
        [0, 7, 1, 2, 1],
        [1, SCENE, 2, 3, 2],  # nobody else is labelled: the whole clip stands for p
        [1, SCENE, 3, 4, 3],
    ]


def test_several_targets_are_sets_of_labels(tmp_path: Path) -> None:
    """Each holds where it covers half of the clip, or half of it lies there."""
    text = "recording,start,end,Leg movement,groom\na,0,1,1,0\na,1,3.9,0,True\na,3.9,9,1,0\nb,,,0,0\n"
    labels = read_labels(table(tmp_path, text), "Leg movement, groom")
    examples, _ = join(labels, clips(("a", 0, 4), ("a", 4, 8), ("b", 0, 4)), "multi-label", [{}] * 3)
    assert examples["value"].tolist() == ["Leg movement;groom", "Leg movement", ""]
    assert targets_of("Leg movement, groom") == ("Leg movement", "groom")


@pytest.mark.parametrize(
    ("target", "task", "says"),
    [
        ("a,c", None, "no target 'c'"),
        ("a,b", None, "needs 0 and 1 in each of its columns; 'b' holds '3'"),
        ("b", "multi-label", "'b' holds '3'"),
        ("a,b", "regression", "several targets are a multi-label task"),
        ("a;b", None, "must not contain ';'"),
    ],
)
def test_what_is_no_set_of_labels_is_named(tmp_path: Path, target: str, task, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_labels(table(tmp_path, "recording,a,b\nx,0,3\ny,1,1\n"), target, task)


def test_levels_are_numbers(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording,pain\na,low\n"), "pain")
    with pytest.raises(UserError, match="task ordinal needs numbers; the target holds 'low'"):
        join(labels, clips(("a", 0, 4)), "ordinal", [{}])


def test_ratings_of_moments_count_the_same(tmp_path: Path) -> None:
    """They last no time, so that nothing can be weighted by it."""
    labels = read_labels(table(tmp_path, "recording,start,end,score\na,1,1,3\na,2,2,6\n"), "score")
    examples, _ = join(labels, clips(("a", 0, 4)), "regression", [{}])
    assert examples["value"].tolist() == [4.5]


def test_rows_that_begin_together_last_until_the_next_time(tmp_path: Path) -> None:
    """Two raters of each instant: neither is lost."""
    labels = read_labels(table(tmp_path, "recording,start,score\na,0,1\na,0,3\na,2,5\na,2,7\nb,1,9\n"), "score")
    assert labels["end"].tolist() == [2, 2, np.inf, np.inf, np.inf]
    examples, _ = join(labels, clips(("a", 0, 2), ("a", 2, 4)), "regression", [{}, {}])
    assert examples["value"].tolist() == [2.0, 6.0]


def test_a_row_that_ends_before_it_starts_is_told(tmp_path: Path) -> None:
    path = table(tmp_path, "recording,start,end,mood\na,0,5,glad\nb,9,2,sad\n")
    with pytest.raises(UserError, match="1 rows end before they start, the first in 'b': 9 to 2 s"):
        read_labels(path, "mood")


@pytest.mark.parametrize("target", ["mood", "level"])
def test_a_label_that_ends_just_after_a_clip_begins_is_not_the_clips(tmp_path: Path, target: str) -> None:
    """Clocks are rounded; what covers half of a clip, or lies in it by half, is about it."""
    rows = ["recording,start,end,mood,level", "a,0,10.004,calm,1.5", "a,25,29,tense,2.5", "a,35,60,tense,3.5"]
    labels = read_labels(table(tmp_path, "\n".join(rows)), target)
    index = clips(*(("a", 10.0 * k, 10.0 * k + 10) for k in range(5)))
    examples, _ = join(labels, index, infer_task(labels["value"]), [{}] * 5)
    assert examples["start"].tolist() == [0, 20, 30, 40]
    assert (
        examples["value"].astype(str).tolist()
        == {
            "mood": ["calm", "tense", "tense", "tense"],
            "level": ["1.5", "2.5", "3.5", "3.5"],
        }[target]
    )


def test_a_table_out_of_a_european_spreadsheet_is_read(tmp_path: Path) -> None:
    labels = read_labels(table(tmp_path, "recording;start;end;warmth\n007;0;2,5;3,5\n007;2,5;5;4,0\n"), "warmth")
    assert labels["recording"].tolist() == ["007", "007"]
    assert labels["end"].tolist() == [2.5, 5]
    assert labels["value"].tolist() == [3.5, 4.0]


def test_blanks_among_several_labels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = read_labels(table(tmp_path, "recording,laughs,nods\na,1,0\nb,1,\nc,,\nd,0,1\n"), "laughs,nods")
    assert labels["recording"].tolist() == ["a", "d"]
    assert "1 rows have a blank among laughs, nods" in capsys.readouterr().err
