"""Labels: a table outside the shards, joined to the clips by time.

A label row names a recording, optionally a participant and a stretch of time (``start``, ``end`` in seconds on the
recording's clock), then one column a target. The examples that come out are what a head is trained on: a clip, or one
participant of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from configs import UserError

SCENE = -1  # "person" of an example that is about the whole clip
TaskName = Literal["classification", "regression"]


def read_labels(path: Path, target: str) -> pd.DataFrame:
    """The rows of a label table that have a value for the target.

    Columns: recording, participant (str, "" = not named), start, end (seconds, -inf and inf = the whole recording;
    an empty end where a start is given = until the recording's next row), value. Raises UserError.
    """
    table = _read_table(path)
    for column, what in (("recording", "column"), (target, "target")):
        if column not in table:
            near = difflib.get_close_matches(column, map(str, table.columns), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(map(str, table.columns))}"
            raise UserError(f"{path}: no {what} {column!r}; {hint}")
    table = table[table[target].notna()].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path}: target {target!r} has no value in any row")
    labels = pd.DataFrame({"recording": table["recording"].map(_name)})
    labels["participant"] = table["participant"].map(_name) if "participant" in table else ""
    for column in ("start", "end"):
        try:
            values = pd.to_numeric(table[column]) if column in table else pd.Series(np.nan, table.index)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: column {column!r} must hold seconds: {error}") from None
        labels[column] = values.astype(float)
    labels["value"] = table[target]
    return _close_intervals(labels)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={"recording": str, "participant": str}, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable table: {' '.join(str(error).split())}") from None


def _name(value: object) -> str:
    """Names are text: 007 stays 007. Empty where there is none."""
    return "" if value is None or value != value else str(value).strip()


def _close_intervals(labels: pd.DataFrame) -> pd.DataFrame:
    """Open ends: a row without start holds from the beginning, one without end until the next row (a row a frame)."""
    open_end = labels["end"].isna() & labels["start"].notna()
    labels = labels.sort_values("start", kind="stable", na_position="first")
    following = labels.groupby(["recording", "participant"], sort=False)["start"].shift(-1)
    labels["end"] = labels["end"].where(~open_end, following).fillna(np.inf)
    labels["start"] = labels["start"].fillna(-np.inf)
    return labels.sort_index()


def infer_task(values: pd.Series) -> TaskName:
    """Numbers of more than 10 different values are a regression, everything else a classification."""
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return "regression" if numeric and values.nunique() > 10 else "classification"


def class_names(values: pd.Series) -> pd.Series:
    """Class labels as text; whole numbers that a gap in the column turned into 1.0, 2.0 are 1, 2 again."""
    if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
        values = values.astype("int64")
    return values.astype(str)


def join(
    labels: pd.DataFrame, index: pd.DataFrame, task: TaskName, people: Sequence[dict[str, int]]
) -> tuple[pd.DataFrame, list[str]]:
    """Gives every clip the labels that overlap it in time.

    labels: of read_labels. index: a row a clip (recording, start, end, ...). people: per clip, participant -> person.
    Several rows over one clip: the value that covers most of it (classification), the mean weighted by overlap
    (regression). Returns the examples and lines of warning. Examples: row (position in index), person (-1 = the whole
    clip), participant, recording, start, end, value. Raises UserError where nothing matches.
    """
    labels = labels.copy()
    if task == "classification":
        labels["value"] = class_names(labels["value"])
    elif not pd.api.types.is_numeric_dtype(labels["value"]):
        raise UserError(f"task regression needs numbers; the target holds {labels['value'].iloc[0]!r}")
    recordings = index["recording"].astype(str)
    warnings = _unmatched(labels, recordings)
    clips = dict(tuple(index.assign(row=np.arange(len(index))).groupby(recordings, sort=False)))
    examples = []
    for recording, of_recording in labels[labels["recording"].isin(clips)].groupby("recording", sort=False):
        alone = of_recording["participant"].nunique() == 1
        for participant, rows in of_recording.groupby("participant", sort=False):
            for row, start, end in clips[str(recording)][["row", "start", "end"]].itertuples(index=False):
                value = _value_over(rows, start, end, task)
                if value is None:
                    continue
                person = people[row].get(str(participant), SCENE)
                if participant and person == SCENE and not alone:
                    continue  # nothing says which of the people this label is about
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
    """The label of [start, end), or None where no row overlaps it."""
    overlap = np.minimum(rows["end"].to_numpy(), end) - np.maximum(rows["start"].to_numpy(), start)
    inside = overlap > 0
    if not inside.any():
        return None
    values, weights = rows["value"].to_numpy()[inside], overlap[inside]
    if task == "regression":
        return float(np.average(values.astype(float), weights=weights))
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
