"""Small shards with a label that can be learnt: which way a square moves, and how a pose's hand moves with it.

Written by data_prep's own writer, so that every byte that fine-tuning reads is in the real layout.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pandas as pd

from data_prep.shards import ShardWriter, encode_npz, read_index, read_sample, sample_key, write_index
from pretrain.clips import Clip, read_clip

SIDE, RATE, FRAMES = 32, 8, 16


def video(frames: np.ndarray) -> bytes:
    """uint8 [time, height, width, 3] -> an H.264 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def moving_square(rng: np.random.Generator, right: bool) -> np.ndarray:
    """A bright square on noise that moves to the right, or stays."""
    frames = rng.integers(0, 60, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    top, left = rng.integers(0, 20, 2)
    for number, frame in enumerate(frames):
        at = (left + (number if right else 0)) % (SIDE - 8)
        frame[top : top + 8, at : at + 8] = 230
    return frames


def pose(rng: np.random.Generator, moving: Sequence[bool]) -> dict[str, np.ndarray]:
    """Rows of pose.npz: person k + 1 shakes all points where ``moving[k]``."""
    people = len(moving)
    window, person = np.repeat(np.arange(FRAMES), people), np.tile(np.arange(people), FRAMES)
    keypoints = np.tile(rng.random((people, 33, 4)), (FRAMES, 1, 1))
    shake = np.where(np.asarray(moving)[person], np.sin(2.5 * window), 0)
    keypoints[..., 0] += 0.2 * shake[:, None]
    return {
        "times": np.arange(FRAMES) / RATE,
        "window": window,
        "person": person + 1,
        "keypoints": keypoints.astype(np.float32),
        "world": np.zeros((len(window), 33, 3), np.float32),
        "score": np.ones(len(window), np.float32),
    }


def write_scenes(folder: Path, recordings: int, clips: int, splits: Sequence[str | None] = (None,)) -> Path:
    """``recordings`` x ``clips`` clips of 2 s, with labels.csv beside them (scene: ``moves``; person: ``shakes``, ``level``).

    Recording k is r<k>, in ``splits[k % len(splits)]``; its two people are p<2k> and p<2k+1>. Returns the folder.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    writer = ShardWriter(folder / "shard-000000.tar", folder / ".shard.tmp")
    seconds = FRAMES / RATE
    scene, person = ["recording,start,end,moves"], ["recording,participant,start,end,shakes,level"]
    for recording in range(recordings):
        name, split = f"r{recording}", splits[recording % len(splits)]
        people = [{"id": 1, "participant": f"p{2 * recording}"}, {"id": 2, "participant": f"p{2 * recording + 1}"}]
        for number in range(clips):
            start = number * seconds
            moves, who = bool((recording + number) % 2), int(rng.integers(2))
            moving = [who == 0, who == 1]
            key = sample_key(name, start)
            streams = {
                "video": {"start": 0.0, "rate": RATE, "width": SIDE, "height": SIDE},
                "pose": {"start": 0.0, "rate": RATE},
            }
            view = {"source": f"{name}.mp4", "sha256": "0" * 64, "offset": 0.0, "drift": 0.0, "confidence": None}
            meta = {
                "schema": 1,
                "key": key,
                "recording": name,
                "start": start,
                "end": start + seconds,
                "split": split,
                "people": people,
                "extra": {},
                "views": {"main": {**view, "landmarks": "given", "streams": streams}},
                "versions": {},
            }
            members = {
                "main.video.mp4": video(moving_square(rng, moves)),
                "main.pose.npz": encode_npz(pose(rng, moving)),
                "meta.json": json.dumps(meta).encode(),
            }
            row = {name: meta[name] for name in ("recording", "start", "end", "split")}
            writer.write(key, members, row | {"people": [p["participant"] for p in people]})
            scene.append(f"{name},{start},{start + seconds},{'right' if moves else 'still'}")
            for shakes, entry in zip(moving, people, strict=True):
                level = 3 * shakes + rng.normal(0, 0.1)
                person.append(f"{name},{entry['participant']},{start},{start + seconds},{shakes},{level:.3f}")
    writer.publish()
    write_index(folder, writer.rows)
    (folder / "scene.csv").write_text("\n".join(scene) + "\n")
    (folder / "person.csv").write_text("\n".join(person) + "\n")
    return folder


def some_clips(shards: Path) -> list[Clip]:
    """The first three."""
    index = read_index(shards)
    return [read_clip(read_sample(shards, index.iloc[row]), ("video", "pose")) for row in range(3)]


def with_a_damaged_clip(shards: Path, folder: Path) -> tuple[Path, pd.Series]:
    """A copy of shards in which the video of one clip is zeros, and that clip's row of the index."""
    shutil.copytree(shards, folder)
    row = read_index(folder).iloc[5]
    shard, video = folder / row["shard"], read_sample(folder, row)["main.video.mp4"]
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes().replace(video, bytes(len(video))))
    return folder, row
