"""Does everybody keep one id? ``python -m benchmarks.people --clips FOLDER``

FOLDER: clips (or photographs) of one face each, of different people. Of two to four of them a recording is composed: three
cameras, people side by side, hidden for three seconds, swapped in an instant, walking past each other, away for five seconds
and back at another place, seen by two of the three cameras. It is built with ``kinesic data_prep build``; its ids are
compared with what was put there, as ``trackers.eval`` does it.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trackers.eval import compute_clear_metrics, compute_identity_metrics

from benchmarks.composed import OCCLUDER, Shown, View, covered, read_person, visible, write_view
from configs import UserError
from data_prep.build import build
from data_prep.config import BuildConfig, LandmarkConfig
from data_prep.faces import FaceFinder
from data_prep.landmark_models import find
from data_prep.shards import decode_npz, read_index, read_sample

RATE = 8.0
MOST = 4


def script(people: int) -> tuple[list[View], list[Shown]]:
    """What is shown where in a recording of two to four people, and its views."""
    last = people - 1
    shown = [Shown(n, "room", 0, 11, n) for n in range(people)]
    shown += [Shown(OCCLUDER, "room", 5, 8, 0)]
    swapped = [1, 0, *range(2, people)]  # whose place each one has from 11 s on
    shown += [Shown(n, "room", 11, 16, swapped[n]) for n in range(people)]
    shown += [Shown(n, "room", 16, 18, swapped[n], n) for n in range(people)]
    shown += [Shown(n, "room", 18, 20, n) for n in range(people)]
    shown += [Shown(n, "room", 20, 25, n) for n in range(people) if n != last]
    there = [last, *range(1, last), 0]  # the last one comes back at the place of the first one
    shown += [Shown(n, "room", 25, 30, there[n]) for n in range(people)]
    views = [View("room", people), View("left", 2, 144, 0.8), View("right", 2, 128)]
    for n in range(people):
        side = "left" if n % 2 == 0 else "right"
        shown += [Shown(n, side, 3, 10, n // 2), Shown(n, side, 17, 24, 1 - n // 2)]
    return views, shown


def compose(folder: Path, views: Sequence[View], shown: Sequence[Shown], people: Sequence[np.ndarray]) -> Path:
    """Writes the views and their manifest."""
    for view in views:
        write_view(folder / f"{view.name}.mp4", view, people, shown)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "recording", "view", "offset"])
        writer.writerows([f"{view.name}.mp4", "composed", view.name, 0] for view in views)
    return manifest


class Comparison:
    """Ids found beside those put there, look by look."""

    def __init__(self, views: Sequence[View], shown: Sequence[Shown]) -> None:
        self._views, self._shown = {view.name: view for view in views}, shown
        self.looks: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        self.ids: dict[int, Counter[int]] = defaultdict(Counter)  # person put there -> ids found

    def add(self, view: str, time: float, ids: Sequence[int], centres: Sequence[float]) -> None:
        """Takes what was found at a time: ids, and faces' centres in fractions of the picture's width."""
        if covered(self._shown, view, time) or covered(self._shown, view, time - 1 / RATE):
            return
        there = visible(self._shown, view, time)
        squares = self._views[view].squares
        far = np.array([[abs(centre - x * squares) for x in centres] for _, centre in there])
        alike = np.clip(1 - far.reshape(len(there), len(ids)), 0, 1)
        self.looks[view].append((np.array([person for person, _ in there]), np.array(ids), alike))
        for row, (person, _) in enumerate(there):
            if len(ids) and alike[row].max() > 0.5:
                self.ids[person][int(ids[int(alike[row].argmax())])] += 1

    def metrics(self, view: str | None = None) -> dict[str, float]:
        """Of a view, or of the recording as a whole: an id counts across all views."""
        looks = [look for name, some in self.looks.items() if view in (None, name) for look in some]
        there, found, alike = (list(column) for column in zip(*looks, strict=True))
        identity, clear = (
            compute_identity_metrics(there, found, alike),
            compute_clear_metrics(there, found, alike),
        )
        return {"looks": len(looks), "IDF1": identity["IDF1"], "switches": clear["IDSW"], "recall": clear["CLR_Re"]}

    def one_id(self) -> float:
        """Share of the people who have one id, nobody else's, in nineteen of twenty looks in all views together."""
        owners: Counter[int] = Counter()
        good = 0
        for counts in self.ids.values():
            (best, times), *_ = counts.most_common(1)
            owners[best] += 1
            good += times >= 0.95 * counts.total() and owners[best] == 1
        return good / len(self.ids)


def compare(out: Path, views: Sequence[View], shown: Sequence[Shown]) -> Comparison:
    """Reads the faces out of the shards of a composed recording."""
    comparison = Comparison(views, shown)
    for _, row in read_index(out).iterrows():
        sample = read_sample(out, row)
        start = json.loads(sample["meta.json"])["start"]
        for view in views:
            if f"{view.name}.face.npz" not in sample:
                continue
            face = decode_npz(sample[f"{view.name}.face.npz"])
            for window, time in enumerate(face["times"]):
                rows = face["window"] == window
                centres = (face["box"][rows, 0] + face["box"][rows, 2]) / 2
                comparison.add(view.name, start + float(time), face["person"][rows].tolist(), centres.tolist())
    return comparison


def measure(
    people: Sequence[np.ndarray], folder: Path, views: list[View], shown: list[Shown], **settings: Any
) -> Comparison:
    """Composes, builds and compares."""
    manifest = compose(folder, views, shown, people)
    config = BuildConfig(
        manifest,
        folder / "shards",
        landmark_rate=RATE,
        streams=("face",),
        people=LandmarkConfig(**settings),
        workers=1,
    )
    if build(config):
        raise UserError(f"{folder}: the composed recording was not built; see {folder / 'shards' / 'failures.csv'}")
    return compare(config.out, views, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--clips", type=Path, required=True, help="folder of clips of one face each, of different people"
    )
    parser.add_argument("--people", type=int, default=3, help="how many of them are in the recording, 2 to 4")
    parser.add_argument("--out", type=Path, help="keep the composed recording and its shards here")
    options = parser.parse_args()
    finder = FaceFinder(find(), 1)
    clips = sorted(path for path in options.clips.iterdir() if path.is_file())[: max(2, min(options.people, MOST))]
    people = [read_person(path, finder) for path in clips]
    finder.close()
    print(f"{len(people)} people: {', '.join(path.name for path in clips)}")
    print("| | looks | recall | IDF1 | ID switches | one id in all views |\n|---|---|---|---|---|---|")
    for name, identity in (("with face identity", True), ("without", False)):
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.out or Path(temporary)) / name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            comparison = measure(people, folder, *script(len(people)), face_identity=identity)
        for view in (*comparison.looks, None):
            m = comparison.metrics(view)
            share = f"{comparison.one_id():.0%}" if view is None else ""
            print(
                f"| {view or 'all views'}, {name} | {m['looks']:.0f} | {m['recall']:.3f} | {m['IDF1']:.3f} "
                f"| {m['switches']:.0f} | {share} |"
            )


if __name__ == "__main__":
    main()
