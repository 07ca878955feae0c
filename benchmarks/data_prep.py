"""How much more than it must does ``data_prep build`` do? ``python -m benchmarks.data_prep [FILE] [--parts speed pairs ...]``

- speed: a build with one process and the default settings, against its floors on the same file: (a) ffmpeg decodes,
  scales and encodes with the same settings; (b) the MediaPipe graphs alone, on the pictures that the build shows them. Beside it
  the ffmpeg commands that video2dataset 1.3.0 issues to clip and resample the same pictures (it does not install beside numpy 2).
- pairs: two files with two processes against one. memory: peak of a process on a short and on a long file.
- recall: the faces found at the landmark rate against those found in every frame.

FILE is a recording of people; without one, the person of the embedded sample, enlarged to 720p and repeated, with noise that
swells like speech. Time is what all processes used of a core (user and system), so that a busy machine changes it little;
what a file of 2 s takes is taken off as start-up. What is compared takes turns; the table has medians.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.cost import SUBREAPER, write_sound, write_video
from data_prep.config import BuildConfig
from data_prep.decode import Damage, probe, read
from data_prep.people import overlap
from data_prep.pool import ONE_THREAD
from data_prep.sample import fetch

PARTS = ("speed", "pairs", "memory", "recall")
SHORT = 2.0  # seconds of the file whose time is start-up
QUIET = ["ffmpeg", "-y", "-nostdin", "-v", "error"]
SLOW = ["--fps", "5", "--landmark_rate", "0.5"]  # of the memory part: hours in minutes
BARE = ["--streams", "[video,audio,face,pose]", "--people.face_identity", "false", "--speech", "false"]


@dataclass
class Used:
    """What a command used: seconds of a core, seconds on the clock, and the peak memory of its largest process in bytes."""

    core: float
    wall: float
    memory: float


def used(command: list[str]) -> Used:
    """Runs a command and everything that it starts to the end. Raises CalledProcessError where it fails."""
    start = time.monotonic()
    # as in a build's workers, whatever the command is
    environment = os.environ | ONE_THREAD
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    total = Used(0.0, 0.0, 0.0)
    while True:  # grandchildren are ours when their parent has ended, see main()
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return total
        if pid == process.pid:
            total.wall = time.monotonic() - start
            if code := os.waitstatus_to_exitcode(status):
                raise subprocess.CalledProcessError(code, command)
        total.core += usage.ru_utime + usage.ru_stime
        total.memory = max(total.memory, 1024 * usage.ru_maxrss)


def build(root: Path, files: list[Path], *options: str) -> Used:
    """A build of files, each a recording of its own, with one process unless told otherwise."""
    manifest = root / "manifest.csv"
    rows = "".join(f"{file},{number}\n" for number, file in enumerate(files))
    manifest.write_text(f"path,recording\n{rows}")
    with tempfile.TemporaryDirectory(dir=root) as out:
        command = [sys.executable, "-m", "data_prep", "build", str(manifest), f"{out}/shards"]
        return used([*command, "--workers", "1", *options])


def floor(root: Path, file: Path) -> Used:
    """ffmpeg with one thread: the pictures and the sound of a file as a build writes them."""
    config = BuildConfig(file, root)
    pictures = [
        "-vf",
        f"fps={config.fps},scale=-2:{config.short_side}:flags=area",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
    ]
    pictures += ["-crf", str(config.crf), "-g", str(round(2 * config.fps)), "-x264-params", "open-gop=0:mbtree=0"]
    one = ["-threads", "1", "-filter_threads", "1"]
    command = [*QUIET, "-threads", "1", "-i", str(file), "-map", "0:v:0", *pictures, *one, str(root / "floor.mp4")]
    return used([*command, "-map", "0:a:0?", "-ac", "1", "-ar", "16000", "-c:a", "flac", str(root / "floor.flac")])


def video2dataset(root: Path, file: Path) -> Used:
    """What video2dataset runs: clips cut at key frames, then of each clip the frame rate, then its size. No sound."""
    config, clips = BuildConfig(file, root), root / "clips"
    clips.mkdir(exist_ok=True)
    for old in clips.iterdir():
        old.unlink()
    times = ",".join(str(second) for second in np.arange(0, probe(file).duration, config.clip_seconds))
    cut = ["-f", "segment", "-segment_times", times, "-reset_timestamps", "1", "-c", "copy", str(clips / "clip_%d.mp4")]
    total = used([*QUIET, "-i", str(file), "-map", "0", *cut])
    for clip in sorted(clips.glob("clip_*.mp4")):
        rated, sized = clips / "rated.mp4", clips / "sized.mp4"
        rate, size = f"fps=fps={config.fps}", f"scale=-2:{config.short_side}"
        for source, change, result in ((clip, rate, rated), (rated, size, sized)):
            command = [
                *QUIET,
                "-i",
                str(source),
                "-filter_complex",
                change,
                "-an",
                "-reset_timestamps",
                "1",
                str(result),
            ]
            more = used(command)
            total = Used(total.core + more.core, total.wall + more.wall, max(total.memory, more.memory))
    return total


@contextmanager
def timed_graphs() -> Generator[list[float]]:
    """The seconds of a core of every call of a MediaPipe task, its threads included, as long as it lasts."""
    from mediapipe.tasks.python import vision

    calls: list[float] = []
    tasks: list[Any] = [vision.FaceDetector, vision.FaceLandmarker, vision.PoseLandmarker]
    kept = [task.detect for task in tasks]

    def timed(detect: Callable, *arguments: Any) -> Any:
        start = time.process_time()
        result = detect(*arguments)
        calls.append(time.process_time() - start)
        return result

    for task, detect in zip(tasks, kept, strict=True):
        task.detect = lambda *arguments, detect=detect: timed(detect, *arguments)
    try:
        yield calls
    finally:
        for task, detect in zip(tasks, kept, strict=True):
            task.detect = detect


def graphs(file: Path, out: Path) -> float:
    """Seconds of a core that the MediaPipe graphs take in a build of a file, which is done in this process."""
    from data_prep.landmark_models import find
    from data_prep.manifest import read_manifest
    from data_prep.plan import plan
    from data_prep.units import STATE, UnitTask, build_unit

    manifest = out.with_suffix(".csv")
    manifest.write_text(f"path\n{file}\n")
    config = BuildConfig(manifest, out, workers=1)
    (out / STATE).mkdir(parents=True)
    recordings, _ = read_manifest(manifest, out)
    units, _ = plan(recordings, {file: probe(file)}, {}, config)
    with timed_graphs() as calls:
        for unit in units:
            build_unit(UnitTask(unit, config, find()), lambda note: None)
    return sum(calls)


def graphs_apart(root: Path, file: Path) -> Used:
    """``graphs`` in a process of its own, its start-up not counted."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        result = Path(folder) / "seconds"
        code = "import sys; from pathlib import Path; from benchmarks.data_prep import graphs\n"
        code += "Path(sys.argv[3]).write_text(str(graphs(Path(sys.argv[1]), Path(sys.argv[2]))))"
        used([sys.executable, "-c", code, str(file), f"{folder}/out", str(result)])
        return Used(float(result.read_text()), 0.0, 0.0)


