"""A disk that is full, a folder that is not ours, models that are damaged, manifests that make no sense: one line each."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.shards import read_index
from tests.data_prep.media import write_media
from tests.data_prep.test_bad_input import SETTINGS, data_prep, like_any_user

QUICK = (*SETTINGS, "--workers=2", "--shard_minutes=0.1")


def again(videos: Path, out: Path) -> dict[str, bytes]:
    """What a build with the same settings makes where all is well."""
    assert main(["build", str(videos), str(out), *QUICK]) == 0
    return {path.name: path.read_bytes() for path in (*out.glob("*.tar"), out / "index.parquet", out / "failures.csv")}


def said(run: subprocess.CompletedProcess[str]) -> str:
    """The one line of a run that could not be done."""
    assert run.returncode == 2, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("kinesic data_prep")]
    return line


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings, a shard each."""
    folder = tmp_path_factory.mktemp("videos")
    for name in "abc":
        write_media(folder / f"{name}.mkv", 6.0)
    return folder


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a build makes of them where all is well."""
    return again(videos, tmp_path_factory.mktemp("whole") / "out")


def test_a_file_may_not_grow(videos: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """The kernel refuses every byte behind 20,000 of a file, in all processes of the build."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    line = said(data_prep("build", videos, tmp_path / "out", *QUICK, preexec_fn=limit))
    assert "out: File too large" in line
    assert "run the same command again" in line
    assert not list((tmp_path / "out").glob("*.tar"))
    assert again(videos, tmp_path / "out") == whole


@pytest.mark.parametrize("kilobytes", [4, 60])
def test_a_disk_that_is_full(kilobytes: int, videos: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Full at once, and while shards are written; then there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "kinesic-test", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk; test_a_file_may_not_grow runs everywhere")
    try:
        assert "No space left on device" in said(data_prep("build", videos, disk / "out", *QUICK))
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        assert again(videos, disk / "out") == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_may_not_be_written_to(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert "cannot be written to (Permission denied)" in said(
        data_prep("build", videos, tmp_path / "out", *QUICK, preexec_fn=like_any_user)
    )


def test_models_that_are_damaged_or_absent(videos: Path, models: Path, tmp_path: Path) -> None:
    line = said(data_prep("build", videos, tmp_path / "out", "--models", tmp_path))
    assert "no face_landmarker.task" in line
    for name in ("face_landmarker.task", "pose_landmarker_full.task"):
        content = bytearray((models / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    line = said(data_prep("build", videos, tmp_path / "out", "--models", tmp_path))
    assert "damaged (its sha256 differs)" in line
    assert "data_prep models" in line


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "unknown column": (b"path,ofset\na.mkv,1\n", "unknown column 'ofset'; did you mean offset?"),
    "no path": (b"file,view\na.mkv,x\n", "unknown column 'file'"),
    "no row": (b"path,view\n", "no row in it"),
    "nothing": (b"", "no row in it"),
    "more cells than columns": (b"path,view\na.mkv,x,y\n", "line 2: more cells than columns"),
    "Latin-1": ("path\nMüller.mkv\n".encode("latin-1"), "not a CSV file in UTF-8"),
    "UTF-16": ("path\na.mkv\n".encode("utf-16"), "not a CSV file in UTF-8"),
    "a film": (bytes(range(256)) * 9, "not a CSV file in UTF-8"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_makes_no_sense(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, line = MANIFESTS[name]
    (tmp_path / "manifest.csv").write_bytes(content)
    assert main(["build", str(tmp_path / "manifest.csv"), str(tmp_path / "out")]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    write_media(tmp_path / "in" / "good.mkv", 2.0)
    bad = os.fsdecode(str(tmp_path / "in").encode() + b"/M\xfcller.mkv")
    shutil.copy(tmp_path / "in" / "good.mkv", bad)
    run = data_prep("build", tmp_path / "in", tmp_path / "out", *QUICK)
    assert run.returncode == 3
    assert "Traceback" not in run.stderr
    assert "M\\udcfcller.mkv: its name is no text in UTF-8; rename the file" in run.stdout
    assert list(read_index(tmp_path / "out").recording) == ["good"]


def test_a_name_with_a_newline_is_printed_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "two\nlines.mp4").touch()
    write_media(tmp_path / "good.mkv", 2.0)
    run = data_prep("build", tmp_path, tmp_path / "out", *QUICK)
    assert "  two\\nlines two\\nlines.mp4: the file is empty; copy it again" in run.stdout.splitlines()


def test_a_manifest_in_the_folder_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths are relative; a name with a colon is a file, and no protocol of FFmpeg's."""
    monkeypatch.chdir(tmp_path)
    write_media(tmp_path / "a:b.mkv", 2.0)
    Path("manifest.csv").write_text("path\na:b.mkv\n")
    assert main(["build", "manifest.csv", "out", *QUICK]) == 0


def test_the_same_file_is_read_when_it_may_be_read(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "in")
    (tmp_path / "in" / "b.mkv").chmod(0)
    for mode, code in ((0, 3), (0o600, 0)):
        (tmp_path / "in" / "b.mkv").chmod(mode)
        run = data_prep("build", tmp_path / "in", tmp_path / "out", *QUICK, preexec_fn=like_any_user)
        assert run.returncode == code, run.stdout
    assert list(read_index(tmp_path / "out").recording.unique()) == ["a", "b", "c"]
