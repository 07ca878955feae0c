"""One page to look at: what is in a folder of shards. Self-contained: no script, no request to any network."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from configs import UserError
from data_prep.config import ReportConfig
from data_prep.overlay import clip_picture, stack
from data_prep.shards import decode_npz, read_index, read_sample

if TYPE_CHECKING:
    import pandas

PAGE, SHEET = "report.html", "report_overlay.png"
MOST_READ = 1000  # clips whose streams are read, evenly spread; the index tells the rest of all of them
MOST_SHOWN = 6  # clips on the contact sheet, each of another recording where there are as many
MOST_ROWS = 200  # recordings and failures listed


@dataclass
class Recording:
    """What was counted in the clips read of one recording."""

    name: str
    clips: int = 0
    views: set[str] = field(default_factory=set)
    people: set[int] = field(default_factory=set)
    source: str = "none"  # of its landmarks
    looked: int = 0  # instants looked at, views and clips summed
    with_face: int = 0
    with_pose: int = 0
    same_person: int = 0  # instants at which a face and a pose bear the same id
    face_widths: list[float] = field(default_factory=list)  # in pixels of the written video
    faces: Counter[int] = field(default_factory=Counter)  # faces at an instant -> instants
    best: tuple[int, int] = (-1, -1)  # (face rows, row of the index) of the clip to show

    def share(self, count: int) -> float | None:
        """Of the instants looked at; None where none was."""
        return count / self.looked if self.looked else None

    @property
    def same_person_share(self) -> float | None:
        """Told for recordings that show one person: 1 where face and pose are always found and tied to each other."""
        return self.share(self.same_person) if len(self.people) == 1 else None

    @property
    def face_width(self) -> float | None:
        """Median over the faces."""
        return float(np.median(self.face_widths)) if self.face_widths else None


def report(config: ReportConfig) -> None:
    """The command `kinesic data_prep report OUT`: writes OUT/report.html and OUT/report_overlay.png."""
    index = read_index(config.out)
    if index.empty:
        raise UserError(f"{config.out}: no clip in the index; failures.csv says why")
    recordings = read_recordings(config.out, index)
    shown = contact_sheet(config.out, index, recordings)
    write(config.out / SHEET, _png(stack([picture for _, picture in shown])))
    write(config.out / PAGE, page(config.out, index, recordings, shown).encode())
    print(f"{config.out / PAGE}: open it in a browser; its contact sheet alone is {config.out / SHEET}")


def read_recordings(folder: Path, index: pandas.DataFrame) -> list[Recording]:
    """What the streams of at most MOST_READ clips hold, by recording, in the index's order."""
    recordings: dict[str, Recording] = {}
    rows = np.unique(np.linspace(0, len(index) - 1, min(len(index), MOST_READ)).round().astype(int))
    for row in track(rows, "reading clips", console=Console(stderr=True), transient=True):
        sample = read_sample(folder, index.iloc[row])
        name = str(index.iloc[row]["recording"])
        count(recordings.setdefault(name, Recording(name)), int(row), sample)
    return list(recordings.values())


def count(recording: Recording, row: int, sample: Mapping[str, bytes]) -> None:
    """Adds the clip at a row of the index to its recording."""
    meta = json.loads(sample["meta.json"])
    recording.clips += 1
    recording.people |= {int(person["id"]) for person in meta["people"]}
    faces = 0
    for name, view in meta["views"].items():
        recording.views.add(name)
        recording.source = view.get("landmarks") or recording.source
        face, pose = (_rows(sample, f"{name}.{stream}.npz") for stream in ("face", "pose"))
        recording.looked += max(len(face["times"]), len(pose["times"]))
        face_ids, pose_ids = (set(zip(s["window"].tolist(), s["person"].tolist(), strict=True)) for s in (face, pose))
        recording.with_face += len({window for window, _ in face_ids})
        recording.with_pose += len({window for window, _ in pose_ids})
        recording.same_person += len({window for window, _ in face_ids & pose_ids})
        at_each = np.bincount(face["window"].astype(int), minlength=len(face["times"]))
        recording.faces.update(at_each.tolist())
        if "box" in face and "video" in view["streams"]:
            widths = (face["box"][:, 2] - face["box"][:, 0]) * view["streams"]["video"]["width"]
            recording.face_widths += widths.tolist()
        faces += len(face["window"])
    if faces > recording.best[0]:
        recording.best = faces, row