def speed(root: Path, file: Path, repeats: int) -> None:
    """Prints the build beside its floors."""
    short = root / "short.mp4"
    subprocess.run([*QUIET, "-i", str(file), "-t", str(SHORT), "-c", "copy", str(short)], check=True)
    seconds = probe(file).duration - probe(short).duration
    rows = {
        "build, one process": lambda path: build(root, [path]),
        "build of what (a) and (b) make: no regions, face identity or speech": lambda path: build(root, [path], *BARE),
        "(a) ffmpeg: decode, scale, encode": partial(floor, root),
        "(b) MediaPipe graphs": partial(graphs_apart, root),
        "video2dataset's ffmpeg commands": partial(video2dataset, root),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, run in rows.items():
            times[name].append(run(file).core - run(short).core)
    print(
        f"| {seconds:.0f} s of {file.name}: seconds of a core | median of {repeats} | a second of video |\n|---|---|---|"
    )
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each):.1f} | {statistics.median(each) / seconds:.3f} |")
    total, bare, a, b, _ = times.values()
    for name, each in (("build", total), ("build of what (a) and (b) make", bare)):
        ratios = [one / (two + three) for one, two, three in zip(each, a, b, strict=True)]
        print(f"| {name} / (a + b) | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | |")


def pairs(root: Path, file: Path, repeats: int) -> None:
    """Prints how much faster two processes build two files, on the clock."""
    copy = root / f"copy{file.suffix}"
    copy.write_bytes(file.read_bytes())
    apart = ["--shard_minutes", str(probe(file).duration / 60)]  # a shard a file, so that there are two pieces of work
    results = []
    for _ in range(repeats):
        one, two = (build(root, [file, copy], *apart, "--workers", str(workers)) for workers in (1, 2))
        results.append((one, two))
        load = os.getloadavg()[0]
        print(
            f"two files: {one.wall:.0f} s with one process, {two.wall:.0f} s with two: {one.wall / two.wall:.2f} times",
            end="",
        )
        print(f" (core seconds {one.core:.0f} and {two.core:.0f}; load of the machine {load:.1f})", flush=True)
    print(f"best of {repeats}: {max(one.wall / two.wall for one, two in results):.2f} times")


