"""``kinesic data_prep manifest udiva ROOT OUT.csv``: UDIVA v0.5 (ChaLearn) as it is unpacked -> manifest, labels, streams.

A task of a session (002003, talk) is a recording, 002003_talk; its two frontal cameras FC1 and FC2 are views. FC1 films PART.1, FC2
films PART.2: who that is says sessions_<split>.csv; a person's traits stand in parts_<split>.csv, looked up by ID, row order never
matters. Folders above <recording>/FC1_T.mp4 differ from copy to copy, so that files are known by their own names. All ids are text.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from configs import UserError
from data_prep.data_sets.config import ManifestUdivaConfig
from data_prep.data_sets.tables import write_labels
from data_prep.data_sets.udiva_streams import Filmed, write_streams
from data_prep.draft import Draft, files_below, is_media, look, path_in, publish

TASKS = {"T": "talk", "L": "lego", "G": "ghost", "A": "animals"}
PARTS = {"FC1": "PART.1", "FC2": "PART.2"}
TRAITS = (
    "OPENMINDEDNESS_Z",
    "CONSCIENTIOUSNESS_Z",
    "EXTRAVERSION_Z",
    "AGREEABLENESS_Z",
    "NEGATIVEEMOTIONALITY_Z",
)
VIDEO = re.compile(r"(?P<view>FC[12])_(?P<letter>[TLGA])")
SPLIT = re.compile(r"(?:.*_)?(train|val|test)(?:_img|_wav)?")
OF_PERSON = re.compile(r"(?P<name>.+?)[_.]PART\.(?P<part>[12])")
"""A column of the sessions that is about one of the two: FATIGUE_BEFORE_PART.1"""
ABOUT = ("GENDER", "AGE", "COUNTRY")  # of parts_<split>.csv, for the metadata baseline; never a trait

Row = dict[str, str]


@dataclass
class Corpus:
    """The tables. sessions: recording id -> row; splits: recording id -> split; people: participant id -> row, without val's and
    test's labels where these are masked; limits: recording id -> task -> [[start, end], ...] in seconds."""

    sessions: dict[str, Row] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    people: dict[str, Row] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)


def udiva(config: ManifestUdivaConfig) -> int:
    """Runs the command; returns the exit code. Raises UserError where there is no video of UDIVA."""
    files = files_below(config.root)
    draft = Draft([])
    corpus = read_corpus(files, config.masked_labels, draft)
    videos = find_videos(config.root, files, draft)
    if not videos:
        raise UserError(f"{config.root}: no video of UDIVA in it, such as 002003/FC1_T.mp4")
    filmed = []
    for (session, letter, view), file in videos.items():
        row = _find(corpus.sessions, session, "recordings", draft) or {}
        person = _person(corpus, row, view, draft)
        named = {
            "path": path_in(config.out, file),
            "recording": f"{session}_{TASKS[letter]}",
            "view": view,
            "offset": _offset(file, config.synchronised, draft),
            "participants": person,
            "split": _find(corpus.splits, session, "recordings", draft) or _split_of(config.root, file),
            "x.task": TASKS[letter],
            **_extra(row, view, _find(corpus.people, person, "participants", draft) or {}),
        }
        draft.rows += [{**named, **window} for window in _windows(corpus, session, letter, draft)]
        filmed.append(Filmed(f"{session}_{TASKS[letter]}", session, letter, view, person, file))
        if not row:
            draft.remark("recordings are in no sessions_<split>.csv: without participants and labels", session)
    code = publish(draft, config.out)
    if config.labels is not None:
        write_labels(config.labels, label_table(corpus, draft.rows))
    if config.streams is not None:
        write_streams(config.streams, files, filmed, config.synchronised)
    return code


def find_videos(root: Path, files: Iterable[Path], draft: Draft) -> dict[tuple[str, str, str], Path]:
    """(recording id, letter of the task, view) -> <recording id>/FC1_T.mp4, in order."""
    found: dict[tuple[str, str, str], Path] = {}
    for file in files:
        named = VIDEO.fullmatch(file.stem)
        if named is None or file.suffix.lower() != ".mp4":
            if is_media(file):
                draft.remark("media files are no frontal camera's video", file.relative_to(root).as_posix())
            continue
        key = (file.parent.name, named["letter"], named["view"])
        if found.setdefault(key, file) != file:
            draft.remark("videos are there twice; the first is taken", file.relative_to(root).as_posix())
    return dict(sorted(found.items()))


def read_corpus(files: Iterable[Path], masked_labels: bool, draft: Draft) -> Corpus:
    """All sessions, parts and limits. Raises UserError for a table that cannot be read, or a recording in two splits."""
    corpus = Corpus()
    labelled: dict[str, bool] = {}
    for file in files:
        if found := re.fullmatch(r"sessions_(train|val|test)\.csv", file.name):
            for row in _table(file, ("ID", *PARTS.values())):
                if corpus.splits.setdefault(row["ID"], found[1]) != found[1]:
                    raise UserError(f"{file}: recording {row['ID']} is in split {corpus.splits[row['ID']]} as well")
                corpus.sessions[row["ID"]] = row
        elif found := re.fullmatch(r"parts_(train|val|test)(_unmasked)?\.csv", file.name):
            true = found[1] == "train" or found[2] is not None or masked_labels
            labelled[found[1]] = labelled.get(found[1], False) or true
            for row in _table(file, ("ID", *TRAITS) if true else ("ID",)):
                kept = row if true else {name: text for name, text in row.items() if name not in TRAITS}
                known = corpus.people.get(row["ID"], {})
                corpus.people[row["ID"]] = kept | known if found[2] is None else known | kept
        elif file.name == "task_limits.json":
            corpus.limits |= _limits(file)
    for split in sorted(split for split, true in labelled.items() if not true):
        draft.remark("splits have no labels, as parts_<split>_unmasked.csv is missing (--masked_labels true)", split)
    return corpus


