"""What an hour of a view costs ``data_prep build``: ``python -m benchmarks.cost VIDEO... [--minutes 3]``

The videos are laid side by side in a 720p picture (1280x720, 25 fps, H.264; as many people as talk in them) and repeated for
some minutes; beside it a microphone's view of the same length. Each is built on its own with the default settings and one worker.
Time is what all processes of a build used of a core, so that a busy machine changes it little; start-up is taken off.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import av
import numpy as np
import soundfile

WIDTH, HEIGHT, FPS = 1280, 720, 25
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <sys/prctl.h>: grandchildren count as ours when their parent has ended


def pictures(video: Path, width: int) -> Iterator[np.ndarray]:
    """The frames of a video [height, width, 3] in the largest size that fits a cell of this width, to and fro without end.

    Over and over would be a cut every few seconds, which a recording of people in a room does not have.
    """
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        scale = min(width / stream.width, HEIGHT / stream.height)
        size = int(stream.width * scale), int(stream.height * scale)
        frames = [frame.to_ndarray(format="rgb24", width=size[0], height=size[1]) for frame in container.decode(stream)]
    return cycle(frames + frames[-2:0:-1])


def write_video(path: Path, videos: list[Path], seconds: float) -> None:
    """The videos side by side."""
    cell = WIDTH // len(videos)
    sources = [pictures(video, cell) for video in videos]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(round(seconds * FPS)):
            canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            for column, source in enumerate(sources):
                picture = next(source)
                canvas[: picture.shape[0], column * cell : column * cell + picture.shape[1]] = picture
            frame = av.VideoFrame.from_ndarray(canvas, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_sound(path: Path, seconds: float) -> None:
    """Noise that swells four times a second, as loud as speech; 16 kHz."""
    clock = np.arange(round(16000 * seconds)) / 16000
    noise = np.random.default_rng(0).normal(0, 0.05, len(clock))
    soundfile.write(path, noise * (1 + np.sin(2 * np.pi * 4 * clock)), 16000)


def build(media: Path, out: Path) -> tuple[float, float]:
    """(seconds of a core, bytes of shards) of a build of one file."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    manifest = media.with_suffix(".csv")
    manifest.write_text(f"path\n{media.name}\n")
    command = [sys.executable, "-m", "data_prep", "build", str(manifest), str(out), "--workers", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:  # the workers' parent ends a little later than the build
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(shard.stat().st_size for shard in out.glob("*.tar"))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, help="one talking person each")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the file that is built")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_video(root / "short.mp4", options.videos, 2)
        write_video(root / "video.mp4", options.videos, 2 + seconds)
        write_sound(root / "short.wav", 2)
        write_sound(root / "sound.wav", 2 + seconds)
        print(f"{len(options.videos)} people, {options.minutes:g} minutes; an hour of a view costs")
        for kind, short, long in (("pictures", "short.mp4", "video.mp4"), ("sound", "short.wav", "sound.wav")):
            start = build(root / short, root / f"out-{short}")
            whole = build(root / long, root / f"out-{long}")
            core_hours, size = ((b - a) / seconds for a, b in zip(start, whole, strict=True))
            print(f"  {kind}: {core_hours:.3g} core-hours, {3600 * size / 1e9:.3g} GB", flush=True)


if __name__ == "__main__":
    main()
