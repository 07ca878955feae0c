"""``kinesic data_prep synthetic FOLDER``: generated interaction scenes as ordinary video files.

- FOLDER/<recording>/<view>.mp4 (H.264 and AAC) with the known landmarks beside each, FOLDER/manifest.csv, labels.csv.
- Every stream follows from one script of events (synthetic_script); a recording depends on the settings, the seed and
  its own number only, whatever the number of processes.
- Splits: pretrain, train, test (the nuisance as in train), test_reversed and test_independent: the SAME events and
  people as test, recording by recording, with other colours.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import yaml
from av.audio.stream import AudioStream
from rich.progress import track

import configs
from configs import UserError
from data_prep.config import LandmarkConfig, SyntheticConfig
from data_prep.given import sidecar
from data_prep.synthetic_body import Motion, move
from data_prep.synthetic_drawing import Camera, place_cameras, render, seat_box
from data_prep.synthetic_script import GESTURES, Script, colour_script, draw_people, unrelated, write_script
from data_prep.synthetic_sound import RATE, microphone, voices
from data_prep.synthetic_streams import face_stream, pose_stream, regions_stream

SPLITS = ("pretrain", "train", "test", "test_reversed", "test_independent")
MANIFEST = ("path", "recording", "view", "offset", "participants", "split", "x.synthetic", "x.people")
LABELS = ("recording", "participant", "start", "end", "gesture", "speaker")
NOT_OF_A_RECORDING = {"folder", "workers", *SPLITS}

PEOPLE, EVENTS, COLOURS, MOTION, PLACES, CAMERA = range(6)
APART = 100  # and more: the scripts of people who do not answer one another
"""What a random generator is for: each has its own, so that other colours leave the events as they are."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One recording to make: the index-th of a split. rho: how often its colours tell the gesture."""

    config: SyntheticConfig
    split: str
    index: int

    @property
    def recording(self) -> str:
        return f"{self.split}_{self.index:04d}"

    @property
    def family(self) -> str:
        """The splits of one family share people and events."""
        return self.split.split("_")[0]

    @property
    def rho(self) -> float:
        return {"pretrain": self.config.rho_pretrain, "test_independent": 0.0}.get(self.split, self.config.rho)

    @property
    def together(self) -> bool:
        """Whether one camera films everybody. The same people meet twice in a row: mixed, once so and once so."""
        return self.config.views == "together" or (self.config.views == "mixed" and self.index % 2 == 0)

    def random(self, purpose: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, SPLITS.index(self.family), index, purpose])


