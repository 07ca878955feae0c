"""Bodily behaviour in MPIIGroupInteraction (BBSI, MultiMediate 2023): clips of 64 frames, three views, 14 behaviours.

clips_{train,val,test}/00001-video.mp4, also nested twice; the views are told by a suffix: "" frontal, 1 left, 2 right. Labels are
CSV files with sample_id and a column of 0 and 1 a behaviour, wherever they lie; a file's name, or its folder's, tells the part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_prep.data_sets.config import ManifestMpiiGroupConfig
from data_prep.data_sets.multimediate import SHARED_CLOCK, SPLITS
from data_prep.data_sets.tables import read_texts
from data_prep.draft import Draft, is_media, path_in

BEHAVIOURS = (
    "Settle",
    "Legs crossed",
    "Groom",
    "Hand-mouth",
    "Fold arms",
    "Leg movement",
    "Scratch",
    "Gesture",
    "Hand-face",
    "Adjusting clothing",
    "Fumble",
    "Shrug",
    "Stretching",
    "Smearing hands",
)
CLIP = re.compile(r"(?P<sample>\w+)-video(?P<view>[12]?)\.\w+")
VIEWS = {"": "frontal", "1": "left", "2": "right"}
PART = re.compile(r"(?<![a-z])(train|val|test)(?![a-z])")


def read_clips(config: ManifestMpiiGroupConfig, files: Sequence[Path], draft: Draft) -> pd.DataFrame:
    """Puts a row a clip and view into the draft and returns the labels: recording, a column a behaviour, split, sample_id.

    A clip is a recording, called <part>-<sample>, for nothing says that samples of two parts have different numbers.
    """
    names: dict[tuple[str, str], str] = {}
    for file in files:
        found = CLIP.fullmatch(file.name)
        part = next(
            (p.removeprefix("clips_") for p in file.relative_to(config.root).parts if p.startswith("clips_")), ""
        )
        if part not in ("train", "val", "test") or not is_media(file):
            continue
        if found is None:
            draft.remark("clips are not named as 00001-video.mp4", str(file.relative_to(config.root)))
            continue
        name = names.setdefault((part, _number(found["sample"])), f"{part}-{found['sample']}")
        row = {"path": path_in(config.out, file), "recording": name, "view": VIEWS[found["view"]]}
        draft.rows.append({**row, "offset": SHARED_CLOCK, "split": SPLITS[part]})
    return _labels(config.root, files, names, draft) if names else pd.DataFrame()


def _labels(root: Path, files: Sequence[Path], names: dict[tuple[str, str], str], draft: Draft) -> pd.DataFrame:
    tables = []
    for file in files:
        if file.suffix.lower() != ".csv" or not {"sample_id", *BEHAVIOURS} <= set(_columns(file)):
            continue
        parts = {m[1] for text in (file.stem, *file.relative_to(root).parts[:-1]) if (m := PART.search(text.lower()))}
        if len(parts) != 1:
            draft.remark("labels of bodily behaviour, whose name tells no part (train, val, test)", file.name)
            continue
        part = parts.pop()
        table = read_texts(file, ("sample_id", *BEHAVIOURS))
        known = [names.get((part, _number(sample))) for sample in table["sample_id"]]
        there = pd.Series(known).notna().to_numpy()
        if not there.all():
            draft.remark("labels are of clips that are not there", f"{(~there).sum()} of {file.name}")
        values = table[list(BEHAVIOURS)].apply(pd.to_numeric, errors="coerce")
        labels = pd.DataFrame({"recording": known}).join(values)
        tables.append(labels.assign(split=SPLITS[part], sample_id=table["sample_id"])[there])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _columns(file: Path) -> list[str]:
    with file.open("rb") as opened:
        return [name.strip().strip('"') for name in opened.readline().decode("utf-8-sig", "replace").split(",")]


def _number(sample: str) -> str:
    """00001 and 1 are one sample: a table that was read as numbers has lost the zeros."""
    return sample.lstrip("0") or "0"
