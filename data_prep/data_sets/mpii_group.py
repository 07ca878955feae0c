"""``kinesic data_prep manifest mpii-group ROOT``: MPIIGroupInteraction, groups of three and four -> manifest, and labels.

It is distributed in three layouts, one for each generation of MultiMediate's tasks; what of them lies below ROOT is read:

- data/<recording>/subjectPos1.video.avi, audio.wav and sample_lists/<part>_<task>.csv: eye contact, next speaker, backchannel;
- clips_<part>/00001-video.mp4 and a CSV file with sample_id: bodily behaviour (mpii_clips.py);
- (engagement-annotations-)<part>/<number>/subjectPos1.*: engagement (multimediate.py).

A recording has a view a seat and one of the room's sound. A group of three leaves a seat empty, another one each time: which one,
the files tell. The unit of evaluation of the first layout is a window of 10 s. Windows that overlap cannot be in one recording:
those that do become recordings of their own (recording07, recording07.2); people keep their names (recording07.subjectPos1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestMpiiGroupConfig
from data_prep.data_sets.mpii_clips import read_clips
from data_prep.data_sets.multimediate import (
    SHARED_CLOCK,
    SPLITS,
    Session,
    engagement_labels,
    find_sessions,
    manifest_rows,
)
from data_prep.data_sets.ssi import write_streams
from data_prep.data_sets.tables import read_texts, write_labels
from data_prep.draft import Draft, files_below, is_media, path_in, publish

SET = "mpiigi"
SEATS = ("subjectPos1", "subjectPos2", "subjectPos3", "subjectPos4")
ROOM = "audio"
LIST = re.compile(r"(?P<part>train|val|test)_(?P<task>\w+)\.csv")
COLUMNS = ("index", "recording", "start_time", "end_time")
OF_EACH_SEAT = tuple(f"label_{number}" for number in range(1, 5))

Window = tuple[float, float]


@dataclass(frozen=True)
class SampleList:
    """samples: a row a person of a sample: index, session, start, end, seat, label (text, "" = not public)."""

    part: str
    task: str
    samples: pd.DataFrame


def mpii_group(config: ManifestMpiiGroupConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where none of the layouts is there."""
    files, draft = files_below(config.root), Draft([])
    tables = [read_discussions(config, files, draft), read_clips(config, files, draft)]
    found = sessions(config.root, draft) if not draft.rows or has_engagement(files) else []
    for session in found:
        draft.rows += manifest_rows(session, config.out)
    tables += [engagement_labels(session, draft) for session in found]
    if not draft.rows:
        raise UserError(
            f"{config.root}: no recording in it: data/recording07/subjectPos1.video.avi, clips_train/00001-video.mp4 or "
            "val/008/subjectPos1.video.mp4"
        )
    if config.streams is not None:
        write_streams(found, config.streams, config.features, draft)
    code = publish(draft, config.out)
    write_labels(config.labels, pd.concat([table for table in tables if len(table)] or tables, ignore_index=True))
    return code


def has_engagement(files: Sequence[Path]) -> bool:
    """Whether the layout of the engagement task is there."""
    return any(file.name.endswith("engagement.annotation.csv") for file in files)


def sessions(root: Path, draft: Draft) -> list[Session]:
    """The sessions of the engagement task; the other layouts' folders are not looked at."""
    folder = root / "mpiigroupinteraction" if (root / "mpiigroupinteraction").is_dir() else root
    files = [file for file in files_below(folder) if not re.match("data$|clips_", file.relative_to(folder).parts[0])]
    return find_sessions(folder, files, SET, SEATS, draft)


def read_discussions(config: ManifestMpiiGroupConfig, files: Sequence[Path], draft: Draft) -> pd.DataFrame:
    """The layout of 2021: puts its rows into the draft and returns its labels."""
    media: dict[str, list[Path]] = {}
    for file in files:
        if file.is_relative_to(config.root / "data") and is_media(file):
            media.setdefault(file.parent.name, []).append(file)
    lists = read_lists(config, files) if media else []
    part_of = parts_of(lists)
    windows: dict[str, list[Window]] = {}
    for one in lists:
        for session, start, end in one.samples[["session", "start", "end"]].itertuples(index=False):
            windows.setdefault(session, []).append((start, end))
    recording_of: dict[tuple[str, Window], str] = {}
    for session, paths in media.items():
        layers = apart(windows.get(session, []))
        if not layers:
            draft.remark("recordings stand in no sample list", session)
        if config.whole:
            recording_of |= {(session, window): session for layer in layers for window in layer}
            draft.rows += _rows(config.out, session, session, [], paths, part_of.get(session, ""), draft)
            continue
        for number, layer in enumerate(layers, 1):
            name = session if number == 1 else f"{session}.{number}"
            recording_of |= {(session, window): name for window in layer}
            draft.rows += _rows(config.out, session, name, layer, paths, part_of[session], draft)
    for session in sorted(set(windows) - set(media)):
        draft.remark("recordings of the sample lists are not there", session)
    return sample_labels(lists, recording_of)