def _table(file: Path, needed: Iterable[str]) -> list[Row]:
    """The rows of a CSV file, all text. Raises UserError."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            rows = [{str(k): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(handle)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({error})") from None
    if missing := [name for name in needed if rows and name not in rows[0]]:
        raise UserError(f"{file}: no column {missing[0]!r}; there are: {', '.join(rows[0])}")
    return rows


def _limits(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected {{recording: {{task: [[start, end], ...]}}}}")
    return found


def _key(table: Mapping[str, Any], name: str, what: str, draft: Draft) -> str:
    """How a table calls an id. Where one has lost leading zeros, as a spreadsheet loses them, by the number; and says so."""
    if name in table or not name.isdecimal():
        return name
    alike = [other for other in table if other.isdecimal() and int(other) == int(name)]
    if len(alike) != 1:
        return name
    about = f"{what} have lost their leading zeros in a table; they are matched by number"
    longer = max(name, alike[0], key=len)
    if longer not in draft.remarks.get(about, ()):
        draft.remark(about, longer)
    return alike[0]


def _find(table: Mapping[str, Any], name: str, what: str, draft: Draft) -> Any:
    """The entry of an id, or None."""
    return table.get(_key(table, name, what, draft))


def _person(corpus: Corpus, session: Row, view: str, draft: Draft) -> str:
    """Who is before a camera, with all zeros that one of the tables has kept; "" where nobody says."""
    name = session.get(PARTS[view], "")
    return max(_key(corpus.people, name, "participants", draft), name, key=len)


def _split_of(root: Path, file: Path) -> str:
    """train, val or test, out of the folders that a video lies in; "" where they do not say."""
    for part in reversed(file.relative_to(root).parts[:-1]):
        if found := SPLIT.fullmatch(part):
            return found[1]
    return ""


def _offset(file: Path, synchronised: bool, draft: Draft) -> str:
    """ "" = measured from the sound, which needs one."""
    seen = look(file)
    if synchronised:
        return "0"
    if seen is not None and not seen.sound:
        draft.remark("videos have no sound to find their offset by; 0 is taken", file.as_posix())
        return "0"
    return ""


def _extra(session: Row, view: str, person: Row) -> Row:
    """What is known of a session and of who is before the camera, as columns x.<name>."""
    found: Row = {}
    for column, text in session.items():
        own = OF_PERSON.fullmatch(column)
        if column in {"ID", *PARTS.values()} or (own and f"PART.{own['part']}" != PARTS[view]):
            continue
        found[f"x.{(own['name'] if own else column).lower()}"] = text
    return found | {f"x.{column.lower()}": person[column] for column in ABOUT if column in person}


def _windows(corpus: Corpus, session: str, letter: str, draft: Draft) -> list[Row]:
    """What to use of a video: the task without what comes before and after it; all of it where no limits are known."""
    tasks = _find(corpus.limits, session, "recordings", draft) or {}
    given = next((tasks[name] for name in (TASKS[letter], letter) if name in tasks), None)
    if given is None:
        if corpus.limits:
            draft.remark("recordings have no entry in task_limits.json; all of them is taken", f"{session} {letter}")
        return [{}]
    try:
        return [{"start": str(float(start)), "end": str(float(end))} for start, end in given]
    except (TypeError, ValueError):
        raise UserError(f"task_limits.json: {session} {TASKS[letter]}: {given!r} is no [[start, end], ...]") from None


def label_table(corpus: Corpus, rows: Iterable[Row]) -> pd.DataFrame:
    """A row a recording and participant: their five traits. Raises UserError where nobody has one."""
    quiet = Draft([])
    found = []
    for recording in dict.fromkeys(row["recording"] for row in rows):
        session = _find(corpus.sessions, recording.rpartition("_")[0], "recordings", quiet) or {}
        for view in PARTS:
            person = _person(corpus, session, view, quiet)
            traits = _find(corpus.people, person, "participants", quiet) or {}
            values = {trait: traits.get(trait, "") for trait in TRAITS}
            if person and any(values.values()):
                found.append({"recording": recording, "participant": person, **values})
    if not found:
        raise UserError("nobody of these recordings has a trait in a parts_<split>.csv: no labels to write")
    table = pd.DataFrame(found)
    try:
        table[[*TRAITS]] = table[[*TRAITS]].replace("", "nan").astype(float)
    except ValueError as error:
        raise UserError(f"parts_<split>.csv: a trait is no number: {error}") from None
    return table
