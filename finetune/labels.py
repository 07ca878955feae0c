"""Labels: a table outside the shards, joined to the clips by time.

A label row names a recording, optionally a participant and a stretch of time (``start``, ``end`` in seconds on the
recording's clock), then one column a target; exports of ELAN and BORIS are read as such tables (annotations.py). The
examples that come out are what a head is trained on: a clip, or one participant of it, or a window of time of either.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import UserError
from finetune.annotations import AnnotationFile, read_annotations
from finetune.tasks import SEPARATOR, TaskName
from finetune.windows import windows

SCENE = -1  # "person" of an example that is about the whole clip
COLUMNS = ["recording", "participant", "start", "end", "value", "file", "event"]
YES, NO = "yes", "no"  # classes of a single event


def targets_of(target: str) -> tuple[str, ...]:
    """``--target a,b,c``: several names are the labels of a multi-label task."""
    return tuple(name.strip() for name in target.split(",") if name.strip())


def read_labels(path: Path, target: str, task: TaskName | None = None) -> pd.DataFrame:
    """The rows of a label table, or of an export of ELAN or BORIS, that have a value for the target.

    Columns: recording, participant (str, "" = not named), start, end (seconds, -inf and inf = the whole recording; an empty
    end where a start is given = until the recording's next row), value (of several targets: the names of those that hold,
    "a;b"), file (another name that the data may have for the recording, or ""), event (whether the value holds for a stretch
    of time as soon as it occurs in it). Raises UserError.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    names = targets_of(target)
    if any(SEPARATOR in name for name in names):
        raise UserError(f"--target {target}: the names of labels must not contain {SEPARATOR!r}")
    several = len(names) > 1 or task == "multi-label"
    if several and task not in {None, "multi-label"}:
        raise UserError(f"--target {target}: several targets are a multi-label task; for {task} give one at a time")
    export = None if path.suffix == ".parquet" else read_annotations(path)
    if export is not None:
        return _of_annotations(path, export, names, several)
    return _of_table(path, read_table(path), names, several)


def _of_table(path: Path, table: pd.DataFrame, names: Sequence[str], several: bool) -> pd.DataFrame:
    """Labels out of a table with a column for each target."""
    for column, what in (("recording", "column"), *((name, "target") for name in names)):
        if column not in table:
            raise UserError(f"{path}: no {what} {column!r}; {_hint(column, table.columns)}")
    blank = table[list(names)].isna()
    if some := int((blank.any(axis=1) & ~blank.all(axis=1)).sum()):
        print(
            f"{path}: {some} rows have a blank among {', '.join(names)} and are left out; write 0 for no",
            file=sys.stderr,
        )
    table = table[~blank.any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path}: target {', '.join(map(repr, names))} has no value in any row")
    for name in names:
        if pd.api.types.is_numeric_dtype(table[name]) and (endless := np.isinf(table[name].astype(float))).any():
            recording = table["recording"][endless].iloc[0]
            raise UserError(f"{path}: {name!r} is infinite in {endless.sum()} rows, the first of {str(recording)!r}")
    labels = pd.DataFrame({"recording": table["recording"].map(name_of)})
    labels["participant"] = table["participant"].map(name_of) if "participant" in table else ""
    for column in ("start", "end"):
        try:
            values = pd.to_numeric(table[column]) if column in table else pd.Series(np.nan, table.index)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: column {column!r} must hold seconds: {error}") from None
        labels[column] = values.astype(float)
    if (backwards := labels["end"] < labels["start"]).any():
        recording, _, start, end = labels.loc[backwards].iloc[0]
        raise UserError(
            f"{path}: {backwards.sum()} rows end before they start, the first in {recording!r}: {start:g} to {end:g} s"
        )
    labels["value"] = _sets(path, table, names) if several else table[names[0]]
    labels = labels.assign(file="", event=several)
    return _close_intervals(labels)


