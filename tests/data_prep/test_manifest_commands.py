"""``data_prep manifest folder`` and ``manifest ami``: from files as they lie in folders to a manifest that builds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs import UserError
from data_prep.__main__ import main
from data_prep.ami import ami, read_people, split_of
from data_prep.build import build
from data_prep.config import BuildConfig, ManifestAmiConfig, ManifestFolderConfig
from data_prep.folder import folder, matcher
from data_prep.manifest import read_manifest
from data_prep.shards import read_index, read_sample
from tests.data_prep.media import write_media

BUILD = {"clip_seconds": 2.0, "fps": 10.0, "short_side": 48, "landmarks": "none", "workers": 1}


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        (
            "{recording}/cam{view}/{part}.mp4",
            "s 01/cam2/007.mp4",
            {"recording": "s 01", "view": "2", "part": "007"},
        ),
        ("{recording}/cam{view}/{part}.mp4", "s01/cam2/a.mp4", None),
        ("{recording}/cam{view}/{part}.mp4", "x/s01/cam2/1.mp4", None),
        ("{recording}/cam{view}/{part}.mp4", "s01/cam2/1xmp4", None),
        ("./{recording}.*", "a.b.mov", {"recording": "a.b"}),
        ("*/{recording}_{view}.mp4", "lab/s_01_left.mp4", {"recording": "s_01", "view": "left"}),
        ("{recording}/{recording}_{view}.mp4", "s1/s1_a.mp4", {"recording": "s1", "view": "a"}),
        ("{recording}/{recording}_{view}.mp4", "s1/s2_a.mp4", None),
        ("{x.site}/{split}/{recording}.mp4", "Bonn/dev/7.mp4", {"x.site": "Bonn", "split": "dev", "recording": "7"}),
    ],
)
def test_what_a_pattern_reads_out_of_a_path(pattern: str, path: str, found: dict[str, str] | None) -> None:
    assert matcher(pattern)(path) == found


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{recordng}.mp4", "did you mean {recording}?"),
        ("{path}/{recording}.mp4", "no column 'path'"),
        ("{view}.mp4", "no {recording} in it"),
        ("{recording}.xyz", "no media file matches '{recording}.xyz'; the first of 1 there is a/cam1/1.mkv"),
    ],
)
def test_a_pattern_that_makes_no_sense(pattern: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "cam1").mkdir(parents=True)
    (tmp_path / "a" / "cam1" / "1.mkv").touch()
    with pytest.raises(UserError) as caught:
        folder(ManifestFolderConfig(tmp_path, pattern, tmp_path / "m.csv"))
    assert words in str(caught.value)
    assert not (tmp_path / "m.csv").exists()


def test_a_folder_is_shown_written_and_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in (1, 2, 10):
        write_media(tmp_path / "in" / "s 01" / "cam1" / f"{part}.mkv", 2.0)
    write_media(tmp_path / "in" / "s02" / "cam1" / "1.mkv", 3.0, audio=0)
    write_media(tmp_path / "in" / "preview.mkv", 1.0)
    (tmp_path / "in" / "s02" / "cam1" / "1.txt").touch()
    (tmp_path / "in" / ".s03").mkdir()
    (tmp_path / "in" / ".s03" / "1.mkv").touch()
    line = ["manifest", "folder", str(tmp_path / "in"), "--pattern", "{recording}/cam{view}/{part}.*"]
    line += ["--out", str(tmp_path / "m.csv")]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "1 (3 parts)" in said
    assert "1 media files do not match: preview.mkv" in said
    assert "1 files match and are no media files: s02/cam1/1.txt" in said
    assert "0:00:06" in said
    assert "core-hours" in said
    assert rows(tmp_path / "m.csv")[0] == {"path": "in/s 01/cam1/1.mkv", "recording": "s 01", "view": "1", "part": "1"}

    assert main(line) == 0  # the same again changes nothing
    write_media(tmp_path / "in" / "s04" / "cam1" / "1.mkv", 2.0)
    before = (tmp_path / "m.csv").read_bytes()
    capsys.readouterr()
    assert main(line) == 2
    assert "remove it, or name another --out" in capsys.readouterr().err
    assert (tmp_path / "m.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "m.csv"]

    assert build(BuildConfig(tmp_path / "m.csv", tmp_path / "out", **BUILD)) == 0
    assert list(read_index(tmp_path / "out").recording) == ["s 01"] * 3 + ["s02"] * 2


def test_what_the_build_would_object_to_is_said_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("s1_a.mkv", "s1_a.mp4"):
        write_media(tmp_path / name, 1.0)
    (tmp_path / "s2_a.mp4").write_text("not a film")
    assert folder(ManifestFolderConfig(tmp_path, "{recording}_{view}.*", tmp_path / "m.csv")) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "1 cannot be opened:" in said
    assert "s2_a.mp4" in said
    assert "a second file for view 'a'" in said


MEETINGS = """<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>
<nite:root nite:id="meetings" xmlns:nite="http://nite.sourceforge.net/">
  <meeting nite:id="m1" observation="ES2002a" duration="4">
    <speaker nite:id="s1" camera="Closeup4" channel="1" global_name="FEE005" nxt_agent="B" role="PM"/>
    <speaker nite:id="s2" camera="Closeup1" channel="0" global_name="MEE006" nxt_agent="A" role="ID"/>
    <speaker nite:id="s3" camera="Closeup2" channel="2" global_name="MEE007" nxt_agent="C" role="UI"/>
    <speaker nite:id="s4" camera="Closeup3" channel="3" global_name="MEE008" nxt_agent="D" role="ME"/>
  </meeting>
  <meeting nite:id="m2" observation="IS1008b"><speaker channel="0" camera="2" global_name="MIO016"/></meeting>
