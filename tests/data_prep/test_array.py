"""A build divided among the tasks of an array: the same bytes as a build in one piece, whatever happens to a task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import UserError
from data_prep import ranges
from data_prep.build import build
from data_prep.config import BuildConfig, MergeConfig
from data_prep.locks import locked
from data_prep.manifest import Recording, Source, View
from data_prep.merge import merge
from data_prep.ranges import cut, share
from data_prep.shards import read_index
from tests.data_prep.media import write_media

SETTINGS = {"landmarks": "none", "clip_seconds": 2.0, "fps": 10.0, "short_side": 48, "shard_minutes": 0.2, "workers": 1}
# real ranges hold a gigabyte; these tests' files are a millionth of that
SMALL_RANGES = (
    "import sys, data_prep.ranges as r; r.RANGE_BYTES = 30_000; from data_prep.__main__ import main; sys.exit(main())"
)
HERE = Path(__file__).resolve().parents[2]


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in {".tar", ".parquet", ".csv"}}


def start(videos: Path, out: Path, array: str) -> subprocess.Popen:
    settings = [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-c", SMALL_RANGES, "build", str(videos), str(out), *settings, "--array", array]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(out: Path, sign: str, process: subprocess.Popen) -> None:
    while not any((out / ".build").glob(sign)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """16 short recordings, a long one, one that is no film; they fall into several ranges."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 30_000)
    folder = tmp_path / "videos"
    for number in range(16):
        write_media(folder / f"{number:03d}.mkv", 4.5 + 0.5 * (number % 3), audio=number % 3)
    write_media(folder / "long.mkv", 30.0)
    (folder / "text.mp4").write_text("not a film")
    return folder


def test_three_tasks_at_once_one_of_them_killed_end_in_the_bytes_of_one_build(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert build(BuildConfig(videos, whole, **SETTINGS)) == 3
    with pytest.raises(UserError, match="no data_prep build --array"):
        merge(MergeConfig(out))

    tasks = [start(videos, out, f"{number}/3") for number in range(3)]
    wait_for(out, "task-1-of-3/*.tar.*.tmp", tasks[1])
    tasks[1].kill()
    for number, task in enumerate(tasks):
        task.communicate()
        assert task.returncode == (-signal.SIGKILL if number == 1 else 0)
    assert not (out / "index.parquet").exists()

    capsys.readouterr()
    assert merge(MergeConfig(out)) == 3
    said = capsys.readouterr().out
    assert "1 of 3 tasks are not finished: 1\n" in said
    assert "--array 1/3" in said
    assert not (out / "index.parquet").exists()

    again = start(videos, out, "1/3")
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert merge(MergeConfig(out)) == 3  # for the file that is no film
    assert results(out) == results(whole)
    assert (out / "failures.csv").read_text().count("text.mp4") == 1
    assert not list((out / ".build").rglob("*.tmp"))
    assert len(read_index(out)) == len(set(read_index(out).key))


def test_an_array_of_another_size_goes_on(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    videos, whole, out = Path("videos"), Path("whole"), Path("out")
    build(BuildConfig(videos, whole, **SETTINGS))
    assert build(BuildConfig(videos, out, array="0/2", **SETTINGS)) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert 0 < len(before) < len(list(whole.glob("*.tar")))
    for number in range(5):
        assert build(BuildConfig(videos, out, array=f"{number}/5", **SETTINGS)) == 0
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}.items()
    merge(MergeConfig(out))
    assert results(out) == results(whole)


def test_a_task_with_new_settings_takes_nothing_from_the_others(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(2):
        build(BuildConfig(videos, out, array=f"{number}/2", **SETTINGS))
    merge(MergeConfig(out))
    before = set(out.glob("*.tar"))
    new = SETTINGS | {"crf": 30}
    assert build(BuildConfig(videos, out, array="0/2", **new)) == 0
    kept = before & set(out.glob("*.tar"))
    assert kept  # the other task's
    assert kept != before
    assert not (out / "index.parquet").exists()  # it named shards that are gone
    assert merge(MergeConfig(out)) == 3
    assert kept <= set(out.glob("*.tar"))
    build(BuildConfig(videos, out, array="1/2", **new))
    merge(MergeConfig(out))
    build(BuildConfig(videos, tmp_path / "whole", **new))
    assert results(out) == results(tmp_path / "whole")


def test_who_may_write_at_the_same_time(tmp_path: Path) -> None:
    def config(array: str | None) -> BuildConfig:
        return BuildConfig(tmp_path, tmp_path / "out", array=array)

    with locked(config("0/3")):
        with locked(config("1/3")):
            pass
        with pytest.raises(UserError, match="task 0/3 is being built"), locked(config("0/3")):
            pass
        with pytest.raises(UserError, match="another build is writing"), locked(config(None)):
            pass
    with locked(config(None)), pytest.raises(UserError, match="another build is writing"), locked(config("2/3")):
        pass


@pytest.mark.parametrize("array", ["3", "3/3", "-1/3", "a/b", "1/2/3", ""])
def test_an_array_that_makes_no_sense(array: str) -> None:
    with pytest.raises(ValueError, match="write K/N"):
        BuildConfig(Path("m"), Path("o"), array=array)


def corpus(folder: Path, megabytes: list[int]) -> list[Recording]:
    """Recordings of files of these sizes, which take no room on the disk."""
    recordings = []
    for number, size in enumerate(megabytes):
        path = folder / f"{number:04d}.mp4"
        path.touch()
        os.truncate(path, size * 2**20)
        recordings.append(Recording(path.stem, (View("main", (Source(path, path.name, None),), ()),)))
    return recordings


def test_every_recording_belongs_to_one_task_and_they_have_alike_much(tmp_path: Path) -> None:
    recordings = corpus(tmp_path, [*range(100, 300), 5000, 3000, 0, 0])
    parts = cut(recordings)
    assert [r for part in parts for r in part.recordings] == recordings
    assert [part.first for part in parts][1:] == [p.first + len(p.recordings) for p in parts][:-1]
    for count in (1, 2, 7, 300):
        shares = [share(parts, task, count) for task in range(count)]
        assert sorted(part.first for mine in shares for part in mine) == [part.first for part in parts]
    loads = [sum(part.size for part in share(parts, task, 4)) for task in range(4)]
    assert max(loads) < 1.15 * min(loads)


def test_a_file_that_changes_moves_no_cut_but_its_own(tmp_path: Path) -> None:
    recordings = corpus(tmp_path, [100] * 200)
    before = {part.first for part in cut(recordings)}
    assert 10 < len(before) < 35  # 20 GB
    os.truncate(tmp_path / "0117.mp4", 5 * 2**30)
    assert {part.first for part in cut(recordings)} ^ before <= {117}
