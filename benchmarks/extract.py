"""What does ``finetune extract`` cost, and does it hold for hours? ``python -m benchmarks.extract [FILE] [--parts speed ...]``

- speed: ViT-S with random weights and open gates (recipe small) at the default rate: seconds of all cores and on the clock for
  a second of video, with all streams (landmarks are looked for), with video alone, of two files at once, and of shards, which
  are prepared.
- memory: peak of the command's own process and of the largest that it starts, on a short and on a long file, with a small
  encoder at 5 frames and half a look a second, so that hours pass in minutes.
- kills: kill -9 at random moments, started again until it ends: are the rows those of a run that nobody touched?

FILE is a recording of a person; without one, the person of the embedded sample, with noise that swells like speech. It is
repeated as long as is asked. What a file of one clip takes is taken off as start-up.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import pandas as pd
import torch
from safetensors.torch import save_file

import configs
from benchmarks.cost import SUBREAPER, write_sound
from benchmarks.encoder import OPEN, open_gates
from configs import plain, write_run_record
from data_prep.config import BuildConfig
from data_prep.sample import fetch
from pretrain.__main__ import COMMANDS
from pretrain.config import ModelConfig, ReleaseConfig, RunConfig
from pretrain.encoder import Encoder
from pretrain.release import release
from pretrain.schema import SCHEMA

LOOP = 16.0  # seconds of a file that is repeated: whole frames of picture and of sound
PARTS = ("speed", "memory", "kills")
SMALL = {"dim": 48, "layers": 2, "heads": 3, "mlp_dim": 96, "image_height": 64, "image_width": 64, "frame_rate": 5.0}


def random_release(folder: Path, model: ModelConfig, gate: float = OPEN, **preprocessing: Any) -> Path:
    """A release of random weights whose videos are prepared by the defaults but for ``preprocessing``. gate: of the branch that
    reads other streams and segments; 0 = closed, as in published VideoMAE weights."""
    run, config = folder / "run", BuildConfig(Path(), Path(), **preprocessing)
    torch.manual_seed(0)
    step = run / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    encoder = open_gates(Encoder(model), gate)
    weights = {f"encoder.{name}": value.contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, step / "weights.safetensors")
    about = {"schema": SCHEMA, "state": {"step": 1}, "config": plain(replace(settings(), model=model))}
    (step / "config.json").write_text(json.dumps(about))
    summary = {"recordings": 0, "clips": 0, "hours": 0, "people": 0, "streams": {}}
    (run / "data.json").write_text(json.dumps({"summary": summary, "preprocessing": plain(config)}))
    names = [f"loss_{name}" for name in model.modalities]
    (run / "metrics.csv").write_text(f"step,{','.join(names)}\n1{',1.0' * len(names)}\n")
    write_run_record(run, config, 0)
    release(ReleaseConfig(run, folder / "release"))
    return folder / "release"


def settings() -> RunConfig:
    """The recipe small."""
    return configs.parse("pretrain", "run", COMMANDS["run"], ["--config", "small", "--data.shards", "S", "--out", "R"])


def encoded(root: Path, file: Path, rate: int) -> Path:
    """LOOP seconds of a video to and fro at a frame rate, in square pixels and its own size: H.264, and AAC of noise."""
    out, sound = root / f"at-{rate}.mp4", root / "sound.wav"
    write_sound(sound, LOOP)
    with av.open(str(file)) as source:
        video = source.streams.video[0]
        width = round(video.width * (video.sample_aspect_ratio or 1) / 2) * 2
        step = max(round(float(video.average_rate or rate) / rate), 1)
        frames = [frame.to_ndarray(format="rgb24", width=width) for frame in source.decode(video)][::step]
    with av.open(str(out), "w") as container, av.open(str(sound)) as heard:
        pictures = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "bf": "0"})
        pictures.height, pictures.width = (side // 2 * 2 for side in frames[0].shape[:2])
        pictures.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for picture in islice(cycle(frames + frames[-2:0:-1]), round(LOOP * rate)):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        for frame in heard.decode(audio=0):
            container.mux(audio.encode(frame))
        for stream in (pictures, audio):
            container.mux(stream.encode(None))
    return out


def repeated(source: Path, seconds: float, out: Path) -> Path:
    """A file that shows a file of ``encoded`` again and again; nothing is encoded, so that hours take seconds."""
    with av.open(str(out), "w") as written:
        streams: list[Any] = []
        for number in range(math.ceil(seconds / LOOP)):
            with av.open(str(source)) as container:
                streams = streams or [written.add_stream_from_template(stream) for stream in container.streams]
                for packet in container.demux():
                    if packet.pts is None or packet.dts is None or packet.time_base is None:
                        continue  # the end of a stream
                    if not 0 <= packet.pts * packet.time_base < LOOP:
                        continue  # AAC begins before its first sample
                    shift = round(number * LOOP / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.dts * packet.time_base < seconds:
                        packet.stream = streams[packet.stream.index]
                        written.mux(packet)
    return out


@dataclass
class Used:
    """Seconds of all cores, seconds on the clock, and peak bytes of the command's process and of the largest it started."""

    core: float = 0.0
    wall: float = 0.0
    own: float = 0.0
    child: float = 0.0


