"""A tiny UDIVA v0.5: names, columns, encodings and folders as four independent readers describe them, generated scenes inside.

On purpose: ids begin with zeros; PART.1 has the larger id in 002003 and the rows of parts are in order of ID; FC2 of 055128 is
missing; folders, zips and byte order marks differ between splits, as in users' copies; val and test have masked labels beside true
ones.
"""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np

from data_prep.config import SyntheticConfig
from data_prep.synthetic import Job, make_recording

SECONDS, RATE = 8.0, 8
TRAITS = (
    "OPENMINDEDNESS_Z", "CONSCIENTIOUSNESS_Z", "EXTRAVERSION_Z", "AGREEABLENESS_Z", "NEGATIVEEMOTIONALITY_Z",
)  # fmt: skip
SESSIONS = {  # split -> recording -> (PART.1, PART.2)
    "train": {"001004": ("001", "004"), "002003": ("003", "002"), "005013": ("005", "013"), "055128": ("055", "128")},
    "val": {"009010": ("010", "009")},
    "test": {"020021": ("021", "020"), "191192": ("191", "192")},
}
SPLIT_OF = {recording: split for split, recordings in SESSIONS.items() for recording in recordings}
FOLDERS = {  # split -> (recordings of a task, annotations, metadata)
    "train": ("recordings/{task}_recordings_train", "annotations/{task}_annotations_train", "metadata"),
    "val": ("recordings/{task}_recordings_val_img", "annotations", "metadata_val"),
    "test": ("recordings/{task}_recordings_test", "annotations", "metadata"),
}
MISSING = ("055128", "FC2")


def traits_of(participant: str) -> list[float]:
    """The five z-scores of a participant: all different."""
    return [round(float(value), 3) for value in np.random.default_rng(int(participant)).normal(0, 1, 5)]


def write_udiva(root: Path, scratch: Path) -> Path:
    """Writes the tree; scratch: folder for the generated scenes. Landmarks of the scenes lie beside the videos, for a build with
    ``landmarks: given``; the corpus itself has none of those. Returns root."""
    config = SyntheticConfig(
        scratch, fewest_people=2, most_people=2, views="apart", recording_seconds=SECONDS, fps=RATE, workers=1
    )
    number = 0
    for split, recordings in SESSIONS.items():
        for recording in recordings:
            for task, letter in (("talk", "T"), ("lego", "L")) if recording == "002003" else (("talk", "T"),):
                job = Job(config, "train", number)
                number += 1
                make_recording(job)
                for seat, view in (("seat1", "FC1"), ("seat2", "FC2")):
                    if (recording, view) != MISSING:
                        folder = root / split / FOLDERS[split][0].format(task=task) / recording
                        folder.mkdir(parents=True, exist_ok=True)
                        for file in (scratch / job.recording).glob(f"{seat}.mp4*"):
                            shutil.copy(file, folder / file.name.replace(seat, f"{view}_{letter}"))
                        _annotations(root / split / FOLDERS[split][1].format(task=task), split, recording, view, letter)
        _metadata(root / split / FOLDERS[split][2], split)
    _transcript(root / "train" / "transcriptions")
    return root


def write_table(path: Path, columns: list[str], rows: list[list[object]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([columns, *rows])


def _metadata(folder: Path, split: str) -> None:
    sessions = [
        [recording, *parts, "Spanish" if recording < "100000" else "Catalan", "1", "2", int(parts[0]), int(parts[1])]
        for recording, parts in SESSIONS[split].items()
    ]
    columns = ["ID", "PART.1", "PART.2", "LANGUAGE", "KNOWN", "TALK_ORDER"]
    columns += ["FATIGUE_BEFORE_PART.1", "FATIGUE_BEFORE_PART.2"]
    write_table(folder / f"sessions_{split}.csv", columns, sessions, "utf-8-sig" if split == "val" else "utf-8")
    people = sorted(person for parts in SESSIONS[split].values() for person in parts)
    about = ["ID", "GENDER", "AGE", "COUNTRY", *(f"SESSION{n}" for n in range(1, 6)), *TRAITS]
    for suffix, true in (("", split == "train"), *((("_unmasked", True),) if split != "train" else ())):
        rows = []
        for person in people:
            (recording,) = (r for r, parts in SESSIONS[split].items() if person in parts)
            traits = traits_of(person) if true else [0.0] * 5
            rows.append([person, "FM"[int(person) % 2], 20 + int(person) % 50, "España", recording, *[""] * 4, *traits])
        write_table(folder / f"parts_{split}{suffix}.csv", about, rows)
    limits = {recording: {"talk": [[1.0, 7.0]]} for recording in SESSIONS[split] if recording != "005013"}
    (folder / "task_limits.json").write_text(json.dumps(limits))


def _annotations(folder: Path, split: str, recording: str, view: str, letter: str) -> None:
    """annotations_raw.hdf5 in train, zipped in val; a masked annotations_cleaned.hdf5 beside a zip of the true one in test."""
    folder = folder / recording / f"{view}_{letter}"
    folder.mkdir(parents=True)
    if split == "train":
        write_hdf5(folder / "annotations_raw.hdf5")
        return
    if split == "test":
        write_hdf5(folder / "annotations_cleaned.hdf5", frames=2)
    name = "annotations_raw" if split == "val" else "annotations_cleaned_unmasked"
    write_hdf5(folder / "inside.hdf5")
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as packed:
        packed.write(folder / "inside.hdf5", f"{view}_{letter}/{name.removesuffix('_unmasked')}.hdf5")
    (folder / "inside.hdf5").unlink()


def write_hdf5(path: Path, frames: int = 12) -> None:
    """Frames 0 to 11; every landmark is the number of its frame, so that it tells when it belongs. Not there or not valid:

    3 the frame; 4 the face's landmarks; 5 the left hand is not visible; 6 no hands at all; 7 the body is not valid.
    """
    with h5py.File(path, "w") as file:
        for number in range(frames):
            frame = file.create_group(str(number))
            frame.attrs["valid"] = number != 3
            for place, points in (("body", 24), ("face", 68), ("hands/left", 21), ("hands/right", 21)):
                if number == 6 and place.startswith("hands"):
                    continue
                part = frame.create_group(place)
                part.attrs["valid"] = not (number == 7 and place == "body")
                part.attrs["confidence"] = 0.9
                if place.startswith("hands"):
                    part.attrs["visible"] = not (number == 5 and place == "hands/left")
                if place == "face":
                    part.attrs["gaze"] = np.array([number, 0.0, 1.0])
                if not (number == 4 and place == "face"):
                    part.create_dataset("landmarks", data=np.full((points, 3), float(number)))


TRANSCRIPT = """1
00:00:01,000 --> 00:00:02,500
PART.1: Hola, ¿qué tal?

2
00:00:02,000 --> 00:00:03,000
PART.2: Bien.
¿Y tú?

3
00:00:03,000 --> 00:00:05,000
SUPERVISOR: Podéis empezar.

4
00:00:05,500 --> 00:00:06,000
PART.1: Vale.
PART.2: Sí.

"""


def _transcript(folder: Path) -> None:
    """Of 002003, with a byte order mark."""
    path = folder / "002003" / "002003_talk.srt"
    path.parent.mkdir(parents=True)
    path.write_text(TRANSCRIPT, encoding="utf-8-sig")
