"""UDIVA's own landmarks and transcripts -> streams: FOLDER/<stream>/<recording>.npz and FOLDER/streams.yaml.

annotations_*.hdf5 has a group a frame (its name is the frame's number) with ``body``, ``face``, ``hands/left``, ``hands/right``;
each has ``landmarks`` [point, 3] where its attribute ``valid`` (and ``visible`` of hands) is true. Numbers stay as they are (x, y
in pixels, the third probably depth); what is missing has no row. Transcripts tell who speaks when. Times are seconds on each
video's own clock.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from configs import UserError
from data_prep.report import write
from data_prep.shards import encode_npz

SHAPES = {"face68": (68, 3), "body24": (24, 3), "left_hand": (21, 3), "right_hand": (21, 3)}
PLACES = {"face68": "face", "body24": "body", "left_hand": "hands/left", "right_hand": "hands/right"}
FEATURES = {name: points * axes for name, (points, axes) in SHAPES.items()} | {"gaze": 3, "speaking": 1}
SPEECH_SECONDS = 0.1  # from one value of "speaking" to the next

Rows = dict[str, list[Any]]  # times, values, participant


class Filmed(NamedTuple):
    """One video: its recording in the manifest, the corpus's own id, the task's letter, the view, who is filmed, the file."""

    recording: str
    session: str
    letter: str
    view: str
    participant: str
    video: Path


def write_streams(folder: Path, files: Iterable[Path], filmed: Iterable[Filmed], synchronised: bool) -> None:
    """Writes the streams of all recordings and says what there is. Raises UserError where there is nothing at all."""
    annotations = find_annotations(files)
    transcripts = {file.stem: file for file in files if file.suffix.lower() == ".srt"}
    by_recording: dict[str, list[Filmed]] = {}
    for one in filmed:
        by_recording.setdefault(one.recording, []).append(one)
    written: dict[str, int] = {}
    for recording, views in by_recording.items():
        streams: dict[str, Rows] = {}
        for one in views:
            file = annotations.get((one.session, one.letter, one.view))
            if file is not None and one.participant:
                _add_landmarks(streams, file, one)
        if recording in transcripts:
            _add_speech(streams, transcripts[recording], {f"PART.{view.view[-1]}": view.participant for view in views})
        for name, rows in streams.items():
            _write(folder / name / f"{recording}.npz", rows)
            written[name] = written.get(name, 0) + 1
    if not written:
        raise UserError(
            f"--streams {folder}: no annotations_*.hdf5 (or .zip) and no transcript lies beside these videos"
        )
    lines = [
        f"{name}: {{features: {FEATURES[name]}, cell_seconds: 0.1, cells_per_token: 5, data: {name}}}"
        for name in FEATURES
        if name in written
    ]
    write(folder / "streams.yaml", ("\n".join(lines) + "\n").encode())
    print(
        f"{folder / 'streams.yaml'}: " + ", ".join(f"{name} of {count} recordings" for name, count in written.items())
    )
    if not synchronised:
        print(
            "their times are on each video's own clock: where FC1 and FC2 were started apart, FC2's are off by that much"
        )


def find_annotations(files: Iterable[Path]) -> dict[tuple[str, str, str], Path]:
    """(recording id, letter, view) -> <recording id>/FC1_T/annotations_*.hdf5 or .zip: unmasked and cleaned before raw."""
    found: dict[tuple[str, str, str], Path] = {}
    for file in files:
        named = re.fullmatch(r"(FC[12])_([TLGA])", file.parent.name)
        if named and re.fullmatch(r"annotations_\w+\.(hdf5|zip)", file.name):
            key = (file.parent.parent.name, named[2], named[1])
            found[key] = min(found.get(key, file), file, key=_worth)
    return found


def _worth(file: Path) -> tuple[bool, bool, bool]:
    return "unmasked" not in file.name, "cleaned" not in file.name, file.suffix == ".zip"


@contextmanager
def opened(file: Path) -> Generator[Any]:
    """The HDF5 file, out of its zip where it lies in one. Raises UserError."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        try:
            if file.suffix == ".zip":
                with zipfile.ZipFile(file) as packed:
                    inside = [name for name in packed.namelist() if name.endswith(".hdf5")]
                    if not inside:
                        raise UserError(f"{file}: no .hdf5 in it")
                    path = Path(folder, "annotations.hdf5")
                    with packed.open(inside[0]) as source, path.open("wb") as target:
                        while block := source.read(1 << 20):
                            target.write(block)
            else:
                path = file
            with h5py.File(path, "r") as annotations:
                yield annotations
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: not readable as HDF5 ({error}): unpack it again") from None


