"""Which recordings a task of an array builds: ``data_prep build MANIFEST OUT --array 3/16``.

A manifest is cut into ranges of recordings. Where it is cut follows from the recordings' names and the sizes of their
files, each recording by itself, and no shard reaches over a cut. So a task plans its ranges without reading anybody
else's files, a build in one piece plans the same shards, and a file that changes moves no cut but its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_prep.manifest import Recording

RANGE_BYTES = 2**30
"""About how much lies in a range: an hour of 720p video, several shards. A longer recording is a range of its own."""


class Range(NamedTuple):
    """Recordings that follow one another: ``first`` is the number of the first of them in the manifest, from 0."""

    first: int
    recordings: list[Recording]
    size: int
    """bytes of their files"""


def cut(recordings: Sequence[Recording]) -> list[Range]:
    """All ranges of a manifest, in its order."""
    ranges: list[Range] = []
    for number, recording in enumerate(recordings):
        size = _size(recording)
        if not ranges or _begins(recording.name, size):
            ranges.append(Range(number, [], 0))
        ranges[-1].recordings.append(recording)
        ranges[-1] = ranges[-1]._replace(size=ranges[-1].size + size)
    return ranges


def share(ranges: Sequence[Range], task: int, count: int) -> list[Range]:
    """The ranges of a task out of ``count``, in the manifest's order: the largest first to whoever has least by then."""
    loads = [0] * count
    mine = []
    for part in sorted(ranges, key=lambda part: (-part.size, part.first)):
        owner = loads.index(min(loads))
        loads[owner] += part.size + 1  # ranges without any file are spread as well
        if owner == task:
            mine.append(part)
    return sorted(mine, key=lambda part: part.first)


def _begins(name: str, size: int) -> bool:
    """Whether a range begins with a recording: always where it is large, else by the toss of its name."""
    toss = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return toss < size / RANGE_BYTES


def _size(recording: Recording) -> int:
    paths = {source.path for view in recording.views for source in view.sources}
    return sum(_bytes(path) for path in paths)


def _bytes(path: Path) -> int:
    """0 for what is no file; why it is none, reading it will say."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