def _sets(path: Path, table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Columns of 0 and 1 -> the names of those that are 1, "a;b"."""
    there = np.zeros((len(table), len(names)), bool)
    for number, name in enumerate(names):
        values = table[name].map(lambda value: str(value).strip().lower())
        known = values.isin(["0", "1", "0.0", "1.0", "false", "true"])
        if not known.all():
            wrong = table[name][~known].iloc[0]
            raise UserError(
                f"{path}: a multi-label task needs 0 and 1 in each of its columns; {name!r} holds {str(wrong)!r}"
            )
        there[:, number] = values.isin(["1", "1.0", "true"])
    return [SEPARATOR.join(name for name, on in zip(names, row, strict=True) if on) for row in there]


def _of_annotations(path: Path, export: AnnotationFile, names: Sequence[str], several: bool) -> pd.DataFrame:
    """Labels out of an export. One tier with several values holds classes (or numbers), and time without annotation has no
    label; otherwise annotations say when something occurs, and all the rest of a recording that was coded does not have it."""
    parts = []
    for name in names:
        part = export.of(name)
        if part is None:
            raise UserError(f"{path}: no {export.unit} {name!r}; {_hint(name, export.names)}")
        parts.append(part.assign(name=name))
    found = pd.concat(parts, ignore_index=True)
    if not several and found["value"].nunique() > 1:
        labels = found[found["value"] != ""].assign(event=False)
        numbers = pd.to_numeric(labels["value"], errors="coerce")
        labels["value"] = labels["value"] if numbers.isna().any() else numbers
        return labels[COLUMNS].reset_index(drop=True)
    named = found["participant"] != ""
    if named.any() and not named.all():
        raise UserError(
            f"{path}: {(~named).sum()} of {len(found)} annotations of {', '.join(names)} name no participant, the others do"
        )
    coded = export.coded[(export.coded["participant"] != "") == bool(named.any())]
    found["value"] = found["name"] if several else YES
    absent = coded.assign(start=-np.inf, end=np.inf, value="" if several else NO)
    return pd.concat([found, absent], ignore_index=True).assign(event=True)[COLUMNS]


def _hint(name: str, known: Sequence[object] | pd.Index) -> str:
    near = difflib.get_close_matches(name, map(str, known), 1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(map(str, known))}"


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet file; recording and participant are text. Semicolons go with decimal commas. Raises UserError."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = "\t" if "\t" in header else ";" if ";" in header and "," not in header else ","
        return pd.read_csv(
            path,
            sep=separator,
            decimal="," if separator == ";" else ".",
            dtype={"recording": str, "participant": str},
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable table: {' '.join(str(error).split())}") from None


def name_of(value: object) -> str:
    """Names are text: 007 stays 007. Empty where there is none."""
    return "" if value is None or value != value else str(value).strip()


def _close_intervals(labels: pd.DataFrame) -> pd.DataFrame:
    """Open ends: a row without start holds from the beginning, one without end until the next row (a row a frame)."""
    open_end = labels["end"].isna() & labels["start"].notna()
    about = ["recording", "participant", "start"]
    times = labels.loc[labels["start"].notna(), about].drop_duplicates().sort_values("start")  # of two raters one
    times["following"] = times.groupby(about[:2], sort=False)["start"].shift(-1)
    following = labels[about].merge(times, how="left", on=about)["following"].set_axis(labels.index)
    labels["end"] = labels["end"].where(~open_end, following).fillna(np.inf)
    labels["start"] = labels["start"].fillna(-np.inf)
    return labels


def infer_task(values: pd.Series) -> TaskName:
    """Numbers with fractions, or of more than 10 different values, are a regression, everything else a classification."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return "classification"
    whole = (values.dropna() == values.dropna().round()).all()
    return "classification" if whole and values.nunique() <= 10 else "regression"


def class_names(values: pd.Series) -> pd.Series:
    """Class labels as text; whole numbers that a gap in the column turned into 1.0, 2.0 are 1, 2 again."""
    if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
        values = values.astype("int64")
    return values.astype(str)


def join(
    labels: pd.DataFrame,
    index: pd.DataFrame,
    task: TaskName,
    people: Sequence[dict[str, int]],
    window_seconds: float | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Gives every clip, or every window of it, the labels that overlap it in time.

    labels: of read_labels. index: a row a clip (recording, start, end, ...). people: per clip, participant -> person.
    Several rows over one clip: the value that covers most of it (classification, ordinal), the mean weighted by overlap
    (regression), if they cover half of the clip or one lies in it by half; an event (every label of a multi-label task) holds
    where it covers half of the clip or half of it lies in the clip. Returns the examples and lines of warning. Examples: row
    (position in index), person (-1 = the whole clip),
    participant, recording, start, end, value. Raises UserError where nothing matches.
    """
    labels = labels.copy()
    if task in {"regression", "ordinal"} and not pd.api.types.is_numeric_dtype(labels["value"]):
        raise UserError(f"task {task} needs numbers; the target holds {labels['value'].iloc[0]!r}")
    if task in {"classification", "ordinal"}:
        labels["value"] = class_names(labels["value"])
    recordings = index["recording"].astype(str)
    warnings = _unmatched(labels, recordings)
    clips = dict(tuple(index.assign(row=np.arange(len(index))).groupby(recordings, sort=False)))
    examples = []
    for recording, of_recording in labels[labels["recording"].isin(clips)].groupby("recording", sort=False):
        alone = of_recording["participant"].nunique() == 1
        for participant, rows in of_recording.groupby("participant", sort=False):
            for row, clip_start, clip_end in clips[str(recording)][["row", "start", "end"]].itertuples(index=False):
                person = people[row].get(str(participant), SCENE)
                if participant and person == SCENE and not alone:
                    continue  # nothing says which of the people this label is about
                near = rows[(rows["end"] >= clip_start) & (rows["start"] < clip_end)]  # of frames there are many
                for start, end in windows(clip_start, clip_end, window_seconds):
                    value = _value_over(near, start, end, task)
                    if value is not None:
                        examples.append((row, person, participant, recording, start, end, value))
    if not examples:
        raise UserError(
            "no label overlaps a clip: are start and end seconds on the recording's clock, and do the shards name the "
            "participants (manifest column participants) where several people of a recording are labelled?"
        )
    columns = ["row", "person", "participant", "recording", "start", "end", "value"]
    joined = pd.DataFrame(examples, columns=columns).sort_values(["row", "person"], kind="stable", ignore_index=True)
    missing = {str(r) for r in labels["recording"]} & set(recordings) - set(joined["recording"])
    if missing:
        warnings.append(f"{_some(missing, 'recordings')}: labelled, but no label could be given to a clip or a person")
    return joined, warnings


def called_as_in(labels: pd.DataFrame, recordings: pd.Series) -> pd.DataFrame:
    """Labels whose recordings have the coder's own names, or those of the coded files, whichever the data have more of."""
    own, file = (labels[column].isin(recordings).sum() for column in ("recording", "file"))
    return labels.assign(recording=labels["file"]) if file > own else labels


def _unmatched(labels: pd.DataFrame, recordings: pd.Series) -> list[str]:
    """Lines about labelled recordings that the data lack. Raises UserError if that is all of them."""
    known = set(recordings)
    missing = sorted(set(labels["recording"]) - known)
    if len(missing) == labels["recording"].nunique():
        near = difflib.get_close_matches(missing[0], sorted(known), 1, cutoff=0.3) or sorted(known)[:1]
        raise UserError(
            f"none of the {len(missing)} labelled recordings is in the data: "
            f"the labels say {missing[0]!r}, the data say {near[0]!r}"
        )
    return [f"{_some(missing, 'recordings')}: labelled, but not in the data; ignored"] if missing else []


def _some(names: set[str] | list[str], what: str) -> str:
    names = sorted(names)
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _value_over(rows: pd.DataFrame, start: float, end: float, task: TaskName) -> str | float | None:
    """The label of [start, end); None where rows cover less than half of it and none of them lies in it by half."""
    starts, ends = rows["start"].to_numpy(), rows["end"].to_numpy()
    overlap = np.minimum(ends, end) - np.maximum(starts, start)
    inside = (overlap > 0) | ((starts == ends) & (starts >= start) & (starts < end))
    if not inside.any():
        return None
    values, weights = rows["value"].to_numpy()[inside], overlap[inside]
    holds = weights >= np.minimum(ends - starts, end - start)[inside] / 2
    if not rows["event"].iloc[0] and not holds.any() and weights.sum() < (end - start) / 2:
        return None  # the end of the label of what comes before
    if rows["event"].iloc[0]:
        occurring = sorted({name for value in values[holds] for name in value.split(SEPARATOR) if name})
        return SEPARATOR.join(occurring) if task == "multi-label" else YES if YES in occurring else NO
    if task == "regression":
        moments = not weights.any()  # they last no time: each counts the same
        return float(np.average(values.astype(float), weights=None if moments else weights))
    if len(values) == 1:
        return values[0]
    names, which = np.unique(values.astype(str), return_inverse=True)
    return str(names[np.argmax(np.bincount(which, weights))])


def people_of(meta: Mapping[str, Any]) -> dict[str, int]:
    """participant -> person id of a clip, out of its meta.json; people whom nobody named are not in it."""
    known: dict[str, int] = {}
    for entry in meta["people"]:
        if entry["participant"] is not None:
            known.setdefault(str(entry["participant"]), int(entry["id"]))
    return known
