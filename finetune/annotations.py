"""Text exports of ELAN and BORIS as annotations: who, what, from when to when.

ELAN (File > Export As > Tab-delimited Text): with or without column headers; times as hh:mm:ss.ms, ss.msec or msec, in one or
several of these forms; participant, duration and file name where they were asked for; a row an annotation, or a column for each
tier. BORIS (Observations > Export events, tabular, or aggregated events): of old versions with lines about the observation above
the table, and of new ones. Told apart by what stands in the file, not by its name.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd

from configs import UserError

CLOCK = re.compile(r"-?\d+:\d{2}:\d{2}([.,]\d+)?")  # hh:mm:ss.ms
NUMBER = re.compile(r"-?\d+([.,]\d+)?")
FRAMES = re.compile(r"\d+:\d{2}:\d{2}:\d{2}")  # hh:mm:ss:frame, in frames that the export does not tell
FORMS = ("ss.msec", "msec", "hh:mm:ss.ms")  # of ELAN's times, the handiest first
NOBODY = {"", "No focal subject"}
ANNOTATION = ["recording", "file", "participant", "name", "start", "end", "value"]


@dataclass(frozen=True)
class AnnotationFile:
    """rows: a row an annotation; recording, file (the coded file without suffix, or ""), participant ("" = nobody), name (of the
    tier or behaviour), start, end (seconds; equal for a moment), value (what is written there). unit: what a name names."""

    rows: pd.DataFrame
    unit: str

    @property
    def names(self) -> list[str]:
        return sorted(set(self.rows["name"]))

    @property
    def coded(self) -> pd.DataFrame:
        """The recordings and participants that the file speaks of: columns recording, file, participant."""
        return self.rows[["recording", "file", "participant"]].drop_duplicates()

    def of(self, name: str) -> pd.DataFrame | None:
        """The annotations of a tier or behaviour; ``gesture`` is also what ELAN's tiers gesture@anna, gesture@ben hold."""
        rows = self.rows[self.rows["name"] == name]
        if self.unit == "tier" and rows.empty:
            rows = self.rows[self.rows["name"].str.startswith(f"{name}@")]
            named = rows["name"].map(lambda tier: tier.partition("@")[2])
            rows = rows.assign(participant=rows["participant"].where(rows["participant"] != "", named))
        return None if rows.empty else rows


def read_annotations(path: Path) -> AnnotationFile | None:
    """The annotations of an export, or None where the file is none. Raises UserError where it cannot be understood."""
    text = _text(path)
    if "recording" in _cells(text[:1])[0]:
        return None
    lines = _cells(text)
    for number, line in enumerate(lines[:100]):
        if "Behavior" in line and ("Subject" in line or "Observation id" in line):
            return AnnotationFile(_boris(path, lines[:number], _table(path, line, lines[number + 1 :])), "behaviour")
        if any(cell.startswith("Begin Time") for cell in line):
            return AnnotationFile(_elan(path, _table(path, line, lines[number + 1 :])), "tier")
    rows = [line for line in lines if any(line)]
    if rows and all(len(line) > 3 and sum(map(_is_time, line)) > 1 for line in rows[:10]):
        return AnnotationFile(_elan(path, _with_header(path, rows)), "tier")
    return None


def _text(path: Path) -> list[str]:
    """The file's lines, at least one; comments (#) are left out."""
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line for line in text.splitlines() if not line.lstrip('"').startswith("#")] or [""]


def _cells(lines: list[str]) -> list[list[str]]:
    """Lines cut at tabs where the first ones hold some, else at semicolons or commas."""
    head = [line for line in lines[:100] if line]
    tabs = all("\t" in line for line in head)
    delimiter = "\t" if tabs else max(",;", key=lambda character: sum(line.count(character) for line in head))
    return [[cell.strip() for cell in line] for line in csv.reader(lines, delimiter=delimiter)]