def _rows(
    out: Path, session: str, name: str, windows: Sequence[Window], files: Sequence[Path], part: str, draft: Draft
) -> list[dict[str, str]]:
    """A row a file and window; no window = all of it."""
    seats = [seat for seat in SEATS if any(file.name.startswith(f"{seat}.video.") for file in files)]
    if len(seats) < len(SEATS) and name == session:
        empty = ", ".join(seat for seat in SEATS if seat not in seats)
        draft.remark("recordings have empty seats", f"{session} ({empty})")
    rows = []
    for file in files:
        view = file.name.partition(".")[0]
        if view not in (*SEATS, ROOM):
            draft.remark("media files are neither a seat's nor the room's", f"{session}/{file.name}")
            continue
        people = seats if view == ROOM else [view]
        row = {"path": path_in(out, file), "recording": name, "view": view, "offset": SHARED_CLOCK}
        row |= {"participants": ";".join(f"{session}.{seat}" for seat in people), "split": SPLITS.get(part, "")}
        rows += [{**row, "start": str(start), "end": str(end)} for start, end in windows] or [row]
    return rows


def apart(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows in layers, so that none in a layer overlap, each in order of time; as few layers as there can be."""
    layers: list[list[Window]] = []
    for window in sorted(set(windows)):
        layer = next((layer for layer in layers if layer[-1][1] <= window[0]), None)
        if layer is None:
            layers.append([window])
        else:
            layer.append(window)
    return layers


def read_lists(config: ManifestMpiiGroupConfig, files: Sequence[Path]) -> list[SampleList]:
    """sample_lists/<part>_<task>.csv. Raises UserError for a list of another form, or where one that is asked for is missing."""
    named = [
        (file, found) for file in files if file.parent.name == "sample_lists" and (found := LIST.fullmatch(file.name))
    ]
    known = {found["task"] for _, found in named}
    if missing := [task for task in config.lists if task not in known]:
        raise UserError(
            f"--lists: no sample_lists/train_{missing[0]}.csv; there are: {', '.join(sorted(known)) or 'none'}"
        )
    lists = []
    for file, found in named:
        if not config.lists or found["task"] in config.lists:
            lists.append(SampleList(found["part"], found["task"], _samples(file)))
    return lists


def _samples(file: Path) -> pd.DataFrame:
    table = read_texts(file, COLUMNS)
    about = table.rename(columns={"recording": "session", "start_time": "start", "end_time": "end"})
    about = about[["index", "session", "start", "end"]]
    try:
        about = about.assign(start=about["start"].astype(float), end=about["end"].astype(float))
    except ValueError as error:
        raise UserError(f"{file}: start_time and end_time must be seconds: {error}") from None
    if set(OF_EACH_SEAT) <= set(table):
        seats = [about.assign(seat=s, label=table[c]) for s, c in zip(SEATS, OF_EACH_SEAT, strict=True)]
        return pd.concat(seats, ignore_index=True)
    if "subject" in table:
        return about.assign(seat=table["subject"], label=table.get("label", ""))
    if not any(str(name).startswith("label") for name in table):  # the test part of next speaker names windows alone
        return pd.concat([about.assign(seat=seat, label="") for seat in SEATS], ignore_index=True)
    raise UserError(
        f"{file}: neither a column 'subject' nor label_1 to label_4; there are {', '.join(map(str, table))}"
    )


def parts_of(lists: Sequence[SampleList]) -> dict[str, str]:
    """session -> the part that it belongs to. Raises UserError where lists contradict one another."""
    found: dict[str, tuple[str, str]] = {}
    for one in lists:
        for session in one.samples["session"].unique():
            part, task = found.setdefault(session, (one.part, one.task))
            if part != one.part:
                raise UserError(
                    f"{session} is in {part} for {task} and in {one.part} for {one.task}: read one task at a time, --lists [{task}]"
                )
    return {session: part for session, (part, _) in found.items()}


def sample_labels(lists: Sequence[SampleList], recording_of: dict[tuple[str, Window], str]) -> pd.DataFrame:
    """A row a person of a sample: recording, participant, start, end, a column a task; then split, index, seat.

    A sample whose recording is not there is not in it. An empty seat has its row, for the official figure pools it.
    """
    parts = []
    for one in lists:
        there = one.samples[[key in recording_of for key in _keys(one.samples)]]
        table = pd.DataFrame({"recording": [recording_of[key] for key in _keys(there)]})
        table["participant"] = (there["session"] + "." + there["seat"]).to_numpy()
        table[["start", "end"]] = there[["start", "end"]].to_numpy()
        table[one.task] = _values(there["label"]).to_numpy()
        parts.append(
            table.assign(split=SPLITS[one.part], index=there["index"].to_numpy(), seat=there["seat"].to_numpy())
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _keys(samples: pd.DataFrame) -> list[tuple[str, Window]]:
    return [(s, (start, end)) for s, start, end in samples[["session", "start", "end"]].itertuples(index=False)]


def _values(labels: pd.Series) -> pd.Series:
    """Classes as the text that stands there; an amount (agreement) as a number; None where nothing stands."""
    filled = labels[labels != ""]
    numbers = pd.to_numeric(filled, errors="coerce")
    if len(filled) and numbers.notna().all() and (numbers != numbers.round()).any():
        return pd.to_numeric(labels, errors="coerce")
    return labels.mask(labels == "")
