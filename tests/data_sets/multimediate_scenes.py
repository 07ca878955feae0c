"""Generated scenes, a camera a person, put into files as MultiMediate distributes them: pictures and sound apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile

from data_prep.config import SyntheticConfig
from data_prep.given import sidecar
from data_prep.synthetic import synthetic

SECONDS = 8.0


def draw(folder: Path, recordings: int, people: int) -> list[Path]:
    """Folders of recordings of 8 s (64 x 64 pixels, 8 frames a second), each with a video and known landmarks a person."""
    synthetic(
        SyntheticConfig(
            folder,
            pretrain=0,
            train=recordings,
            test=0,
            test_reversed=0,
            recording_seconds=SECONDS,
            fewest_people=people,
            most_people=people,
            views="apart",
            workers=1,
        )
    )
    return sorted(path for path in folder.iterdir() if path.is_dir())


def videos(recording: Path) -> list[Path]:
    """A drawn recording's videos, in the order of its people."""
    return sorted(recording.glob("*.mp4"))


def speakers(recording: Path) -> list[int]:
    """Who speaks most in each half of 4 s: number of the person."""
    labels = pd.read_csv(recording.parent / "labels.csv")
    return [int(seat[4:]) - 1 for seat in labels[labels["recording"] == recording.name]["speaker"]]


def put_video(source: Path, path: Path) -> None:
    """The pictures of a drawn video, without its sound, and its landmarks beside them; .avi is MPEG-4, all else H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        drawn = read.streams.video[0]
        stream = write.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=drawn.average_rate)
        stream.width, stream.height, stream.pix_fmt = drawn.width, drawn.height, "yuv420p"
        stream.bit_rate = 400_000
        for frame in read.decode(drawn):
            frame.pict_type = av.video.frame.PictureType.NONE
            write.mux(stream.encode(frame))
        write.mux(stream.encode(None))
    for name in ("face", "pose", "regions"):
        shutil.copy(sidecar(source, name), sidecar(path, name))


def put_sound(sources: list[Path], path: Path) -> None:
    """The sound of drawn videos, together, 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    heard = []
    for source in sources:
        with av.open(str(source)) as read:
            rate = read.streams.audio[0].rate
            heard.append(np.concatenate([frame.to_ndarray()[0] for frame in read.decode(audio=0)]))
    length = min(map(len, heard))
    soundfile.write(path, np.mean([sound[:length] for sound in heard], 0), rate, subtype="PCM_16")


def put_stream(path: Path, values: np.ndarray, rate: float, start: float = 0.0) -> None:
    """X.stream and X.stream~; values [row, number]. path: X.stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, dim = values.shape
    path.write_text(
        f'<?xml version="1.0" ?>\n<stream ssi-v="2">\n'
        f'    <info ftype="BINARY" sr="{rate:.6f}" dim="{dim}" byte="4" type="FLOAT" delim=" " />\n    <meta type="" />\n'
        f'    <chunk from="{start:.6f}" to="{start + rows / rate:.6f}" byte="0" num="{rows}"/>\n</stream>\n'
    )
    values.astype("<f4").tofile(path.with_name(f"{path.name}~"))


def engagement(recording: Path, person: int) -> np.ndarray:
    """A label for each of 25 frames a second: who speaks most in a half is more engaged in it."""
    halves = [0.8 if speaker == person else 0.3 for speaker in speakers(recording)]
    frames = np.arange(round(SECONDS * 25))
    return np.repeat(halves, 100) + 0.1 * np.sin(frames / 10 + person)
