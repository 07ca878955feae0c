"""``kinesic data_prep manifest seamless ROOT``: Seamless Interaction -> manifest, and who speaks when as labels.

It comes as archives with one sample a person, V<vendor>_S<session>_I<interaction>_P<participant>.mp4, .wav, .json, .npz. What
shares V, S and I is one recording: each person's camera is a view, each person's microphone another (its sound is the own
voice alone), all on one clock. Archives are unpacked first: names in them are never used as paths, only what has exactly a
sample's name is taken, under that name.

The authors say that about a tenth of the time stamps is affected by errors and that some participant ids are wrong. What
contradicts itself is told; nothing is mended.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestSeamlessConfig
from data_prep.data_sets.tables import check_labels, write_labels
from data_prep.draft import Draft, files_below, look, path_in, publish

SAMPLE = re.compile(r"(?P<recording>V\w+?_S\w+?_I\w+?)_P(?P<person>[0-9A-Za-z]+)\.(?P<kind>mp4|wav|json|npz)")
SPLITS = {"train": "train", "dev": "val", "test": "test"}
STYLES = ("improvised", "naturalistic")
RATE = 30.0
"""Rows a second of the given features."""
VALID = {"boxes_and_keypoints": "is_valid_box", "movement": "is_valid", "smplh": "is_valid"}
"""Which array of a group of features says whether a row is to be believed."""
SPEAKS, SILENT = "yes", "no"


def seamless(config: ManifestSeamlessConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no sample."""
    check_labels(config.labels)
    files = files_below(config.root)
    archives = [file for file in files if file.suffix == ".tar"]
    draft = Draft([])
    if archives:
        if config.unpacked is None:
            raise UserError(
                f"{archives[0]}: an archive ({len(archives)} in all): --unpacked FOLDER names where to unpack them"
            )
        for archive in archives:
            unpack(archive, config.unpacked / archive.relative_to(config.root).with_suffix(""), draft)
        files += sorted(set(files_below(config.unpacked)) - set(files))
    samples = read_samples(files, draft)
    if not samples:
        raise UserError(f"{config.root}: no sample in it, such as V00_S0809_I00000582_P0947.mp4")
    for kinds in samples.values():
        draft.rows += _rows(kinds, config.out, draft)
    for recording, people in by_recording(samples).items():
        if len(people) != 2:
            draft.remark("recordings have another number of people than two", f"{recording} ({', '.join(people)})")
    code = publish(draft, config.out)
    if config.labels is not None:
        write_labels(config.labels, read_speech(samples))
    if config.streams is not None:
        write_streams(samples, config.streams)
    return code


Samples = dict[tuple[str, str], dict[str, Path]]
"""(recording, participant) -> the files of a sample by their kind."""


def read_samples(files: list[Path], draft: Draft) -> Samples:
    """The samples among files, in order of their names."""
    samples: Samples = {}
    for file in sorted(files, key=lambda file: file.name):
        if found := SAMPLE.fullmatch(file.name):
            kinds = samples.setdefault((found["recording"], f"P{found['person']}"), {})
            if found["kind"] in kinds:
                draft.remark("files are there a second time; the first is used", str(file))
            kinds.setdefault(found["kind"], file)
    return {about: kinds for about, kinds in samples.items() if "mp4" in kinds or "wav" in kinds}


def by_recording(samples: Samples) -> dict[str, list[str]]:
    """The participants of every recording."""
    people: dict[str, list[str]] = {}
    for recording, person in samples:
        people.setdefault(recording, []).append(person)
    return people


def _rows(kinds: dict[str, Path], out: Path, draft: Draft) -> Iterator[dict[str, str]]:
    """The rows of the manifest for a person: the camera and the microphone."""
    for kind, suffix in (("mp4", ""), ("wav", "_voice")):
        if kind not in kinds:
            draft.remark(f"samples have no .{kind}", next(iter(kinds.values())).stem)
            continue
        file = kinds[kind]
        found = SAMPLE.fullmatch(file.name)
        assert found is not None
        person, (style, split) = f"P{found['person']}", _part(file)
        yield {
            "path": path_in(out, file),
            "recording": found["recording"],
            "view": person + suffix,
            "offset": "0",  # one clock, and what the microphones hear has nothing in common to measure it by
            "participants": person,
            "split": split,
            "x.style": style,
        }


def _part(file: Path) -> tuple[str, str]:
    """Style and our name of the split by a file's folders, improvised/dev/0000/0023; empty where they do not say."""
    above = [part.lower() for part in file.absolute().parts[:-1]]
    for number in range(len(above) - 2, -1, -1):
        if above[number] in STYLES and above[number + 1] in SPLITS:
            return above[number], SPLITS[above[number + 1]]
    return "", ""