</nite:root>
"""
WHO = {
    "closeup1": ["MEE006"],
    "closeup2": ["MEE007"],
    "closeup3": ["MEE008"],
    "closeup4": ["FEE005"],
    "corner": ["MEE006", "FEE005", "MEE007", "MEE008"],
    "headset_0": ["MEE006"],
    "headset_1": ["FEE005"],
    "headset_2": ["MEE007"],
    "headset_3": ["MEE008"],
}


def write_wav(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 20), 16000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A meeting with all that the corpus has of one, and one of which a camera and a microphone were downloaded."""
    root = tmp_path / "amicorpus"
    for name in ("Closeup1", "Closeup2", "Closeup3", "Closeup4", "Corner"):
        write_media(root / "ES2002a" / "video" / f"ES2002a.{name}.avi", 4.0, audio=0)
    for name in (*(f"Headset-{k}" for k in range(4)), "Mix-Headset", "Array1-01", "Lapel-0"):
        write_wav(root / "ES2002a" / "audio" / f"ES2002a.{name}.wav", 4.0)
    write_media(root / "IS1008b" / "video" / "IS1008b.Closeup2.avi", 2.0, audio=0)
    write_wav(root / "IS1008b" / "audio" / "IS1008b.Headset-0.wav", 2.0)
    resources = root / "ami_public_manual_1.6.2" / "corpusResources"
    resources.mkdir(parents=True)
    (resources / "meetings.xml").write_text(MEETINGS, encoding="latin-1")
    return root


def test_ami_from_its_folders_to_shards(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "ami.csv"
    assert main(["manifest", "ami", str(corpus), "--out", str(manifest)]) == 0
    said = capsys.readouterr().out
    assert "3 mixes and distant microphones are left out" in said
    assert "6 cameras have no sound" in said
    assert {row["view"] for row in rows(manifest) if row["recording"] == "IS1008b"} == {"Closeup2", "Headset-0"}
    assert all(row["offset"] == "0" for row in rows(manifest))

    assert build(BuildConfig(manifest, tmp_path / "out", **BUILD)) == 0
    index = read_index(tmp_path / "out")
    assert list(zip(index.recording, index.split, strict=True)) == [("ES2002a", "train")] * 2 + [("IS1008b", "dev")]
    sample = read_sample(tmp_path / "out", index.iloc[1])
    meta = json.loads(sample["meta.json"])
    assert {name: view["participants"] for name, view in meta["views"].items()} == WHO
    for name in WHO:
        assert (f"{name}.audio.flac" if name.startswith("headset") else f"{name}.video.mp4") in sample
    other = json.loads(read_sample(tmp_path / "out", index.iloc[2])["meta.json"])
    assert other["views"]["closeup2"]["participants"] == ["MIO016"]


def test_a_camera_with_sound_gets_its_offset_measured(corpus: Path, tmp_path: Path) -> None:
    write_media(corpus / "ES2002a" / "video" / "ES2002a.Overview.mkv", 4.0)
    ami(ManifestAmiConfig(corpus, tmp_path / "ami.csv"))
    offsets = {row["view"]: row["offset"] for row in rows(tmp_path / "ami.csv") if row["recording"] == "ES2002a"}
    assert [view for view, offset in offsets.items() if offset == ""] == ["Overview"]


def test_ami_without_its_annotations_names_nobody(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(corpus.rglob("meetings.xml")).unlink()
    assert ami(ManifestAmiConfig(corpus, tmp_path / "ami.csv")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 meetings without participants, as no meetings.xml below the folder names them: ES2002a, IS1008b" in said
    assert all(not recording.participants for recording in read_manifest(tmp_path / "ami.csv")[0])


def test_a_hostile_or_broken_meetings_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meetings.xml"
    path.write_text('<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><r><meeting observation="&b;"/></r>')
    with pytest.raises(UserError, match="declares an entity"):
        read_people(path)
    path.write_text('<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>')
    with pytest.raises(UserError, match="declares an entity"):
        read_people(path)
    path.write_text(MEETINGS[:300])
    with pytest.raises(UserError, match="cannot be read"):
        read_people(path)


def test_meetings_of_a_group_are_in_one_split() -> None:
    assert {split_of(f"ES2011{letter}") for letter in "abcd"} == {"dev"}
    assert split_of("EN2002c") == "test"
    assert split_of("IB4001") == "dev"
    assert split_of("IB4005") == ""
    assert split_of("TS3012a") == "train"
