"""``kinesic data_prep manifest ssv2 ROOT``: Something-Something v2 -> manifest, and the class of every video as labels.

The class is the ``template`` without its square brackets; ``label`` is the sentence with the objects filled in. The official
validation part is the split ``test_validation``: it is what the literature reports. ``test`` has no public labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestSsv2Config
from data_prep.data_sets.tables import check_labels, write_labels
from data_prep.draft import Draft, is_media, path_in, publish

LISTS = {"train": "train", "test_validation": "validation", "test": "test"}
"""Our name of a split -> theirs."""
NAMES = ("something-something-v2-{}.json", "{}.json")
DEPTHS = ("*", "*/*", "*/*/*")


def ssv2(config: ManifestSsv2Config) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no video or no list."""
    check_labels(config.labels)
    if not config.root.is_dir():
        raise UserError(f"{config.root}: no such folder")
    files = [file for depth in DEPTHS for file in sorted(config.root.glob(depth))]
    labels, split_of = read_videos(files, config.root)
    draft = Draft([])
    found: set[str] = set()
    for file in files:
        if not is_media(file):
            continue
        if file.stem not in split_of:
            draft.remark("media files stand in none of the lists", file.name)
        elif file.stem in found:
            draft.remark("files are there a second time; the first is used", str(file.relative_to(config.root)))
        else:
            found.add(file.stem)
            row = {"path": path_in(config.out, file), "recording": file.stem, "split": split_of[file.stem]}
            draft.rows.append(row)
    if not draft.rows:
        raise UserError(f"{config.root}: no video of the lists in it, such as 78687.webm, at most three folders deep")
    for video in split_of:
        if video not in found:
            draft.remark("videos of the lists are not there", video)
    code = publish(draft, config.out)
    write_labels(config.labels, labels)
    return code


def read_videos(files: list[Path], root: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The labels (recording, action, class_number, split) of the videos that have one, and the split of every video of the lists.

    Raises UserError where there is no list, or a class that labels.json does not number.
    """
    classes = _read(files, "labels")
    if classes is None:
        raise UserError(
            f"{root}: no something-something-v2-labels.json (or labels.json) in it, at most three folders deep"
        )
    rows, split_of = [], {}
    for split, theirs in LISTS.items():
        for item in _read(files, theirs) or ():
            video = str(item["id"])
            split_of[video] = split
            if "template" not in item:  # the test part names ids and nothing else
                continue
            action = item["template"].replace("[", "").replace("]", "")
            if action not in classes:
                raise UserError(f"{theirs}.json: video {video} is {action!r}, which labels.json does not name")
            rows.append((video, action, int(classes[action]), split))
    if not split_of:
        raise UserError(f"{root}: labels.json, but no list of videos (something-something-v2-train.json, ...)")
    return pd.DataFrame(rows, columns=["recording", "action", "class_number", "split"]), split_of


def _read(files: list[Path], name: str) -> Any:
    """What a list holds; None where there is no such file. Raises UserError."""
    names = [form.format(name) for form in NAMES]
    path = next((file for wanted in names for file in files if file.name == wanted), None)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
