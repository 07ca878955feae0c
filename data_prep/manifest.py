"""The manifest: which files belong to which recording, view and person.

A CSV or Parquet table with one row a file, or a plain folder whose media files are recordings of their own.
A column that is not known stops the run (a misspelt `ofset` would shift every view of a corpus); a row that makes no
sense costs its recording and becomes a line in failures.csv.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import UserError

COLUMNS = ("path", "recording", "view", "part", "start", "end", "offset", "participants", "region", "split")
MEDIA = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".mts",
        ".m2ts",
        ".ts",
        ".wmv",
        ".flv",
        ".3gp",
        ".ogv",
    }
    | {".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma"}
)

Box = tuple[float, float, float, float]
"""x0 y0 x1 y1 in fractions of the picture."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A line of failures.csv."""

    recording: str
    view: str
    path: str
    start: float | None
    reason: str
    remedy: str


@dataclass(frozen=True)
class Source:
    """A file of a view: ``name`` as written in the manifest, ``offset`` from its clock to the recording's, in seconds."""

    path: Path
    name: str
    offset: float | None


@dataclass(frozen=True)
class Participant:
    """A person of a recording, and where in the picture the seat is."""

    id: str
    seat: Box | None = None


@dataclass(frozen=True)
class Region:
    """A part of a view's picture that becomes a view of its own, cut from the source's resolution: a seat, a face."""

    name: str
    box: Box


@dataclass(frozen=True)
class View:
    """A camera or microphone: one file, or chapter files in their order."""

    name: str
    sources: tuple[Source, ...]
    participants: tuple[Participant, ...]
    regions: tuple[Region, ...] = ()

    def region_view(self, region: Region) -> str:
        """The name of the view that a region becomes."""
        return f"{self.name}_{region.name}"


@dataclass(frozen=True)
class Recording:
    """One event with one clock. ``windows``: (start, end) in seconds of what to use; none = all of it."""

    name: str
    views: tuple[View, ...]
    windows: tuple[tuple[float, float], ...] = ()
    split: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def participants(self) -> list[str]:
        """Ids in the order in which the manifest names them."""
        return list(dict.fromkeys(person.id for view in self.views for person in view.participants))


class RowError(ValueError):
    """A row, or rows together, that make no sense: (view, path, reason, remedy)."""


def member_name(view: str) -> str:
    """A view's name in a shard: WebDataset splits names at dots and lower-cases them."""
    name = re.sub(r"[^a-z0-9_]", "_", view.lower())
    return f"view{name}" if name.startswith("_") else name  # WebDataset writes no member that starts with _


def read_manifest(path: Path, out: Path | None = None) -> tuple[list[Recording], list[Failure]]:
    """The recordings of a manifest or folder in their order, and what is wrong with single rows.

    Files below ``out`` are not looked at when a folder is read. Raises UserError where nothing can be read, a column
    is unknown or no recording is named at all.
    """
    if not path.exists():
        raise UserError(f"{path}: no such manifest or folder")
    if path.is_dir():
        rows = _folder_rows(path, out)
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path)
    elif path.suffix.lower() in {".parquet", ".pq"}:
        rows = _parquet_rows(path)
    else:
        raise UserError(f"{path}: a manifest is a .csv or .parquet file or a folder of media files")
    if not rows:
        raise UserError(f"{path}: no {'media file' if path.is_dir() else 'row'} in it")
    _check_columns(path, rows[0])
    base = path if path.is_dir() else path.parent

    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(_text(row.get("recording")) or _default_recording(row), []).append(row)
    recordings, failures = [], []
    for name, group in grouped.items():
        try:
            recordings.append(_recording(name, group, base))
        except RowError as error:
            view, file, reason, remedy = (text.encode(errors="backslashreplace").decode() for text in error.args)
            name = name.encode(errors="backslashreplace").decode()
            failures.append(Failure(name, view, file, None, reason, remedy))
    return recordings, failures


def _folder_rows(folder: Path, out: Path | None) -> list[Row]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in MEDIA
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not (out and file.resolve().is_relative_to(out.resolve()))
        and not file.is_dir()
    ]
    names = [str(file.relative_to(folder)) for file in files]
    stems = [str(Path(name).with_suffix("")) for name in names]
    # a.mp4 beside a.wav: each is a recording of its own, so both keep their suffix
    return [
        {"path": name, "recording": name if stems.count(stem) > 1 else stem}
        for name, stem in zip(names, stems, strict=True)
    ]


