"""The settings of data_prep's commands, as plain dataclasses.

Nothing heavy is imported here: ``kinesic data_prep build --help`` reads this file and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Stream = Literal["video", "audio", "face", "pose", "regions"]


@dataclass
class LandmarkConfig:
    """How faces, poses and regions are found and followed through a recording."""

    max_people: int = 6
    """how many people a picture may show"""
    remember_seconds: float = 2.0
    """how long somebody may be out of sight and keeps the id"""
    cell: int = 16
    """side of a cell of regions.npz in pixels of the written video"""

    def __post_init__(self) -> None:
        if self.max_people < 1 or self.cell < 1 or self.remember_seconds < 0:
            raise ValueError("max_people and cell must be 1 or more, remember_seconds 0 or more")


@dataclass
class BuildConfig:
    """Recordings -> shards."""

    manifest: Path
    """table of the recordings (CSV or Parquet), or a folder: every media file in it is a recording of its own"""
    out: Path
    """folder of the shards, index.parquet and failures.csv; run again into it to go on where a build was stopped"""
    clip_seconds: float = 10.0
    """length of a clip; the last, shorter one of a recording is kept from 1 s on"""
    fps: float = 25.0
    """constant frame rate of the written video; 25 is what lab cameras and most video data sets are close to"""
    short_side: int = 256
    """short side of the written video in pixels, even; the aspect is kept"""
    crf: int = 20
    """quality of the H.264 video, 0 (lossless) to 51"""
    streams: tuple[Stream, ...] = ("video", "audio", "face", "pose", "regions")
    """what to write; a stream that a recording lacks is absent"""
    landmarks: Literal["mediapipe", "given", "none"] = "mediapipe"
    """where face, pose and regions come from: measured, read from VIDEO.mp4.face.npz (pose, regions) beside it, or left out"""
    landmark_rate: float = 8.0
    """how many instants a second are looked at for face, pose and regions"""
    people: LandmarkConfig = field(default_factory=LandmarkConfig)
    """how faces, poses and regions are found (landmarks: mediapipe)"""
    models: Path | None = None
    """folder of the landmark models; else KINESIC_MODELS, else a cache that is filled at the first build"""
    shard_minutes: float = 10.0
    """minutes of recorded views in a shard: about 100 MB at the other defaults"""
    workers: int = 0
    """processes that decode and look; 0 = one a core"""

    def __post_init__(self) -> None:
        if self.clip_seconds < 1:
            raise ValueError(f"clip_seconds is {self.clip_seconds}: it must be 1 or more")
        if self.fps <= 0 or self.landmark_rate <= 0 or self.shard_minutes <= 0:
            raise ValueError("fps, landmark_rate and shard_minutes must be greater than 0")
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(f"short_side is {self.short_side}: it must be even and 16 or more")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}: it must lie between 0 and 51")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}: it must be 0 or more")
        if not self.streams:
            raise ValueError("streams is empty: there would be nothing to write")


@dataclass
class ReportConfig:
    """Shards -> one page to look at."""

    out: Path
    """folder that data_prep build wrote"""


@dataclass
class ModelsConfig:
    """Fetches the landmark models."""

    folder: Path
    """where to put them; later builds find them with KINESIC_MODELS=FOLDER"""


@dataclass
class SampleConfig:
    """Fetches the embedded sample of real videos."""

    folder: Path
    """where to put it"""


@dataclass
class SyntheticConfig:
    """Writes generated interaction scenes."""

    folder: Path
    """where to put videos, manifest and labels"""