def _table(path: Path, header: list[str], lines: list[list[str]]) -> pd.DataFrame:
    """Cells under a header as text; a column without a name gets its number."""
    names = [name or f"column {number}" for number, name in enumerate(header)]
    rows = [line[: len(names)] + [""] * (len(names) - len(line)) for line in lines if any(line)]
    if not rows:
        raise UserError(f"{path}: this export holds no annotation")
    return pd.DataFrame(rows, columns=pd.Index(names), dtype=str)


def seconds(text: str) -> float:
    """ "12.5" or "00:00:12.500" in seconds. Raises ValueError."""
    text = text.replace(",", ".")
    if not CLOCK.fullmatch(text):
        return float(text)
    hours, minutes, rest = text.lstrip("-").split(":")
    return (-1 if text.startswith("-") else 1) * (3600 * int(hours) + 60 * int(minutes) + float(rest))


def _seconds(path: Path, column: pd.Series) -> pd.Series:
    try:
        return column.map(seconds)
    except ValueError as error:
        raise UserError(f"{path}: column {column.name!r} must hold seconds or hh:mm:ss.ms: {error}") from None


def _is_time(cell: str) -> bool:
    return bool(CLOCK.fullmatch(cell) or NUMBER.fullmatch(cell))


def _stem(name: str) -> str:
    """A file's name without folders (of any system) and suffix."""
    return PurePosixPath(PureWindowsPath(name.split(";")[0].removeprefix("file:")).name).stem


