"""kill -9 of a running build at random moments, then the same command again: nothing lost, nothing twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import webdataset as wds

from data_prep.shards import read_index
from tests.data_prep.media import write_media

HERE = Path(__file__).resolve().parents[2]
MOMENTS = {
    "while files are read": "probes.jsonl",
    "while the first shards are written": "*.tar.*.tmp",
    "after a unit": "shard-00000-*.json",
    "after several units": "shard-00004-*.json",
}


def command(videos: Path, out: Path) -> list[str]:
    settings = {"landmarks": "none", "clip_seconds": 2, "fps": 10, "short_side": 48, "shard_minutes": 0.2, "workers": 2}
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "data_prep", "build", str(videos), str(out), *options]


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in {".tar", ".parquet", ".csv"}}


def killed_at(process: subprocess.Popen, out: Path, sign: str, delay: float) -> bool:
    """Kills the build a moment after the sign appears among its files; False where it was over before."""
    while process.poll() is None:
        if any((out / ".build").glob(sign)):
            time.sleep(delay)
            process.kill()
            return process.wait() == -signal.SIGKILL
        time.sleep(0.002)
    return False


def test_kill_and_run_again_ends_in_the_same_bytes(tmp_path: Path) -> None:
    videos, whole, out = tmp_path / "videos", tmp_path / "whole", tmp_path / "out"
    for number in range(16):
        write_media(videos / f"{number:03d}.mkv", 11.0 if number == 5 else 4.5 + 0.5 * (number % 3), audio=number % 3)
    write_media(videos / "long.mkv", 40.0)
    subprocess.run(command(videos, whole), check=True, capture_output=True, cwd=HERE)

    delays = random.Random()  # other moments each time
    kills = {}
    for moment, sign in MOMENTS.items():
        delay = delays.uniform(0, 0.1)
        with subprocess.Popen(
            command(videos, out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=HERE
        ) as process:
            kills[moment] = killed_at(process, out, sign, delay), delay
    assert sum(killed for killed, _ in kills.values()) >= 3, kills
    subprocess.run(command(videos, out), check=True, capture_output=True, cwd=HERE)

    assert results(out) == results(whole), kills
    assert not list((out / ".build").glob("*.tmp"))
    keys = [
        sample["__key__"]
        for shard in sorted(out.glob("*.tar"))
        for sample in wds.WebDataset(str(shard), shardshuffle=False)
    ]
    assert keys == list(read_index(out).key)
    assert len(set(keys)) == len(keys)
    assert {key.split("-")[0] for key in keys} == {video.stem for video in videos.iterdir()}
