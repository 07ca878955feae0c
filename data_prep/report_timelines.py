"""The time lines of the report: of a recording, when each stream is there, who is seen, who speaks, and how good it is.

A lane is a row of bars; a line is a number a clip. Times are seconds on the recording's clock. timelines.js draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas

Arrays = dict[str, np.ndarray]
Span = tuple[float, float]

NEAR = 0.02  # seconds: bars that are nearer to each other are one
FINEST = 4000  # bars nearer than this part of a recording are drawn as one: less than a pixel while all of it is seen
NOBODY = -1  # speech of nobody known
FACES, FACE_WIDTH = "faces", "face width"


@dataclass
class Timeline:
    """What is known of a recording over time."""

    streams: dict[tuple[str, str], dict[float, Span]] = field(default_factory=dict)
    """(view, stream) -> start of the clip -> from when to when it is there"""
    seen: dict[tuple[int, str, str], list[Span]] = field(default_factory=dict)
    """(person, view, face or pose) -> when"""
    speech: dict[tuple[str, int], dict[int, list[Span]]] = field(default_factory=dict)
    """(view, channel) -> person, or NOBODY -> when"""
    numbers: dict[str, dict[str, dict[float, float]]] = field(default_factory=dict)
    """what -> view -> start of the clip -> number"""

    @classmethod
    def of_index(cls, rows: pandas.DataFrame) -> Timeline:
        """What the index tells: which clips hold which stream."""
        timeline = cls()
        for start, end, members in zip(rows["start"], rows["end"], rows["members"], strict=True):
            for name in members:
                view, stream = view_and_stream(name)
                if stream:
                    timeline.streams.setdefault((view, stream), {})[start] = (start, end)
        return timeline

    def add(self, meta: dict[str, Any], arrays: Mapping[tuple[str, str], Arrays]) -> None:
        """Adds a clip that was read: meta.json, and the arrays of face and pose by (view, stream)."""
        start, end = meta["start"], meta["end"]
        for view, about in meta["views"].items():
            for stream, lies in about["streams"].items():
                span = start + lies["start"], start + lies.get("end", end - start)
                self.streams.setdefault((view, stream), {})[start] = span
        for (view, stream), values in arrays.items():
            for person, spans in sightings(values, end - start).items():
                lane = self.seen.setdefault((person, view, stream), [])
                lane += [(start + first, start + last) for first, last in spans]
        for said in meta.get("speech") or []:
            lanes = self.speech.setdefault((said["view"], said["channel"]), {})
            person = NOBODY if said["person"] is None else int(said["person"])
            lanes.setdefault(person, []).append((start + said["start"], start + said["end"]))

    def add_number(self, what: str, view: str, start: float, number: float) -> None:
        """Adds a number of the clip of a view that starts at ``start``."""
        if np.isfinite(number):
            self.numbers.setdefault(what, {}).setdefault(view, {})[start] = number


def view_and_stream(member: str) -> tuple[str, str]:
    """View and stream of a member of a sample; a stream of no view has view "", meta.json is no stream."""
    view, _, rest = member.partition(".")
    if member == "meta.json":
        return "", ""
    return (view, rest.partition(".")[0]) if "." in rest else ("", view)


def sightings(arrays: Arrays, seconds: float) -> dict[int, list[Span]]:
    """From when to when each person is found, in a clip that lasts ``seconds``: an instant counts until the next one."""
    edges = np.append(arrays["times"], seconds)
    found = {}
    for person in np.unique(arrays["person"]):
        windows = np.unique(arrays["window"][arrays["person"] == person])
        runs = np.split(windows, np.flatnonzero(np.diff(windows) > 1) + 1)
        found[int(person)] = [(float(edges[run[0]]), float(edges[run[-1] + 1])) for run in runs]
    return found


def joined(spans: Iterable[Span], gap: float) -> list[Span]:
    """Spans in their order, those that overlap or lie nearer than ``gap`` as one."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start - out[-1][1] < gap:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def drawing(name: str, span: Span, timeline: Timeline, people: Mapping[int, str | None]) -> dict[str, Any]:
    """A recording's time line as timelines.js takes it.

    people: id -> participant, where known. lanes: name, thin or not, bars: [person or None, thin or not, flat list of
    starts and ends]. lines: name, times, and a list of numbers a view, None where there is none.
    """
    gap = max(NEAR, (span[1] - span[0]) / FINEST)
    start, end = (round(value, 3) for value in span)
    lanes = _stream_lanes(timeline, gap) + _people_lanes(timeline, people, gap) + _speech_lanes(timeline, gap)
    return {"name": name, "start": start, "end": end, "lanes": lanes, "lines": _lines(timeline)}


def _flat(spans: Iterable[Span], gap: float) -> list[float]:
    return [round(value, 2) for span in joined(spans, gap) for value in span]


def _stream_lanes(timeline: Timeline, gap: float) -> list[dict[str, Any]]:
    return [
        {"name": f"{view} {stream}".strip(), "thin": True, "bars": [[None, False, _flat(spans.values(), gap)]]}
        for (view, stream), spans in sorted(timeline.streams.items(), key=_view_by_view)
    ]


def _view_by_view(item: tuple[tuple[str, str], Any]) -> tuple[str, int, str]:
    order = ["video", "audio", "face", "pose", "hands", "regions"]
    (view, stream), _ = item
    return view, order.index(stream) if stream in order else len(order), stream


def _people_lanes(timeline: Timeline, people: Mapping[int, str | None], gap: float) -> list[dict[str, Any]]:
    """A lane a person and view: full where the face is found, thin where only the pose is."""
    lanes = []
    views = {view for _, view, _ in timeline.seen}
    for person, view in sorted({(person, view) for person, view, _ in timeline.seen}):
        bars = [
            [person, stream == "pose", _flat(timeline.seen[person, view, stream], gap)]
            for stream in ("pose", "face")
            if (person, view, stream) in timeline.seen
        ]
        where = f" in {view}" if len(views) > 1 else ""
        lanes.append({"name": person_name(person, people) + where, "thin": False, "bars": bars})
    return lanes


def person_name(person: int, people: Mapping[int, str | None]) -> str:
    """A person as the page names them: the participant where known, else the id."""
    participant = people.get(person)
    return f"person {person}" + (f" ({participant})" if participant else "")


def _speech_lanes(timeline: Timeline, gap: float) -> list[dict[str, Any]]:
    """A lane a channel of sound, its bars in the colours of who speaks."""
    several = {view for view, channel in timeline.speech if channel > 0}
    return [
        {
            "name": f"speech in {view}" + (f", channel {channel}" if view in several else ""),
            "thin": False,
            "bars": [[person, False, _flat(spans, gap)] for person, spans in sorted(by_person.items())],
        }
        for (view, channel), by_person in sorted(timeline.speech.items())
    ]


def _lines(timeline: Timeline) -> list[dict[str, Any]]:
    lines = []
    for what, views in timeline.numbers.items():
        times = sorted({start for numbers in views.values() for start in numbers})
        series = {
            view: [None if (number := numbers.get(time)) is None else float(f"{number:.4g}") for time in times]
            for view, numbers in sorted(views.items())
        }
        lines.append({"name": what, "times": [round(time, 3) for time in times], "views": series})
    return lines
