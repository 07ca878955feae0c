"""Exports of ELAN and BORIS, in the forms that the programs write, read as label tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs import UserError
from finetune.annotations import read_annotations
from finetune.labels import called_as_in, join, read_labels

# the same three annotations in every form: nod 1.5 to 3 s and wave 4 to 4.25 s of anna, nod 62 to 64.1 s of ben
HEADED = """Tier\tParticipant\tBegin Time - hh:mm:ss.ms\tBegin Time - ss.msec\tEnd Time - hh:mm:ss.ms\tEnd Time - ss.msec\t\
Duration - hh:mm:ss.ms\tDuration - ss.msec\tAnnotation\tFile
gesture\tanna\t00:00:01.500\t1.500\t00:00:03.000\t3.000\t00:00:01.500\t1.500\tnod\tmeeting.eaf
gesture\tanna\t00:00:04.000\t4.000\t00:00:04.250\t4.250\t00:00:00.250\t0.250\twave\tmeeting.eaf
gesture\tben\t00:01:02.000\t62.000\t00:01:04.100\t64.100\t00:00:02.100\t2.100\tnod\tmeeting.eaf
"""
BARE = """gesture\tanna\t00:00:01.500\t1.5\t00:00:03.000\t3.0\t00:00:01.500\t1.5\tnod
gesture\tanna\t00:00:04.000\t4.0\t00:00:04.250\t4.25\t00:00:00.250\t0.25\twave
gesture\tben\t00:01:02.000\t62.0\t00:01:04.100\t64.1\t00:00:02.100\t2.1\tnod
"""
MILLISECONDS = """gesture@anna\t\t1500\t3000\t1500\tnod\tmeeting.eaf
gesture@anna\t\t4000\t4250\t250\twave\tmeeting.eaf
gesture@ben\t\t62000\t64100\t2100\tnod\tmeeting.eaf
"""
SECONDS = """gesture@anna\t1.500\t3.000\tnod
gesture@anna\t4.000\t4.250\twave
gesture@ben\t62.000\t64.100\tnod
"""
DURATIONS = """"#file:///C:/annotations/meeting.eaf"
Tier\t\tBegin Time - msec\tDuration - msec\tAnnotation
gesture\tanna\t1500\t1500\tnod
gesture\tanna\t4000\t250\twave
gesture\tben\t62000\t2100\tnod
"""


def write(folder: Path, text: str, name: str = "meeting.txt", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(labels: pd.DataFrame) -> list[tuple]:
    return [tuple(row) for row in labels[["recording", "participant", "start", "end", "value"]].to_numpy()]


@pytest.mark.parametrize("text", [HEADED, BARE, MILLISECONDS, SECONDS, DURATIONS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_elan_in_every_form_says_the_same(tmp_path: Path, text: str, encoding: str) -> None:
    labels = read_labels(write(tmp_path, text, encoding=encoding), "gesture")
    assert rows(labels) == [
        ("meeting", "anna", 1.5, pytest.approx(3.0), "nod"),
        ("meeting", "anna", 4.0, pytest.approx(4.25), "wave"),
        ("meeting", "ben", 62.0, pytest.approx(64.1), "nod"),
    ]
    assert not labels["event"].any()


def test_elan_with_a_column_for_each_tier(tmp_path: Path) -> None:
    text = (
        "Begin Time - ss.msec\tEnd Time - ss.msec\tmood\thand\n0.0\t2.0\tglad\t\n2.0\t3.5\tsad\tup\n3.5\t4.0\t\tdown\n"
    )
    path = write(tmp_path, text)
    assert rows(read_labels(path, "mood")) == [("meeting", "", 0.0, 2.0, "glad"), ("meeting", "", 2.0, 3.5, "sad")]
    assert rows(read_labels(path, "hand")) == [("meeting", "", 2.0, 3.5, "up"), ("meeting", "", 3.5, 4.0, "down")]


def test_numbers_on_a_tier_are_numbers(tmp_path: Path) -> None:
    """And are not taken for a time, though nothing names the columns."""
    path = write(tmp_path, "level\t0.0\t2.0\t3\nlevel\t2.0\t3.5\t5\nlevel\t3.5\t7.0\t4\n")
    assert rows(read_labels(path, "level")) == [
        ("meeting", "", 0.0, 2.0, 3),
        ("meeting", "", 2.0, 3.5, 5),
        ("meeting", "", 3.5, 7.0, 4),
    ]


def test_a_tier_that_says_only_when_is_an_event(tmp_path: Path) -> None:
    """Laughter from 1 to 3 s; ben was coded (on another tier) and did not laugh."""
    path = write(tmp_path, "laughs@anna\t1.0\t3.0\t\nlaughs@anna\t9.0\t9.5\t\nspeaks@ben\t0.0\t1.0\tyes\n")
    path.write_text(path.read_text().replace("laughs@anna", "laughs\tanna").replace("speaks@ben", "speaks\tben"))
    labels = read_labels(path, "laughs")
    clips = pd.DataFrame({"recording": ["meeting"], "start": [0.0], "end": [10.0]})
    examples, _ = join(labels, clips, "classification", [{"anna": 1, "ben": 2}], window_seconds=2.0)
    by_person = {who: part["value"].tolist() for who, part in examples.groupby("participant")}
    # 1 to 3 covers half of each of the first two windows; the short laugh lies in the last
    assert by_person == {"anna": ["yes", "yes", "no", "no", "yes"], "ben": ["no"] * 5}


OLD_TABULAR = """Observation id\tdyad #1\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Media file(s)\t\t\t\t\t\t\t\t
Player #1\tvideos/dyad_1.mp4\t\t\t\t\t\t\t
Time offset (s)\t0.0\t\t\t\t\t\t\t
\t\t\t\t\t\t\t\t
Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus
3.300\tvideos/dyad_1.mp4\t60.0\t25.0\tanna\tspeaks\t\t\tSTART
5.000\tvideos/dyad_1.mp4\t60.0\t25.0\tben\tnods\t\t\tPOINT
7.750\tvideos/dyad_1.mp4\t60.0\t25.0\tanna\tspeaks\t\t\tSTOP
"""
NEW_TABULAR = """Observation id,Observation date,Source,Subject,Behavior,Behavioral category,Behavior type,Time,Media file name
dyad #1,2025-01-01,player #1:dyad_1.mp4,anna,speaks,,START,3.3,C:\\videos\\dyad_1.mp4
dyad #1,2025-01-01,player #1:dyad_1.mp4,ben,nods,,POINT,5.0,C:\\videos\\dyad_1.mp4
dyad #1,2025-01-01,player #1:dyad_1.mp4,anna,speaks,,STOP,7.75,C:\\videos\\dyad_1.mp4
"""
AGGREGATED = """Observation id\tMedia file\tTotal length\tFPS\tSubject\tBehavior\tBehavior type\tStart (s)\tStop (s)\tDuration (s)
dyad #1\tdyad_1.mp4\t60.0\t25.0\tanna\tspeaks\tSTATE\t3.300\t7.750\t4.450
dyad #1\tdyad_1.mp4\t60.0\t25.0\tben\tnods\tPOINT\t5.000\t5.000\tNA
"""


@pytest.mark.parametrize("text", [OLD_TABULAR, NEW_TABULAR, AGGREGATED])
@pytest.mark.parametrize("called", ["dyad #1", "dyad_1"])
def test_boris_in_every_form_says_the_same(tmp_path: Path, text: str, called: str) -> None:
    """The data may call the recording as the observation or as the video; a moment counts in the window that it lies in."""
    path = write(tmp_path, text, "events.tsv")
    clips = pd.DataFrame({"recording": [called], "start": [0.0], "end": [8.0]})
    people = [{"anna": 1, "ben": 2}]
    labels = called_as_in(read_labels(path, "speaks,nods"), clips["recording"])
    examples, notes = join(labels, clips, "multi-label", people, window_seconds=2.0)
    assert notes == []
    by_person = {who: part["value"].tolist() for who, part in examples.groupby("participant")}
    assert by_person == {"anna": ["", "", "speaks", "speaks"], "ben": ["", "", "nods", ""]}
    labels = called_as_in(read_labels(path, "nods"), clips["recording"])
    alone, _ = join(labels, clips, "classification", people, window_seconds=2.0)
    assert alone["value"].tolist() == ["no"] * 4 + ["no", "no", "yes", "no"]


def test_no_focal_subject_is_nobody(tmp_path: Path) -> None:
    path = write(tmp_path, AGGREGATED.replace("anna", "No focal subject").replace("ben", "No focal subject"))
    assert set(read_labels(path, "speaks")["participant"]) == {""}


def test_several_files_of_an_observation_give_it_no_other_name(tmp_path: Path) -> None:
    path = write(tmp_path, AGGREGATED.replace("dyad_1.mp4\t60.0\t25.0\tben", "dyad_2.mp4\t60.0\t25.0\tben"))
    export = read_annotations(path)
    assert export is not None
    assert set(export.rows["file"]) == {""}


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        (HEADED, "gestre", "no tier 'gestre'; did you mean gesture"),
        (AGGREGATED, "shouts", "no behaviour 'shouts'; there are: nods, speaks"),
        (
            NEW_TABULAR.replace("STOP", "START"),
            "speaks",
            r"'speaks' of anna in 'dyad #1': START at 7.75 s has no partner",
        ),
        (OLD_TABULAR.rsplit("\n", 2)[0], "speaks", "starts at 3.3 s and never stops"),
        (AGGREGATED.replace("ben", "No focal subject"), "speaks,nods", "1 of 2 annotations of speaks, nods name no"),
        (HEADED.replace("ss.msec", "PAL").replace("hh:mm:ss.ms", "NTSC"), "gesture", "no column 'Begin Time'"),
        (AGGREGATED.splitlines()[0], "speaks", "holds no annotation"),
        ("gesture\t3.0\t1.0\tnod\ngesture\t5.0\t2.0\tnod\n", "gesture", "the second time is before the first"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, target: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=says) as found:
        read_labels(path, target)
    assert str(path) in str(found.value)


def test_a_label_table_is_no_export(tmp_path: Path) -> None:
    path = write(tmp_path, "recording\tstart\tend\tact\na\t0\t1\tnod\n", "labels.tsv")
    assert read_annotations(path) is None
    assert np.array_equal(read_labels(path, "act")["start"], [0.0])
