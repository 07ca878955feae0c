"""A release, a folder of videos and a table as a lab has it -> a tuned head and a report.

    python examples/my_own_csv.py RELEASE VIDEOS RATINGS.csv OUT

RATINGS.csv is as raters leave it: a row for each rated stretch of a video, with columns of their own,

    file,rater,from,to,warmth
    dyad_07.mp4,AB,0:00,0:30,4
    dyad_07.mp4,CD,0:00,0:30,5

and here it becomes what kinesic reads: recording, start, end, target. Change the few lines of ``as_labels`` to your columns.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from finetune.config import RunConfig
from finetune.run import run


def seconds(clock: str) -> float:
    """ "1:02:03.5" or "2:03" -> seconds."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def as_labels(ratings: pd.DataFrame) -> pd.DataFrame:
    """The mean over raters of every stretch, by the name that a recording has in the shards: its file's without the suffix."""
    table = ratings.assign(
        recording=ratings["file"].map(lambda name: Path(name).stem),
        start=ratings["from"].map(seconds),
        end=ratings["to"].map(seconds),
    )
    return table.groupby(["recording", "start", "end"], as_index=False)["warmth"].mean()


def main(release: str, videos: str, ratings: str, out: str) -> int:
    """Writes OUT/labels.csv and everything that ``kinesic finetune run`` writes; returns its exit code."""
    Path(out).mkdir(parents=True, exist_ok=True)
    labels = Path(out) / "labels.csv"
    as_labels(pd.read_csv(ratings)).to_csv(labels, index=False)
    return run(
        RunConfig(
            encoder=Path(release),
            data=Path(videos),
            labels=labels,
            target="warmth",
            out=Path(out),
            method="linear",
            task="regression",
            group_by="recording",  # nobody is in two of these videos; else a column "participant" in the labels
        )
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
