"""Who speaks: each channel's speech is tied to a person by microphone, by who is there, or by whose mouth moves.

In meta.json, per clip: ``speech``, a list of {view, channel, start, end, person, by, confidence}, times in seconds from the
clip's start. person: an id, or null where nothing tells; by: what told.

- microphone: a channel is one participant's where a view without pictures has one participant, or a view has as many channels
  as participants. Microphones hear the neighbours as well, so the speaker is whose microphone is loudest.
- view: one person is there, in all views together, and the mouth moves (or cannot be seen).
- mouth: whose mouth moves, and most with the sound. At 8 looks a second that tells who speaks from who listens; among people who
  speak all at once it is a guess, and the confidence says so.

confidence: the mean probability of speech, times the speaker's share of the power or of the movement (0.5 where a mouth cannot
be seen).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.clips import Window
from data_prep.given import Arrays
from data_prep.manifest import View, member_name
from data_prep.speech import Interval, Listener

MOUTH = slice(23, 50)  # blendshapes: jaw and mouth
# Movement, all of them together in a second: 0.3 to 0.8 in a still face, 2 to 6 in six speakers of GRID (8 looks a second).
STILL = 1.2
AROUND = 0.5  # seconds before and after speech in which a mouth is compared with the sound

Channel = tuple[int, int]
"""The number of a view, a channel of it."""


class Speakers:
    """Listens to all channels of a recording; ``of_clip`` says who spoke, when all of it was heard.

    pictures: of each view, whether it has any.
    """

    def __init__(self, views: Sequence[View], pictures: Sequence[bool]) -> None:
        self._views, self._pictures = views, pictures
        self._listeners: dict[Channel, Listener] = {}
        self._intervals: dict[Channel, list[Interval]] = {}

    def hear(self, view: int, start: float, flac: bytes) -> None:
        """Takes a clip's sound that begins at ``start`` on the recording's clock."""
        sound = soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)[0].astype(np.float32, copy=False)
        for channel in range(sound.shape[1]):
            self._listeners.setdefault((view, channel), Listener()).hear(start, sound[:, channel])

    def settle(self) -> None:
        """All has been heard."""
        self._intervals = {channel: listener.settle() for channel, listener in self._listeners.items()}

    def owners(self) -> dict[Channel, str]:
        """Whose microphones the channels are: a participant of each that is anybody's."""
        found = {}
        for view, about in enumerate(self._views):
            channels = [channel for where, channel in self._listeners if where == view]
            if len(about.participants) == len(channels) > 1:
                found |= {(view, c): about.participants[c].id for c in channels}
            elif len(about.participants) == 1 and not self._pictures[view]:
                found |= {(view, c): about.participants[0].id for c in channels}
        return found

    def of_clip(self, clip: Window, rows: Iterable[Arrays], persons: Mapping[str, int]) -> list[dict[str, Any]]:
        """The list ``speech`` of a clip's meta.json, in the order of time.

        rows: face and pose arrays of all views, with person ids of the recording. persons: id by participant.
        """
        clip_rows = list(rows)
        microphones = {channel: persons[name] for channel, name in self.owners().items() if name in persons}
        found = []
        for (view, channel), intervals in sorted(self._intervals.items()):
            for interval in intervals:
                start, end = max(interval.start, clip.start), min(interval.end, clip.end)
                if end <= start:
                    continue
                person, by, share = self._speaker((view, channel), Window(start, end), clip, microphones, clip_rows)
                found.append(
                    {
                        "view": member_name(self._views[view].name),
                        "channel": channel,
                        "start": round(start - clip.start, 3),
                        "end": round(end - clip.start, 3),
                        "person": person,
                        "by": by,
                        "confidence": round(interval.probability * share, 3),
                    }
                )
        return sorted(found, key=lambda entry: (entry["start"], entry["view"], entry["channel"]))

    def _speaker(
        self, channel: Channel, when: Window, clip: Window, microphones: dict[Channel, int], rows: list[Arrays]
    ) -> tuple[int | None, str | None, float]:
        """Who speaks on a channel, what told, and the share of all that could have spoken."""
        if microphones:
            return _largest({c: self._listeners[c].power(*when) for c in microphones}, microphones, "microphone")
        there, movement = _there(rows, when, clip), _movement(rows, clip)
        scores = {person: self._together(movement[person], channel, when) for person in there if person in movement}
        if len(there) == 1:
            (only,) = there
            if only not in scores:
                return only, "view", 0.5
            return (only, "view", 1.0) if scores[only] > 0 else (None, None, 0.0)
        return _largest(scores, {person: person for person in scores}, "mouth")

    def _together(self, movement: tuple[NDArray, NDArray], channel: Channel, when: Window) -> float:
        """How much a mouth moves while there is speech, up to twice as much where it moves with the sound."""
        times, speed = movement
        during = (times >= when.start) & (times <= when.end)
        if not during.any() or (above := float(speed[during].mean()) - STILL) <= 0:
            return 0.0
        near = (times >= when.start - AROUND) & (times <= when.end + AROUND)
        loud = self._listeners[channel].envelope(times[near])
        flat = near.sum() < 3 or loud.std() == 0 or speed[near].std() == 0
        return above * (1 + (0.0 if flat else max(0.0, float(np.corrcoef(loud, speed[near])[0, 1]))))


def _largest(scores: Mapping[Any, float], persons: Mapping[Any, int], by: str) -> tuple[int | None, str | None, float]:
    """The person of the largest score, and its share of what each person's largest comes to."""
    best: dict[int, float] = {}
    for key, score in scores.items():
        best[persons[key]] = max(best.get(persons[key], 0.0), score)
    total = sum(best.values())
    if not total:
        return None, None, 0.0
    person = max(best, key=lambda one: best[one])
    return person, by, best[person] / total


def _there(rows: list[Arrays], when: Window, clip: Window) -> set[int]:
    """Who is seen by any view at any look between two times (or, in a shorter moment, at the look before it)."""
    found: set[int] = set()
    for arrays in rows:
        if not len(arrays["times"]):
            continue
        times = arrays["times"] + clip.start
        first, last = np.searchsorted(times, [when.start, when.end], side="right")
        inside = (arrays["window"] >= max(0, first - 1)) & (arrays["window"] < max(last, 1))
        found |= set(arrays["person"][inside].tolist())
    return found


def _movement(rows: list[Arrays], clip: Window) -> dict[int, tuple[NDArray, NDArray]]:
    """(times, speed) of each person's mouth in the view that shows most of it: the blendshapes' change a second."""
    found: dict[int, tuple[NDArray, NDArray]] = {}
    for arrays in rows:
        if "blendshapes" not in arrays:
            continue
        for person in np.unique(arrays["person"]).tolist():
            mine = arrays["person"] == person
            times = arrays["times"][arrays["window"][mine]] + clip.start
            if len(times) < 2 or (person in found and len(found[person][0]) >= len(times) - 1):
                continue
            change = np.abs(np.diff(arrays["blendshapes"][mine][:, MOUTH], axis=0)).sum(axis=1)
            found[person] = (times[1:] + times[:-1]) / 2, change / np.maximum(np.diff(times), 1e-3)
    return found
