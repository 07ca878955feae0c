"""The settings of data_prep's commands, as plain dataclasses.

Nothing heavy is imported here: ``kinesic data_prep build --help`` reads this file and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Stream = Literal["video", "audio", "face", "pose", "regions", "hands"]


@dataclass
class LandmarkConfig:
    """How faces, poses and regions are found and followed through a recording."""

    max_people: int = 6
    """how many people a picture may show"""
    remember_seconds: float = 2.0
    """how long the place where somebody was last seen is remembered; whoever comes back later is known by the face"""
    face_identity: bool = True
    """know people again by their faces: after they were away, and from view to view. What is measured of a face for that is
    never written. Without it the same person gets another id in each view and after each absence, but for seats"""
    face_distance: float = 0.5
    """distance of two face embeddings (dlib's, 0 to about 1.4) below which they are one person's"""
    cell: int = 16
    """side of a cell of regions.npz in pixels of the written video"""

    wearer: bool = False
    """hands that are of nobody seen: of the wearer of a head camera, who becomes a person (true), or left out (false)"""

    def __post_init__(self) -> None:
        if self.max_people < 1 or self.cell < 1 or self.remember_seconds < 0:
            raise ValueError("max_people and cell must be 1 or more, remember_seconds 0 or more")
        if not 0 < self.face_distance <= 2:
            raise ValueError(f"face_distance is {self.face_distance}: it must lie between 0 and 2; 0.4 to 0.6 is usual")


@dataclass
class SyncConfig:
    """How the offset of a view that the manifest gives none is found from its sound."""

    min_confidence: float = 0.3
    """share of the windows of sound that must agree for a measured offset to be believed, 0 to 1"""

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}: it must lie between 0 and 1")


@dataclass
class FilterConfig:
    """Which clips are left out, by the best of their views (data_prep/quality.py says what the numbers are)."""

    min_faces: float | None = None
    """share of the looks with a face, 0 to 1"""
    min_speech: float | None = None
    """share of the time in which somebody speaks, 0 to 1"""
    min_sharpness: float | None = None
    """variance of the Laplacian"""
    max_black: float | None = None
    """share of black pictures, 0 to 1"""
    max_frozen: float | None = None
    """share of pictures that stand still for a second or more, 0 to 1"""
    max_clipping: float | None = None
    """share of samples at full scale, 0 to 1"""
    max_silence: float | None = None
    """share of the time without any sound, 0 to 1"""


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
    crf: int = 23
    """quality of the H.264 video, 0 (lossless) to 51"""
    streams: tuple[Stream, ...] = ("video", "audio", "face", "pose", "regions")
    """what to write (there is also hands); a stream that a recording lacks is absent"""
    landmarks: Literal["mediapipe", "given", "none"] = "mediapipe"
    """where face, pose, regions, hands come from: measured, read from VIDEO.mp4.face.npz (pose, ...) beside it, or left out"""
    landmark_rate: float = 8.0
    """how many instants a second are looked at for face, pose and regions"""
    sync: SyncConfig = field(default_factory=SyncConfig)
    """how the clocks of views are compared where the manifest gives no offset"""
    speech: bool = True
    """find out when somebody speaks on each channel of the sound, and who: `speech` in meta.json"""
    people: LandmarkConfig = field(default_factory=LandmarkConfig)
    """how faces, poses and regions are found (landmarks: mediapipe)"""
    blur_faces: bool = False
    """hide every face in the written video (landmarks: mediapipe); what is measured is measured before"""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """clips to leave out; dropped.csv tells which, and why"""
    models: Path | None = None
    """folder of the landmark models; else KINESIC_MODELS, else a cache that is filled at the first build"""
    shard_minutes: float = 10.0
    """minutes of recorded views in a shard: about 100 MB at the other defaults"""
    workers: int = 0
    """processes that decode and look; 0 = one a core"""
    memory_gb: float = 8.0
    """memory that one of them may take for data; a recording that needs more is left out, with a line in failures.csv"""
    deadline_seconds: float = 600.0
    """seconds that one of them may take for 10 s of a clip (longer clips get more); then it is ended, its recording left out"""
    array: str | None = None
    """K/N: build share K (from 0 to N-1) of the recordings, as one of N tasks; when all are done, data_prep merge OUT"""

    @property
    def task(self) -> tuple[int, int] | None:
        """(K, N) of array, None for a build in one piece."""
        if self.array is None:
            return None
        number, _, count = self.array.partition("/")
        return int(number), int(count)

    def __post_init__(self) -> None:
        if self.array is not None:
            numbers = re.fullmatch(r"(\d+)/(\d+)", self.array)
            if numbers is None or not int(numbers[1]) < int(numbers[2]):
                raise ValueError(f"array is {self.array!r}: write K/N, for instance 3/16; K is one of 0 to N-1")
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
        if self.memory_gb < 2 or self.deadline_seconds < 1:
            raise ValueError(
                "memory_gb must be 2 or more (MediaPipe and its libraries take 1.5), deadline_seconds 1 or more"
            )
        if self.blur_faces and self.landmarks != "mediapipe":
            raise ValueError(
                f"blur_faces finds the faces itself: it goes with landmarks: mediapipe, not {self.landmarks}"
            )
        if not self.streams:
            raise ValueError("streams is empty: there would be nothing to write")


@dataclass
class ManifestFolderConfig:
    """A folder of recordings -> a manifest."""

    root: Path
    """folder that the files lie in, at any depth"""
    pattern: str
    """how the paths below it are to be read, e.g. '{recording}/cam{view}/{part}.mp4': {a column of the manifest}, * = any text"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""


@dataclass
class ManifestAmiConfig:
    """The AMI meeting corpus -> a manifest."""

    root: Path
    """folder of the corpus: MEETING/video, MEETING/audio and the manual annotations, as they are unpacked"""
    out: Path = Path("manifest.csv")
    """the manifest to write"""


@dataclass
class CheckConfig:
    """Shards -> is everything in them as it should be?"""

    out: Path
    """folder that data_prep build wrote"""
    workers: int = 0
    """processes that read; 0 = one a core"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}: it must be 0 or more")


@dataclass
class MergeConfig:
    """The shares of an array -> one index."""

    out: Path
    """folder that data_prep build --array K/N wrote to"""


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
    """where to put videos, manifest and labels; run again into it to go on where a run was stopped"""
    pretrain: int = 16
    """recordings of the split pretrain"""
    train: int = 8
    """recordings of the split train"""
    test: int = 8
    """recordings of the split test, where colours tell as much as in train"""
    test_reversed: int = 8
    """recordings of test over again, in which a gesture has the colours of another one"""
    test_independent: int = 0
    """recordings of test over again, in which colours tell nothing"""
    rho: float = 0.8
    """how often the colours of wall and acting person's shirt tell the gesture (train, test, test_reversed), 0 to 1"""
    rho_pretrain: float = 0.5
    """the same in the split pretrain"""
    fewest_people: int = 2
    """fewest people in a recording"""
    most_people: int = 4
    """most people in a recording, at most 4"""
    independent: bool = False
    """everybody follows a script of their own: nobody answers anybody, as a control of what is learnt of interaction"""
    imitation: bool = False
    """the others always answer by the same gesture: more of what one does is told by another than among ordinary answers"""
    views: Literal["mixed", "together", "apart"] = "mixed"
    """together: one view of everybody; apart: one view a person; mixed: every other recording so"""
    width: int = 64
    """width of the pictures in pixels, even"""
    height: int = 64
    """height of the pictures in pixels, even"""
    fps: float = 8.0
    """frames per second"""
    recording_seconds: float = 64.0
    """length of a recording, a multiple of clip_seconds"""
    clip_seconds: float = 4.0
    """in every stretch of this length exactly one person makes one labelled gesture"""
    seed: int = 0
    """the same seed and settings give the same scenes"""
    workers: int = 0
    """processes that draw; 0 = one a core"""

    def __post_init__(self) -> None:
        if not 2 <= self.fewest_people <= self.most_people <= 4:
            raise ValueError("2 <= fewest_people <= most_people <= 4 must hold")
        if not (0 <= self.rho <= 1 and 0 <= self.rho_pretrain <= 1):
            raise ValueError("rho and rho_pretrain must lie between 0 and 1")
        if self.width < 32 or self.height < 32 or self.width % 2 or self.height % 2:
            raise ValueError("width and height must be even and 32 or more")
        if self.clip_seconds < 3 or self.fps <= 0:
            raise ValueError("clip_seconds must be 3 or more (a gesture and its answer), fps greater than 0")
        slots = self.recording_seconds / self.clip_seconds
        if slots < 1 or abs(slots - round(slots)) > 1e-6:
            raise ValueError(f"recording_seconds {self.recording_seconds:g} is no multiple of {self.clip_seconds:g}")
        if min(self.pretrain, self.train, self.test, self.test_reversed, self.test_independent, self.workers) < 0:
            raise ValueError("numbers of recordings and workers must be 0 or more")
