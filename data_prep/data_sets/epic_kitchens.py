"""``kinesic data_prep manifest epic-kitchens ROOT``: EPIC-KITCHENS-100 -> manifest, and its action segments as labels.

A video is a recording, its one view the wearer's head camera, the wearer its participant. Segments are read by their time
stamps: the frame numbers beside them count frames that the authors extracted, 60 or 50 a second, not the video's own.

The official validation part is the split ``test_validation``: its labels are public, the literature reports it, and nothing
is chosen on it. ``test`` is the challenge's, whose labels are not public.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestEpicKitchensConfig
from data_prep.data_sets.tables import check_labels, read_texts, write_labels
from data_prep.draft import Draft, is_media, path_in, publish

VIEW = "head"
VIDEO = re.compile(r"P\d{2}_\d{2,3}")
"""P01_05 of EPIC-KITCHENS-55, P01_105 of the extension"""
PLACES = ("*", "videos/*", "P*/videos/*", "*/P*/videos/*")
"""Where videos lie below ROOT; frames and other files, of which there are millions, are not walked through."""
LISTS = {
    "train": "EPIC_100_train.csv",
    "test_validation": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
"""By our names of the splits."""
UNSEEN = {
    "test_validation": "EPIC_100_unseen_participant_ids_validation.csv",
    "test": "EPIC_100_unseen_participant_ids_test.csv",
}
CLASSES = {"verb": 97, "noun": 300}
TIMES = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")


def epic_kitchens(config: ManifestEpicKitchensConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no video or no annotation."""
    check_labels(config.labels)
    segments = read_segments(_annotations(config))
    draft = Draft([])
    split_of = dict(zip(segments["recording"], segments["split"], strict=True))
    found: dict[str, Path] = {}
    for file in _videos(config.root):
        video = file.stem
        if video in found:
            draft.remark("files are there a second time; the first is used", str(file.relative_to(config.root)))
            continue
        found[video] = file
        if video not in split_of:
            draft.remark("videos stand in none of the lists, so that they have no split", video)
        row = {"path": path_in(config.out, file), "recording": video, "view": VIEW}
        draft.rows.append(row | {"participants": video.split("_")[0], "split": split_of.get(video, "")})
    if not draft.rows:
        raise UserError(f"{config.root}: no video in it, such as P01/videos/P01_01.MP4")
    for video in split_of:
        if video not in found:
            draft.remark("videos of the lists are not there", video)
    code = publish(draft, config.out)
    write_labels(config.labels, segments)
    return code


def _videos(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = {file for place in PLACES for file in root.glob(place) if VIDEO.fullmatch(file.stem) and is_media(file)}
    return sorted(files)


def _annotations(config: ManifestEpicKitchensConfig) -> Path:
    """The folder of the lists. Raises UserError where there is none."""
    places = [config.annotations] if config.annotations else [config.root, *sorted(config.root.glob("*"))]
    for place in places:
        if any((place / name).is_file() for name in LISTS.values()):
            return place
    raise UserError(
        f"{places[0]}: none of {', '.join(LISTS.values())} in it: get github.com/epic-kitchens/epic-kitchens-100-annotations "
        "and name its folder by --annotations"
    )


def read_segments(folder: Path) -> pd.DataFrame:
    """The segments of all lists that there are, a row each: the labels. Raises UserError.

    recording, participant (text), start, end (seconds), verb, noun (keys of their classes, empty in the challenge's test),
    verb_class, noun_class (numbers), narration_id, split, and bool unseen (of a participant who is not in train), tail_verb,
    tail_noun (of a rare class).
    """
    keys = {kind: _read_keys(folder / f"EPIC_100_{kind}_classes.csv", CLASSES[kind]) for kind in CLASSES}
    tails = {kind: _numbers(folder / f"EPIC_100_tail_{kind}s.csv", kind) for kind in CLASSES}
    parts = []
    for split, name in LISTS.items():
        if not (folder / name).is_file():
            continue
        labelled = split != "test"
        table = read_texts(folder / name, (*TIMES, "verb_class", "noun_class") if labelled else TIMES)
        part = pd.DataFrame({"recording": table["video_id"], "participant": table["participant_id"]})
        part["start"] = [seconds(text, folder / name) for text in table["start_timestamp"]]
        part["end"] = [seconds(text, folder / name) for text in table["stop_timestamp"]]
        for kind in CLASSES:
            numbers = pd.to_numeric(table[f"{kind}_class"]).astype("Int64") if labelled else pd.NA
            part[f"{kind}_class"] = pd.Series(numbers, table.index, dtype="Int64")
            part[kind] = part[f"{kind}_class"].map(keys[kind]).astype(object)
            part[f"tail_{kind}"] = part[f"{kind}_class"].isin(tails[kind]).astype(bool)
        unseen = (
            set(read_texts(folder / UNSEEN[split], ("participant_id",))["participant_id"]) if split in UNSEEN else set()
        )
        part["unseen"] = part["participant"].isin(unseen)
        parts.append(part.assign(narration_id=table["narration_id"], split=split))
    segments = pd.concat(parts, ignore_index=True)
    wrong = segments[~(segments["end"] > segments["start"])]
    if len(wrong):
        raise UserError(f"{folder}: segment {wrong['narration_id'].iloc[0]} ends before it starts: get the lists again")
    return segments


def seconds(text: str, source: Path) -> float:
    """HH:MM:SS.ss -> seconds. Raises UserError."""
    found = re.fullmatch(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)", text)
    if found is None:
        raise UserError(f"{source}: {text!r} is no time as in 00:01:02.34")
    return round(int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]), 3)


def _read_keys(path: Path, count: int) -> dict[int, str]:
    """The name of every class, by its number. Raises UserError where there are not as many as the benchmark has."""
    table = read_texts(path, ("id", "key"))
    if len(table) != count:
        raise UserError(f"{path}: {len(table)} classes, not the benchmark's {count} (VISOR's list is another one)")
    return dict(zip(table["id"].astype(int), table["key"], strict=True))


def _numbers(path: Path, column: str) -> set[int]:
    return set(read_texts(path, (column,))[column].astype(int))