def _csv_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if None in row:
                    raise UserError(f"{path}, line {reader.line_num}: more cells than columns")
                rows.append(dict(row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    return rows


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None


def _check_columns(path: Path, row: Row) -> None:
    for column in row:
        if column not in COLUMNS and not re.fullmatch(r"x\..+", column):
            near = difflib.get_close_matches(column, COLUMNS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COLUMNS)}."
            raise UserError(f"{path}: unknown column {column!r}; {hint} A column of your own is named x.{column}")
    if "path" not in row:
        raise UserError(f"{path}: no column 'path'")


def _text(value: Any) -> str:
    """A cell as text; empty cells of CSV (''), Parquet (None) and pandas (nan) alike are ''."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()


def _is_text(name: str) -> bool:
    """Whether a file's name can be written down; one that is no UTF-8 comes with lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _default_recording(row: Row) -> str:
    path = Path(_text(row["path"]))
    return str(path.relative_to(path.anchor).with_suffix("")) if path.name else ""


def _number(row: Row, column: str) -> float | None:
    text = _text(row.get(column))
    try:
        number = float(text) if text else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise RowError(_text(row.get("view")), _text(row["path"]), f"{column} is {text!r}", "give it in seconds")
    return number


def _participants(rows: Iterable[Row]) -> tuple[Participant, ...]:
    return tuple(Participant(*named) for named in _named_boxes(rows, "participants", "participant", boxless=True))


def _regions(rows: Iterable[Row]) -> tuple[Region, ...]:
    return tuple(Region(name, box) for name, box in _named_boxes(rows, "region", "region", boxless=False) if box)


def _named_boxes(rows: Iterable[Row], column: str, what: str, boxless: bool) -> list[tuple[str, Box | None]]:
    """(name, box) of the cells of a column, name@x0,y0,x1,y1;..., each name once with its last box."""
    named: dict[str, Box | None] = {}
    for row in rows:
        for cell in filter(None, (part.strip() for part in _text(row.get(column)).split(";"))):
            name, at, text = cell.partition("@")
            try:
                numbers = tuple(float(number) for number in text.split(",")) if at else None
            except ValueError:
                numbers = ()
            if not name or not (boxless if numbers is None else _is_box(numbers)):
                form = f"{'id or ' if boxless else ''}{'id' if boxless else 'name'}@x0,y0,x1,y1"
                raise RowError(
                    _text(row.get("view")),
                    _text(row["path"]),
                    f"{what} {cell!r} is not understood",
                    f"write {form} with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1",
                )
            named[name] = numbers  # pyrefly: ignore[unsupported-operation]  (checked by _is_box)
    return list(named.items())


def _is_box(numbers: tuple[float, ...]) -> bool:
    return len(numbers) == 4 and 0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1


def _recording(name: str, rows: list[Row], base: Path) -> Recording:
    for row in rows:
        if not _is_text(_text(row["path"])):
            remedy = "rename the file"
            raise RowError(_text(row.get("view")), _text(row["path"]), "its name is no text in UTF-8", remedy)
        if not _text(row["path"]):
            raise RowError(_text(row.get("view")), "", "a row without a path", "name the file, or take the row out")
    views: dict[str, list[Row]] = {}
    for row in rows:
        views.setdefault(_text(row.get("view")) or "main", []).append(row)
    made = [
        View(view, _sources(view, group, base), _participants(group), _regions(group)) for view, group in views.items()
    ]
    _check_names(made)
    splits = {_text(row.get("split")) for row in rows} - {""}
    if len(splits) > 1:
        raise RowError(
            "", _text(rows[0]["path"]), f"in several splits: {', '.join(sorted(splits))}", "give all its rows one split"
        )
    return Recording(
        name=name,
        views=tuple(made),
        windows=_windows(rows),
        split=splits.pop() if splits else None,
        extra=_extra(views),
    )


def _check_names(views: list[View]) -> None:
    """Raises RowError where two views, or a view and what a region becomes, meet in one name in a shard."""
    taken: dict[str, str] = {}
    for view in views:
        for name in (view.name, *(view.region_view(region) for region in view.regions)):
            if other := taken.get(member_name(name)):
                reason = f"views {other!r} and {name!r} have one name in a shard"
                raise RowError(view.name, "", reason, "rename one of them")
            taken[member_name(name)] = name


def _sources(view: str, rows: list[Row], base: Path) -> tuple[Source, ...]:
    """The files of a view by their part; rows that repeat a file (with another window) count once."""
    by_part: dict[float | None, Source] = {}
    for row in rows:
        name, part = _text(row["path"]), _number(row, "part")
        source = Source(base / name, name, _number(row, "offset"))
        if by_part.setdefault(part, source) != source:
            raise RowError(
                view, name, f"a second file for view {view!r}", "give each file a view, or a part, of its own"
            )
    if len(by_part) > 1 and None in by_part:
        raise RowError(
            view, by_part[None].name, "some files of the view have a part and some have none", "number all parts"
        )
    return tuple(by_part[part] for part in sorted(by_part, key=lambda part: part or 0.0))


def _windows(rows: list[Row]) -> tuple[tuple[float, float], ...]:
    windows = set()
    for row in rows:
        start, end = _number(row, "start"), _number(row, "end")
        if start is None and end is None:
            continue
        start, end = start or 0.0, math.inf if end is None else end
        if start < 0 or end <= start:
            remedy = "start must be 0 or more and end after it, in seconds on the recording's clock"
            raise RowError(_text(row.get("view")), _text(row["path"]), f"start {start:g}, end {end:g}", remedy)
        windows.add((start, end))
    ordered = sorted(windows)
    for before, after in itertools.pairwise(ordered):
        if after[0] < before[1]:
            reason = f"windows {before[0]:g}-{before[1]:g} and {after[0]:g}-{after[1]:g} overlap"
            raise RowError(
                "", _text(rows[0]["path"]), reason, "give windows that do not overlap, the same in all views"
            )
    return tuple(ordered)


def _extra(views: dict[str, list[Row]]) -> dict[str, Any]:
    """Columns x.<name>: the value, or {view: value} where the views of a recording differ."""
    extra: dict[str, Any] = {}
    columns = [column for column in next(iter(views.values()))[0] if column.startswith("x.")]
    for column in columns:
        by_view = {view: rows[0][column] for view, rows in views.items() if _text(rows[0].get(column))}
        values = list(by_view.values())
        if values:
            extra[column.removeprefix("x.")] = values[0] if all(value == values[0] for value in values) else by_view
    return extra
