"""A manifest that was made from what lies in folders: shown as it was understood, then written."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
from rich.console import Console
from rich.progress import track
from rich.table import Table

from configs import UserError
from data_prep.costs import estimate
from data_prep.manifest import COLUMNS, MEDIA, Recording, read_manifest

SHOWN = 20
"""How many recordings and how many files of a kind are listed."""


@dataclass
class Draft:
    """Rows of a manifest, and what else there is to say, each with the files that it is about."""

    rows: list[dict[str, str]]
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def remark(self, about: str, name: str) -> None:
        """Notes something about a file."""
        self.remarks.setdefault(about, []).append(name)


class Look(NamedTuple):
    """What the header of a file says: seconds, 0 where it does not say."""

    seconds: float
    video: bool
    sound: bool


def files_below(root: Path) -> list[Path]:
    """The files below a folder, sorted; hidden ones are none. Raises UserError where there is no folder."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    return [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]


def is_media(file: Path) -> bool:
    """Whether a file's name ends as one of pictures or sound does."""
    return file.suffix.lower() in MEDIA


@cache
def look(path: Path) -> Look | None:
    """What the header of a file says; None where FFmpeg cannot open it."""
    try:
        with av.open(str(path)) as container:
            seconds = (container.duration or 0) / av.time_base
            return Look(seconds, bool(container.streams.video), bool(container.streams.audio))
    except (av.FFmpegError, OSError):
        return None


def path_in(manifest: Path, file: Path) -> str:
    """A file as the manifest names it: relative to the manifest's folder where it lies below it."""
    folder = manifest.absolute().parent
    file = file.absolute()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def publish(draft: Draft, out: Path) -> int:
    """Shows a draft and writes it; returns 0, or 3 where data_prep build could not use all of it. Raises UserError."""
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: the manifest is a CSV file, so its name ends in .csv")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    temporary = out.with_name(f".{out.stem}.tmp.csv")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, draft.rows)
        if out.exists() and out.read_bytes() != temporary.read_bytes():
            raise UserError(f"{out}: is there and says something else; remove it, or name another --out")
        recordings, failures = read_manifest(temporary)  # the build's own reader: what it would object to is said now
        paths = [source.path for recording in recordings for view in recording.views for source in view.sources]
        waiting = track(paths, "reading headers", console=Console(stderr=True), transient=True)
        looks = {path: look(path) for path in waiting}
        _show(console, recordings, looks)
        for reason, names in draft.remarks.items():
            _list(console, reason, names)
        _list(console, "cannot be opened", [str(path) for path, seen in looks.items() if seen is None])
        _list(console, "rows that make no sense", [f"{f.recording} {f.path}: {f.reason}; {f.remedy}" for f in failures])
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
    console.print(f"{out}: {len(draft.rows)} files of {len(recordings)} recordings")
    return 3 if failures or None in looks.values() else 0


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    names = {name for row in rows for name in row if row[name]}
    columns = [name for name in COLUMNS if name in names] + sorted(names - set(COLUMNS))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def _show(console: Console, recordings: list[Recording], looks: dict[Path, Look | None]) -> None:
    """The table of what was understood, how long it is and what it will cost."""
    table = Table("recording", "split", "views", "participants", "length", box=None, header_style="bold")
    video = sound = whole = 0.0
    for number, recording in enumerate(recordings):
        views, longest = [], 0.0
        for view in recording.views:
            seen = [found for source in view.sources if (found := looks[source.path])]
            seconds = sum(found.seconds for found in seen)
            video += sum(found.seconds for found in seen if found.video)
            sound += sum(found.seconds for found in seen if found.sound)
            longest = max(longest, seconds)
            views.append(view.name + (f" ({len(view.sources)} parts)" if len(view.sources) > 1 else ""))
        whole += longest
        if number < SHOWN:
            people = ", ".join(recording.participants)
            table.add_row(recording.name, recording.split or "", ", ".join(views), people, _clock(longest))
    if len(recordings) > SHOWN:
        table.add_row(f"... and {len(recordings) - SHOWN} more")
    console.print(table)
    cost = estimate(video / 3600, sound / 3600)
    console.print(
        f"\n{whole / 3600:.2f} hours of recordings by the files' headers: {video / 3600:.2f} hours of pictures, "
        f"{sound / 3600:.2f} hours of sound over all views"
    )
    console.print(
        f"data_prep build at its default settings: about {cost.gigabytes:.2g} GB and {cost.core_hours:.2g} core-hours"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _list(console: Console, reason: str, names: Iterable[str]) -> None:
    names = list(names)
    if names:
        more = f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        console.print(f"{len(names)} {reason}: {', '.join(names[:SHOWN])}{more}")