def _rows(sample: Mapping[str, bytes], name: str) -> dict[str, np.ndarray]:
    """A stream's arrays; a stream that is absent was looked at at no instant."""
    if name in sample:
        return decode_npz(sample[name])
    return {"times": np.zeros(0), "window": np.zeros(0, np.int32), "person": np.zeros(0, np.int32)}


def contact_sheet(folder: Path, index: pandas.DataFrame, recordings: list[Recording]) -> list[tuple[str, Any]]:
    """(key, picture) of a few clips: the one with most faces of recordings of every kind in turn."""
    kinds: dict[tuple[str, int], list[Recording]] = {}
    for recording in recordings:  # measured and given landmarks, and each number of people, are kinds of their own
        kinds.setdefault((recording.source, len(recording.people)), []).append(recording)
    groups = [kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind[0] == "given", -kind[1]))]
    turns = [group[turn] for turn in range(MOST_SHOWN) for group in groups if turn < len(group)]
    rows = [recording.best[1] for recording in turns[:MOST_SHOWN]]
    return [(str(index.iloc[row]["key"]), clip_picture(read_sample(folder, index.iloc[row]))) for row in rows]


def page(folder: Path, index: pandas.DataFrame, recordings: list[Recording], shown: list[tuple[str, Any]]) -> str:
    """The HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("data_prep", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    seconds = np.asarray(index["end"] - index["start"], np.float64)
    faces = sum((recording.faces for recording in recordings), Counter())
    failures = read_failures(folder)
    return environment.get_template("report.html.jinja").render(
        folder=folder.resolve().name,
        totals=totals(index, seconds),
        streams=stream_counts(index),
        clips=len(index),
        read=sum(recording.clips for recording in recordings),
        pictures=[(key, picture.size, _jpeg(picture)) for key, picture in shown],
        durations=histogram(seconds),
        faces=[(str(number), count) for number, count in sorted(faces.items())],
        recordings=recordings[:MOST_ROWS],
        more_recordings=max(len(recordings) - MOST_ROWS, 0),
        failures=failures[:MOST_ROWS],
        more_failures=max(len(failures) - MOST_ROWS, 0),
    )


def totals(index: pandas.DataFrame, seconds: np.ndarray) -> list[tuple[str, str]]:
    """(figure, what it counts) of the whole folder."""
    people = {
        (name, one) for name, all_of_it in zip(index["recording"], index["people"], strict=True) for one in all_of_it
    }
    return [
        (str(index["recording"].nunique()), "recordings"),
        (str(len(index)), "clips"),
        (f"{seconds.sum() / 3600:.2f} h" if seconds.sum() >= 3600 else f"{seconds.sum() / 60:.1f} min", "of clips"),
        (str(len(people)), "people, summed over recordings"),
        (str(index["shard"].nunique()), "shards"),
        (f"{index['length'].sum() / 1e6:.1f} MB", "in them"),
    ]


def stream_counts(index: pandas.DataFrame) -> list[tuple[str, int]]:
    """(stream, clips that hold it in some view), most frequent first."""
    found: Counter[str] = Counter()
    for members in index["members"]:
        found.update({name.split(".")[-2] for name in members if name != "meta.json"})
    return found.most_common()


def histogram(values: np.ndarray, most: int = 10) -> list[tuple[str, int]]:
    """(from-to, how many) over equal steps; a single row where all are equal."""
    if np.ptp(values) < 0.1:
        return [(f"{values.mean():.4g} s", len(values))]
    counts, edges = np.histogram(values, bins=most)
    return [(f"{a:.3g} to {b:.3g} s", int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def read_failures(folder: Path) -> list[dict[str, str]]:
    """The rows of failures.csv."""
    path = folder / "failures.csv"
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


def _jpeg(picture: Any) -> str:
    """A picture as a data address."""
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