def _add_landmarks(streams: dict[str, Rows], file: Path, one: Filmed) -> None:
    """Appends the rows of a video's landmarks and gaze."""
    rate = frame_rate(one.video)
    with opened(file) as annotations:
        frames = sorted((int(name), name) for name in annotations if name.isdecimal())  # "10" is after "9"
        first = (
            0 if not frames or frames[0][0] == 0 else 1
        )  # nothing says how frames are counted: 0 where there is a frame 0
        for number, name in frames:
            frame, time = annotations[name], (number - first) / rate
            if not _holds(frame, "valid"):
                continue
            for stream, place in PLACES.items():
                part = frame.get(place)
                if part is None or not _holds(part, "valid") or (place != "face" and not _holds(part, "visible")):
                    continue
                if "landmarks" in part and part["landmarks"].shape == SHAPES[stream]:
                    _append(streams, stream, time, np.ravel(part["landmarks"][()]), one.participant)
                if place == "face" and np.shape(part.attrs.get("gaze")) == (3,):
                    _append(streams, "gaze", time, part.attrs["gaze"], one.participant)


def _holds(group: Any, attribute: str) -> bool:
    """Whether an attribute is true, or not there."""
    return bool(group.attrs.get(attribute, True))


def frame_rate(video: Path) -> float:
    """Frames a second. Raises UserError."""
    try:
        with av.open(str(video)) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"{video}: cannot be opened ({error}), so that its landmarks have no times") from None
    return float(rate or 25)


def spoken(file: Path) -> list[tuple[float, float, str]]:
    """(start, end, PART.1 or PART.2) of a SubRip file, in seconds; what the supervisor says is left out. Raises UserError."""
    found = []
    try:
        with av.open(str(file), format="srt") as container:
            for packet in container.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                start, end = (float(t * packet.time_base) for t in (packet.pts, packet.pts + (packet.duration or 0)))
                for who in dict.fromkeys(re.findall(r"^\s*(PART\.[12])\s*:", _text(packet), re.MULTILINE)):
                    found.append((start, end, who))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{file}: not readable as SubRip ({error})") from None
    return found


def _text(packet: Any) -> str:
    return bytes(packet).decode("utf-8", "replace").removeprefix("\ufeff")


def _add_speech(streams: dict[str, Rows], file: Path, people: dict[str, str]) -> None:
    """Appends, ten times a second from the transcript's first word to its last, whether each participant speaks."""
    cues = spoken(file)
    if not cues:
        return
    times = np.arange(min(start for start, _, _ in cues), max(end for _, end, _ in cues), SPEECH_SECONDS)
    for part, participant in people.items():
        turns = [(start, end) for start, end, who in cues if who == part]
        for time in times if participant else ():
            speaks = any(start <= time < end for start, end in turns)
            _append(streams, "speaking", float(time), [float(speaks)], participant)


def _append(streams: dict[str, Rows], name: str, time: float, values: Any, participant: str) -> None:
    rows = streams.setdefault(name, {"times": [], "values": [], "participant": []})
    for key, value in zip(rows, (time, values, participant), strict=True):
        rows[key].append(value)


def _write(file: Path, rows: Rows) -> None:
    """An npz as the reader of added streams takes it, in order of time."""
    order = np.argsort(rows["times"], kind="stable")
    arrays = {
        "times": np.array(rows["times"], np.float64)[order],
        "values": np.array(rows["values"], np.float32)[order],
        "participant": np.array(rows["participant"], str)[order],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, encode_npz(arrays))