def synthetic(config: SyntheticConfig) -> None:
    """Writes the recordings that are not there yet, then manifest.csv and labels.csv. Raises UserError where the
    folder holds recordings of other settings."""
    _check_folder(config)
    jobs = [Job(config, split, index) for split in SPLITS for index in range(getattr(config, split))]
    manifest: list[Row] = []
    labels: list[Row] = []
    workers = min(config.workers or len(os.sched_getaffinity(0)), max(1, len(jobs)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows, marks in track(pool.map(make_recording, jobs), "drawing scenes", len(jobs)):
            manifest += rows
            labels += marks
    _write_table(config.folder / "labels.csv", LABELS, labels)
    _write_table(config.folder / "manifest.csv", MANIFEST, manifest)
    print(f"{len(jobs)} recordings, {len(labels)} labelled clips: {config.folder / 'manifest.csv'}")


def make_script(job: Job) -> Script:
    """The script of a recording; no other file is needed to know what happens in it."""
    config, group = job.config, job.index // 2
    rng = job.random(PEOPLE, group)
    count = int(rng.integers(config.fewest_people, config.most_people + 1))
    people = draw_people(rng, [f"{job.family}{group:03d}{letter}" for letter in "abcd"[:count]])
    slots = round(config.recording_seconds / config.clip_seconds)

    def written(rng: np.random.Generator) -> Script:
        return write_script(rng, people, slots, config.clip_seconds, job.together, config.imitation)

    script = written(job.random(EVENTS, job.index))
    if config.independent:
        others = [written(job.random(APART + person, job.index)) for person in range(1, count)]
        script = unrelated(script, others)
    return colour_script(job.random(COLOURS, job.index), script, job.rho, reverse=job.split == "test_reversed")


def make_recording(job: Job) -> tuple[list[Row], list[Row]]:
    """Writes a recording's folder unless it is there; returns its rows of the manifest and of the labels."""
    cv2.setNumThreads(1)
    script, config = make_script(job), job.config
    cameras = place_cameras(job.random(PLACES, job.index), script, config.width, config.height, job.together)
    folder = config.folder / job.recording
    if not folder.is_dir():
        temporary = config.folder / f".{job.recording}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        motion, said = move(job.random(MOTION, job.index), script, config.fps), voices(script)
        for number, camera in enumerate(cameras):
            rng = job.random(CAMERA + number, job.index)
            _write_view(rng, temporary / f"{camera.view}.mp4", script, motion, camera, said, config.fps)
        temporary.rename(folder)
    return _manifest_rows(job, script, cameras), _label_rows(job, script)


def _write_view(
    rng: np.random.Generator,
    path: Path,
    script: Script,
    motion: Motion,
    camera: Camera,
    said: np.ndarray,
    fps: float,
) -> None:
    """One camera's video file with its sound, and the streams beside it."""
    inside = np.empty((len(motion.times), camera.height, camera.width), np.uint8)
    with av.open(str(path), "w") as file:
        rate = Fraction(fps).limit_denominator(1001)
        video = file.add_stream("libx264", rate, options={"preset": "ultrafast", "crf": "18", "threads": "1"})
        video.width, video.height, video.pix_fmt = camera.width, camera.height, "yuv420p"
        audio = file.add_stream("aac", RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 64_000
        for number, picture in enumerate(render(rng, script, motion, camera)):
            inside[number] = picture[:, :, 3]
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGBA2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(video.encode(frame))
        _write_sound(file, audio, microphone(rng, said, camera.people))
        file.mux(video.encode(None))
    for stream, arrays in (
        ("face", face_stream(rng, motion, camera)),
        ("pose", pose_stream(rng, motion, camera)),
        ("regions", regions_stream(motion, inside, LandmarkConfig().cell)),
    ):
        np.savez(sidecar(path, stream), **arrays)  # pyrefly: ignore[bad-argument-type]


def _write_sound(file: Any, stream: AudioStream, samples: np.ndarray) -> None:
    for first in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, first : first + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _manifest_rows(job: Job, script: Script, cameras: list[Camera]) -> list[Row]:
    rows = []
    for camera in cameras:
        seats = [
            f"{script.people[p].participant}@{','.join(f'{x:g}' for x in seat_box(camera, script, p))}"
            for p in camera.people
        ]
        rows.append(
            {
                "path": f"{job.recording}/{camera.view}.mp4",
                "recording": job.recording,
                "view": camera.view,
                "offset": 0,
                "participants": ";".join(seats),
                "split": job.split,
                "x.synthetic": "true",
                "x.people": len(script.people),
            }
        )
    return rows


def _label_rows(job: Job, script: Script) -> list[Row]:
    """A row a slot: who acts and how; ``speaker`` is the seat, from the left, of who speaks most. Where people do not answer
    one another, rows of the first person's gestures alone."""
    return [
        {
            "recording": job.recording,
            "participant": script.people[slot.event.person].participant,
            "start": slot.start,
            "end": slot.end,
            "gesture": GESTURES[slot.gesture],
            "speaker": f"seat{script.speaker(slot) + 1}",
        }
        for slot in script.slots
        if slot.event in script.events
    ]


def _write_table(path: Path, columns: Iterable[str], rows: list[Row]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def _check_folder(config: SyntheticConfig) -> None:
    """Recordings of two settings must not mix in one folder: raises UserError, else writes the run's record."""
    record = config.folder / "config.yaml"
    if record.is_file():
        before = yaml.safe_load(record.read_text())
        for name, value in configs.plain(config).items():
            if name not in NOT_OF_A_RECORDING and before.get(name) != value:
                raise UserError(
                    f"{config.folder} holds scenes made with {name} {before.get(name)}, not {value}: give another folder"
                )
    configs.write_run_record(config.folder, config, config.seed)
