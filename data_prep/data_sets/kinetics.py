"""``kinesic data_prep manifest kinetics ROOT``: Kinetics-400, -600 or -700 -> manifest, and the class of every clip as labels.

Lists are CSV files with the columns label, youtube_id, time_start, time_end and perhaps split; clips are called
<youtube_id>_<start>_<end> with six digits a time, or <youtube_id> alone, in whatever folders. A class's number is its place
in the sorted set of training labels without quotation marks and with _ for spaces, as mmaction2 and VideoMAE have it. The
official validation part is the split ``test_validation``: it is what the literature reports.

Kinetics of different sizes overlap across their parts: most validation videos of K400 are training videos of K700. A YouTube
video that is in another part as well is taken out of train; ``without`` does the same for what another Kinetics tests on.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestKineticsConfig
from data_prep.data_sets.tables import check_labels, read_texts, write_labels
from data_prep.draft import Draft, files_below, is_media, path_in, publish

COLUMNS = ("youtube_id", "time_start", "time_end")
SPLITS = {"train": "train", "val": "test_validation", "test": "test"}
"""How a split's name begins, in a list or in its file's name, and how it is called here."""
LABELS = ["recording", "action", "class_number", "split", "youtube_id"]


def kinetics(config: ManifestKineticsConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no clip or no list."""
    check_labels(config.labels)
    files = files_below(config.root)
    draft = Draft([])
    clips = read_clips(files, config.root, draft)
    clips = _apart(clips, config.without, draft)
    alone = set(clips["youtube_id"][~clips["youtube_id"].duplicated(keep=False)])
    by_name = {name: row for row, name in enumerate(clips["recording"])}
    by_id = {name: row for row, name in enumerate(clips["youtube_id"]) if name in alone}
    found: set[int] = set()
    for file in filter(is_media, files):
        row = by_name.get(_short(file.stem), by_id.get(file.stem))
        if row is None:
            draft.remark("media files stand in none of the lists", file.name)
        elif row in found:
            draft.remark("files are there a second time; the first is used", str(file.relative_to(config.root)))
        else:
            found.add(row)
            name, split = clips["recording"].iloc[row], clips["split"].iloc[row]
            draft.rows.append({"path": path_in(config.out, file), "recording": name, "split": split})
    if not draft.rows:
        raise UserError(f"{config.root}: no clip of the lists in it, such as -0H3T2B9PH4_000025_000035.mp4")
    for row, name in enumerate(clips["recording"]):
        if row not in found:
            draft.remark("clips of the lists are not there", name)
    code = publish(draft, config.out)
    write_labels(config.labels, clips[clips["action"] != ""][LABELS])
    return code


def _short(name: str) -> str:
    """The name of a clip, whatever number of digits its times have: split from the right, for ids hold _ and begin with -."""
    found = re.fullmatch(r"(.+)_(\d+)_(\d+)", name)
    return name if found is None else clip_name(found[1], found[2], found[3])


def clip_name(youtube_id: str, start: str, end: str) -> str:
    """How a clip's file is called, but for its suffix; times in seconds."""
    return f"{youtube_id}_{int(float(start)):06d}_{int(float(end)):06d}"


def read_clips(files: list[Path], root: Path, draft: Draft) -> pd.DataFrame:
    """The clips of all lists: recording, action ("" = unknown), class_number, split, youtube_id. Raises UserError."""
    parts = [_read_list(path) for path in _lists(files, draft)]
    if not parts:
        raise UserError(f"{root}: no list of clips in it: a CSV file with the columns {', '.join(COLUMNS)}")
    clips = pd.concat(parts, ignore_index=True).drop_duplicates(["recording", "split"], ignore_index=True)
    known = clips["action"] != ""
    learnt = clips["action"][known & (clips["split"] == "train")]
    if learnt.empty:
        learnt = clips["action"][known]
        draft.remark("classes are numbered by what other lists hold, as there is no list of training clips", root.name)
    numbers = {name: number for number, name in enumerate(sorted({convention(name) for name in learnt}))}
    clips["class_number"] = clips["action"].map(convention).map(numbers).astype("Int64")
    for name in sorted(set(clips["action"][known & clips["class_number"].isna()])):
        draft.remark("classes have no training clip, and so no number", name)
    return clips


def convention(label: str) -> str:
    """A class's name as it is sorted."""
    return label.replace('"', "").replace(" ", "_")


def _lists(files: list[Path], draft: Draft) -> list[Path]:
    """The lists among files; of one that is there as .csv and .txt the latter, which is the complete one of K600."""
    lists = [file for file in files if file.suffix in {".csv", ".txt"} and _is_list(file)]
    whole = {file.with_suffix("") for file in lists if file.suffix == ".txt"}
    for file in [file for file in lists if file.suffix == ".csv" and file.with_suffix("") in whole]:
        draft.remark("lists are not read, as the .txt beside them is the complete one", file.name)
        lists.remove(file)
    return lists


def _is_list(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return set(COLUMNS) <= {name.strip().strip('"') for name in lines.readline().split(",")}


def _read_list(path: Path) -> pd.DataFrame:
    table = read_texts(path, COLUMNS)
    said = table["split"] if "split" in table else pd.Series(path.stem, table.index)
    own = {text: _split(text) for text in said.unique()}
    if unknown := [text for text, split in own.items() if split is None]:
        raise UserError(
            f"{path}: nothing says to which part clips belong: {unknown[0]!r} is none of {', '.join(SPLITS)}"
        )
    label = table["label"] if "label" in table else pd.Series("", table.index)
    try:
        times = zip(table["youtube_id"], table["time_start"], table["time_end"], strict=True)
        names = [clip_name(*row) for row in times]
    except ValueError as error:
        raise UserError(f"{path}: times must be seconds ({error})") from None
    clips = pd.DataFrame({"recording": names, "action": label.str.replace('"', "").str.strip()})
    return clips.assign(split=said.map(own), youtube_id=table["youtube_id"])


def _split(text: str) -> str | None:
    """Our name for a split by what a list, or the name of its file (kinetics_700_val), says of it."""
    words = re.split(r"[^a-z]+", text.lower())
    return next((ours for theirs, ours in SPLITS.items() if any(word.startswith(theirs) for word in words)), None)


def _apart(clips: pd.DataFrame, without: tuple[Path, ...], draft: Draft) -> pd.DataFrame:
    """The clips without those of train whose YouTube video is tested on, here or in the labels of another Kinetics."""
    tested = set(clips["youtube_id"][clips["split"] != "train"])
    both = (clips["split"] == "train") & clips["youtube_id"].isin(tested)
    for name in clips["recording"][both]:
        draft.remark("clips of train are left out, as their YouTube video is tested on as well", name)
    clips = clips[~both]
    for path in without:
        other = _read_labels(path)
        tested = set(other["youtube_id"][other["split"] != "train"].astype(str))
        theirs = (clips["split"] == "train") & clips["youtube_id"].isin(tested)
        for name in clips["recording"][theirs]:
            draft.remark(f"clips of train are left out, as {path.name} tests on their YouTube video", name)
        clips = clips[~theirs]
    return clips.reset_index(drop=True)


def _read_labels(path: Path) -> pd.DataFrame:
    """Labels that this command wrote. Raises UserError."""
    if path.suffix != ".parquet":
        return read_texts(path, tuple(LABELS))
    try:
        return pd.read_parquet(path, columns=LABELS)
    except (OSError, ValueError) as error:
        raise UserError(f"--without {path}: not labels that this command wrote ({error})") from None