def extract(encoder: Path, video: Path, out: Path, *more: str, kill_after: float | None = None) -> Used:
    """Runs the command and all that it starts to the end, or kills it. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "finetune", "extract", "--encoder", str(encoder), str(video), "--out", str(out)]
    start, total = time.monotonic(), Used()
    process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        return total
    while True:  # grandchildren are ours when their parent has ended, see main()
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return total
        peak = 1024.0 * usage.ru_maxrss
        total.core += usage.ru_utime + usage.ru_stime
        if pid == process.pid:
            total.wall, total.own = time.monotonic() - start, peak
            if code := os.waitstatus_to_exitcode(status):
                raise subprocess.CalledProcessError(code, command)
        else:
            total.child = max(total.child, peak)


def speed(root: Path, file: Path, seconds: float) -> None:
    """Prints what a second of video costs, beside a second on the clock."""
    model, source = settings().model, encoded(root, file, 25)
    encoder, closed = (random_release(root / str(gate), model, gate) for gate in (OPEN, 0.0))
    for name in ("two", "short two"):
        (root / name).mkdir()
    short = repeated(source, 10, root / "short.mp4")
    for folder, length in (("two", seconds + 10), ("short two", 10.0)):
        for name in ("a", "b"):
            repeated(source, length, root / folder / f"{name}.mp4")
    long = repeated(source, seconds + 10, root / "long.mp4")
    shards = {}
    for path in (short, long):
        shards[path] = root / f"{path.stem}-shards"
        command = [sys.executable, "-m", "data_prep", "build", str(root / f"{path.stem}.csv"), str(shards[path])]
        (root / f"{path.stem}.csv").write_text(f"path\n{path.name}\n")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    video = ["--streams", "[video]"]
    rows: dict[str, tuple[Path, Path, Path, int, list[str]]] = {
        "a file, video alone": (encoder, short, long, 1, video),
        "the same, gates closed": (closed, short, long, 1, video),
        "a file, all streams": (encoder, short, long, 1, []),
        "two files, all streams": (encoder, root / "short two", root / "two", 2, []),
        "shards, video alone": (encoder, shards[short], shards[long], 1, video),
        "shards, all streams": (encoder, shards[short], shards[long], 1, []),
    }
    print(f"ViT-S, {seconds:g} s of {file.name} a file, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print("| | core seconds a second | seconds a second | times real time |\n|---|---|---|---|")
    for name, (folder, less, whole, files, more) in rows.items():
        start, used = (extract(folder, data, root / "f.parquet", *more) for data in (less, whole))
        core, wall = ((b - a) / (files * seconds) for a, b in ((start.core, used.core), (start.wall, used.wall)))
        print(f"| {name} | {core:.2f} | {wall:.2f} | {1 / wall:.2f} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f} afterwards")


def memory(root: Path, file: Path, minutes: list[float]) -> None:
    """Prints the peaks on files of some lengths, and what the last one has above the first."""
    model = ModelConfig(**SMALL)  # pyrefly: ignore[bad-argument-type]
    encoder = random_release(root, model, fps=5.0, short_side=64, landmark_rate=0.5)
    source = encoded(root, file, 5)
    print("| minutes | streams | own process, MB | largest other, MB | core seconds |\n|---|---|---|---|---|")
    for more in (["--streams", "[video]"], []):
        found = []
        for length in minutes:
            used = extract(encoder, repeated(source, 60 * length, root / "long.mp4"), root / "features.parquet", *more)
            found.append(used)
            streams = "video" if more else "all"
            peaks = f"{used.own / 1e6:.0f} | {used.child / 1e6:.0f}"
            print(f"| {length:g} | {streams} | {peaks} | {used.core:.0f} |", flush=True)
        growth = [100 * (getattr(found[-1], kind) / getattr(found[0], kind) - 1) for kind in ("own", "child")]
        print(f"growth: {growth[0]:+.1f} % own, {growth[1]:+.1f} % largest other", flush=True)


def kills(root: Path, file: Path, count: int) -> bool:
    """Kills and starts again; prints and returns whether all rows came out the same."""
    model = ModelConfig(**SMALL)  # pyrefly: ignore[bad-argument-type]
    encoder = random_release(root, model, fps=5.0, short_side=64, clip_seconds=2.0, shard_minutes=2.0)
    source, videos = encoded(root, file, 5), root / "videos"
    videos.mkdir()
    for number in range(4):
        repeated(source, 300, videos / f"v{number}.mp4")
    dice, more = random.Random(0), ["--streams", "[video,audio]", "--batch_size", "2"]
    whole = extract(encoder, videos, root / "whole.parquet", *more)
    for _ in range(count):
        after = dice.uniform(0.2, 1.0) * whole.wall / 2
        extract(encoder, videos, root / "killed.parquet", *more, kill_after=after)
        parts = len(list((root / "killed.parquet.parts").glob("*.parquet")))
        print(f"killed after {after:.1f} s of {whole.wall:.1f}: {parts} parts are there", flush=True)
    last = extract(encoder, videos, root / "killed.parquet", *more)
    tables = [pd.read_parquet(root / f"{name}.parquet") for name in ("whole", "killed")]
    same = all(table.map(str).equals(tables[0].map(str)) for table in tables)
    print(f"{count} kills: {len(tables[0])} rows, {'the same' if same else 'OTHERS'}; the rest took {last.wall:.1f} s")
    return same


def main() -> int:
    """Runs it; returns 1 where kills changed a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a recording of a person; else the embedded sample")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of a file of the speed part, without start-up"
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[10.0, 120.0], help="lengths of the memory part")
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    same = True
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            file = options.file or fetch(root)["carphone_pristine.mp4"]
            if part == "speed":
                speed(root, file, options.seconds)
            elif part == "memory":
                memory(root, file, options.minutes)
            else:
                same = kills(root, file, options.kills)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