def _elan(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """ANNOTATION of a table whose columns have ELAN's names."""
    start, end = _elan_time(path, table, "Begin Time"), _elan_time(path, table, "End Time")
    about = re.compile(r"Begin Time|End Time|Duration|Tier$|Participant|Annotator|File|column \d+$")
    files = next((table[name] for name in ("File", "File Path", "File Name") if name in table), None)
    who = next((table[name] for name in ("Participant", "column 1") if name in table), None)
    common = pd.DataFrame({"start": start, "end": end})
    common["recording"] = path.stem if files is None else files.map(_stem)
    common["file"] = ""
    common["participant"] = "" if who is None else who
    tiers = [name for name in table.columns if not about.match(name)]
    if "Tier" in table:
        value = next((name for name in ("Annotation", "Value") if name in table), tiers[0] if tiers else None)
        return common.assign(name=table["Tier"], value="" if value is None else table[value])[ANNOTATION]
    if not tiers:
        raise UserError(f"{path}: this export of ELAN has neither a column Tier nor a column for each tier")
    parts = [common.assign(name=name, value=table[name])[table[name] != ""] for name in tiers]
    return pd.concat(parts, ignore_index=True)[ANNOTATION]


def _elan_time(path: Path, table: pd.DataFrame, what: str) -> pd.Series:
    """ "Begin Time" or "End Time" in seconds, out of the handiest form that was exported; of an end also begin + duration."""
    for form in FORMS:
        if f"{what} - {form}" in table:
            return _seconds(path, table[f"{what} - {form}"]) / (1000 if form == "msec" else 1)
    if what == "End Time" and any(name.startswith("Duration") for name in table.columns):
        return _elan_time(path, table, "Begin Time") + _elan_time(path, table, "Duration")
    raise UserError(
        f"{path}: no column '{what}' as {', '.join(FORMS[:2])} or {FORMS[2]}: tick one of these when exporting from ELAN"
    )


def _with_header(path: Path, rows: list[list[str]]) -> pd.DataFrame:
    """ELAN's columns by what stands in them: tier, participant or nothing, times, annotation, file where there is one.

    Of times in several forms hh:mm:ss.ms are read; else they are numbers: milliseconds where none has a point.
    """
    width = max(map(len, rows))
    columns = [[line[k] if k < len(line) else "" for line in rows] for k in range(width)]
    clocks = [k for k, column in enumerate(columns) if all(map(CLOCK.fullmatch, column))]
    numbers = [k for k, column in enumerate(columns) if k and all(map(NUMBER.fullmatch, column))]
    times = clocks if len(clocks) > 1 else numbers
    whole = not any("." in cell or "," in cell for k in times[:2] for cell in columns[k])
    form = "hh:mm:ss.ms" if times is clocks else "msec" if whole else "ss.msec"
    if len(times) < 2:
        raise UserError(f"{path}: no begin and end times: tick them, and column headers, when exporting from ELAN")
    begin, end = (np.array([seconds(cell) for cell in columns[k]]) for k in times[:2])
    if (end < begin).any():
        raise UserError(
            f"{path}: the second time is before the first: tick begin and end time when exporting from ELAN"
        )
    told = [factor * time for time in (begin, end, end - begin) for factor in (1, 1000)]

    def is_told(cells: list[str]) -> bool:
        if all(map(FRAMES.fullmatch, cells)):
            return True
        return all(map(_is_time, cells)) and any(np.allclose(list(map(seconds, cells)), t, atol=0.002) for t in told)

    rest = [k for k in range(times[0], width) if any(columns[k]) and not is_told(columns[k])]
    files = [k for k in rest if all(cell.lower().endswith((".eaf", ".etf")) for cell in columns[k])]
    value = next((k for k in rest if k not in files), None)
    named = {"Tier": 0, f"Begin Time - {form}": times[0], f"End Time - {form}": times[1]}
    named |= {"Participant": 1} if times[0] > 1 and 1 not in numbers + clocks else {}
    named |= {} if value is None else {"Annotation": value}
    named |= {"File": files[0]} if files else {}
    return pd.DataFrame({name: columns[k] for name, k in named.items()})


def _boris(path: Path, above: list[list[str]], table: pd.DataFrame) -> pd.DataFrame:
    """ANNOTATION of BORIS's events, tabular (START, STOP, POINT) or aggregated (from, to)."""
    media = next(
        (name for name in ("Media file name", "Media file path", "Media file", "Source") if name in table), None
    )
    rows = pd.DataFrame({"participant": table.get("Subject", "")}, index=table.index)
    rows["participant"] = rows["participant"].map(lambda name: "" if name in NOBODY else name)
    rows["name"], rows["value"] = table["Behavior"], ""
    rows["file"] = "" if media is None else table[media].map(_stem)
    observation = next((line[1] for line in above if len(line) > 1 and line[0] == "Observation id"), path.stem)
    rows["recording"] = table.get("Observation id", observation)
    rows["file"] = rows["file"].where(rows.groupby("recording")["file"].transform("nunique") == 1, "")
    if {"Start (s)", "Stop (s)"} <= set(table.columns):
        start, stop = table["Start (s)"], table["Stop (s)"]
        rows["start"], rows["end"] = _seconds(path, start), _seconds(path, stop.where(~stop.isin(["", "NA"]), start))
        return rows[ANNOTATION]
    state = next((name for name in ("Behavior type", "Status", "Type") if name in table), None)
    time = next((name for name in ("Time", "Time (s)") if name in table), None)
    if state is None or time is None:
        raise UserError(
            f"{path}: this export of BORIS has no columns Time and Behavior type, nor Start (s) and Stop (s)"
        )
    return _paired(path, rows.assign(start=_seconds(path, table[time]), state=table[state].str.upper()))


def _paired(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Tabular events -> one row from each START to the STOP that follows it."""
    found = []
    who = ["recording", "participant", "name"]
    for (recording, participant, name), events in rows.sort_values("start", kind="stable").groupby(who, sort=False):
        whose = f" of {participant}" if participant else ""
        begun = None
        for event in events.to_dict("records"):
            if event["state"] in {"POINT", "POINT EVENT"}:
                found.append(event | {"end": event["start"]})
            elif begun is None and event["state"] == "START":
                begun = event
            elif begun is not None and event["state"] == "STOP":
                found.append(begun | {"end": event["start"]})
                begun = None
            else:
                raise UserError(
                    f"{path}: {name!r}{whose} in {recording!r}: {event['state'] or 'an event without START or STOP'} at "
                    f"{event['start']:g} s has no partner: fix unpaired events in BORIS, then export again"
                )
        if begun is not None:
            raise UserError(f"{path}: {name!r}{whose} in {recording!r} starts at {begun['start']:g} s and never stops")
    return pd.DataFrame(found)[ANNOTATION]
