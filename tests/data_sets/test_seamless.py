"""``manifest seamless``: archives of single persons become recordings of two."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from configs import UserError
from data_prep.__main__ import main
from data_prep.build import build
from data_prep.config import BuildConfig
from data_prep.data_sets.config import ManifestSeamlessConfig
from data_prep.data_sets.seamless import seamless
from data_prep.draft import files_below
from data_prep.manifest import read_manifest
from data_prep.shards import read_index, read_sample
from finetune.added_streams import read_added
from tests.data_sets.seamless_tree import DYAD, OTHER, SECONDS, add, write_seamless


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seamless")
    return write_seamless(folder / "data", folder / "scratch")


def test_the_people_of_a_dyad_are_in_one_clip_with_their_ids_and_times(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, labels = tmp_path / "seamless.csv", tmp_path / "labels.parquet"
    command = ["manifest", "seamless", str(archives), str(manifest), "--labels", str(labels)]
    assert main([*command, "--unpacked", str(tmp_path / "files")]) == 0
    assert "2 stretches of speech have impossible times" in capsys.readouterr().out
    recordings = {recording.name: recording for recording in read_manifest(manifest)[0]}
    assert set(recordings) == {DYAD, OTHER}
    dyad = recordings[DYAD]
    assert {view.name: [p.id for p in view.participants] for view in dyad.views} == {
        "P0059A": ["P0059A"],
        "P0059A_voice": ["P0059A"],
        "P0947": ["P0947"],
        "P0947_voice": ["P0947"],
    }
    assert (dyad.split, dyad.extra["style"]) == ("val", "improvised")
    assert (recordings[OTHER].split, recordings[OTHER].extra["style"]) == ("train", "naturalistic")

    table = pd.read_parquet(labels)
    mine = table[(table["recording"] == DYAD) & (table["participant"] == "P0947")]
    assert mine[["start", "end", "speaks"]].to_numpy().tolist() == [
        [0.0, 0.5, "no"],
        [0.5, 1.5, "yes"],
        [1.5, 2.0, "no"],
        [2.0, 3.0, "yes"],
        [3.0, SECONDS, "no"],
    ]

    settings = {"clip_seconds": 4.0, "fps": 8.0, "short_side": 48, "landmarks": "none", "speech": False, "workers": 1}
    assert build(BuildConfig(manifest, tmp_path / "out", **settings)) == 0
    index = read_index(tmp_path / "out")
    row = index[index["recording"] == DYAD].iloc[0]
    clip = read_sample(tmp_path / "out", row)
    assert {name for name in clip if name.endswith((".mp4", ".flac"))} == {
        "p0059a.video.mp4",
        "p0059a_voice.audio.flac",
        "p0947.video.mp4",
        "p0947_voice.audio.flac",
    }
    views = json.loads(clip["meta.json"])["views"]
    assert views["p0947"]["participants"] == ["P0947"]
    assert views["p0059a_voice"]["participants"] == ["P0059A"]
    assert all(view["offset"] == 0 for view in views.values())


def test_given_features_become_streams_that_fine_tuning_reads(archives: Path, tmp_path: Path) -> None:
    config = ManifestSeamlessConfig(archives, tmp_path / "m.csv", unpacked=tmp_path / "f", streams=tmp_path / "streams")
    assert seamless(config) == 0
    declared = {"features": 24, "cell_seconds": 0.0333, "cells_per_token": 15, "data": "streams/movement_FAUValue"}
    (tmp_path / "units.yaml").write_text(yaml.safe_dump({"action_units": declared}))
    rows = read_added(tmp_path / "units.yaml").rows["action_units"][DYAD]
    assert set(rows["participant"]) == {"P0947", "P0059A"}
    assert rows["times"].min() == 1.0  # what is not valid, the first 30 frames, is left out
    assert len(rows["times"]) == 2 * 90
    source = next((tmp_path / "f").rglob(f"{DYAD}_P0947.npz"))
    with np.load(source) as arrays:
        mine = rows["participant"] == "P0947"
        np.testing.assert_array_equal(rows["values"][mine], arrays["movement:FAUValue"][30:])
    assert (tmp_path / "streams" / "smplh_body_pose" / f"{OTHER}.npz").is_file()


def hostile(archive: Path, outside: Path) -> None:
    """An archive whose names lead elsewhere."""
    archive.parent.mkdir(parents=True)
    name = "V00_S0001_I00000001_P0001.json"
    with tarfile.open(archive, "w") as tar:
        for path in (
            f"../{name}",
            f"../../{name}",
            str(outside / name),
            f"folder/{name}",
            "run.sh",
            f"{name}/../{name}",
        ):
            add(tar, path, b"{}")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(name.replace("json", "npz"))
            link.type, link.linkname = kind, str(outside / "secret")
            tar.addfile(link)
        device = tarfile.TarInfo(name.replace("json", "wav"))
        device.type = tarfile.CHRTYPE
        tar.addfile(device)


def test_names_from_archives_never_escape(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    shutil.copytree(archives, root)
    hostile(root / "improvised" / "test" / "0000" / "0000.tar", outside)
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert seamless(ManifestSeamlessConfig(root, tmp_path / "m.csv", unpacked=tmp_path / "files")) == 0
    assert "9 members of archives are no files of a sample" in capsys.readouterr().out
    new = {file for file in tmp_path.rglob("*") if file.is_file()} - before - {tmp_path / "m.csv"}
    assert all(file.is_relative_to(tmp_path / "files") for file in new)
    assert not list((tmp_path / "files" / "improvised" / "test").rglob("V*"))
    assert len(new) == 16


def test_files_that_are_unpacked_already_and_a_sample_that_contradicts_itself(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seamless(ManifestSeamlessConfig(archives, tmp_path / "m.csv", unpacked=tmp_path / "files"))
    first = files_below(tmp_path / "files")
    stamps = {file: file.stat().st_mtime_ns for file in first}
    seamless(
        ManifestSeamlessConfig(archives, tmp_path / "m.csv", unpacked=tmp_path / "files")
    )  # goes on, copies nothing
    assert {file: file.stat().st_mtime_ns for file in files_below(tmp_path / "files")} == stamps
    about = next(file for file in first if file.name == f"{DYAD}_P0947.json")
    about.write_text(about.read_text().replace("P0947", "P0948"))
    next(file for file in first if file.name == f"{OTHER}_P0002.mp4").unlink()
    next(file for file in first if file.name == f"{OTHER}_P0002.wav").unlink()
    capsys.readouterr()
    seamless(ManifestSeamlessConfig(tmp_path / "files", tmp_path / "m2.csv", tmp_path / "l.csv"))
    said = capsys.readouterr().out
    assert f"says that it is {DYAD}_P0948; left out" in said
    assert f"1 recordings have another number of people than two: {OTHER} (P0001)" in said
    table = pd.read_csv(tmp_path / "l.csv")
    assert set(table["participant"][table["recording"] == DYAD]) == {"P0059A"}


def test_archives_without_a_place_and_damaged_ones(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--unpacked FOLDER names where"):
        seamless(ManifestSeamlessConfig(archives, tmp_path / "m.csv"))
    root = Path(shutil.copytree(archives, tmp_path / "data"))
    whole = root / "improvised" / "dev" / "0000" / "0023.tar"
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    (root / "improvised" / "dev" / "0000" / "0024.tar").write_bytes(b"no archive" * 200)
    seamless(ManifestSeamlessConfig(root, tmp_path / "m.csv", unpacked=tmp_path / "files"))
    assert "archives are damaged" in capsys.readouterr().out
    assert not list((tmp_path / "files").rglob("*.tmp"))
    assert OTHER in {recording.name for recording in read_manifest(tmp_path / "m.csv")[0]}


def test_an_npz_with_objects_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data_prep.data_sets.seamless import read_features

    content = io.BytesIO()
    np.savez(content, **{"movement:FAUValue": np.array([{"a": 1}], dtype=object)})
    (tmp_path / "x.npz").write_bytes(content.getvalue())
    assert list(read_features(tmp_path / "x.npz")) == []
    assert "not readable as an npz of arrays" in capsys.readouterr().out
