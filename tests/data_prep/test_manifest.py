"""Manifests as people write them, with the mistakes that they make."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import UserError
from data_prep.manifest import Participant, Recording, member_name, read_manifest


def read(tmp_path: Path, text: str, encoding: str = "utf-8") -> tuple[list[Recording], list]:
    (tmp_path / "manifest.csv").write_text(text, encoding=encoding)
    return read_manifest(tmp_path / "manifest.csv")


def test_only_the_path_is_needed(tmp_path: Path) -> None:
    (recording,), failures = read(tmp_path, "path\nday 1/0042.mp4\n")
    assert not failures
    assert recording.name == "day 1/0042"
    (view,) = recording.views
    assert view.name == "main"
    assert view.sources[0].path == tmp_path / "day 1/0042.mp4"
    assert view.sources[0].offset is None
    assert recording.windows == ()
    assert recording.split is None


def test_all_columns(tmp_path: Path) -> None:
    text = (
        "path,recording,view,part,start,end,offset,participants,split,x.site,x.note\n"
        'b2.mp4,007,cam B,2,,,,"anna@0,0,0.5,1; ben",test,Bonn,\n'
        "b1.mp4,007,cam B,1,,,-1.5,,,Bonn,\n"
        "a.mp4,007,a,,,,0,carl,,Köln,\n"
    )
    (recording,), failures = read(tmp_path, text)
    assert not failures
    assert recording.name == "007"
    assert [(view.name, [source.name for source in view.sources]) for view in recording.views] == [
        ("cam B", ["b1.mp4", "b2.mp4"]),
        ("a", ["a.mp4"]),
    ]
    assert recording.views[0].sources[0].offset == -1.5
    assert recording.views[0].participants == (Participant("anna", (0.0, 0.0, 0.5, 1.0)), Participant("ben"))
    assert recording.participants == ["anna", "ben", "carl"]
    assert recording.split == "test"
    assert recording.extra == {"site": {"cam B": "Bonn", "a": "Köln"}}


def test_byte_order_mark_and_newlines_in_names(tmp_path: Path) -> None:
    (recording,), _ = read(tmp_path, 'path,recording\na.mp4,"two\nlines, ""quoted"""\n', "utf-8-sig")
    assert recording.name == 'two\nlines, "quoted"'


def test_parquet_as_csv(tmp_path: Path) -> None:
    table = {"path": ["a.mp4", "b.mp4"], "recording": ["007", None], "start": [1.5, None], "x.age": [3, None]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    recordings, failures = read_manifest(tmp_path / "m.parquet")
    assert not failures
    assert [(r.name, r.windows, r.extra) for r in recordings] == [
        ("007", ((1.5, float("inf")),), {"age": 3}),
        ("b", (), {}),
    ]


def test_windows_of_a_recording(tmp_path: Path) -> None:
    (recording,), failures = read(tmp_path, "path,recording,start,end\na.mp4,r,30,40\na.mp4,r,,20\n")
    assert not failures
    assert recording.windows == ((0.0, 20.0), (30.0, 40.0))
    assert len(recording.views[0].sources) == 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,ofset", "unknown column 'ofset'; did you mean offset?"),
        ("path,site", "A column of your own is named x.site"),
        ("file,view", "unknown column 'file'"),
        ("recording,view", "no column 'path'"),
    ],
)
def test_unknown_columns_stop_the_run(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, f"{header}\na.mp4,1\n")
    assert message in str(error.value)


def test_what_is_no_manifest(tmp_path: Path) -> None:
    for text, message in (("path\n", "no row"), ("path\na.mp4,b\n", "line 2: more cells")):
        with pytest.raises(UserError, match=message):
            read(tmp_path, text)
    (tmp_path / "manifest.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(UserError, match="UTF-8"):
        read_manifest(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "gone.csv")
    (tmp_path / "m.parquet").write_text("path")
    with pytest.raises(UserError, match="not a Parquet file"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("a.mp4,r,,,5,3,,,", "start 5, end 3"),
        ("a.mp4,r,,,-1,3,,,", "start -1"),
        ("a.mp4,r,,,0,10,,,\na.mp4,r,,,5,20,,,", "overlap"),
        ("a.mp4,r,,,,,soon,,", "offset is 'soon'"),
        ("a.mp4,r,,,,,nan,,", "offset is 'nan'"),
        ('a.mp4,r,,,,,,"anna@0,0,1",', "participant 'anna@0,0,1'"),
        ('a.mp4,r,,,,,,"anna@0.5,0,0.2,1",', "is not understood"),
        ("a.mp4,r,,,,,,,\nb.mp4,r,,,,,,,", "a second file for view 'main'"),
        ("a.mp4,r,,1,,,,,\nb.mp4,r,,,,,,,", "some have none"),
        ("a.mp4,r,Cam,,,,0,,\nb.mp4,r,cam,,,,0,,", "one name in a shard"),
        ("a.mp4,r,a,,,,0,,train\nb.mp4,r,b,,,,0,,test", "several splits: test, train"),
        (",r,,,,,,,", "without a path"),
    ],
)
def test_a_row_without_sense_costs_its_recording_only(tmp_path: Path, rows: str, reason: str) -> None:
    text = f"path,recording,view,part,start,end,offset,participants,split\n{rows}\nok.mp4,ok,,,,,,,\n"
    recordings, failures = read(tmp_path, text)
    assert [recording.name for recording in recordings] == ["ok"]
    (failure,) = failures
    assert failure.recording == "r"
    assert reason in failure.reason
    assert failure.remedy


def test_a_folder_is_a_manifest(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "a.mp4", "a.wav", "notes.txt", ".hidden/c.mp4", "out/d.mp4", "e.MOV"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    recordings, failures = read_manifest(tmp_path, tmp_path / "out")
    assert not failures
    names = [(recording.name, recording.views[0].sources[0].name) for recording in recordings]
    assert names == [("a.mp4", "a.mp4"), ("a.wav", "a.wav"), ("b/2", "b/2.mp4"), ("e", "e.MOV")]


def test_views_get_names_that_webdataset_keeps() -> None:
    assert [member_name(view) for view in ("main", "Cam 1.left", "_x")] == ["main", "cam_1_left", "view_x"]