def unpack(archive: Path, folder: Path, draft: Draft) -> None:
    """Writes the samples' members of an archive into a folder, each under its bare name; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                content = tar.extractfile(member) if member.isreg() and SAMPLE.fullmatch(name) else None
                if content is None:
                    draft.remark(
                        "members of archives are no files of a sample and left where they are",
                        f"{archive.name}: {name!r}",
                    )
                    continue
                target = folder / name
                if target.is_file() and target.stat().st_size == member.size:
                    continue
                temporary = folder / f".{name}.tmp"
                try:
                    with temporary.open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
    except tarfile.TarError as error:
        draft.remark("archives are damaged; what comes before the damage is used", f"{archive} ({error})")
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked into {folder} ({error.strerror or error})") from None


def read_speech(samples: Samples) -> pd.DataFrame:
    """Who speaks when: recording, participant, start, end (seconds), speaks (yes, no): stretches that follow one another.

    A stretch that ends before it starts, or begins after the file is over, is left out.
    """
    rows = []
    for (recording, person), kinds in samples.items():
        about = _about(kinds["json"]) if "json" in kinds else None
        if about is None or "metadata:vad" not in about:
            print(f"{recording}_{person}: nothing says when this person speaks")
            continue
        media = look(kinds.get("wav", kinds.get("mp4", Path())))
        length = media.seconds if media is not None and media.seconds else np.inf
        done, wrong = 0.0, 0
        for start, end in sorted((float(part["start"]), float(part["end"])) for part in about["metadata:vad"]):
            if not 0 <= start < end or start >= length:
                wrong += 1
                continue
            start, end = max(start, done), min(end, length)
            if start > done:
                rows.append((recording, person, done, start, SILENT))
            if end > start:
                rows.append((recording, person, start, end, SPEAKS))
            done = max(done, end)
        if done < length:
            rows.append((recording, person, done, length if np.isfinite(length) else np.nan, SILENT))
        if wrong:
            print(f"{recording}_{person}: {wrong} stretches of speech have impossible times; left out")
    return pd.DataFrame(rows, columns=["recording", "participant", "start", "end", "speaks"])


def _about(file: Path) -> dict[str, Any] | None:
    """A sample's json; None, with a line, where it cannot be read or is another sample's."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"{file}: not readable as JSON ({error}); left out")
        return None
    if about.get("id", file.stem) != file.stem:
        print(f"{file}: says that it is {about['id']}; left out")
        return None
    return about


def write_streams(samples: Samples, out: Path) -> None:
    """The given features as OUT/NAME/<recording>.npz: times [row], values [row, number], participant [row].

    NAME is ``movement_FAUValue`` and so on; what is not valid is left out.
    """
    recordings = by_recording(samples)
    for recording, persons in recordings.items():
        parts: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
        for person in persons:
            if "npz" in (kinds := samples[recording, person]):
                for stream, times, values in read_features(kinds["npz"]):
                    parts.setdefault(stream, []).append((person, times, values))
        for stream, people in parts.items():
            if len({values.shape[1] for _, _, values in people}) > 1:
                print(f"{recording}: {stream} has other numbers for one person than for the other; left out")
                continue
            file = out / stream / f"{recording}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.tmp.npz")
            np.savez_compressed(
                temporary,
                times=np.concatenate([times for _, times, _ in people]),
                values=np.concatenate([values for _, _, values in people]),
                participant=np.concatenate([np.full(len(times), person) for person, times, _ in people]),
            )
            temporary.replace(file)
    print(f"{out}: the features of {len(recordings)} recordings")


def read_features(file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, times [row], values float32 [row, number]) of every array of numbers in a sample's npz; a line where damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                group, _, name = key.partition(":")
                if name in VALID.values() or not name:
                    continue
                values = arrays[key]
                if values.dtype.kind not in "fiu" or not values.ndim or not values.size:
                    continue
                values = values.reshape(len(values), -1).astype(np.float32)
                flag = f"{group}:{VALID.get(group, '')}"
                valid = (
                    arrays[flag].reshape(len(arrays[flag]), -1).all(1) if flag in arrays else np.ones(len(values), bool)
                )
                if len(valid) != len(values):
                    continue  # not a row an instant
                rows = np.flatnonzero(valid)
                yield re.sub(r"\W", "_", key), rows / RATE, values[rows]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        print(f"{file}: not readable as an npz of arrays ({error}); left out")