def memory(root: Path, file: Path, minutes: list[float]) -> None:
    """Prints the peak memory of the largest process on files of some lengths: the file at 5 frames a second, repeated."""
    slow = root / "slow.mp4"
    command = [*QUIET, "-i", str(file), "-r", "5", "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", str(slow)]
    subprocess.run(command, check=True)
    for length in minutes:
        long = root / "long.mp4"
        repeat = ["-stream_loop", "-1", "-i", str(slow), "-t", str(60 * length), "-c", "copy", str(long)]
        subprocess.run([*QUIET, *repeat], check=True)
        one = build(root, [long], *SLOW)
        print(f"{length:g} minutes: peak {one.memory / 1e6:.0f} MB a process, {one.core:.0f} core seconds", flush=True)


def recall(file: Path, seconds: float) -> None:
    """Prints the share of the faces of all frames that is found at the landmark rate as well.

    A face counts as found where, at the look before or after, one overlaps it by half: what lies between is followed.
    """
    from data_prep.clips import Shown
    from data_prep.faces import FaceFinder
    from data_prep.landmark_models import find

    config, probed = BuildConfig(file, file), probe(file)
    finder = FaceFinder(find(), config.people.max_people)
    found: list[tuple[float, list]] = []
    for event in read(file, probed, Damage(), audio=False):
        if event.time >= seconds:
            break
        assert isinstance(event.frame, av.VideoFrame)
        found.append((event.time, [face.box for face in finder.find(Shown(event.frame, probed).upright)]))
    finder.close()
    times = np.array([time for time, _ in found])
    looks = np.unique(
        [np.abs(times - k / config.landmark_rate).argmin() for k in range(int(times[-1] * config.landmark_rate) + 1)]
    )
    kept = every = 0
    for number, (_, boxes) in enumerate(found):
        at = np.searchsorted(looks, number)
        near = [box for look in {looks[max(at - 1, 0)], looks[min(at, len(looks) - 1)]} for box in found[look][1]]
        kept += sum(any(overlap(box, other) >= 0.5 for other in near) for box in boxes)
        every += len(boxes)
    share = f"{kept / every:.4f}" if every else "none"
    print(
        f"recall of faces at {config.landmark_rate:g} looks a second against every frame of {times[-1]:.0f} s: {share}",
        end="",
    )
    print(f" ({every} faces in {len(found)} frames)", flush=True)


def sample(root: Path, seconds: float) -> Path:
    """The person of the embedded sample in 720p, repeated, with sound."""
    pictures, sound, file = root / "pictures.mp4", root / "sound.wav", root / "sample.mp4"
    write_video(pictures, [fetch(root)["carphone_pristine.mp4"]], seconds)
    write_sound(sound, seconds)
    joined = ["-i", str(pictures), "-i", str(sound), "-c:v", "copy", "-c:a", "aac", str(file)]
    subprocess.run([*QUIET, *joined], check=True)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a recording of people; else the embedded sample in 720p")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=92.0, help="length of the sample, and of what recall looks at")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", nargs="+", type=float, default=[10.0, 120.0], help="lengths of the memory part")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = options.file or sample(root, options.seconds)
        if "speed" in options.parts:
            speed(root, file, options.repeats)
        if "pairs" in options.parts:
            pairs(root, file, options.repeats)
        if "memory" in options.parts:
            memory(root, file, options.minutes)
        if "recall" in options.parts:
            recall(file, options.seconds)


if __name__ == "__main__":
    main()
