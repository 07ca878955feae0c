"""``kinesic data_prep report OUT``: one page to look at, what is in a folder of shards.

The page needs nothing else: pictures, style and the two scripts that draw its time lines are in it, and its
Content-Security-Policy lets it load nothing from anywhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from configs import UserError
from data_prep.config import ReportConfig
from data_prep.overlay import PALETTE, colour, stack
from data_prep.report_card import Card, address, card
from data_prep.report_counts import SMALL_FACE, Recording, in_turn, read_recordings
from data_prep.report_timelines import FACE_WIDTH, drawing
from data_prep.shards import read_index, read_sample

if TYPE_CHECKING:
    import pandas

PAGE, SHEET = "report.html", "report_overlay.png"
MOST_SHOWN, SHOWN_EACH = 6, 2  # recordings on the contact sheet, clips of each
MOST_TIMELINES, OPEN = 40, 2  # recordings with a time line; so many are drawn at once, the others when they are opened
MOST_ROWS = 200  # recordings, failures and dropped clips listed


def report(config: ReportConfig) -> None:
    """The command: writes OUT/report.html and OUT/report_overlay.png. Raises UserError where there is nothing to show."""
    index = read_index(config.out)
    if index.empty:
        raise UserError(f"{config.out}: no clip in the index; failures.csv says why")
    recordings = read_recordings(config.out, index)
    turns = [recordings[name] for name in in_turn(index) if recordings[name].read]
    cards = contact_sheet(config.out, index, turns)
    if sheet := [card.frames for card in cards if card.frames is not None]:
        write(config.out / SHEET, _png(stack(sheet)))
    write(config.out / PAGE, page(config.out, index, recordings, turns, cards).encode())
    print(f"{config.out / PAGE}: open it in a browser; the frames of its contact sheet alone are {config.out / SHEET}")


def contact_sheet(folder: Path, index: pandas.DataFrame, turns: list[Recording]) -> list[Card]:
    """Cards of a few clips: of each of the first recordings the one with most faces in its first and in its second half."""
    rows = [-row for recording in turns[:MOST_SHOWN] for _, (_, row) in sorted(recording.best.items())[:SHOWN_EACH]]
    steps = track(rows, "drawing clips", console=Console(stderr=True), transient=True)
    return [card(read_sample(folder, index.iloc[row])) for row in steps]


def page(
    folder: Path,
    index: pandas.DataFrame,
    recordings: dict[str, Recording],
    turns: list[Recording],
    cards: list[Card],
) -> str:
    """The HTML page."""
    seconds = np.asarray(index["end"] - index["start"], np.float64)
    lined = turns[:MOST_TIMELINES]
    return _template().render(
        folder=folder.resolve().name,
        path=folder.resolve() / PAGE,
        totals=totals(index, seconds),
        clips=len(index),
        read=sum(recording.read for recording in recordings.values()),
        cards=cards,
        cards_of=min(len(turns), MOST_SHOWN),
        lined=lined,
        open=OPEN,
        recordings=list(recordings.values())[:MOST_ROWS],
        all_recordings=len(recordings),
        small_faces=[recording for recording in recordings.values() if recording.small_faces],
        streams=stream_counts(index),
        faces=[(str(n), count) for n, count in sorted(sum((r.faces for r in recordings.values()), Counter()).items())],
        histograms=[histogram(*named) for named in _distributions(recordings, seconds)],
        tables=[_table(folder / name) for name in ("failures.csv", "dropped.csv")],
        data=_timelines(lined),
        **_assets(),
    )


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("data_prep", "report_page")
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    names = {"address": address, "colour": colour, "length": _length, "max": max}
    limits = {"MOST_ROWS": MOST_ROWS, "SMALL_FACE": SMALL_FACE}
    return Environment(loader=loader, **settings).get_template("page.html.jinja", globals=names | limits)


def _assets() -> dict[str, Any]:
    """Styles and scripts, and the hashes of the scripts: no other script can run in the page."""
    files = Path(__file__).parent / "report_page"
    scripts = [(files / name).read_text(encoding="utf-8") for name in ("uPlot.iife.min.js", "timelines.js")]
    styles = [(files / name).read_text(encoding="utf-8") for name in ("uPlot.min.css", "page.css")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return {"scripts": scripts, "styles": styles, "allowed": " ".join(f"'sha256-{hashed}'" for hashed in hashes)}


def _timelines(lined: list[Recording]) -> str:
    """The data of timelines.js as JSON that may stand in a page."""
    content = {
        "colours": PALETTE,
        "floors": {FACE_WIDTH: SMALL_FACE},
        "recordings": [drawing(r.name, (r.start, r.end), r.timeline, r.people) for r in lined],
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def totals(index: pandas.DataFrame, seconds: np.ndarray) -> list[tuple[str, str]]:
    """(figure, what it counts) of the whole folder."""
    gigabytes = index["length"].sum() / 1e9
    people = {
        (name, one) for name, all_of_it in zip(index["recording"], index["people"], strict=True) for one in all_of_it
    }
    return [
        (f"{index['recording'].nunique():,}", "recordings"),
        (f"{len(index):,}", "clips"),
        (_length(seconds.sum()), "of clips"),
        (f"{len(people):,}", "people, summed over recordings"),
        (f"{index['shard'].nunique():,}", "shards"),
        (f"{gigabytes:,.1f} GB" if gigabytes >= 2 else f"{1000 * gigabytes:.1f} MB", "in them"),
    ]


def _length(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:,.1f} h"
    )


def stream_counts(index: pandas.DataFrame) -> list[tuple[str, int]]:
    """(stream, clips that hold it in some view), most frequent first."""
    found: Counter[str] = Counter()
    for members in index["members"]:
        found.update({name.split(".")[-2] for name in members if name != "meta.json"})
    return found.most_common()


def _distributions(recordings: dict[str, Recording], seconds: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """(what, unit, values) of all that a histogram is drawn of."""
    numbers: dict[str, list[float]] = {}
    for recording in recordings.values():
        for what, values in recording.numbers.items():
            numbers.setdefault(what, []).extend(values)
    widths = np.concatenate([np.asarray(recording.face_widths) for recording in recordings.values()])
    found = [("Length of the clips", "s", seconds), ("Width of the faces, as the encoder reads them", "px", widths)]
    found += [(f"Quality: {what.replace('_', ' ')}", "", np.asarray(values)) for what, values in numbers.items()]
    return [(what, unit, values[np.isfinite(values)]) for what, unit, values in found if np.isfinite(values).any()]


def histogram(what: str, unit: str, values: np.ndarray, most: int = 24) -> dict[str, Any]:
    """Counts over equal steps from the lowest to the highest of the values [value]; a single one where all are equal."""
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    same = high - low <= 1e-2 * max(abs(high), 1e-9)
    counts, edges = np.histogram(values, bins=1 if same else most, range=(low, high) if not same else None)
    return {"what": what, "unit": unit, "median": median, "counts": counts.tolist(), "edges": edges.tolist()}


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, content: bytes) -> None:
    """Under a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()
